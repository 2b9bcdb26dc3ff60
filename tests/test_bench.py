"`spurnb_bench`: the table of training steps. What is asserted are shapes, losses and counts, never seconds."
import json

import pytest

from spurnb.cli import spurnb_bench
from spurnb.core import UserError
from spurnb.lab import bench
from spurnb.lab.step_cost import WAYS, measure_steps, one_step, step_material


def test_the_table_of_steps(tmp_path, capsys):
    spurnb_bench(['--table', 'step', '--n', 1, '--repeats', 1, '--device', 'cpu', '--out', tmp_path/'rows.json'])
    rows, printed = json.loads((tmp_path/'rows.json').read_text())['step'], capsys.readouterr().out
    assert [r['way'] for r in rows] == list(WAYS) and all(f'\n{way} ' in printed for way in WAYS)
    assert rows[0]['ratio'] == 1 and all(r['seconds'] > 0 and r['megabytes'] >= 0 for r in rows)
    ratio = {r['way']: r['counted'] for r in rows}
    assert ratio['cached'] <= .75 and ratio['exact'] <= 1.45
    assert max(ratio['tiny'], ratio['sample']) <= .9 < ratio['gate']


def test_the_ways_minimize_the_same():
    "Plain and cached have the same loss; so have naive, exact and checkpointed, which add the similarity loss."
    frozen = dict(learning_rate=1e-12, text_encoder_lr=1e-12) # so that all of them find the same weights
    trainer, images, losses = step_material(n=1, device='cpu', **frozen)
    found = {way: one_step(trainer, images, 0, way, losses) for way in WAYS}
    assert found['plain'] == pytest.approx(found['cached'], rel=1e-4)
    assert found['naive'] == pytest.approx(found['exact'], rel=1e-4)
    assert found['checkpointed'] == pytest.approx(found['exact'], rel=1e-4)
    assert found['exact'] > found['cached'] + 1e-3


@pytest.mark.parametrize('options, said', [
    ('--table step --preset sd2', 'there is no preset'),
    ('--table step --preset sd15 --device cpu', 'measured on a GPU'),
    ('--n 3', 'also give --table'), ('--table steps', "did you mean 'step'")])
def test_mistakes_are_one_sentence(options, said, capsys):
    with pytest.raises(SystemExit) as stop: spurnb_bench(options.split())
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count('\n') == 1 and said in err


@pytest.mark.parametrize('work, said', [
    (lambda: bench.measured('evidence', 'pca_ours', dict(n=8, features=16), dict(n=1, features=16)), 'at least 2'),
    (lambda: bench.bench_pca(n=0), 'n is 0'),
    (lambda: bench.bench_audit(n=-1), 'n is -1'),
    (lambda: step_material('sd2'), 'there is no preset'),
    (lambda: step_material(n=0), 'n is 0'),
    (lambda: measure_steps(None, None, None, repeats=0), 'repeats is 0'),
])
def test_refusals(work, said):
    with pytest.raises(UserError) as refused: work()
    assert said in str(refused.value)


def test_lines():
    rows = [dict(way='a', seconds=1, megabytes=1), dict(way='b', seconds=3, megabytes=2)]
    assert bench.pca_lines(rows)[-1] == 'a is 3.0 times as fast as b, with 0.50 times the memory'
