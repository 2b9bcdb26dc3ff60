"A model with a safety checker: on by default, counted, switched off by a setting; what stays black is left out."
import json
from types import SimpleNamespace

import pytest
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPConfig

from spurnb.data import mini_root, mini_target
from spurnb.draw.samplers import checker_of
from spurnb.generate import arm_prompts, image_seed, read_manifest
from spurnb.pipeline import run
from spurnb.run.settings import change, settings_for
from spurnb.train import checkpoints
from spurnb.train.settings import with_prompts

weights = pytest.mark.skipif(
    not (mini_root()/'record.json').exists(), reason="the embedded world's weights are missing")
SMALL = settings_for(
    target='fireboat', references=dict(n=2, held_out=20),
    components=dict(n_class_images=40, n_other_images=24, picture_steps=2),
    train=dict(max_train_steps=2, num_class_images=2, train_batch_size=2, prior_batch_size=2),
    generate=dict(n=2, num_inference_steps=3), audit=dict(judges=('test_resnet', 'test_vit')))
FIREBOAT = mini_target('fireboat')
PROMPTS = arm_prompts(FIREBOAT, with_prompts(SMALL.train, FIREBOAT.feature).instance_prompt)


class Prudish(StableDiffusionPipeline):
    "Refuses some prompts always, and with every other prompt the first attempt at image 1."
    refused, first = (), image_seed(0, 1)
    def __call__(self, prompt, generator, **how):
        self.asked = list(zip(prompt, generator))
        self.bad = [p in self.refused or g.initial_seed() == self.first for p, g in self.asked]
        return super().__call__(prompt, generator=generator, **how)
    def run_safety_checker(self, image, device, dtype):
        if self.safety_checker is None: return image, None
        for i, bad in enumerate(self.bad):
            if bad: image[i] = 0 # as the real one does
        return image, self.bad


@pytest.fixture
def prudish(monkeypatch):
    "The embedded world's generator with a checker; -> the class, whose `refused` is a list of prompts."
    plain = checkpoints.load_pipeline
    small = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    config = CLIPConfig(text_config=small, vision_config=small | dict(image_size=16, patch_size=8), projection_dim=8)
    kind = type('StableDiffusionPipeline', (Prudish,), {})
    def load(*args, **how):
        pipe = plain(*args, **how)
        pipe.__class__ = kind
        pipe.safety_checker = StableDiffusionSafetyChecker(config)
        return pipe
    monkeypatch.setattr(checkpoints, 'load_pipeline', load)
    return kind


def test_a_checker_is_taken_off_only_on_request():
    pipe = SimpleNamespace(safety_checker='checker')
    assert checker_of(pipe) == 'on' and pipe.safety_checker == 'checker'
    assert checker_of(pipe, wanted=False) == 'off' and pipe.safety_checker is None
    assert checker_of(pipe) == '' == checker_of(SimpleNamespace())


@weights
def test_an_arm_that_stays_black_is_left_out(prudish, tmp_path):
    "By name, in the record and in the report; the other arms are drawn, with their redraws counted."
    prudish.refused = (PROMPTS['prompted'],)
    metrics = run(change(SMALL, dict(out=str(tmp_path))))
    assert list(metrics['left_out_arms']) == ['prompted']
    assert {'untuned', 'dreambooth', 'sfsl'} <= set(metrics['arms']) and 'prompted' not in metrics['arms']
    assert metrics['safety_checker'] == 'on' and metrics['redrawn'] == dict(untuned=1, dreambooth=1, sfsl=1)
    assert list(read_manifest(tmp_path/'images'/'sfsl').retries) == [0, 1]
    page = (tmp_path/'report.html').read_text(encoding='utf-8')
    assert 'Arm prompted was left out: image 0 came out black 10 times in a row' in page.replace('&#39;', "'")
    assert metrics['similarity_loss']['ratio'] > 0
    assert 'push of alpha in standard deviations of class images, times 1' in page
    assert 'on; images that came out black and were generated again' in page and '1 of untuned, 1 of dreambooth' in page

    off = run(change(SMALL, dict(out=str(tmp_path), generate=dict(safety_checker=False))))
    assert off['left_out_arms'] == {} and 'prompted' in off['arms'] and off['safety_checker'] == 'off'
    assert set(off['redrawn'].values()) == {0}
    assert json.loads((tmp_path/'config.json').read_text())['settings']['generate']['safety_checker'] is False


@weights
def test_black_prior_images_leave_out_the_trained_arms(prudish, tmp_path):
    prudish.refused = (PROMPTS['untuned'],) # which is the class prompt too
    metrics = run(change(SMALL, dict(out=str(tmp_path))), figures=False)
    assert set(metrics['left_out_arms']) == {'untuned', 'dreambooth', 'sfsl'} and 'prompted' in metrics['arms']
    assert 'prior' not in metrics['left_out_arms']['untuned'] and 'class prompt' in metrics['left_out_arms']['sfsl']
