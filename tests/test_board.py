"The component board: files of labels that do not fit, and its buttons in a real browser, in JupyterLab."

import json
from dataclasses import asdict

import pytest
from lab import jupyterlab, ran

from spurnb.components.board import Labels, label_component, load_labels, merge_labels
from spurnb.core import UserError, write_json
from spurnb.data import mini_root

CODE = '''from spurnb.components.board import Board
from spurnb.data import mini_class_images
from spurnb.encoders import load_encoder
from spurnb.features import NeuralPCA
images = mini_class_images('hummingbird', 40)
pca = NeuralPCA.fit(load_encoder(), images, target=0)
Board(pca, images, 'labels.json', 'ann', name='hummingbird', components=4, steps=20)'''

ABOUT = dict(target=0, encoder='a'*64, pca='b'*64, components=119)


@pytest.fixture
def file(tmp_path):
    "A file of labels with two answers of Ann's."
    labels = Labels('ann', **ABOUT)
    labels.answer(0, 'spurious', 'the feeder too')
    labels.answer(2, 'core')
    write_json(tmp_path/'labels.json', dict(format=1) | asdict(labels))
    return tmp_path/'labels.json'


REFUSED = {
    'there are 119, counted from 0': lambda f: label_component(f, ABOUT, 119, 'core'),
    'no component -1': lambda f: label_component(f, ABOUT, -1, 'core'),
    'no component True': lambda f: label_component(f, ABOUT, True, 'core'),
    "did you mean 'spurious'": lambda f: label_component(f, ABOUT, 1, 'spurius'),
    'another encoder': lambda f: load_labels(f, ABOUT | dict(encoder='0'*64)),
    'another class (0, not 3)': lambda f: load_labels(f, ABOUT | dict(target=3)),
    'another fit': lambda f: label_component(f, ABOUT | dict(pca='0'*64), 0, 'core'),
    "those of 'ann'": lambda f: label_component(f, ABOUT, 1, 'core', person='bob'),
    'need an owner': lambda f: label_component(f.with_name('new.json'), ABOUT, 1, 'core'),
    'no file of labels': lambda f: load_labels(f.with_name('nowhere.json')),
    'labeled twice': lambda f: merge_labels(f, f),
    'no labels to merge': lambda f: merge_labels(),
    'for another fit': lambda f: merge_labels(f, Labels('bob', **ABOUT | dict(pca='0'*64))),
}


@pytest.mark.parametrize('said', REFUSED)
def test_labels_that_do_not_fit(file, said):
    before = file.read_text()
    with pytest.raises(UserError) as e: REFUSED[said](file)
    assert said in str(e.value) and file.read_text() == before


DAMAGE = {
    'half': lambda text: text[:len(text)//2],
    'no label': lambda text: text.replace('core', 'kore'),
    'no component': lambda text: text.replace('"2"', '"999"'),
    'no hash': lambda text: text.replace('"pca"', '"pac"'),
    'a list': lambda text: '[]',
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_file_is_left_as_it_is(file, damage):
    damaged = DAMAGE[damage](file.read_text())
    file.write_text(damaged)
    with pytest.raises(UserError, match='not a whole file of labels'): label_component(file, ABOUT, 1, 'core')
    assert file.read_text() == damaged


def test_one_person_agrees_with_nobody(file):
    merged, agreement = merge_labels(file)
    assert merged.table().label.tolist() == ['spurious', 'core'] and agreement.n['all'] == 0


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A folder with one notebook, and the address where JupyterLab shows it."
    if not (mini_root()/'record.json').exists(): pytest.skip("the embedded world's weights are not there")
    folder = tmp_path_factory.mktemp('lab')
    with jupyterlab(folder, CODE) as url: yield folder, url


def test_a_stranger_labels_in_jupyterlab(lab):
    folder, url = lab
    with ran(url) as tab:
        head = tab.locator('.jp-OutputArea .widget-html', has_text='labeled').first

        def answers():
            found = json.loads((folder/'labels.json').read_text())['answers']
            return {int(n): (a['label'], a['note']) for n, a in found.items()}

        def shows(component): head.get_by_text(f'What does component {component} light up on?').wait_for()
        def press(button): tab.locator('.jp-OutputArea button', has_text=button).click()

        shows(0)
        assert '0 of 4 labeled' in head.inner_text() and 'not the hummingbird' in head.inner_text()
        assert not (folder/'labels.json').exists()
        page = 'document.querySelector(".jp-OutputArea img")' # comes after the text, and can be read
        tab.wait_for_function(f'{page}?.naturalWidth > 600 && {page}.getBoundingClientRect().width > 600')
        press('spurious')
        shows(1)    # it moves on by itself
        assert answers() == {0: ('spurious', '')} and '1 of 4 labeled' in head.inner_text()
        press('next')
        shows(2)
        tab.fill('.jp-OutputArea input', 'red <b>feeder</b>')
        press('core')    # leaving the field keeps the note
        shows(3)
        assert answers() == {0: ('spurious', ''), 2: ('core', 'red <b>feeder</b>')}
        press('previous')
        shows(2)
        tab.wait_for_function('document.querySelector(".jp-OutputArea input").value === "red <b>feeder</b>"')
        tab.screenshot(path=folder/'board.png')
