"ImageNet: classes that are missing or ambiguous."
import tarfile

import pytest

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
