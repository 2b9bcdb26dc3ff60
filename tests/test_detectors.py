"Detectors and their calibration: unusable names and scores, and too few images, are refused."
import numpy as np
import pytest
import torch
from PIL import Image

from spurnb.audit.detectors import Detector, PhotoMeters, load_detector
from spurnb.core import UserError


class Constant:
    "A detector that finds everything everywhere."
    hash = 'constant'
    def __call__(self, images, things): return np.ones((len(images), len(things)))


few, many = torch.rand(8, 3, 8, 8), torch.rand(20, 3, 8, 8)


@pytest.mark.parametrize('call, message', [
    (lambda: load_detector('yolo:v8'), 'clip'),
    (lambda: load_detector('owlv2:nowhere/at/all'), "cannot get the detector 'owlv2:nowhere/at/all'"),
    (lambda: PhotoMeters(Constant(), 'boat', 'jet', few, many), 'there are 8 images of the class and 20 references'),
    (lambda: PhotoMeters(Constant(), 'boat', 'jet', many, few), 'at least 20 of each'),
    (lambda: PhotoMeters(Constant(), 'boat', 'jet', many, many, find=95), 'find is 95'),
])
def test_refused(call, message):
    with pytest.raises(UserError, match=message): call()


def test_scores_that_are_not_finite():
    detector = Detector(torch.nn.Linear(1, 1), None, 'clip')
    detector.scores = lambda model, processor, images, things, device: torch.full((len(images), len(things)), torch.nan)
    with pytest.raises(UserError, match='not finite for 8 of 8 images'): detector(few, ['boat'])


def test_a_long_image_is_cut_before_it_is_processed():
    detector, seen = Detector(torch.nn.Linear(1, 1), None, 'clip'), []
    def scores(model, processor, images, things, device):
        seen.extend(i.size for i in images)
        return torch.zeros(len(images), len(things))
    detector.scores = scores
    detector([Image.new('RGB', (1, 60_000)), Image.new('RGB', (80, 20))], ['boat'])
    assert seen == [(1, 4), (80, 20)]
