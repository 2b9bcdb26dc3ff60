"Settings of training: what they refuse, and that their choices are those of the code that takes them."
import re
from typing import get_args

import pytest

from spurnb.core import UserError
from spurnb.run.settings import RunSettings, change
from spurnb.train.settings import DTYPES, SFSLSettings, TrainSettings, with_prompts


@pytest.mark.parametrize('wrong, said', [
    (dict(max_train_steps=-1), 'max_train_steps is -1; give a number above zero'),
    (dict(train_batch_size=2.5), 'train_batch_size is 2.5; give a whole number'),
    (dict(num_class_images=-1), 'num_class_images is -1; give 0 or more'),
    (dict(learning_rate=float('inf')), 'learning_rate is inf; give 0 or more'),
    (dict(ema_decay=1.), 'ema_decay is 1.0; give 0 or more, and less than 1'),
    (dict(crop=1.), 'crop is 1.0; give 0 or more, and less than 1'),
    (dict(mixed_precision='bfloat16'), "did you mean 'bf16'"),
    (dict(memory_format='channels-last'), "did you mean 'channels_last'"),
    (dict(optimizer='adam'), "did you mean 'adamw'"),
    (dict(learning_rate=0, train_text_encoder=False), 'nothing is trained'),
    (dict(learning_rate=0, text_encoder_lr=0), 'nothing is trained'),
    (dict(use_dora=True), 'also give a lora_rank'),
    (dict(probe='spurnb.audit.zoo:spurious_probe'), 'also give validation_steps')], ids=lambda x: str(x)[:40])
def test_train_settings_refuse(wrong, said):
    with pytest.raises(UserError, match=said): TrainSettings(**wrong)


@pytest.mark.parametrize('wrong, said', [
    (dict(features='beta'), 'give one of alpha, psi, phi'),
    (dict(decoder='exakt'), "did you mean 'exact'"),
    (dict(gate=1.5), 'gate is 1.5; give a share of signal from 0 to 1'),
    (dict(sample=0.), 'sample is 0.0; give a probability above 0')], ids=lambda x: str(x)[:40])
def test_sfsl_settings_refuse(wrong, said):
    with pytest.raises(UserError, match=said): SFSLSettings(**wrong)


@pytest.mark.parametrize('reference', ['image', 'mean', 'nearest', 'strongest'])
@pytest.mark.parametrize('distance', ['push', 'cosine', 'l2'])
@pytest.mark.parametrize('features', ['alpha', 'psi', 'phi'])
def test_sfsl_settings_that_do_not_go_together(features, distance, reference):
    "They are those that the loss refuses; and whoever adds what the message says has settings that go together."
    from spurnb.objective import PAIRS
    asked = dict(features=features, distance=distance, reference=reference)
    fits = features in PAIRS[distance] and (reference != 'strongest' or features == 'alpha')
    said = ''
    try: SFSLSettings(**asked)
    except UserError as e: said = str(e)
    assert ('do not go together' in said) == (not fits)
    SFSLSettings(**asked | dict(re.findall(r'--sfsl\.(\w+) (\w+)', said)))


def choices(settings, name): return set(get_args(settings.__dataclass_fields__[name].type))

def test_choices_are_those_of_the_code():
    from spurnb import objective
    from spurnb.train.optimizers import OPTIMIZERS
    assert choices(TrainSettings, 'optimizer') == set(OPTIMIZERS)
    assert choices(TrainSettings, 'mixed_precision') == set(DTYPES)
    assert choices(SFSLSettings, 'distance') == set(objective.DISTANCES)
    assert choices(SFSLSettings, 'features') == {f for pairs in objective.PAIRS.values() for f in pairs}
    assert choices(SFSLSettings, 'reference') == set(objective.REFERENCES)
    assert choices(SFSLSettings, 'weight') == set(objective.WEIGHTS)
    assert choices(SFSLSettings, 'decoder') <= set(objective.DECODERS)


def test_prompts_are_derived_where_they_are_empty():
    train = with_prompts(TrainSettings(class_prompt='a photo of a boat'), 'breaking wave', 'zwx')
    assert (train.instance_prompt, train.class_prompt) == ('a photo of a zwx breaking wave', 'a photo of a boat')


@pytest.mark.parametrize('changes, said', [
    (dict(train=[]), 'train is .*table of settings'), (dict(train=None), 'train is None'),
    (dict(seed=float('inf')), 'seed is inf; give a whole number'), (dict(seed=float('nan')), 'seed is nan'),
    (dict(generate=dict(n=None)), 'generate.n is None; give a whole number'), (dict(target={}), 'give a text'),
    (dict(audit=dict(judges=[1])), 'audit.judges holds 1; give texts'),
    (dict(components=dict(chosen=['a'])), "components.chosen holds 'a'; give whole numbers"),
    (dict(generate=dict(size='64')), "generate.size is '64'")])
def test_a_file_of_settings_with_values_of_other_kinds(changes, said):
    with pytest.raises(UserError, match=said): change(RunSettings(), changes)


def test_settings_that_may_be_empty():
    small = change(RunSettings(), dict(generate=dict(size=64, n=3.)))
    assert type(small.generate.n) is int and change(small, dict(generate=dict(size=None))).generate.size is None
