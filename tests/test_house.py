"""The house: floors, one order everywhere, one home for a name, short pages, lines that fit on a screen."""

import ast
import io
import json
import re
import tokenize
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

root = Path(__file__).resolve().parents[1]
nbs = root / 'nbs'
package = root / 'spurnb'
modules = sorted(f for f in package.rglob('*.py') if f.name not in ('__init__.py', '_modidx.py'))
pages = {
    p.relative_to(nbs).as_posix(): json.loads(p.read_text(encoding='utf-8'))['cells']
    for p in sorted(nbs.rglob('*.ipynb'))
    if not {'.ipynb_checkpoints', '_proc'} & set(p.parts)
}
walk = [name for name in pages if re.match(r'\d\d_', name)]

FLOORS = (
    'core',
    'world',
    'data',
    'photos',
    'encoders prediction',
    'features objective',
    'audit train',
    'evaluate components draw',
    'report run finetune generate',
    'lab',
    'pipeline',
    'cli',
)
FLOOR = {
    name: number for number, names in enumerate(FLOORS) for name in names.split()
}  # flat modules and folders


def source(cell):
    return ''.join(cell['source'])


def flags(cell):
    return set(re.findall(r'^#\| *([\w-]+)', source(cell), re.M))


# ---- floors


def imported(file):
    "Our modules that `file` imports, within functions too, as 'spurnb.train.lora'."
    here = ('spurnb', *file.relative_to(package).parent.parts)
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith('spurnb.'))
        if not isinstance(node, ast.ImportFrom):
            continue
        base = node.module or ''
        if node.level:
            base = '.'.join((*here[: len(here) - node.level + 1], base)).rstrip('.')
        if base == 'spurnb':
            yield from (f'spurnb.{a.name}' for a in node.names if a.name != '__version__')
        elif base.startswith('spurnb.'):
            yield base


@pytest.mark.parametrize('file', modules, ids=lambda f: f.relative_to(package).as_posix())
def test_a_module_imports_from_its_folder_and_lower_floors(file):
    own = file.relative_to(package).with_suffix('').parts[0]
    for name in imported(file):
        there = name.split('.')[1]
        assert there == own or FLOOR[there] < FLOOR[own], (
            f'{own} imports {name}, which is not on a lower floor'
        )


def test_a_module_is_where_its_notebook_is():
    "A module without a notebook was left behind by a move."
    exported = {}
    for name, cells in pages.items():
        found = re.search(r'^#\| *default_exp +([\w.]+)', '\n'.join(map(source, cells)), re.M)
        if found:
            exported[found[1]] = re.sub(r'^\d+_', '', name.removesuffix('.ipynb')).replace('/', '.')
    assert exported and all(module == notebook for module, notebook in exported.items()), exported
    assert set(exported) == {'.'.join(f.relative_to(package).with_suffix('').parts) for f in modules}


# ---- one order, one home


def sidebar():
    "Pages in the order of the sidebar."

    def entries(contents):
        for entry in contents:
            if isinstance(entry, dict):
                yield from entries(entry['contents'])
            else:
                yield entry

    bar = yaml.safe_load((nbs / 'sidebar.yml').read_text())['website']['sidebar']['contents']
    return [name for name in entries(bar) if name.endswith('.ipynb')]


def links(text):
    return re.findall(r'\]\((?:nbs/)?([\w/]+\.ipynb)\)', text)


def rows(name):
    "Pages that the tables of page `name` link to, in order."
    text = '\n'.join(source(c) for c in pages[name] if c['cell_type'] == 'markdown')
    return links('\n'.join(line for line in text.splitlines() if line.startswith('|')))


def test_the_sidebar_names_every_page_once():
    assert sorted(sidebar()) == sorted(pages)


def test_the_walk_comes_in_the_order_of_its_numbers():
    order = sidebar()
    assert len(walk) == 10 and walk == [name for name in order if name in walk]
    assert [int(name[:2]) for name in walk] == list(range(10))


def test_folders_come_in_the_order_of_their_floors():
    order = [
        name.partition('/')[0] for name in sidebar() if '/' in name and not name.startswith('tutorials/')
    ]
    folders = list(dict.fromkeys(order))
    assert order == sorted(order, key=folders.index), 'pages of one folder are apart'
    assert [FLOOR[f] for f in folders] == sorted(FLOOR[f] for f in folders)


def test_one_order_everywhere():
    """The tables of index, README and architecture follow the sidebar; the architecture names every module."""
    order = sidebar()
    readme = links('\n'.join(x for x in (root / 'README.md').read_text().splitlines() if x.startswith('|')))
    for where, found in dict(
        index=rows('index.ipynb'), README=readme, architecture=rows('architecture.ipynb')
    ).items():
        assert found == sorted(found, key=order.index), f'{where} has another order than the sidebar'
    assert set(rows('architecture.ipynb')) >= {
        name for name, cells in pages.items() if any('default_exp' in flags(c) for c in cells)
    }


def defined(file):
    "Public functions, classes and constants that `file` defines; methods that are patched in are their class's."
    for node in ast.parse(file.read_text(encoding='utf-8')).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if not any('patch' in ast.unparse(d) for d in node.decorator_list):
                yield node.name
        elif isinstance(node, ast.Assign):
            yield from (n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name))


def test_one_name_has_one_home():
    homes = defaultdict(set)
    for file in modules:
        for name in defined(file):
            homes[name].add(file.relative_to(package).as_posix())
    twice = {n: sorted(f) for n, f in homes.items() if len(f) > 1 and not n.startswith('_') and n != 'log'}
    assert not twice
    assert not homes['_all_'], 'a name is exported by the module that defines it'


# ---- pages of the walk


def visible(cells):
    "What a reader of the site sees of a page."
    return [c for c in cells if not flags(c) & {'hide', 'export', 'default_exp'}]


def has_picture(cell):
    outputs = [kind for o in cell.get('outputs', []) for kind in o.get('data', {})]
    return (
        'image/png' in outputs
        or cell['cell_type'] == 'markdown'
        and bool(re.search(r'!\[[^\]]*\]\((?!https?:)', source(cell)))
    )


@pytest.mark.parametrize('name', walk)
def test_a_page_of_the_walk_keeps_its_limits(name):
    cells = pages[name]
    words = sum(len(source(c).split()) for c in cells if c['cell_type'] == 'markdown')
    assert len(cells) <= 60, f'{len(cells)} cells'
    assert words <= 1200, f'{words} words'
    assert any(map(has_picture, visible(cells)[:6])), 'no picture among the first cells'
    last = [c for c in cells if c['cell_type'] == 'markdown'][-1]
    onward = walk[walk.index(name) + 1 : walk.index(name) + 2] or ['tutorials/06_is_it_true.ipynb']
    assert onward[0] in source(last), f'the last words do not lead to {onward[0]}'


install_cell = next(c for c in pages[walk[0]] if '%pip install' in source(c))


@pytest.mark.parametrize('name', [n for n in pages if n in walk or n.startswith('tutorials/')])
def test_a_page_of_the_walk_opens_in_colab(name):
    cells = pages[name]
    assert f'/blob/main/nbs/{name})' in source(cells[0]) + source(cells[1]) + source(cells[2]), 'no badge'
    install = [c for c in visible(cells) if c['cell_type'] == 'code' and 'pip install' in source(c)]
    assert len(install) == 1, 'one install cell, and it can be seen'
    assert source(install[0]) == source(install_cell), 'the install cell is the same everywhere'
    assert not any(re.search(r'^\s*(import|from) nbdev', source(c), re.M) for c in cells[:-1]), 'needs nbdev'


@pytest.mark.parametrize('name', pages)
def test_the_first_cell_is_title_and_description(name):
    "nbdev makes the head of a page from it and drops everything else that it says."
    first = next(source(c) for c in pages[name] if c['cell_type'] == 'markdown')
    assert re.fullmatch(r'# [^\n]+\n+(>[^\n]*\n?)+', first), first


@pytest.mark.parametrize('name', [n for n in pages if n not in walk])
def test_a_reference_page_is_not_too_long(name):
    assert len(pages[name]) <= 90


def test_the_glossary_is_linked():
    "Every word of the glossary is a heading that some other page links to."
    terms = {
        m[1].lower().replace(' ', '-')
        for c in pages['glossary.ipynb']
        for m in [re.match(r'### (.+)', source(c))]
        if m
    }
    terms |= {
        t.lower().replace(' ', '-')
        for c in pages['glossary.ipynb']
        for t in re.findall(r'^### (.+)$', source(c), re.M)
    }
    text = '\n'.join(
        source(c)
        for name, cells in pages.items()
        if name != 'glossary.ipynb'
        for c in cells
        if c['cell_type'] == 'markdown'
    )
    linked = set(re.findall(r'glossary\.ipynb#([\w-]+)', text))
    assert terms and linked <= terms, f'no such word: {linked - terms}'
    assert terms <= linked, f'no page links to {terms - linked}'


# ---- lines


def long_lines(text, most=120):
    return [line for line in text.splitlines() if len(line) > most]


def semicolons(code):
    "Lines with two statements; a last semicolon, which hides a cell's output, is none."
    tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    ends = (tokenize.NEWLINE, tokenize.COMMENT, tokenize.ENDMARKER)
    return [
        a.line.strip()
        for a, b in zip(tokens, tokens[1:])
        if a.string == ';' and a.type == tokenize.OP and b.type not in ends
    ]


def python(cell):
    "The code of a cell without nbdev's own last line and without what only IPython understands."
    lines = source(cell).replace('import nbdev; nbdev.nbdev_export()', '').splitlines()
    return '\n'.join(line for line in lines if not re.match(r'\s*[!%]', line)) + '\n'


@pytest.mark.parametrize('name', pages)
def test_lines_of_a_page_fit(name):
    for cell in (c for c in pages[name] if c['cell_type'] == 'code'):
        text = '\n'.join(line for line in source(cell).splitlines() if not line.startswith('#| fig-alt'))
        assert not long_lines(text), long_lines(text)[0]
        assert not semicolons(python(cell)), semicolons(python(cell))[0]


@pytest.mark.parametrize(
    'file',
    [*modules, *sorted((root / 'tests').glob('*.py')), *sorted((root / 'tools').glob('*.py'))],
    ids=lambda f: f.relative_to(root).as_posix(),
)
def test_lines_of_a_file_fit(file):
    text = file.read_text(encoding='utf-8')
    own = re.sub(
        r'^__all__ = \[.*?\]$', '', text, flags=re.M | re.S
    )  # nbdev breaks these lines where it likes
    assert not long_lines(own), long_lines(own)[0]
    assert not semicolons(text), semicolons(text)[0]
