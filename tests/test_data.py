"Data: names of classes, embedded files, and the odd files of real folders."
import struct
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


def test_color_profiles_are_not_applied(tmp_path, images):
    "As ImageNet's own transforms do: here the profile swaps red and blue, and the pixels stay."
    from PIL import ImageCms
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    swapped = profile.replace(b'rXYZ', b'-XYZ').replace(b'bXYZ', b'rXYZ').replace(b'-XYZ', b'bXYZ')
    for name, icc in dict(srgb=profile, swapped=swapped, damaged=b'no profile').items():
        to_pil(images)[0].save(tmp_path/f'{name}.png', icc_profile=icc)
        assert np.array_equal(data.load_rgb(tmp_path/f'{name}.png'), to_pil(images)[0])


def test_gray_images_of_another_size_are_cropped_to_the_middle(tmp_path, images):
    to_pil(images)[0].convert('L').resize((99, 70)).save(tmp_path/'0.png')
    x, _ = data.folder_images(tmp_path, size=64)
    assert x.shape == (1, 3, 64, 64) and x[:, 0].equal(x[:, 2])


ramp = np.linspace(0, 1, 64).reshape(8, 8)


@pytest.mark.parametrize('values, suffix', [
    (ramp*65535, 'png'), (ramp*65535, 'tif'), (ramp*4095, 'png'), (ramp*1023, 'tif'), (ramp*255, 'png'),
    ((ramp*65535).astype('>u2'), 'tif'), ((ramp*65535).astype('int32'), 'tif'), ((ramp*255).astype('int32'), 'tif'),
    ((ramp*1e6).astype('int32'), 'tif'), (ramp.astype('float32'), 'tif'), ((ramp*255).astype('float32'), 'tif'),
    ((ramp*257).astype('float32'), 'tif'), ((ramp*65535).astype('float32'), 'tif')],
    ids=lambda x: x if isinstance(x, str) else f'{x.dtype}-{x.max():.0f}')
def test_gray_of_any_depth_keeps_its_brightness(tmp_path, values, suffix):
    "Black stays black, white stays white, and nothing sinks or is clipped between."
    if values.dtype == 'float64': values = values.astype('uint16')
    Image.fromarray(values).save(tmp_path/f'0.{suffix}')
    found = np.asarray(data.load_rgb(tmp_path/f'0.{suffix}'), float)[..., 0]
    assert np.abs(found - ramp*255).max() <= 2.5


def test_fractions_beyond_white_are_clipped_to_it(tmp_path):
    for name, values in dict(highlight=ramp*1.2, sharpened=ramp*1.014 - .01).items():
        Image.fromarray(values.astype('float32')).save(tmp_path/f'{name}.tif')
        found = np.asarray(data.load_rgb(tmp_path/f'{name}.tif'), float)[..., 0]
        assert np.abs(found - (values*255).clip(0, 255)).max() <= 1


@pytest.mark.parametrize('values, why', [(ramp*np.nan, 'pixels that are not numbers'), (ramp*2 - 1, 'below zero')])
def test_gray_without_a_scale_is_refused_by_name(tmp_path, values, why):
    Image.fromarray(values.astype('float32')).save(tmp_path/'odd.tif')
    with pytest.raises(UserError, match=f'odd.tif.* has .*{why}'): data.load_rgb(tmp_path/'odd.tif')


def test_a_transparent_color_in_16_bits_is_white(tmp_path):
    gray = np.full((8, 8), 30000, 'uint16')
    gray[:4] = 1000
    Image.fromarray(gray).save(tmp_path/'0.png', transparency=1000)
    found = np.asarray(data.load_rgb(tmp_path/'0.png'))
    assert found[:4].min() == 255 and found[4:].max() == 116


def entry(tag, kind, count, value): return struct.pack('<HHI', tag, kind, count) + value


def exif_block(*entries):
    return b'Exif\0\0II*\0' + struct.pack('<IH', 8, len(entries)) + b''.join(entries) + b'\0'*4


quarter = entry(0x0112, 3, 1, struct.pack('<HH', 6, 0)) # turn me by a quarter


@pytest.mark.parametrize('block, size', [
    (exif_block(quarter), (64, 96)),
    (exif_block(quarter, entry(0x0128, 11, 1, struct.pack('<f', 2.5))), (64, 96)), # a float where a short belongs
    (exif_block(quarter, entry(0x010f, 2, 400, struct.pack('<I', 99999))), (64, 96)), # beyond the end
    (exif_block(entry(0x0112, 3, 2, struct.pack('<HH', 6, 1))), (64, 96)), # two orientations
    (exif_block(entry(0x0112, 2, 4, b'six\0')), (96, 64)),
    (exif_block(entry(0x0112, 3, 1, struct.pack('<HH', 9, 0))), (96, 64)),
    (b'Exif\0\0' + b'\xff'*40, (96, 64)), (b'Exif\0\0', (96, 64))],
    ids=['whole', 'float', 'beyond', 'two', 'text', 'nine', 'junk', 'empty'])
def test_a_damaged_exif_block_never_costs_the_image(tmp_path, images, block, size):
    to_pil(images)[0].resize((96, 64)).save(tmp_path/'0.jpg', exif=block)
    assert data.load_rgb(tmp_path/'0.jpg').size == size


def test_content_decides_what_an_image_is(tmp_path, images):
    image = to_pil(images)[0]
    kinds = {'0.jfif': 'JPEG', '1.jpe': 'JPEG', '2.avif': 'AVIF', '3': 'PNG', '4.jp2': 'JPEG2000', '5.tga': 'TGA',
             '6.ppm': 'PPM', '7.photo': 'WEBP', '8.mpo': 'MPO'}
    for name, kind in kinds.items(): image.save(tmp_path/name, kind)
    for name in ('notes.txt', 'labels.json', 'read me'): (tmp_path/name).write_text('a feeder')
    for name in ('Thumbs.db', 'desktop.ini', '._0.jpg'): (tmp_path/name).write_bytes(b'junk')
    (tmp_path/'9.heic').write_bytes(b'an image that cannot be read here')
    (tmp_path/'10.photo').write_bytes((tmp_path/'3').read_bytes()[:60]) # torn
    assert {f.name for f in data.image_paths(tmp_path)} == {*kinds, '9.heic', '10.photo'}


def test_images_in_folders_below_are_pointed_to(tmp_path, images):
    (tmp_path/'a'/'b').mkdir(parents=True)
    to_pil(images)[0].save(tmp_path/'a'/'b'/'0.png')
    with pytest.raises(UserError, match="itself; give one of the folders inside it, such as .*b' with 1"):
        data.image_files(tmp_path)


def test_hidden_files_and_texts_are_ignored(tmp_path, images):
    (tmp_path/'notes.txt').write_text('a feeder')
    for name in ('b.png', 'A.JPG', '.hidden.png'): to_pil(images)[0].save(tmp_path/name, format='PNG')
    (tmp_path/'folder.png').mkdir()
    assert [f.name for f in data.image_paths(tmp_path)] == ['A.JPG', 'b.png']


def test_a_target_is_one_of_the_six_and_a_class_one_of_the_twelve():
    assert data.mini_target('fireboat').index == 4 and len(data.mini_target('fireboat').classes) == 12
    with pytest.raises(UserError, match="'lifeboat' is a class, but no target"): data.mini_target('lifeboat')
    material = mini_material(change(RunSettings(), dict(components=dict(n_other_images=12), generate=dict(n=2))))
    assert len(material.all_classes) == 12*3 # look-alikes count in the mean over all classes
    assert data.mini_class_images('lifeboat', 2).shape == (2, 3, 64, 64)
