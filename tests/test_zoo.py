"What a notebook cell cannot show of judges: a hub, no hub, and two audits that write at once."
import http.server, json, os, subprocess, sys, threading
from pathlib import Path

import pytest

from spurnb.core import save_png
from spurnb.data import mini_root
from spurnb.world.scenes import CLASSES, reference_scenes

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
    from spurnb.audit.zoo import load_judge
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
    audit = start('-m', 'spurnb.report.folder', feeders, '--judges', 'test_resnet,hf-hub:me/timm,transformers:me/hf,hf-hub:me/nothing', '--out', tmp_path/'out', **hub)
    said, complaints = audit.communicate(timeout=600)
    found = json.loads((tmp_path/'out'/'metrics.json').read_text())
    assert audit.returncode == 2, complaints
    assert list(found['classifiers']) == ['test_resnet', 'hf-hub:me/timm', 'transformers:me/hf'] and list(found['left_out']) == ['hf-hub:me/nothing'], said
    assert found['classifiers']['hf-hub:me/timm'] == found['classifiers']['test_resnet'] # the same weights
    assert 'hf-hub:me/nothing was left out: cannot get the weights' in said and 'Traceback' not in complaints


@weights
def test_two_audits_at_once(feeders, tmp_path):
    "Both write the same cache, of one run folder, and both say what one alone says."
    runs = [start('-m', 'spurnb.report.folder', feeders, '--judges', 'test_resnet,test_nfnet', '--out', tmp_path/'out') for _ in range(2)]
    said = [r.communicate(timeout=600) for r in runs]
    assert [r.returncode for r in runs] == [0, 0], said
    assert said[0][0] == said[1][0]
    alone = start('-m', 'spurnb.report.folder', feeders, '--judges', 'test_resnet,test_nfnet', '--out', tmp_path/'alone')
    assert alone.communicate(timeout=600)[0].splitlines()[:-1] == said[0][0].splitlines()[:-1]
    assert json.loads((tmp_path/'out'/'metrics.json').read_text()) == json.loads((tmp_path/'alone'/'metrics.json').read_text())
    assert not list((tmp_path/'out').rglob('.part*'))


@weights
def test_two_processes_share_an_audit(feeders, tmp_path):
    "Both really run, each asks for its share, and the files are those that one process writes."
    judges, env = ('--judges', 'test_resnet,test_nfnet'), dict(ACCELERATE_USE_CPU='true')
    two = start('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', 2, '-m', 'spurnb.report.folder', feeders, *judges, '--out', tmp_path/'two', **env)
    said, complaints = two.communicate(timeout=900)
    assert two.returncode == 0, complaints
    assert json.loads((tmp_path/'two'/'config.json').read_text())['processes'] == 2
    assert said.count('report: ') == 1 # one speaks for both
    one = start('-m', 'spurnb.report.folder', feeders, *judges, '--out', tmp_path/'one')
    def own(text): return [line for line in text.splitlines() if not line.startswith('[Gloo]')][:-1]       # torch before 2.10 has something to say, too
    assert own(one.communicate(timeout=600)[0]) == own(said)
    files = {f.relative_to(tmp_path/'one') for f in (tmp_path/'one').rglob('*') if f.is_file()}
    assert files == {f.relative_to(tmp_path/'two') for f in (tmp_path/'two').rglob('*') if f.is_file()} and any(f.suffix == '.npz' for f in files)
    for f in files:
        if f.name not in ('config.json', 'report.html'): assert (tmp_path/'one'/f).read_bytes() == (tmp_path/'two'/f).read_bytes(), f


@pytest.fixture
def tiny_clip(tmp_path):
    "CLIP in miniature, with random weights."
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor
    from tiny import tiny_tokenizer
    words, small = tiny_tokenizer(), dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    text = small | dict(vocab_size=len(words), max_position_embeddings=32, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)
    CLIPModel(CLIPConfig(text_config=text, vision_config=small | dict(image_size=16, patch_size=8), projection_dim=8)).save_pretrained(tmp_path/'clip')
    CLIPProcessor(CLIPImageProcessor(size=dict(shortest_edge=16), crop_size=dict(height=16, width=16)), words).save_pretrained(tmp_path/'clip')
    return tmp_path/'clip'


@weights
def test_detector_space_and_lpips_by_option(feeders, tiny_clip, tmp_path, monkeypatch):
    "An audit of one's own classifier with everything that can be asked for; each option adds its measures, and mistakes are one sentence."
    import sys, types
    import timm, torch
    from spurnb.core import UserError
    from spurnb.data import mini_class_images
    from spurnb.report.folder import audit_folder
    from spurnb.audit.zoo import load_judge
    for i, x in enumerate(mini_class_images('hummingbird', 24, 5)): save_png(tmp_path/'birds'/f'{i:02d}.png', x)
    for i, scene in enumerate(reference_scenes('hummingbird', 22, seed=3)): save_png(tmp_path/'refs'/f'{i:02d}.png', scene.draw())
    timm.models.save_for_hf(load_judge('test_resnet').model, str(tmp_path/'mine'), model_config=dict(label_names=list(CLASSES)), safe_serialization=True)
    class Fake(torch.nn.Module):
        def __init__(self, net, verbose): super().__init__()
        def forward(self, a, b, normalize): return (a - b).abs().mean((1, 2, 3))
    monkeypatch.setitem(sys.modules, 'lpips', types.SimpleNamespace(LPIPS=Fake))
    folders, mine = dict(positives=tmp_path/'birds', references=tmp_path/'refs'), [str(tmp_path/'mine')]
    found, scores = audit_folder(feeders, 'hummingbird', mine, tmp_path/'out', 'red feeder', **folders, detector=f'clip:{tiny_clip}', space=f'local-dir:{tmp_path/"mine"}', lpips='alex')
    images = found['arms']['images']
    assert images['spurious_rate_valid']['n'] == images['valid']['value']*24 and images['object_absent']['n'] == 24
    assert set(found['meters']) == {'object', 'feature'} and found['meters']['object']['recall']['n'] == 12 and found['meters']['object']['false_positives']['n'] == 22
    assert 0 < images['similarity']['value'] <= 1 and images['lpips']['n'] == 24 and images['lpips_diversity']['n'] == 12 and images['vendi']['value'] > 1
    assert {'p_object', 'p_feature', 'similarity', 'lpips'} <= set(scores.columns) and found['held_out'] == 22 and list(found['other_files']) == ['class_images', 'held_out']
    bare, _ = audit_folder(feeders, 'hummingbird', mine, references=tmp_path/'refs', lpips='alex') # LPIPS needs no space
    assert bare['arms']['images']['lpips'] == images['lpips'] and 'similarity' not in bare['arms']['images']
    plain, _ = audit_folder(feeders, 'hummingbird', mine)
    assert not {'similarity', 'lpips', 'vendi', 'valid'} & set(plain['arms']['images']) and 'why' in plain['arms']['images']['auc']
    with pytest.raises(UserError, match='calibrated'): audit_folder(feeders, 'hummingbird', mine, detector=f'clip:{tiny_clip}')
    with pytest.raises(UserError, match='at least 20'): audit_folder(feeders, 'hummingbird', mine, detector=f'clip:{tiny_clip}', positives=one_of(tmp_path/'birds', tmp_path/'one'), references=tmp_path/'refs')


def one_of(folder, new):
    "A folder with one of the files in `folder`."
    new.mkdir()
    file = next(folder.iterdir())
    (new/file.name).write_bytes(file.read_bytes())
    return new


@weights
def test_whatever_lies_in_a_folder(feeders, tmp_path):
    "Odd files through the command: each is read, or left out by name; one picture is audited; none is one sentence."
    import struct, zlib
    import numpy as np
    from PIL import Image
    from spurnb.world.scenes import Scene
    odd, pictures = tmp_path/'odd', [Scene(None, 'feeder', 'red', 'wood', i).draw(96) for i in range(9)]
    odd.mkdir()
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    (odd/'bomb.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 60_000, 60_000, 1, 0, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b''))
    pictures[0].save(odd/'moves.gif', save_all=True, append_images=pictures[1:3])
    pictures[1].convert('CMYK').save(odd/'print.tif')
    seen_through = pictures[2].copy(); seen_through.putalpha(120); seen_through.save(odd/'alpha.webp')
    Image.fromarray(np.asarray(pictures[3].convert('L')).astype('uint16')*257).save(odd/'16 bit.png')
    for i, name in enumerate(('Zaunkönig 鳥.png', 'two\nlines.png', '<img src=x onerror=alert(1)>.png', '=1+1,"x".png')): pictures[4+i].save(odd/name)
    pictures[4].save(odd/'again.bmp'); (odd/'cut.jpg').write_bytes(b'\xff\xd8\xff\xe0')
    run = start('-m', 'spurnb.report.folder', odd, '--judges', 'test_resnet', '--out', tmp_path/'out')
    said, complaints = run.communicate(timeout=600)
    found = json.loads((tmp_path/'out'/'metrics.json').read_text())
    assert run.returncode == 0 and 'Traceback' not in complaints, complaints
    assert found['arms']['images']['spurious_rate']['n'] == 8 and sorted(found['files']['unreadable']) == ['bomb.png', 'cut.jpg'] and len(found['files']['copies']) == 1
    assert "'bomb.png'" in said and "'cut.jpg'" in said and '<img src=x' not in (tmp_path/'out'/'report.html').read_text(encoding='utf-8')
    import pandas as pd
    assert {'two\nlines.png', 'Zaunkönig 鳥.png', '=1+1,"x".png'} <= set(pd.read_csv(tmp_path/'out'/'scores.csv').file.dropna())
    for f in odd.iterdir():
        if f.name not in ('print.tif', 'notes.txt'): f.unlink()
    run = start('-m', 'spurnb.report.folder', odd, '--judges', 'test_resnet', '--out', tmp_path/'single')
    complaints = run.communicate(timeout=600)[1]
    single = json.loads((tmp_path/'single'/'metrics.json').read_text())['arms']['images']
    assert run.returncode == 0, complaints
    assert single['spurious_rate']['n'] == 1 and 'two classifiers' in single['kappa']['why'] and single['p_target']['low'] is None
    (odd/'print.tif').unlink()
    run = start('-m', 'spurnb.report.folder', odd, '--out', tmp_path/'none')
    complaints = run.communicate(timeout=600)[1]
    assert run.returncode == 2 and len(complaints.strip().splitlines()) == 1 and 'no images' in complaints and not (tmp_path/'none').exists()


def test_lpips_itself():
    "The package as it is, its network with random weights: nothing differs from itself, and everything from something else."
    lpips = pytest.importorskip('lpips')
    import numpy as np
    import torch
    from spurnb.audit.similarity import lpips_diversity, lpips_to
    model = lpips.LPIPS(net='alex', pnet_rand=True, verbose=False).eval().requires_grad_(False)
    x = torch.rand(6, 3, 64, 64, generator=torch.manual_seed(0))
    assert lpips_to(model, x[:1].repeat(3, 1, 1, 1), x[:1]) == pytest.approx([0, 0, 0], abs=1e-6)
    assert lpips_to(model, x[:2], x[2:4]) == pytest.approx(np.stack([model(x[:2], x[[i, i]], normalize=True).flatten().numpy() for i in (2, 3)]).mean(0), abs=1e-6)
    (value, low, high), pairs = lpips_diversity(model, x)
    assert pairs == 3 and 0 < low <= value <= high
