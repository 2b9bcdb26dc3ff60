"Files under kills and concurrent writers, commands in a process of their own: what a notebook cell cannot show."
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest

from spurnb import core

root = Path(__file__).resolve().parents[1]


def start(code, *args, **kwargs):
    "Run `code` in a Python of its own, which finds this spurnb."
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'PYTHONPATH': str(root)} | kwargs.pop('env', {})
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)


half_a_file = '''
import sys, time
from spurnb.core import atomic
with atomic(sys.argv[1]) as part, open(part, 'w') as f:
    f.write('{"half": "a f')
    f.flush()
    print('half', flush=True)
    time.sleep(60)
'''


@pytest.mark.parametrize('name', ['config.json', 'picture.png'])
def test_a_writer_killed_in_the_middle_changes_nothing(tmp_path, name):
    file = tmp_path/name
    file.write_text('{"whole": true}')
    writer = start(half_a_file, file)
    assert writer.stdout.readline() == 'half\n'
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert file.read_text() == '{"whole": true}'
    assert sorted(o.name for o in tmp_path.glob(f'*{file.suffix}')) == [name] # what is left does not pass for a file
    core.write_json(file, {'next': 1})
    assert core.read_json(file) == {'next': 1}
    [left] = tmp_path.glob('.part-*')
    os.utime(left, (0, 0))
    later = start("import sys; from spurnb.core import write_json; write_json(sys.argv[1], {'later': 2})", file)
    assert later.wait() == 0
    assert os.listdir(tmp_path) == [name] # a process that starts an hour later has swept up


def test_a_first_write_that_is_killed_leaves_no_file(tmp_path):
    writer = start(half_a_file, tmp_path/'run'/'config.json')
    assert writer.stdout.readline() == 'half\n'
    writer.kill()
    writer.wait()
    assert not (tmp_path/'run'/'config.json').exists()


over_and_over = '''
import sys
from spurnb.core import atomic
letter, print_once = sys.argv[2], True
while True:
    with atomic(sys.argv[1]) as part: part.write_text(letter * 1_000_000)
    if print_once: print('going', flush=True)
    print_once = False
'''


def test_readers_see_whole_files_while_writers_compete_and_die(tmp_path):
    file = tmp_path/'big.txt'
    for round in range(3):
        writers = [start(over_and_over, file, letter) for letter in 'ab']
        for w in writers: assert w.stdout.readline() == 'going\n'
        end = time.time() + 0.3
        while time.time() < end:
            text = file.read_text()
            assert len(text) == 1_000_000 and len(set(text)) == 1
        for w in writers: w.kill()
        for w in writers: w.wait()
        text = file.read_text()
        assert len(text) == 1_000_000 and len(set(text)) == 1


def test_ctrl_c_within_atomic_leaves_nothing(tmp_path):
    writer = start(half_a_file, tmp_path/'config.json')
    assert writer.stdout.readline() == 'half\n'
    writer.send_signal(signal.SIGINT)
    writer.wait()
    assert os.listdir(tmp_path) == []


command = '''
import sys
from fastcore.script import call_parse
from spurnb.core import UserError, pick, cli_errors, positive, write_json
@call_parse
@cli_errors
def spurnb_demo(
    target:str='hummingbird', # class to look at
    n:int=8, # how many
    out:str='.', # folder to write to
):
    "Show the manners of a command."
    positive(n, '--n')
    pick(target, ['hummingbird', 'koala'], 'target')
    write_json(f'{out}/config.json', dict(target=target, n=n))
    if n == 99:
        import time
        print('waiting', flush=True)
        time.sleep(60)
    return {'not': 'a number'}
'''


@pytest.fixture
def demo(tmp_path):
    "A command as the package's modules end with one; under `python file.py` it runs where it is decorated."
    file = tmp_path/'demo.py'
    file.write_text(command)
    def run(*args): # exit code, stdout, stderr
        r = subprocess.run([sys.executable, str(file), *map(str, args)], text=True, capture_output=True, env=os.environ | {'PYTHONPATH': str(root)})
        return r.returncode, r.stdout, r.stderr
    run.file = file
    return run


def test_help_comes_from_the_comments(demo):
    code, out, err = demo('--help')
    assert (code, err) == (0, '')
    for words in 'Show the manners of a command.', 'class to look at', 'how many', 'folder to write to': assert words in out


def test_a_result_is_no_failure(demo, tmp_path):
    assert demo('--out', tmp_path/'run', '--n', 3) == (0, '', '')
    assert json.loads((tmp_path/'run'/'config.json').read_text()) == {'target': 'hummingbird', 'n': 3}


@pytest.mark.parametrize('args, words', [
    (['--target', 'koalla'], "did you mean 'koala'?"),
    (['--n', '0'], '--n is 0'),
    (['--n', '-3'], '--n is -3'),
])
def test_a_mistake_is_one_line_and_exit_code_2(demo, args, words):
    code, out, err = demo(*args)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert err.startswith('spurnb_demo: ') and words in err


def test_a_folder_that_cannot_be_made_is_one_line(demo, tmp_path):
    (tmp_path/'file').write_text('not a folder')
    code, _, err = demo('--out', tmp_path/'file')
    assert (code, err.count('\n')) == (2, 1) and 'file' in err


def test_ctrl_c_is_one_line_and_130(demo, tmp_path):
    p = subprocess.Popen([sys.executable, str(demo.file), '--n', '99', '--out', str(tmp_path/'run')], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {'PYTHONPATH': str(root)})
    assert p.stdout.readline() == 'waiting\n'
    p.send_signal(signal.SIGINT)
    _, err = p.communicate()
    assert (p.returncode, err.count('\n')) == (130, 1) and err.startswith('spurnb_demo: stopped')
    assert json.loads((tmp_path/'run'/'config.json').read_text())['n'] == 99


def test_workers_of_nbdev_test_use_one_thread(monkeypatch):
    code = 'import spurnb.core, torch; print(torch.get_num_threads())'
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    for first in '', 'import torch; ': # whichever is imported first
        out, err = start(first + code, env={'IN_TEST': '1'}).communicate()
        assert out.strip() == '1', err


def test_numbers_are_the_same_in_every_process():
    code = "from spurnb.core import *; print(settings_hash({'b': 2.5, 'a': [1]}), generator(3, 'noise', 1).initial_seed())"
    outs = {start(code, env={'PYTHONHASHSEED': str(seed)}).communicate()[0] for seed in (0, 1)}
    assert outs == {f"{core.settings_hash(dict(a=[1], b=2.5))} {core.generator(3, 'noise', 1).initial_seed()}\n"}
