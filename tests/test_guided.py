"What a guide refuses, before any image is sampled."
from types import SimpleNamespace

import pytest

from spurnb.core import UserError
from spurnb.draw.guided import Guide

REFUSED = [
    (dict(strength=-1.), 'strength is -1.0; give a number from 0 up'),
    (dict(strength=float('inf')), 'strength is inf'),
    (dict(start=.5, stop=.2), 'two rising shares'),
    (dict(start=-.1), 'two rising shares'),
    (dict(stop=1.1), 'two rising shares'),
    (dict(sfsl=SimpleNamespace(features='phi')), "this loss compares 'phi'"),
]


@pytest.mark.parametrize('wrong, said', REFUSED)
def test_guide_refuses(wrong, said):
    with pytest.raises(UserError) as refused: Guide(**dict(sfsl=SimpleNamespace(features='alpha')) | wrong)
    assert said in str(refused.value)
