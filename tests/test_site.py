"""The rendered pages, built without Quarto: every link leads somewhere, every figure is there and described."""

import json, os, re, shutil, subprocess, sys
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from site_pages import CUT, FAINT, WIDE, page_html, styles

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
        kinds = [o.get('name') for o in cell.get('outputs', [])]
        assert ('stdout', 'stdout') not in zip(kinds, kinds[1:]), f'{name}, {cell["id"]} prints in pieces'
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
        if cell['cell_type'] != 'code' or not re.search(r'^#\| *fig-alt:', source(cell), re.M):
            continue
        if re.search(r'^#\| *(eval: *false|cuda|net)', source(cell), re.M):
            continue
        if 'skip_exec' in source(notebooks[name]['cells'][0]):
            continue
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


def built(pages):
    "Name and cells of every page, as nbdev gives them to Quarto."
    for name in pages[1]:
        cells = json.loads((pages[0] / name).read_text(encoding='utf-8'))['cells']
        yield name, [c for c in cells if not source(c).startswith('<!--')]


def seen(cell):
    "The code of a cell that a reader sees."
    if cell['cell_type'] != 'code' or re.search(r'^#\| *echo: *false', source(cell), re.M):
        return ''
    return re.sub(r'^#\|.*\n?', '', source(cell), flags=re.M)


def documented(cells):
    "Name and signature of everything that a page documents."
    for cell in cells:
        for o in cell.get('outputs', []) if re.search(r'^show_doc\(', source(cell), re.M) else []:
            text = ''.join(o.get('data', {}).get('text/markdown', ''))
            yield re.search(r'^### (\S+)', text, re.M)[1], re.search(r'```python\n(.*?)```', text, re.S)[1]


def test_a_heading_shows_its_underscores(pages):
    names = [symbol for _, cells in built(pages) for symbol, _ in documented(cells)]
    assert r'SFSL.\_\_call\_\_' in names and not [n for n in names if '__' in n]


def test_a_signature_has_a_parameter_a_line(pages):
    count = 0
    for name, cells in built(pages):
        for symbol, signature in documented(cells):
            count += 1
            *given, last = signature.strip().splitlines()
            assert not re.search(r'NoneType|instance: <', signature), f'{name}: {signature}'
            for line in given[1:]:
                code = re.sub(r'\[[^\]]*\]|\([^)]*\)|\{[^}]*\}|\'[^\']*\'', '', line.partition(' # ')[0])
                assert code.strip().rstrip(',').count(',') == 0, (
                    f'{name}, {symbol}: two parameters in {line!r}'
                )
                assert not line.partition(' # ')[2].startswith('->'), f'{name}, {symbol}: {line!r}'
            assert all(len(line) <= 90 for line in signature.splitlines()) and '](http' not in signature, (
                signature
            )
    assert count > 400


def test_what_is_returned_is_said_of_the_return(pages):
    found = {symbol: text for _, cells in built(pages) for symbol, text in documented(cells)}
    assert '    x:Tensor, # (n, 3, h, w) in [0,1]\n): # (n, L) in logit units' in found['NeuralPCA.alpha']
    assert found['in_batches'].strip().endswith('): # tensor with n rows')
    assert ')->dict: # auc in [0,1]' in found['separation']
    assert 'calibration=None, # as' in found['score_images']


def test_the_symbol_index_is_complete(pages):
    all_pages = dict(built(pages))
    index = ''.join(
        ''.join(o['data']['text/markdown']) for o in all_pages.pop('symbols.ipynb')[-1]['outputs']
    )
    listed = re.findall(r'^\| \[(\S+)\]\((\S+?)#(\S+)\) \| (\S.*) \|$', index, re.M)
    there = [(symbol, name) for name, cells in all_pages.items() for symbol, _ in documented(cells)]
    there = [(symbol, name) for symbol, name in there if r'\_\_' not in symbol]
    assert sorted((symbol, page) for symbol, page, _, _ in listed) == sorted(there)
    assert all(anchor == symbol.lower() for symbol, _, anchor, _ in listed)


def test_a_colon_leads_to_something(pages):
    for name, cells in built(pages):
        for cell, following in zip(cells, cells[1:] + [None]):
            if cell['cell_type'] == 'markdown' and source(cell).rstrip().endswith(':'):
                assert following and following['cell_type'] == 'code', f'{name}: {source(cell)[-80:]!r}'


def test_a_page_begins_with_its_notebook_and_with_words(pages):
    for name, cells in built(pages):
        first, second = [c for c in cells if c['cell_type'] != 'raw'][:2]
        at = f'{home}/blob/{cfg["branch"]}/nbs/{name}'
        colab = f'[Open in Colab](https://colab.research.google.com/github/{at}) · '
        if not any('%pip install' in source(c) for c in notebooks[name]['cells']):
            colab = ''  # the package would not be there
        assert source(first) == f'{colab}[View notebook](https://github.com/{at})'
        assert second['cell_type'] == 'markdown' and not source(second).startswith(('#', '![', '[![')), name


def test_code_fits_on_a_page(pages):
    for name, cells in built(pages):
        for cell in cells:
            for line in seen(cell).splitlines():
                assert len(line) <= 90, f'{name}: {line}'


def test_cells_that_only_import_are_folded(pages):
    import ast

    for name, cells in built(pages):
        for code in filter(None, map(seen, cells)):
            try:
                body = ast.parse(code).body
            except SyntaxError:
                continue
            cell = next(c for c in cells if seen(c) == code)
            if all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body):
                assert body and re.search(r'^#\| *code-fold: *true', source(cell), re.M), f'{name}: {code}'


def test_no_link_is_in_another(pages):
    for name, cells in built(pages):
        assert not [c for c in cells if c['cell_type'] == 'markdown' and '[[`' in source(c)], name


def test_a_printed_table_has_a_head():
    from tools.docs import as_tables

    rows = 'fireboat  1.00  0.81\nkoala     0.50  0.20\ntench     0.25  0.10\n'
    [bare] = as_tables(rows)
    assert ''.join(bare['text']) == rows
    assert '| class | rate | low |' in ''.join(next(as_tables(f'class  rate  low\n{rows}'))['data']['text/markdown'])


def test_tables_are_tables(pages):
    "Quarto loads scripts from elsewhere for a page with HTML in an output."
    count = 0
    for name, cells in built(pages):
        for cell in cells:
            for o in cell.get('outputs', []):
                data = o.get('data', {})
                assert not {'text/html', 'application/javascript'} & set(data), f'{name}: {source(cell)[:80]}'
                columns = [
                    row.count(' | ')
                    for row in ''.join(data.get('text/markdown', '')).splitlines()
                    if row[:1] == '|'
                ]
                assert max(columns, default=0) <= 8, f'{name}, a table too wide: {source(cell)[:80]}'
                count += bool(columns)
    assert count > 60


def test_what_quarto_is_pointed_to_is_there(pages):
    import yaml

    site = yaml.safe_load((root / '_quarto.yml').read_text())['website']
    assert site['open-graph'] and site['twitter-card']
    folder, _ = pages
    stub = yaml.safe_load((folder / '_quarto.yml').read_text())
    html, bar = (
        stub['format']['html'],
        yaml.safe_load((root / '_quarto.yml').read_text())['website']['navbar'],
    )
    named = [
        *stub['metadata-files'],
        html['css'],
        *html['theme']['dark'],
        stub['website']['favicon'],
        stub['website']['image'],  # of the card of a link
        *(o['href'] for o in bar['left'] + bar['right']),
    ]
    named += [
        include for p in folder.glob('*.qmd') for include in re.findall(r'include (\S+)', p.read_text())
    ]
    for name in named:
        if name != 'default' and not name.startswith('https:'):
            there = folder / name.partition('#')[0].removeprefix('/')  # a slash is the site's root
            assert there.exists(), f'{name} is named, and not there'


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


@pytest.fixture(scope='module')
def style(tmp_path_factory):
    return styles(root / 'nbs', tmp_path_factory.mktemp('npm'))


@pytest.mark.parametrize('mode', ['light', 'dark'])
@pytest.mark.parametrize('width', [1400, 390])
def test_pages_in_a_browser(pages, style, width, mode, tmp_path):
    "All text can be read, nothing is wider than its place, and nothing comes from elsewhere."
    sync = pytest.importorskip('playwright.sync_api')
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not chromium:
        pytest.skip('no Chromium')
    wrong, asked = [], []
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu'])
        tab = browser.new_context(viewport=dict(width=width, height=900)).new_page()
        tab.on('request', lambda r: asked.append(r.url))
        for name, cells in built(pages):
            (tmp_path / 'page.html').write_text(
                page_html(cells, style[mode], f'{(pages[0] / name).parent.as_uri()}/')
            )
            tab.goto((tmp_path / 'page.html').as_uri())
            wrong += [f'{name}: {w}' for w in tab.evaluate(WIDE, 'main *' if width == 1400 else 'main table')]
            wrong += [f'{name}: {w} is cut in two' for w in tab.evaluate(CUT)]
            wrong += [f'{name}: {colors} {w}' for colors, w in tab.evaluate(FAINT).items()]
        browser.close()
    assert not [url for url in asked if not url.startswith(('file:', 'data:'))]
    assert not wrong, '\n'.join(wrong)


def test_the_sidebar_leads_from_the_walk_to_the_reference():
    import yaml

    bar = yaml.safe_load((root / 'nbs' / 'sidebar.yml').read_text())['website']['sidebar']['contents']
    sections = {part['section']: part['contents'] for part in bar[1:]}
    assert bar[0] == 'index.ipynb' and list(sections) == ['The walk', 'Tutorials', 'Modules', 'Reference']
    assert 'symbols.ipynb' in sections['Reference']
    level = yaml.safe_load((root / '_quarto.yml').read_text())['website']['sidebar']['collapse-level']
    assert level == 2 and all(isinstance(part, dict) for part in sections['Modules'])  # folded, the walk is not
    assert sections['The walk'] == [name for name in sorted(notebooks) if re.match(r'\d\d_', name)]


def test_the_search_knows_symbols(tmp_path):
    "A symbol is a section of the third level; Quarto's index has those of the second."
    import runpy

    page = '<section id="psi" class="level2"><h2>Evidence</h2><p>of a class</p>{}</section>'
    title, text = 'NeuralPCA.<wbr><b>fit</b>', '<p>a</p><p>&lt; b</p>'
    inside = f'<section id="neuralpca.fit" class="level3 doc"> <h3 class="a">{title}</h3>{text}</section>'
    (tmp_path / 'features.html').write_text(page.format(inside))
    own = dict(objectID='features.html', href='features.html', title='Features', section='', text='')
    second = own | dict(objectID='features.html#psi', href='features.html#psi', section='Evidence')
    (tmp_path / 'search.json').write_text(json.dumps([own, second]))
    complete = runpy.run_path(str(root / 'tools' / 'search.py'))['complete']
    for _ in range(2):  # a site that is rendered again keeps its index
        complete(tmp_path)
        *before, added = json.loads((tmp_path / 'search.json').read_text())
        assert before == [own, second]
        assert (added['href'], added['section']) == ('features.html#neuralpca.fit', 'NeuralPCA.fit')
        assert added['text'] == 'a &lt; b' and added['title'] == 'Features'
