"The audit board in JupyterLab: a small notebook is run, and its boxes and tiles are pressed."
import csv

import pandas as pd
import pytest
from PIL import Image

from lab import jupyterlab, ran
from made_up import made_up_run
from spurnb.core import UserError, save_png
from spurnb.data import mini_root
from spurnb.report.board import AuditBoard
from spurnb.report.folder import audit_folder
from spurnb.world.scenes import reference_scenes

CODE = """from spurnb.report.board import AuditBoard
AuditBoard('run')"""


IMAGES = dict(jets=[Image.new('RGB', (8, 8))])


def a_board(images=IMAGES):
    "A board of one image and one classifier."
    metrics = dict(target=dict(name='fireboat'), arms=dict(jets={}), classifiers=dict(vit={}))
    row = {'arm': 'jets', 'image': 0, 'votes': 1, 'hit.vit': True, 'p.vit': .9}
    return AuditBoard(metrics, pd.DataFrame([row | {'top5.vit': 'fireboat=0.900|koala=0.100'}]), images)


@pytest.mark.parametrize('ask, said', [
    (lambda: a_board().choose(order='best'), 'divided'), (lambda: a_board().choose(color='red'), 'color'),
    (lambda: a_board().select(17), 'there are 1'), (lambda: a_board({}), 'no images'),
    (lambda: a_board(dict(other=IMAGES['jets'])), 'by the names of their arms')])
def test_a_choice_is_refused(ask, said):
    pytest.importorskip('ipywidgets')
    with pytest.raises(UserError, match=said): ask()


@pytest.mark.skipif(not (mini_root()/'record.json').exists(), reason='no weights')
def test_the_folder_of_an_audit_is_enough(tmp_path):
    "Its config.json says where the images are."
    pytest.importorskip('ipywidgets')
    for i, scene in enumerate(reference_scenes('fireboat', 2)): save_png(tmp_path/'jets'/f'{i}.png', scene.draw())
    audit_folder(tmp_path/'jets', 'fireboat', ['test_resnet'], tmp_path/'out')
    assert [r['file'] for r in AuditBoard(tmp_path/'out').records] == ['0.png', '1.png']
    (tmp_path/'jets'/'1.png').unlink()
    with pytest.raises(UserError, match='1 of 2 audited images are gone, such as .*1.png'): AuditBoard(tmp_path/'out')


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lab')
    made_up_run(folder/'run')
    with jupyterlab(folder, CODE) as url: yield folder, url


def test_boxes_and_tiles(lab):
    folder, url = lab
    with open(folder/'run'/'scores.csv', newline='') as f:
        rows = [r for r in csv.DictReader(f) if r['arm'] == 'sfsl']
    with ran(url) as tab:
        output = tab.locator('.jp-OutputArea')
        output.get_by_text('1 to 24 of 24 images').wait_for() # the main arm comes first
        tiles = output.locator('button', has_text=' of 8')
        assert [t.split()[0] for t in tiles.all_inner_texts()] == [r['votes'] for r in rows]
        for tile in tiles.all():
            assert 'data:image/webp' in tile.evaluate('b => getComputedStyle(b).backgroundImage')
        tiles.nth(5).click()
        output.get_by_text(f'sfsl 5: {rows[5]["votes"]} of 8 say humming<b>bird').wait_for()
        said = output.inner_text()
        for name, value in rows[5].items():
            if not name.startswith('top5.'): continue
            assert name[5:] in said # all eight, each with its five answers
            assert all(one.rpartition('=')[0] in said for one in value.split('|'))
        assert f'{float(rows[5]["alpha.3"]):.2f}' in said and 'a photo of a <i>sfsl</i> feeder' in said
        failed = sum(r['valid'] == 'False' for r in rows)
        output.locator('select').nth(3).select_option('fails a check')
        output.get_by_text(f'1 to {failed} of {failed} images').wait_for()
        assert sum(t.is_visible() for t in tiles.all()) == failed
        output.locator('select').nth(0).select_option('all arms')
        output.locator('select').nth(3).select_option('any result')
        output.get_by_text('1 to 24 of 120 images').wait_for()
        output.locator('button', has_text='next').click()
        output.get_by_text('25 to 48 of 120 images').wait_for()
        tab.screenshot(path=folder/'board.png')
