"Folders that cannot be compared."
import json

import pytest

from spurnb.core import UserError, atomic, claim, write_json
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


@pytest.mark.parametrize('name', ['metrics.json', 'scores.csv'])
def test_a_changed_audit_is_not_compared(name, tmp_path):
    for folder in ('first', 'second'):
        claim(tmp_path/folder, 'spurnb_audit')
        write_json(tmp_path/folder/'metrics.json', METRICS)
        with atomic(tmp_path/folder/'scores.csv') as part: part.write_text('arm,image,hash\n')
    (tmp_path/'second'/name).write_bytes((tmp_path/'second'/name).read_bytes() + b' ')
    with pytest.raises(UserError, match=f'{name}. is not as the audit wrote it'):
        compare_audits([tmp_path/'first', tmp_path/'second'], tmp_path/'board')
