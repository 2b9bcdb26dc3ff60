"""The full-scale path against local servers: `spurnb_run --preset sd15`, the tutorial, and every way to fail."""

import io, json, os, re, signal, stat, subprocess, sys, time, zipfile
from pathlib import Path

import pytest

from server import HUB, JUDGES, SMALL, TOKEN, Server, full_scale
from spurnb.core import UserError, sha256
from spurnb.photos.downloads import download, unpack
from spurnb.generate import read_manifest
from spurnb.photos.spurious_imagenet import load_spurious_imagenet

root = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def reachable(monkeypatch):
    "The servers are on this machine, also where the hub is switched off."
    monkeypatch.delenv('HF_HUB_OFFLINE', raising=False)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "Everything a run at full scale asks for, tiny; -> server, folder with `imagenet`."
    folder = tmp_path_factory.mktemp('world')
    server = full_scale(folder)
    yield server, folder
    server.stop()


def python(*args, **env):
    return subprocess.run(
        [sys.executable, *map(str, args)],
        text=True,
        capture_output=True,
        cwd=root / 'tests',
        env=os.environ
        | dict(
            OMP_NUM_THREADS='1',
            PYTHONPATH=os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]),
            MPLBACKEND='agg',
        )
        | env,
    )


def fetch(server, path, faults, name='f.bin', data=bytes(range(256)) * 300, **how):
    "A download from a server with faults; -> the file, or the sentence, and the waits in between."
    server.files[name], server.faults[f'/{name}'], waits = data, list(faults), []
    try:
        return download(f'{server.address}/{name}', path / name, pause=waits.append, **how), waits
    except UserError as e:
        return str(e), waits


def test_cut_connections_are_continued(server, tmp_path):
    data = bytes(range(256)) * 300
    file, waits = fetch(server, tmp_path, ['cut', 'cut'])
    assert file.read_bytes() == data and waits == [1, 2]
    assert [r for _, _, r in server.asked] == [
        None,
        'bytes=38400-',
        'bytes=57600-',
    ]  # only the rest is asked for
    assert json.loads((tmp_path / 'f.bin.json').read_text()) == dict(
        url=f'{server.address}/f.bin', bytes=len(data), sha256=sha256(data)
    )
    assert download('http://127.0.0.1:9/f.bin', file) == file  # there: nobody is asked


def test_a_later_call_goes_on_and_another_version_starts_again(server, tmp_path):
    said, waits = fetch(server, tmp_path, ['cut'] * 3, tries=3)
    assert (
        'cut after 67,200 of 76,800 bytes, 3 attempts' in said
        and 'resumes where it stopped' in said
        and '\n' not in said
    )
    server.asked.clear()
    file, _ = fetch(server, tmp_path, [])
    assert server.asked[0][2] == 'bytes=67200-' and file.read_bytes() == bytes(range(256)) * 300
    file.unlink()
    fetch(server, tmp_path, ['cut'], tries=1)
    new = bytes(reversed(range(256))) * 300
    assert (
        fetch(server, tmp_path, [], data=new)[0].read_bytes() == new
    )  # not half of one and half of the other
    file.unlink()
    fetch(server, tmp_path, ['cut'], tries=1)
    assert (
        fetch(server, tmp_path, ['no range'])[0].read_bytes() == bytes(range(256)) * 300
    )  # a server that cannot continue


@pytest.mark.parametrize(
    'faults, expected',
    [
        (['too long'] * 5, '76,800 of 77,800 bytes'),
        ([(404,)], 'there is nothing at'),
        ([(401,)], 'refuses access (HTTP 401)'),
        ([(403,)], 'refuses access (HTTP 403)'),
        ([(503,)] * 5, 'HTTP 503, 5 attempts'),
        ([(429, {'Retry-After': '4000'})], 'asks to come back in 4000 seconds'),
    ],
)
def test_what_cannot_be_had_is_one_sentence(server, tmp_path, faults, expected):
    said, _ = fetch(server, tmp_path, faults)
    assert expected in said and '\n' not in said and not (tmp_path / 'f.bin').exists()


def test_a_short_wait_is_kept_and_a_mirror_is_tried(server, tmp_path):
    file, waits = fetch(server, tmp_path, [(429, {'Retry-After': '7'}), (500,)])
    assert file.exists() and waits == [7, 2]
    server.files['there'] = b'copy'
    assert (
        download(
            [f'{server.address}/gone', f'{server.address}/there'], tmp_path / 'mirrored', pause=lambda s: None
        ).read_bytes()
        == b'copy'
    )


def test_limits_checksum_and_offline(server, tmp_path, monkeypatch):
    assert 'at most 0.0 are expected' in fetch(server, tmp_path, [], most=1000)[0]
    assert 'not the file that is expected' in fetch(server, tmp_path, [], digest='0' * 64)[0] and not list(
        tmp_path.glob('*.download')
    )
    assert fetch(server, tmp_path, [], digest=sha256(bytes(range(256)) * 300))[0].exists()
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert 'HF_HUB_OFFLINE is set' in fetch(server, tmp_path, [], name='g.bin')[0]


def archive(path, *members, **how):
    "A zip file with members as (name or ZipInfo, data)."
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, data in members:
            z.writestr(name, data)
    return path


def link():
    info = zipfile.ZipInfo('images/link')
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    'name, expected',
    [
        ('../evil', 'leads out of the folder'),
        ('images/../../evil', 'leads out'),
        ('..\\evil', 'leads out'),
        ('/etc/evil', 'an absolute path'),
        ('C:\\evil', 'an absolute path'),
        (link(), 'a link or device'),
    ],
)
def test_archives_that_want_out_are_refused_whole(tmp_path, name, expected):
    file = archive(tmp_path / 'a.zip', ('images/good.txt', 'x'), (name, '/etc/passwd'))
    with pytest.raises(UserError, match=expected):
        unpack(file, tmp_path / 'out' / 'deep')
    assert [p.name for p in tmp_path.rglob('*') if p.is_file()] == ['a.zip']


def test_bombs_lies_and_damage(tmp_path):
    with pytest.raises(UserError, match='200 times'):
        unpack(archive(tmp_path / 'bomb.zip', ('zeros', bytes(30_000_000))), tmp_path / 'out')
    with pytest.raises(UserError, match='more than the 100,000 of 0.00 GB'):
        unpack(archive(tmp_path / 'many.zip', ('a', os.urandom(5000))), tmp_path / 'out', most=4000)
    with pytest.raises(UserError, match='more than the 2 of'):
        unpack(archive(tmp_path / 'files.zip', *((str(i), 'x') for i in range(3))), tmp_path / 'out', files=2)
    with pytest.warns(UserWarning), pytest.raises(UserError, match='twice'):
        unpack(archive(tmp_path / 'twice.zip', ('a', 'x'), ('a', 'y')), tmp_path / 'out')
    good = archive(tmp_path / 'good.zip', ('a', bytes(range(256)) * 100)).read_bytes()
    for torn in (good[:-40], good[:20] + bytes(40) + good[60:], b'<html>Please log in</html>'):
        (tmp_path / 'torn.zip').write_bytes(torn)
        with pytest.raises(UserError, match='no zip file, or damaged'):
            unpack(tmp_path / 'torn.zip', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_spurious_imagenet_of_the_real_shape(world, tmp_path):
    server, _ = world
    data = load_spurious_imagenet(f'{server.address}/images_100_classes.zip', tmp_path)
    table = data.table()
    assert (
        len(data) == 100 == table.class_index.nunique()
        and not data.unknown
        and table.images.sum() == 99 * 10 + 26
    )
    birds = data['hummingbird']
    assert birds.component == 1 and len(birds.images) == 26 and birds.left_out['unreadable'] == {}
    zipped = next(tmp_path.rglob('images_100_classes.zip'))
    assert (
        load_spurious_imagenet(zipped, tmp_path).root == data.root
        and load_spurious_imagenet(data.root)['koala'].component == 2
    )  # the zip, and the folder


def test_the_archive_has_a_second_address(world, server, tmp_path, monkeypatch):
    "The mirror is asked when the first address has nothing, or a page; a file that is there asks nobody."
    from spurnb.photos import spurious_imagenet as module
    good = world[0].files['images_100_classes.zip']
    def load(home): return load_spurious_imagenet(home=tmp_path / home)
    monkeypatch.delenv('SPURNB_SPURIOUS_IMAGENET', raising=False)
    monkeypatch.setattr(module, 'ARCHIVE', f'{server.address}/first/images_100_classes.zip')
    monkeypatch.setattr(module, 'MIRROR', f'{server.address}/second/images_100_classes.zip?dl=1')
    own = tmp_path / 'own' / 'spurious_imagenet'
    with pytest.raises(UserError) as e: load('own')
    for said in ('/first/', '/second/', f'put it into {str(own)!r}'): assert said in str(e.value)
    server.files['second/images_100_classes.zip'] = good
    assert len(load('a')) == 100
    server.files['first/images_100_classes.zip'] = b'<html>This share has expired.</html>'
    assert len(load('b')) == 100
    server.asked.clear()
    (own / 'images_100_classes.zip').write_bytes(good)
    assert len(load('own')) == 100 and not server.asked
    server.files['second/images_100_classes.zip'] = b'<html>Log in.</html>'
    with pytest.raises(UserError, match='first.* of another kind.*second.* of another kind'): load('c')


def test_an_archive_that_is_not_the_table_s(tmp_path):
    file = archive(tmp_path / 'other.zip', ('images/spurious_class_1_x_1/1.jpg', 'x'))
    with pytest.raises(UserError, match='no folder .* is one of Spurious ImageNet'):
        load_spurious_imagenet(file, tmp_path)
    with pytest.raises(UserError, match='both show component 1 of class 94'):
        load_spurious_imagenet(
            archive(tmp_path / 'two.zip', ('a/x_y_94_z_1/1.jpg', 'x'), ('b/x_y_94_1/1.jpg', 'x')), tmp_path
        )


def parquet(path, labels, side=8):
    "A parquet file as ImageNet's on the hub, two rows a group; picture i has red 20 i in its corner."
    import numpy as np
    from PIL import Image

    pa, pq = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')

    def picture(i):
        out, pixels = io.BytesIO(), np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
        pixels[0, 0, 0] = 20 * i
        Image.fromarray(pixels).save(out, 'PNG')
        return dict(bytes=out.getvalue(), path=f'{i}.png')

    pq.write_table(
        pa.table(dict(image=[picture(i) for i in range(len(labels))], label=labels)), path, row_group_size=2
    )


def test_parquet_reads_only_what_holds_the_class(tmp_path, monkeypatch, caplog):
    parquet(tmp_path / 'train-0.parquet', [94, 7, 7, 7, 94, 94, 7, 7])
    from spurnb.photos.imagenet import imagenet_class_images
    from spurnb.photos.parquet import local_shards, parquet_plan

    monkeypatch.setenv('HF_HOME', str(tmp_path / 'home'))
    plan = parquet_plan(local_shards([tmp_path / 'train-0.parquet']), 94)
    assert [(g, rows) for _, g, rows, _ in plan] == [(0, [0]), (2, [0, 1])] and all(
        size > 0 for *_, size in plan
    )
    assert [p.getpixel((0, 0))[0] for p in imagenet_class_images(tmp_path, 'hummingbird')] == [0, 80, 100]
    assert 'class 94 from' in caplog.text and '0.00 GB are read now' in caplog.text  # before it is read
    assert len(parquet_plan(local_shards([tmp_path / 'train-0.parquet']), 94, n=1)) == 1
    with pytest.raises(UserError, match='are allowed'):
        imagenet_class_images(tmp_path, 7, most=10)


def test_imagenet_on_the_hub(server, tmp_path):
    "Only labels and the row groups of the class are downloaded; a gated data set says what to click."
    name, script = (
        'datasets/ILSVRC/imagenet-1k',
        """
import sys
from spurnb.photos.imagenet import imagenet_class_images
try:
    found = imagenet_class_images('ILSVRC/imagenet-1k', 'hummingbird', split=sys.argv[1])
    print(*[p.getpixel((0, 0))[0] for p in found])
except ValueError as e: print(e)
""",
    )
    for file, labels in (('train', [7, 7, 94, 94, 7, 7, 7, 7, 7, 7]), ('validation', [7, 94])):
        parquet(tmp_path / f'{file}.parquet', labels, 300)
    server.hub[name] = {
        f'data/{f}-00000-of-00001.parquet': (tmp_path / f'{f}.parquet').read_bytes()
        for f in ('train', 'validation')
    }
    for split, expected in (('train', '40 60'), ('val', '20')):
        assert python('-c', script, split, **server.environment(tmp_path / 'home')).stdout.strip() == expected
    parts = [
        tuple(map(int, r.removeprefix('bytes=').split('-')))
        for _, path, r in server.asked
        if r and 'train' in path
    ]
    assert (
        0
        < sum(b - a + 1 for a, b in parts)
        < 0.6 * len(server.hub[name]['data/train-00000-of-00001.parquet'])
    )
    server.refused[name] = (403, b'gated', {'X-Error-Code': 'GatedRepo'})
    said = python('-c', script, 'train', **server.environment(tmp_path / 'elsewhere')).stdout
    assert (
        'is gated; open' in said
        and '/datasets/ILSVRC/imagenet-1k in a browser, log in and accept its terms, then run `hf auth login`'
        in said
    )


def test_the_hub_s_refusals_are_explained(world, tmp_path):
    "Gated, gone, without rights, too many, incomplete, and offline: each in one sentence with its cure."
    server, _ = world
    server.refused |= {
        'gated/model': (403, b'gated', {'X-Error-Code': 'GatedRepo'}),
        'strange/model': (401, b'who?'),
        'busy/model': (429, b'slow down', {'Retry-After': '1'}),
        'broken/model': (500, b''),
    }
    for name in ('sd', 'taesd'):
        server.hub[f'cut/{name}'] = server.hub[HUB[name]]
    server.faults |= {
        f'/cut/{file}': ['cut'] * 99
        for file in (
            'taesd/diffusion_pytorch_model.safetensors',
            'sd/unet/diffusion_pytorch_model.safetensors',
        )
    }
    script = '''
import sys
from spurnb.train.checkpoints import load_pipeline
from spurnb.audit.detectors import load_detector
from spurnb.encoders import load_encoder
from spurnb.prediction import load_tiny
from spurnb.audit.zoo import load_judge
for what in sys.argv[1:]:
    kind, _, name = what.partition('=')
    loaders = dict(pipe=load_pipeline, encoder=load_encoder, tiny=load_tiny, judge=load_judge, detector=load_detector)
    try:
        loaders[kind](name)
        print('loaded', name)
    except ValueError as e: print(name, '|', e)
'''
    asked = {
        'pipe=runwayml/stable-diffusion-v1-5': "take its mirror 'stable-diffusion-v1-5/stable-diffusion-v1-5'",
        'tiny=nobody/taesd': "no 'nobody/taesd' on the hub",
        'judge=hf-hub:nobody/model': "no 'nobody/model' on the hub",
        'detector=clip:nobody/clip': "no 'nobody/clip' on the hub",
        'encoder=madry:resnet18_l2_eps3': 'lacks a file',
        'pipe=gated/model': "'gated/model' is gated; open",
        'tiny=strange/model': "refuses access to 'strange/model' (HTTP 401)",
        'tiny=busy/model': 'too many requests (HTTP 429)',
        'tiny=broken/model': 'answers HTTP 500',
        'tiny=cut/taesd': 'or the connection breaks',
        'pipe=cut/sd': 'or the connection breaks',
        f'tiny={HUB["taesd"]}': 'loaded',
        f'detector=clip:{HUB["clip"]}': 'loaded',
    }
    r = python('-c', script, *asked, **server.environment(tmp_path))
    lines = r.stdout.splitlines()
    assert len(lines) == len(asked) and 'Traceback' not in r.stderr, r.stdout + r.stderr
    for line, expected in zip(lines, asked.values()):
        assert expected in line, line
    offline = python(
        '-c',
        script,
        f'tiny={HUB["taesd"]}',
        f'pipe={HUB["sd"]}',
        **server.environment(tmp_path) | dict(HF_HUB_OFFLINE='1'),
    ).stdout.splitlines()
    assert offline[0].startswith('loaded') and 'HF_HUB_OFFLINE is set' in offline[1]


def test_a_half_finished_download_a_token_and_a_proxy(server, tmp_path):
    "The hub's own variables hold for its library and for our downloads; nothing is downloaded twice."
    data = os.urandom(25_000_000)
    server.hub[HUB['madry']], server.files['f.bin'] = {'net.ckpt': data}, b'here'
    server.refused[HUB['madry']] = (403, b'gated', {'X-Error-Code': 'GatedRepo'})
    server.faults[f'/{HUB["madry"]}/net.ckpt'] = ['cut']
    script = '''
import sys
from spurnb.photos.downloads import download
from spurnb.encoders import fetch_pinned
try: print(fetch_pinned('madrylab/robust-imagenet-models', 'net.ckpt'))
except ValueError as e: print(e)
print(download('http://files.invalid/f.bin', sys.argv[1]).read_text())
'''
    through = server.environment(tmp_path / 'home') | dict(
        HF_ENDPOINT='http://hub.invalid',
        HTTP_PROXY=server.address,
        http_proxy=server.address,
        NO_PROXY='',
        no_proxy='',
    )

    def run(name, **more):
        return python('-c', script, tmp_path / name, **through | more).stdout.splitlines()

    assert 'is gated' in run('first')[0]
    fetched, ours = run('second', HF_TOKEN=TOKEN)
    assert (
        Path(fetched).read_bytes() == data
        and Path(fetched).is_relative_to(tmp_path / 'home')
        and ours == 'here'
    )
    asked = [r for method, path, r in server.asked if method == 'GET' and path.endswith('net.ckpt')]
    assert (
        len(asked) == 2
        and asked[0] is None
        and int(asked[1].removeprefix('bytes=').partition('-')[0]) > 10_000_000
    ), asked  # the second request went on
    before = len(server.asked)
    assert run('second', HF_HUB_OFFLINE='1') == [fetched, 'here'] and len(server.asked) == before


def cut_and_continued(command, made, **env):
    "Kill a run without warning once `made` is there, and run it again."
    how = dict(cwd=root / 'tests', env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(root)) | env)
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    first, deadline = subprocess.Popen([sys.executable, *map(str, command)], **how, **quiet), time.monotonic() + 600
    while not made.exists():
        assert first.poll() is None and time.monotonic() < deadline, f'{made} was not made'
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = {f: f.stat().st_mtime_ns for f in made.rglob('*') if f.is_file()}
    r = python(*command, **env)
    assert before and before == {f: f.stat().st_mtime_ns for f in before}, 'what was finished was made again'
    return r


@pytest.mark.parametrize('preset, model, precision', [
    ('sd15', 'sd', 'bfloat16'), ('sd15-lora-t4', 'sd', 'float16'), ('sd21', 'sd21', 'bfloat16')])
def test_the_whole_job_at_full_scale(world, tmp_path, preset, model, precision):
    """The whole command with small sizes: archive, Madry's encoder, Stable Diffusion, timm classifiers, report.
    It is killed after the first training and goes on."""
    server, folder = world
    place = folder / 'imagenet'
    data = [
        '--class_images',
        place,
        '--validation_images',
        place,
        '--out',
        tmp_path / 'run',
        '--device',
        'cpu',
    ]
    how = ['--preset', preset, '--target', 'hummingbird', *SMALL, 'hf-hub:nobody/model', *data]
    command = ['-m', 'spurnb.cli', 'run', *how]
    r = cut_and_continued(command, tmp_path / 'run' / 'model' / 'dreambooth', **server.environment(tmp_path / 'home'))
    assert r.returncode == 0, r.stdout + r.stderr
    assert 'expected memory' in r.stdout and 'expected time here' in r.stdout and 'report:' in r.stdout
    config = json.loads((tmp_path / 'run' / 'config.json').read_text())['settings']
    assert (config['data'], config['encoder'], config['generator'], config['train']['max_train_steps']) == (
        'spurious_imagenet',
        'madry:resnet50_l2_eps3',
        HUB[model],
        2,
    )
    metrics = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
    assert metrics['target'] | dict(prompted=0) == dict(
        name='hummingbird', index=94, feature='red feeder', prompted=0, classes=1000
    )
    assert list(metrics['arms']) == [
        'references',
        'untuned',
        'prompted',
        'dreambooth',
        'sfsl',
        'other_context',
    ] and list(metrics['classifiers']) == list(JUDGES)
    assert (
        list(metrics['left_out']) == ['hf-hub:nobody/model'] and "no 'nobody/model' on the hub" in r.stderr
    )  # said before the long work, and in the record
    assert (
        metrics['references'] == 4
        and metrics['held_out'] == 20
        and metrics['near_copy_threshold'] is not None
    )
    assert (
        all(m['accuracy']['n'] == 6 for m in metrics['judges'].values())
        and metrics['arms']['sfsl']['auc']['n']
    )
    assert (
        set(read_manifest(tmp_path / 'run' / 'images' / 'sfsl').dtype)
        == set(read_manifest(tmp_path / 'run' / 'images' / 'untuned').dtype)
        == {precision}
    )
    record = json.loads((tmp_path / 'run' / 'components.json').read_text())
    assert (
        len(record['references']) == 4
        and 'other features of Spurious ImageNet' in record['seen_from']
        and len(record['chosen']) == 1
    )
    assert (tmp_path / 'run' / 'report.html').stat().st_size > 50_000 and 'Traceback' not in r.stderr


def test_sdxl_a_tar_and_a_detector(world, tmp_path):
    "Two text encoders, bfloat16, adapters; class images from a tar; then an audit with OWLv2."
    server, folder = world
    env = server.environment(tmp_path / 'home')
    how = ['--preset', 'sdxl', '--target', 'hummingbird', '--class_images', folder / 'train.tar', *SMALL]
    command = ['-m', 'spurnb.cli', 'run', *how, '--out', tmp_path / 'run', '--device', 'cpu']
    r = cut_and_continued(command, tmp_path / 'run' / 'model' / 'dreambooth', **env)
    assert r.returncode == 0 and 'Traceback' not in r.stderr, r.stdout + r.stderr
    assert (tmp_path / 'run' / 'model' / 'sfsl' / 'pytorch_lora_weights.safetensors').is_file() and list(
        (tmp_path / 'home' / 'spurnb' / 'imagenet').iterdir()
    )
    how = ['--target', 'hummingbird', '--feature', 'feeder', '--audit.judges', *JUDGES]
    how += [
        '--positives',
        folder / 'imagenet' / 'train' / 'n01833805',
        '--references',
        tmp_path / 'run' / 'images' / 'references',
    ]
    how += ['--audit.detector', f'owlv2:{HUB["owlv2"]}', '--out', tmp_path / 'audit', '--device', 'cpu']
    r = python('-m', 'spurnb.cli', 'audit', tmp_path / 'run' / 'images' / 'sfsl', *how, **env)
    assert r.returncode == 0, r.stdout + r.stderr
    metrics = json.loads((tmp_path / 'audit' / 'metrics.json').read_text())
    assert metrics['arms']['images']['object_absent']['n'] == 4 and all(
        m['accuracy']['n'] == 24 for m in metrics['judges'].values()
    ), metrics['arms']


def test_stable_diffusion_counted_from_its_configuration(tmp_path):
    "From shapes alone: adapters fit a GPU with 15 GB, all weights do not, and the message says what would."
    import torch
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextConfig
    from spurnb.run.memory import check_disk, check_ram, check_room, count, needs, shapes_of
    from spurnb.run.settings import change, settings_for

    with torch.device('meta'):
        UNet2DConditionModel(sample_size=64, cross_attention_dim=768).save_config(tmp_path / 'sd' / 'unet')
        AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=('DownEncoderBlock2D',) * 4,
            up_block_types=('UpDecoderBlock2D',) * 4,
            layers_per_block=2,
            sample_size=512,
        ).save_config(tmp_path / 'sd' / 'vae')
        AutoencoderTiny().save_config(tmp_path / 'taesd')
    CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
    ).save_pretrained(tmp_path / 'sd' / 'text_encoder')
    parts = dict(
        unet=['diffusers', 'UNet2DConditionModel'],
        vae=['diffusers', 'AutoencoderKL'],
        text_encoder=['transformers', 'CLIPTextModel'],
        tokenizer=['transformers', 'CLIPTokenizer'],
    )
    (tmp_path / 'sd' / 'model_index.json').write_text(
        json.dumps(dict(_class_name='StableDiffusionPipeline', **parts))
    )
    shapes = shapes_of(str(tmp_path / 'sd'))
    assert {k: round(count(v) / 1e6, 1) for k, v in shapes.parts.items()} == dict(
        unet=859.5, vae=83.7, text_encoder=123.1
    ) and shapes.side == 512
    here = dict(generator=tmp_path / 'sd', sfsl=dict(tiny=str(tmp_path / 'taesd')))
    full, lora = settings_for('sd15', **here), settings_for('sd15-lora-t4', **here)
    check_room(needs(lora), lora, room=15e9)
    found = needs(full)
    assert found.training['optimizer'] == 8 * sum(count(shapes.parts[p]) for p in ('unet', 'text_encoder'))
    with pytest.raises(UserError, match='--train.lora_rank 8 .*larger GPU'):
        check_room(found, full, room=15e9)
    check_room(found, full, room=24e9)
    trained = sum(count(shapes.parts[p]) for p in ('unet', 'text_encoder'))
    state, model = found.disk['states'], found.disk['model']
    assert state == found.disk['writing'] == pytest.approx(12 * trained, rel=1e-3) == pytest.approx(11.8e9, rel=0.01)
    assert model == pytest.approx(4 * sum(map(count, shapes.parts.values())), rel=1e-3)
    assert found.written == 2 * (4 * state + model)  # four states in each of two trainings
    with pytest.raises(UserError, match='GB more in .*11.8.* and 25.0 are free; train adapters .*HF_HOME'):
        check_disk(found, full, free=25e9)
    check_disk(found, full, free=34e9)
    check_disk(needs(lora), lora, free=6e9)
    with pytest.raises(UserError, match='14.8 GB of RAM .*there are 12.7'):
        check_ram(found, room=12.7e9)
    check_ram(needs(lora), room=12.7e9)  # Colab's machine with a T4
    two = change(full, dict(train=dict(checkpoints_total_limit=2, checkpointing_steps=100)))
    assert needs(two).disk['states'] == 2 * state and needs(two).written > 1.9 * found.written


def test_show_says_what_it_takes_and_refuses_what_is_ambiguous(world, tmp_path):
    server, folder = world

    def show(*more):
        how = ['--preset', 'sd15-lora-t4', '--device', 'cpu', '--show', *more]
        return python('-m', 'spurnb.cli', 'run', *how, **server.environment(tmp_path / 'home'))

    r = show('--generate.guidance_scale', '5', '--generate.batch_size', '3')
    assert r.returncode == 0, r.stderr
    for line in ('* --generate.guidance_scale 5.0', '* --train.lora_rank 8', '  --seed 0', 'expected memory'):
        assert line in r.stdout, line
    r = show('--target', 'crane')
    assert (
        r.returncode == 2
        and 'wading bird' in r.stderr
        and 'lifts and moves heavy objects' in r.stderr
        and 'Traceback' not in r.stderr
    )
    assert not list((tmp_path / 'home').rglob('*.safetensors'))  # nothing but configurations


def test_a_model_against_the_features(world, tmp_path):
    "Two shards keep the answers, and the whole only counts; both protocols are beside the published scores."
    server, folder = world
    judges = ['--audit.judges', *JUDGES, 'hf-hub:nobody/model']
    how = [
        '--data',
        'spurious_imagenet',
        '--validation_images',
        folder / 'imagenet',
        *judges,
        '--targets',
        'hummingbird',
    ]
    how += ['koala', '--out', tmp_path / 'out', '--device', 'cpu']

    def features(*more):
        return python('-m', 'spurnb.cli', 'audit', *how, *more, **server.environment(tmp_path / 'home'))

    for shard in ('1/2', '2/2'):
        assert features('--shard', shard).returncode == 3  # one classifier cannot be had
    kept = {f: f.stat().st_mtime_ns for f in (tmp_path / 'out' / 'logits').rglob('*.npz')}
    r = features()
    assert (
        r.returncode == 3
        and "no 'nobody/model' on the hub" in r.stdout
        and 'ConvNeXt-L 21k' in r.stdout
        and 'Traceback' not in r.stderr
    ), r.stdout + r.stderr
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / 'out' / 'logits').rglob('*.npz')} == kept
    import pandas as pd

    order = ['protocol', 'class_index', 'judge']
    table, *parts = (
        pd.read_csv(tmp_path / 'out' / f'features{end}.csv').sort_values(order, ignore_index=True)
        for end in ('', '-1-of-2', '-2-of-2')
    )
    assert pd.concat(parts).sort_values(order, ignore_index=True).equals(table)
    assert table.value_counts(['protocol', 'class_index']).to_dict() == {
        (p, k): 2 for p in ('original', 'model') for k in (94, 105)
    }
    assert (
        (table.n == table.class_index.map({94: 26, 105: 10})).all()
        and (table.n_class == 6).all()
        and table.ap.between(0, 1).all()
        and table[['ap_low', 'ap_high']].isna().all(None)  # six images are too few for an interval
    )
    means = pd.read_csv(tmp_path / 'out' / 'means.csv').set_index(['protocol', 'judge'])
    assert (means.features == 2).all() and abs(
        means.ap['original', JUDGES[0]]
        - table.ap[(table.protocol == 'original') & (table.judge == JUDGES[0])].mean()
    ) < 1e-9
    aps = table.pivot(index=['class_index', 'judge'], columns='protocol', values='ap')
    assert (aps.original != aps.model).any()  # resized whole, or cut to the middle; few images may rank alike
    assert all(line in r.stdout for line in ('mean over the features', 'original', 'model'))
    assert re.search('robust ResNet-50 +57.4 ', r.stdout)  # the published rows, beside ours


def test_the_tutorial_outlives_its_session(world, tmp_path):
    "Cut in the middle, it goes on in another process with an empty home: nothing is fetched or generated again."
    server, folder = world
    run = '''
import sys, nbformat
from nbclient import NotebookClient
nb = nbformat.read(sys.argv[1], 4)
nb.cells = [c for c in nb.cells if 'pip install' not in c.source]
NotebookClient(nb, timeout=1500, resources=dict(metadata=dict(path=sys.argv[2]))).execute()
print(''.join(o.get('text', '') for c in nb.cells for o in c.get('outputs', [])))
'''
    keep = tmp_path / 'drive'
    where = dict(
        SPURNB_TRAIN=str(folder / 'imagenet'),
        SPURNB_VAL=str(folder / 'imagenet'),
        SPURNB_OPTIONS=' '.join(SMALL),
        SPURNB_KEEP=str(keep),
        OMP_NUM_THREADS='1',
        MPLBACKEND='agg',
        PYTHONPATH=os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]),
    )
    command = [sys.executable, '-c', run, root / 'nbs' / 'tutorials' / '01_full_scale.ipynb']

    def session(name):  # a computer of its own, on which only the drive is not empty
        home = tmp_path / name
        home.mkdir()
        env = os.environ | server.environment(home / 'unused') | where | dict(HOME=str(home))
        how = dict(cwd=root / 'tests', env=env, text=True, start_new_session=True)
        return subprocess.Popen(command + [home], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)

    made = keep / 'runs' / 'hummingbird-0'
    first, deadline = session('first'), time.monotonic() + 600
    while not list(made.glob('images/untuned/*.png')):
        assert first.poll() is None, first.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (made / 'metrics.json').exists()
    before = {f: f.stat().st_mtime_ns for f in made.glob('prior/*/*.png')}
    server.asked.clear()
    second = session('second')
    said, errors = second.communicate(timeout=900)
    assert second.returncode == 0, errors[-3000:]
    assert 'spurious' in said and (made / 'report.html').is_file() and not (tmp_path / 'second' / 'unused').exists()
    assert {f: f.stat().st_mtime_ns for f in made.glob('prior/*/*.png')} == before
    weights = [a for a in server.asked if 'unet' in str(a) and 'safetensors' in str(a) and 'HEAD' not in str(a)]
    assert not weights, weights
