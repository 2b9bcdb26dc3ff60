"Heads that cannot be found, and repairs that do not fit the classifier, are refused."
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision import transforms as T

from spurnb.audit.judges import Judge
from spurnb.audit.mitigate import (head_inputs, linear_head, load_spufix, refit_linear, save_spufix, spufix,
                                   spufix_rows)
from spurnb.core import UserError
from spurnb.encoders import Encoder
from spurnb.features import NeuralPCA


class Colors(nn.Module):
    "A linear classifier of an image's mean color."
    def __init__(self, classes=2):
        super().__init__()
        self.fc = nn.Linear(3, classes)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(classes, 3))
            self.fc.bias.zero_()
    def get_classifier(self): return self.fc
    def forward_features(self, x): return x
    def forward_head(self, x, pre_logits=False):
        x = x.mean((2, 3))
        return x if pre_logits else self.fc(x)
    def forward(self, x): return self.forward_head(x)


def judge(classes=2): return Judge('colors', Colors(classes), transform=T.Compose([T.Resize((8, 8)), T.ToTensor()]))


images = torch.rand(12, 3, 1, 1, generator=torch.manual_seed(0)).expand(-1, -1, 8, 8)
pca = NeuralPCA.fit(Encoder(Colors(), size=8, mean=(0.,)*3, std=(1.,)*3), images, target=0)
fix, layer, phi = (pca, images, [0]), nn.Linear(3, 2), torch.rand(9, 3)
no_linear = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())


@pytest.mark.parametrize('call, message', [
    (lambda: linear_head(no_linear), 'no linear head'),
    (lambda: linear_head(Colors(), 'fcc'), "no linear head 'fcc'"),
    (lambda: head_inputs(judge(), images[:0]), 'there are no images'),
    (lambda: spufix(judge(), (pca, images, [60])), 'no component 60'),
    (lambda: spufix(judge(), fix, fix), 'class number 0 is given twice'),
    (lambda: spufix(judge(), (*fix, [0])), 'either spurious or kept'),
    (lambda: spufix(judge(), (*fix, [60])), 'no component 60'),
    (lambda: spufix(spufix(judge(), fix), fix), 'has been fixed before'),
    (lambda: spufix(judge(3), fix), 'has 2 classes and the classifier 3'),
    (lambda: save_spufix(judge(), 'nowhere.safetensors'), 'no correction to save'),
    (lambda: refit_linear(layer, phi, torch.zeros(8).long(), {}), '9 images and 8 labels'),
    (lambda: refit_linear(layer, phi, torch.full((9,), 2), {}), 'from 0 to 1'),
    (lambda: refit_linear(layer, phi, torch.zeros(9).long(), {2: phi}), 'class 2, but the head has 2 classes'),
    (lambda: refit_linear(layer, phi, torch.zeros(9).long(), {1: phi}, ridge=-1), 'ridge'),
])
def test_refused(call, message):
    with pytest.raises(UserError, match=message): call()


def test_files_refused(tmp_path):
    from safetensors.torch import save_file
    save_spufix(spufix(judge(), fix), tmp_path/'fix.safetensors')
    other = judge()
    other.weights = 'f'*64
    with pytest.raises(UserError, match='made for other weights'): load_spufix(tmp_path/'fix.safetensors', other)
    save_file(dict(x=torch.zeros(1)), tmp_path/'other.safetensors')
    with pytest.raises(UserError, match='is no correction'): load_spufix(tmp_path/'other.safetensors', judge())
    assert load_spufix(tmp_path/'fix.safetensors', judge()).name == 'colors spufix'


def test_the_last_linear_layer_is_the_head():
    assert linear_head(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))[0] == '2'


def test_the_sign_of_a_component():
    flipped = replace(pca, components=-pca.components)
    a, b = (spufix(judge(), (p, images, [0])).logits(images) for p in (pca, flipped))
    assert torch.allclose(a, b, atol=1e-5)


def test_components_that_are_kept():
    "They take part in the fit, and only the others are subtracted."
    teacher, model, weight = Colors(), judge(), torch.tensor([1., .5, .2])
    teacher.fc.weight.data[0], model.model.fc.weight.data[0] = torch.tensor([.4, 1., .7]), weight
    robust = NeuralPCA.fit(Encoder(teacher, size=8, mean=(0.,)*3, std=(1.,)*3), images, target=0)
    evidence = head_inputs(model, images)*weight
    v, fit, offset = spufix_rows(robust.alpha(images)[:, :2], evidence)
    beta = ((evidence.double() @ fit.T - offset)*v.sum(1)).clamp_min(0)
    before = model.logits(images)[:, 0]
    for some, kept in (((0,), (1,)), ((1,), (0,)), ((0, 1), ())):
        after = spufix(model, (robust, images, some, kept)).logits(images)[:, 0]
        assert torch.allclose(before - after, beta[:, list(some)].sum(1).float(), atol=1e-5)


def test_a_head_without_a_bias_is_refitted():
    torch.manual_seed(0)
    phi, labels = torch.randn(60, 3), torch.arange(60)%3
    layer = nn.Linear(3, 3, bias=False)
    new = refit_linear(layer, phi, labels, {0: torch.ones(4, 3)})
    assert new.bias is None and not torch.equal(new.weight, layer.weight)
    own = new(torch.ones(1, 3)).softmax(1)[0, 0]
    assert own < layer(torch.ones(1, 3)).softmax(1)[0, 0]
