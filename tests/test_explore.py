"The scene composer and the explorer of the loss: choices that are refused, and menus and sliders in a real browser."

import pytest
from lab import jupyterlab, ran

from spurnb.components.explore import SceneComposer
from spurnb.core import UserError

CODE = """from IPython.display import display
from spurnb.train.checkpoints import load_pipeline
from spurnb.data import mini_class_images, mini_references
from spurnb.encoders import load_encoder
from spurnb.components.explore import SceneComposer, SFSLExplorer
from spurnb.features import NeuralPCA
from spurnb.objective import SFSL
composer = SceneComposer(judges=['test_resnet', 'test_vit'])
pca = NeuralPCA.fit(load_encoder(), mini_class_images('hummingbird', 60), target=0)
references = mini_references('hummingbird', 2, held_out=0).images
explorer = SFSLExplorer(SFSL(pca, [0]), load_pipeline('mini', 'cpu'), references, 'a photo of a feeder')
def note(*_):
    scene = composer.scene
    said = f'{scene.caption(background=True)}, {scene.trim}; reference {explorer.image} at {explorer.t}'
    open('state.txt', 'w').write(said)
display(composer.widget, explorer.widget)
for w in (composer.view, explorer.view): w.observe(note, 'value')"""


WRONG = dict(blue=dict(context='feeder', variant='vine'), koala=dict(obj='kaola'), feeder=dict(context='feder'),
             grass=dict(background='gras'), white=dict(trim='wite'))


@pytest.mark.parametrize('said, change', list(WRONG.items()))
def test_a_scene_that_cannot_be_drawn(said, change):
    composer = SceneComposer(judges=[None])
    with pytest.raises(UserError) as e: composer.choose(**change)
    assert said in str(e.value) and composer.scene.caption() == 'a photo of a red feeder'


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lab')
    with jupyterlab(folder, CODE) as url: yield folder, url


def test_menus_and_sliders(lab):
    folder, url = lab
    def reached(tab, words):
        said = ''
        for _ in range(300):
            if (folder/'state.txt').exists(): said = (folder/'state.txt').read_text()
            if words in said: return
            tab.wait_for_timeout(100)
        raise AssertionError(f'{words!r} never came; the last was {said!r}')
    with ran(url) as tab:
        pictures, menus = tab.locator('.jp-OutputArea img'), tab.locator('.jp-OutputArea select')
        pictures.nth(1).wait_for()
        read = 'async i => Array.from(new Uint8Array(await (await fetch(i.src)).arrayBuffer())).join()'
        def look(i): return pictures.nth(i).evaluate(read)
        seen = [look(0), look(1)]
        assert menus.nth(2).locator('option').all_inner_texts()[0] == 'red'
        menus.nth(1).select_option('graffiti')
        reached(tab, 'a photo of a pink graffiti on grass')
        first = 'n => document.querySelectorAll(".jp-OutputArea select")[2].options[0].text == n'
        tab.wait_for_function(first, arg='pink')    # its variants are offered now
        menus.nth(2).select_option('blue')
        reached(tab, 'a photo of a blue graffiti on grass')
        menus.nth(3).select_option('white')
        reached(tab, 'a photo of a blue graffiti on grass, white')
        menus.nth(4).select_option('brick')
        reached(tab, 'a photo of a blue graffiti on brick')
        assert look(0) != seen[0] and look(1) == seen[1]
        handles = tab.locator('.jp-OutputArea .noUi-handle')
        handles.nth(0).focus()
        tab.keyboard.press('ArrowRight')
        reached(tab, 'reference 0 at 420')
        handles.nth(1).focus()
        tab.keyboard.press('ArrowRight')
        reached(tab, 'reference 1 at 420')
        tab.wait_for_timeout(500)
        assert look(1) != seen[1]
