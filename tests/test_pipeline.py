"What a user can do wrong with `spurnb_run`, and what happens when it is stopped in the middle."
import json, os, shutil, signal, subprocess, sys, time

import pytest

from spurnb.core import write_json
from spurnb.data import mini_root
from spurnb.pipeline import spurnb_run


def refused(capsys, **options):
    "The one sentence that `spurnb_run` answers with; nothing else may be printed, and the exit code is 2."
    with pytest.raises(SystemExit) as stop: spurnb_run(**options)
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and said.startswith('spurnb_run: ') and '\n' not in said
    return said


@pytest.mark.parametrize('options, expected', [
    (dict(target='humingbird'), "'hummingbird'"),
    (dict(preset='mimi'), "'mini'"),
    (dict(judges='test_resnet,test_vitt'), "'test_vit'"),
    (dict(steps='0'), 'steps is 0'),
    (dict(n='-3'), 'n is -3'),
    (dict(n='many'), "--n is 'many'"),
    (dict(seeds=0), 'seeds is 0'),
    (dict(device='tpu'), "'tpu'"),
    (dict(set='stepps=3'), "'steps'"),
    (dict(settings='nowhere.json'), "no file 'nowhere.json'"),
    (dict(data='feeders'), 'as in the preset sd15'),
    (dict(preset='sd15', train='mini'), 'as in the preset sd15'),
    (dict(arms='guide'), "'guided'"),
    (dict(shard='1/2'), '--shard and --parts share out several runs'),
    (dict(target='all', shard='5/2'), "shard is '5/2'"),
    (dict(preset='study', target='koala'), 'classes of its own'),
    (dict(preset='study', parts='claims'), "'claim'"),
    (dict(preset='study', data='feeders'), 'as in the preset sd15'),
])
def test_options_are_refused_before_anything_is_written(capsys, tmp_path, options, expected):
    assert expected in refused(capsys, out=str(tmp_path/'run'), **options)
    assert not (tmp_path/'run').exists()


def test_settings_from_a_file_and_from_options(capsys, tmp_path):
    "An earlier run's settings, one of them changed; options go before `--set`'s, and these before the file's."
    write_json(tmp_path/'config.json', dict(version='0', settings=dict(target='koala', steps=7, n=9, prior=5)))
    spurnb_run(settings=str(tmp_path/'config.json'), set='n=8 prior=6', steps='4', show=True)
    said = capsys.readouterr().out.splitlines()
    for line in ('* target = koala', '* steps = 4', '* n = 8', '* prior = 6', '  seed = 0'): assert any(l.startswith(line + '  #') for l in said), line


def test_a_folder_of_something_else_is_left_alone(capsys, tmp_path):
    (tmp_path/'thesis.tex').write_text('years of work')
    for fresh in (False, True): assert 'choose another folder' in refused(capsys, out=str(tmp_path), fresh=fresh)
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']


def test_a_file_is_no_folder(capsys, tmp_path):
    (tmp_path/'run').write_text('')
    assert 'is a file' in refused(capsys, out=str(tmp_path/'run'))


def test_a_run_of_another_version_or_target(capsys, tmp_path):
    write_json(tmp_path/'config.json', dict(version='0.0.1', settings=dict(target='hummingbird', seed=0)))
    assert 'made by spurnb 0.0.1' in refused(capsys, out=str(tmp_path))
    from spurnb import __version__
    write_json(tmp_path/'config.json', dict(version=__version__, settings=dict(target='koala', seed=0)))
    assert "target 'koala'" in refused(capsys, out=str(tmp_path))
    (tmp_path/'config.json').write_text('{')
    assert 'damaged' in refused(capsys, out=str(tmp_path))


def test_a_damaged_weight_is_named(capsys, tmp_path, monkeypatch):
    shutil.copytree(mini_root(), tmp_path/'mini')
    with open(tmp_path/'mini'/'encoder.safetensors', 'r+b') as f: f.seek(5000); f.write(b'\0\1\2\3')
    monkeypatch.setenv('SPURNB_MINI', str(tmp_path/'mini'))
    said = refused(capsys, out=str(tmp_path/'run'), steps='2', n='2')
    assert 'encoder.safetensors' in said and 'damaged' in said


@pytest.mark.skipif(os.name == 'nt', reason='signals differ')
def test_stopped_in_the_middle_it_goes_on(tmp_path):
    "Ctrl-C during training: exit 130, one line, no half-written file; the next call keeps what was there and finishes."
    run = tmp_path/'run'
    command = [sys.executable, '-m', 'spurnb.pipeline', '--steps', '40', '--n', '4', '--out', str(run)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(1200):
        if (run/'prior').exists() and len(list(run.glob('prior/*/*.png'))) == 64 or started.poll() is not None: break
        time.sleep(.25)
    time.sleep(2)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=300)
    assert started.returncode == 130, err
    assert err.strip().splitlines()[-1].endswith('the same command resumes it') and 'Traceback' not in err
    assert not list(run.rglob('.part-*')) and not (run/'metrics.json').exists()
    prior = {p: p.stat().st_mtime_ns for p in run.glob('prior/*/*.png')}
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    assert {p: p.stat().st_mtime_ns for p in run.glob('prior/*/*.png')} == prior
    metrics = json.loads((run/'metrics.json').read_text())
    assert list(metrics['arms'])[:5] == ['references', 'untuned', 'prompted', 'dreambooth', 'sfsl'] and (run/'report.html').stat().st_size > 100_000
    for m in metrics['arms'].values(): assert m['spurious_rate']['low'] <= m['spurious_rate']['value'] <= m['spurious_rate']['high']
