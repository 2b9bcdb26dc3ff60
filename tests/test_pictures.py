"Heat maps of components: captum against the formulas, and options that are refused."

import pytest
import torch
from torch import nn

from spurnb.components.pictures import feature_picture, grad_cam, integrated_gradients, rank_components
from spurnb.core import UserError, generator
from spurnb.encoders import Encoder, small_resnet
from spurnb.features import NeuralPCA


def images(n, what): return torch.rand(n, 3, 32, 32, generator=generator(0, what))


def in_place():
    "Return a network in which an activation works in place on the last feature maps."
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(6*64, 3))


def fitted(network): return NeuralPCA.fit(Encoder(network, 32), images(12, 'class'), target=1)


@pytest.fixture(scope='module', params=['resnet', 'in place'])
def pca(request):
    torch.manual_seed(0)
    return fitted(small_resnet(3, (4, 4, 8, 8)) if request.param == 'resnet' else in_place())


def test_grad_cam_is_the_formula(pca):
    "Each map times the mean gradient of alpha in it, summed over maps."
    x, kept = images(4, 'new'), []
    layer = pca.encoder.model.get_submodule(pca.encoder.maps_name)

    def cut(module, given, maps):
        kept.append(maps.detach().clone().requires_grad_())
        return kept[-1].clone()

    hook = layer.register_forward_hook(cut)
    alpha = pca.alpha(x)[:, 0]
    hook.remove()
    grad, = torch.autograd.grad(alpha.sum(), kept[-1])
    mine = (grad.mean((2, 3), keepdim=True) * kept[-1].detach()).sum(1)
    assert torch.allclose(grad_cam(pca, x, 0, raw=True), mine, atol=1e-5)
    heat = grad_cam(pca, x, 0)
    assert heat.shape == (4, 32, 32) and heat.min() >= 0 and not heat.requires_grad


def test_integrated_gradients_are_the_formula(pca):
    "The mean gradient in the middle of each step from gray to the image, times the way."
    x, steps, total = images(3, 'new'), 5, 0.
    for i in range(steps):
        on_the_way = (.5 + (i + .5)/steps*(x - .5)).requires_grad_()
        total = total + torch.autograd.grad(pca.alpha(on_the_way)[:, 1].sum(), on_the_way)[0]
    mine = ((x - .5)*total/steps).sum(1)
    assert torch.allclose(integrated_gradients(pca, x, 1, steps=steps), mine, atol=1e-5)


def test_a_network_of_tokens_has_no_maps():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3*32*32, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(UserError, match='use `integrated_gradients`'): grad_cam(fitted(flat), images(1, 'new'), 0)


def test_options_that_are_refused(pca):
    with pytest.raises(UserError, match='no component 500'): feature_picture(pca, [0, 500])
    with pytest.raises(UserError, match='needs references='): rank_components(pca, 'contrast')
    with pytest.raises(UserError, match="'share'"): rank_components(pca, 'shares', images(2, 'class'))
