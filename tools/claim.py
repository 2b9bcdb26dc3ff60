"""Put a finished study beside the mini world's weights: `study.json`, and the claim into `record.json`.

    python tools/claim.py runs/study
"""
import sys
from pathlib import Path

from spurnb.claim import finish_study
from spurnb.core import read_json, write_json

mini = Path(__file__).resolve().parents[1]/'spurnb'/'mini'


def main():
    out = Path(sys.argv[1])
    if finish_study(out) is None: print('runs of the claim are missing; the record stays without them')
    else: write_json(mini/'record.json', read_json(mini/'record.json') | dict(claim=read_json(out/'claim.json')))
    (mini/'study.json').write_bytes((out/'study.json').read_bytes())
    print(f'{mini/"study.json"}: {(mini/"study.json").stat().st_size//1000} kB')


if __name__ == '__main__': main()
