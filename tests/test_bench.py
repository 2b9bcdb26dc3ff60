"`spurnb_bench`: the table of training steps. What is asserted are shapes, losses and counts, never seconds."
import json

import pytest

from spurnb.cli import spurnb_bench
from spurnb.lab.step_cost import WAYS, one_step, step_material


def test_the_table_of_steps(tmp_path, capsys):
    spurnb_bench(['--table', 'step', '--n', 1, '--repeats', 1, '--device', 'cpu', '--out', tmp_path/'rows.json'])
    rows, printed = json.loads((tmp_path/'rows.json').read_text())['step'], capsys.readouterr().out
    assert [r['way'] for r in rows] == list(WAYS) and all(f'\n{way} ' in printed for way in WAYS)
    assert rows[0]['ratio'] == 1 and all(r['seconds'] > 0 and r['megabytes'] >= 0 for r in rows)
    ratio = {r['way']: r['counted'] for r in rows}
    assert ratio['cached'] <= .75 and ratio['exact'] <= 1.45 and max(ratio['tiny'], ratio['sample']) <= .9 < ratio['gate']


def test_the_ways_minimize_the_same():
    "Plain and cached have the same loss, given the same step; so have naive, exact and checkpointed, and the similarity loss is added there."
    trainer, images, losses = step_material(n=1, device='cpu', learning_rate=1e-12, text_encoder_lr=1e-12) # so that all of them find the same weights
    found = {way: one_step(trainer, images, 0, way, losses) for way in WAYS}
    assert found['plain'] == pytest.approx(found['cached'], rel=1e-4)
    assert found['naive'] == pytest.approx(found['exact'], rel=1e-4) and found['checkpointed'] == pytest.approx(found['exact'], rel=1e-4)
    assert found['exact'] > found['cached'] * 1.01


@pytest.mark.parametrize('options, said', [
    ('--table step --preset sd2', 'there is no preset'), ('--table step --preset sd15 --device cpu', 'measured on a GPU'),
    ('--n 3', 'also give --table'), ('--table steps', "did you mean 'step'")])
def test_mistakes_are_one_sentence(options, said, capsys):
    with pytest.raises(SystemExit) as stop: spurnb_bench(options.split())
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count('\n') == 1 and said in err
