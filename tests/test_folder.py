"Folders, classifiers and limits that an audit refuses."
import pytest

from spurnb.core import UserError, claim, save_png
from spurnb.data import mini_root
from spurnb.report.folder import audit_folder, gate, verdict
from spurnb.world.scenes import reference_scenes

weights = pytest.mark.skipif(not (mini_root()/'record.json').exists(), reason="no weights")


@pytest.fixture
def jets(tmp_path):
    for i, scene in enumerate(reference_scenes('fireboat', 2)): save_png(tmp_path/'jets'/f'{i}.png', scene.draw())
    claim(tmp_path/'other', 'spurnb_audit', images='/elsewhere', target='fireboat')
    (tmp_path/'full').mkdir()
    (tmp_path/'full'/'notes.txt').write_text('mine')
    (tmp_path/'file').write_text('mine')
    return tmp_path


@weights
@pytest.mark.parametrize('how, said', [
    (dict(out='other'), "audit of '/elsewhere'.*choose another --out"),
    (dict(out='full'), 'choose another --out'),
    (dict(out='file'), 'is a file'), (dict(positives='nowhere'), 'there is no folder'),
    (dict(judges=['test_resnet', 'resnet50']), 'audit them separately'), (dict(images='nowhere'), 'there is no folder'),
    (dict(target='fire boat'), 'fireboat'), (dict(detector='clip:any'), 'must be calibrated'),
    (dict(protocol='modell'), 'model'), (dict(formats=['excel']), 'excel')])
def test_an_audit_is_refused_before_anything_is_written(how, said, jets):
    how = dict(dict(images='jets', target='fireboat', judges=['test_resnet']), **how)
    for name in {'images', 'out', 'positives'} & set(how): how[name] = jets/how[name]
    before = sorted(p.relative_to(jets) for p in jets.rglob('*'))
    with pytest.raises(UserError, match=said): audit_folder(**how)
    assert sorted(p.relative_to(jets) for p in jets.rglob('*')) == before


@pytest.mark.parametrize('limit', [20, -.1])
def test_a_limit_is_a_share(limit):
    with pytest.raises(UserError, match='between 0 and 1'): gate(dict(classifiers={}), limit)


def rate(value, low, high, n=64): return dict(images=dict(value=value, low=low, high=high, n=n))


@pytest.mark.parametrize('found, lines, broken', [
    (dict(a=rate(.5, .38, .62), b=rate(.02, 0, .08)), ['limit of 20% broken by 1 of 2 classifiers: a'], True),
    (dict(a=rate(.25, .16, .37)), ['limit of 20% undecided for the only classifier: a'], False),
    (dict(a=rate(.02, 0, .08)), ['limit of 20% kept by the only classifier'], False)])
def test_a_verdict_in_words(found, lines, broken):
    assert verdict(dict(classifiers=found), .2) == (lines, broken)
