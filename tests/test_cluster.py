"Several runs as jobs: two workers of which one is killed, and what a Slurm gets to see."

import os, subprocess, sys, time
from pathlib import Path

import pytest

pytest.importorskip('submitit')
psutil = pytest.importorskip('psutil')

from spurnb.core import UserError, read_json
from spurnb.run.cluster import ClusterSettings, submit

root = Path(__file__).resolve().parents[1]
QUICK = [
    *('--references.n', '2', '--references.held_out', '2'),
    *('--components.n_class_images', '40', '--components.n_other_images', '20', '--components.picture_steps', '1'),
    *('--train.max_train_steps', '1', '--train.num_class_images', '0', '--sfsl.sample', '.1'),
    *('--generate.n', '2', '--generate.num_inference_steps', '1'),
    *('--audit.judges', 'test_resnet', '--device', 'cpu'),
]


def start(out):
    args = ['-m', 'spurnb.cli', 'run', '--target', 'koala', '--seeds', '2', '--cluster', 'local', '--workers', '2']
    path = os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')])
    env = os.environ | dict(OMP_NUM_THREADS='1', MPLBACKEND='agg', PYTHONPATH=path)
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, *args, *QUICK, '--out', str(out)], env=env, **pipes)


def workers(process):
    "Processes that do the work of a job: the last of each chain of children."
    below = psutil.Process(process.pid).children(recursive=True)
    return [p for p in below if 'submitit.core._submit' in ' '.join(p.cmdline()) and not p.children()]


def test_a_killed_worker_is_named_and_only_its_run_is_done_again(tmp_path):
    out = tmp_path / 'runs'
    process = start(out)
    deadline = time.monotonic() + 300
    while len(list(out.glob('*/*/config.json'))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    both = workers(process)
    assert len(both) == 2
    both[0].kill()
    said, wrong = process.communicate()
    assert process.returncode == 2 and '1 of 2 jobs failed' in wrong and 'Traceback' not in wrong, said + wrong
    [kept] = out.glob('*/*/metrics.json')
    before = kept.stat().st_mtime_ns
    assert not (out / 'summary.json').exists()
    again = start(out)
    said, wrong = again.communicate()
    assert again.returncode == 0 and 'report: ' in said, said + wrong
    assert kept.stat().st_mtime_ns == before, 'a finished run was done again'
    assert len(list(out.glob('*/*/metrics.json'))) == 2 and (out / 'study.html').is_file()


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    "Commands with Slurm's names; -> folder with what they were asked, and with the state that sacct tells."
    place = tmp_path / 'bin'
    place.mkdir()
    (place / 'state').write_text('RUNNING')
    scripts = dict(
        srun='exit 0',
        sbatch=f'cat "$1" >> {place}/submitted; echo Submitted batch job 77',
        sacct=f'echo "JobID|State|NodeList"; for i in 0 1; do echo "77_$i|$(cat {place}/state)|node"; done',
    )
    for name, text in scripts.items():
        (place / name).write_text(f'#!/bin/sh\n{text}\n')
        (place / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{place}{os.pathsep}{os.environ["PATH"]}')
    return place


def nothing(shard):
    pass


def test_slurm_gets_one_array_and_no_job_twice(slurm, tmp_path):
    on = ClusterSettings('slurm', 1, ('slurm_partition=gpu', 'gpus_per_node=1'))

    def arrays():
        assert submit(nothing, ['1/2', '2/2'], tmp_path / 'jobs', on) == {}
        return [line for line in (slurm / 'submitted').read_text().splitlines() if '--array' in line]

    assert arrays() == ['#SBATCH --array=0-1%1']
    text = (slurm / 'submitted').read_text()
    assert '--partition=gpu' in text and '--gpus-per-node=1' in text and '--time=1440' in text
    assert read_json(tmp_path / 'jobs' / 'jobs.json') == {'1/2': '77_0', '2/2': '77_1'}
    assert len(arrays()) == 1, 'jobs in the queue were submitted again'
    (slurm / 'state').write_text('FAILED')
    assert len(arrays()) == 2


@pytest.mark.parametrize(
    'options, said', [(('gpu',), 'give name=value'), (('slurm_colour=red',), 'check --cluster_options')]
)
def test_options_of_a_cluster_are_checked(slurm, tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        submit(nothing, ['1/1'], tmp_path / 'jobs', ClusterSettings('slurm', 1, options))
    assert not (slurm / 'submitted').exists()
