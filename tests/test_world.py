"Making and checking the embedded world: refusals, before any model is trained."
import shutil

import pytest

from spurnb.core import UserError
from spurnb.data import mini_root
from spurnb.lab.world import WorldSettings, check_world, scene_page, ship, start_from, train_variant, train_world

TINY = WorldSettings(scenes=60, encoder_steps=2, judge_steps=1)


@pytest.fixture(scope='module')
def damaged(tmp_path_factory):
    "A copy of the shipped world with one file cut short and one missing."
    world = tmp_path_factory.mktemp('world')/'world'
    shutil.copytree(mini_root(), world)
    encoder = world/'encoder.safetensors'
    encoder.write_bytes(encoder.read_bytes()[:-1])
    (world/'judges'/'test_vit.safetensors').unlink()
    return world


@pytest.mark.parametrize('work, said', [
    (lambda world, out: check_world(world), '2 of'),
    (lambda world, out: start_from(world, out), 'start from a whole world'),
    (lambda world, out: train_variant(out, strength=2, settings=TINY), 'between 0 and 1'),
    (lambda world, out: train_variant(out, eps=-1, settings=TINY), 'eps is -1'),
    (lambda world, out: ship(out, TINY), 'has not finished encoder, judges/test_resnet'),
    (lambda world, out: scene_page(0), 'n is 0'),
])
def test_refusals(damaged, tmp_path, work, said):
    with pytest.raises(UserError) as refused: work(damaged, tmp_path)
    assert said in str(refused.value)


def test_a_folder_belongs_to_one_world(tmp_path):
    "Another strength or another number of scenes needs another folder; a longer training of the generator does not."
    train_variant(tmp_path/'variant', strength=.5, eps=0, settings=TINY)
    with pytest.raises(UserError, match='a variant with other settings'):
        train_variant(tmp_path/'variant', strength=.7, eps=0, settings=TINY)
    train_world(tmp_path/'world', TINY, stages=(), measured=False)
    train_world(tmp_path/'world', WorldSettings(scenes=60, encoder_steps=2, judge_steps=1, generator_steps=9),
                stages=(), measured=False)
    with pytest.raises(UserError, match='a training with other settings'):
        train_world(tmp_path/'world', WorldSettings(scenes=61), stages=(), measured=False)
