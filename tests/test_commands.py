"The installed commands: `--help` at once, a mistake in one sentence."
import os, re, resource, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
config = ConfigParser(delimiters='=')
config.read(root/'settings.ini')
commands = config['DEFAULT']['console_scripts'].split()
heavy = {'torch', 'torchvision', 'timm', 'diffusers', 'transformers', 'accelerate', 'matplotlib', 'pandas', 'sklearn', 'scipy'}

script = '''
import atexit, sys
atexit.register(lambda: print('imported:', *{{m.partition('.')[0] for m in sys.modules}}, file=sys.stderr))
from {module} import {function}
sys.exit({function}())
'''


@pytest.fixture(params=commands, ids=lambda c: c.partition('=')[0])
def command(request, tmp_path):
    "Runs a command through a script like the one that pip writes; -> completed process."
    module, _, function = request.param.partition('=')[2].partition(':')
    file = tmp_path/request.param.partition('=')[0]
    file.write_text(script.format(module=module, function=function))
    return lambda *args: subprocess.run([sys.executable, str(file), *args], text=True, capture_output=True,
                                        cwd=tmp_path, env=os.environ | {'PYTHONPATH': str(root)})


def test_help_answers_at_once(command):
    cpu = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = cpu()
    r = command('--help')
    seconds = cpu() - before # of the processor, so that a busy machine does not count
    assert r.returncode == 0, r.stderr
    assert r.stdout.startswith('usage: spurnb_') and '--help' in r.stdout
    imported = set(r.stderr.rpartition('imported:')[2].split())
    assert not heavy & imported, f'--help imports {heavy & imported}'
    assert seconds < 2, f'{seconds:.1f} s'


def test_every_option_is_explained(command):
    options = command('--help').stdout.partition('options:')[2].split('\n  -')[1:]
    assert len(options) > 2
    for option in options: # '-out OUT    folder to write to (default: world)', with the help perhaps on the next line
        name, words = re.fullmatch(r'(\S+)(?:, --\S+)?(?: [A-Z_]+| \(\w+\))?\s+(.*)', option + ' ', re.S).groups()
        assert words.partition('(default')[0].strip(), f'-{name} has no help'


def test_an_unknown_option_is_a_usage_error(command):
    r = command('--no-such-option')
    assert r.returncode == 2 and r.stderr.startswith('usage: spurnb_') and 'Traceback' not in r.stderr
