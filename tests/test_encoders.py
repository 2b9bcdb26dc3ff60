"Encoders from the hub: fetched, checked and mapped, against a hub on this machine."
import hashlib, json, os, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
REPO = 'madrylab/robust-imagenet-models'


@pytest.fixture
def hub():
    "A small Hugging Face hub; -> its address and the dict of its files, name to bytes."
    files = {}

    class Answer(BaseHTTPRequestHandler):
        def log_message(self, *args): pass
        def do_HEAD(self): self.do_GET()
        def do_GET(self):
            kind, name, headers = 'application/json', self.path.rpartition('/')[2], {}
            commit = hashlib.sha1(b''.join(files.values())).hexdigest()
            if self.path.startswith(f'/api/models/{REPO}'): body = json.dumps(dict(id=REPO, sha=commit, siblings=[dict(rfilename=f) for f in files])).encode()
            elif self.path.startswith(f'/{REPO}/resolve/') and name in files:
                body, kind = files[name], 'application/octet-stream'
                headers = {'X-Repo-Commit': commit, 'ETag': f'"{hashlib.sha256(body).hexdigest()}"'}
            else: return self.send_error(404, 'Entry not found')
            self.send_response(200)
            for k, v in (headers | {'Content-Type': kind, 'Content-Length': str(len(body))}).items(): self.send_header(k, v)
            self.end_headers()
            if self.command == 'GET': self.wfile.write(body)

    server = ThreadingHTTPServer(('127.0.0.1', 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', files
    server.shutdown()


def checkpoint(seed, **extra):
    "A file as the `robustness` library writes it, around a ResNet of few channels; -> bytes, and what its network says to a gray image."
    import io, torch
    from timm.models.resnet import Bottleneck, ResNet
    torch.manual_seed(seed)
    net = ResNet(Bottleneck, (1, 2, 1, 1), num_classes=7, channels=(8, 8, 8, 16), base_width=128).eval()
    state = {f'module.{part}{k}': v for part in ('model.', 'attacker.model.') for k, v in net.state_dict().items()}
    file = io.BytesIO()
    torch.save(dict(model=state | {'module.normalizer.new_mean': torch.zeros(3, 1, 1)}, epoch=90) | extra, file)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((.485, .456, .406), (.229, .224, .225)))
    with torch.no_grad(): return file.getvalue(), net((torch.full((1, 3, 224, 224), .5) - mean)/std)[0].tolist()


asking = '''
import json, sys, torch
from spurnb.encoders import load_encoder
for trust in (False, True)[:int(sys.argv[2])]:
    try: print(json.dumps(load_encoder(sys.argv[1], trust=trust)(torch.full((1, 3, 224, 224), .5))[0].tolist()))
    except ValueError as e: print(type(e).__name__, e)
'''


def ask(hub, home, name, times=1):
    "Load an encoder in a fresh process that knows no other hub; -> lines it printed."
    env = os.environ | dict(PYTHONPATH=str(root), HF_ENDPOINT=hub, HF_HOME=str(home), HF_HUB_OFFLINE='0', HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1')
    r = subprocess.run([sys.executable, '-c', asking, name, str(times)], text=True, capture_output=True, env=env)
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
