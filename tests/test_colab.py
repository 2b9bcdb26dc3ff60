"Colab: what installing spurnb replaces there, and how boards and progress bars appear with its ipywidgets."

import sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

root = Path(__file__).resolve().parents[1]
VIEW = 'application/vnd.jupyter.widget-view+json'

# imported by a fresh kernel, or needed by Colab's front end, or of a build for its driver
FIXED = {'torch', 'torchvision', 'numpy', 'pillow', 'matplotlib', 'ipython', 'ipykernel', 'ipywidgets', 'traitlets'}
PYTHON = dict(python_version='3.13', python_full_version='3.13.0', extra='')


def colab():
    "Versions on Colab, by package."
    lines = (root / 'tests' / 'colab.txt').read_text().splitlines()
    pairs = (line.split('==') for line in lines if line and not line.startswith('#'))
    return {canonicalize_name(name): version for name, version in pairs}


def replaced(requirements, versions):
    "What pip would replace: requirement -> version. New packages bring their own requirements, as installed here."
    found, open_, seen = {}, [Requirement(r) for r in requirements], set()
    while open_:
        r = open_.pop()
        name = canonicalize_name(r.name)
        if r.marker and not r.marker.evaluate(PYTHON):
            continue
        if name in versions and r.specifier.contains(versions[name]):
            continue
        if name in versions:
            found[str(r)] = versions[name]
        if name in seen:
            continue
        seen.add(name)
        try:
            open_ += map(Requirement, requires(name) or [])
        except PackageNotFoundError:
            pytest.skip(f'{name} is not installed, so its requirements are not known')
    return found


def requirements():
    config = ConfigParser(delimiters='=')
    config.read(root / 'settings.ini')
    return config['DEFAULT']['requirements'].split()


def test_the_list_has_what_must_stay():
    assert FIXED <= set(colab())


def test_installing_leaves_colab_as_it_is():
    "But for timm, which no fresh kernel has imported: 1.0.28 lacks one of the embedded world's architectures."
    assert replaced(requirements(), colab()) == {'timm>=1.0.31': '1.0.28'} and 'timm' not in FIXED


def test_a_newer_requirement_would_be_found():
    assert replaced(['ipywidgets>=8.1'], colab()) == {'ipywidgets>=8.1': '7.7.1'}


@pytest.fixture(params=['own', 'as 7'])
def ipywidgets(request, monkeypatch):
    "The installed ipywidgets, and without the method that widgets of version 7 lack."
    w = pytest.importorskip('ipywidgets')
    if request.param == 'as 7':
        monkeypatch.delattr(w.Widget, '_repr_mimebundle_', raising=False)
    return w


def displayed(board):
    "What IPython sends to a front end for the last line of a cell."
    from IPython.core.formatters import DisplayFormatter

    return DisplayFormatter().format(board)[0]


def component_board(folder):
    from spurnb.components.board import Board
    from spurnb.data import mini_class_images
    from spurnb.encoders import load_encoder
    from spurnb.features import NeuralPCA

    images = mini_class_images('hummingbird', 12)
    pca = NeuralPCA.fit(load_encoder(), images, target=0)
    return Board(pca, images, folder / 'labels.json', 'ann', components=1, k=2, steps=1)


def scene_composer(_):
    from spurnb.components.explore import SceneComposer

    return SceneComposer(judges=['test_resnet'])


def audit_board(_):
    from test_audit_board import a_board

    return a_board()


@pytest.mark.parametrize('make', [audit_board, scene_composer, component_board])
def test_a_board_appears(make, ipywidgets, tmp_path):
    "As a widget, with its image for pages without a kernel."
    from spurnb.data import mini_root

    if make is not audit_board and not (mini_root() / 'record.json').exists():
        pytest.skip("the embedded world's weights are not there")
    board = make(tmp_path)
    data = displayed(board)
    assert data[VIEW] == dict(version_major=2, version_minor=0, model_id=board.widget.model_id)
    assert data['image/png'].startswith('iVBOR') and data['text/plain'] == repr(board)  # a PNG in base64


@pytest.mark.parametrize('version, text', [('7.7.1', False), ('8.1.9', True)])
def test_the_progress_bar_is_text_where_colab_cannot_show_it(version, text, monkeypatch):
    w = pytest.importorskip('ipywidgets')
    import tqdm
    from spurnb.core import track

    monkeypatch.setattr(w, '__version__', version)
    assert type(track([], 'work')) is not tqdm.std.tqdm  # tqdm's own choice, anywhere else
    monkeypatch.setitem(sys.modules, 'google.colab', ModuleType('google.colab'))
    assert (type(track([], 'work')) is tqdm.std.tqdm) == text
