"Core: files under kills and concurrent writers, commands in their own process, and tables of edge cases."
import contextlib, errno, inspect, io, json, math, os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

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


@pytest.mark.parametrize('name', ['config.json', 'image.png'])
def test_a_writer_killed_in_the_middle_changes_nothing(tmp_path, name):
    file = tmp_path/name
    file.write_text('{"whole": true}')
    writer = start(half_a_file, file)
    assert writer.stdout.readline() == 'half\n'
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert file.read_text() == '{"whole": true}'
    assert sorted(o.name for o in tmp_path.glob(f'*{file.suffix}')) == [name] # the leftover does not match
    assert len(os.listdir(tmp_path)) == 2
    core.write_json(file, {'next': 1})
    assert core.read_json(file) == {'next': 1}
    assert os.listdir(tmp_path) == [name] # and the next writer has swept up


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
import sys, time, tyro
from spurnb.core import UserError, pick, cli_errors, positive, write_json

@cli_errors
def spurnb_demo(target:str='hummingbird', n:int=8, out:str='.'):
    "Show how a command behaves."
    positive(n, '--n')
    pick(target, ['hummingbird', 'koala'], 'target')
    write_json(f'{out}/config.json', dict(target=target, n=n))
    if n == 99:
        print('waiting', flush=True)
        time.sleep(60)
    return {'not': 'a number'}

sys.exit(tyro.cli(spurnb_demo))
'''


@pytest.fixture
def demo(tmp_path):
    "A command in a process of its own."
    file = tmp_path/'demo.py'
    file.write_text(command)
    env = os.environ | {'PYTHONPATH': str(root)}
    def run(*args): # exit code, stdout, stderr
        r = subprocess.run([sys.executable, str(file), *map(str, args)], text=True, capture_output=True, env=env)
        return r.returncode, r.stdout, r.stderr
    run.file = file
    return run


def test_the_signature_is_kept_for_help(demo):
    def f(target:str='koala', n:int=8): "Count."
    assert inspect.signature(core.cli_errors(f)) == inspect.signature(f)
    code, out, err = demo('--help')
    assert (code, err) == (0, '') and 'Show how a command behaves.' in out


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


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_is_one_line_and_130(demo, tmp_path, how):
    "And so is what a cluster sends at the end of the time."
    p = subprocess.Popen([sys.executable, str(demo.file), '--n', '99', '--out', str(tmp_path/'run')], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         env=os.environ | {'PYTHONPATH': str(root)})
    assert p.stdout.readline() == 'waiting\n'
    p.send_signal(how)
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
    code = ("from spurnb.core import *; "
            "print(settings_hash({'b': 2.5, 'a': [1]}), generator(3, 'noise', 1).initial_seed())")
    outs = {start(code, env={'PYTHONHASHSEED': str(seed)}).communicate()[0] for seed in (0, 1)}
    assert outs == {f"{core.settings_hash(dict(a=[1], b=2.5))} {core.generator(3, 'noise', 1).initial_seed()}\n"}


def complaint(f, *args, **kwargs):
    "Return the message of the `UserError` that `f` raises, or None."
    try: f(*args, **kwargs)
    except core.UserError as e: return str(e)


targets = ['hummingbird', 'koala', 'tench', 'freight car']
models = [f'resnet{n}' for n in range(1000)]

@pytest.mark.parametrize('call, expected', [
    (lambda: core.pick('Humming Bird', targets, 'target'), "no target 'Humming Bird'; did you mean 'hummingbird'?"),
    (lambda: core.pick('freight_car', targets), "did you mean 'freight car'?"),
    (lambda: core.pick('feeder', models, 'classifier'),
     "no classifier 'feeder'; give one of the 1000, such as resnet0, resnet1, resnet2, resnet3, resnet4."),
    (lambda: core.pick('resnet', models, 'classifier'), "? There are 1000, such as resnet0, resnet1, resnet2"),
    (lambda: core.pick('tabby', targets, 'target'),
     "there is no target 'tabby'; give one of hummingbird, koala, tench, freight car."),
    *((lambda bad=bad: core.positive(bad, '--n'), f'--n is {bad!r}; give a number above zero.')
      for bad in (0, -1, math.nan, math.inf, True, '64')),
    (lambda: core.get_device('tpu'), "device 'tpu' is not available"),
    (lambda: core.cap_threads(0), 'the number of threads is 0'),
    *((lambda bad=bad: core.share(range(8), bad), f'shard is {bad!r}') for bad in ('3/2', '0/2', 'half')),
    (lambda: core.read_json('nowhere.json'), 'there is no file'),
    (lambda: core.load_png('nowhere.png'), 'there is no image'),
    (lambda: core.to_tensor([]), 'there are no images'),
    (lambda: core.to_tensor([Image.new('RGB', (64, 64)), Image.new('RGB', (48, 48))]), 'differ in size'),
    (lambda: core.image_grid([]), 'put in a grid'),
    (lambda: core.show_images([]), 'images to show'),
])
def test_user_errors(call, expected):
    assert expected in complaint(call)


def raises(error):
    "Return a command that raises `error`."
    @core.cli_errors
    def command(): raise error
    return command


@pytest.mark.parametrize('error, code, expected', [
    (core.UserError('there is no x; give y.'), 2, 'command: there is no x; give y.'),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'runs/birds'), 2, "cannot use 'runs/birds': No space left"),
    (SafetensorError('I/O error: No space left on device (os error 28)'), 2, 'no space left on device; free some'),
    (KeyboardInterrupt(), 130, 'command: stopped'),
])
def test_exit_codes(error, code, expected):
    with contextlib.redirect_stderr(io.StringIO()) as err, pytest.raises(SystemExit) as left:
        raises(error)()
    assert left.value.code == code and expected in err.getvalue() and err.getvalue().count('\n') == 1


def test_devices():
    assert core.get_device('cpu') == 'cpu' and core.get_device() in ('cuda', 'mps', 'cpu')


@pytest.mark.parametrize('torch_version, vision_version, expected', [
    ('2.9.0+cpu', '0.24.0+cu130', "torch is built for 'cpu' and torchvision for 'cu13'"),
    ('2.9.0+cu128', '0.24.0+cu126', None), # the same major version of CUDA works
    ('2.9.0', '0.24.0+cpu', None), # a build that does not say
])
def test_mismatched_builds(tmp_path, monkeypatch, torch_version, vision_version, expected):
    for name, version in ('torch', torch_version), ('torchvision', vision_version):
        (tmp_path/name).mkdir()
        (tmp_path/name/'__init__.py').write_text('')
        (tmp_path/name/'version.py').write_text(f"__version__ = '{version}'\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    found = complaint(core.check_torch)
    assert found is None if expected is None else expected in found


def test_settings_have_the_same_name_everywhere():
    assert core.settings_hash({'a': 1}) == '015abd7f5cc5'
    assert core.settings_hash({'a': np.float64(1e-4)}) == core.settings_hash({'a': 1e-4})


def test_keyed_streams_are_independent():
    "With 4,096 numbers a stream, independent streams correlate by about 1/64."
    assert core.generator(0, 'noise', np.int64(17)).initial_seed() == core.generator(0, 'noise', 17).initial_seed()
    keys = [(seed, i) for seed in range(4) for i in range(16)]
    streams = torch.stack([torch.randn(4096, generator=core.generator(s, 'noise', i)) for s, i in keys])
    others = torch.corrcoef(streams).fill_diagonal_(0)
    assert abs(others.std().item()*64 - 1) < 0.1 and others.abs().max() < 6/64


def test_a_writer_that_writes_nothing_changes_nothing(tmp_path):
    (tmp_path/'model').mkdir()
    (tmp_path/'model'/'unet').write_text('old')
    with pytest.raises(OSError), core.atomic(tmp_path/'model'): pass
    assert (tmp_path/'model'/'unet').read_text() == 'old'


@pytest.mark.skipif(not core._place(), reason='only Linux names the space of process ids')
def test_what_a_living_process_writes_is_not_swept(tmp_path):
    writer = start(half_a_file, tmp_path/'config.json')
    assert writer.stdout.readline() == 'half\n'
    core.write_json(tmp_path/'other.json', 1)
    assert len(list(tmp_path.glob('.part-*'))) == 1
    writer.kill()
    writer.wait()


@pytest.mark.parametrize('name', ['.part-left', f'.part-elsewhere-{2**22}-abcdefgh'])
def test_only_old_leftovers_of_other_machines_are_swept(tmp_path, monkeypatch, name):
    left = tmp_path/name
    left.mkdir()
    monkeypatch.setattr(core, '_swept', set())
    core._sweep(tmp_path)
    assert left.exists()
    os.utime(left, (0, 0))
    core._sweep(tmp_path) # once a process
    assert left.exists()
    core._swept.clear()
    core._sweep(tmp_path)
    assert not left.exists()


def test_sha256_of_files_and_bytes(tmp_path):
    (tmp_path/'abc').write_bytes(b'abc') # the example in FIPS 180-4
    expected = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    assert core.sha256(tmp_path/'abc') == core.sha256(b'abc') == expected


def noise_images(n, size=64):
    "Return `n` images of random pixels."
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(n)]


def test_images_survive_the_round_trip():
    images = noise_images(4)
    x = core.to_tensor(images)
    assert [i.tobytes() for i in core.to_pil(x)] == [i.tobytes() for i in images]
    assert core.to_pil(x[0]*2 - 0.5)[0].getextrema() == ((0, 255),)*3 # clipped, not wrapped around


def test_a_grid_holds_its_images_untouched():
    images = noise_images(12)
    grid = core.image_grid(images, cols=6)
    assert grid.crop((3*66, 66, 3*66 + 64, 66 + 64)).tobytes() == images[9].tobytes()
    assert core.image_grid(core.to_tensor(images), cols=6).tobytes() == grid.tobytes()
    assert core.image_grid([np.asarray(i) for i in images], cols=6).tobytes() == grid.tobytes()


def test_a_png_saved_twice_has_the_same_bytes_and_half_of_it_is_recognized(tmp_path):
    [image] = noise_images(1)
    file, text = tmp_path/'0.png', dict(prompt='a photo of a red feeder, cliché', seed=17, size=(64, 64))
    core.save_png(file, core.to_tensor([image])[0], **text)
    whole = file.read_bytes()
    read, found = core.load_png(file)
    assert read.tobytes() == image.tobytes() and found['prompt'] == text['prompt'] and found['size'] == '[64, 64]'
    core.save_png(file, image, **text | dict(size=[64, 64]))
    assert file.read_bytes() == whole
    file.write_bytes(whole[:len(whole)//2])
    assert 'damaged' in complaint(core.load_png, file)


def test_short_work_has_no_progress_bar():
    with contextlib.redirect_stderr(io.StringIO()) as err: assert list(core.track('abc', 'reading')) == ['a', 'b', 'c']
    assert err.getvalue() == ''


def test_a_closed_pipe_is_no_traceback():
    "`command | head` ends with 128 + SIGPIPE and says nothing."
    code = "from spurnb.core import cli_errors\ncli_errors(lambda: print('x\\n'*100000))()"
    with subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        p.stdout.readline()
        p.stdout.close()
        said = p.stderr.read()
    assert (p.returncode, said) == (141, b'')


ENDS = dict(
    mistake=('raise UserError("3 is too much")', 2, '3 is too much'),
    bug=('return dict()["w"]', 4, "a bug: KeyError: 'w'; please report it at https://github.com/spurnb/spurnb/issues"),
    empty_message=('raise RuntimeError', 4, 'a bug: RuntimeError; please report'),
    our_line=('core.sha256(3.5)', 4, 'a bug at core.py:'),
    interrupted=('raise KeyboardInterrupt', 130, 'the same command resumes'),
    full=('raise RuntimeError("No space left on device (os error 28)")', 2, 'free some space'),
    permission=('raise PermissionError(errno.EACCES, "Permission denied", "a.png")', 2, "'a.png': Permission denied"),
    gone=('open("nowhere.json")', 2, "cannot use 'nowhere.json': No such file or directory; check the name"),
    memory=('raise RuntimeError("CUDA out of memory. Tried\\nmore")', 2, 'not enough memory'),
    two_lines=('raise UserError("one\\ntwo")', 2, 'one two'))


@pytest.mark.parametrize('name', ENDS)
@pytest.mark.parametrize('debug', [False, True])
def test_every_end_of_a_command(name, debug, monkeypatch, capsys):
    "One line and its exit code; a traceback only with --debug."
    body, code, words = ENDS[name]
    scope = dict(core=core, errno=errno, UserError=core.UserError)
    exec(f'def spurnb_demo():\n    {body}', scope)
    monkeypatch.setenv('SPURNB_DEBUG', '1' if debug else '')
    with pytest.raises(SystemExit) as stop: core.cli_errors(scope['spurnb_demo'])()
    said = capsys.readouterr().err
    line = said.splitlines()[-1]
    assert stop.value.code == code and line.startswith('spurnb_demo: ') and words in line
    assert ('Traceback' in said) == debug and (debug or said.count('\n') == 1)
    assert 'room' not in line and ('free' in line) == (name == 'full')


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('error', [ImportError('initialization failed'), core.UserError('cannot get the weights')])
def test_ctrl_c_that_a_library_turns_into_an_error(error, how, capsys):
    "As Python does while it imports an extension, and as we do with any error of a model that is loaded."
    @core.cli_errors
    def spurnb_demo():
        try:
            os.kill(os.getpid(), how)
            time.sleep(5)
        except KeyboardInterrupt: raise error from None
    before = signal.getsignal(how)
    with pytest.raises(SystemExit) as stop: spurnb_demo()
    assert stop.value.code == 130 and capsys.readouterr().err.startswith('spurnb_demo: stopped; finished work is kept')
    assert signal.getsignal(how) is before


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_a_destructor_is_not_lost(how, capsys):
    "Python drops it and shows a traceback; here it comes once more."
    class Slow:
        def __del__(self): signal.raise_signal(how)
    @core.cli_errors
    def spurnb_demo():
        Slow()
        for _ in range(100): time.sleep(.05)
    before = sys.unraisablehook
    with pytest.raises(SystemExit) as stop: spurnb_demo()
    assert stop.value.code == 130 and sys.unraisablehook is before
    assert capsys.readouterr().err == 'spurnb_demo: stopped; finished work is kept, and the same command resumes it\n'


@pytest.mark.parametrize('mine', [signal.SIG_IGN, lambda number, frame: None])
def test_a_signal_that_is_already_handled_stays_so(mine):
    before, seen = signal.signal(signal.SIGINT, mine), []
    try:
        core.cli_errors(lambda: seen.append(signal.getsignal(signal.SIGINT)))()
        assert seen == [mine] and signal.getsignal(signal.SIGINT) is mine
    finally: signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize('encoding', ['ascii', 'cp1252'])
def test_a_terminal_that_cannot_show_a_name(encoding, tmp_path):
    "Finished work is never lost because of a character."
    code = "from spurnb.core import cli_errors\ncli_errors(lambda: print('Zaunkönig 鳥.png'))()\nprint('end')"
    p = subprocess.run([sys.executable, '-c', code], capture_output=True,
                       env=os.environ | dict(PYTHONPATH=str(root), PYTHONIOENCODING=encoding))
    assert p.returncode == 0 and p.stdout.endswith(b'end\n') and not p.stderr


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le'])
def test_text_as_windows_programs_save_it(tmp_path, encoding):
    mark = '\ufeff' if encoding == 'utf-16-le' else ''
    (tmp_path/'names.json').write_text(mark + '{"name": "Vögel"}', encoding=encoding)
    assert core.read_json(tmp_path/'names.json') == {'name': 'Vögel'}


@pytest.mark.parametrize('data', ['Vögel'.encode('latin-1'), b'\xff\xfe\x00', bytes(range(256))])
def test_text_in_other_encodings_is_refused(tmp_path, data):
    (tmp_path/'names').write_bytes(data)
    with pytest.raises(core.UserError, match='is not text in UTF-8'): core.read_text(tmp_path/'names')
    with pytest.raises(core.UserError, match='is not JSON'): core.read_json(tmp_path/'names')


def test_json_nested_too_deeply_is_refused(tmp_path):
    (tmp_path/'deep.json').write_text('['*100_000)
    with pytest.raises(core.UserError, match='is not JSON'): core.read_json(tmp_path/'deep.json')


def test_json_with_the_name_of_a_file_that_is_no_utf_8(tmp_path):
    name = os.fsdecode(b'b\xf6cher')
    core.write_json(tmp_path/'a.json', {name: 'ö'})
    assert core.read_json(tmp_path/'a.json') == {name: 'ö'}


def test_two_modules_of_one_name_are_not_mixed_up(tmp_path):
    for folder in 'ab':
        (tmp_path/folder).mkdir()
        (tmp_path/folder/'net_of_two.py').write_text(f'who = {folder!r}')
    first = core.import_own(str(tmp_path/'a'/'net_of_two.py'))
    assert first.who == 'a' and core.import_own(str(tmp_path/'a'/'net_of_two.py')) is first
    with pytest.raises(core.UserError, match="'net_of_two' is already loaded from .*rename the file"):
        core.import_own(str(tmp_path/'b'/'net_of_two.py'))
