"What the audit refuses before any judge has seen an image, and measures that a page has no room for."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from spurnb.audit.judges import Judge
from spurnb.core import UserError
from spurnb.data import mini_target
from spurnb.evaluate import arm_measures, audit

TARGET = mini_target('fireboat')
CONFIG = dict(input_size=(3, 64, 64), crop_pct=1.)
SOME = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def random_judge(classes=len(TARGET.classes), name='random'):
    "A judge with random weights."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3*64*64, classes))
    model.num_classes = classes
    return Judge(name, model, CONFIG)


class Overflows(torch.nn.Module):
    def forward(self, x): return torch.full((len(x), len(TARGET.classes)), float('nan'))


REFUSED = [
    (dict(arms={}), 'no arms to audit'),
    (dict(arms=dict(a=SOME*255)), 'outside of [0,1]'),
    (dict(arms=dict(a=SOME*float('nan'))), 'outside of [0,1]'),
    (dict(arms=dict(a=SOME[0])), 'give at least one image'),
    (dict(arms=dict(a=SOME[:0])), 'give at least one image'),
    (dict(arms=dict(a=(SOME*255).byte())), 'as floats'),
    (dict(judges=[]), 'at least one'),
    (dict(judges=[random_judge(), random_judge()]), 'each once'),
    (dict(judges=[random_judge(7)]), 'among its own classes'),
    (dict(judges=[Judge('hot', Overflows(), CONFIG)]), 'no classifier gives an answer'),
]

@pytest.mark.parametrize('wrong, said', REFUSED)
def test_audit_refuses(wrong, said):
    how = dict(arms=dict(a=SOME), judges=[random_judge()], target=TARGET) | wrong
    with pytest.raises(UserError) as refused: audit(**how)
    assert said in str(refused.value)


def test_bare_audit():
    "Images and judges alone give rates, agreement and intervals; one judge has no agreement and no next judge."
    metrics, scores = audit(dict(images=SOME), [random_judge()], TARGET)
    assert metrics['differences'] == {} and metrics['meters'] is None and len(scores) == 4
    arm = metrics['arms']['images']
    assert 'valid' not in arm and 'two classifiers' in arm['kappa']['why']
    assert 'no images of the class' in arm['auc']['why'] and arm['spurious_rate_next_judge']['low'] is None


def test_top_5_from_fifty_classes_up():
    names = tuple(map(str, range(60)))
    metrics, _ = audit(dict(images=SOME), [random_judge(60)], replace(TARGET, classes=names))
    arm = metrics['arms']['images']
    assert arm['spurious_rate']['value'] <= arm['spurious_rate_top5']['value']
    assert 'spurious_rate_top5' not in audit(dict(images=SOME), [random_judge()], TARGET)[0]['arms']['images']


def test_failing_images_have_a_rate_of_their_own():
    "Valid images and those that fail a check make up the rate over all; nothing failing says so."
    rng = np.random.default_rng(0)
    table = pd.DataFrame(dict(valid=rng.random(40) < .3, votes=0))
    for j in 'ab': table[f'hit.{j}'], table[f'p.{j}'] = rng.random(40) < .2 + .5*table.valid, rng.random(40)
    arm, _ = arm_measures(table)
    every, valid, failing = (arm[f'spurious_rate{k}'] for k in ('', '_valid', '_failing'))
    assert valid['n'] + failing['n'] == 40 and valid['value'] > failing['value']
    assert (valid['value']*valid['n'] + failing['value']*failing['n'])/40 == pytest.approx(every['value'])
    none = arm_measures(table.assign(valid=True))[0]['spurious_rate_failing']
    assert none['value'] is None and none['why'] == 'no image fails a check'
