"Folders: what an audit refuses, and a cache that is damaged."
import os

import numpy as np
import pytest
from PIL import Image

from spurnb.core import UserError, save_png
from spurnb.photos import folders
from spurnb.photos.downloads import hub_trouble, weights_trouble
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


@pytest.mark.parametrize('damage', ['[1]', '{"a": 1}', '{"a": []}', 'null'])
def test_a_cache_of_another_kind_is_replaced(folder, tmp_path, damage):
    cache = tmp_path/'cache'
    about = read_folder(folder, cache)[1]
    [kept] = cache.iterdir()
    kept.write_text(damage)
    assert read_folder(folder, cache)[1] == about


def test_another_reader_opens_again(folder, tmp_path, monkeypatch):
    "Code that reads a kind of image in another way is noticed, whatever changed it."
    cache = tmp_path/'cache'
    Image.new('L', (8, 8), 7).save(folder/'gray.png')
    def hashes():
        found = read_folder(folder, cache)[0]
        return dict(zip(found.names, found.hashes))
    before = hashes()
    right = folders.load_rgb
    def brighter(file):
        with Image.open(file) as im: gray = im.mode == 'L'
        return right(file).point(lambda v: v + 1) if gray else right(file)
    monkeypatch.setattr(folders, 'load_rgb', brighter)
    now = hashes()
    assert {name for name in now if now[name] != before[name]} == {'gray.png'}


def test_files_of_known_kinds_are_not_opened(folder, tmp_path, monkeypatch):
    "From each kind one is opened again, and the broken one."
    for i in range(5): save_png(folder/f'{i}.png', Image.new('RGB', (8, 8), (i, i, i)))
    cache, opened, right = tmp_path/'cache', [], folders.load_rgb
    first = read_folder(folder, cache)
    monkeypatch.setattr(folders, 'load_rgb', lambda f: opened.append(f.name) or right(f))
    again = read_folder(folder, cache)
    assert again[0].hashes == first[0].hashes and again[1] == first[1] and len(opened) == 2


def test_the_code_that_reads_is_part_of_the_caches_name(folder, tmp_path, monkeypatch):
    cache = tmp_path/'cache'
    read_folder(folder, cache)
    monkeypatch.setattr(folders, 'READER', 'another')
    read_folder(folder, cache)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may read everything')
def test_a_file_without_permission_is_said_to_be_one(folder):
    (folder/'a.png').chmod(0)
    assert 'no permission' in read_folder(folder)[1]['unreadable']['a.png']


def test_a_refused_file_is_not_called_broken(folder, monkeypatch):
    "The same for root, who may read everything: the system's refusal is simulated where the file is opened."
    right = Image.open
    def refuse(file, *args):
        if str(file).endswith('a.png'): raise PermissionError(13, 'Permission denied', str(file))
        return right(file, *args)
    monkeypatch.setattr(Image, 'open', refuse)
    record = read_folder(folder)[1]
    assert record['unreadable']['a.png'] == 'may not be read, there is no permission'
    assert record['unreadable']['broken.png'] == 'is not an image that can be read'


KINDS = {'page.pt': (b'\n<!DOCTYPE html><title>Sign in', 'is a web page'), 'empty.bin': (b'', 'is empty'),
         'pointer.safetensors': (b'version https://git-lfs.github.com/spec/v1\noid', 'Git LFS')}


@pytest.mark.parametrize('name', KINDS)
def test_what_is_no_weights(name, tmp_path):
    "The cause is said, for a file and for its folder, and the network is not blamed for what is on the disk."
    content, said = KINDS[name]
    (tmp_path/name).write_bytes(content)
    for path in (tmp_path/name, tmp_path):
        assert said in weights_trouble(path) and name in weights_trouble(path)
        trouble = hub_trouble(str(path), OSError('Connection refused'))
        assert said in trouble and 'network' not in trouble and 'HF_HUB' not in trouble
    assert weights_trouble(tmp_path/'nowhere') == ''
    (tmp_path/name).write_bytes(b'something else')
    assert 'network' not in hub_trouble(str(tmp_path), ValueError('odd')) and weights_trouble(tmp_path) == ''
