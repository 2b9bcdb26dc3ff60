"Encoders from a hub on this machine, and networks, images and files that do not fit."

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.squeezenet import SqueezeNet

from spurnb.core import UserError, generator
from spurnb.encoders import (
    Encoder, TensorUnpickler, load_encoder, read_checkpoint, resnet_from, small_resnet, standard_resnet)

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
try: print(json.dumps(load_encoder(sys.argv[1])(torch.full((1, 3, 224, 224), .5))[0].tolist()))
except ValueError as e: print(type(e).__name__, e)
'''


def ask(hub, home, name):
    "Load an encoder in a fresh process that knows no other hub; return the lines it printed."
    env = os.environ | dict(PYTHONPATH=str(root), HF_ENDPOINT=hub, HF_HOME=str(home), HF_HUB_OFFLINE='0',
                            HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1')
    command = [sys.executable, '-c', asking, name]
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
    torch.save(dict(model={'module.model.weight': torch.ones(2, 2)}), tmp_path/'other.ckpt')
    torch.save(dict(model=own()), tmp_path/'object.ckpt')
    torch.jit.script(own()).save(tmp_path/'script.ckpt')
    for name, said in dict(half='damaged', other='no weights', object='no weights', script='TorchScript').items():
        with pytest.raises(UserError, match=said): read_checkpoint(tmp_path/f'{name}.ckpt')


@pytest.mark.parametrize('record', ['{"size": ', '[64]'])
def test_an_encoder_with_a_damaged_record_is_refused(record, tmp_path):
    save_file(small_resnet(6).state_dict(), tmp_path/'encoder.safetensors', metadata=dict(encoder=record))
    with pytest.raises(UserError, match='damaged record'): load_encoder(tmp_path/'encoder.safetensors')


# ---- what real `dill` wrote


def small_net():
    "A ResNet with torchvision's names."
    from timm.models.resnet import Bottleneck, ResNet
    torch.manual_seed(0)
    return ResNet(Bottleneck, (1, 1, 1, 1), num_classes=7, channels=(8, 8, 8, 16)).eval()


def under(*prefixes): return lambda state: {p + k: v for p in prefixes for k, v in state.items()}


def trained(**extra):
    "What the `robustness` library keeps after an epoch, and `extra`."
    def keep(state):
        optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=.1, momentum=.9)
        model = under('module.model.', 'module.attacker.model.')(state)
        model['module.normalizer.new_mean'] = torch.zeros(3, 1, 1)
        return dict(model=model, optimizer=optimizer.state_dict(), epoch=90) | extra
    return keep


def a_class_of_this_file():
    "An object whose class `dill` writes into the file."
    local = type('Local', (dict,), {'__module__': '__main__', 'ask': lambda self: 1})
    thing = local(a=1)
    thing.note = 'kept'
    return thing


def schedule():
    optimizer = torch.optim.Adam([torch.ones(2, requires_grad=True)])
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: .9**epoch)


WRITTEN = dict(
    plain=trained(),
    optimizer_and_schedule=trained(optimizer=schedule().optimizer, schedule=schedule()),
    a_lambda=trained(schedule=dict(lr_lambdas=[lambda epoch: .1*epoch])),
    numpy_scalars=trained(nat_prec1=np.float64(62.8), adv_prec1=np.float32(3), best=np.arange(3)),
    amp=trained(amp={'loss_scaler0': dict(loss_scale=65536., unskipped=71)}),
    local_class=trained(args=a_class_of_this_file()),
    a_set_and_a_path=trained(done={1, Path('here')}),
    nested=lambda state: dict(state_dict=dict(model=under('module.model.')(state))),
    state_dict=lambda state: dict(state_dict=under('module.')(state)),
    model_prefix=lambda state: dict(model=under('model.')(state)),
    bare=lambda state: state,
    bare_prefix=under('module.'),
)


@pytest.fixture
def dill(monkeypatch):
    dill = pytest.importorskip('dill')
    monkeypatch.setitem(dill.settings, 'recurse', True) # of a function's globals only those that it uses
    return dill


@pytest.mark.parametrize('zipped', (True, False), ids=('zip', 'legacy'))
@pytest.mark.parametrize('name', WRITTEN)
def test_every_file_that_dill_writes_opens(tmp_path, dill, name, zipped):
    net, file = small_net(), tmp_path/'net.ckpt'
    kept = WRITTEN[name](net.state_dict())
    torch.save(kept, file, pickle_module=dill, _use_new_zipfile_serialization=zipped)
    encoder = load_encoder(file)
    gray = torch.full((1, 3, 224, 224), .5)
    with torch.no_grad(): assert torch.allclose(encoder(gray), net(encoder.prepare(gray)), atol=1e-5)


class Touch:
    "Writes a file when it is unpickled."
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return eval, (f'open({self.path!r}, "w").close()',)


@pytest.mark.parametrize('zipped', (True, False), ids=('zip', 'legacy'))
@pytest.mark.parametrize('where', ('value', 'key', 'lambda'))
def test_no_code_of_a_file_runs(tmp_path, dill, where, zipped):
    file, mark = tmp_path/'evil.ckpt', tmp_path/'ran'
    kept = trained()(small_net().state_dict())
    if where == 'value': kept['epoch'] = Touch(mark)
    if where == 'key': kept = {Touch(mark): 1} | kept
    if where == 'lambda': kept['schedule'] = dict(f=lambda: 1, then=Touch(mark))
    torch.save(kept, file, pickle_module=dill, _use_new_zipfile_serialization=zipped)
    assert 'fc.weight' in read_checkpoint(file) and not mark.exists()
    torch.load(file, pickle_module=dill, weights_only=False)
    assert mark.exists() # the payload is real


def test_a_file_cannot_change_what_reads_it():
    "A pickle may set attributes of what it finds; it only ever finds copies."
    code = pickle.PROTO + b'\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x07\x00\x00\x00spoiledK\x01sb.'
    with pytest.raises(TypeError, match='partial'): TensorUnpickler(io.BytesIO(code)).load()
    assert not hasattr(torch._utils._rebuild_tensor_v2, 'spoiled')
