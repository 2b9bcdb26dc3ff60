"""How nbdev's pages differ from the notebooks; settings.ini names these as its `renderer` and its `procs`."""

import ast, importlib, inspect, io, re, subprocess, sys, tokenize
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path
from textwrap import dedent, fill

from execnb.nbio import mk_cell
from fastcore.docments import DocmentText
from nbdev.config import get_config
from nbdev.process import Processor
from nbdev.showdoc import BasicMarkdownRenderer

WIDTH = 90  # columns of code that fit on a page


# ---- signatures


def header(source):
    "Return a function's lines up to its body, and whether they are one line."
    node = ast.parse(dedent(source)).body[0]
    lines = dedent(source).splitlines()[node.lineno - 1 : max(node.lineno, node.body[0].lineno - 1)]
    while len(lines) > 1 and lines[-1].strip().startswith(('#', '@')):
        lines.pop()
    return lines, len(lines) == 1


class Signature(DocmentText):
    "A signature with one parameter a line and the comment on what is returned beside it."

    def __init__(self, sym, **kwargs):
        super().__init__(sym, maxline=0, docstring=False)
        self.dm.pop('cls', None)
        if inspect.isfunction(sym) or inspect.ismethod(sym):
            self.place_comment(inspect.getsource(sym))

    def place_comment(self, source):
        "Say of the return what a comment behind the whole signature says of it."
        lines, alone = header(source)
        _, _, said = lines[-1].partition(': # ' if not alone else '# ')
        given = [p for name, p in self.dm.items() if name != 'return']
        if not said or not lines[-1].lstrip().startswith(('def', 'async def') if alone else ')'):
            return
        back = self.dm.setdefault('return', dict(anno=inspect.Parameter.empty))
        before, arrow, after = said.partition('-> ')
        if not alone or back['anno'] is not inspect.Parameter.empty:
            before, after = '', said
        elif not arrow:
            before, after = (said, '') if len(given) == 1 else ('', said)
        if alone:
            for p in given:
                p['docment'] = None
            if before and given:
                given[-1]['docment'] = before.strip()
        back['docment'] = after

    def _fmt_param(self, name, p):
        if p.get('anno') is type(None):  # what fastcore makes of a parameter that is None
            p = dict(p, anno=inspect.Parameter.empty)
        text = super()._fmt_param(name, p)
        return text if len(text) < 70 else re.sub(r'=(\w*)([\[({]).*([\])}])$', r'=\1\2...\3', text)

    def __str__(self):
        "Return the signature with comments that do not fit in lines of their own, above what they are about."
        *given, last = super().__str__().replace(')->None:', '):').splitlines()
        before, mark, said = last.partition(': # ')
        if mark and len(last) > WIDTH:
            said = fill(said, WIDTH, initial_indent='    # ', subsequent_indent='    # ')
            last = f'{before}:\n{said}'
        return '\n'.join([*map(comment_above, given), last])


def full_name(sym):
    owner = sym.__self__ if inspect.ismethod(sym) and inspect.isclass(sym.__self__) else None
    return f'{owner.__name__}.{sym.__name__}' if owner else getattr(sym, '__qualname__', '')


def as_imported(sym):
    "Return what the package has in the place of what a notebook has just defined: its source can be read."
    lib, name = get_config().lib_name, full_name(sym)
    for module, names in importlib.import_module(f'{lib}._modidx').d['syms'].items():
        if f'{module}.{name}' in names:
            owner, sym = None, importlib.import_module(module)
            for part in name.split('.'):
                owner, sym = sym, getattr(sym, part)
            static = inspect.getattr_static(owner, part)
            sym = getattr(static, 'fget', None) or getattr(static, 'func', None) or sym
    return getattr(sym, '__func__', sym)


class Renderer(BasicMarkdownRenderer):
    "What `show_doc` shows."

    def __init__(self, sym, name=None, title_level=3):
        sym = getattr(sym, 'fget', None) or getattr(sym, 'func', None) or sym
        super().__init__(as_imported(sym), name=name or full_name(sym), title_level=title_level)
        self.dm, self.fn = Signature(self.sym), self.nm

    def _repr_markdown_(self):
        "Return the text of the page; the underscores of `__call__` in a heading are no emphasis."
        name = self.nm.replace('__', r'\_\_')
        return super()._repr_markdown_().replace(f'# {self.nm}\n', f'# {name}\n', 1)


# ---- tables


class Table(HTMLParser):
    "Rows of a table in HTML, as texts."

    def __init__(self, html):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == 'tr':
            self.rows.append([])
        if tag in ('th', 'td'):
            attrs = dict(attrs)
            self.rows[-1] += [''] * int(attrs.get('colspan') or 1)
            self.inside = True

    def handle_endtag(self, tag):
        if tag in ('th', 'td'):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def number(text):
    return bool(re.match(r'[-+–−]?[.\d]', text)) or text in ('', '-', '–', 'NaN', 'None')


def markdown_table(rows, most=8):
    "Return rows of texts, the first a head, as a table; one with more than `most` columns is turned on its side."
    size = max(map(len, rows))
    rows = [[''] * (size - len(row)) + [cell.strip().replace('|', r'\|') for cell in row] for row in rows]
    if size > max(most, len(rows)):
        rows = [list(column) for column in zip(*rows)]
    marks = ['--:' if all(map(number, column[1:])) else '---' for column in zip(*rows)]
    head, *body = rows
    return '\n'.join(f'| {" | ".join(row)} |' for row in (head, marks, *body))


def printed_tables(text):
    "Return pieces of a printed text: (is it a table?, its lines or its rows)."
    cells = [re.split(r'\s{2,}', line.strip()) if line.strip() else [] for line in text.splitlines()]
    at = 0
    for size, group in groupby(cells, len):
        group = list(group)
        if size >= 3 and len(group) >= 2:
            head = at and len(cells[at - 1]) == size - 1 and size > 3
            yield at - bool(head), at + len(group), [cells[at - 1]] * bool(head) + group
        at += len(group)


def has_head(rows):
    "Return whether the first row names the others: a word above numbers."
    return any(all(map(number, cells)) and not number(name) for name, *cells in zip(*rows))


def as_tables(text):
    "Return printed text as outputs of a cell: tables where columns are told apart by spaces, the rest as it is."
    lines, done = text.splitlines(keepends=True), 0
    for start, stop, rows in printed_tables(text):
        if len(rows) < 3 or not has_head(rows):
            continue
        if rest := ''.join(lines[done:start]).strip('\n'):
            yield printed(rest + '\n')
        yield shown(markdown_table(rows))
        done = stop
    if rest := ''.join(lines[done:]).strip('\n'):
        yield printed(rest + '\n')


def printed(text):
    return dict(output_type='stream', name='stdout', text=text.splitlines(keepends=True))


def shown(markdown):
    data = {'text/markdown': markdown.splitlines(keepends=True)}
    return dict(output_type='display_data', metadata={}, data=data)


def tables(cell):
    "Show tables of pandas and printed ones as markdown: HTML in an output makes Quarto load scripts from elsewhere."
    if cell.cell_type != 'code' or not cell.get('outputs'):
        return
    found = []
    for o in cell.outputs:
        data = o.get('data', {})
        if html := ''.join(data.get('text/html', '')):
            found.append(shown(markdown_table(Table(html).rows)))
        elif o.get('name') == 'stdout':
            found += as_tables(''.join(o['text']))
        else:
            found.append(o)
    cell.outputs = found


# ---- code


def statements(source):
    "Return pieces of a cell's code: top-level statements and what is between them."
    lines, done = source.splitlines(keepends=True), 0
    for node in ast.parse(source).body:
        start = min([node.lineno, *(d.lineno for d in getattr(node, 'decorator_list', ()))]) - 1
        stop = max(node.end_lineno, done)
        if start < done:  # a second statement on a line
            continue
        yield ''.join(lines[done:start])
        yield ''.join(lines[start:stop])
        done = stop
    yield ''.join(lines[done:])


def wide(text):
    return any(len(line) > WIDTH for line in text.splitlines())


def comment_above(line):
    "Move the comment behind a line that is too long to lines of its own."
    code, mark, said = line.partition(' # ')
    if len(line) <= WIDTH or not mark:
        return line
    indent = re.match(' *', line)[0]
    said = fill(said, WIDTH, initial_indent=f'{indent}# ', subsequent_indent=f'{indent}# ')
    return said + (f'\n{code}' if code.strip() else '')


def comments_above(text):
    "Move comments behind lines that are too long to lines of their own."
    out, found = text.splitlines(), {}
    for t in tokenize.generate_tokens(io.StringIO(text).readline):
        if t.type == tokenize.COMMENT:
            found[t.start[0] - 1] = t.start[1]
    for row in sorted(found, reverse=True):
        line, column = out[row], found[row]
        if len(line) <= WIDTH:
            continue
        indent = re.match(' *', line)[0]
        said = fill(line[column:].lstrip('# '), WIDTH, initial_indent=f'{indent}# ', subsequent_indent=f'{indent}# ')
        out[row : row + 1] = said.splitlines() + ([line[:column].rstrip()] if line[:column].strip() else [])
    return '\n'.join(out) + '\n'


def strings_in_two(text):
    "Break strings that are alone on a line and too long, at a space outside of braces."
    if re.match('f?[\'"]', text):  # the value of a cell
        text = f'(\n    {text.strip()}\n)\n'
    out = []
    for line in text.splitlines():
        found = re.fullmatch(r'( +f?)([\'"])(.*)\2(,|\.format\()?', line)
        if len(line) > WIDTH and found:
            start, quote, said, end = found.groups('')
            spaces = [m.end() for m in re.finditer(' ', said[: WIDTH - len(start) - 2])]
            cut = max((at for at in spaces if said[:at].count('{') == said[:at].count('}')), default=0)
            out += [f'{start}{quote}{said[:cut]}{quote}', f'{start}{quote}{said[cut:]}{quote}{end}'] if cut else [line]
        else:
            out.append(line)
    return '\n'.join(out) + '\n'


def formatted(text):
    "Return a statement in lines that fit."
    short = comments_above(text)
    if wide(short):
        ruff = [sys.executable, '-m', 'ruff', 'format', '--isolated', f'--line-length={WIDTH}', '-']
        ruff += ['--config', 'format.quote-style="preserve"']
        short = subprocess.run(ruff, input=short, text=True, capture_output=True, check=True).stdout
    if wide(short):
        short = strings_in_two(short)
    assert ast.dump(ast.parse(short)) == ast.dump(ast.parse(text)), f'other code after formatting: {text}'
    return short


def short_lines(cell):
    "Break lines of code that would not fit on a page."
    if cell.cell_type != 'code' or re.search(r'^#\| *echo: *false', cell.source, re.M) or not wide(cell.source):
        return
    marks, code = re.match(r'((?:#\|[^\n]*\n)*)(.*)', cell.source, re.S).groups()
    if not wide(code):
        return
    try:
        ast.parse(code)
    except SyntaxError:  # a magic
        return
    pieces = [formatted(piece) if wide(piece) else piece for piece in statements(code)]
    cell.source = marks + ''.join(pieces).rstrip('\n')


def fold_imports(cell):
    "Fold a cell that only imports."
    if cell.cell_type != 'code' or 'code-fold' in cell.source or 'echo: false' in cell.source:
        return
    try:
        body = ast.parse(cell.source).body
    except SyntaxError:
        return
    if body and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body):
        cell.source = f'#| code-fold: true\n#| code-summary: "Imports"\n{cell.source}'


# ---- pages


def links(path, colab):
    "Return links to a page's notebook: to Colab where the page installs the package."
    cfg, place = get_config(), Path(path).resolve().relative_to(get_config().nbs_path.resolve()).as_posix()
    at = f'{cfg.user}/{cfg.repo}/blob/{cfg.branch}/nbs/{place}'
    there = f'[Open in Colab](https://colab.research.google.com/github/{at}) · ' if colab else ''
    return f'{there}[View notebook](https://github.com/{at})'


def only_comments(cell):
    return cell.cell_type == 'code' and not re.sub(r'^\s*#.*$', '', cell.source, flags=re.M).strip()


def plain_signatures(cell):
    "Undo nbdev's links in the comments of a signature: code cannot show them."
    for o in cell.get('outputs', []) if cell.source.rstrip().endswith(')') and 'show_doc(' in cell.source else []:
        lines, code = [], False
        for line in o.get('data', {}).get('text/markdown', []):
            code ^= line.startswith('```')
            lines.append(re.sub(r'\[(`[^`]*`)\]\(https?:[^)]*\)', r'\1', line) if code else line)
        if lines:
            o.data['text/markdown'] = lines


class Pages(Processor):
    "Begin every page with links to its notebook; no link in a link, no colon that leads to hidden code."

    def end(self):
        cells = [c for c in self.nb.cells if c.get('source') is not None and not only_comments(c)]
        for cell, following in zip(cells, cells[1:] + [None]):
            if cell.cell_type != 'markdown':
                continue
            cell.source = re.sub(r'^\[!\[Open in Colab\].*\n*', '', cell.source)
            cell.source = re.sub(r'\[\[(`[^`]+`)\]\([^)]+\)\]\(', r'[\1](', cell.source)  # nbdev's link within ours
            if cell.source.rstrip().endswith(':') and (following is None or following.cell_type != 'code'):
                cell.source = cell.source.rstrip()[:-1] + '.'
        at = next((i for i, c in enumerate(cells) if c.cell_type != 'raw'), len(cells))
        colab = any('%pip install' in c.source for c in cells if c.cell_type == 'code')
        cells.insert(at, mk_cell(links(self.nb.path_, colab), cell_type='markdown'))
        self.nb.cells = cells
