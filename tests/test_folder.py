"Folders, classifiers and limits that an audit refuses, and audits of a handful of images."
import json, os, subprocess, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spurnb.core import UserError, claim, read_json, save_png, write_json
from spurnb.data import mini_file, mini_root
from spurnb.report.folder import audit_folder, gate, remembered, verdict
from spurnb.report.records import read_csv_rows, read_scores
from spurnb.report.summary import text_report
from spurnb.world.scenes import reference_scenes

weights = pytest.mark.skipif(not (mini_root()/'record.json').exists(), reason="no weights")


root = str(Path(__file__).resolve().parents[1])


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


AGAIN = '''
import sys
from spurnb.cli import spurnb_audit
spurnb_audit([*sys.argv[1:], '--audit.judges', 'test_resnet', 'test_vit'])
print('torch' in sys.modules)
'''


@weights
def test_the_same_audit_again_does_not_import_torch(jets):
    "Only if nothing has changed: neither images nor options nor results."
    def audit(*more):
        command = [sys.executable, '-c', AGAIN, 'jets', '--out', 'audit', *more]
        r = subprocess.run(command, text=True, capture_output=True, cwd=jets, env=os.environ | {'PYTHONPATH': root})
        assert r.returncode == 0, r.stderr
        *said, loaded = r.stdout.splitlines()
        return said, loaded == 'True'
    first, loaded = audit()
    assert loaded
    assert audit() == (first, False)
    assert audit('--feature', 'a jet') == (first, True) and audit('--feature', 'a jet')[1] is False
    (jets/'audit'/'report.html').unlink()
    assert audit('--feature', 'a jet')[1] and (jets/'audit'/'report.html').is_file()
    save_png(jets/'jets'/'2.png', reference_scenes('fireboat', 3)[2].draw())
    said, loaded = audit('--feature', 'a jet')
    assert loaded and said != first


@weights
def test_a_folder_whose_name_is_no_utf_8(jets):
    "As old archives leave them: the audit is made, and remembered."
    latin = jets/os.fsdecode(b'bo\xe6ts')
    try: (jets/'jets').rename(latin)
    except OSError: pytest.skip('this file system has names in UTF-8 alone')
    metrics, _ = audit_folder(latin, 'fireboat', ['test_resnet'], jets/'audit', feature='j\udce6t')
    assert 'bo\\udce6ts' in (jets/'audit'/'report.html').read_text(encoding='utf-8')
    written = (jets/'audit'/'metrics.json').stat().st_mtime_ns
    assert audit_folder(latin, 'fireboat', ['test_resnet'], jets/'audit', feature='j\udce6t')[0] == metrics
    assert (jets/'audit'/'metrics.json').stat().st_mtime_ns == written


@weights
def test_remembered_results_are_the_ones_that_were_computed(jets):
    how = jets/'jets', 'fireboat', ['test_resnet'], jets/'audit'
    metrics, scores = audit_folder(*how)
    again, same = audit_folder(*how)
    assert json.dumps(again) == json.dumps(read_json(jets/'audit'/'metrics.json'))
    pd.testing.assert_frame_equal(scores, same, check_dtype=False)
    mine = remembered(jets/'audit', {})
    assert mine is None # other options


@weights
def test_changed_weights_are_not_remembered(jets, tmp_path):
    from safetensors.torch import load_file, save_file
    state = load_file(mini_file('judges/test_resnet.safetensors'))
    judge = f'test_resnet@{tmp_path/"mine.safetensors"}'
    def rates():
        found = audit_folder(jets/'jets', '0', [judge], jets/'audit', classes=list('abcdefghijkl'))[0]
        return found['judges'][judge]['weights']
    save_file(state, tmp_path/'mine.safetensors')
    first = rates()
    assert rates() == first
    save_file({k: v + 1 if k.endswith('bias') else v for k, v in state.items()}, tmp_path/'mine.safetensors')
    assert rates() != first


@weights
def test_the_page_is_written_again_only_when_something_changed(jets):
    how = dict(images=jets/'jets', target='fireboat', judges=['test_resnet'], out=jets/'out')
    def audited(**changes): # what of the results is new
        files = [jets/'out'/f for f in ('config.json', 'report.html', 'tables/rates.csv', 'figures/rates.svg')]
        before = [f.stat().st_mtime_ns if f.exists() else 0 for f in files]
        audit_folder(**how, **changes)
        return {f.name for f, t in zip(files, before) if f.exists() and f.stat().st_mtime_ns != t}
    assert 'report.html' in audited(formats=['csv', 'latex'])
    assert audited() == set()
    assert {'config.json', 'report.html'} <= audited(formats=['csv'])
    assert audited(formats=['csv']) == set()
    (jets/'out'/'report.html').unlink()
    assert 'report.html' in audited(formats=['csv'])
    save_png(jets/'jets'/'0.png', reference_scenes('fireboat', 3)[2].draw())
    assert 'report.html' in audited(formats=['csv'])
    assert audited(formats=['csv']) == set()


def no_constant(name): raise ValueError(f'{name} is not JSON')


@weights
@pytest.mark.filterwarnings('error::RuntimeWarning')
@pytest.mark.parametrize('n, seed', [(1, 0), (2, 0), (2, 5), (3, 0), (3, 7)])
def test_an_audit_of_a_handful_of_images(n, seed, tmp_path):
    "A report with every measure as a value or with the reason why it has none; no warning, and JSON for any reader."
    for i, scene in enumerate(reference_scenes('fireboat', n, seed)): save_png(tmp_path/'jets'/f'{i}.png', scene.draw())
    metrics, _ = audit_folder(tmp_path/'jets', 'fireboat', ['test_resnet'], tmp_path/'out', positives=tmp_path/'jets')
    written = json.loads((tmp_path/'out'/'metrics.json').read_text(), parse_constant=no_constant)
    assert list(written['arms']) == list(metrics['arms'])
    for name, m in written['arms']['images'].items(): assert 'why' in m or None not in (m['low'], m['high']), name
    page = (tmp_path/'out'/'report.html').read_text()
    assert 'nan' not in page.split('id="data">')[1].split('<')[0].lower() and 'too few values for an interval' in page


@weights
@pytest.mark.parametrize('side, said', [(64, False), (96, True)])
def test_the_embedded_judges_say_that_they_are_toys(side, said, tmp_path):
    for i, scene in enumerate(reference_scenes('fireboat', 2)): save_png(tmp_path/'jets'/f'{i}.png', scene.draw(side))
    metrics, _ = audit_folder(tmp_path/'jets', 'fireboat', ['test_resnet'])
    assert ('About photographs their answers mean nothing' in ' '.join(text_report(metrics).split())) == said
    assert not said or '2 of 2 images' in metrics['notes'][0] and 'fireboat' in metrics['notes'][0]


TABLES = dict(latin='file,prompt\n0.png,Vögel\n'.encode('latin-1'),
              wide='file,prompt\n0.png,a jet\n'.encode('utf-16-le'), binary=bytes(range(256)),
              long=b'file,prompt\n0.png,"' + b'x'*200_000)


@pytest.mark.parametrize('table', TABLES)
def test_somebody_elses_table_is_ignored(table, tmp_path, caplog):
    (tmp_path/'images.csv').write_bytes(TABLES[table])
    assert [r for r in read_csv_rows(tmp_path/'images.csv') if r.get('file')] == []
    assert 'images.csv is ignored' in caplog.text or table == 'wide' # without a mark it is text of other columns


@weights
def test_an_audit_beside_somebody_elses_table(jets, caplog):
    (jets/'jets'/'images.csv').write_bytes(TABLES['latin'])
    _, scores = audit_folder(jets/'jets', 'fireboat', ['test_resnet'], jets/'audit')
    assert list(scores.file[scores.arm == 'images']) == ['0.png', '1.png'] and 'images.csv is ignored' in caplog.text
    for name in ('metrics.json', 'scores.csv'): # in a folder of results, a damaged one is made again
        good = (jets/'audit'/name).read_bytes()
        (jets/'audit'/name).write_bytes('damaged'.encode('utf-16'))
        audit_folder(jets/'jets', 'fireboat', ['test_resnet'], jets/'audit')
        assert (jets/'audit'/name).read_bytes() == good


@pytest.mark.filterwarnings('error')
def test_scores_are_read_back_bit_for_bit(tmp_path):
    "All that `to_csv` writes: probabilities, tiny and huge numbers, gaps, whole numbers, texts that look like numbers."
    rng = np.random.default_rng(0)
    numbers = np.r_[rng.random(3000), rng.standard_normal(3000)*10.**rng.integers(-300, 300, 3000), 0, 1, np.inf]
    n = len(numbers)
    table = pd.DataFrame(dict(arm='sfsl', image=range(n), hash='0012', file='nan', p=numbers, q=np.roll(numbers, 1)))
    table.loc[::3, 'q'] = np.nan
    table['valid'], table['top5.vit'] = rng.random(n) < .5, '1e5=0.910'
    table.to_csv(tmp_path/'scores.csv', index=False)
    found = read_scores(tmp_path)
    for name in ('p', 'q'): assert found[name].to_numpy().tobytes() == table[name].to_numpy().tobytes(), name
    assert found.valid.dtype == bool and found.image.dtype == int and list(found) == list(table)
    for name in ('hash', 'file', 'top5.vit'): assert list(found[name]) == list(table[name])


@pytest.mark.parametrize('data', [
    b'', b'\0', 'arm,image,hash\n'.encode('utf-16'), b'arm,image\n', b'arm,image,hash\n1\n1,2,3,4\n'])
def test_scores_that_are_none(data, tmp_path):
    (tmp_path/'scores.csv').write_bytes(data)
    with pytest.raises(UserError, match='is damaged'): read_scores(tmp_path)
