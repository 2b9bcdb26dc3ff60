"""Fine-tuning as processes see it: killed, interrupted, damaged, and two at a time.

The file is also the worker that is killed."""

import json, logging, os, random, shutil, signal, subprocess, sys
from pathlib import Path
from types import SimpleNamespace as Named

import pytest

from tiny import tiny_pipeline

SETTINGS = dict(
    instance_prompt='a photo of a sks feeder',
    class_prompt='a photo of a feeder',
    max_train_steps=10,
    train_batch_size=2,
    prior_batch_size=2,
    checkpointing_steps=3,
    learning_rate=1e-4,
)


def material():
    "References, prior images, and a similarity loss with an untrained encoder."
    import torch
    from spurnb.encoders import Encoder, small_resnet
    from spurnb.features import NeuralPCA
    from spurnb.objective import SFSL

    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.rand(22, 3, 32, 32)
    pca = NeuralPCA.fit(Encoder(small_resnet(3, (4, 4, 8, 8)), 32), images, target=1)
    return images[:5], images[5:12], SFSL(pca, [0, 1])


def train(model, out, say=None, monitor=None, **changes):
    "One fine-tuning of the model in folder `model`; `say` is called with every step's log."
    from diffusers import StableDiffusionPipeline
    from spurnb.train import trainer
    from spurnb.finetune import finetune
    from spurnb.train.settings import TrainSettings

    references, prior, sfsl = material()
    step = trainer.Trainer.step

    def told(self, i, wait=True):
        logged = step(self, i, wait)
        if say:
            say(logged)
        return logged

    trainer.Trainer.step = told
    try:
        return finetune(
            StableDiffusionPipeline.from_pretrained(model),
            references,
            prior,
            TrainSettings(**{**SETTINGS, **changes}),
            sfsl,
            out,
            device='cpu',
            monitor=monitor,
        )
    finally:
        trainer.Trainer.step = step


def weights(out):
    return {f.name: f.read_bytes() for f in sorted((Path(out) / 'model' / 'sfsl').rglob('*.safetensors'))}


def losses(history):
    return [r['loss'] for r in history]


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tiny') / 'model'
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope='module')
def whole(model, tmp_path_factory):
    out = tmp_path_factory.mktemp('whole')
    return out, train(model, out)


def worker(model, out, *launcher):
    env = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH', '')]),
    )
    return subprocess.Popen(
        [sys.executable, *launcher, __file__, str(model), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def stopped(model, out, how, after):
    """Start a worker and send it the signal `how` once it has done step `after`.

    Return the steps it told of, and its exit code."""
    process, seen = worker(model, out), []
    for line in process.stdout:
        if line.startswith('{'):
            seen.append(json.loads(line)['step'])
        if seen and seen[-1] == after:
            process.send_signal(how)
    errors = process.stderr.read()
    return seen, process.wait(), errors


def test_killed_and_interrupted_runs_end_with_the_same_bits(model, whole, tmp_path):
    out, history = whole
    rng = random.Random()
    kill, stop = rng.randint(3, 5), rng.randint(6, 8)
    seen, code, errors = stopped(model, tmp_path, signal.SIGKILL, kill)
    assert code == -signal.SIGKILL and seen[0] == 0, errors
    assert not weights(tmp_path)  # half a run has no result
    seen, code, errors = stopped(model, tmp_path, signal.SIGINT, stop)
    assert code == 130 and seen[0] in (3, 6), errors  # from a state, not from the start
    last = max(int(f.stem[5:]) for f in (tmp_path / 'checkpoints' / 'sfsl').glob('step-*.json'))
    assert last == seen[-1] + 1  # Ctrl-C loses nothing
    told = []
    resumed = train(model, tmp_path, told.append)
    assert told[0]['step'] == last
    assert losses(resumed) == losses(history)
    assert weights(tmp_path) == weights(out), f'killed after step {kill}, interrupted after {stop}'


def test_damaged_state_is_passed_over(model, whole, tmp_path, caplog):
    out, history = whole
    train(model, tmp_path, max_train_steps=7, keep_state=True)  # states after 6 and 7
    newest = tmp_path / 'checkpoints' / 'sfsl' / 'step-000007.safetensors'
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    told = []
    with caplog.at_level(logging.WARNING, 'spurnb'):
        resumed = train(model, tmp_path, told.append)
    assert 'step-000007.safetensors is damaged' in caplog.text
    assert told[0]['step'] == 6
    assert weights(tmp_path) == weights(out) and losses(resumed) == losses(history)


def test_other_settings_start_anew(model, whole, tmp_path, caplog):
    out, _ = whole
    train(model, tmp_path, max_train_steps=4, keep_state=True, learning_rate=3e-4)
    told = []
    with caplog.at_level(logging.WARNING, 'spurnb'):
        train(model, tmp_path, told.append)
    assert f'learning_rate was 0.0003 and is {SETTINGS["learning_rate"]:g}' in caplog.text
    assert told[0]['step'] == 0 and weights(tmp_path) == weights(out)


def test_finished_run_is_taken_as_it_is(model, whole):
    out, history = whole
    before, told = weights(out), []
    assert train(model, out, told.append) == history
    assert not told and weights(out) == before


@pytest.mark.parametrize('damage', [lambda b: b[:-3], lambda b: b[:0], lambda b: b.replace(b'step', b'stop')])
def test_a_damaged_table_of_losses_is_named(model, whole, tmp_path, caplog, damage):
    "The weights are whole, and what is left of the history does not pass for all of it."
    out, history = whole
    shutil.copytree(out, tmp_path / 'copy')
    file = tmp_path / 'copy' / 'checkpoints' / 'sfsl' / 'losses.csv'
    file.write_bytes(damage(file.read_bytes()))
    left = train(model, tmp_path / 'copy')
    assert left == history[: len(left)] and len(left) < len(history)
    assert f'losses.csv lacks {len(history) - len(left)} of {len(history)} steps' in caplog.text
    assert weights(tmp_path / 'copy') == weights(out)


def test_adapters_and_averages_resume_too(model, tmp_path):
    how = dict(lora_rank=2, ema_decay=0.9)
    history = train(model, tmp_path / 'whole', **how)
    train(model, tmp_path / 'parts', max_train_steps=4, keep_state=True, **how)
    resumed = train(model, tmp_path / 'parts', **how)
    assert losses(resumed) == losses(history)
    assert list(weights(tmp_path / 'whole')) == ['pytorch_lora_weights.safetensors'] and weights(
        tmp_path / 'parts'
    ) == weights(tmp_path / 'whole')


@pytest.mark.parametrize(
    'how',
    [
        dict(mixed_precision='fp16'),
        dict(memory_format='channels_last', random_flip=True, crop=0.2),
        dict(compile='aot_eager'),
        dict(optimizer='prodigy', learning_rate=1, text_encoder_lr=1),
        dict(optimizer='adamw8bit'),
    ],
    ids=lambda how: ' '.join(how),
)
def test_every_way_to_train_resumes_with_the_same_bits(model, tmp_path, how):
    package = dict(prodigy='prodigyopt', adamw8bit='bitsandbytes').get(how.get('optimizer'))
    if package:
        pytest.importorskip(package)
    history = train(model, tmp_path / 'whole', max_train_steps=4, **how)
    train(model, tmp_path / 'parts', max_train_steps=2, keep_state=True, **how)
    resumed = train(model, tmp_path / 'parts', max_train_steps=4, **how)
    assert (
        losses(resumed) == losses(history)
        and weights(tmp_path / 'parts') == weights(tmp_path / 'whole') != {}
    )


def test_tensorboard_gets_losses_and_pictures(model, tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from spurnb.train.monitor import Monitor

    history = train(
        model,
        tmp_path,
        max_train_steps=2,
        monitor=Monitor(1, 1, num_inference_steps=1, report_to=('tensorboard',)),
    )
    events = EventAccumulator(str(tmp_path / 'trackers' / 'sfsl' / 'spurnb')).Reload()
    assert [round(e.value, 4) for e in events.Scalars('loss')] == [round(l, 4) for l in losses(history)]
    assert [e.step for e in events.Images('validation')] == [0, 1, 2]


def test_wandb_gets_losses_and_pictures(model, tmp_path, monkeypatch):
    pytest.importorskip('wandb')
    from spurnb.train.monitor import Monitor

    monkeypatch.setenv('WANDB_MODE', 'offline')
    train(
        model, tmp_path, max_train_steps=2, monitor=Monitor(1, 1, num_inference_steps=1, report_to=('wandb',))
    )
    [run] = (tmp_path / 'trackers' / 'sfsl' / 'wandb').glob('offline-run-*')
    assert len(list(run.rglob('media/images/validation*.png'))) == 3
    kept = next(run.glob('*.wandb')).read_bytes()
    assert all(word in kept for word in (b'grad_norm', b'learning_rate'))


def test_a_tracker_that_does_not_start_is_named(model, tmp_path):
    "It is no bug of ours that a tracker lacks a key."
    from accelerate.tracking import GeneralTracker
    from spurnb.core import UserError
    from spurnb.train.monitor import Monitor

    class Locked(GeneralTracker):
        name, requires_logging_directory, tracker = 'locked', False, None

        def __init__(self): super().__init__(_blank=True)

        def start(self): raise RuntimeError('no API key configured')

    with pytest.raises(UserError, match='^locked did not start: no API key'):
        train(model, tmp_path, max_train_steps=2, monitor=Monitor(1, 1, num_inference_steps=1, report_to=(Locked(),)))


def test_a_missing_package_is_named():
    from spurnb.core import UserError
    from spurnb.train.optimizers import OPTIMIZERS, check_optimizer

    OPTIMIZERS['nowhere'] = 'no-such-package'
    try:
        with pytest.raises(UserError, match='pip install no-such-package'):
            check_optimizer('nowhere', [1])
    finally:
        del OPTIMIZERS['nowhere']


def test_a_full_disk_keeps_the_last_state(model, whole, tmp_path):
    "The system itself refuses to write more than so many bytes into a file."
    import resource
    from spurnb.core import UserError

    train(model, tmp_path, max_train_steps=3, keep_state=True)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(UserError, match='^the state after step 6 could not be written'):
            train(model, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    told = []
    train(model, tmp_path, told.append)
    assert told[0]['step'] == 3 and weights(tmp_path) == weights(whole[0])


def test_one_state_is_kept_and_counted_beforehand(model, whole, tmp_path):
    "Files are as large as expected from shapes, and one state is there between two saves; it resumes to the same bits."
    from spurnb.run.memory import needs
    from spurnb.run.settings import settings_for

    states, seen = tmp_path / 'checkpoints' / 'sfsl', []

    def look(logged):
        seen.append([f.stat().st_size for f in sorted(states.glob('*.safetensors'))])

    train(model, tmp_path, look, checkpoints_total_limit=1, max_train_steps=8, keep_state=True)
    assert [len(s) for s in seen] == [0, 0, 0, 1, 1, 1, 1, 1]
    settings = settings_for(
        'mini', generator=str(model), train=dict(SETTINGS, checkpoints_total_limit=1, max_train_steps=8)
    )
    disk = needs(settings).disk
    assert seen[-1][0] == pytest.approx(disk['states'], rel=0.05)
    saved = sum(f.stat().st_size for f in (tmp_path / 'model').rglob('*.safetensors'))
    assert saved == pytest.approx(disk['model'], rel=0.05)
    told = []
    train(model, tmp_path, told.append, checkpoints_total_limit=1)
    assert told[0]['step'] == 8 and weights(tmp_path) == weights(whole[0])


def test_a_monitored_run_has_the_same_bits(model, whole, tmp_path):
    "Validation images and their numbers are kept, also over a resume, and nothing that is learned changes."
    from spurnb.train.checkpoints import read_losses
    from spurnb.train.monitor import Monitor

    def redness(images):
        return dict(red=images[:, 0].mean())

    monitor = Monitor(5, 2, num_inference_steps=2, probe=redness)
    train(model, tmp_path, monitor=monitor, max_train_steps=5, keep_state=True)
    history = train(model, tmp_path, monitor=monitor)
    assert weights(tmp_path) == weights(whole[0]) and losses(history) == losses(whole[1])
    states = tmp_path / 'checkpoints' / 'sfsl'
    assert read_losses(states / 'losses.csv') == history
    assert [r['step'] for r in history if 'probe/red' in r] == [4, 9]
    assert sorted(f.stem for f in (states / 'validation').glob('*.png')) == [
        'step-000000',
        'step-000005',
        'step-000010',
    ]


def test_prior_images_of_other_settings_have_their_own_folder(tmp_path):
    "Everything that decides the pixels is in the key: prompt, seed, sampling, size, number and weights."
    import torch
    from diffusers import DPMSolverMultistepScheduler
    from spurnb.train.batches import prior_images

    pipe, other, sampler = tiny_pipeline(), tiny_pipeline(), tiny_pipeline()
    with torch.no_grad():
        other.unet.conv_in.bias += 1
    sampler.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)

    def two(pipe=pipe, prompt='a photo of a feeder', **how):
        return prior_images(pipe, prompt, folder=tmp_path, **(dict(n=2, num_inference_steps=2) | how))

    first = two()
    changes = [
        dict(prompt='a photo of a koala'),
        dict(seed=1),
        dict(num_inference_steps=3),
        dict(guidance_scale=1.0),
        dict(size=16),
        dict(n=3),
        dict(batch_size=1),
        dict(pipe=other),
        dict(pipe=sampler),
    ]
    for i, change in enumerate(changes):
        two(**change)
        assert len(list(tmp_path.iterdir())) == i + 2, change
    assert torch.equal(two(), first) and two(size=16).shape[-1] == 16


@pytest.mark.parametrize(
    'changes, said',
    [
        (dict(gradient_accumulation_steps=3), 'train_batch_size is 2; give a multiple of 3'),
        (dict(instance_prompt=' '), 'instance_prompt is empty'),
        (dict(class_prompt='a photo of a ' + 'very ' * 40 + 'red feeder'), 'shorten it'),
        (dict(compile='inducter'), "did you mean 'inductor'"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_what_a_trainer_refuses(changes, said):
    from spurnb.core import UserError
    from spurnb.train.settings import TrainSettings
    from spurnb.train.trainer import Trainer

    references, prior, _ = material()
    with pytest.raises(UserError, match=said):
        Trainer(tiny_pipeline(), references, prior, TrainSettings(**{**SETTINGS, **changes}))


def test_a_card_that_is_too_small(monkeypatch):
    "The message says what to try; the weights are untouched."
    import torch
    from spurnb.core import UserError
    from spurnb.train.checkpoints import pipeline_hash
    from spurnb.train.monitor import trainer_flops
    from spurnb.train.settings import TrainSettings
    from spurnb.train.trainer import Trainer

    def full(*args):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB')

    references, prior, _ = material()
    trainer = Trainer(tiny_pipeline(), references, prior, TrainSettings(**SETTINGS))
    before, trainer.loss = pipeline_hash(trainer.pipe), full
    for call in (trainer.step, lambda step: trainer_flops(trainer)):
        with pytest.raises(UserError, match='set gradient_accumulation_steps to 2 or more'):
            call(0)
    assert pipeline_hash(trainer.pipe) == before


def asked(monkeypatch, tmp_path, **options):
    "What `finetune_target` asks its parts for; nothing is trained."
    from dataclasses import asdict
    from spurnb import finetune as module

    found, pipe = {}, tiny_pipeline()

    def catch(pipe, references, prior, settings, sfsl, out, monitor, **more):
        found.update(asdict(settings), references=references, prior=prior, sfsl=sfsl, out=str(out), **more)
        return [dict(step=0, loss=1.0)]

    def load(*told):
        found.update(model=told)
        return pipe

    def similarity_loss(target, references, pca, encoder, components, settings, device):
        return target, pca, encoder, components, asdict(settings)

    monkeypatch.setattr(module, 'finetune', catch)
    monkeypatch.setattr(module, 'load_pipeline', load)
    monkeypatch.setattr(module, 'prior_images', lambda pipe, *told, **how: tuple(map(str, told)))
    monkeypatch.setattr(module, '_sfsl', similarity_loss)
    monkeypatch.setattr(module, 'push_result', lambda *told: found.update(push_to_hub=told))
    monkeypatch.setattr('spurnb.data.folder_images', lambda folder, size: ((str(folder), size), ['a.png']))
    monkeypatch.setattr('spurnb.photos.folders.beside_images', lambda folder: {})
    monkeypatch.setattr('spurnb.data.mini_references', lambda target: Named(images=target))
    monkeypatch.setattr('spurnb.train.lora.save_lora', lambda pipe, folder, kohya: found.update(kohya=folder))
    module.finetune_target(**(dict(out=tmp_path, device='cpu') | options))
    return found


OWN = dict(model='folder', references='photos', pca='pca.safetensors', components=(1,))


@pytest.mark.parametrize(
    'option, value, changes',
    [
        ('target', 'koala', {'instance_prompt', 'class_prompt', 'references', 'prior', 'sfsl'}),
        ('encoder', 'other', {'sfsl'}),
        ('train', dict(sfsl_weight=0.0), {'sfsl_weight', 'sfsl'}),
        ('train', dict(num_class_images=0), {'num_class_images', 'prior'}),
        ('train', dict(class_prompt='a photo of an eye'), {'class_prompt', 'prior'}),
        ('train', dict(learning_rate=1e-4), {'learning_rate'}),
        ('sfsl', dict(decoder='checkpointed', gate=0.1), {'sfsl'}),
        ('license', 'CC BY 4.0', {'license'}),
        ('push_to_hub', 'me/boat', {'push_to_hub'}),
        ('seed', 3, {'seed', 'prior'}),
        ('out', 'elsewhere', {'out', 'prior'}),
    ],
    ids=lambda x: ' '.join(sorted(x)) if isinstance(x, set) else str(x)[:30],
)
def test_each_option_arrives(monkeypatch, tmp_path, option, value, changes):
    "One option changes just what it names: nothing else that training is asked for."
    from spurnb.train.settings import SFSLSettings, TrainSettings

    monkeypatch.chdir(tmp_path)
    if isinstance(value, dict):
        value = dict(train=TrainSettings, sfsl=SFSLSettings)[option](**value)
    plain, changed = asked(monkeypatch, tmp_path), asked(monkeypatch, tmp_path, **{option: value})
    assert {k for k in changed if changed[k] != plain.get(k)} == changes


def test_a_model_of_ones_own_and_adapters(monkeypatch, tmp_path):
    from spurnb.train.settings import TrainSettings

    prompts = dict(instance_prompt='a photo of a sks eye', class_prompt='a photo of an eye')
    found = asked(
        monkeypatch, tmp_path, **OWN, train=TrainSettings(**prompts, lora_rank=2, use_dora=True), kohya=True
    )
    assert found['model'] == ('folder', 'cpu') and found['references'] == ('photos', 32)
    assert found['sfsl'][1:4] == ('pca.safetensors', 'mini', (1,)) and found['license'] == ''
    assert found['use_dora'] and found['kohya'] == tmp_path / 'model' / 'sfsl'


@pytest.mark.parametrize(
    'wrong, said',
    [
        (dict(kohya=True), 'train with a lora_rank'),
        (dict(train=dict(report_to=('tensorbord',))), "did you mean 'tensorboard'"),
        (dict(train=dict(probe='judge', validation_steps=2)), 'give MODULE:FACTORY'),
        (dict(train=dict(instance_prompt='a photo of a ' + 'very ' * 40 + 'red feeder')), 'shorten it'),
        (dict(target='fireboot'), "did you mean 'fireboat'"),
        (dict(device='tpu'), "'tpu'"),
        (dict(push_to_hub='feeder'), 'give owner/name'),
        (dict(model='folder'), 'also give references'),
        (dict(OWN), 'also give instance_prompt'),
        (dict(OWN, pca='', train=dict(instance_prompt='a', class_prompt='b')), 'also give pca'),
    ],
    ids=lambda x: str(x)[:40],
)
def test_what_finetune_target_refuses(monkeypatch, tmp_path, wrong, said):
    from spurnb.core import UserError
    from spurnb.train.settings import TrainSettings

    if 'train' in wrong:
        wrong = dict(wrong, train=TrainSettings(**wrong['train']))
    with pytest.raises(UserError, match=said):
        asked(monkeypatch, tmp_path, **wrong)


def test_what_a_trainer_takes_and_what_it_says(caplog):
    "One reference is enough, none is not; images have one size, of whole latents; odd names are reported."
    import torch
    from spurnb.core import UserError
    from spurnb.train.settings import TrainSettings
    from spurnb.train.trainer import Trainer

    references, prior, _ = material()

    def new(references, prior, **changes):
        return Trainer(tiny_pipeline(), references, prior, TrainSettings(**{**SETTINGS, **changes}))

    assert new(references[:1], prior).step(0)['loss'] > 0
    assert new(references, None, num_class_images=0).step(0)['loss'] > 0
    for wrong, said in (
        ((references[:0], prior), 'there are no references; give at least one'),
        ((references, None), 'there are no prior images; give at least one, or set num_class_images to 0'),
        ((torch.rand(2, 3, 30, 30), prior), 'references are 30 x 30 px; resize them to multiples of 4'),
        ((references, torch.rand(2, 3, 16, 32)), 'prior images are 32 x 16 px and the references are not'),
    ):
        with pytest.raises(UserError, match=said):
            new(*wrong)
    for prompt, said in (
        ('a photo of a zxqv feeder', "'zxqv' is read as 4 tokens"),
        ('a photo of a feeder', 'has no word that class_prompt lacks'),
    ):
        caplog.clear()
        new(references, prior, instance_prompt=prompt)
        assert said in caplog.text
    caplog.clear()
    new(references, prior)
    assert not caplog.text


def test_nan_stops_and_keeps_the_last_state(model, tmp_path):
    from spurnb.core import UserError
    from spurnb.train.trainer import Trainer

    loss = Trainer.loss

    def broken(self, step, part=0):
        value, parts = loss(self, step, part)
        return (value * float('nan'), dict(parts, loss=float('nan'))) if step == 5 else (value, parts)

    Trainer.loss = broken
    try:
        with pytest.raises(UserError, match='the loss is nan at step 5'):
            train(model, tmp_path)
    finally:
        Trainer.loss = loss
    assert (tmp_path / 'checkpoints' / 'sfsl' / 'step-000003.safetensors').exists()
    told = []
    train(model, tmp_path, told.append)
    assert told[0]['step'] == 3


TWO = '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2'


def rows_of(out):
    return [json.loads(l) for l in out.splitlines() if l.startswith('{')]


@pytest.fixture(scope='module')
def by_two(model, tmp_path_factory):
    "A run of two processes: its folder, and what both told of their steps."
    folder = tmp_path_factory.mktemp('two')
    process = worker(model, folder, *TWO)
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-2000:]
    return folder, rows_of(out)


def test_two_processes_have_the_loss_of_one(whole, by_two):
    "The same global batch on two processes: losses agree to the rounding of sums taken in another order."
    rows = by_two[1]
    assert {r['processes'] for r in rows} == {2}
    for i, expected in enumerate(whole[1]):
        shares = [r['loss'] for r in rows if r['step'] == i]
        assert len(shares) == 2 and abs(sum(shares) / 2 - expected['loss']) < 1e-4 * max(1, expected['loss'])


def test_two_processes_killed_and_resumed_end_with_the_same_bits(model, by_two, tmp_path):
    process, after, pids = worker(model, tmp_path, *TWO), random.randint(3, 8), set()
    for line in process.stdout:
        if not line.startswith('{'):
            continue
        row = json.loads(line)
        pids.add(row['pid'])
        if row['step'] >= after and len(pids) == 2:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            break
    _, errors = process.communicate(timeout=600)
    assert process.returncode != 0 and not weights(tmp_path), errors[-2000:]
    process = worker(model, tmp_path, *TWO)
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-2000:]
    rows = rows_of(out)
    assert {r['processes'] for r in rows} == {2} and {
        min(r['step'] for r in rows if r['pid'] == pid) for pid in {r['pid'] for r in rows}
    } in ({3}, {6}, {9})  # both from the same state
    assert weights(tmp_path) == weights(by_two[0]) != {}, f'killed after step {after}'


def test_the_command_by_two_processes(model, tmp_path):
    "It is the command that `accelerate launch` and `torchrun` start; one of the two says what came out, and it draws."
    from PIL import Image
    from spurnb.train.checkpoints import load_pipeline
    from spurnb.train.lora import load_lora

    photos = tmp_path / 'photos'
    photos.mkdir()
    for i in range(3):
        Image.effect_noise((40, 32), 60 + i).save(photos / f'{i}.png')
    told = dict(
        references=photos,
        model=model,
        instance_prompt='a photo of a sks',
        class_prompt='a photo',
        sfsl_weight=0,
        max_train_steps=2,
        train_batch_size=2,
        num_class_images=2,
        lora_rank=2,
        device='cpu',
        out=tmp_path / 'run',
    )
    env = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        ACCELERATE_USE_CPU='true',
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH', '')]),
    )
    done = subprocess.run(
        [
            sys.executable,
            *TWO,
            '-m',
            '--',
            'spurnb.cli',
            'finetune',
            *[str(x) for k, v in told.items() for x in (f'--{k}', v)],
            '--kohya',
        ],
        capture_output=True,
        text=True,
        env=env,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count('model: ') == 1 and 'of 2 steps' in done.stdout
    folder = tmp_path / 'run' / 'model' / 'dreambooth'
    states = []
    for weights in (folder, folder / 'kohya.safetensors'):
        pipe = load_pipeline(str(model), 'cpu')
        load_lora(pipe, weights)
        states.append(
            {k.replace('default_0', ''): v for k, v in pipe.unet.state_dict().items() if 'lora_B' in k}
        )
    assert states[0].keys() == states[1].keys() and all(
        v.equal(states[1][k]) and v.abs().sum() > 0 for k, v in states[0].items()
    )


if __name__ == '__main__':
    from accelerate import PartialState

    def say(logged):
        os.write(
            1,
            (
                json.dumps(dict(logged, processes=PartialState().num_processes, pid=os.getpid())) + '\n'
            ).encode(),
        )

    try:
        train(sys.argv[1], sys.argv[2], say)
    except KeyboardInterrupt:
        sys.exit(130)


def trainer_of(kind, **changes):
    from spurnb.train.settings import TrainSettings

    references, prior, sfsl = material()
    return kind(tiny_pipeline(), references, prior, TrainSettings(**{**SETTINGS, **changes}), sfsl)


def test_a_card_is_not_waited_for():
    "Tensors on the device `meta` have no values: reading one is an error."
    import contextlib, math, torch
    from spurnb.train.trainer import Trainer

    t = trainer_of(Trainer, snr_gamma=5.0)
    t.pipe.to('meta')
    t.device, t.autocast = torch.device('meta'), contextlib.nullcontext
    t.sfsl = t.sfsl.to('meta')
    t.moments, t.reference_features = tuple(m.to('meta') for m in t.moments), t.reference_features.to('meta')
    t.token_ids = dict(ids=[i.to('meta') for i in t.token_ids['ids']])
    t._make_trainable()
    t.optimizer = torch.optim.RMSprop(t.params.values())
    row = t.step(0, wait=False)
    assert {'loss', 'prior', 'sfsl', 'grad_norm'} <= {k for k, v in row.items() if isinstance(v, torch.Tensor)}
    with pytest.raises(RuntimeError, match='meta'):
        t.settle(row)


def test_steps_that_are_read_later_are_the_same_steps():
    "Where nobody reads a step, an update that is not finite and all after it leave the weights alone."
    import math, torch
    from spurnb.core import UserError
    from spurnb.train.trainer import Trainer

    class Later(Trainer):
        waits = False

    now, later = trainer_of(Trainer), trainer_of(Later)
    rows = [now.step(i) for i in range(3)]
    assert [r['loss'] for r in rows] == [later.settle(later.step(i, wait=False))['loss'] for i in range(3)]
    assert all(torch.equal(p, now.params[k]) for k, p in later.params.items())
    whole, later.moments = later.moments, (later.moments[0] * math.nan, later.moments[1])
    later.step(3, wait=False)
    later.moments = whole
    row = later.step(4, wait=False)
    assert math.isfinite(row['loss']) and all(torch.equal(p, now.params[k]) for k, p in later.params.items())
    with pytest.raises(UserError, match='loss or gradient is not finite at step 3'):
        later.settle(row)


def test_compiling_with_graphs_takes_the_text_encoder_too():
    import torch
    from spurnb.train.trainer import Trainer

    t = trainer_of(Trainer, compile='reduce-overhead')
    assert all(isinstance(part, torch._dynamo.OptimizedModule) for part in (t.network, *t.encoders))


@pytest.mark.parametrize('model, guidance', [('mini', 3.), ('other', 7.5)])
def test_prior_images_are_drawn_as_the_model_draws(model, guidance, tmp_path, monkeypatch):
    from spurnb import finetune as module
    from spurnb.core import UserError, save_png
    from spurnb.world.scenes import reference_scenes
    save_png(tmp_path/'references'/'0.png', reference_scenes('koala', 1)[0].draw())
    def prior(*args, guidance_scale, **kwargs): raise UserError(f'drawn at {guidance_scale}')
    monkeypatch.setattr(module, 'prior_images', prior)
    monkeypatch.setattr(module, 'load_pipeline', lambda *args: tiny_pipeline())
    from spurnb.train.settings import TrainSettings
    with pytest.raises(UserError, match=f'drawn at {guidance}'):
        module.finetune_target(model=model, references=tmp_path/'references', out=tmp_path/'out',
                               train=TrainSettings(**SETTINGS, sfsl_weight=0))
