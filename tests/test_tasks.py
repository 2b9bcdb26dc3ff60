"""Tasks in forks: what they say reaches the parent, and none outlives it."""
import hashlib, logging, os, signal, subprocess, sys, time
from pathlib import Path

import pytest

from spurnb.core import UserError, track
from spurnb.run.tasks import Tasks, can_fork

pytestmark = pytest.mark.skipif(not can_fork(), reason='forks need Linux and a CPU')
SMALL = '''--seed 3 --references.held_out 8 --components.n_class_images 24 --components.n_other_images 8
    --components.picture_steps 2 --train.checkpointing_steps 5 --train.num_class_images 8 --generate.n 4
    --generate.num_inference_steps 2 --audit.judges test_resnet'''.split()


def command(out, steps, *options):
    return [sys.executable, '-m', 'spurnb.cli', 'run', *SMALL, '--out', str(out), '--train.max_train_steps', str(steps),
            *options]


def threads(n): return dict(os.environ, OMP_NUM_THREADS=str(n), IN_TEST='')


def hashes(out, *patterns):
    files = sorted(f for p in patterns for f in out.glob(p))
    assert files
    return {f.relative_to(out).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def forks(pid):
    "Return the process ids of a process's children."
    return [int(p) for p in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


def alive(pid):
    "Is this a process that is no zombie?"
    try: return ') Z ' not in Path(f'/proc/{pid}/stat').read_text()
    except OSError: return False


def until(found, seconds=300):
    "Return what `found` finds, as soon as it does."
    end = time.time() + seconds
    while time.time() < end:
        if value := found(): return value
        time.sleep(.05)
    raise TimeoutError


def test_side_by_side_and_alone_give_the_same_bytes(tmp_path):
    for n in (1, 3): subprocess.run(command(tmp_path/str(n), 3), env=threads(n), check=True, capture_output=True)
    kinds = 'images/*/*.png', 'prior/*/*.png', 'model/*/*/*.safetensors', 'pca.safetensors', 'components.json'
    assert hashes(tmp_path/'1', *kinds) == hashes(tmp_path/'3', *kinds)


def test_ctrl_c_reaches_the_trainings_and_the_same_command_goes_on(tmp_path):
    out = tmp_path/'run'
    started = subprocess.Popen(command(out, 4000), env=threads(3), stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    until(lambda: all(list(out.glob(f'checkpoints/{arm}/step-*')) for arm in ('sfsl', 'dreambooth')))
    working = forks(started.pid)
    assert len(working) >= 2
    states = {arm: {f.name for f in out.glob(f'checkpoints/{arm}/step-*')} for arm in ('sfsl', 'dreambooth')}
    os.killpg(started.pid, signal.SIGINT) # as a terminal does
    err = started.communicate(timeout=120)[1]
    assert started.returncode == 130, err
    assert 'Traceback' not in err and not any(alive(pid) for pid in working)
    for arm in ('sfsl', 'dreambooth'): # the step that Ctrl-C came in was saved
        assert {f.name for f in out.glob(f'checkpoints/{arm}/step-*')} - states[arm]
    assert not list(out.rglob('.part-*'))


def test_forks_end_with_a_parent_that_is_killed(tmp_path):
    out = tmp_path/'run'
    started = subprocess.Popen(command(out, 4000), env=threads(3), stderr=subprocess.DEVNULL)
    until(lambda: list(out.glob('checkpoints/sfsl/step-*')))
    working = forks(started.pid)
    started.kill()
    started.wait()
    assert working
    until(lambda: not any(alive(pid) for pid in working), 20)


BUSY = '''
import ctypes, os
from spurnb.run.tasks import Tasks
def work(stage):
    print(os.getpid(), flush=True)
    ctypes.PyDLL(None).sleep(60) # does not let other threads run
    yield 'never', 1
with Tasks(2) as tasks:
    tasks.add('busy', work)
    tasks.wait()
'''


def test_a_fork_that_computes_ends_with_its_parent():
    started = subprocess.Popen([sys.executable, '-c', BUSY], stdout=subprocess.PIPE, text=True)
    fork = int(started.stdout.readline())
    time.sleep(1)
    started.kill()
    started.wait()
    until(lambda: not alive(fork), 5)


def test_bars_and_warnings_of_a_fork_are_shown_by_the_parent(capsys, caplog):
    def work(stage):
        logging.getLogger('spurnb').warning('the %s is thin', 'ice')
        for _ in track(range(25), 'skating'): time.sleep(.1)
        yield 'pid', os.getpid()

    with Tasks(2) as tasks, caplog.at_level('WARNING', 'spurnb'):
        tasks.add('skater', work)
        assert tasks.wait()['pid'] != os.getpid()
    assert 'the ice is thin' in caplog.text
    assert 'skating' in capsys.readouterr().err


def test_a_stage_is_told_with_its_task_and_ends_with_it():
    told = []

    def work(stage):
        stage('images', 'untuned')
        yield 'done', True

    with Tasks(2, lambda *what, who: told.append((*what, who))) as tasks:
        tasks.add('base', work)
        tasks.wait()
    assert told == [('images', 'untuned', 'base'), ('base',)]


class Odd(Exception):
    "An exception that cannot be made again from its arguments."
    def __init__(self, a, b): super().__init__(f'{a} and {b}')


@pytest.mark.parametrize('error, kind, said', [
    (UserError('lower the rate.'), UserError, 'lower the rate.'), (Odd(1, 2), RuntimeError, 'Odd: 1 and 2')])
def test_errors_come_back(error, kind, said):
    def work(stage):
        yield 'one', 1
        raise error

    with pytest.raises(kind) as raised, Tasks(2) as tasks:
        tasks.add('bad', work)
        tasks.wait()
    assert str(raised.value) == said
    assert hasattr(raised.value, '__notes__') == (kind is not UserError)


def test_a_result_of_any_size_does_not_hold_a_fork_up(tmp_path):
    def work(stage):
        yield 'large', bytes(10**7)
        (tmp_path/'went on').touch()

    with Tasks(2) as tasks:
        tasks.add('large', work)
        until(lambda: (tmp_path/'went on').exists(), 60)
        assert len(tasks.wait()['large']) == 10**7
