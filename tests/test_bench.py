"`spurnb_bench`: the table of training steps. What is asserted are shapes, losses and counts, never seconds."
import json, os, subprocess, sys

import pytest
import torch

from spurnb.cli import spurnb_bench
from spurnb.core import UserError
from spurnb.lab import bench
from spurnb.lab.script import Script, dreambooth_script
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
    for loss in losses.values():
        loss.reference, loss.pool = 'strongest', torch.full((1, 1), 100.) # out of reach, so that the loss is not 0
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


def test_memory_of_a_process_and_its_children():
    "Half a gigabyte that a child has written counts for its parent, too."
    code = 'x = bytearray(b"1")*2**29; print(flush=True); input()'
    before = bench.tree_memory(os.getpid())
    with subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert 500 < bench.tree_memory(os.getpid()) - before < 600
        child.communicate(b'\n')
    assert bench.tree_memory(child.pid) == 0


def test_a_job_that_fails_is_not_timed():
    with pytest.raises(UserError, match='ended with 2'): bench.timed_run(1, -5)


@pytest.mark.parametrize('work, said', [
    (lambda: bench.measured('random_evidence', 'pca_ours', dict(n=8, features=16), dict(n=1, features=16)),
     'at least 2'),
    (lambda: bench.bench_pca(n=0), 'n is 0'),
    (lambda: bench.bench_audit(n=-1), 'n is -1'),
    (lambda: step_material('sd2'), 'there is no preset'),
    (lambda: step_material(n=0), 'n is 0'),
    (lambda: measure_steps(None, None, None, repeats=0), 'repeats is 0'),
    (lambda: bench.bench_step(script='nowhere.py', device='cpu', n=1), 'there is no script'),
    (lambda: bench.bench_step('sd15', script='x.py', device='cpu'), 'on the CPU'),
])
def test_refusals(work, said):
    with pytest.raises(UserError) as refused: work()
    assert said in str(refused.value)


def test_lines():
    rows = [dict(way='a', seconds=1, megabytes=1), dict(way='b', seconds=3, megabytes=2)]
    assert bench.pca_lines(rows)[-1] == 'a is 3.0 times as fast as b, with 0.50 times the memory'


SCRIPT = '''
import sys
from argparse import ArgumentParser
from pathlib import Path
from tqdm.auto import tqdm

taken = []

def parse_args(words):
    known, rest = ArgumentParser().parse_known_args(words)
    return rest

def main(args):
    told = dict(zip(args, args[1:]))
    images = len(list(Path(told['--instance_data_dir']).iterdir())), len(list(Path(told['--class_data_dir']).iterdir()))
    bar = tqdm(range(10))
    for step in range(10):
        if len(taken) == 5: raise RuntimeError('five are enough')
        taken.append(images)
        bar.update(1)
        bar.set_postfix(loss=0.)
'''


def test_a_script_takes_one_step_at_a_time(tmp_path):
    (tmp_path/'script.py').write_text(SCRIPT)
    trainer, images, losses = step_material('small', n=1, device='cpu')
    with dreambooth_script(tmp_path/'script.py', trainer, images, tmp_path) as script:
        assert script.module.taken == [(1, 16)]
        rows = measure_steps(trainer, images, losses, repeats=1, ways=('cached',), script=script)
        assert script.module.taken == [(1, 16)]*3 and [r['way'] for r in rows] == ['script', 'cached']
        for _ in range(2): script.step()
        with pytest.raises(UserError, match='the script failed: five are enough'): script.step()
    assert not script.thread.is_alive()


def test_a_script_that_ends_says_so(tmp_path):
    short = SCRIPT.replace('range(10)', 'range(2)').replace("told['--instance_data_dir']", "'.'")
    (tmp_path/'script.py').write_text(short.replace("told['--class_data_dir']", "'.'"))
    script = Script(tmp_path/'script.py', {})
    script.step()
    with pytest.raises(UserError, match='the script ended'): script.step()
