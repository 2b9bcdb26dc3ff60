"""The study that lies beside the embedded world's weights: `study.json`, and the claim in `record.json`.

python tools/claim.py runs/study           put a study there, finished or not
python tools/claim.py --open runs/study    write its points to a folder, from which the study resumes
"""

import argparse
from pathlib import Path

from spurnb.lab.claim import finish_study, load_study
from spurnb.core import read_json, write_json
from spurnb.lab.study import study_jobs

mini = Path(__file__).resolve().parents[1] / 'spurnb' / 'mini'


def unpack(out):
    "The points that the package knows, where a study looks for them."
    known = read_json(mini / 'study.json')['points']
    for job in study_jobs():
        if points := known.get(job.part, {}).get('/'.join(map(str, (*job.world, job.target, job.seed)))):
            write_json(out / 'points' / f'{job.name}.json', points)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder of the study')
    parser.add_argument('--open', action='store_true', help='write the known points there')
    args = parser.parse_args()
    if args.open:
        return unpack(args.out)
    if finish_study(args.out) is None:
        print('runs of the claim are missing; the record stays without them')
    else:
        write_json(
            mini / 'record.json',
            read_json(mini / 'record.json') | dict(claim=read_json(args.out / 'claim.json')),
        )
    (mini / 'study.json').write_bytes((args.out / 'study.json').read_bytes())
    print(
        f'{mini / "study.json"}: {(mini / "study.json").stat().st_size // 1000} kB,', ', '.join(load_study())
    )


if __name__ == '__main__':
    main()
