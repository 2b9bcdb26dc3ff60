"""README.md from nbs/index.ipynb, without Quarto: nbdev processes the notebook, nbconvert writes the markdown.

python tools/readme.py            write README.md, the pictures it shows and nbs/preview.png
python tools/readme.py --check    exit 1 if they are not what the notebook gives
"""

import argparse, os, re, shutil, sys
from pathlib import Path

import nbformat, yaml
from execnb.nbio import nb2str, read_nb
from nbconvert import MarkdownExporter
from nbdev.processors import FilterDefaults
from traitlets.config import Config

root = Path(__file__).resolve().parents[1]


class Processors(FilterDefaults):
    "What nbdev does to a notebook for the docs, but for links to the docs and what only the site shows."

    def base_procs(self):
        return [p for p in super().base_procs() if p.__name__ != 'add_links']

    def xtra_procs(self):
        return []


def title(raw):
    "The title and description that nbdev has turned into front matter, as markdown again."
    matter = yaml.safe_load(raw.strip().strip('-')) or {}
    return '\n\n'.join(
        f'{mark} {matter[key]}' for mark, key in (('#', 'title'), ('>', 'description')) if key in matter
    )


def render():
    "README text, and the pictures beside it as a dict of path and bytes."
    processed = read_nb('nbs/index.ipynb')
    Processors()(processed)
    nb = nbformat.reads(nb2str(processed), as_version=4)
    for cell in nb.cells:
        if cell.cell_type == 'raw':
            cell.update(cell_type='markdown', source=title(cell.source))
        if re.search(r'^#\| *echo: *false', cell.source, re.M):
            cell.metadata.tags = ['no-input']
        cell.source = '\n'.join(line for line in cell.source.splitlines() if not line.startswith('#|'))
    said = iter(
        [
            m[1] if (m := re.search(r'^#\| *fig-alt: *"(.*)"$', c.source, re.M)) else 'png'
            for c in processed.cells
            for o in c.get('outputs', [])
            if 'image/png' in o.get('data', {})
        ]
    )
    config = Config({'TagRemovePreprocessor': {'enabled': True, 'remove_input_tags': ['no-input']}})
    text, resources = MarkdownExporter(config=config).from_notebook_node(
        nb, {'output_files_dir': 'index_files', 'unique_key': 'index'}
    )
    text = re.sub(r'!\[png\]', lambda _: f'![{next(said)}]', text)
    text = re.sub(
        r'<style.*?</style>\n?', '', text, flags=re.S
    )  # tables of pandas bring a style that GitHub would print
    text = re.sub(
        r'\]\(((?:\w+/)?\w+\.ipynb)', r'](nbs/\1', text
    )  # beside each other on the site, in a folder of the repository
    return re.sub(r'\n\s*\n\s*\n', '\n\n', text).strip() + '\n', resources['outputs']


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='compare with what is there instead of writing')
    check = parser.parse_args().check
    os.chdir(root)
    text, pictures = render()
    # the first picture is also that of links to the site, which _quarto.yml names
    files = {'README.md': text.encode(), **pictures, 'nbs/preview.png': next(iter(pictures.values()))}
    if check:
        stale = [
            name for name, data in files.items() if not Path(name).exists() or Path(name).read_bytes() != data
        ]
        if stale:
            sys.exit(f'{", ".join(stale)}: not what nbs/index.ipynb gives; run python tools/readme.py')
        return print('README.md is current')
    shutil.rmtree('index_files', ignore_errors=True)
    for name, data in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)
    print(f'README.md: {len(text.splitlines())} lines, {len(pictures)} pictures')


if __name__ == '__main__':
    main()
