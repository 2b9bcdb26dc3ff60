"Encoders from a hub on this machine, and networks, images and files that do not fit."

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.squeezenet import SqueezeNet

from spurnb.core import UserError, generator
from spurnb.encoders import Encoder, load_encoder, read_checkpoint, resnet_from, small_resnet, standard_resnet

root = Path(__file__).resolve().parents[1]
REPO = 'madrylab/robust-imagenet-models'


@pytest.fixture
def hub():
    "Serve a small Hugging Face hub; yield its address and the dict of its files, name to bytes."
    files = {}

    class Answer(BaseHTTPRequestHandler):
        def log_message(self, *args): pass
        def do_HEAD(self): self.do_GET()
        def do_GET(self):
            kind, name, headers = 'application/json', self.path.rpartition('/')[2], {}
            commit = hashlib.sha1(b''.join(files.values())).hexdigest()
            if self.path.startswith(f'/api/models/{REPO}'):
                body = json.dumps(dict(id=REPO, sha=commit, siblings=[dict(rfilename=f) for f in files])).encode()
            elif self.path.startswith(f'/{REPO}/resolve/') and name in files:
                body, kind = files[name], 'application/octet-stream'
                headers = {'X-Repo-Commit': commit, 'ETag': f'"{hashlib.sha256(body).hexdigest()}"'}
            else: return self.send_error(404, 'Entry not found')
            self.send_response(200)
            headers |= {'Content-Type': kind, 'Content-Length': str(len(body))}
            for k, v in headers.items(): self.send_header(k, v)
            self.end_headers()
            if self.command == 'GET': self.wfile.write(body)

    server = ThreadingHTTPServer(('127.0.0.1', 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', files
    server.shutdown()


def checkpoint(seed, **extra):
    "Return a file as the `robustness` library writes it, around a small ResNet, and its logits for a gray image."
    from timm.models.resnet import Bottleneck, ResNet
    torch.manual_seed(seed)
    net = ResNet(Bottleneck, (1, 2, 1, 1), num_classes=7, channels=(8, 8, 8, 16), base_width=128).eval()
    state = {f'module.{part}{k}': v for part in ('model.', 'attacker.model.') for k, v in net.state_dict().items()}
    state['module.normalizer.new_mean'] = torch.zeros(3, 1, 1)
    file = io.BytesIO()
    torch.save(dict(model=state, epoch=90) | extra, file)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((.485, .456, .406), (.229, .224, .225)))
    with torch.no_grad(): logits = net((torch.full((1, 3, 224, 224), .5) - mean)/std)[0].tolist()
    return file.getvalue(), logits


asking = '''
import json, sys, torch
from spurnb.encoders import load_encoder
for trust in (False, True)[:int(sys.argv[2])]:
    try: print(json.dumps(load_encoder(sys.argv[1], trust=trust)(torch.full((1, 3, 224, 224), .5))[0].tolist()))
    except ValueError as e: print(type(e).__name__, e)
'''


def ask(hub, home, name, times=1):
    "Load an encoder in a fresh process that knows no other hub; return the lines it printed."
    env = os.environ | dict(PYTHONPATH=str(root), HF_ENDPOINT=hub, HF_HOME=str(home), HF_HUB_OFFLINE='0',
                            HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1')
    command = [sys.executable, '-c', asking, name, str(times)]
    r = subprocess.run(command, text=True, capture_output=True, env=env)
    assert r.returncode == 0, r.stderr[-2000:]
    return r.stdout.splitlines()


def test_a_robust_model_from_the_hub(hub, tmp_path):
    address, files = hub
    name = 'madry:wide_resnet50_2_l2_eps3'
    files['wide_resnet50_2_l2_eps3.ckpt'], says = checkpoint(0)
    [line] = ask(address, tmp_path, name)
    assert json.loads(line) == pytest.approx(says, abs=1e-4)
    [pin] = tmp_path.rglob('*.sha256')
    assert pin.read_text() == hashlib.sha256(files['wide_resnet50_2_l2_eps3.ckpt']).hexdigest()

    files['wide_resnet50_2_l2_eps3.ckpt'] = checkpoint(1)[0] # somebody changes the file on the hub
    [line] = ask(address, tmp_path, name)
    assert line.startswith('UserError') and 'is not the file first seen' in line and str(pin) in line
    pin.unlink() # the cure that the message names
    assert ask(address, tmp_path, name)[0].startswith('[')


def test_pickled_code_only_runs_when_trusted(hub, tmp_path):
    address, files = hub
    files['resnet18_l2_eps3.ckpt'], says = checkpoint(0, schedule=Path)
    refused, loaded = ask(address, tmp_path, 'madry:resnet18_l2_eps3', times=2)
    assert refused.startswith('UserError') and 'trust=True' in refused
    assert json.loads(loaded) == pytest.approx(says, abs=1e-4)


def test_a_file_that_is_not_there(hub, tmp_path):
    [line] = ask(hub[0], tmp_path, 'madry:resnet50_linf_eps4.0')
    assert line.startswith("UserError cannot fetch 'resnet50_linf_eps4.0.ckpt'")


def photos(*shape): return torch.rand(*shape, generator=generator(0, 'photos'))


def own(): return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def broken():
    model = small_resnet(6)
    model.fc.bias.data[2] = float('nan')
    return model


NO_ENCODER = {
    "no linear layer 'fc'": lambda: Encoder(own(), head='fc'),
    "its linear layers are '0.3'; name one": lambda: Encoder(nn.Sequential(own(), nn.Softmax(1))),
    'it has no linear layer': lambda: Encoder(SqueezeNet(num_classes=6)),
    'cannot take an image of 48 px': lambda: Encoder(VisionTransformer(64, 16, 1, 2, 32, 64), size=48),
    "'fc.bias'": lambda: Encoder(broken()),
    'layer1': lambda: resnet_from({'fc.weight': torch.ones(6, 2)}),
    'not the weights of a ResNet': lambda: standard_resnet({'fc.weight': torch.ones(6, 2)}),
    'resnet50': lambda: load_encoder('resnet5O'),
    'resnet50_l2_eps3': lambda: load_encoder('madry:resnet50_l2_eps2'),
    'there is no encoder': lambda: load_encoder('nowhere.safetensors'),
    'no checkpoint': lambda: read_checkpoint('nowhere.ckpt'),
}


@pytest.mark.parametrize('said', NO_ENCODER)
def test_networks_and_names_that_make_no_encoder(said):
    with pytest.raises(UserError) as e: NO_ENCODER[said]()
    assert said in str(e.value)


NO_IMAGES = {
    '(3, 64, 64)': lambda: photos(3, 64, 64),
    '(2, 1, 64, 64)': lambda: photos(2, 1, 64, 64),
    'more than one pixel': lambda: photos(2, 3, 1, 1),
    'torch.uint8': lambda: (photos(2, 3, 64, 64)*255).byte(),
    'a str': lambda: 'picture.png',
}


@pytest.mark.parametrize('said', NO_IMAGES)
def test_images_that_do_not_fit(said):
    with pytest.raises(UserError) as e: Encoder(small_resnet(6))(NO_IMAGES[said]())
    assert said in str(e.value)


def test_checkpoints_that_do_not_fit(tmp_path):
    file, _ = checkpoint(0)
    (tmp_path/'half.ckpt').write_bytes(file[:9999])
    torch.save(dict(model={'fc.weight': torch.ones(2, 2)}), tmp_path/'other.ckpt')
    torch.save(dict(model={'module.model.fc.weight': torch.ones(2, 2)}, schedule=Path), tmp_path/'code.ckpt')
    for name, said in dict(half='damaged', other='holds no weights under module.model.', code='trust=True').items():
        with pytest.raises(UserError, match=said): read_checkpoint(tmp_path/f'{name}.ckpt')
    assert list(read_checkpoint(tmp_path/'code.ckpt', trust=True)) == ['fc.weight']
