"Folders that cannot be compared."
import json

import pytest

from spurnb.core import UserError
from spurnb.report.leaderboard import compare_audits

METRICS = dict(target=dict(name='fireboat'), arms=dict(images={}), classifiers=dict(vit={}))


def audit(folder, metrics=METRICS):
    folder.mkdir()
    (folder/'metrics.json').write_text(json.dumps(metrics))
    return folder


@pytest.mark.parametrize('second, said', [
    (None, 'at least two'), ('empty', 'is not an audit'), ('list', 'does not come from an audit'),
    ('other/../first', 'is given twice')])
def test_a_folder_that_cannot_be_compared(second, said, tmp_path):
    audit(tmp_path/'first')
    audit(tmp_path/'other')
    audit(tmp_path/'list', [1])
    (tmp_path/'empty').mkdir()
    folders = [tmp_path/'first', *([tmp_path/second] if second else [])]
    with pytest.raises(UserError, match=said): compare_audits(folders, tmp_path/'board')
    assert not (tmp_path/'board').exists()
