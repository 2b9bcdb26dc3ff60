"Questions about Spurious ImageNet that are refused before any classifier is loaded."
import pytest
from PIL import Image

from spurnb.core import UserError, save_png
from spurnb.report.spurious_score import every_feature


@pytest.mark.parametrize('how, said', [
    (dict(shard='3/2'), 'i from 1 to n'), (dict(classes=['goldfish']), "no feature of 'goldfish'"),
    (dict(protocols=['modell']), 'model')])
def test_a_question_is_refused(how, said, tmp_path):
    save_png(tmp_path/'x_y_94_1'/'1.png', Image.new('RGB', (9, 9)))
    with pytest.raises(UserError, match=said): every_feature(['test_resnet.r160_in1k'], 'val', str(tmp_path), **how)
