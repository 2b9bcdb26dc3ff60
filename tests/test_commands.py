"The commands: `--help` at once, every option explained, a mistake in one line, one list of settings."
import json, os, re, resource, shlex, subprocess, sys
from configparser import ConfigParser
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from spurnb import cli
from spurnb.core import UserError
from spurnb.run.options import option_names
from spurnb.run.settings import PRESETS, RunSettings
from spurnb.train.settings import SFSLSettings, TrainSettings

root = Path(__file__).resolve().parents[1]
config = ConfigParser(delimiters='=')
config.read(root/'settings.ini')
commands = config['DEFAULT']['console_scripts'].split()
heavy = {'torch', 'torchvision', 'timm', 'diffusers', 'transformers', 'accelerate', 'matplotlib', 'pandas', 'sklearn',
         'scipy', 'statsmodels'}

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
    def cpu(): return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = cpu()
    r = command('--help')
    seconds = cpu() - before # of the processor, so that a busy machine does not count
    assert r.returncode == 0, r.stderr
    assert r.stdout.startswith('usage: spurnb_') and '--help' in r.stdout
    if '{' not in r.stdout.partition('\n')[0]: # the help of one command
        codes = r.stdout.partition('exit codes:')[2]
        assert re.findall(r'^ +(\d+) +\S', codes, re.M) == '0 1 2 3 4 130 141'.split() and '--debug' in r.stdout
    imported = set(r.stderr.rpartition('imported:')[2].split())
    assert not heavy & imported, f'--help imports {heavy & imported}'
    assert seconds < 2, f'{seconds:.1f} s'


def test_an_unknown_option_is_one_line(command):
    world = ['check'] if 'world' in command('--help').stdout.partition('\n')[0] else []
    r = command(*world, '--no-such-option')
    assert r.returncode == 2 and r.stderr.startswith('spurnb_') and '--no_such_option' in r.stderr
    assert r.stderr.partition('imported:')[0].count('\n') == 1 and not r.stdout


KINDS = [cli.Run, cli.Doctor, cli.Finetune, cli.Generate, cli.Audit, cli.Bench,
         *(kind for kind, _ in cli.WORLD_COMMANDS.values())]


@pytest.mark.parametrize('kind', KINDS, ids=lambda k: k.__name__)
def test_every_option_is_explained_without_noise(kind, capsys):
    with pytest.raises(SystemExit) as stop: cli.read_options(kind, ['--help'], 'command')
    said = capsys.readouterr().out
    assert not stop.value.code and '(default: )' not in said and "(default: '')" not in said and '{None}' not in said
    assert not re.search('[│╭╰─]|---', said)
    options = re.split(r'\n  (?=-)', said)[1:]
    assert len(options) > 1
    for option in options: # '--out STR    folder (default: world)', with the help perhaps on the next line
        words = re.sub(r'^(--?[\w.]+,? ?)+(\{\S+\}|[A-Z]+|\[.*?\.\.\.\])?', '', option)
        assert words.partition('(default')[0].strip(), f'{option} has no help'


@pytest.mark.parametrize('module', ['spurnb.cli', 'spurnb.pipeline', 'spurnb.run.settings', 'spurnb.report.folder'])
def test_modules_on_the_way_to_help_import_nothing_heavy(module):
    code = f'import sys, {module}; print(*{{m.partition(".")[0] for m in sys.modules}})'
    found = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True, check=True).stdout.split()
    assert not (heavy - {'pandas'}) & set(found)


@pytest.mark.parametrize('args, code, said', [
    (['--help'], 0, 'usage: python -m spurnb.cli'), (['world', '--help'], 0, 'usage: spurnb_world'),
    ([], 2, 'give one of run, doctor'), (['rum'], 2, "did you mean 'run'"), (['world'], 2, 'give one of train'),
    (['world', 'dra'], 2, "did you mean 'draw'"), (['run', '--max_train_step', '3'], 2, '--train.max_train_steps')])
def test_the_module_is_all_commands(args, code, said):
    r = subprocess.run([sys.executable, '-m', 'spurnb.cli', *args], text=True, capture_output=True)
    assert r.returncode == code and said in (r.stderr if code else r.stdout)
    assert not code or r.stderr.count('\n') == 1


REFUSED = [
    (cli.Run, '--train.max_step 3', 'did you mean --train.max_train_steps?'),
    (cli.Run, '--max_step 3', 'did you mean --train.max_train_steps?'),
    (cli.Run, '--n 3', 'give --references.n or --generate.n'),
    (cli.Run, '--train.max_train_steps many', "--train.max_train_steps is 'many'; give a whole number"),
    (cli.Run, '--train.learning_rate fast', "--train.learning_rate is 'fast'; give a number"),
    (cli.Run, '--generate.size wide', "--generate.size is 'wide'; give a whole number"),
    (cli.Run, '--train.learning_rate -1', 'learning_rate is -1.0; give 0 or more'),
    (cli.Run, '--train.mixed_precision bf61', "did you mean 'bf16'"),
    (cli.Run, '--components.chosen a', "--components.chosen cannot be 'a'"),
    (cli.Run, '--target', '--target has no value'),
    (cli.Run, 'fireboat', "'fireboat' belongs to no option"),
    (cli.Run, '--sfsl.decoder gated', 'give one of exact, checkpointed, tiny'),
    (cli.Generate, '', 'prompt is missing'),
    (cli.Audit, 'images --limit 20', 'between 0 and 1'),
    (cli.Audit, 'images --tables pdf', "'pdf'"),
    (cli.Finetune, '--train.use_dora', 'also give a lora_rank'),
    (cli.Finetune, '--train.learning_rate 0 --train.text_encoder_lr 0', 'nothing is trained'),
]


@pytest.mark.parametrize('kind, options, said', REFUSED)
def test_a_mistake_is_one_sentence(kind, options, said):
    with pytest.raises(UserError) as e: cli.read_options(kind, options.split(), 'command')
    assert said in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 300


def leaves(kind, prefix=''):
    for f in fields(kind):
        if is_dataclass(f.type): yield from leaves(f.type, f'{prefix}{f.name}.')
        else: yield prefix + f.name


def test_one_list_of_settings():
    "Every option of the trainer and of the loss can be reached from `spurnb_run`, and none stands twice."
    known = option_names(cli.Run)
    assert len(set(known)) == len(known)
    for prefix, kind in (('train', TrainSettings), ('sfsl', SFSLSettings)):
        for name in leaves(kind): assert f'--{prefix}.{name}' in known
    assert {f'--{name}' for name in leaves(RunSettings)} <= set(known)
    again = {'target', 'seed', 'device', 'out'} & {name.split('.')[-1] for name in leaves(RunSettings) if '.' in name}
    assert not again


@pytest.mark.parametrize('preset', PRESETS)
def test_options_win_over_the_preset(preset):
    options = ['--preset', preset, '--seed=7', '--max_train_steps', '9', '--train.no_train_text_encoder',
               '--audit.judges', 'test_resnet', 'test_vit', '--arms', 'guided', '--generate.size', '64']
    s = cli.run_options(options).choices
    assert (s.seed, s.train.max_train_steps, s.train.train_text_encoder) == (7, 9, False)
    assert (s.audit.judges, s.arms, s.generate.size) == (('test_resnet', 'test_vit'), ('guided',), 64)
    assert s.generator == PRESETS[preset].generator and s.train.lora_rank == PRESETS[preset].train.lora_rank


def written(text):
    "The commands in a text, as lists of words; those with an ellipsis are none."
    text = text.replace('\\\n', ' ')
    for line in [*re.findall(r'`(spurnb_\w+ [^`]+)`', text), *re.findall(r'^ *(?:\$ )?(spurnb_\w+ .*)$', text, re.M)]:
        if '...' not in line and ' does ' not in line: yield shlex.split(line, comments=True)


PAGES = {p.relative_to(root).as_posix(): p for p in (*sorted((root/'nbs').rglob('*.ipynb')), *root.glob('*.md'))
         if not {'.ipynb_checkpoints', '_proc'} & set(p.parts)}


@pytest.mark.parametrize('name', PAGES)
def test_commands_in_the_documentation_can_be_read(name):
    text = PAGES[name].read_text(encoding='utf-8')
    if name.endswith('.ipynb'):
        cells = json.loads(text)['cells']
        text = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    kinds = dict(spurnb_run=cli.Run, spurnb_finetune=cli.Finetune, spurnb_generate=cli.Generate,
                 spurnb_audit=cli.Audit, spurnb_bench=cli.Bench)
    for command, *args in written(text):
        if command == 'spurnb_world':
            assert args[0] in cli.WORLD_COMMANDS, args
            cli.read_options(cli.WORLD_COMMANDS[args[0]][0], args[1:], command)
        elif {'--help', '--settings'} & set(args): continue
        elif command in ('spurnb_run', 'spurnb_doctor'): cli.run_options([a.replace('all', 'koala') for a in args])
        else: cli.read_options(kinds[command], args, command)


def test_the_commands_agree_on_the_target():
    "Without --target they are about the same class of the embedded world."
    targets = {kind: cli.read_options(kind, args, 'x').target for kind, args in (
        (cli.Audit, ['images']), (cli.Finetune, []))}
    assert set(targets.values()) == {cli.run_options([]).choices.target}


@pytest.mark.parametrize('typed', [['--target', 'all', '--out', 'all'], ['--target=all', '--out=all']])
def test_a_folder_may_be_called_all_too(typed, capsys):
    cli.spurnb_run([*typed, '--show', '--identifier', 'all'])
    said = capsys.readouterr().out
    assert re.search("^ *[*] --out all ", said, re.M) and re.search("^ *[*] --identifier all ", said, re.M), said
    assert '6 runs on' in said
