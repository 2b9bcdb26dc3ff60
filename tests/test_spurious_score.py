"Questions about Spurious ImageNet that are refused before any classifier is loaded, and means over few features."
import pandas as pd
import pytest
from PIL import Image

from spurnb.core import UserError, save_png
from spurnb.report.spurious_score import every_feature, mean_scores


@pytest.mark.parametrize('how, said', [
    (dict(shard='3/2'), 'i from 1 to n'), (dict(classes=['goldfish']), "no feature of 'goldfish'"),
    (dict(protocols=['modell']), 'model')])
def test_a_question_is_refused(how, said, tmp_path):
    save_png(tmp_path/'x_y_94_1'/'1.png', Image.new('RGB', (9, 9)))
    with pytest.raises(UserError, match=said): every_feature(['test_resnet.r160_in1k'], 'val', str(tmp_path), **how)


def test_two_features_give_a_wide_interval_but_no_impossible_one():
    table = pd.DataFrame(dict(protocol='model', judge='a', ap=[.2, .9], auc=[.5, .5], rate=[0., .1]))
    row = mean_scores(table).iloc[0]
    assert (row.ap_low, row.ap_high) == (0, 1) and (row.auc_low, row.auc_high) == (.5, .5)
    alone = mean_scores(table[:1]).iloc[0]
    assert alone.ap == .2 and pd.isna(alone.ap_low)
