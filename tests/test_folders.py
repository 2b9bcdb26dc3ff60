"Folders: what an audit refuses, and a cache that is damaged."
import numpy as np
import pytest
from PIL import Image

from spurnb.core import UserError, save_png
from spurnb.photos.folders import FolderImages, passed_over, read_folder, shown


@pytest.fixture
def folder(tmp_path):
    "A folder with two images, a copy and a broken file."
    images = tmp_path/'images'
    for i, name in enumerate(('a.png', 'b.png', 'copy of b.png')):
        save_png(images/name, Image.new('RGB', (8, 8), (min(i, 1)*100, 0, 0)))
    (images/'broken.png').write_bytes(b'')
    return images


def test_only_broken_files_are_an_error(folder):
    for f in folder.iterdir():
        if f.name != 'broken.png': f.unlink()
    with pytest.raises(UserError, match='none of the 1 files'): read_folder(folder)
    save_png(folder/'one.png', Image.new('RGB', (8, 8)))
    assert len(read_folder(folder)[0]) == 1


@pytest.mark.parametrize('make, expected', [(True, 'no images'), (False, 'no folder')])
def test_no_images_and_no_folder(tmp_path, make, expected):
    if make: (tmp_path/'x').mkdir()
    with pytest.raises(UserError, match=expected): read_folder(tmp_path/'x')


def test_a_damaged_cache_is_replaced(folder, tmp_path):
    cache = tmp_path/'cache'
    _, about = read_folder(folder, cache)
    [kept] = cache.iterdir()
    kept.write_text('{ half')
    assert read_folder(folder, cache)[1] == about == read_folder(folder)[1]
    assert kept.read_text() != '{ half'


def test_names_that_are_not_utf8():
    assert shown(b'a\xff.png'.decode('utf-8', 'surrogateescape')) == 'a\ufffd.png'


def test_slices_lists_and_batches(folder):
    images = FolderImages(sorted(folder.glob('*.png'))[:3])
    assert images[1:].names == images[[1, 2]].names == ['b.png', 'broken.png']
    assert np.asarray(images[np.int64(0)]).shape == (8, 8, 3)
    assert [b.shape[0] for b in images[:2].split(1, 4)] == [1, 1]


def test_everything_in_a_folder_is_accounted_for(folder):
    "What is used, broken, a copy, no image, or below: each file is in one of these, and said."
    Image.new('RGB', (8, 8), 'blue').save(folder/'phone.jfif', 'JPEG')
    (folder/'captions.txt').write_text('a feeder')
    (folder/'images.csv').write_text('file,seed')
    for name in ('old/1.png', 'old/more/2.jfif', '.hidden/3.png', 'empty/4.txt'):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(folder/name, 'PNG')
    found, record = read_folder(folder)
    assert found.names == ['a.png', 'b.png', 'phone.jfif']
    assert (record['others'], record['folders']) == (['captions.txt'], dict(old=2))
    said = ' '.join(passed_over(record, ' of the positives'))
    assert all(name in said for name in ('broken.png', 'copy of b.png', 'captions.txt', "'old' (2)"))
    assert said.count('of the positives') == 4
