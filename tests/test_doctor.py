"`spurnb_doctor` against local servers: in good health, and with each fault in turn."

import io, json, os, socket, subprocess, sys, threading
from pathlib import Path

import pytest

from server import HUB, JUDGES, checkpoint, full_scale

root = Path(__file__).resolve().parents[1]
IMAGENET = 'ILSVRC/imagenet-1k'

# One process for all faults: a line of JSON in, changes to the settings; a line of JSON out, the checks.
SCRIPT = """
import json, sys
from dataclasses import asdict
from spurnb.run.doctor import checked, checks, diagnose
from spurnb.run.settings import settings_for
for line in sys.stdin:
    changes = json.loads(line)
    only = changes.pop('only')
    settings = settings_for('sd15', **changes)
    found = [checked(*c) for c in checks(settings) if c[0].startswith(only)] if only else list(diagnose(settings))
    print(json.dumps([asdict(c) for c in found]), flush=True)
"""


def parquet(labels):
    "A parquet file as ImageNet's on the hub."
    import pyarrow as pa, pyarrow.parquet as pq
    from PIL import Image

    image, out = io.BytesIO(), io.BytesIO()
    Image.new('RGB', (40, 30), 'red').save(image, 'JPEG')
    rows = [dict(bytes=image.getvalue(), path=f'{i}.jpeg') for i in range(len(labels))]
    pq.write_table(pa.table(dict(image=rows, label=labels)), out, row_group_size=2)
    return out.getvalue()


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "A server with everything of a run, and with broken copies of it."
    pytest.importorskip('pyarrow')
    folder = tmp_path_factory.mktemp('world')
    server, hub = full_scale(folder), {}
    names = [f'data/{s}-00000-of-00001.parquet' for s in ('train', 'validation')]
    hub[f'datasets/{IMAGENET}'] = {n: parquet([7, 94, 7]) for n in names}
    hub['datasets/listed/imagenet'] = dict(hub[f'datasets/{IMAGENET}'])
    server.faults |= {f'/datasets/listed/imagenet/{n}': [(403, {'X-Error-Code': 'GatedRepo'})] * 99 for n in names}
    hub['datasets/other/imagenet'] = {'data/README.md': b'no images'}
    hub['empty/sd'] = {k: v for k, v in server.hub[HUB['sd']].items() if 'safetensors' not in k}
    server.hub |= hub
    server.hub[HUB['madry']]['resnet50_l2_eps1.ckpt'] = checkpoint(classes=10)
    server.hub[HUB['madry']]['resnet50_l2_eps5.ckpt'] = checkpoint()[:5000]
    gated = (403, b'gated', {'X-Error-Code': 'GatedRepo'})
    server.refused |= {'datasets/gated/imagenet': gated, 'gated/model': gated}
    server.files['page.zip'] = b'<html>This share has expired</html>'
    server.files['whole.zip'] = server.files['images_100_classes.zip']
    server.faults['/whole.zip'] = ['no range'] * 99
    huge = json.loads((folder / 'sd' / 'unet' / 'config.json').read_text()) | dict(block_out_channels=[60000, 60000])
    (folder / 'huge' / 'unet').mkdir(parents=True)
    for file in (folder / 'sd').rglob('*.json'):
        to = folder / 'huge' / file.relative_to(folder / 'sd')
        to.parent.mkdir(exist_ok=True)
        to.write_text(json.dumps(huge) if file.parent.name == 'unet' else file.read_text())
    yield server, folder
    server.stop()


def environment(server, home, **more):
    path = os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')])
    return os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=path) | server.environment(home) | more


HEALTHY = dict(
    target='hummingbird', device='cpu', class_images=IMAGENET, validation_images=IMAGENET, audit=dict(judges=JUDGES)
)


@pytest.fixture(scope='module')
def doctor(world, tmp_path_factory):
    "Function: changes to healthy settings -> the checks whose names begin with `only`."
    server, _ = world
    env = environment(server, tmp_path_factory.mktemp('home'))
    how = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    with subprocess.Popen([sys.executable, '-c', SCRIPT], **how) as process:

        def ask(only='', **changes):
            process.stdin.write(json.dumps(HEALTHY | changes | dict(only=only)) + '\n')
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


def test_in_good_health_every_check_passes(world, doctor):
    server, _ = world
    before = len(server.asked)
    found = doctor()
    assert all(c['passed'] for c in found), found
    assert [c['name'] for c in found] == [
        *('device', 'hub', 'generator', 'encoder', 'class', 'feature images', 'class images', 'validation images'),
        *(f'judge {j}' for j in JUDGES),
        *('memory', 'RAM', 'disk'),
    ]
    said = {c['name']: c['said'] for c in found}
    assert said['class'] == "hummingbird (94), feature 'red feeder'" and 'class 7' in said['class images']
    asked = server.asked[before:]
    bodies = [path for method, path, _ in asked if method == 'GET' and path.endswith('.safetensors')]
    assert not bodies, bodies  # weights are asked for, not fetched; only the encoder is opened
    archive = [r for _, path, r in asked if path == '/images_100_classes.zip']
    assert archive and all(archive), 'the archive is read in parts'
    assert {c['name'] for c in found if c['fetch']} == {'generator', *(f'judge {j}' for j in JUDGES)}


FAULTS = [
    ('class', dict(target='crane'), 'is the name of 2 classes'),
    ('feature images', dict(data='{server}/gone.zip'), 'there is nothing at'),
    ('feature images', dict(data='http://127.0.0.1:9/images.zip'), 'cannot reach the server'),
    ('feature images', dict(data='{server}/page.zip'), 'is no zip file'),
    ('feature images', dict(data='{server}/whole.zip'), 'is not served in parts'),
    ('feature images', dict(data='{folder}/nothing'), 'give the address, the zip file or the folder'),
    ('generator', dict(generator='gated/model'), 'is gated; open'),
    ('generator', dict(generator='runwayml/stable-diffusion-v1-5'), "take its mirror 'stable-diffusion-v1-5/"),
    ('generator', dict(generator='empty/sd'), "has no weights in 'safety_checker'"),
    ('encoder', dict(encoder='madry:resnet18_l2_eps3'), 'lacks a file'),
    ('encoder', dict(encoder='madry:resnet50_l2_eps1'), 'knows 10 classes'),
    ('encoder', dict(encoder='madry:resnet50_l2_eps5'), 'is no checkpoint, or damaged'),
    ('class images', dict(class_images='gated/imagenet'), 'in a browser, log in and accept its terms'),
    ('class images', dict(class_images='listed/imagenet'), 'in a browser, log in and accept its terms'),
    ('class images', dict(class_images='nobody/imagenet'), "no 'datasets/nobody/imagenet' on the hub"),
    ('class images', dict(class_images='other/imagenet'), 'has no data/train*.parquet'),
    ('class images', dict(class_images='{folder}/nothing'), 'give ImageNet as'),
    ('class images', dict(class_images='{folder}/pca.safetensors'), 'there is no PCA'),
    ('validation images', dict(validation_images='listed/imagenet'), 'accept its terms'),
    ('other images', dict(other_images='{folder}/nothing'), 'there is no folder'),
    ('judge', dict(audit=dict(judges=['resnet5000'])), 'did you mean'),
    ('judge', dict(audit=dict(judges=['hf-hub:nobody/model'])), "no 'nobody/model' on the hub"),
    ('judge', dict(audit=dict(judges=['hf-hub:gated/model'])), 'is gated'),
    ('tiny decoder', dict(sfsl=dict(decoder='tiny', tiny='nobody/taesd')), "no 'nobody/taesd' on the hub"),
    ('detector', dict(audit=dict(judges=JUDGES, detector='clip:nobody/clip')), "no 'nobody/clip' on the hub"),
    ('space', dict(audit=dict(judges=JUDGES, space='resnet5000')), 'did you mean'),
    ('space', dict(audit=dict(judges=JUDGES, space='madry:resnet50_l2_eps5')), 'is no checkpoint, or damaged'),
    ('LPIPS', dict(audit=dict(judges=JUDGES, lpips='alix')), 'there is no network of LPIPS'),
    ('memory', dict(generator='{folder}/huge'), 'take a smaller generator or a larger GPU'),
    ('RAM', dict(generator='{folder}/huge'), 'take a machine with more'),
    ('', dict(generator='{folder}/huge'), 'choose another disk with HF_HOME and --out'),
    ('', dict(out='/proc/run'), 'and 0.0 are free'),
]


@pytest.mark.parametrize('only, changes, said', FAULTS, ids=lambda x: x if isinstance(x, str) else '')
def test_each_fault_is_found_with_its_cure(world, doctor, only, changes, said):
    server, folder = world
    text = json.dumps(changes).replace('{server}', server.address).replace('{folder}', str(folder))
    found = doctor(only, **json.loads(text))[0 if only else -1]  # the disk comes last, after all others
    assert not found['passed'] and said in found['said'] and '\n' not in found['said'], found


def command(server, home, *options, **more):
    how = ['doctor', '--preset', 'sd15', '--target', 'hummingbird', '--audit.judges', *JUDGES, '--device', 'cpu']
    args = [sys.executable, '-m', 'spurnb.cli', *how, '--class_images', IMAGENET, *options]
    return subprocess.run(args, text=True, capture_output=True, env=environment(server, home, **more))


def broken_hub():
    "-> address of a server that hangs up, list with an entry for each call"
    hub, calls = socket.create_server(('127.0.0.1', 0)), []

    def hang_up():
        while True:
            calls.append(hub.accept()[0].close())

    threading.Thread(target=hang_up, daemon=True).start()
    return f'http://127.0.0.1:{hub.getsockname()[1]}', calls


def test_the_command_ends_with_3_and_a_block_for_an_issue(world, tmp_path):
    server, _ = world
    r = command(server, tmp_path)
    assert r.returncode == 0 and 'FAILED' not in r.stdout, r.stdout + r.stderr
    assert all(line.startswith('passed  ') for line in r.stdout.split('\n\n')[0].splitlines())
    away, calls = broken_hub()
    r = command(server, tmp_path / 'away', HF_ENDPOINT=away, HF_TOKEN='hf_secret', HOME=str(tmp_path))
    assert 1 <= len(calls) <= 3, 'every check waits for the network'
    assert r.returncode == 3 and 'Traceback' not in r.stderr, r.stdout + r.stderr
    lines, block = r.stdout.split('```')[:2]
    failed = [line for line in lines.splitlines() if line.startswith('FAILED')]
    names = [line.split(':')[0].removeprefix('FAILED  ') for line in failed]
    assert names[:4] == ['hub', 'generator', 'encoder', 'class images'] and f'cannot reach {away}' in failed[0]
    assert all(f'is not on this machine, and {away} cannot be reached' in line for line in failed[1:6])
    assert f'{len(failed)} of ' in block and 'HF_TOKEN' in block and 'diffusers ' in block
    assert 'hf_secret' not in r.stdout and str(tmp_path) not in block


def test_the_archive_s_second_address_is_asked_too(world, tmp_path, monkeypatch):
    from spurnb.core import UserError
    from spurnb.photos import spurious_imagenet
    from spurnb.photos.peek import feature_image

    server, _ = world
    first, second = (f'{server.address}/{place}/images_100_classes.zip' for place in ('first', 'second'))
    monkeypatch.delenv('SPURNB_SPURIOUS_IMAGENET', raising=False)
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    monkeypatch.setattr(spurious_imagenet, 'ARCHIVE', first)
    monkeypatch.setattr(spurious_imagenet, 'MIRROR', second)
    with pytest.raises(UserError, match='nothing at .*/first/.*nothing at .*/second/'):
        feature_image('spurious_imagenet', 'hummingbird')
    server.files['first/images_100_classes.zip'] = server.files['page.zip']
    server.files['second/images_100_classes.zip'] = server.files['images_100_classes.zip']
    name, image = feature_image('spurious_imagenet', 'hummingbird')
    assert name.endswith(f' at {second}') and image.mode == 'RGB' and not list(tmp_path.rglob('*.zip'))
