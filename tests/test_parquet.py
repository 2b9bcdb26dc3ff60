"One class out of many shuffled shards on a hub: requests counted, killed, limited, refused."

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from server import Server

pa, pq = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
root = Path(__file__).resolve().parents[1]
NAME, SHARDS, GROUPS, ROWS = 'datasets/ILSVRC/imagenet-1k', 6, 5, 100

script = '''
import sys
from spurnb.photos import parquet
from spurnb.photos.imagenet import imagenet_class_images
parquet.PACE.per_second = 400
try:
    found = imagenet_class_images('ILSVRC/imagenet-1k', sys.argv[1])
    print(len(found), *sorted(image.getpixel((0, 0))[0] for image in found))
except ValueError as e: print(e)
'''


def shard(labels, first, names=()):
    "The bytes of a shard; image i is a gray of value i, at about 4 kB. `names` of labels as `datasets` writes them."
    def image(i):
        file = io.BytesIO()
        Image.new('RGB', (8, 8), (i % 256,)*3).save(file, 'PNG')
        return dict(bytes=file.getvalue() + random.Random(i).randbytes(4000), path=f'{i}.JPEG')
    out = io.BytesIO()
    images = [image(first + i) for i in range(len(labels))]
    table = pa.table(dict(image=images, label=labels))
    if names:
        about = dict(info=dict(features=dict(image=dict(_type='Image'), label=dict(names=names, _type='ClassLabel'))))
        table = table.replace_schema_metadata(dict(huggingface=json.dumps(about)))
    pq.write_table(table, out, row_group_size=ROWS)
    return out.getvalue()


@pytest.fixture
def hub():
    "A hub with shuffled shards of five classes, and what it should say of class 94."
    server, each = Server(), GROUPS*ROWS
    labels = [94]*24 + [105]*24 + [7]*(SHARDS*each - 48)
    random.Random(0).shuffle(labels)
    server.hub[NAME] = {
        f'data/train-{i:05d}-of-{SHARDS:05d}.parquet': shard(labels[i*each:(i + 1)*each], i*each)
        for i in range(SHARDS)}
    places = [i for i, label in enumerate(labels) if label == 94]
    server.expected = f'24 {" ".join(map(str, sorted(i % 256 for i in places)))}'
    server.groups = len({i//ROWS for i in places})
    server.shards = len({i//each for i in places})
    yield server
    server.stop()


def start(hub, home, target='hummingbird'):
    env = os.environ | hub.environment(home) | dict(PYTHONPATH=str(root))
    return subprocess.Popen([sys.executable, '-c', script, target], env=env, text=True, stdout=subprocess.PIPE)


def ask(hub, home, target='hummingbird'):
    "What it prints, and the ranges that it asked for."
    before = len(hub.asked)
    said = start(hub, home, target).communicate(timeout=300)[0].strip()
    return said, [r for r in hub.asked[before:] if r[2]]


def test_labels_are_read_once_and_groups_only_with_the_class(hub, tmp_path):
    said, ranges = ask(hub, tmp_path)
    assert said == hub.expected
    assert len(ranges) <= SHARDS*(1 + GROUPS) + hub.shards + hub.groups
    assert ask(hub, tmp_path) == (said, []) # all is here
    said, ranges = ask(hub, tmp_path, 'koala') # another class: no label again
    assert said.startswith('24 ') and len(ranges) <= 2*24


def a_group_is_here(home):
    "Is a row group whole? The groups of a shard come one after the other, so it is once the next one has begun."
    files = (file for _, _, files in os.walk(home) for file in files if file.endswith('.img'))
    begun = {file.rpartition('-')[0] for file in files} # shard and group
    return len({group.rpartition('-')[0] for group in begun}) < len(begun)


def test_a_killed_fetch_resumes(hub, tmp_path):
    process = start(hub, tmp_path)
    deadline = time.monotonic() + 240
    while not a_group_is_here(tmp_path):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    said, ranges = ask(hub, tmp_path)
    assert said == hub.expected
    assert 0 < len(ranges) < hub.shards + hub.groups # a footer each, no label, and not the group that is here


@pytest.mark.parametrize('fault, said', [
    ((403, {'X-Error-Code': 'GatedRepo'}), 'is gated; open'),
    ((500,), None),
    ((429, {'Retry-After': '0'}), None),
])
def test_the_hub_refuses_in_the_middle(hub, tmp_path, fault, said):
    "Listing works; what is refused while reading is explained, or asked for again, and nothing is lost."
    file = f'/{NAME}/data/train-00003-of-{SHARDS:05d}.parquet'
    hub.faults[file] = [None, None, fault]
    found, _ = ask(hub, tmp_path)
    if said is None: assert found == hub.expected
    else:
        assert said in found and 'what has arrived is kept' in found
        again, ranges = ask(hub, tmp_path)
        assert again == hub.expected and len(ranges) <= 1 + GROUPS + hub.shards + hub.groups + 2*(1 + GROUPS)


def test_a_damaged_image_is_left_out_by_name(tmp_path, monkeypatch, caplog):
    "The others are kept, and fewer images than were asked for do not pass for the whole class."
    from spurnb.photos.imagenet import imagenet_class_images

    def image(i):
        file = io.BytesIO()
        Image.new('RGB', (8, 8), (i,)*3).save(file, 'PNG')
        return dict(bytes=b'torn' if i == 1 else file.getvalue(), path=f'{i}.JPEG')
    pq.write_table(pa.table(dict(image=list(map(image, range(8))), label=[94]*8)), tmp_path/'train-0.parquet',
                   row_group_size=2)
    monkeypatch.setenv('HF_HOME', str(tmp_path/'home'))

    def grays(n=None):
        return [found.getpixel((0, 0))[0] for found in imagenet_class_images(tmp_path/'train-0.parquet', 94, n)]
    assert grays(6) == [0, 2, 3, 4, 5]
    assert "1 of 6 files cannot be read and was left out: 'train-0.parquet, group 0, row 1'" in caplog.text
    assert grays() == [0, 2, 3, 4, 5, 6, 7]


def test_a_class_of_which_nothing_can_be_read(tmp_path, monkeypatch):
    from spurnb.core import UserError
    from spurnb.photos.imagenet import imagenet_class_images

    file = tmp_path/'train-0.parquet'
    pq.write_table(pa.table(dict(image=[dict(bytes=b'torn', path='0.JPEG')], label=[94])), file)
    monkeypatch.setenv('HF_HOME', str(tmp_path/'home'))
    with pytest.raises(UserError, match='no image of class 94 .* can be read'): imagenet_class_images(file, 94)


COPIES = '''
import sys
from spurnb.photos.imagenet import imagenet_class_images
from spurnb.photos.peek import imagenet_image
for name in sys.argv[1:]:
    for split in ('train', 'val'):
        try:
            found = imagenet_class_images(name, 'hummingbird', split=split)
            print(*(image.getpixel((0, 0))[0] for image in found), imagenet_image(name, 'hummingbird', split)[:2])
        except ValueError as e: print(e)
'''


def test_a_smaller_copy_may_have_its_own_order(tmp_path):
    "The class is found by name, in the run and by the doctor; a copy whose names lack the class is refused by both."
    from timm.data import ImageNetInfo
    from spurnb.photos.parquet import SMALL_COPIES

    info, server = ImageNetInfo(), Server()
    words, ids = [info.index_to_description(i) for i in range(1000)], info.label_names()
    hubs = {SMALL_COPIES[0]: (ids[::-1], 'validation'), SMALL_COPIES[1]: (words, 'val'), 'a/b': (['jay', 'hen'], 'val')}
    for name, (names, val) in hubs.items(): # label 905 is the hummingbird's, counted from behind
        data = shard([94, 905, 905, 7] if len(names) > 2 else [0, 1], 0, list(names))
        server.hub[f'datasets/{name}'] = {f'data/{s}-00000-of-00001.parquet': data for s in ('train', val)}
    env = os.environ | server.environment(tmp_path) | dict(PYTHONPATH=str(root))
    said = subprocess.run([sys.executable, '-c', COPIES, *hubs], env=env, text=True, capture_output=True).stdout
    server.stop()
    lines = said.splitlines()
    for i, (file, name, found) in enumerate([
        ('train', ids[::-1][94], '1 2'), ('validation', ids[::-1][94], '1 2'),
        ('train', 'hummingbird', '0'), ('val', 'hummingbird', '0'),
    ]):
        assert lines[i] == f"{found} ('{file}-00000-of-00001.parquet', '{name}')"
    refused = 'class 94 is hummingbird (n01833805), and label 94 of the data set is one of 2 others; give a copy'
    assert [line[:len(refused)] for line in lines[4:]] == [refused]*2
