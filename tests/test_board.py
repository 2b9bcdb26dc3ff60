"The component board in a real browser: JupyterLab is started, a small notebook is run, and its buttons are pressed."
import json

import pytest

from lab import jupyterlab, ran
from spurnb.data import mini_root

CODE = '''from spurnb.components.board import Board
from spurnb.data import mini_class_images
from spurnb.encoders import load_encoder
from spurnb.features import NeuralPCA
images = mini_class_images('hummingbird', 40)
Board(NeuralPCA.fit(load_encoder(), images, target=0), images, 'labels.json', 'ann', name='hummingbird', components=4, steps=20)'''


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A folder with one notebook, and the address where JupyterLab shows it."
    if not (mini_root()/'record.json').exists(): pytest.skip("the mini world's weights are not there")
    folder = tmp_path_factory.mktemp('lab')
    with jupyterlab(folder, CODE) as url: yield folder, url


def test_a_stranger_labels_in_jupyterlab(lab):
    folder, url = lab
    with ran(url) as tab:
        head = tab.locator('.jp-OutputArea .widget-html', has_text='labeled').first
        def answers(): return {int(n): (a['label'], a['note']) for n, a in json.loads((folder/'labels.json').read_text())['answers'].items()}
        def shows(component): head.get_by_text(f'What does component {component} light up on?').wait_for()
        def press(button): tab.locator('.jp-OutputArea button', has_text=button).click()
        shows(0)
        assert '0 of 4 labeled' in head.inner_text() and 'not the hummingbird' in head.inner_text() and not (folder/'labels.json').exists()
        page = tab.locator('.jp-OutputArea img').first
        assert page.evaluate('i => i.naturalWidth') > 600 and page.bounding_box()['width'] > 600                    # a page that can be read
        press('spurious')
        shows(1)                                                                                                        # it moves on by itself
        assert answers() == {0: ('spurious', '')} and '1 of 4 labeled' in head.inner_text()
        press('next')
        shows(2)
        tab.fill('.jp-OutputArea input', 'red <b>feeder</b>')
        press('core')                                                                                                 # leaving the field keeps the note
        shows(3)
        assert answers() == {0: ('spurious', ''), 2: ('core', 'red <b>feeder</b>')}
        press('previous')
        shows(2)
        assert tab.input_value('.jp-OutputArea input') == 'red <b>feeder</b>'
        tab.screenshot(path=folder/'board.png')
