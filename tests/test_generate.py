"Generation where a notebook cell cannot follow: killed processes, damaged files, the command as a user types it."
import json, os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiny import tiny_folder  # noqa: F401

from spurnb.core import UserError, load_png, save_png, sha256
from spurnb.draw.publish import export_images
from spurnb.draw.samplers import sample_images
from spurnb.cli import spurnb_generate
from spurnb.generate import generate, load_generator, read_manifest
from spurnb.train.checkpoints import load_pipeline

PROMPT = 'a photo of a red feeder'
ROOT = Path(__file__).parents[1]
ENV = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))


@pytest.fixture(scope='module')
def pipe(tiny_folder):
    import torch
    torch.set_num_threads(1)
    return load_pipeline(tiny_folder, 'cpu')


@pytest.fixture
def folder(pipe, tmp_path):
    "Eight finished images."
    generate(pipe, PROMPT, 8, tmp_path/'images', batch_size=4, num_inference_steps=4)
    return tmp_path/'images'


def contents(folder):
    "Return the files, without the marker and without what was set aside because it had changed."
    return {p.name: p.read_bytes() for p in folder.glob('[!.]*') if p.is_file() and '.changed' not in p.name}

FOUR = dict(batch_size=4, num_inference_steps=4)

def again(pipe, folder, **changed): return generate(pipe, PROMPT, 8, folder, **FOUR | changed)

def typed(**options): return [x for k, v in options.items() for x in (f'--{k}', v)]

def command(*args): return [sys.executable, '-m', 'spurnb.cli', 'generate', *map(str, args)]


def kill_at(count, args, folder):
    "Run the command and kill it, without a chance to tidy up, once `count` images are there."
    process = subprocess.Popen(command(*args), env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        end = time.time() + 600
        while len(list(folder.glob('*.png'))) < count:
            assert process.poll() is None, process.stderr.read().decode()
            assert time.time() < end, 'no images came'
            time.sleep(0.002)
    finally: process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.skipif(os.name == 'nt', reason='SIGKILL')
def test_killed_twice(pipe, tiny_folder, tmp_path):
    "A kill leaves no half files, finished images stay, and the folder ends as that of an undisturbed run."
    out, n, steps = tmp_path/'out', 48, 40
    how = dict(model=tiny_folder, out=out, n=n, batch_size=4, num_inference_steps=steps, device='cpu')
    args = [PROMPT, *typed(**how)]
    before = {}
    for count in (5, 17):
        kill_at(count, args, out)
        assert {p.name: p.stat().st_mtime_ns for p in out.glob('*.png')}.items() >= before.items()
        before = {p.name: p.stat().st_mtime_ns for p in out.glob('*.png')}
        assert count <= len(before) < n
        for name in before: load_png(out/name)
    frame = generate(pipe, PROMPT, n, out, batch_size=4, num_inference_steps=steps)
    assert frame.attrs == dict(kept=len(before), generated=n - len(before), retries=0)
    assert {p.name: p.stat().st_mtime_ns for p in out.glob('*.png')}.items() >= before.items()
    generate(pipe, PROMPT, n, tmp_path/'undisturbed', batch_size=4, num_inference_steps=steps)
    assert contents(out) == contents(tmp_path/'undisturbed')
    assert frame.seed.is_unique and frame.sha256.is_unique


def test_command(tiny_folder, tmp_path):
    how = dict(model=tiny_folder, out=tmp_path/'out', n=3, num_inference_steps=2, device='cpu', arm='prompted')
    quiet = dict(ENV, TQDM_DISABLE='1')      # as in logs of a cluster
    args = command(PROMPT, *typed(**how))
    first = subprocess.run(args, env=quiet, capture_output=True, text=True, cwd=tmp_path)
    assert first.returncode == 0 and '3 images generated, 0 were there' in first.stdout, first.stderr
    assert first.stdout.strip().endswith(str(tmp_path/'out'/'images.csv'))
    frame = read_manifest(tmp_path/'out')
    assert list(frame.file) == ['00000.png', '00001.png', '00002.png'] and set(frame.arm) == {'prompted'}


def test_command_keeps_images_of_other_settings(tiny_folder, folder, capsys):
    whole = contents(folder)
    def call(*more):
        size = '--n', 8, '--num_inference_steps', 4, '--batch_size', 4, '--device', 'cpu'
        spurnb_generate([PROMPT, '--out', folder, '--model', tiny_folder, *size, *more])
    call()
    assert '0 images generated, 8 were there' in capsys.readouterr().out
    with pytest.raises(SystemExit) as left: call('--guidance_scale', 5)
    assert left.value.code == 2 and '--fresh' in capsys.readouterr().err
    assert contents(folder) == whole
    call('--guidance_scale', 5, '--fresh')
    assert '8 images generated' in capsys.readouterr().out


def test_help_is_instant():
    heavy = {'torch', 'diffusers', 'transformers', 'matplotlib'}
    code = f"import sys, spurnb.cli; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    subprocess.run([sys.executable, '-c', code], env=ENV, check=True)
    shown = subprocess.run(command('--help'), env=ENV, capture_output=True, text=True, check=True)
    assert '--generate.guidance_scale' in shown.stdout and 'denoising steps' in shown.stdout


@pytest.mark.parametrize('wrong, said', [
    (dict(n=0), 'n is 0'), (dict(num_inference_steps=-1), 'num_inference_steps is -1'),
    (dict(model='mni'), "give 'mini'"), (dict(size=30), 'a multiple of 8'), (dict(prompt=''), 'say what to show'),
    (dict(arm='references'), 'holds real images'),
    (dict(dtype='float61'), "did you mean 'float16'"), (dict(dtype='float16'), 'needs a GPU'),
    (dict(guidance_scale=-3.), 'guidance_scale is -3'), (dict(num_inference_steps=1001), '1000 at most'),
    (dict(sampler='eular'), "did you mean 'euler'"), (dict(prompt='a {red|blue feeder'), '{wood|grass}')])
def test_mistakes_are_one_sentence(tiny_folder, tmp_path, capsys, wrong, said):
    with pytest.raises(SystemExit) as left:
        usual = dict(out=tmp_path/'out', model=tiny_folder, n=1, num_inference_steps=2, device='cpu') | wrong
        prompt = usual.pop('prompt', PROMPT)
        spurnb_generate([prompt, *(x for k, v in usual.items() for x in (f'--{k}', v))])
    message = capsys.readouterr().err.strip()
    assert left.value.code == 2 and said in message and '\n' not in message, message
    assert not (tmp_path/'out').exists()


REFUSED = [
    (dict(n=0), 'n is 0'), (dict(n=2.5), 'a whole number'), (dict(batch_size=-1), 'batch_size is -1'),
    (dict(prompt=' '), 'say what to show'), (dict(prompt='a {red|blue feeder'), '{wood|grass}'),
    (dict(arm='references'), 'holds real images'), (dict(size=30), 'a multiple of 8, such as 32'),
    (dict(num_inference_steps=0), 'num_inference_steps is 0'), (dict(num_inference_steps=1001), '1000 at most'),
    (dict(guidance_scale=-3.), 'guidance_scale is -3'), (dict(guidance_scale=float('nan')), 'guidance_scale is nan'),
]

@pytest.mark.parametrize('wrong, said', REFUSED)
def test_generate_refuses(pipe, tmp_path, wrong, said):
    "Bad settings are refused before a folder is made."
    how = dict(prompt=PROMPT, n=1, folder=tmp_path/'out', num_inference_steps=2) | wrong
    with pytest.raises(UserError) as refused: generate(pipe, **how)
    assert said in str(refused.value) and not (tmp_path/'out').exists()


@pytest.mark.parametrize('wrong, said', [
    (dict(sampler='eular'), "did you mean 'euler'"), (dict(model='mni'), "give 'mini'"),
    (dict(dtype='float61'), "did you mean 'float16'")])
def test_load_generator_refuses(tiny_folder, wrong, said):
    with pytest.raises(UserError) as refused: load_generator(**dict(model=str(tiny_folder), device='cpu') | wrong)
    assert said in str(refused.value)


def test_load_generator(tiny_folder):
    pipe = load_generator(str(tiny_folder), sampler='euler', device='cpu', dtype='bfloat16')
    assert type(pipe.scheduler).__name__ == 'EulerDiscreteScheduler' and str(pipe.dtype) == 'torch.bfloat16'


def test_folder_without_pipeline(tmp_path):
    with pytest.raises(UserError, match='model_index.json'): load_pipeline(tmp_path, 'cpu')


def cut(path): path.write_bytes(path.read_bytes()[:-100])
def empty(path): path.write_bytes(b'')
def text(path): path.write_text('not an image')
def binary(path): path.write_bytes(b'\x00\xff\xfe' * 50)
def lost(path): path.unlink()
def half_a_line(path): path.write_text('file,sha256\n00000.png\n')

def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data)//2] ^= 4
    path.write_bytes(data)

def edited(path):
    image, texts = load_png(path)
    image.putpixel((0, 0), (1, 2, 3))
    save_png(path, image, **texts)

@pytest.mark.parametrize('harm', [cut, empty, flip, text, edited, lost])
def test_harmed_image_is_generated_again(pipe, folder, harm):
    whole = contents(folder)
    harm(folder/'00005.png')
    assert again(pipe, folder).attrs == dict(kept=7, generated=1, retries=0)
    assert contents(folder) == whole


@pytest.mark.parametrize('harm', [cut, empty, flip, text, lost, binary, half_a_line])
def test_harmed_manifest_costs_at_most_a_line(pipe, folder, harm):
    whole = contents(folder)
    harm(folder/'images.csv')
    assert again(pipe, folder).attrs['kept'] >= 7      # a digit that flips in a line's hash costs that image
    assert contents(folder) == whole


def test_image_and_manifest_both_harmed(pipe, folder):
    whole = contents(folder)
    (folder/'images.csv').unlink()
    for name, harm in (('00001.png', cut), ('00002.png', flip), ('00006.png', empty)): harm(folder/name)
    assert again(pipe, folder).attrs['generated'] == 3
    assert contents(folder) == whole


@pytest.mark.parametrize('change', [
    dict(seed=1), dict(num_inference_steps=5), dict(guidance_scale=2.), dict(negative_prompt='grass'), dict(size=40),
    dict(arm='prompted'), dict(model_hash='other')])
def test_stale_images_are_redone(pipe, folder, change):
    old = contents(folder)
    assert again(pipe, folder, **change).attrs['generated'] == 8
    new = contents(folder)
    assert new.keys() == old.keys() and all(new[k] != old[k] for k in new)
    again(pipe, folder)
    assert contents(folder) == old


def test_other_weights_and_sampler_are_stale(pipe, folder, tiny_folder):
    import torch
    from diffusers import EulerDiscreteScheduler
    tuned = load_pipeline(tiny_folder, 'cpu')
    assert again(tuned, folder).attrs['kept'] == 8     # loaded anew, it is the same model
    with torch.no_grad(): tuned.unet.conv_out.bias += 0.01
    assert again(tuned, folder).attrs['generated'] == 8
    tuned.scheduler = EulerDiscreteScheduler.from_config(tuned.scheduler.config)
    frame = again(tuned, folder)
    assert frame.attrs['generated'] == 8 and set(frame.sampler) == {'EulerDiscreteScheduler'}


def test_batch_size_is_not_a_setting(pipe, folder, tmp_path):
    assert again(pipe, folder, batch_size=3).attrs['kept'] == 8
    generate(pipe, PROMPT, 8, tmp_path/'ones', batch_size=1, num_inference_steps=4)
    for name in read_manifest(folder).file:
        a, b = (np.asarray(load_png(f/name)[0]).astype(int) for f in (folder, tmp_path/'ones'))
        assert abs(a - b).max() <= 1


def test_more_and_fewer(pipe, folder):
    whole = contents(folder)
    assert len(generate(pipe, PROMPT, 3, folder, batch_size=4, num_inference_steps=4)) == 3
    assert contents(folder) == whole and len(read_manifest(folder)) == 8
    more = generate(pipe, PROMPT, 12, folder, **FOUR)
    assert more.attrs == dict(kept=8, generated=4, retries=0)


def test_manifest_gives_back_what_was_written(pipe, tmp_path):
    "Prompts that look like numbers or hold a comma, and a fingerprint that looks like 1e1234."
    for k, prompt in enumerate(('007', 'NA', 'a "red", old\nfeeder', 'Kolibri, süß')):
        frame = generate(pipe, prompt, 2, tmp_path/str(k), num_inference_steps=2, model_hash='1e1234567890')
        assert read_manifest(tmp_path/str(k)).to_dict('records') == frame.to_dict('records')
        assert load_png(tmp_path/str(k)/'00001.png')[1]['prompt'] == prompt == frame.prompt[1]


def test_surplus_images_go_if_asked(pipe, tmp_path):
    "A run with fewer images than before: folder and manifest hold what is judged."
    generate(pipe, PROMPT, 4, tmp_path, **FOUR)
    Image.new('RGB', (8, 8), 'red').save(tmp_path/'mine.png')
    assert generate(pipe, PROMPT, 2, tmp_path, **FOUR, surplus=False).attrs['kept'] == 2
    assert sorted(contents(tmp_path)) == ['00000.png', '00001.png', 'images.csv', 'mine.png']
    assert len(read_manifest(tmp_path)) == 2


def test_foreign_picture_is_not_touched(pipe, tmp_path):
    Image.new('RGB', (8, 8), 'red').save(tmp_path/'00001.png')
    mine = contents(tmp_path)
    with pytest.raises(UserError, match='choose another folder'): again(pipe, tmp_path)
    assert contents(tmp_path) == mine


@pytest.mark.parametrize('prompts', [
    'a photo of a {red|blue} feeder', ['a photo of a red feeder', 'a photo of a blue feeder']])
def test_prompt_variations_take_turns(pipe, folder, prompts):
    "Every other image has the prompt that it had before and is kept."
    frame = generate(pipe, prompts, 8, folder, batch_size=4, num_inference_steps=4)
    assert list(frame.prompt) == [PROMPT, 'a photo of a blue feeder']*4 and frame.attrs['kept'] == 4
    assert load_png(folder/'00001.png')[1]['prompt'] == 'a photo of a blue feeder'
    generate(pipe, 'a photo of a blue feeder', 8, folder.parent/'blue', batch_size=4, num_inference_steps=4)
    assert (folder/'00001.png').read_bytes() == (folder.parent/'blue'/'00001.png').read_bytes()


def test_every_sampler_draws_its_own_image_alone_or_in_company(tiny_folder):
    from spurnb.draw.samplers import SAMPLERS, sample_images, use_sampler
    drawn = {}
    for name in SAMPLERS:
        pipe = use_sampler(load_pipeline(tiny_folder, 'cpu'), name)
        together, _ = sample_images(pipe, [1, 2, 3], PROMPT, num_inference_steps=6)
        alone, _ = sample_images(pipe, [3], PROMPT, num_inference_steps=6)
        assert abs(np.asarray(together[2]).astype(int) - np.asarray(alone[0])).max() <= 1, name
        drawn[name] = together[0].tobytes()
    assert len(set(drawn.values())) >= len(SAMPLERS) - 1        # DDIM is Euler's method in other variables


def test_half_precision_is_a_setting(pipe, folder, tiny_folder):
    frame = again(load_pipeline(tiny_folder, 'cpu', 'bfloat16'), folder)
    assert frame.attrs['generated'] == 8 and set(frame.dtype) == {'bfloat16'}


class Strict:
    "A pipeline whose safety checker refuses the first `times` tries at every image in `numbers`."
    def __init__(self, pipe, times, numbers=None):
        self.pipe, self.times, self.numbers = pipe, times, numbers
        self.tries = {}
    def __getattr__(self, name): return getattr(self.pipe, name)
    def __call__(self, *args, generator, **kwargs):
        from spurnb.generate import image_seed
        seeds = {image_seed(0, i, r): i for i in range(8) for r in range(20)}
        number = [seeds[g.initial_seed()] for g in generator]
        out = self.pipe(*args, generator=generator, **kwargs)
        for k, i in enumerate(number):
            self.tries[i] = self.tries.get(i, 0) + 1
            refused = self.tries[i] <= self.times and (self.numbers is None or i in self.numbers)
            if refused: out.images[k] = Image.new('RGB', out.images[k].size)
        return out


def test_black_images_are_redrawn_and_counted(pipe, folder, tmp_path):
    frame = again(Strict(pipe, 2, (1, 6)), tmp_path/'strict')
    assert list(frame.retries) == [0, 2, 0, 0, 0, 0, 2, 0] and frame.attrs['retries'] == 4
    plain = read_manifest(folder)
    assert list(frame.sha256 == plain.sha256) == [r == 0 for r in frame.retries]
    assert all(load_png(tmp_path/'strict'/f)[0].getbbox() for f in frame.file)
    assert again(pipe, tmp_path/'strict').attrs == dict(kept=8, generated=0, retries=4)


def test_always_black_is_an_error(pipe, tmp_path):
    with pytest.raises(UserError, match='came out black'): again(Strict(pipe, 99, (5,)), tmp_path)
    assert len(read_manifest(tmp_path)) == 4      # the first batch is kept


def test_flagged_images_are_redrawn_even_when_they_are_not_black(tiny_folder, folder, tmp_path):
    "Images that a safety checker flags never reach the folder, and so no audit."
    from transformers import CLIPImageProcessor
    checked, plain = load_pipeline(tiny_folder, 'cpu'), read_manifest(folder)
    limit = float(np.median([np.asarray(load_png(folder/f)[0]).mean() for f in plain.file]))
    def checker(images, clip_input):
        gray = (images/2 + .5).clamp(0, 1).mean((1, 2, 3))*255
        return images, (gray > limit + .01).tolist()
    checked.safety_checker, checked.feature_extractor = checker, CLIPImageProcessor()
    frame = again(checked, tmp_path/'checked')
    assert 0 < frame.attrs['retries'] and set(frame.retries[frame.sha256 == plain.sha256]) == {0}
    assert all(np.asarray(load_png(tmp_path/'checked'/f)[0]).mean() <= limit + 1 for f in frame.file)
    assert len({*frame.seed} - {*plain.seed}) == (frame.retries > 0).sum()


def told(tiny_folder, out, batch=4):
    how = dict(model=tiny_folder, out=out, n=22, batch_size=batch, num_inference_steps=40, device='cpu')
    return list(map(str, [PROMPT, *typed(**how)]))


@pytest.fixture(scope='module')
def by_one(tiny_folder, tmp_path_factory):
    "Drawn by one process with one thread, as each of the two has: the same bytes are promised for equal threads."
    folder = tmp_path_factory.mktemp('by_one')/'out'
    subprocess.run(command(*told(tiny_folder, folder)), env=ENV, check=True, capture_output=True)
    return folder


def by_two(tiny_folder, out, batch=4):
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '-m', '--',
              'spurnb.cli', 'generate'] # without the two dashes torchrun takes --n for its own
    env, pipes = dict(ENV, ACCELERATE_USE_CPU='true'), dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen([*launch, *told(tiny_folder, out, batch)], env=env, text=True, **pipes)


@pytest.mark.skipif(os.name == 'nt', reason='gloo')
def test_two_processes_draw_what_one_draws(tiny_folder, by_one, tmp_path):
    process = by_two(tiny_folder, tmp_path/'out')
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert out.count('22 images generated, 0 were there') == 1 and '2 processes' in out, out
    assert contents(tmp_path/'out') == contents(by_one)


@pytest.mark.skipif(os.name == 'nt', reason='gloo')
def test_two_processes_with_another_batch_size(tiny_folder, by_one, tmp_path):
    process = by_two(tiny_folder, tmp_path/'out', batch=3)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and '2 processes' in out, err
    for name in read_manifest(by_one).file:
        a, b = (np.asarray(load_png(f/name)[0]).astype(int) for f in (by_one, tmp_path/'out'))
        assert abs(a - b).max() <= 1


@pytest.mark.skipif(os.name == 'nt', reason='SIGKILL')
def test_two_processes_killed_in_the_middle(tiny_folder, by_one, tmp_path):
    "What either of them had drawn is kept, and the end is that of one process left alone."
    import psutil
    out, first = tmp_path/'out', by_two(tiny_folder, tmp_path/'out')
    end = time.time() + 600
    while len(list(out.glob('*.png'))) < 9:
        assert first.poll() is None and time.time() < end, first.stderr.read()
        time.sleep(.002)
    workers = psutil.Process(first.pid).children()
    assert len(workers) == 2
    for w in (*workers, first): w.kill()
    first.wait()
    before = {p.name: p.stat().st_mtime_ns for p in out.glob('*.png')}
    assert 9 <= len(before) < 22
    second = by_two(tiny_folder, out)
    said, err = second.communicate(timeout=600)
    assert second.returncode == 0 and f'{22-len(before)} images generated, {len(before)} were there' in said, said + err
    assert {p.name: p.stat().st_mtime_ns for p in out.glob('*.png')}.items() >= before.items()
    assert contents(out) == contents(by_one)


def exported(tiny_folder, tmp_path, capsys, **kwargs):
    how = dict(out=tmp_path/'images', model=tiny_folder, n=3, num_inference_steps=2, device='cpu')
    spurnb_generate([PROMPT, *typed(**how, export=tmp_path/'set', **kwargs)])
    assert f'data set: {tmp_path/"set"}' in capsys.readouterr().out
    return tmp_path/'set'


def test_export(tiny_folder, tmp_path, capsys):
    out = exported(tiny_folder, tmp_path, capsys, arm='prompted')
    lines = [json.loads(l) for l in (out/'metadata.jsonl').read_text().splitlines()]
    manifest = read_manifest(tmp_path/'images')
    assert [(l['arm'], l['prompt'], l['seed']) for l in lines] == [('prompted', PROMPT, s) for s in manifest.seed]
    for l, digest in zip(lines, manifest.sha256): assert sha256(out/l['file_name']) == digest
    card = (out/'README.md').read_text()
    assert 'license: unknown' in card and 'No reference images' in card
    assert str(tmp_path) not in card
    exported(tiny_folder, tmp_path, capsys, arm='prompted')     # an export may replace an export
    (tmp_path/'set'/'README.md').write_text('my notes')
    with pytest.raises(SystemExit) as left: exported(tiny_folder, tmp_path, capsys, arm='prompted')
    assert left.value.code == 2 and 'was changed since its export' in capsys.readouterr().err
    assert (out/'README.md').read_text() == 'my notes'


def test_export_with_references_and_class(folder, tmp_path):
    refs = tmp_path/'refs'
    save_png(refs/'000.png', Image.new('RGB', (8, 8), 'red'))
    arms = {'untuned': (read_manifest(folder), folder)}
    out = export_images(arms, tmp_path/'set', target='hummingbird', references=refs)
    lines = [json.loads(l) for l in (out/'metadata.jsonl').read_text().splitlines()]
    assert len(lines) == 9 and {l['class'] for l in lines} == {'hummingbird'}
    assert lines[-1] == {'file_name': 'references/000.png', 'arm': 'references', 'class': 'hummingbird'}
    assert (out/'references'/'000.png').exists() and 'are included' in (out/'README.md').read_text()


def test_datasets_loads_an_export(folder, tmp_path):
    load_dataset = pytest.importorskip('datasets').load_dataset
    out = export_images({'untuned': (read_manifest(folder), folder)}, tmp_path/'set', target='hummingbird')
    found = load_dataset('imagefolder', data_dir=str(out), split='train', cache_dir=str(tmp_path/'cache'))
    assert sorted(found['seed']) == sorted(read_manifest(folder).seed) and set(found['class']) == {'hummingbird'}
    row = found[0]
    originals = {load_png(folder/f)[0].tobytes() for f in read_manifest(folder).file}
    assert row['image'].convert('RGB').tobytes() in originals and row['prompt'] == PROMPT


@pytest.fixture(scope='module')
def sfsl():
    "Alpha of an untrained encoder."
    import torch
    from spurnb.encoders import Encoder, small_resnet
    from spurnb.features import NeuralPCA
    from spurnb.objective import SFSL
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = torch.rand(22, 3, 32, 32)
        return SFSL(NeuralPCA.fit(Encoder(small_resnet(3, (4, 4, 8, 8)), 32), images, target=1), [0, 1])


def mean_alpha(folder, sfsl):
    import torch
    from spurnb.generate import manifest_images
    with torch.no_grad(): return sfsl.g(manifest_images(read_manifest(folder), folder)).mean().item()


def test_a_guide_of_strength_0_is_no_guide(pipe, folder, sfsl):
    from spurnb.draw.guided import Guide
    whole = contents(folder)
    assert again(pipe, folder, guide=Guide(sfsl, 0.)).attrs['kept'] == 8
    again(pipe, folder.parent/'anew', guide=Guide(sfsl, 0.))
    assert contents(folder) == contents(folder.parent/'anew') == whole


def test_a_guide_raises_alpha_whatever_the_batch(pipe, folder, sfsl):
    from spurnb.draw.guided import Guide
    guide, out = Guide(sfsl, .3), folder.parent/'guided'
    frame = again(pipe, out, guide=guide)
    assert set(frame.guide) == {guide.name} and load_png(out/'00000.png')[1]['guide'] == guide.name
    assert mean_alpha(out, sfsl) > mean_alpha(folder, sfsl) and again(pipe, out, guide=guide).attrs['kept'] == 8
    again(pipe, folder.parent/'ones', guide=guide, batch_size=1)
    assert contents(out) == contents(folder.parent/'ones')
    for other in (Guide(sfsl, .2), Guide(sfsl, .3, start=.2), Guide(sfsl, .3, stop=.9)):
        assert again(pipe, out, guide=other).attrs['generated'] == 8
    assert 'forward' not in vars(pipe.unet)


@pytest.mark.parametrize('kind', ['epsilon', 'sample', 'euler', 'plain words'])
def test_a_guide_steers_every_kind_of_answer(tiny_folder, sfsl, kind):
    import torch
    from spurnb.core import to_tensor
    from spurnb.draw.guided import Guide
    from spurnb.draw.samplers import sample_images, use_sampler
    pipe, how = load_pipeline(tiny_folder, 'cpu'), dict(num_inference_steps=4)
    if kind == 'plain words': how['guidance_scale'] = 1.
    if kind == 'euler': use_sampler(pipe, 'euler')
    elif kind != 'plain words':
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type=kind)
    def alpha(guide):
        images, _ = sample_images(pipe, range(4), PROMPT, guide=guide, **how)
        with torch.no_grad(): return sfsl.g(to_tensor(images)).mean()
    plain, steered = alpha(None), alpha(Guide(sfsl, .3))
    assert steered > plain


@pytest.mark.parametrize('texts', [
    dict(prompt='on a green lawn '*9), dict(prompt='a {feeder|feeder on a very wide and very green lawn}'),
    dict(prompt=PROMPT, negative_prompt='blurry and ugly '*9)], ids=['prompt', 'variation', 'negative'])
def test_prompts_that_the_model_would_cut_are_refused(pipe, tmp_path, texts):
    with pytest.raises(UserError, match='tokens and this model reads 32; shorten it'):
        generate(pipe, n=1, folder=tmp_path/'images', num_inference_steps=2, **texts)
    assert not (tmp_path/'images').exists()
    with pytest.raises(UserError, match='reads 32'): sample_images(pipe, [0], 'on a green lawn '*9)


def test_a_prompt_in_another_encoding(tmp_path):
    "What an ASCII locale makes of an umlaut is refused before the tokenizer fails."
    from types import SimpleNamespace
    from tiny import tiny_tokenizer
    from spurnb.train.families import check_prompts
    with pytest.raises(UserError, match='is not text in UTF-8'):
        check_prompts(SimpleNamespace(tokenizer=tiny_tokenizer()), ['a photo of \udcc3\udcbc'])


def test_what_only_the_smaller_encoders_cut_is_a_warning(caplog):
    from types import SimpleNamespace
    from tiny import tiny_tokenizer
    from spurnb.train.families import check_prompts
    larger = tiny_tokenizer()
    larger.model_max_length = 100
    check_prompts(SimpleNamespace(tokenizer=tiny_tokenizer(), tokenizer_2=larger), ['on a green lawn '*4, '', None])
    assert '1 of 2 text encoders read only its beginning' in caplog.text
