"What pip installs: requirements, versions, the wheel and what is in it."

import ast, importlib.util, json, re, shutil, subprocess, sys, zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
config = ConfigParser(delimiters='=')
config.read(root / 'settings.ini')
cfg = config['DEFAULT']
modules = sorted((root / 'spurnb').rglob('*.py'))
distribution = {
    'sklearn': 'scikit-learn',
    'PIL': 'pillow',
    'yaml': 'pyyaml',
    'huggingface_hub': 'huggingface-hub',
}  # where it is not called what it is imported as
indirect = {
    'torchvision': 'timm',
    'accelerate': 'diffusers',
    'ipywidgets': 'tqdm',
}  # needed by that package, not imported by ours


def names(requirements):
    return {re.split(r'[<>=!~;\[]', r)[0].lower() for r in requirements.split()}


def imports(file):
    "Packages that `file` imports anywhere, within functions too; not those whose absence it answers itself."
    tree = ast.parse(file.read_text())
    optional = {
        n
        for t in ast.walk(tree)
        if isinstance(t, ast.Try) and any(getattr(h.type, 'id', '') == 'ImportError' for h in t.handlers)
        for b in t.body
        for n in ast.walk(b)
    }
    nodes = [n for n in ast.walk(tree) if n not in optional]
    found = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    found |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
    return {m.partition('.')[0] for m in found} - set(sys.stdlib_module_names) - {'spurnb', '__future__'}


def test_every_import_is_a_requirement():
    required = names(cfg['requirements'])
    for file in modules:
        missing = {m for m in imports(file) if distribution.get(m, m).lower() not in required}
        assert not missing, f'{file.name} imports {missing}, which settings.ini does not require'


def test_every_requirement_is_imported():
    used = {distribution.get(m, m).lower() for file in modules for m in imports(file)}
    spare = names(cfg['requirements']) - used - set(indirect)
    assert not spare, f'settings.ini requires {spare}, which nothing imports'


def test_requirements_have_lower_bounds_and_no_upper_ones():
    for r in cfg['requirements'].split():
        assert re.fullmatch(r'[a-z0-9-]+>=[0-9.]+(,!=[0-9.]+)?', r), (
            r
        )  # one version that does not work may be left out


def test_one_version():
    assert (
        re.search(r'__version__ = "(.*)"', (root / 'spurnb' / '__init__.py').read_text())[1] == cfg['version']
    )
    assert f'## {cfg["version"]}' in (root / 'CHANGELOG.md').read_text()
    assert f'spurnb {cfg["version"]},' in (root / '_quarto.yml').read_text()


def test_the_readme_is_short():
    words = [w for w in (root / 'README.md').read_text().split() if re.search(r'\w', w)]
    assert len(words) <= 600


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel of a copy of the sources, so that nothing built before gets into it.

    A file is added deep in spurnb/mini."""
    source, out = tmp_path_factory.mktemp('source') / 'spurnb', tmp_path_factory.mktemp('wheel')
    shutil.copytree(
        root,
        source,
        ignore=shutil.ignore_patterns(
            '.git', 'build', 'dist', '*.egg-info', 'runs', '_proc', '_docs', '.venv', 'venv', '__pycache__'
        ),
    )
    deep = source / 'spurnb' / 'mini' / 'generator' / 'unet'
    deep.mkdir(parents=True, exist_ok=True)
    (deep / 'added.safetensors').write_bytes(bytes(range(256)))
    offline = ['--no-isolation'] if importlib.util.find_spec('setuptools') else []
    r = subprocess.run(
        [sys.executable, '-m', 'build', '--wheel', *offline, '--outdir', str(out), str(source)],
        text=True,
        capture_output=True,
    )
    assert r.returncode == 0, r.stdout[-3000:] + r.stderr[-3000:]
    assert (
        'importable package' not in r.stdout + r.stderr
    )  # how setuptools warns of data folders it was not told of
    [file] = out.glob('*.whl')
    return source, zipfile.ZipFile(file)


def test_the_wheel_holds_every_file_of_the_package(wheel):
    source, z = wheel
    expected = {p.relative_to(source).as_posix() for p in (source / 'spurnb').rglob('*') if p.is_file()}
    assert 'spurnb/mini/generator/unet/added.safetensors' in expected and 'spurnb/core.py' in expected
    inside = {n for n in z.namelist() if n.startswith('spurnb/')}
    assert inside == expected
    for name in expected:
        assert z.read(name) == (source / name).read_bytes(), name


def test_the_wheel_says_what_settings_ini_says(wheel):
    _, z = wheel
    [info] = {n.partition('/')[0] for n in z.namelist() if '.dist-info/' in n}
    points = z.read(f'{info}/entry_points.txt').decode()
    for c in cfg['console_scripts'].split():
        assert c.replace('=', ' = ') in points
    meta = z.read(f'{info}/METADATA').decode()
    plain = [line for line in meta.splitlines() if line.startswith('Requires-Dist:') and 'extra' not in line]
    assert {re.split(r'[<>=! ]', line.split(': ')[1])[0].lower() for line in plain} == names(
        cfg['requirements']
    )
    assert f'Version: {cfg["version"]}' in meta and f'Requires-Python: >={cfg["min_python"]}' in meta
    assert any(n.endswith('LICENSE') for n in z.namelist())


def test_the_wheel_is_light(wheel):
    _, z = wheel
    assert sum(i.compress_size for i in z.infolist()) < 27e6  # weights of at most 25 MB, code and pictures
