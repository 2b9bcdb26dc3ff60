"Spurious ImageNet: its words, names that are refused, and too few images."
import re

import pytest
from PIL import Image

from spurnb.core import UserError, save_png
from spurnb.photos.folders import FolderImages
from spurnb.photos.spurious_imagenet import (
    SpuriousImageNet, choose_images, load_spurious_imagenet, read_folder_name, repeated_images, spurious_feature,
    spurious_features)
from spurnb.world.scenes import caption, reference_scenes


@pytest.fixture(scope='module')
def spurious(tmp_path_factory):
    "An unpacked archive with one feature, thirty drawn scenes."
    root = tmp_path_factory.mktemp('archive')
    for i, scene in enumerate(reference_scenes('fireboat', 30, seed=1)):
        save_png(root/'images'/'spurious_class_554_component_0'/f'{i:03d}.png', scene.draw())
    return SpuriousImageNet(root)


@pytest.mark.parametrize('call, expected', [
    (lambda: spurious_feature('goldfish'), "has no feature of 'goldfish'"),
    (lambda: spurious_feature('humming bird'), "did you mean 'hummingbird'"),
    (lambda: read_folder_name('spurious_class_94_component_7'),
     'component 7 of class 94, and the table knows only 1, 16'),
    (lambda: read_folder_name('class_94_1_16'), 'does not say'),
    (lambda: load_spurious_imagenet('imagess.zip'), 'or spurious_imagenet to fetch it'),
    (lambda: SpuriousImageNet('nowhere'), "there is no folder 'nowhere'"),
])
def test_user_errors(call, expected):
    with pytest.raises(UserError) as e: call()
    assert expected in str(e.value)


def test_an_unknown_component_is_accepted_by_class(tmp_path):
    "With a warning that names it, and only if no other folder shows the class; the rest are kept apart."
    names = ('spurious_class_94_component_99', 'spurious_class_554_component_0', 'spurious_class_554_component_50',
             'spurious_class_105_a_60', 'spurious_class_105_b_61', 'photo_2_of_a_shark', 'notes_7')
    for i, name in enumerate(names): save_png(tmp_path/name/'1.png', Image.new('RGB', (8, 8), (9*i, 0, 0)))
    with pytest.warns(UserWarning) as told: data = SpuriousImageNet(tmp_path, 'here')
    assert len(told) == 2 and 'component 99 of class 94' in str(told[1].message) + str(told[0].message)
    assert {k for k, _ in data.folders} == {94, 554, 2}
    assert sorted(data.unknown) == sorted(names[i] for i in (2, 3, 4, 6))
    bird, boat = data['hummingbird'], data['fireboat']
    assert (bird.component, boat.component) == (None, 0)
    assert bird.source == f'here: {names[0]} (component not in the table)' and 'table' not in boat.source
    assert data.table().set_index('class_index').folder[94] == names[0]


@pytest.mark.parametrize('how, expected', [
    (dict(n=3, held_out=10, score=lambda some: range(len(some)), least=1000), 'only 0 images reach 1000'),
    (dict(files=['3.png']), "there is no image of the feature '3.png'; did you mean"),
    (dict(n=30, held_out=10), '30 references and 10 held-out images are asked for'),
    (dict(n=0), 'the number of references is 0'),
    (dict(files=['003.png'], held_out=30), '30 held-out images are asked for beside the 1 references, and'),
])
def test_refused_choices(spurious, how, expected):
    with pytest.raises(UserError) as e: choose_images(spurious['fireboat'].images, **how)
    assert expected in str(e.value)


def test_a_missing_feature(spurious):
    with pytest.raises(UserError, match="lacks the feature of 'leopard'"): spurious['leopard']


def test_choices_by_score_and_name(spurious):
    images = spurious['fireboat'].images
    assert isinstance(images, FolderImages)
    chosen, apart, copies = choose_images(images, 4, 10)
    values = {name: i for i, name in enumerate(images.names)}
    best, same, _ = choose_images(images, 4, 10, score=lambda some: [values[name] for name in some.names])
    assert same == apart and best == sorted(set(range(30)) - set(apart), reverse=True)[:4] and not copies
    by_name, rest, _ = choose_images(images, files=['003.png', '001.png', '003.png'], held_out=28)
    assert by_name == [3, 1] and not set(by_name) & set(rest) and len(rest) == 28


def test_different_scenes_do_not_repeat():
    assert repeated_images([s.draw() for s in reference_scenes('fireboat', 40, seed=5)]) == {}
    assert repeated_images([s.draw() for s in reference_scenes('tench', 2, seed=5)]*2) == {2: 0, 3: 1}


@pytest.mark.parametrize('feature', spurious_features(), ids=lambda f: f.name.replace(' ', '_'))
def test_words_make_prompts(feature):
    "The short name and the full description are phrases with an article, they differ, and none names the class."
    short, full = caption(context=feature.feature), caption(context=feature.prompted)
    for prompt in (short, full, caption(context=f'sks {feature.feature}')):
        assert re.fullmatch(r"a photo of a [a-z][\w ,'-]+", prompt), prompt
        for word in (*feature.class_words, feature.name):
            assert not re.search(rf'\b{re.escape(word)}s?\b', prompt, re.I), f'{prompt!r} names {word!r}'
    assert short != full and len(feature.feature.split()) <= 6 < len(full.split())
