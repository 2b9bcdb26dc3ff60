"Data: names of classes, embedded files, and the odd files of real folders."
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spurnb import data
from spurnb.core import UserError, to_pil, write_json
from spurnb.run.material import mini_material
from spurnb.run.settings import RunSettings, change


@pytest.mark.parametrize('call, expected', [
    (lambda: data.mini_target('humming bird'), "did you mean 'hummingbird'?"),
    (lambda: data.imagenet_target('humming bird'), "did you mean 'hummingbird'"),
    (lambda: data.imagenet_target('crane'), '134 (n02012849, crane: large long-necked wading bird'),
    (lambda: data.imagenet_target('crane'), '517 (n03126707, crane: lifts and moves heavy objects'),
    (lambda: data.imagenet_target('maillot'), '638 (n03710637, maillot: tights for dancers or gymnasts); 639'),
    (lambda: data.References(torch.zeros(0, 3, 8, 8), None, [], ''), 'there are no references'),
    (lambda: data.mini_references('fireboat', 0), 'the number of references is 0'),
    (lambda: data.mini_file('encoders.safetensors'), "did you mean 'encoder.safetensors'"),
    (lambda: data.folder_images('nowhere'), 'there is no folder'),
    (lambda: data.folder_images(Path(data.__file__).parent/'mini'/'generator'), 'there are no images'),
])
def test_user_errors(call, expected):
    with pytest.raises(UserError) as e: call()
    assert expected in str(e.value)


@pytest.mark.parametrize('name, index', [
    ('hummingbird', 94), ('94', 94), ('n01833805', 94), (' Hummingbird', 94), ('tank suit', 639)])
def test_a_class_of_imagenet_by_any_name(name, index):
    assert data.imagenet_target(name).index == index


def test_damaged_and_missing_weights(tmp_path, monkeypatch):
    monkeypatch.setenv('SPURNB_MINI', str(tmp_path))
    (tmp_path/'encoder.safetensors').write_bytes(b'as shipped')
    write_json(tmp_path/'record.json', dict(files={'encoder.safetensors': '0'*64}))
    with pytest.raises(UserError, match='damaged'): data.mini_file('encoder.safetensors')
    (tmp_path/'encoder.safetensors').unlink()
    with pytest.raises(UserError, match='misses'): data.mini_file('encoder.safetensors')


@pytest.fixture(scope='module')
def images():
    return data.mini_references('fireboat', 6, held_out=0).images


@pytest.mark.parametrize('mode, suffix, limit', [
    ('RGB', 'png', 1e-6), ('P', 'png', .1), ('RGBA', 'png', 1e-6), ('CMYK', 'jpg', .05)])
def test_modes_become_rgb(tmp_path, images, mode, suffix, limit):
    to_pil(images)[0].convert(mode).save(tmp_path/f'0.{suffix}')
    x, names = data.folder_images(tmp_path)
    assert names == [f'0.{suffix}'] and (x[0] - images[0]).abs().mean() < limit


def test_gray_images_of_another_size_are_cropped_to_the_middle(tmp_path, images):
    to_pil(images)[0].convert('L').resize((99, 70)).save(tmp_path/'0.png')
    x, _ = data.folder_images(tmp_path, size=64)
    assert x.shape == (1, 3, 64, 64) and x[:, 0].equal(x[:, 2])


def test_fractions_and_dark_scans(tmp_path, images):
    gray = np.asarray(to_pil(images)[0].convert('L'))
    fractions = gray.astype('float32')/255 # as scientific programs write them
    Image.fromarray(fractions).save(tmp_path/'fractions.tif')
    assert np.abs(np.asarray(data.load_rgb(tmp_path/'fractions.tif'), float)[..., 0] - gray).max() <= 1
    Image.fromarray((fractions*200).astype('uint16')).save(tmp_path/'night.png') # 16 bits, hardly any light
    assert np.asarray(data.load_rgb(tmp_path/'night.png')).max() == 0
    Image.fromarray(fractions*np.nan).save(tmp_path/'none.tif')
    with pytest.raises(UserError, match='not an image'): data.load_rgb(tmp_path/'none.tif')


def test_hidden_files_and_other_suffixes_are_ignored(tmp_path, images):
    for name in ('b.png', 'A.JPG', '.hidden.png', 'notes.txt'): to_pil(images)[0].save(tmp_path/name, format='PNG')
    (tmp_path/'folder.png').mkdir()
    assert [f.name for f in data.image_paths(tmp_path)] == ['A.JPG', 'b.png']


def test_a_target_is_one_of_the_six_and_a_class_one_of_the_twelve():
    assert data.mini_target('fireboat').index == 4 and len(data.mini_target('fireboat').classes) == 12
    with pytest.raises(UserError, match="'lifeboat' is a class, but no target"): data.mini_target('lifeboat')
    material = mini_material(change(RunSettings(), dict(components=dict(n_other_images=12), generate=dict(n=2))))
    assert len(material.all_classes) == 12*3 # look-alikes count in the mean over all classes
    assert data.mini_class_images('lifeboat', 2).shape == (2, 3, 64, 64)
