"Cells of the tutorial at full scale that decide what outlives a session, and which images it asks for."
import json, os, sys
from pathlib import Path
from types import ModuleType

import pytest

root = Path(__file__).resolve().parents[1]
TUTORIAL = root/'nbs'/'tutorials'/'01_full_scale.ipynb'
VARIABLES = ('HF_HOME', 'SPURNB_KEEP', 'SPURNB_TRAIN', 'SPURNB_VAL', 'SPURNB_OPTIONS')


@pytest.fixture
def cells(monkeypatch):
    "Function: what the cells define that hold these texts; the variables are as before when the test ends."
    for name in VARIABLES:
        monkeypatch.setenv(name, '') # so that its absence is restored, too
        monkeypatch.delenv(name)
    sources = [''.join(c['source']) for c in json.loads(TUTORIAL.read_text(encoding='utf-8'))['cells']
               if c['cell_type'] == 'code']

    def run(*holding):
        known = dict(os=os, Path=Path, keep='', preset='sd15')
        for text in holding:
            found = [s for s in sources if text in s]
            assert found, f'no cell holds {text!r}'
            exec(found[0], known)
        return known
    return run


@pytest.fixture
def colab(monkeypatch):
    "Modules with Colab's names; -> list of what was mounted."
    mounted = []
    for name in ('google', 'google.colab', 'google.colab.drive'):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules['google.colab'].drive = sys.modules['google.colab.drive']
    sys.modules['google.colab.drive'].mount = mounted.append
    return mounted


def test_on_colab_downloads_and_run_are_on_the_drive(cells, colab):
    settings = cells('drive.mount', 'import run_options', 'settings_text(settings)')['settings']
    assert colab == ['/content/drive']
    keep = Path('/content/drive/MyDrive/spurnb')
    assert Path(os.environ['HF_HOME']).is_relative_to(keep) and settings.folder.is_relative_to(keep)


def test_elsewhere_a_variable_names_the_folder(cells, monkeypatch, tmp_path):
    assert not cells('drive.mount')['keep'] and 'HF_HOME' not in os.environ # nothing is asked, nothing is moved
    monkeypatch.setenv('SPURNB_KEEP', str(tmp_path))
    settings = cells('drive.mount', 'import run_options', 'settings_text(settings)')['settings']
    assert Path(os.environ['HF_HOME']).is_relative_to(tmp_path) and settings.folder.is_relative_to(tmp_path)


def test_validation_images_are_asked_for(cells):
    "Without them there is no accuracy, average precision or AUC."
    known = cells('import os, shlex', 'import run_options', 'class_images = os.environ')
    assert known['settings'].validation_images == 'ILSVRC/imagenet-1k'
