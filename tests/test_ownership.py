"What belongs to somebody else is never written over or removed; what spurnb wrote is recognized by name and SHA-256."
import json, os, subprocess, sys
from pathlib import Path

import pytest
from PIL import Image

from spurnb import core
from spurnb.core import MARK, UserError, atomic, claim, discard, sha256, unchanged, unlisted, write_json
from spurnb.data import mini_root
from spurnb.pipeline import open_folder
from spurnb.run.settings import RunSettings

weights = pytest.mark.skipif(not (mini_root()/'record.json').exists(), reason="no weights")


def tree(folder):
    "Return the contents of all files in a folder."
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def write(folder, **files):
    for name, text in files.items():
        file = folder/name.replace('__', '/')
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def results(tmp_path):
    "A folder that a command has claimed, with a file and a folder that it wrote."
    folder = tmp_path/'results'
    claim(folder, 'spurnb_test')
    write_json(folder/'metrics.json', dict(rate=.5))
    with atomic(folder/'model') as part: write(part, unet__weights='w', config='c')
    return folder


def test_a_marker_says_who_wrote_what(results):
    head, *lines = map(json.loads, (results/MARK).read_text().splitlines())
    assert head == dict(command='spurnb_test', format=1)
    assert {l['file']: l['sha256'] for l in lines} == {
        f: sha256(results/f) for f in ('metrics.json', 'model/unet/weights', 'model/config')}


@pytest.mark.parametrize('name', ['report.html', 'model', 'model/notes'])
def test_somebody_elses_file_is_not_written_over(results, name):
    write(results, **{'report.html': 'mine'} if name == 'report.html' else dict(model__notes='mine'))
    before = tree(results)
    with pytest.raises(UserError, match='was not made by spurnb'):
        with atomic(results/name) as part: part.write_text('spurnb')
    assert tree(results) == before


def test_a_changed_file_is_set_aside(results, caplog):
    for i, text in enumerate(('mine', 'mine again')):
        (results/'metrics.json').write_text(text)
        write_json(results/'metrics.json', i)
    assert (results/'metrics.json.changed').read_text() == 'mine' and 'has changed since' in caplog.text
    assert (results/'metrics.json.changed1').read_text() == 'mine again'
    write_json(results/'metrics.json', 5) # nobody has changed it since
    assert not (results/'metrics.json.changed2').exists()


def test_discard_removes_what_is_listed(results, caplog):
    write(results, notes='mine', model__unet__more='mine')
    (results/'model'/'config').write_text('edited')
    discard(results)
    assert tree(results).keys() == {MARK, 'notes', 'model/unet/more', 'model/config.changed'}
    assert 'notes' in caplog.text and 'more' in caplog.text and 'config.changed' in caplog.text


def test_a_killed_write_is_still_ours(results):
    "A line is written before its file gets its place."
    line = dict(file='metrics.json', sha256='0'*64)
    with open(results/MARK, 'a') as f: f.write(json.dumps(line) + '\n')
    write_json(results/'metrics.json', 7)
    assert not unlisted(results/'metrics.json') and len(tree(results)) == 4


def test_what_a_kill_cut_short_is_nobody_s(results, caplog):
    "A file that has not got its place yet stops nothing, and an edit beside it is still seen."
    write(results, **{'model/.part-ab12/weights': 'half'})
    claim(results, 'spurnb_test', own=[results/'model'])
    with atomic(results/'model') as part: write(part, config='c2')
    assert tree(results).keys() == {MARK, 'metrics.json', 'model/config'} and not caplog.text
    write(results, **{'model/.part-ab12/weights': 'half', 'model/notes': 'mine'})
    with pytest.raises(UserError, match="notes' was not made"): claim(results, 'spurnb_test', own=[results/'model'])


@pytest.mark.parametrize('text', ['[1]', '{}', 'no JSON', '{"command": "other"}\n'])
def test_a_strange_marker(tmp_path, text):
    (tmp_path/MARK).write_text(text)
    with pytest.raises(UserError, match='choose another --out'): claim(tmp_path, 'spurnb_test')


def test_a_folder_whose_name_is_no_utf_8(tmp_path):
    "Weights cannot be saved in it, which a training would find out at its end."
    with pytest.raises(UserError, match='no name in UTF-8'): claim(tmp_path/os.fsdecode(b'gr\xf6'), 'spurnb_test')
    assert not os.listdir(tmp_path)


def test_an_empty_marker_is_of_a_killed_process(tmp_path):
    (tmp_path/MARK).write_text('')
    claim(tmp_path, 'spurnb_test')
    assert json.loads((tmp_path/MARK).read_text())['command'] == 'spurnb_test'


OTHERS = dict(
    hub=dict([('config.json', '{"model_type": "vit"}'), ('model__weights.bin', 'w'), ('images__photo.txt', 'p')]),
    list=dict([('config.json', '[1]')]),
    other=dict([('config.json', '{"command": "spurnb_run"}'), ('scores.csv', 's')]))


@pytest.mark.parametrize('what', OTHERS)
@pytest.mark.parametrize('fresh', [False, True])
def test_a_run_leaves_other_folders_alone(tmp_path, what, fresh):
    write(tmp_path, **OTHERS[what])
    before = tree(tmp_path)
    settings = RunSettings(out=str(tmp_path))
    with pytest.raises(UserError, match='did not make; choose another --out') as e: open_folder(settings, fresh)
    assert '--fresh' not in str(e.value) and tree(tmp_path) == before


def test_a_run_leaves_an_audit_alone(tmp_path):
    claim(tmp_path, 'spurnb_audit')
    write_json(tmp_path/'metrics.json', 1)
    before = tree(tmp_path)
    for fresh in (False, True):
        with pytest.raises(UserError, match='made by spurnb_audit'):
            open_folder(RunSettings(out=str(tmp_path)), fresh)
    assert tree(tmp_path) == before


def test_fresh_removes_a_run_and_keeps_what_was_added(tmp_path):
    settings = RunSettings(out=str(tmp_path))
    open_folder(settings)
    write_json(tmp_path/'metrics.json', 1)
    write(tmp_path, images__mine='photo', model__sfsl__notes='n')
    open_folder(settings, fresh=True)
    assert tree(tmp_path).keys() == {MARK, 'config.json', 'images/mine', 'model/sfsl/notes'}


@weights
def test_generate_leaves_a_table_and_images_alone(tmp_path):
    "A folder with the user's own images.csv, or an image of the name that is to be written."
    from spurnb.cli import spurnb_generate
    for name in ('images.csv', '00000.png'):
        folder = tmp_path/name.partition('.')[0]
        write(folder, **{name: 'file,label'})
        Image.new('RGB', (8, 8)).save(folder/'a.png')
        before = tree(folder)
        for fresh in ([], ['--fresh']):
            with pytest.raises(SystemExit) as stop:
                spurnb_generate(['a jet', '--n', '1', '--num_inference_steps', '2', '--out', str(folder), *fresh])
            assert stop.value.code == 2 and tree(folder) == before


def test_fewer_references_leave_no_old_ones(tmp_path):
    "Folders hold the references of the last run, and what somebody added."
    import torch
    from spurnb.data import References
    from spurnb.run.material import _save_references
    claim(tmp_path, 'spurnb_run')
    def save(n, held_out):
        images = torch.rand(n + held_out, 3, 8, 8)
        _save_references(References(images[:n], images[n:], [str(i) for i in range(n)], 'here'), tmp_path)
    save(6, 5)
    write(tmp_path, references__mine='photo')
    save(3, 2)
    names = {f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob('*') if f.is_file() and f.name != MARK}
    assert names == {*(f'references/00{i}.png' for i in range(3)), 'references/mine',
                     'images/references/00000.png', 'images/references/00001.png'}


def test_the_same_fine_tuning_again(tmp_path):
    "Prior images, states and model are its own: a second call goes on, also with other references."
    from spurnb.finetune import finetune_target
    from spurnb.train.settings import TrainSettings

    small = TrainSettings(max_train_steps=1, num_class_images=1, train_batch_size=1, prior_batch_size=1, sfsl_weight=0.)
    def tune(**more): return finetune_target('fireboat', train=small, device='cpu', out=tmp_path/'out', **more)
    tune()
    [states] = (tmp_path/'out'/'checkpoints').iterdir()
    write(states, **{'.part-ab12/step-000001.safetensors': 'half'}) # as a kill leaves it
    before = {f: f.stat().st_mtime_ns for f in (tmp_path/'out'/'prior').rglob('*.png')}
    assert len(before) == 1 and tune().folder.is_dir()
    tune(seed=1)
    assert before == {f: f.stat().st_mtime_ns for f in before}


def meanwhile(monkeypatch, act):
    "Let another process do something just before the next file is hashed."
    todo = [act]
    def late(what):
        if todo and not isinstance(what, bytes): todo.pop()()
        return sha256(what)
    monkeypatch.setattr(core, 'sha256', late)


def put(path, text):
    "Replace a file as another process does: first the line, then the file."
    line = dict(file=path.name, sha256=sha256(text.encode()))
    with open(path.parent/MARK, 'a') as f: f.write(json.dumps(line) + '\n')
    path.write_text(text)


@pytest.mark.parametrize('act', [lambda f: put(f, 'theirs'), lambda f: f.unlink()], ids=['replaced', 'removed'])
def test_another_process_changes_a_file_while_it_is_hashed(results, monkeypatch, caplog, act):
    "What spurnb wrote in another process is no change by somebody else."
    meanwhile(monkeypatch, lambda: act(results/'metrics.json'))
    discard(results/'metrics.json')
    assert not list(results.glob('metrics*')) and not caplog.text


def test_two_commands_claim_a_folder_at_once(tmp_path, monkeypatch):
    "Lines that the other process has written meanwhile are kept."
    def other(folder, **how):
        os.mkdir(folder)
        (folder/MARK).write_text('{"command": "spurnb_test"}\n')
        put(folder/'images.csv', 'theirs')
    monkeypatch.setattr(Path, 'mkdir', other)
    claim(tmp_path/'r', 'spurnb_test', empty=False)
    assert not unlisted(tmp_path/'r'/'images.csv')


folders_over_and_over = '''
import logging, os, sys
from spurnb.core import atomic, claim
logging.basicConfig()
claim(sys.argv[1], 'spurnb_test', empty=False)
print('going', flush=True)
sys.stdin.readline()
for i in range(200):
    with atomic(f'{sys.argv[1]}/model') as part:
        part.mkdir()
        for name in ('unet', 'vae'): (part/name).write_bytes(os.urandom(5000))
'''


def test_two_processes_replace_one_folder(tmp_path):
    "Neither fails, and neither takes the other's folder for one that somebody has changed."
    env = dict(os.environ, PYTHONPATH=str(Path(core.__file__).parents[1]))
    started = [subprocess.Popen([sys.executable, '-c', folders_over_and_over, str(tmp_path/'r')], env=env, text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in '12']
    for p in started: assert p.stdout.readline() == 'going\n'
    for p in started: p.stdin.write('\n')
    for p in started: p.stdin.flush()
    for p in started: assert p.communicate()[1] == '' and p.returncode == 0
    assert sorted(os.listdir(tmp_path/'r')) == [MARK, 'model']
    assert unchanged(tmp_path/'r'/'model') and len(os.listdir(tmp_path/'r'/'model')) == 2
