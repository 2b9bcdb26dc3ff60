"Scenes: the drawing behind the embedded weights, and refusals."
import numpy as np
import PIL
import pytest

from spurnb.core import UserError, sha256
from spurnb.world import scenes


@pytest.mark.parametrize('call, expected', [
    (lambda: scenes.feature_of('humingbird'), "did you mean 'hummingbird'"),
    (lambda: scenes.class_scenes('koalla', 3), "did you mean 'koala'"),
    (lambda: scenes.reference_scenes('boat', 3), "did you mean 'fireboat'"),
    (lambda: scenes.null_scenes('tench', 0), 'n is 0'),
    (lambda: scenes.independent_scenes(-1), 'n is -1'),
])
def test_user_errors(call, expected):
    with pytest.raises(UserError) as e: call()
    assert expected in str(e.value)


def material():
    "Return 1,680 scenes of every kind."
    some = scenes.classifier_scenes(600, 5) + scenes.independent_scenes(600, 6)
    for c in scenes.CLASSES:
        some += scenes.class_scenes(c, 20, 7) + scenes.reference_scenes(c, 20, 8) + scenes.null_scenes(c, 40, 9)
    return some


def test_records_and_captions_are_the_ones_the_weights_were_trained_on():
    some = material()
    assert sha256(repr(some).encode())[:16] == 'df5df726e1401112'
    assert sha256(repr([s.caption(True) for s in some]).encode())[:16] == '0c2d00a0099cdb35'


def test_pixels_are_the_ones_the_weights_were_trained_on():
    "A change in the drawing makes the embedded weights wrong without an error."
    pixels = scenes.draw_scenes(material(), workers=1)
    assert np.allclose(pixels.mean((0, 1, 2)), [147.63, 138.47, 119.73], atol=.05), pixels.mean((0, 1, 2)).tolist()
    if PIL.__version__ == '13.0.0': assert sha256(pixels.tobytes())[:16] == '2d1f7f04a621c841' # others may round
