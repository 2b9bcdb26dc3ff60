"A run folder with made-up numbers and drawn pictures, in a second: what the report and the boards are tested on."

import csv, random

from spurnb.core import save_png, sha256, write_json
from spurnb.world.scenes import reference_scenes

ARMS = dict(references=0.8, untuned=0.3, prompted=0.6, dreambooth=0.6, sfsl=0.9)
JUDGES = [
    'a/rather-long.name_of_a_classifier',
    *(f'test_{k}' for k in ('convnext', 'vit', 'nfnet', 'resnet', 'coatnet', 'mambaout', 'byobnet')),
]
OTHERS = ['koala', 'tench', 'freight car', 'fireboat', 'hard disc']


def measure(value, n=64):
    return dict(value=value, low=max(0, value - 0.1), high=min(1, value + 0.1), n=n)


def _row(arm, i, rate, target, dice):
    "An image's line of scores.csv: each classifier is fooled with probability `rate`."
    row, votes = (
        dict(
            arm=arm,
            image=i,
            hash=f'{arm}{i}',
            object_absent=True,
            feature_present=dice.random() < 0.9,
            similarity=0.5,
        ),
        0,
    )
    for j in JUDGES:
        hit, p = dice.random() < rate, dice.uniform(0.55, 1)
        votes += hit
        first, others = (target, dice.sample(OTHERS, 4)) if hit else (dice.choice(OTHERS), [target])
        row |= {
            f'hit.{j}': hit,
            f'p.{j}': p if hit else 1 - p,
            f'top5.{j}': '|'.join(
                [f'{first}={p:.3f}', *(f'{o}={(1 - p) / len(others):.3f}' for o in others)]
            ),
        }
    return (
        row
        | dict(votes=votes, valid=row['feature_present'])
        | {f'alpha.{l}': dice.gauss(1, 2) for l in (0, 3)}
    )


def made_up_run(folder, n=24, target='humming<b>bird', side=64):
    "A run folder as `spurnb_run` leaves it, but for the models; n images an arm."
    dice = random.Random(0)
    rows = [_row(a, i, r, target, dice) for a, r in ARMS.items() for i in range(n)]
    rates = {a: {j: sum(r[f'hit.{j}'] for r in rows if r['arm'] == a) / n for j in JUDGES} for a in ARMS}
    arms = {
        a: dict(
            spurious_rate=measure(sum(rates[a].values()) / 8, n),
            object_absent=measure(1, n),
            feature_present=measure(0.9, n),
            near_copies=measure(0.05, n),
            valid=measure(0.9, n),
        )
        for a in ARMS
    }
    arms['background'] = dict(
        spurious_rate=measure(0.1, n),
        spurious_rate_valid=dict(value=None, low=None, high=None, n=0, why='no background shows the feature'),
    )
    arms['references']['kappa'] = dict(
        value=None, low=None, high=None, n=n, why='all classifiers agree on every image'
    )
    arms['sfsl']['kappa'] = measure(0.4, n)
    write_json(
        folder / 'metrics.json',
        dict(
            target=dict(name=target, feature='feeder', prompted='red feeder', index=0, classes=6),
            arms=arms,
            encoder=dict(hash='0'),
            meters={},
            judges={j: dict(weights=f'{i:012d}') for i, j in enumerate(JUDGES)},
            classifiers={
                j: {a: measure(r[j], n) for a, r in rates.items()} | dict(background=measure(0.1, n))
                for j in JUDGES
            },
            differences={
                'sfsl-dreambooth': dict(measure(0.3, n), low=0.1),
                'sfsl-prompted': dict(measure(0.02, n), low=-0.08),
            },
            left_out={'resnet999': 'there is no model of this name.'},
            files=dict(
                files=n + 2, unreadable={'broken <i>.jpg': 'broken off'}, copies={'again.png': '00001.png'}
            ),
        ),
    )
    write_json(
        folder / 'config.json',
        dict(created='2026-01-01', settings={f'setting {i}': 'x' * 200 for i in range(20)}),
    )
    for arm in ARMS:
        made = []
        for i, scene in enumerate(reference_scenes('hummingbird', n, seed=1)):
            file = folder / 'images' / arm / f'{i:05d}.png'
            save_png(file, scene.draw(side))
            made.append(
                dict(
                    file=file.name,
                    prompt=f'a photo of a <i>{arm}</i> feeder',
                    seed=1000 + i,
                    sha256=sha256(file),
                )
            )
        _write(folder / 'images' / arm / 'images.csv', made)
    _write(folder / 'scores.csv', rows)
    return folder


def _write(path, rows):
    with open(path, 'w', newline='', encoding='utf-8') as f:
        out = csv.DictWriter(f, rows[0])
        out.writeheader()
        out.writerows(rows)
