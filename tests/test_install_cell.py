"The first cell of the walk and the tutorials, run by IPython in an environment of its own, with a wheel of this tree."

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
pytest.importorskip('setuptools')

RUN = '''
import sys
from IPython.core.interactiveshell import InteractiveShell
done = InteractiveShell.instance(history_length=0).run_cell(sys.argv[1])
print('RAISED', repr(done.error_in_exec)) if done.error_in_exec else print('FINE')
try: import spurnb; print(spurnb.__version__, spurnb.__file__)
except ImportError: print('no spurnb')
'''


@pytest.fixture(scope='module')
def cell():
    nb = json.loads((root / 'nbs' / '00_core.ipynb').read_text(encoding='utf-8'))
    return next(''.join(c['source']) for c in nb['cells'] if '%pip install' in ''.join(c['source']))


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "A wheel of this tree with a version that nobody has, so that pip installs it over an editable spurnb."
    place = tmp_path_factory.mktemp('wheel')
    for f in ('setup.py', 'settings.ini', 'pyproject.toml', 'README.md'):
        shutil.copy(root / f, place)
    shutil.copytree(root / 'spurnb', place / 'spurnb', ignore=shutil.ignore_patterns('__pycache__', 'mini'))
    for f, was in (('settings.ini', 'version = '), ('spurnb/__init__.py', '__version__ = ')):
        lines = (place / f).read_text().splitlines()
        new = {'version = ': 'version = 9.9', '__version__ = ': '__version__ = "9.9"'}[was]
        (place / f).write_text('\n'.join(new if line.startswith(was) else line for line in lines) + '\n')
    build = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', place, place]
    subprocess.run(build, check=True, capture_output=True)
    return next(place.glob('*.whl'))


@pytest.fixture
def environment(tmp_path):
    "A fresh environment that sees the packages of this one, but not what is installed from sources."
    subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'env'], check=True)
    site = next((tmp_path / 'env').glob('[Ll]ib/**/site-packages'))
    (site / 'others.pth').write_text(sysconfig.get_path('purelib') + '\n')

    def run(cell, **more):
        env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV')}
        env |= dict(IPYTHONDIR=str(tmp_path / 'ipython'), PIP_DISABLE_PIP_VERSION_CHECK='1', **more)
        python = next((tmp_path / 'env').glob('[bS]*/python*'))
        r = subprocess.run([python, '-c', RUN, cell], env=env, cwd=tmp_path, capture_output=True, text=True)
        return r.stdout + r.stderr

    return run


def test_it_installs_a_wheel(environment, cell, wheel):
    said = environment(cell, SPURNB_SOURCE=str(wheel))
    assert 'FINE' in said and '9.9 ' in said and str(wheel.parent) not in said.split('FINE')[1], said


def test_it_says_what_to_do_when_nothing_was_installed(environment, cell, tmp_path):
    said = environment(cell, SPURNB_SOURCE=str(tmp_path / 'spurnb-0.whl'))
    assert 'RAISED' in said and 'set SPURNB_SOURCE' in said and 'no spurnb' in said, said
