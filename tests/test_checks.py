"The bars of the embedded world, each missed by one number, and the measurements on stand-ins that know their answer."
import numpy as np
import pytest
import torch
from tiny import tiny_pipeline

from spurnb.audit.judges import Judge
from spurnb.components.pictures import pure_components, rule_record
from spurnb.core import UserError, to_tensor
from spurnb.encoders import Encoder, small_resnet
from spurnb.lab.checks import (
    BARS, bars, check_classifiers, check_generator, damaged_files, judge_logits, objectless, pgd_share)
from spurnb.lab.fit import new_judge
from spurnb.world.scenes import CLASSES, CONTEXT_NAMES, OBJECT_NAMES, TARGETS, draw_scenes, independent_scenes


def share(v): return dict(value=v, low=v, high=v, n=100)
def same(v): return {t: share(v) for t in TARGETS}


def classifier(rate, pgd20, background=.02, other=.05):
    return dict(accuracy=share(.8), pgd20=share(pgd20), spurious_rate=same(rate), described=same(rate),
                background=same(background), other_context=same(other))


def record():
    "Return a record that meets every bar."
    rule = [dict(target=t, context=[1], object=[0], pure=draw > 2) for t in TARGETS for draw in range(30)]
    made = dict(objects=same(.96), variants=same(.95), bare=same(0.), prompted={t: dict(a=share(.5)) for t in TARGETS})
    repaired = {t: {j: dict(fell=.15, cost=.01) for j in 'abcd'} for t in TARGETS}
    return dict(vae=dict(psnr_db=32.5), meters=dict(object=share(1.), context=share(.995)), encoder=classifier(.5, .6),
                judges=dict(a=classifier(.4, .2), b=classifier(.7, .3)), component_rule=dict(rows=rule), generator=made,
                spufix=repaired)


def lower_rates(r, value, targets):
    for t in targets:
        for j in r['judges'].values(): j['spurious_rate'][t] = share(value + (j is r['judges']['a'])*.3)


BREAK = {
    'psnr_db': lambda r: r['vae'].update(psnr_db=31.),
    'meters': lambda r: r['meters'].update(context=share(.9)),
    'accuracy': lambda r: r['judges']['b'].update(accuracy=share(.99)), # nobody errs
    'pgd20': lambda r: r['encoder'].update(pgd20=share(.4)),
    'robustness': lambda r: r['judges']['b'].update(pgd20=share(.7)),
    'references': lambda r: lower_rates(r, .1, TARGETS[:1]),
    'middle': lambda r: lower_rates(r, .62, TARGETS[:3]), # .77 on average: too many for the middle, not for the class
    'graded': lambda r: [j['spurious_rate'].update(tench=share(.5)) for j in r['judges'].values()],
    'background': lambda r: [j['background'].update(tench=share(.2)) for j in r['judges'].values()],
    'other_context': lambda r: [j['other_context'].update(koala=share(.2)) for j in r['judges'].values()],
    'parts': lambda r: [row.update(object=[]) for row in r['component_rule']['rows'] if row['target'] in TARGETS[:3]],
    'rule': lambda r: [row.update(pure=False) for row in r['component_rule']['rows'] if row['target'] in TARGETS[:3]],
    'spufix': lambda r: r['spufix']['koala']['a'].update(cost=.011),
    'objects': lambda r: r['generator']['objects'].update(koala=share(.9)),
    'variants': lambda r: r['generator']['variants'].update(koala=share(.5)),
    'bare': lambda r: r['generator']['bare'].update(koala=share(.1)),
    'prompted': lambda r: r['generator']['prompted'].update(koala=dict(a=share(.8), b=share(.9))),
}


def test_each_bar_has_a_case(): assert set(BREAK) == set(bars(record())) == set(BARS)


@pytest.mark.parametrize('bar', BREAK)
def test_one_number_misses_one_bar(bar):
    found = record()
    assert all(b['met'] for b in bars(found).values())
    BREAK[bar](found)
    missed = {k for k, b in bars(found).items() if not b['met']}
    assert bar in missed and missed - {bar} <= {'parts': {'rule'}}.get(bar, set()), bars(found)[bar]


def test_a_record_without_generated_images_has_the_other_bars():
    found = record()
    del found['generator']
    assert set(BREAK) - set(bars(found)) == {'objects', 'variants', 'bare', 'prompted'}


class Always(torch.nn.Module):
    "Names one class, whatever it sees."
    pretrained_cfg = dict(input_size=(3, 64, 64), crop_pct=1., mean=(.5,)*3, std=(.5,)*3)

    def __init__(self, name):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.eye(len(CLASSES))[CLASSES.index(name)])

    def forward(self, x): return self.bias + 0*x.mean((1, 2, 3)).unsqueeze(1)


def test_classifiers_are_asked_about_every_target():
    judge = Judge('always', Always('fireboat'), dict(Always.pretrained_cfg))
    found = check_classifiers([judge], Encoder(small_resnet(len(CLASSES))), n=24, attacked=6, asked=3)
    always = found['judges']['always']
    assert always['accuracy']['value'] == pytest.approx(1/12) and always['pgd20']['n'] == 2
    for kind in ('spurious_rate', 'described', 'background', 'other_context'):
        assert {t: m['value'] for t, m in always[kind].items()} == {t: float(t == 'fireboat') for t in TARGETS}
        assert found['encoder'][kind]['tench']['n'] == 3
    assert found['encoder']['pgd20']['n'] == 6


def test_the_two_kinds_of_null_images_are_told_apart():
    found = objectless('tench', 40)
    assert {k: len(v) for k, v in found.items()} == dict.fromkeys(
        ('spurious_rate', 'described', 'background', 'other_context'), 40)
    detail = {k: (v[:, :, :, 1:] - v[:, :, :, :-1]).abs().mean() for k, v in found.items()}
    assert detail['background'] < min(detail['spurious_rate'], detail['other_context'])


def test_a_judge_under_attack_gives_the_logits_of_the_audit():
    model = new_judge('test_resnet').eval()
    x = to_tensor(draw_scenes(independent_scenes(4, 1)))
    judge = Judge('test_resnet', model, dict(crop_pct=1.))
    assert torch.allclose(judge_logits(judge)(x), judge.logits(x), atol=1e-4)


def test_an_attack_finds_the_images_near_the_border():
    "A classifier of mean brightness, attacked within 0.5: it loses only images that near its border of one half."
    def logits(x): return torch.stack([0*x.mean((1, 2, 3)), x.mean((1, 2, 3)) - .5], 1)
    side, reach = 8, .5/(3*64)**.5 # the ball moves the mean brightness this far
    means = torch.tensor([.5 + 3*reach, .5 + .3*reach, .5 - .3*reach, .5 - 3*reach])
    x = means.view(4, 1, 1, 1).expand(4, 3, side, side)
    assert pgd_share(logits, x, torch.tensor([1, 1, 0, 0]))['value'] == .5


def test_pure_components():
    context, obj = torch.tensor([2., .5, .2, -1.]), torch.tensor([.1, -3., 0., .2])
    assert pure_components(context, obj) == ([0, 3], [1])
    assert pure_components(context, obj, among=2) == ([0], [1])
    assert pure_components(context, obj, least=.1)[0] == [0, 2, 3]


def test_the_rule_s_record_says_which_components_are_the_context_s():
    torch.manual_seed(0)
    rows = rule_record(Encoder(small_resnet(len(CLASSES))), ['tench', 'koala'], range(2), n=3, images=30)
    assert [(r['target'], r['seed']) for r in rows] == [(t, s) for t in ('tench', 'koala') for s in (0, 1)]
    assert all(r['pure'] == (r['chosen'] in r['context']) and r['found'] == (r['chosen'] == r['true']) for r in rows)


def test_generated_images_go_to_meters_and_judges():
    judges = [Judge(t, Always(t), dict(Always.pretrained_cfg)) for t in ('koala', 'tench')]
    def nothing(n): return lambda x: torch.eye(n)[0].expand(len(x), n)
    meters = dict(object=nothing(len(OBJECT_NAMES)), context=nothing(len(CONTEXT_NAMES)))
    found = check_generator(tiny_pipeline(), meters, judges, 1, 1, 1, 2, num_inference_steps=1)
    assert {m['value'] for m in found['objects'].values()} == {0.} and list(found['objects']) == TARGETS
    assert {m['value'] for m in found['bare'].values()} == {0.} and len(found['variants']) == 24
    assert {t: np.mean([m['value'] for m in v.values()]) for t, v in found['prompted'].items()} == {
        t: .5*(t in ('koala', 'tench')) for t in TARGETS}
    assert found['prompted']['koala']['koala']['n'] == 2


@pytest.mark.parametrize('text', ['3', '[1]', '{"measured": {}}', '{"files": 3}'])
def test_a_record_of_something_else_is_named(tmp_path, text):
    (tmp_path/'record.json').write_text(text)
    with pytest.raises(UserError, match='is not the record of a world'): damaged_files(tmp_path)
