"What a notebook cell cannot show of judges: a hub, no hub, and two audits that write at once."
import http.server, json, os, subprocess, sys, threading
from pathlib import Path

import pytest

from spurnb.core import save_png
from spurnb.data import mini_root
from spurnb.scenes import CLASSES, reference_scenes

weights = pytest.mark.skipif(not (mini_root()/'record.json').exists(), reason="the mini world's weights are not there")
root = str(Path(__file__).resolve().parents[1])


def start(*args, **env):
    return subprocess.Popen([sys.executable, *map(str, args)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=root) | env)


@pytest.fixture
def feeders(tmp_path):
    for i, scene in enumerate(reference_scenes('hummingbird', 24, seed=9)): save_png(tmp_path/'feeders'/f'{i:02d}.png', scene.draw())
    return tmp_path/'feeders'


class Hub(http.server.BaseHTTPRequestHandler):
    "Files of a folder as the Hugging Face hub serves them."
    folder = None
    def log_message(self, *args): pass
    def do_HEAD(self): self.do_GET()
    def do_GET(self):
        owner, _, rest = self.path.lstrip('/').partition('/resolve/')
        file = self.folder/owner/rest.partition('/')[2].partition('?')[0]
        there = bool(rest) and file.is_file()
        data = file.read_bytes() if there else b''
        self.send_response(200 if there else 404)
        if there:
            for k, v in {'X-Repo-Commit': '0'*40, 'ETag': f'"{len(data)}-{file.name}"', 'Content-Length': str(len(data))}.items(): self.send_header(k, v)
        else: self.send_header('X-Error-Code', 'EntryNotFound' if (self.folder/owner).is_dir() else 'RepoNotFound')
        self.end_headers()
        if self.command == 'GET': self.wfile.write(data)


@pytest.fixture
def hub(tmp_path):
    "A hub on this machine with a timm and a transformers classifier of the mini world's classes; -> environment that leads to it."
    import timm
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor
    from spurnb.zoo import load_judge
    folder = tmp_path/'hub'
    timm.models.save_for_hf(load_judge('test_resnet').model, str(folder/'me'/'timm'), model_config=dict(label_names=list(CLASSES)), safe_serialization=True)
    names = dict(enumerate(CLASSES))
    ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=6, id2label=names, label2id={v: k for k, v in names.items()})).save_pretrained(folder/'me'/'hf')
    ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(folder/'me'/'hf')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), type('Here', (Hub,), dict(folder=folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield dict(HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}', HF_HOME=str(tmp_path/'home'), HF_HUB_OFFLINE='0', HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1', NO_PROXY='127.0.0.1', no_proxy='127.0.0.1')
    server.shutdown()


@weights
def test_judges_from_a_hub(hub, feeders, tmp_path):
    "By the names one would type; one that is not on the hub is left out, the exit code says so, and the others are there."
    audit = start('-m', 'spurnb.report', feeders, '--judges', 'test_resnet,hf-hub:me/timm,transformers:me/hf,hf-hub:me/nothing', '--out', tmp_path/'out', **hub)
    said, complaints = audit.communicate(timeout=600)
    found = json.loads((tmp_path/'out'/'metrics.json').read_text())
    assert audit.returncode == 2, complaints
    assert list(found['classifiers']) == ['test_resnet', 'hf-hub:me/timm', 'transformers:me/hf'] and list(found['left_out']) == ['hf-hub:me/nothing'], said
    assert found['classifiers']['hf-hub:me/timm'] == found['classifiers']['test_resnet'] # the same weights
    assert 'hf-hub:me/nothing was left out: cannot get the weights' in said and 'Traceback' not in complaints


@weights
def test_two_audits_at_once(feeders, tmp_path):
    "Both write the same cache, of one run folder, and both say what one alone says."
    runs = [start('-m', 'spurnb.report', feeders, '--judges', 'test_resnet,test_nfnet', '--out', tmp_path/'out') for _ in range(2)]
    said = [r.communicate(timeout=600) for r in runs]
    assert [r.returncode for r in runs] == [0, 0], said
    assert said[0][0] == said[1][0]
    alone = start('-m', 'spurnb.report', feeders, '--judges', 'test_resnet,test_nfnet', '--out', tmp_path/'alone')
    assert alone.communicate(timeout=600)[0].splitlines()[:-1] == said[0][0].splitlines()[:-1]
    assert json.loads((tmp_path/'out'/'metrics.json').read_text()) == json.loads((tmp_path/'alone'/'metrics.json').read_text())
    assert not list((tmp_path/'out').rglob('.part*'))
