"""Run notebooks and keep small, clean outputs: what a reader sees on the site is what the code does today.

    python tools/notebooks.py                     all of them, in order
    python tools/notebooks.py 03_features train/lora   some of them
    python tools/notebooks.py --slow index        their slow cells too

Cells that nbdev does not test (`#| eval: false`, `slow`, `cuda`, `net`) are not run and keep what they show.
Exits with 1 when a notebook fails (it then stays as it was) or is larger than 500 kB.
"""

import base64, io, os, re, sys, tempfile, time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from PIL import Image, ImageChops

root = Path(__file__).resolve().parents[1]
most = 500_000


class Client(NotebookClient):
    "Runs what `nbdev_test` runs."

    async def async_execute_cell(self, cell, index, **kwargs):
        if skipped(cell.source):
            return cell
        return await super().async_execute_cell(cell, index, **kwargs)


def skipped(source):
    flags = '|'.join(f for f in get_config().tst_flags.split() if f != 'slow' or '--slow' not in sys.argv)
    return re.search(rf'^#\| *(eval: *false|{flags})\b', source, re.M)


def small(png):
    "A base64 PNG with a palette, where that makes it smaller and no color is lost."
    picture, out = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    if picture.mode == 'P':
        return png
    if picture.mode == 'RGBA':
        picture = Image.alpha_composite(Image.new('RGBA', picture.size, 'white'), picture)
    picture = picture.convert('RGB')
    few = picture.quantize(256, kmeans=1, dither=Image.Dither.NONE)
    lost = ImageChops.difference(picture, few.convert('RGB')).convert('L').histogram()
    if sum(lost[24:]) > sum(lost) / 1000:
        return png
    few.save(out, 'PNG', optimize=True)
    return min(base64.b64encode(out.getvalue()).decode(), png, key=len)


def shown(output):
    "Can a page show it? A widget only if it brings a picture, which then stands in for it."
    view = output.get('data', {}).pop('application/vnd.jupyter.widget-view+json', None)
    return output.get('name') != 'stderr' and (view is None or 'image/png' in output.data)


def joined(outputs):
    "Outputs with texts of one stream as one: a bar between two prints has cut them, and a page frames each piece."
    out = []
    for o in outputs:
        if out and o.output_type == 'stream' and o.get('name') == out[-1].get('name'):
            out[-1].text += o.text
        else:
            out.append(o)
    return out


def tidy(nb):
    "Without messages to stderr, states of widgets, second copies of pictures, and names of temporary folders."
    nb.metadata.pop('widgets', None)
    for cell in nb.cells:
        if cell.cell_type != 'code':
            continue
        cell.outputs = joined([o for o in cell.outputs if shown(o)])
        for o in cell.outputs:
            if 'text' in o:
                o.text = re.sub(rf'{re.escape(tempfile.gettempdir())}/tmp\w+', '...', o.text)
        for data in (o.data for o in cell.outputs if 'image/png' in o.get('data', {})):
            data.pop('image/jpeg', None)
            data['image/png'] = small(data['image/png'])


def refresh(path):
    "Run one notebook in place; what went wrong, or an empty string."
    nb, began = nbformat.read(path, 4), time.time()
    try:
        Client(nb, timeout=1200, resources=dict(metadata=dict(path=str(path.parent)))).execute()
    except CellExecutionError as e:
        return f'{path.name}: {e}'
    tidy(nb)
    nbformat.write(nb, path)
    nbdev_clean(str(path))
    size = path.stat().st_size
    print(f'{path.name}: {time.time() - began:.0f} s, {size / 1000:.0f} kB', flush=True)
    return (
        f'{path.name} is larger than {most / 1000:.0f} kB; show fewer or smaller pictures'
        if size > most
        else ''
    )


def main():
    os.chdir(root)
    os.environ.pop('MPLBACKEND', None)  # with a backend of its own a kernel shows no figures
    known = {
        p.relative_to('nbs').with_suffix('').as_posix(): p
        for p in sorted(Path('nbs').rglob('*.ipynb'))
        if not {'_proc', '.ipynb_checkpoints'} & set(p.parts)
    }
    names = [a for a in sys.argv[1:] if a != '--slow'] or list(known)
    if unknown := [n for n in names if n not in known]:
        sys.exit(f'no notebook {unknown[0]!r}; there are {", ".join(known)}')
    wrong = [w for n in names if (w := refresh(known[n]))]
    if wrong:
        sys.exit('\n'.join(wrong))


if __name__ == '__main__':
    main()
