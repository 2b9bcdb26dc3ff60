"Masks and versions that do not fit their images are refused."
import pytest
import torch

from spurnb.audit.causality import effect_figure, erase, evidence_region, feature_effect
from spurnb.core import UserError

images = torch.rand(4, 3, 8, 8)
mask = torch.zeros(4, 8, 8, dtype=torch.bool)
mask[:, 2:4, 2:4] = True


@pytest.mark.parametrize('call, message', [
    (lambda: erase(images, mask[:3]), r'one mask of \(h, w\) for each image'),
    (lambda: erase(images, torch.ones_like(mask)), 'covers a whole image'),
    (lambda: erase(images, mask, 'grey'), "did you mean 'gray'"),
    (lambda: evidence_region(torch.rand(1, 8, 8), 20), 'share is 20'),
    (lambda: feature_effect([], images, None, mask[:3]), r'one mask of \(h, w\) for each image'),
    (lambda: feature_effect([], images, None, mask, counterfactual=images[:3]), 'a version of each image'),
])
def test_refused(call, message):
    with pytest.raises(UserError, match=message): call()


def test_unknown_judge():
    import pandas as pd
    table = pd.DataFrame(dict(image=range(4), judge='resnet', p=1., p_masked=0., p_random=1.))
    with pytest.raises(UserError, match="did you mean 'resnet'"): effect_figure(images, mask, table, 'resnett')
