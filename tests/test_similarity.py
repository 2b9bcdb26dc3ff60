"Spaces and LPIPS that cannot be loaded are refused in one line; so are networks without a row of features per image."
import sys, types

import pytest
import torch

from spurnb.audit.similarity import Backbone, closeness, diversity, load_lpips, load_space, near_copies, vendi
from spurnb.core import UserError


def offline(**kwargs): raise OSError('no network')


@pytest.mark.parametrize('call, message', [
    (lambda: load_space('vit_smal_patch14_dinov2'), 'vit_small_patch14_dinov2'),
    (lambda: load_space('local-dir:/nowhere/at/all'), 'cannot get the weights'),
    (lambda: load_lpips('alexnet'), 'alex'),
])
def test_refused(call, message):
    with pytest.raises(UserError, match=message): call()


@pytest.mark.parametrize('package, message', [
    (types.SimpleNamespace(LPIPS=offline), 'no network'),
    (None, 'pip install lpips'),
])
def test_lpips_without_weights_or_package(monkeypatch, package, message):
    monkeypatch.setitem(sys.modules, 'lpips', package)
    with pytest.raises(UserError, match=message): load_lpips()


@pytest.mark.parametrize('model', [
    torch.nn.Conv2d(3, 3, 1),
    torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Threshold(9, torch.nan)),
])
def test_backbones(model):
    space = Backbone(model, dict(input_size=(3, 8, 8), mean=(0.,)*3, std=(1.,)*3))
    with pytest.raises(UserError, match='one row of features per image'): space.phi(torch.rand(2, 3, 8, 8))


def test_too_few_images():
    "Undefined values instead of an error or a warning."
    import numpy as np
    one = np.ones((1, 2))/2**.5
    assert np.isnan(diversity(one)).all() and vendi(one)[0] == 1 and np.isnan(vendi(one[:0])[0])
    assert near_copies(np.ones(3), np.ones(19)) == (None, None)
    assert np.isnan(closeness(one, one, [[True]])).all()


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('n', [0, 1, 2, 3, 9])
@pytest.mark.parametrize('equal', [True, False])
def test_diversity_of_a_few_images(n, equal):
    "A value from two images on, and an interval where resamples can say something."
    import numpy as np
    from spurnb.audit.similarity import directions
    from spurnb.audit.stats import FEWEST
    x = directions(torch.rand(n, 5, generator=torch.manual_seed(0))[[0]*n if equal else range(n)])
    for found, least in (diversity(x), 2), (vendi(x), 1):
        assert np.isfinite(found[0]) == (n >= least)
        assert np.isfinite(found[1:]).all() == (n >= FEWEST) and not np.isinf(found).any()
        if n >= FEWEST: assert found[1] - 1e-9 <= found[0] <= found[2] + 1e-9
