"""Write the repository's address, as in settings.ini, into every install cell, badge and link.

    python tools/links.py            rewrite what is out of date
    python tools/links.py --check    only say what is, and exit with 1

Until `released` is True, install cells take the package from the repository instead of PyPI.
"""

import re, sys
from pathlib import Path

from execnb.nbio import read_nb, write_nb
from nbdev.config import get_config

root = Path(__file__).resolve().parents[1]


def rules(s):
    "Return patterns and what replaces them."
    home = f'{s.user}/{s.repo}'
    package = s.lib_name if s.d['released'] == 'True' else f'git+https://github.com/{home}@{s.branch}'
    return [
        (rf"({s.lib_name.upper()}_SOURCE', ')[^']*", rf'\g<1>{package}'),
        (
            r'https://colab\.research\.google\.com/github/[\w.-]+/[\w.-]+/blob/[\w.-]+/',
            f'https://colab.research.google.com/github/{home}/blob/{s.branch}/',
        ),
        (rf'https://github\.com/[\w.-]+/{s.lib_name}\b', f'https://github.com/{home}'),
    ]


def updated(text, patterns):
    for pattern, to in patterns:
        text = re.sub(pattern, to, text)
    return text


def stale(path, patterns, write):
    "Return whether `path` has an old address; with `write`, replace it."
    if path.suffix != '.ipynb':
        old = path.read_text(encoding='utf-8')
        new = updated(old, patterns)
        if write and new != old:
            path.write_text(new, encoding='utf-8')
        return new != old
    nb = read_nb(path)
    old = [cell.source for cell in nb.cells]
    for cell in nb.cells:
        cell.source = updated(cell.source, patterns)
    changed = old != [cell.source for cell in nb.cells]
    if write and changed:
        write_nb(nb, path)
    return changed


def main():
    check, patterns = '--check' in sys.argv, rules(get_config(path=root))
    files = [*sorted((root / 'nbs').rglob('*.ipynb')), root / '_quarto.yml', root / 'CITATION.cff']
    found = [
        str(f.relative_to(root)) for f in files if '_proc' not in f.parts and stale(f, patterns, not check)
    ]
    print(*found, sep='\n')
    if check and found:
        sys.exit('settings.ini has another address than these; run python tools/links.py')


if __name__ == '__main__':
    main()
