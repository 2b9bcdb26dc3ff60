"A mask of the feature for the loss, prior images of one's own, and the crop that a run shows."

import logging

import pytest, torch

from spurnb.core import UserError, save_png
from spurnb.finetune import finetune_target, run_identity
from spurnb.prediction import noise_target, noisify
from spurnb.run.material import _show_crops
from spurnb.photos.folders import read_folder
from spurnb.train.checkpoints import load_pipeline
from spurnb.train.settings import TrainSettings
from spurnb.train.trainer import Trainer
from tiny import tiny_folder

PLAIN = dict(instance_prompt='a sks', class_prompt='a', sfsl_weight=0.0, train_batch_size=2, num_class_images=2)


@pytest.fixture
def trainer(tiny_folder):
    "Function: settings and masks -> a trainer of the tiny pipeline on two references and two prior images."

    def make(masks, **changes):
        images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        how = TrainSettings(**PLAIN | dict(prior_batch_size=2) | changes)
        return Trainer(load_pipeline(str(tiny_folder), 'cpu'), images[:2], images[2:], how, masks=masks)

    return make


def left_half():
    masks = torch.zeros(2, 1, 32, 32)
    masks[..., :16] = 1
    return masks


def test_the_loss_counts_the_feature_and_all_of_the_prior_images(trainer):
    t = trainer(left_half(), mask_outside=0.0)
    t.network.eval()
    latents, noise, times, which, _ = t.batch(0)
    noisy = noisify(t.scheduler, latents, noise, times)
    with torch.no_grad():
        wrong = (t.predict(noisy, times, 2) - noise_target(t.scheduler, latents, noise, times)).square()
        loss, parts = t.loss(0)
    assert parts['instance'] == pytest.approx(wrong[:2, ..., :4].mean().item(), rel=1e-5)
    assert parts['prior'] == pytest.approx(wrong[2:].mean().item(), rel=1e-5)
    everywhere = trainer(torch.ones(2, 1, 32, 32), mask_outside=0.0)
    plain = trainer(None)
    assert everywhere.loss(0)[0].item() == pytest.approx(plain.loss(0)[0].item(), rel=1e-6)
    assert run_identity(t, latents, None) != run_identity(plain, latents, None), 'another mask is another run'


def test_a_mask_is_mirrored_with_its_reference_and_keeps_the_size_of_the_loss(trainer):
    places = trainer(left_half(), mask_outside=0.25, random_flip=True).places
    assert len(places) == 2 * 2 + 1 and torch.equal(places[2:4], places[:2].flip(3))
    assert torch.allclose(places.mean((1, 2, 3)), torch.ones(5))
    assert torch.allclose(places[0, 0, 0, 0], 4 * places[0, 0, 0, -1]) and (places[-1] == 1).all()
    with pytest.raises(UserError, match='between 0 and 1'):
        TrainSettings(mask_outside=2.0)


def test_a_folder_brings_its_masks_and_prior_images(tiny_folder, tmp_path):
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for i, x in enumerate(images):
        save_png(tmp_path / ('mine' if i < 2 else 'prior') / f'{i}.png', x)
    how = TrainSettings(**PLAIN | dict(max_train_steps=1, prior_batch_size=2))

    def train(out):
        where = dict(references=str(tmp_path / 'mine'), prior=str(tmp_path / 'prior'), model=str(tiny_folder))
        return finetune_target(train=how, device='cpu', out=tmp_path / out, **where).history[0]

    before = train('a')
    assert not (tmp_path / 'a' / 'prior').exists(), 'prior images were generated'
    for i, mask in enumerate(left_half()):
        save_png(tmp_path / 'mine' / 'masks' / f'{i}.png', mask.expand(3, -1, -1))
    after = train('b')
    assert after['prior'] == before['prior'] and after['instance'] != before['instance']


def test_a_run_shows_what_the_square_cuts_off(tmp_path, caplog):
    for i, size in enumerate([(3, 20, 40), (3, 30, 31)]):
        save_png(tmp_path / 'mine' / f'{i}.png', torch.rand(size))
    images = read_folder(tmp_path / 'mine')[0]
    with caplog.at_level(logging.WARNING, 'spurnb'):
        _show_crops(images, images.names, tmp_path / 'run')
    assert (tmp_path / 'run' / 'figures' / 'crops.png').is_file()
    assert '1 of 2 references lose more than a fifth' in caplog.text
