"Tests of judges that do not fit into a notebook: refusals, a hub, no hub, and two audits that write at once."
import argparse, http.server, json, os, struct, subprocess, sys, threading, types, zlib
from pathlib import Path

import pytest

from spurnb.audit.judges import JudgeFailed
from spurnb.audit.zoo import (class_target, head_classes, imagenet_classes, load_judge, load_judges, own_judge,
                              read_classes)
from spurnb.core import UserError, read_json, save_png, write_json
from spurnb.data import mini_root
from spurnb.world.scenes import CLASSES, reference_scenes

weights = pytest.mark.skipif(
    not (mini_root()/'record.json').exists(), reason="the embedded world's weights are missing")
root = str(Path(__file__).resolve().parents[1])


def start(*args, **env):
    env = os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=root) | env
    args = [sys.executable, *map(str, args)]
    return subprocess.Popen(args, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


@pytest.mark.parametrize('call, message', [
    (lambda: head_classes(3, classes=['cat', 'dog']), '2 names of classes for 3 outputs'),
    (lambda: class_target('crane', imagenet_classes()), '134'),
    (lambda: class_target('cat', ['cat', 'cat']), r"'cat' is the name of 2 classes \(0, 1\)"),
    (lambda: class_target('dogg', ['cat', 'dog']), "did you mean 'dog'"),
    (lambda: load_judge('resnet5O'), 'resnet50'),
    (lambda: load_judge('torchvision:mobilenet_v22'), 'mobilenet_v2'),
    (lambda: load_judge('torchvision:mobilenet_v2.IMAGENET1K_V3'), 'IMAGENET1K_V2'),
    (lambda: load_judge('resnet18@nowhere.safetensors'), "there is no file 'nowhere.safetensors'"),
    (lambda: load_judge('no_such_module_anywhere:resnet'), "no module 'no_such_module_anywhere'"),
    (lambda: load_judges(['resnet5O', 'test_resnett']), 'none of the 2 classifiers'),
    (lambda: load_judges(['resnet5O']), 'did you mean'),
])
def test_refused(call, message):
    with pytest.raises(UserError, match=message): call()


@pytest.mark.parametrize('name, text, message', [
    ('gap.json', '{"cat": 0, "fish": 2}', 'from 0'),
    ('twice.json', '{"cat": 0, "fish": 0}', 'from 0'),
    ('lists.json', '{"cat": [0]}', 'from 0'),
    ('none.json', '{}', 'from 0'),
    ('number.json', '3', 'no names'),
    ('broken.json', '{"cat"', 'is not JSON'),
    ('deep.json', '['*100_000, 'is not JSON'),
    ('raised.json', '{"²": "cat"}', 'from 0'),
    ('empty.txt', '\n\n', 'no names'),
    ('binary.txt', b'\xff\xfe\xff', 'not text'),
    ('nowhere.txt', None, 'cannot read'),
])
def test_files_of_names_refused(tmp_path, name, text, message):
    if text is not None: (tmp_path/name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message): read_classes(tmp_path/name)


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_files_of_names_as_windows_programs_save_them(tmp_path, encoding):
    (tmp_path/'names.txt').write_text('Käfer\nBiene\n', encoding=encoding)
    assert read_classes(tmp_path/'names.txt') == ['Käfer', 'Biene']


@weights
def test_folders_and_files_refused(tmp_path):
    from safetensors.torch import save_file
    (tmp_path/'empty').mkdir()
    with pytest.raises(JudgeFailed, match='no config.json'): load_judge(str(tmp_path/'empty'))
    (tmp_path/'empty'/'config.json').write_text('{}')
    with pytest.raises(JudgeFailed, match='no weights as safetensors'): load_judge(str(tmp_path/'empty'))
    save_file(load_judge('test_resnet').model.state_dict(), tmp_path/'best.safetensors')
    with pytest.raises(JudgeFailed, match='no head.weight'): load_judge(f'test_vit@{tmp_path/"best.safetensors"}')
    with pytest.raises(JudgeFailed, match='state_dict for ResNet'):
        load_judge(f'resnet18@{tmp_path/"best.safetensors"}')


@pytest.mark.parametrize('names, said', [
    (dict(id2label={'0': 'fox', '1': 'owl', '3': 'bee'}), 'does not number its classes'),
    (dict(id2label={'0': 'fox', '1': 'owl'}), 'do not fit its config.json, which has 2'),
    (dict(), 'do not fit its config.json')])
def test_a_folder_of_transformers_that_contradicts_itself(tmp_path, names, said):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
    small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    ViTForImageClassification(ViTConfig(**small, patch_size=8, num_labels=3)).save_pretrained(tmp_path/'net')
    ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(tmp_path/'net')
    config = {k: v for k, v in read_json(tmp_path/'net'/'config.json').items() if k not in ('id2label', 'label2id')}
    write_json(tmp_path/'net'/'config.json', config | names)
    with pytest.raises(JudgeFailed, match=said): load_judge(str(tmp_path/'net'))


@pytest.mark.parametrize('named', [False, True])
def test_a_thousand_outputs_of_transformers_without_names_are_said_to_be_taken_for_imagenet(tmp_path, named):
    "transformers fills in LABEL_0 and so on where a training gave no names."
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
    small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    names = dict(id2label=dict(enumerate(imagenet_classes()))) if named else dict(num_labels=1000)
    ViTForImageClassification(ViTConfig(**small, patch_size=8, **names)).save_pretrained(tmp_path/'net')
    ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(tmp_path/'net')
    judge = load_judge(str(tmp_path/'net'))
    assert tuple(judge.classes) == imagenet_classes()
    assert ('have no names' in judge.note) != named


FACTORIES = """
import torch
def net(): return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
def right(): return net(), dict(classes=['r', 'g', 'b'])
def wrong(): return 3
def broken(): return 1/0
def odd_key(): return net(), dict(klasses=['r', 'g', 'b'])
"""


@pytest.mark.parametrize('factory, message', [
    ('wrong', 'returns int'),
    ('broken', 'fails with ZeroDivisionError: division by zero'),
    ('rihgt', "did you mean 'right'"),
    ('odd_key', "did you mean 'classes'"),
    ('', 'MODULE:FACTORY'),
])
def test_own_code_refused(tmp_path, monkeypatch, factory, message):
    (tmp_path/'factories_of_the_zoo_test.py').write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message): own_judge(f'factories_of_the_zoo_test:{factory}')
    assert own_judge('factories_of_the_zoo_test:right').classes == ('r', 'g', 'b')


HELPED = """
import torch
def right():
    from {package}.inner import net # imported late, as many factories do
    return net(), dict(classes=['r', 'g', 'b'])
"""


def test_what_a_factory_imports_decides_the_answers(tmp_path, monkeypatch):
    "A change in a file that the factory imports, which no probe image shows, makes the judge predict again."
    package = tmp_path/'inner_of_the_zoo_test'
    package.mkdir()
    (tmp_path/'helped_of_the_zoo_test.py').write_text(HELPED.format(package=package.name))
    (package/'__init__.py').write_text('')
    (package/'inner.py').write_text(FACTORIES)
    (tmp_path/'other_of_the_zoo_test.py').write_text('not even Python')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    def kind(): return own_judge('helped_of_the_zoo_test:right').kind
    before = kind()
    (tmp_path/'other_of_the_zoo_test.py').write_text('changed')
    assert kind() == before
    (package/'inner.py').write_text(FACTORIES + '# another constant somewhere')
    assert kind() != before


@weights
@pytest.mark.parametrize('name', ['v@2', 'with:colon', 'a,b', 'sp ace', 'ümlaut', '100%', '#1', 'hf-hub:x'])
def test_folders_and_files_of_any_name(name, tmp_path, monkeypatch):
    from safetensors.torch import save_file
    save_timm(tmp_path/name)
    monkeypatch.chdir(tmp_path)
    judge = load_judge(name)
    assert judge.name == name and judge.files == [str(tmp_path/name)]
    save_file(judge.model.state_dict(), tmp_path/name/'best.safetensors')
    assert load_judge(f'test_resnet@{name}/best.safetensors').weights == judge.weights
    monkeypatch.setenv('HOME', str(tmp_path))
    assert load_judge(f'~/{name}').weights == judge.weights


@pytest.mark.parametrize('content, said', [
    (b'<!doctype html>', 'is a web page'), (b'version https://git-lfs.github.com/spec/v1', 'Git LFS'),
    (b'', 'is empty'), (b'something', 'cannot be loaded')])
def test_a_file_that_is_no_weights_is_not_the_networks_fault(content, said, tmp_path):
    (tmp_path/'w.pth').write_bytes(content)
    with pytest.raises(JudgeFailed, match=said) as e: load_judge(f'test_resnet@{tmp_path/"w.pth"}')
    assert 'network' not in str(e.value) and 'HF_HUB' not in str(e.value) and 'or take one of' not in str(e.value)


BAD = """
import torch
from torchvision import transforms as T
names = ['hummingbird', 'koala', 'tench', 'freight car', 'fireboat', 'hard disc']
class Net(torch.nn.Module):
    def __init__(self): super().__init__(); self.c = torch.nn.Conv2d(3, 6, 3)
    def forward(self, x): return self.c(x).mean((2, 3))
def good(): return Net(), dict(classes=names)
def aspect(): return Net(), dict(classes=names, transform=T.Compose([T.Resize(64), T.ToTensor()]))
def one(image):
    if image.size == (9, 9): raise KeyError('this image')
    return T.Compose([T.Resize((8, 8)), T.ToTensor()])(image)
def late(): return Net(), dict(classes=names, transform=one)
def few(): return Net(), dict(classes=names[:4])
def exits(): raise SystemExit(3)
def memory(): raise MemoryError
def silent(): raise RuntimeError
"""
FAULTS = dict(aspect='different sizes', late="KeyError: 'this image'", few='4 names of classes for 6 outputs',
              exits='SystemExit: 3', memory='MemoryError', silent='fails with RuntimeError', nosuch='there is no')


@pytest.mark.parametrize('fault', FAULTS)
def test_one_bad_judge_never_ends_the_audit(fault, tmp_path, monkeypatch, capsys):
    "It is left out by name, with the kind of error; the other one is audited, and the exit code is 3."
    from PIL import Image
    from spurnb.cli import spurnb_audit
    module = f'bad_{fault}_of_the_zoo_test'
    (tmp_path/f'{module}.py').write_text(BAD)
    for i in (8, 9): save_png(tmp_path/'images'/f'{i}.png', Image.new('RGB', (i, i), 'red'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    judges = f'{module}:{fault}', f'{module}:good'
    with pytest.raises(SystemExit) as stop:
        spurnb_audit(['images', '--target', 'koala', '--judges', *judges, '--out', 'out'])
    found = metrics_of(tmp_path/'out')
    assert stop.value.code == 3 and list(found['classifiers']) == [f'{module}:good']
    assert FAULTS[fault] in found['left_out'][f'{module}:{fault}']
    assert 'Traceback' not in capsys.readouterr().err


def test_own_code_by_the_name_of_its_file(tmp_path, monkeypatch):
    (tmp_path/'sub').mkdir()
    (tmp_path/'sub'/'file_of_the_zoo_test.py').write_text(FACTORIES)
    monkeypatch.chdir(tmp_path/'sub')
    assert load_judge('file_of_the_zoo_test.py:right').classes == ('r', 'g', 'b')
    monkeypatch.chdir(tmp_path)
    for name in ('sub/file_of_the_zoo_test.py', 'sub/file_of_the_zoo_test', tmp_path/'sub'/'file_of_the_zoo_test.py'):
        assert load_judge(f'{name}:right').classes == ('r', 'g', 'b')
    with pytest.raises(JudgeFailed, match="no module 'nosuch.py'"): load_judge('nosuch.py:right')


@pytest.mark.parametrize('told, beside, size, mean, note', [
    ({}, None, 160, (.5,)*3, 'an input of 160x160 pixels'),
    (dict(args=dict(input_size=(3, 64, 64), mean=(0, 0, 0), std=(1, 1, 1))), None, 64, (0, 0, 0), ''),
    (dict(args=argparse.Namespace(img_size=64, input_size=None, mean=.4, std=[.5])), None, 64, (.4,)*3, ''),
    ({}, dict(input_size=64), 64, (.5,)*3, 'write mean and std into'),
    (dict(args=dict(input_size=(3, 96, 96))), dict(pretrained_cfg=dict(input_size=[3, 64, 64], mean=0, std=1)), 64,
     (0, 0, 0), '')], ids=['nobody', 'arguments', 'namespace', 'half', 'beside'])
def test_the_input_of_a_checkpoint(tmp_path, told, beside, size, mean, note):
    "It is what the file beside it says, else what it brings itself, else the architecture's; and that is said."
    import timm, torch
    file = tmp_path/'a.pth.tar'
    torch.save(dict(state_dict=timm.create_model('test_resnet', num_classes=6).state_dict()) | told, file)
    if beside: (tmp_path/'a.pth.tar.json').write_text(json.dumps(beside))
    judge = load_judge(f'test_resnet@{file}')
    assert judge.config['input_size'] == (3, size, size) and tuple(judge.config['mean']) == mean
    assert note in judge.note and bool(note) == bool(judge.note)


def test_an_input_that_makes_no_sense(tmp_path):
    import timm, torch
    torch.save(timm.create_model('test_resnet', num_classes=6).state_dict(), tmp_path/'a.pth')
    (tmp_path/'a.pth.json').write_text('{"mean": "bright"}')
    with pytest.raises(UserError, match="mean is 'bright'"): load_judge(f'test_resnet@{tmp_path/"a.pth"}')


def test_a_thousand_outputs_without_names(tmp_path, monkeypatch):
    (tmp_path/'a_thousand_of_the_zoo_test.py').write_text(
        'import torch\ndef net(): return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), '
        'torch.nn.Linear(3, 1000))')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    judge = own_judge('a_thousand_of_the_zoo_test:net')
    assert "1,000 outputs have no names and are taken for ImageNet's" in judge.note and '224 pixels' in judge.note
    named = own_judge('a_thousand_of_the_zoo_test:net', classes=[f'bird {i}' for i in range(1000)])
    assert 'ImageNet' not in named.note


def test_one_classifier_under_three_names_counts_once(tmp_path):
    import timm, torch
    from spurnb.evaluate import audit
    from spurnb.report.summary import text_report
    model = timm.create_model('test_resnet', num_classes=6)
    torch.nn.init.zeros_(model.fc.weight)
    for name, answer in dict(a=0, b=0, c=0, d=1).items():
        model.fc.bias.data = torch.eye(6)[answer]
        torch.save(model.state_dict(), tmp_path/f'{name}.pth')
        (tmp_path/f'{name}.pth.json').write_text('{"input_size": 64, "mean": 0, "std": 1}')
    judges = [load_judge(f'test_resnet@{tmp_path/name}.pth') for name in 'abcd']
    metrics, _ = audit(dict(images=torch.rand(4, 3, 64, 64)), judges, class_target('0', judges[0].classes))
    assert metrics['arms']['images']['spurious_rate']['value'] == .5 and len(metrics['classifiers']) == 2
    assert [*metrics['aliases']] == [j.name for j in judges[1:3]]
    assert text_report(metrics).count('has the same weights and transform as') == 2


@pytest.fixture
def feeders(tmp_path):
    for i, scene in enumerate(reference_scenes('hummingbird', 24, seed=9)):
        save_png(tmp_path/'feeders'/f'{i:02d}.png', scene.draw())
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
            etag = f'"{len(data)}-{file.name}"'
            headers = {'X-Repo-Commit': '0'*40, 'ETag': etag, 'Content-Length': str(len(data))}
            for k, v in headers.items(): self.send_header(k, v)
        else: self.send_header('X-Error-Code', 'EntryNotFound' if (self.folder/owner).is_dir() else 'RepoNotFound')
        self.end_headers()
        if self.command == 'GET': self.wfile.write(data)


def save_timm(folder):
    "Save one of the embedded world's judges in timm's format."
    import timm
    timm.models.save_for_hf(load_judge('test_resnet').model, str(folder), safe_serialization=True,
                            model_config=dict(label_names=list(CLASSES)))


@pytest.fixture
def hub(tmp_path):
    "A local hub with a timm and a transformers classifier of the embedded world; -> environment for it."
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor
    folder = tmp_path/'hub'
    save_timm(folder/'me'/'timm')
    names = dict(enumerate(CLASSES))
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=len(CLASSES),
                          id2label=names, label2id={v: k for k, v in names.items()})
    ResNetForImageClassification(config).save_pretrained(folder/'me'/'hf')
    ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(folder/'me'/'hf')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), type('Here', (Hub,), dict(folder=folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield dict(HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}', HF_HOME=str(tmp_path/'home'), HF_HUB_OFFLINE='0',
               HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_TELEMETRY='1', NO_PROXY='127.0.0.1', no_proxy='127.0.0.1')
    server.shutdown()


def start_audit(folder, judges, out, *more, before=(), **env):
    "Start the audit of a folder as a command of its own."
    command = '-m', 'spurnb.cli', 'audit', folder, '--target', 'hummingbird', '--judges', *judges, '--out', out
    return start(*before, *command, *more, **env)


def metrics_of(out): return json.loads((out/'metrics.json').read_text())


@weights
def test_judges_from_a_hub(hub, feeders, tmp_path):
    "Judges load by name; a missing one is left out, the exit code says so, and the others are audited."
    names = ['test_resnet', 'hf-hub:me/timm', 'transformers:me/hf']
    audit = start_audit(feeders, [*names, 'hf-hub:me/nothing'], tmp_path/'out', **hub)
    said, complaints = audit.communicate(timeout=600)
    found = metrics_of(tmp_path/'out')
    assert audit.returncode == 3, complaints
    assert list(found['classifiers']) == [names[0], names[2]] and list(found['left_out']) == ['hf-hub:me/nothing'], said
    assert found['aliases'] == {'hf-hub:me/timm': 'test_resnet'} # the same weights count once
    assert 'hf-hub:me/nothing was left out: cannot get the weights' in said and 'Traceback' not in complaints


@weights
def test_two_audits_at_once(feeders, tmp_path):
    "Both write the same cache, of one run folder, and both print the same as a single one."
    judges = ['test_resnet', 'test_nfnet']
    runs = [start_audit(feeders, judges, tmp_path/'out') for _ in range(2)]
    said = [r.communicate(timeout=600) for r in runs]
    assert [r.returncode for r in runs] == [0, 0], said
    assert said[0][0] == said[1][0]
    alone = start_audit(feeders, judges, tmp_path/'alone').communicate(timeout=600)[0]
    assert alone.splitlines()[:-1] == said[0][0].splitlines()[:-1]
    assert metrics_of(tmp_path/'out') == metrics_of(tmp_path/'alone')
    assert not list((tmp_path/'out').rglob('.part*'))


@weights
def test_two_processes_share_an_audit(feeders, tmp_path):
    "Both really run, each computes its share, and the files are those of a single process."
    judges = ['test_resnet', 'test_nfnet']
    torchrun = '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', 2
    two = start_audit(feeders, judges, tmp_path/'two', before=torchrun, ACCELERATE_USE_CPU='true')
    said, complaints = two.communicate(timeout=900)
    assert two.returncode == 0, complaints
    assert json.loads((tmp_path/'two'/'config.json').read_text())['processes'] == 2
    assert said.count('report: ') == 1 # one prints for both
    one = start_audit(feeders, judges, tmp_path/'one')
    def own(text): # torch before 2.10 prints lines of its own
        return [line for line in text.splitlines() if not line.startswith('[Gloo]')][:-1]
    assert own(one.communicate(timeout=600)[0]) == own(said)
    files, others = ({f.relative_to(out): f.read_bytes() for f in out.rglob('*') if f.is_file()}
                     for out in (tmp_path/'one', tmp_path/'two'))
    files.pop(Path('logits/audit.json')) # several processes do not remember their results
    assert set(files) == set(others) and any(f.suffix == '.npz' for f in files)
    for f in files:
        if f.name not in ('config.json', 'report.html', '.spurnb.jsonl'): assert files[f] == others[f], f


@pytest.fixture
def tiny_clip(tmp_path):
    "A tiny CLIP with random weights."
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor
    from tiny import tiny_tokenizer
    words = tiny_tokenizer()
    small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    special = {f'{k}_token_id': getattr(words, f'{k}_token_id') for k in ('bos', 'eos', 'pad')}
    text = small | special | dict(vocab_size=len(words), max_position_embeddings=32)
    vision = small | dict(image_size=16, patch_size=8)
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path/'clip')
    images = CLIPImageProcessor(size=dict(shortest_edge=16), crop_size=dict(height=16, width=16))
    CLIPProcessor(images, words).save_pretrained(tmp_path/'clip')
    return tmp_path/'clip'


@pytest.fixture
def fake_lpips(monkeypatch):
    "A distance in place of the package lpips."
    import torch
    class Fake(torch.nn.Module):
        def __init__(self, net, verbose): super().__init__()
        def forward(self, a, b, normalize): return (a - b).abs().mean((1, 2, 3))
    monkeypatch.setitem(sys.modules, 'lpips', types.SimpleNamespace(LPIPS=Fake))


@weights
def test_detector_space_and_lpips_by_option(feeders, tiny_clip, fake_lpips, tmp_path):
    "An audit of your own classifier with every option; each adds its measures, and mistakes are one line."
    from spurnb.data import mini_class_images
    from spurnb.report.folder import audit_folder
    birds, refs, mine = tmp_path/'birds', tmp_path/'refs', [str(tmp_path/'mine')]
    for i, x in enumerate(mini_class_images('hummingbird', 24, 5)): save_png(birds/f'{i:02d}.png', x)
    for i, scene in enumerate(reference_scenes('hummingbird', 22, seed=3)): save_png(refs/f'{i:02d}.png', scene.draw())
    save_timm(tmp_path/'mine')
    clip = f'clip:{tiny_clip}'
    options = dict(positives=birds, references=refs, detector=clip, space=f'local-dir:{mine[0]}', lpips='alex')
    found, scores = audit_folder(feeders, 'hummingbird', mine, tmp_path/'out', 'red feeder', **options)
    images, object_meter = found['arms']['images'], found['meters']['object']
    assert images['spurious_rate_valid']['n'] == images['valid']['value']*24 and images['object_absent']['n'] == 24
    assert set(found['meters']) == {'object', 'feature'}
    assert object_meter['recall']['n'] == 12 and object_meter['false_positives']['n'] == 22
    assert 0 < images['similarity']['value'] <= 1 and images['vendi']['value'] > 1
    assert images['lpips']['n'] == 24 and images['lpips_diversity']['n'] == 12
    assert {'p_object', 'p_feature', 'similarity', 'lpips'} <= set(scores.columns)
    assert found['held_out'] == 22 and list(found['other_files']) == ['class_images', 'held_out']
    bare, _ = audit_folder(feeders, 'hummingbird', mine, references=refs, lpips='alex') # LPIPS needs no space
    assert bare['arms']['images']['lpips'] == images['lpips'] and 'similarity' not in bare['arms']['images']
    plain = audit_folder(feeders, 'hummingbird', mine)[0]['arms']['images']
    assert not {'similarity', 'lpips', 'vendi', 'valid'} & set(plain) and 'why' in plain['auc']
    with pytest.raises(UserError, match='calibrated'): audit_folder(feeders, 'hummingbird', mine, detector=clip)
    one = one_of(birds, tmp_path/'one')
    with pytest.raises(UserError, match='at least 20'):
        audit_folder(feeders, 'hummingbird', mine, detector=clip, positives=one, references=refs)


def one_of(folder, new):
    "Make a folder with one of the files in `folder`."
    new.mkdir()
    file = next(folder.iterdir())
    (new/file.name).write_bytes(file.read_bytes())
    return new


ODD_NAMES = ('Zaunkönig 鳥.png', 'two\nlines.png', '<img src=x onerror=alert(1)>.png', '=1+1,"x".png')


def png_bomb():
    "A small PNG file that claims 60,000 x 60,000 pixels."
    def number(n): return struct.pack('>I', n)
    def chunk(kind, data): return number(len(data)) + kind + data + number(zlib.crc32(kind + data))
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', 60_000, 60_000, 1, 0, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


@pytest.fixture
def odd(tmp_path):
    "A folder of unusual files: eight images, a copy, and two that cannot be read."
    import numpy as np
    from PIL import Image
    from spurnb.world.scenes import Scene
    odd, images = tmp_path/'odd', [Scene(None, 'feeder', 'red', 'wood', i).draw(96) for i in range(9)]
    odd.mkdir()
    (odd/'bomb.png').write_bytes(png_bomb())
    (odd/'cut.jpg').write_bytes(b'\xff\xd8\xff\xe0')
    images[0].save(odd/'moves.gif', save_all=True, append_images=images[1:3])
    images[1].convert('CMYK').save(odd/'print.tif')
    transparent = images[2].copy()
    transparent.putalpha(120)
    transparent.save(odd/'alpha.webp')
    Image.fromarray(np.asarray(images[3].convert('L')).astype('uint16')*257).save(odd/'16 bit.png')
    for name, image in zip(ODD_NAMES, images[4:]): image.save(odd/name)
    images[4].save(odd/'again.bmp')
    return odd


@weights
def test_unusual_files(odd, tmp_path):
    "Each file is read, or left out by name."
    import pandas as pd
    run = start_audit(odd, ['test_resnet'], tmp_path/'out')
    said, complaints = run.communicate(timeout=600)
    found = metrics_of(tmp_path/'out')
    assert run.returncode == 0 and 'Traceback' not in complaints, complaints
    assert found['arms']['images']['spurious_rate']['n'] == 8
    assert sorted(found['files']['unreadable']) == ['bomb.png', 'cut.jpg'] and len(found['files']['copies']) == 1
    assert "'bomb.png'" in said and "'cut.jpg'" in said
    assert '<img src=x' not in (tmp_path/'out'/'report.html').read_text(encoding='utf-8')
    files = set(pd.read_csv(tmp_path/'out'/'scores.csv').file.dropna())
    assert files >= set(ODD_NAMES) - {'<img src=x onerror=alert(1)>.png'}


@weights
def test_one_image_and_none(odd, tmp_path):
    "A single image is audited; an empty folder is one line."
    for f in odd.iterdir():
        if f.name != 'print.tif': f.unlink()
    run = start_audit(odd, ['test_resnet'], tmp_path/'single')
    complaints = run.communicate(timeout=600)[1]
    single = metrics_of(tmp_path/'single')['arms']['images']
    assert run.returncode == 0, complaints
    assert single['spurious_rate']['n'] == 1 and single['p_target']['low'] is None
    assert 'two classifiers' in single['kappa']['why']
    (odd/'print.tif').unlink()
    run = start_audit(odd, ['test_resnet'], tmp_path/'none')
    complaints = run.communicate(timeout=600)[1]
    assert run.returncode == 2 and 'no images' in complaints and not (tmp_path/'none').exists()
    assert len(complaints.strip().splitlines()) == 1


def test_lpips_itself():
    "With the real package and random weights, the distance is 0 to itself and positive to anything else."
    lpips = pytest.importorskip('lpips')
    import torch
    from spurnb.audit.similarity import lpips_diversity, lpips_to
    model = lpips.LPIPS(net='alex', pnet_rand=True, verbose=False).eval().requires_grad_(False)
    x = torch.rand(16, 3, 64, 64, generator=torch.manual_seed(0))
    assert lpips_to(model, x[:1].repeat(3, 1, 1, 1), x[:1]) == pytest.approx([0, 0, 0], abs=1e-6)
    by_hand = torch.stack([model(x[:2], x[[i, i]], normalize=True).flatten() for i in (2, 3)]).mean(0)
    assert lpips_to(model, x[:2], x[2:4]) == pytest.approx(by_hand.numpy(), abs=1e-6)
    (value, low, high), pairs = lpips_diversity(model, x)
    assert pairs == 8 and 0 < low <= value <= high
