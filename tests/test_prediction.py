"Predicted images: identities for every kind of scheduler, and models that are refused."

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from spurnb.core import UserError, generator
from spurnb.prediction import (
    load_tiny,
    noise_target,
    noisify,
    predict_x0,
    prediction_type,
    signal_noise,
    signal_share,
)


def normal(what): return torch.randn(4, 4, 8, 8, generator=generator(0, what))


def schedulers():
    for kind in ('epsilon', 'v_prediction', 'sample'):
        yield kind, DDIMScheduler(prediction_type=kind), torch.tensor([0, 100, 400, 700])
    flow = FlowMatchEulerDiscreteScheduler(shift=3.)
    yield 'flow', flow, flow.timesteps[[999, 700, 400, 10]]


@pytest.mark.parametrize('kind, scheduler, t', list(schedulers()))
def test_a_perfect_output_gives_the_image_back(kind, scheduler, t):
    z, noise = normal('z'), normal('noise')
    assert prediction_type(scheduler) == kind
    target = noise_target(scheduler, z, noise, t)
    assert torch.allclose(predict_x0(scheduler, target, noisify(scheduler, z, noise, t), t), z, atol=1e-3)


@pytest.mark.parametrize('kind, scheduler, t', list(schedulers()))
def test_the_share_of_signal_is_that_of_the_variance(kind, scheduler, t):
    s, n = signal_noise(scheduler, t)
    share = signal_share(scheduler, t)
    assert torch.allclose(share, (s**2/(s**2 + n**2)).flatten()) and (share.diff() < 0).all()
    if kind != 'flow': assert torch.allclose(share, scheduler.alphas_cumprod[t], atol=1e-6)


def test_the_gradient_reaches_the_output():
    scheduler, t = DDIMScheduler(), torch.tensor([0, 100, 400, 999])
    output = normal('output').requires_grad_()
    predict_x0(scheduler, output, normal('z'), t).sum().backward()
    s, n = signal_noise(scheduler, t)
    assert torch.allclose(output.grad, (-n/s).expand_as(output), rtol=1e-4)


def test_a_model_without_a_formula_is_refused():
    with pytest.raises(UserError, match='v_predicton'):
        prediction_type(EulerDiscreteScheduler(prediction_type='v_predicton'))


def test_a_decoder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match='cannot load a tiny decoder'): load_tiny(tmp_path)
