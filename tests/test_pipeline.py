"What a user can do wrong with `spurnb_run`, and what happens when it is stopped in the middle."
import json, os, shutil, subprocess, sys, time

import pytest
from signals import interrupted

from spurnb import pipeline
from spurnb.cli import spurnb_run, spurnb_world
from spurnb.core import claim, settings_hash, write_json
from spurnb.data import mini_record, mini_root
from spurnb.pipeline import Stages, run
from spurnb.run.settings import settings_for


def refused(capsys, *options):
    "The one sentence that `spurnb_run` answers with; nothing else may be printed, and the exit code is 2."
    with pytest.raises(SystemExit) as stop: spurnb_run(options)
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and said.startswith('spurnb_run: ') and '\n' not in said
    return said


@pytest.mark.parametrize('options, expected', [
    ('--target humingbird', "'hummingbird'"),
    ('--target wombat', "'wombat' is a class, but no target"),
    ('--preset mimi', "'mini'"),
    ('--audit.judges test_resnet test_vitt', "'test_vit'"),
    ('--train.max_train_steps 0', 'max_train_steps is 0'),
    ('--generate.n -3', 'n is -3'),
    ('--seeds 0', 'seeds is 0'),
    ('--device tpu', "'tpu'"),
    ('--settings nowhere.json', "no file 'nowhere.json'"),
    ('--data feeders', 'as preset sd15 does'),
    ('--preset sd15 --class_images mini', 'as preset sd15 does'),
    ('--arms guide', "'guided'"),
    ('--arms guided --sfsl.features phi --sfsl.distance cosine --sfsl.reference image', 'the guided arm needs alpha'),
    ('--sfsl.distance cosine', 'also give --sfsl.features phi --sfsl.reference image.'),
    ('--sfsl.features psi', 'also give --sfsl.distance cosine --sfsl.reference image.'),
    ('--target tabby', "no target 'tabby'; give one of hummingbird, koala, tench"),
    ('--audit.detector clip:x', 'give validation_images'),
    ('--audit.tables csv pdf', "'pdf'"),
    ('--shard 1/2', '--shard needs several runs'),
    ('--target all --shard 5/2', "shard is '5/2'"),
    ('--references.select spurious', 'selectors go together'),
    ('--select spurious --selectors test_vit --audit.judges test_vit', 'selects references and judges'),
])
def test_options_are_refused_before_anything_is_written(capsys, tmp_path, options, expected):
    assert expected in refused(capsys, '--out', tmp_path/'run', *options.split())
    assert not (tmp_path/'run').exists()


@pytest.mark.parametrize('options, expected', [
    ('--target koala', 'its own classes'), ('--parts claims', "'claim'"), ('--data feeders', 'as preset sd15 does'),
    ('--shard 3/2', "shard is '3/2'"), ('--seeds 0', 'seeds is 0')])
def test_the_study_refuses(capsys, tmp_path, options, expected):
    with pytest.raises(SystemExit) as stop: spurnb_world(['study', '--out', tmp_path/'study', *options.split()])
    assert stop.value.code == 2 and expected in capsys.readouterr().err and not (tmp_path/'study').exists()


def test_settings_from_a_file_and_from_options(capsys, tmp_path):
    "An earlier run's settings, some of them changed; options win over the file."
    settings = dict(target='koala', generate=dict(n=9), train=dict(max_train_steps=7, num_class_images=5))
    write_json(tmp_path/'config.json', dict(version='0', settings=settings))
    spurnb_run(['--settings', tmp_path/'config.json', '--train.max_train_steps', 4, '--show'])
    said = capsys.readouterr().out.splitlines()
    for line in ('* --target koala', '* --train.max_train_steps 4', '* --generate.n 9', '* --train.num_class_images 5'):
        assert any(l.startswith(line + '  #') for l in said), line
    assert any(l.startswith('  --seed 0  #') for l in said)


@pytest.mark.parametrize('found, expected', [
    (dict(train=dict(max_train_steps='400')), "train.max_train_steps is '400'; give a whole number"),
    (dict(train=dict(max_train_steps=4.5)), 'give a whole number'),
    (dict(train=dict(use_dora=1)), 'give true or false'),
    (dict(stepps=3), "'stepps'"), (dict(train=dict(steps=3)), "'train.steps'"), (dict(arms='guided'), 'give a list'),
    ([3], 'holds no settings')])
def test_a_file_with_wrong_settings(capsys, tmp_path, found, expected):
    write_json(tmp_path/'mine.json', found)
    assert expected in refused(capsys, '--settings', tmp_path/'mine.json')


def test_a_folder_of_something_else_is_left_alone(capsys, tmp_path):
    (tmp_path/'thesis.tex').write_text('years of work')
    for fresh in ([], ['--fresh']): assert 'choose another --out' in refused(capsys, '--out', tmp_path, *fresh)
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']


def test_a_file_is_no_folder(capsys, tmp_path):
    (tmp_path/'run').write_text('')
    assert 'is a file' in refused(capsys, '--out', tmp_path/'run')


def test_a_run_of_another_version_or_target(capsys, tmp_path):
    claim(tmp_path, 'spurnb_run')
    write_json(tmp_path/'config.json', dict(version='0.0.1', settings=dict(target='fireboat', seed=0)))
    assert 'made by spurnb 0.0.1' in refused(capsys, '--out', tmp_path)
    from spurnb import __version__
    ours = dict(version=__version__, settings=dict(target='koala', seed=0))
    write_json(tmp_path/'config.json', ours | dict(world='0123456789ab'))
    assert 'made in another embedded world' in refused(capsys, '--out', tmp_path)
    write_json(tmp_path/'config.json', ours | dict(world=settings_hash(mini_record()['files'])))
    assert "target 'koala'" in refused(capsys, '--out', tmp_path)
    for text in ('{', '[1]', 'null', '{"settings": 3}'):
        (tmp_path/'config.json').write_text(text)
        assert 'damaged' in refused(capsys, '--out', tmp_path)


def test_a_damaged_weight_is_named(capsys, tmp_path, monkeypatch):
    shutil.copytree(mini_root(), tmp_path/'mini')
    with open(tmp_path/'mini'/'encoder.safetensors', 'r+b') as f:
        f.seek(5000)
        f.write(b'\0\1\2\3')
    monkeypatch.setenv('SPURNB_MINI', str(tmp_path/'mini'))
    said = refused(capsys, '--out', tmp_path/'run', '--max_train_steps', 2, '--generate.n', 2)
    assert 'encoder.safetensors' in said and 'damaged' in said


@pytest.mark.skipif(os.name == 'nt', reason='signals differ')
def test_stopped_in_the_middle_it_goes_on(tmp_path):
    "Ctrl-C during training: exit 130, one line, no half-written file; the next call keeps what was there and finishes."
    run = tmp_path/'run'
    size = '--train.max_train_steps', '40', '--generate.n', '4'
    command = [sys.executable, '-m', 'spurnb.cli', 'run', *size, '--out', str(run)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(1200):
        if len(list(run.glob('prior/*/*.png'))) == 64 or started.poll() is not None: break
        time.sleep(.25)
    time.sleep(2)
    err = interrupted(started)
    assert started.returncode == 130, err
    assert err.strip().splitlines()[-1].endswith('the same command resumes it') and 'Traceback' not in err
    assert not list(run.rglob('.part-*')) and not (run/'metrics.json').exists()
    prior = {p: p.stat().st_mtime_ns for p in run.glob('prior/*/*.png')}
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    assert {p: p.stat().st_mtime_ns for p in run.glob('prior/*/*.png')} == prior
    metrics = json.loads((run/'metrics.json').read_text())
    assert list(metrics['arms'])[:5] == ['references', 'untuned', 'prompted', 'dreambooth', 'sfsl']
    assert (run/'report.html').stat().st_size > 100_000
    for m in metrics['arms'].values():
        rate = m['spurious_rate']
        assert rate['low'] <= rate['value'] <= rate['high']


def test_the_progress_line_of_a_run_ends_at_its_end():
    with Stages(15) as stage:
        for kind in ('features', 'audit', 'report'): stage(kind)
    assert stage.bar.n == stage.bar.total
    with pytest.raises(OSError), Stages(15) as stage:
        stage('features')
        raise OSError
    assert stage.bar.n == 0


def test_a_finished_run_answers_from_its_files_until_one_of_them_changes(tmp_path, monkeypatch):
    small = settings_for(
        'mini', out=tmp_path/'run', device='cpu', references=dict(held_out=8), audit=dict(judges=('test_resnet',)),
        components=dict(n_class_images=24, n_other_images=8, picture_steps=2),
        train=dict(max_train_steps=2, num_class_images=4, prior_batch_size=2),
        generate=dict(n=2, num_inference_steps=2))
    first = run(small)

    def nothing(settings): raise AssertionError('the run begins again')

    monkeypatch.setattr(pipeline, 'mini_material', nothing)
    assert run(small) == json.loads(json.dumps(first))
    (tmp_path/'run'/'images'/'sfsl'/'00001.png').unlink()
    with pytest.raises(AssertionError, match='begins again'): run(small)
    monkeypatch.undo()
    assert run(small)['arms'] == first['arms']
    monkeypatch.setattr(pipeline, 'mini_material', nothing)
    assert run(small)['arms'] == first['arms']
    with pytest.raises(AssertionError, match='begins again'): run(small, only=('untuned',))


def test_a_run_of_other_settings_has_not_ended(tmp_path):
    settings = settings_for('mini', target='koala', out=str(tmp_path))
    assert not pipeline.has_ended(settings)
    write_json(tmp_path/'metrics.json', {})
    write_json(tmp_path/'config.json', dict(settings=pipeline.recorded(settings)))
    assert pipeline.has_ended(settings)
    assert not pipeline.has_ended(settings_for('mini', target='koala', seed=1, out=str(tmp_path)))


@pytest.mark.parametrize('options, said', [
    (['--references.held_out', 10, '--validation_images', 'mini', '--audit.detector', 'clip:nobody/clip'],
     'give references.held_out 20 or more'),
    (['--audit.space', 'resnet5000'], "there is no network of timm 'resnet5000'"),
    (['--audit.lpips', 'alix'], "there is no network of LPIPS 'alix'"),
])
def test_the_audit_s_needs_come_before_the_training(options, said, tmp_path, capsys):
    told = refused(capsys, *options, '--out', tmp_path/'run')
    assert said in told
    assert not (tmp_path/'run').exists()
