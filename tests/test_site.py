"""The rendered pages, built without Quarto: every link leads somewhere, every figure is there and described."""

import json, os, re, shutil, subprocess, sys
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

root = Path(__file__).resolve().parents[1]
config = ConfigParser(delimiters='=')
config.read(root / 'settings.ini')
cfg = config['DEFAULT']
home = f'{cfg["user"]}/{cfg["repo"]}'
notebooks = {
    str(p.relative_to(root / 'nbs')): json.loads(p.read_text(encoding='utf-8'))
    for p in sorted((root / 'nbs').rglob('*.ipynb'))
    if '.ipynb_checkpoints' not in p.parts
}


def source(cell):
    return ''.join(cell['source'])


@pytest.mark.parametrize('name', notebooks)
def test_outputs_are_fit_for_a_page(name):
    for cell in notebooks[name]['cells']:
        for o in cell.get('outputs', []):
            data, text = o.get('data', {}), ''.join(o.get('text', o.get('data', {}).get('text/plain', '')))
            where = f'{name}, {cell["id"]}: {source(cell)[:60]!r}'
            assert o['output_type'] != 'error' and o.get('name') != 'stderr', where
            assert not re.search(r'[\r\x1b]|/(tmp|home|root|Users)/\w', text), (
                f'{where} shows a progress bar, colors of a terminal or a path of one machine: {text[:200]!r}'
            )
            if 'image/png' in data:
                assert re.search(r'^#\| *fig-alt: *".{15,}"$', source(cell), re.M), (
                    f'{where} shows a picture; say what is on it: #| fig-alt: "..."'
                )
            if any('widget' in kind for kind in data):
                assert 'image/png' in data, f'{where} shows nothing where no kernel runs'


@pytest.mark.parametrize('name', notebooks)
def test_a_figure_that_is_described_is_there(name):
    for cell in notebooks[name]['cells']:
        if cell['cell_type'] != 'code' or not re.search(r'^#\| *fig-alt:', source(cell), re.M): continue
        if re.search(r'^#\| *(eval: *false|cuda|net)', source(cell), re.M): continue
        if 'skip_exec' in source(notebooks[name]['cells'][0]): continue
        shown = any('image/png' in o.get('data', {}) for o in cell['outputs'])
        assert shown, f'{name}, {cell["id"]} shows no figure; run tools/notebooks.py'


LINK = re.compile(r'!?\[[^\]]*\]\(([^)\s]+)\)')


@pytest.mark.parametrize(
    'name', [*(f'nbs/{n}' for n in notebooks), 'README.md', 'CONTRIBUTING.md', 'CHANGELOG.md']
)
def test_links_in_the_sources(name):
    if name.startswith('nbs/'):
        text = '\n'.join(source(c) for c in notebooks[name[4:]]['cells'] if c['cell_type'] == 'markdown')
    else:
        text = (root / name).read_text(encoding='utf-8')
    text = re.sub(r'```.*?```', '', text, flags=re.S)
    for to in LINK.findall(text):
        if ours := re.match(
            rf'https://(?:colab\.research\.google\.com/github|github\.com)/{home}/blob/([^/]+)/(.+)', to
        ):
            assert ours[1] == cfg['branch'] and (root / ours[2].partition('#')[0]).exists(), f'{name}: {to}'
        elif not re.match(r'https?://|mailto:|#', to):
            assert (root / name).parent.joinpath(to.partition('#')[0]).exists(), f'{name}: {to}'


BUILD = """
import warnings
warnings.simplefilter('error', UserWarning)
from nbdev.serve import proc_nbs
if __name__ == '__main__': proc_nbs(n_workers=0, force=True)
"""


class Page(HTMLParser):
    "Where a page's links and pictures point, what is said of a picture, and what can be pointed at."

    def __init__(self, html):
        super().__init__()
        self.links, self.pictures, self.ids = [], [], set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if attrs.get('id'):
            self.ids.add(attrs['id'].lower())
        if tag == 'a' and 'href' in attrs:
            self.links.append(attrs['href'])
        if tag == 'img':
            self.pictures.append((attrs['src'], attrs['alt']))


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    "The documentation of a copy of the sources, as HTML: name of the page -> `Page`."
    pytest.importorskip('nbdev')
    nbconvert = pytest.importorskip('nbconvert')
    copy = tmp_path_factory.mktemp('docs') / 'spurnb'
    copy.mkdir()
    for name in ('settings.ini', '_quarto.yml', 'CHANGELOG.md'):
        shutil.copy(root / name, copy)
    shutil.copytree(root / 'nbs', copy / 'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    (copy / 'build.py').write_text(BUILD)
    env = os.environ | dict(PYTHONPATH=str(root), OMP_NUM_THREADS='1')
    r = subprocess.run([sys.executable, 'build.py'], cwd=copy, env=env, text=True, capture_output=True)
    assert r.returncode == 0, r.stderr[-3000:]
    import nbformat

    exporter, found = nbconvert.HTMLExporter(template_name='basic'), {}
    for p in sorted((copy / '_proc').rglob('*.ipynb')):
        nb = json.loads(p.read_text(encoding='utf-8'))
        for cell in nb['cells']:
            cell.pop('has_sd', None)  # a note of nbdev to itself
            if said := re.search(r'^#\| *fig-alt: *"(.+)"$', source(cell), re.M):
                cell['metadata']['alt'] = said[1]  # where nbconvert looks; Quarto reads the line itself
        nb = nbformat.reads(json.dumps(nb), 4)  # as a string, so that lines are joined
        nbformat.validate(nb)
        found[p.relative_to(copy / '_proc').as_posix()] = Page(exporter.from_notebook_node(nb)[0])
    return copy / '_proc', found


def test_every_page_is_built(pages):
    assert sorted(pages[1]) == sorted(notebooks)


def test_what_quarto_is_pointed_to_is_there(pages):
    import yaml

    folder, _ = pages
    stub = yaml.safe_load((folder / '_quarto.yml').read_text())
    html, bar = (
        stub['format']['html'],
        yaml.safe_load((root / '_quarto.yml').read_text())['website']['navbar'],
    )
    named = [
        *stub['metadata-files'],
        *stub['filters'],
        html['css'],
        *html['theme']['dark'],
        *(o['href'] for o in bar['left'] + bar['right']),
    ]
    named += [
        include for p in folder.glob('*.qmd') for include in re.findall(r'include (\S+)', p.read_text())
    ]
    for name in named:
        if name != 'default' and not name.startswith('https:'):
            assert (folder / name.partition('#')[0]).exists(), f'{name} is named, and not there'


def test_links_and_pictures_of_the_pages(pages):
    folder, found = pages
    site = f'https://{cfg["user"]}.github.io/{cfg["repo"]}/'
    modules = {
        c[1]
        for nb in notebooks.values()
        for cell in nb['cells']
        if (c := re.search(r'^#\| *default_exp ([\w.]+)', source(cell), re.M))
    }
    for name, page in found.items():
        for to in page.links:
            file, _, anchor = unquote(to).partition('#')
            if to.startswith(site):  # nbdev's links to our own functions
                assert file.removeprefix(site).removesuffix('.html') in {
                    *(m.replace('.', '/') for m in modules),
                    '',
                    'index',
                }, f'{name}: {to}'
            elif file.startswith(f'https://github.com/{home}/blob/'):
                assert (root / file.split('/blob/')[1].partition('/')[2]).exists(), f'{name}: {to}'
            elif re.match(r'\w+:', to):
                continue
            else:
                target = (folder / name).parent.joinpath(file).resolve() if file else folder / name
                assert target.exists(), f'{name}: {to}'
                if anchor and target.suffix == '.ipynb':
                    assert anchor.lower() in found[target.relative_to(folder.resolve()).as_posix()].ids, (
                        f'{name}: {to}'
                    )
        for to, said in page.pictures:
            if not re.match(r'data:|https?:', to):
                assert (folder / name).parent.joinpath(unquote(to)).exists(), f'{name}: {to}'
            assert said and 'No description' not in said, (
                f'{name}: nothing is said of the picture {to[:80]}'
            )  # nbconvert's words where it warns
