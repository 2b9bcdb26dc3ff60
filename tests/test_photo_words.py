"Words of photographs come from the table of features; those of the embedded world stay there."
import csv
from importlib import resources

import pytest

from spurnb.data import imagenet_target, mini_target
from spurnb.generate import arm_prompts
from spurnb.run.material import photo_target
from spurnb.run.settings import settings_for
from spurnb.train.settings import with_prompts
from spurnb.world.scenes import TARGETS

with (resources.files('spurnb')/'facts'/'spurious_imagenet.csv').open(encoding='utf-8') as file:
    TABLE = {int(row['class_index']): row for row in csv.DictReader(file)}


def words(target, **changes):
    "What a run at full scale calls the feature: short, and in full."
    found = photo_target(settings_for('sd15', target=str(target), **changes))
    return found.feature, found.prompted


@pytest.mark.parametrize('name', TARGETS)
def test_a_drawn_class_has_words_of_its_own_in_photographs(name):
    "No glove of the drawings describes a photograph of people."
    row, drawn = TABLE[imagenet_target(name).index], mini_target(name)
    assert words(name) == (row['feature'], row['prompted'])
    assert not {*words(name)} & {drawn.feature, drawn.prompted} - {row['feature']}


def test_untuned_and_prompted_are_two_arms_of_every_feature():
    "Equal prompts and equal seeds would be identical images under two names."
    assert len(TABLE) == 100
    for index in TABLE:
        target = photo_target(settings_for('sd15', target=str(index)))
        train = with_prompts(settings_for('sd15').train, target.feature)
        prompts = arm_prompts(target, train.instance_prompt)
        assert len({prompts['untuned'], prompts['prompted'], prompts['sfsl']}) == 3, prompts
        assert train.class_prompt == prompts['untuned']


def test_words_of_ones_own_win():
    assert words(0, feature='wet hand') == ('wet hand', 'wet hand')
    assert words(0, prompted='hand in a wet glove') == (TABLE[0]['feature'], 'hand in a wet glove')
