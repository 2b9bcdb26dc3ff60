"The shipped study is about the shipped weights and settings, and a stopped study resumes."
import json, os, subprocess, sys, time

import pytest
from signals import interrupted

from spurnb.lab.claim import choose_setting, claim_record, compare_runs, load_study
from spurnb.core import read_json
from spurnb.data import mini_record, mini_root
from spurnb.run.settings import PRESETS, RunSettings, change
from spurnb.lab.study import DEVELOPMENT, HELD_OUT, LOSS, point_key, study_jobs, world_hash

known = pytest.mark.skipif(not (mini_root()/'study.json').exists(), reason='there is no study of these weights')


@known
def test_the_study_is_about_the_weights_that_are_here():
    assert read_json(mini_root()/'study.json')['world'] == world_hash()


@known
def test_the_claim_in_the_record_is_the_study_s():
    study, claim = load_study(), mini_record()['claim']
    runs = study['claim'][()]['default']
    def digits(x): return json.loads(json.dumps(x), parse_float=lambda t: round(float(t), 9)) # the rest is scipy's
    assert digits(claim) == digits(claim_record(runs, DEVELOPMENT, claim['command']))
    assert set(claim['classes']) == set(HELD_OUT) and all(len(seeds) >= 5 for seeds in claim['classes'].values())


@known
def test_the_defaults_are_those_that_the_study_chose():
    "Of nine settings the best two got more seeds, and all their seeds decide; of the loss, both are measured."
    study, default = load_study(), PRESETS['mini']

    def chosen(part, arm):
        first, again = study[part][()], study[f'{part}_again'][()]
        rows = sorted(choose_setting(first, arm)[1], key=lambda r: (-r['missed'], r['rate']))
        assert len(first) == 9 and {r['setting'] for r in rows[-2:]} == set(again)
        return choose_setting({name: first[name] | more for name, more in again.items()}, arm)[0]

    train = default.train
    assert chosen('baseline', 'dreambooth') == f'lr {train.learning_rate:g}, {train.max_train_steps} steps'
    push, cosine = 'weight 1, all timesteps alike', 'weight 3, phi, cosine' # the protocol says why both are measured
    assert chosen('loss', 'sfsl') == cosine and change(default, LOSS[push]) == default
    claim = study['claim'][()]
    assert claim['cosine'].keys() == claim['default'].keys()


@known
def test_the_points_are_about_todays_settings():
    "So a study that starts from the shipped points repeats none of them."
    points = read_json(mini_root()/'study.json')['points']
    jobs = [j for j in study_jobs() if not j.world and j.part in points]
    assert {'baseline', 'loss', 'claim'} <= {j.part for j in jobs}
    for job in jobs:
        found = points[job.part][f'{job.target}/{job.seed}']
        for name, changes in job.points.items():
            settings = change(RunSettings(target=job.target, seed=job.seed), changes)
            assert found[name]['key'] == point_key(settings, job.only), f'{job.name}: {name}'


@pytest.mark.skipif(os.name == 'nt', reason='signals differ')
def test_a_study_is_stopped_and_goes_on(tmp_path):
    "One share of one part, very short: stopped after its first point, the next call does only what is missing."
    tiny = ('--max_train_steps 1 --train_batch_size 2 --prior_batch_size 2 --num_class_images 4 --generate.n 2 '
            '--num_inference_steps 2 --held_out 20 --n_class_images 30 --n_other_images 12 '
            '--audit.judges test_resnet').split()
    share = ['--parts', 'references', '--shard', '2/3']
    command = [sys.executable, '-m', 'spurnb.cli', 'world', 'study', *share, *tiny, '--out', str(tmp_path)]
    file = tmp_path/'points'/'references'/'fireboat-1.json'
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(1200):
        if file.exists() or started.poll() is not None: break
        time.sleep(.25)
    err = interrupted(started)
    assert started.returncode == 130 and 'Traceback' not in err, err
    first = json.loads(file.read_text())
    r = subprocess.run(command, text=True, capture_output=True, timeout=900)
    assert r.returncode == 0, r.stderr
    now = json.loads(file.read_text())
    assert list(now) == ['1', '2', '4', '8', '16'] and all(now[k] == v for k, v in first.items())
    assert 'the claim is not complete yet' in r.stdout and [f.name for f in file.parent.iterdir()] == [file.name]
    assert now['1']['arms']['sfsl']['spurious_rate']['n'] == 2
    assert json.loads((tmp_path/'study.json').read_text())['points']['references']['fireboat/1'] == now


def test_a_classifier_or_an_arm_may_be_missing_in_some_runs():
    def rate(x): return dict(value=x, low=0, high=1, n=8)
    def metrics(judges, arms):
        found = {j: {a: rate(r) for a, r in arms.items()} for j in judges}
        return dict(classifiers=found, arms={a: dict(spurious_rate=rate(r)) for a, r in arms.items()})
    runs = {('koala', 0): metrics('a', dict(sfsl=.5, dreambooth=.25)),
            ('koala', 1): metrics('ab', dict(sfsl=.75, dreambooth=.25, prompted=.5))}
    found = compare_runs(runs)
    assert list(found) == ['sfsl-dreambooth', 'sfsl-prompted']
    assert found['sfsl-dreambooth']['judges']['b']['value'] == .5
    assert found['sfsl-dreambooth']['all']['value'] == .375 and found['sfsl-prompted']['all']['value'] == .25
