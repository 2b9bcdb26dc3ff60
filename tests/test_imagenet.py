"ImageNet: classes that are missing or ambiguous."
import io, tarfile

import pytest
from PIL import Image

from spurnb.core import UserError
from spurnb.photos.imagenet import class_of_folder, imagenet_class_images, imagenet_other_images
from spurnb.world.scenes import class_scenes


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "Images of two classes in class folders, of one class alone, and a tar of the first."
    root = tmp_path_factory.mktemp('imagenet')
    for place, target in ('net/train/n01833805', 'hummingbird'), ('net/train/n01882714', 'koala'), ('mine', 'koala'):
        (root/place).mkdir(parents=True)
        for i, scene in enumerate(class_scenes(target, 3, seed=1)): scene.draw().save(root/place/f'{i}.png')
    (root/'empty').mkdir()
    with tarfile.open(root/'train.tar', 'w') as t: t.add(root/'net'/'train'/'n01833805', 'n01833805')
    (root/'torn.tar').write_bytes(b'not a tar')
    return root


@pytest.mark.parametrize('source, target, expected', [
    ('net', 'tench', 'no folder of class 0 (n01440764) among its 2 classes'),
    ('net', 'crane', 'wading bird'),
    ('empty', 'koala', 'there are neither images nor folders'),
    ('nowhere', 'koala', 'there is no'),
    ('train.tar', 'tench', 'no image of class 0'),
    ('torn.tar', 'tench', 'is no tar file, or damaged'),
])
def test_refused_sources(root, monkeypatch, tmp_path, source, target, expected):
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    with pytest.raises(UserError) as e: imagenet_class_images(root/source, target)
    assert expected in str(e.value)


def test_other_images_need_other_classes(root):
    with pytest.raises(UserError, match='no folders of other classes'): imagenet_other_images(root/'mine', 'koala', 4)
    assert {f.parent.name for f in imagenet_other_images(root/'net', 'koala', 2).files} == {'n01833805'}


@pytest.mark.parametrize('name, index', [
    ('105', 105), ('n01882714', 105), ('freight_car', 565), ('crane', None), ('somewhere', None), ('1000', None),
    ('n00000000', None)])
def test_names_of_folders(name, index):
    assert class_of_folder(name) == index


def test_a_tar_is_searched_once(root, monkeypatch, tmp_path):
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    first = imagenet_class_images(root/'train.tar', 'hummingbird')
    assert len(first) == 3 and imagenet_class_images(root/'train.tar', 'hummingbird').files == first.files
    assert first.hashes == imagenet_class_images(root/'net', 'hummingbird').hashes


def test_all_folders_of_a_class_count(root, tmp_path):
    for i, name in enumerate(('94', 'hummingbird', 'n01833805', 'koala')):
        (tmp_path/name).mkdir()
        Image.new('RGB', (8, 8), (i*60, 0, 0)).save(tmp_path/name/'0.jfif', 'JPEG')
    assert {f.parent.name for f in imagenet_class_images(tmp_path, 'hummingbird').files} == {
        '94', 'hummingbird', 'n01833805'}
    assert len(imagenet_other_images(tmp_path, 'koala', 3)) == 3


def test_a_class_folder_of_folders_is_pointed_to(tmp_path):
    (tmp_path/'koala'/'a').mkdir(parents=True)
    Image.new('RGB', (8, 8)).save(tmp_path/'koala'/'a'/'0.png')
    with pytest.raises(UserError, match='give one of the folders inside it'): imagenet_class_images(tmp_path, 'koala')


def encoded(kind, **how):
    data = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(data, kind, **how)
    return data.getvalue()


def test_members_of_a_tar_are_judged_by_content(tmp_path, monkeypatch, caplog):
    "MPO as phones make it, JPEG 2000 and a suffix of no format are used; broken members are named, each time."
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    members = dict(jpeg=encoded('JPEG'), mpo=encoded('MPO', save_all=True, append_images=[Image.new('RGB', (8, 8))]),
                   jp2=encoded('JPEG2000'), photo=encoded('PNG'), torn=encoded('JPEG')[:300], html=b'<html>')
    with tarfile.open(tmp_path/'n01833805.tar', 'w') as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(f'n01833805_1.{name}')
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    for _ in range(2):
        caplog.clear()
        found = imagenet_class_images(tmp_path/'n01833805.tar', 'hummingbird')
        assert len(found) == 4 and len({*found.hashes}) == 4
        assert '2 of 6 files' in caplog.text and '1.torn' in caplog.text and '1.html' in caplog.text
