"""Kills, damaged inputs, full disks and two processes in one folder, by the hundred.

    python tests/torture.py --kills 200 --inputs 500 --sizes 20 --pairs 20 --out /tmp/torture

pytest does not collect this file: it takes hours. A number of 0 leaves a part out. Every command runs in a fork of
this process, which has imported everything. The last thing printed is a table; the exit code is 1 if anything was lost.
"""
import argparse, hashlib, importlib, os, pkgutil, random, shutil, signal, subprocess, sys, time, traceback, zipfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 60 # seconds of the processor that a command with a damaged input may take; twenty times as long on the clock
CODES = 0, 1, 2, 3, 130 # 4 is a bug, anything else a crash
JOB = '''run --target fireboat --seed 3 --references.n 2 --references.held_out 6 --components.n_class_images 24
    --components.n_other_images 6 --components.picture_steps 2 --train.max_train_steps 6 --train.checkpointing_steps 2
    --train.train_batch_size 2 --train.num_class_images 4 --generate.n 4 --generate.batch_size 2
    --generate.num_inference_steps 2 --audit.judges test_resnet test_vit'''.split()
STAGES = { # how far a run got -> files that show it, the last first
    'report': 'tables/*', 'audit': 'scores.csv',
    'images of sfsl': 'images/sfsl/*.png', 'training of sfsl': 'checkpoints/sfsl/*',
    'images of dreambooth': 'images/dreambooth/*.png', 'training of dreambooth': 'checkpoints/dreambooth/*',
    'images of the base model': 'images/untuned/*.png', 'prior images': 'prior/*.png', 'features': 'pca.safetensors'}


def hashes(folder, but=None):
    "Return path -> SHA-256 of every file in a folder, without those of the folder `but`."
    files = (p for p in sorted(folder.rglob('*')) if p.is_file() and but not in p.parents)
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def prepare():
    "Import everything once, and what a pipeline imports when it is loaded."
    import spurnb
    from spurnb.core import cap_threads
    for m in pkgutil.walk_packages(spurnb.__path__, 'spurnb.'): importlib.import_module(m.name)
    from spurnb.train.checkpoints import load_pipeline
    cap_threads(1)
    load_pipeline('mini', 'cpu')


def start(work, place, log):
    "Run a command or a function in a fork, in the folder `place`; return its process id, which its group has, too."
    child = os.fork()
    os.setpgid(child, child) # in both, whoever comes first: a kill may follow at once
    if child: return child
    os.chdir(place)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    code = 70
    try:
        from spurnb.cli import main
        code = work() if callable(work) else main(work)
    except SystemExit as stop: code = stop.code if isinstance(stop.code, int) else 2*bool(stop.code)
    except BaseException: traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def used(child):
    "Return the seconds of the processor that a process has used."
    fields = Path(f'/proc/{child}/stat').read_text().rpartition(')')[2].split()
    return sum(map(int, fields[11:13]))/os.sysconf('SC_CLK_TCK')


def finish(child, limit=None):
    "Wait for a process; return its exit code, or None if it was killed after `limit` seconds of the processor."
    began = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        if limit and max(used(child), (time.monotonic() - began)/20) > limit: break
        time.sleep(.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)


def trouble(code, log, allowed=CODES):
    "Return what is wrong about how a command ended, or an empty text."
    said = log.read_text(errors='replace')
    if code is None: return 'hang'
    if 'Traceback (most recent call last)' in said: return 'traceback'
    return '' if code in allowed else f'exit {code}'


def results(run):
    "Return hashes of what a run is for: images, weights, metrics and scores."
    def counts(file): return file.startswith(('images/', 'model/')) or file in ('metrics.json', 'scores.csv')
    return {file: own for file, own in hashes(run).items() if counts(file) and not file.endswith('.md')}


class Part:
    "One part of the torture: counts of outcomes, and what went wrong."
    def __init__(self, name): self.name, self.tries, self.outcomes, self.wrong = name, 0, Counter(), 0
    def __call__(self, outcome, wrong='', log=None):
        self.outcomes[wrong or outcome] += 1
        if not wrong: return
        self.wrong += 1
        said = log.read_text(errors='replace').strip()[-600:] if log else ''
        print(f'{self.name}: {outcome}: {wrong}\n{said}\n', flush=True)

    def row(self):
        what = ', '.join(f'{k}: {n}' for k, n in self.outcomes.most_common())
        return f'| {self.name} | {self.tries} | {what} | {self.wrong} |'


def whole(out):
    "Run the job without interruption, once; return its results and the seconds it took."
    log, began = out/'whole.log', time.monotonic()
    shutil.rmtree(out/'whole', ignore_errors=True)
    if code := finish(start([*JOB, '--out', 'whole'], out, log)):
        raise SystemExit(f'the uninterrupted run ends with {code}: {log.read_text()[-600:]}')
    return results(out/'whole'), time.monotonic() - began


def stage(run):
    "Return how far a run has got."
    return next((name for name, files in STAGES.items() if any(run.glob(files))), 'start')


def same(part, run, code, log, want, outcome):
    "Count a run that should have ended well and like the uninterrupted one."
    wrong = trouble(code, log, (0,))
    got = results(run)
    other = sorted(f for f in got.keys() | want.keys() if got.get(f) != want.get(f))
    part(outcome, wrong or (f'results differ: {", ".join(other)}' if other else ''), log)


def kills(n, out, dice, want, took):
    "Kill the job `n` times in all, resuming it until it ends."
    part, run, log = Part('the whole job is killed'), out/'killed', out/'killed.log'
    shutil.rmtree(run, ignore_errors=True)
    while part.tries < n or run.exists():
        child = start([*JOB, '--out', run.name], out, log)
        if part.tries < n:
            time.sleep(dice.uniform(0, took))
            if not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                part.tries += 1
                part(f'in {stage(run)}')
                continue
        same(part, run, finish(child), log, want, 'whole runs at the end')
        shutil.rmtree(run)
    return [part]


def disk(sizes, out, want):
    "Run the job on disks that are too small, and again on the same disk once there is room."
    part, place, log = Part('the disk is full'), out/'disk', out/'disk.log'
    need = sum(p.stat().st_size for p in (out/'whole').rglob('*') if p.is_file())
    place.mkdir(exist_ok=True)
    def mount(size, how=''):
        subprocess.run(['mount', '-t', 'tmpfs', '-o', f'{how}size={size}', 'tmpfs', place], check=True)
    for i in range(sizes):
        part.tries += 1
        mount(max(4096, need*i//sizes))
        try:
            code = finish(start([*JOB, '--out', 'disk/run'], out, log))
            part(f'exit {code}', trouble(code, log, (0, 2)), log)
            mount(need*8, 'remount,')
            same(part, place/'run', finish(start([*JOB, '--out', 'disk/run'], out, log)), log, want, 'then whole')
        finally: subprocess.run(['umount', place], check=True)
    return [part]


def pairs(n, out, dice, want, took):
    "Run the job twice at the same time in one folder, and once more."
    part, run, logs = Part('two processes in one folder'), out/'pair', [out/'first.log', out/'second.log']
    for _ in range(n):
        part.tries += 1
        shutil.rmtree(run, ignore_errors=True)
        children = []
        for log in logs:
            children.append(start([*JOB, '--out', run.name], out, log))
            time.sleep(dice.uniform(0, took/4))
        for child, log in zip(children, logs):
            code = finish(child)
            part(f'exit {code}', trouble(code, log, (0, 2)), log)
        same(part, run, finish(start([*JOB, '--out', run.name], out, logs[0])), logs[0], want, 'then whole')
    return [part]


TOY = '--audit.judges test_resnet --target fireboat'
OWN = '--audit.judges test_resnet@judge.pth'
STEP = '''--references images --instance_prompt sks --class_prompt jet --num_class_images 0 --max_train_steps 1
    --train_batch_size 1'''
PCA = '--pca pca.safetensors --components 0'
KINDS = { # what is damaged -> its files, and the command that reads them
    'image': ('images/*.png', f'audit images {TOY}'),
    'photograph': ('images/*.jpg', f'audit images {TOY}'),
    'own images.csv': ('images/images.csv', f'audit images {TOY}'),
    'checkpoint': ('judge.pth', f'audit images {OWN} --target 0'),
    'safetensors': ('judge.safetensors', f'audit images {OWN.replace("pth", "safetensors")} --target 0'),
    'input of a checkpoint': ('judge.pth.json', f'audit images {OWN} --target 0'),
    'class names': ('classes.*', f'audit images {OWN} --target 0 --classes {{file}}'),
    'own code': ('own.py', 'audit images --audit.judges own:make --target a'),
    'earlier audit': ('audit/*.*', 'audit --compare audit again'),
    'repeated audit': ('audit/*.*', f'audit images {TOY} --out audit'),
    'zip': ('spurious.zip', f'audit --data spurious.zip --validation_images val {OWN.replace("judge.", "thousand.")}'),
    'settings': ('config.json', 'run --settings config.json --show'),
    'earlier run': ('whole/**/*.*', ' '.join([*JOB, '--out', 'whole'])),
    'lora': ('lora.safetensors', 'generate feeder --lora lora.safetensors --generate.n 1 --num_inference_steps 1'),
    'earlier images': ('made/*.*', 'generate feeder --generate.n 2 --num_inference_steps 1 --out made'),
    'reference': ('images/*.*', f'finetune {STEP} --train.sfsl_weight 0'),
    'pca': ('pca.safetensors', f'finetune {STEP} {PCA}'),
    'encoder': ('encoder.safetensors', f'finetune {STEP} {PCA} --encoder encoder.safetensors'),
    'world': ('world/record.json', 'world check --out world'),
}


def make_inputs(place, whole_run):
    "Make one good file of each kind."
    import timm, torch
    from safetensors.torch import save_file
    from spurnb.cli import main
    from spurnb.core import save_png, sha256, write_json
    from spurnb.data import mini_class_images, mini_file, mini_target
    from spurnb.encoders import load_encoder
    from spurnb.features import NeuralPCA
    from spurnb.report.folder import audit_folder
    from spurnb.run.settings import RunSettings
    from spurnb.train.checkpoints import load_pipeline
    from spurnb.train.lora import add_lora, save_lora
    from spurnb.world.scenes import reference_scenes
    for i, scene in enumerate(reference_scenes('fireboat', 3)): save_png(place/'images'/f'{i}.png', scene.draw())
    scene.draw().save(place/'images'/'3.jpg', quality=95)
    (place/'images'/'images.csv').write_text('file,prompt,seed\n0.png,a jet,1\n1.png,a jet,2\n')
    for i, name in enumerate(('n03344393', 'n01440764')): save_png(place/'val'/name/f'{i}.png', scene.draw())
    judge = timm.create_model('test_resnet', num_classes=6)
    torch.save(dict(state_dict=judge.state_dict(), args=dict(input_size=(3, 64, 64))), place/'judge.pth')
    save_file(judge.state_dict(), place/'judge.safetensors')
    torch.save(timm.create_model('test_resnet', num_classes=1000).state_dict(), place/'thousand.pth')
    write_json(place/'judge.pth.json', dict(input_size=64, mean=.5, std=.25))
    (place/'classes.txt').write_text('a\nb\nc\nd\ne\nf\n')
    write_json(place/'classes.json', {str(i): name for i, name in enumerate('abcdef')})
    (place/'own.py').write_text('import timm\ndef make():\n    classes = ["a", "b"]\n'
                                '    return timm.create_model("test_resnet", num_classes=2), dict(classes=classes)\n')
    for name in ('audit', 'again'): audit_folder(place/'images', 'fireboat', ['test_resnet'], place/name)
    with zipfile.ZipFile(place/'spurious.zip', 'w') as z:
        for i in range(2): z.write(place/'images'/f'{i}.png', f'images/spurious_class_554_component_0/{i}.png')
    write_json(place/'config.json', dict(settings=RunSettings()))
    save_lora(add_lora(load_pipeline('mini', 'cpu'), 2), place)
    (place/'pytorch_lora_weights.safetensors').rename(place/'lora.safetensors')
    main(f'generate feeder --generate.n 2 --num_inference_steps 1 --out {place/"made"}'.split())
    shutil.copy(mini_file('encoder.safetensors'), place/'encoder.safetensors')
    pca = NeuralPCA.fit(load_encoder('mini'), mini_class_images('fireboat', 24), target=mini_target('fireboat').index)
    pca.save(place/'pca.safetensors')
    write_json(place/'world'/'record.json', dict(files={'encoder.safetensors': sha256(place/'encoder.safetensors')}))
    shutil.copy(place/'encoder.safetensors', place/'world')
    shutil.copytree(whole_run, place/'whole')


def other_numbers(dice, text):
    "Replace one digit of a text by something that is no number, or far too much."
    places = [i for i, c in enumerate(text) if c.isdigit()]
    if not places: return text + '1e999'
    i = dice.choice(places)
    return text[:i] + dice.choice(['1e999', '-1', '9'*40, 'NaN', '"x"', '[]', 'null', '{}', 'true', '.5']) + text[i+1:]


OTHER_TYPES = [b'[]', b'{}', b'null', b'3', b'"a"', b'[[1]]', b'{"arms": 3}', b'{"settings": []}',
               b'{"settings": {"train": []}}', b'{"settings": {"audit": {"judges": [1]}}}', b'['*100_000]


def damaged(dice, data, others):
    "Return damaged bytes, and what was done to them."
    def text(): return data.decode('utf-8', 'replace')
    def flipped():
        out = bytearray(data or b'\0')
        for _ in range(dice.choice([1, 4, 64])): out[dice.randrange(len(out))] ^= 1 << dice.randrange(8)
        return bytes(out)
    cut = dice.randrange(len(data) + 1)
    ways = dict(
        truncated=lambda: data[:cut], flipped=flipped, empty=lambda: b'', turned=lambda: data[cut:] + data[:cut],
        swapped=lambda: dice.choice(others).read_bytes(), doubled=lambda: data*2, zeroed=lambda: bytes(len(data)),
        html=lambda: b'<!DOCTYPE html><html><body>404: not found</body></html>',
        pointer=lambda: b'version https://git-lfs.github.com/spec/v1\noid sha256:' + b'0'*64 + b'\nsize 1\n',
        numbers=lambda: other_numbers(dice, text()).encode('utf-8', 'replace'), types=lambda: dice.choice(OTHER_TYPES),
        nul=lambda: b'\0' + data, bom=lambda: b'\xef\xbb\xbf' + data, latin=lambda: b'\xe4\xf6' + data,
        **{code: lambda code=code: text().encode(code, 'replace') for code in ('utf-16', 'utf-16-be', 'utf-32')})
    way = dice.choice(list(ways))
    return ways[way](), way


def inputs(n, out, seed, kinds, want):
    "Give `n` damaged inputs to the commands."
    good, place, log = out/'good', out/'case', out/'case.log'
    for folder in (good, place): shutil.rmtree(folder, ignore_errors=True)
    if finish(start(lambda: make_inputs(place, out/'whole'), out, log)): raise SystemExit(log.read_text()[-600:])
    place.rename(good) # an audit remembers where its images were
    others, parts = sorted(p for p in good.rglob('*') if p.is_file()), {kind: Part(f'{kind} damaged') for kind in kinds}
    for i in range(n):
        kind = kinds[i % len(kinds)]
        dice, (pattern, command) = random.Random(f'{seed} {i}'), KINDS[kind]
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(good, place)
        file = dice.choice(sorted(p for p in place.glob(pattern) if p.is_file()))
        data, way = damaged(dice, file.read_bytes(), others)
        file.write_bytes(data)
        args = command.format(file=file.relative_to(place)).split()
        results_in = place/args[args.index('--out') + 1] if '--out' in args else place/'out'
        if not {'--out', '--show'} & {*args}: args += ['--out', 'out']
        before = hashes(place, results_in)
        code, part = finish(start(args, place, log), LIMIT), parts[kind]
        wrong = trouble(code, log)
        if hashes(place, results_in) != before: wrong = wrong or 'something else changed'
        if kind == 'earlier run' and not code and not want.items() <= results(results_in).items():
            wrong = wrong or 'results differ'
        part.tries += 1
        part(f'exit {code}' if not wrong else f'input {i}, {way} {file.relative_to(place)}', wrong, log)
    return [*parts.values()]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--kills', type=int, default=200, help='how often the whole job is killed')
    p.add_argument('--inputs', type=int, default=500, help='damaged inputs')
    p.add_argument('--sizes', type=int, default=20, help='sizes of a full disk; needs the right to mount a tmpfs')
    p.add_argument('--pairs', type=int, default=20, help='pairs of processes in one folder')
    p.add_argument('--kinds', nargs='+', choices=[*KINDS], default=[*KINDS], help='of damaged inputs')
    p.add_argument('--processes', type=int, default=1, help='that make the arms of a run side by side')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--out', type=Path, default=Path('torture'), help='folder for everything')
    o = p.parse_args()
    out, began = o.out.resolve(), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= dict(OMP_NUM_THREADS=str(o.processes), HF_HUB_OFFLINE='1', HF_HOME=str(out/'home'))
    sys.path.insert(0, str(ROOT))
    prepare()
    (want, took), dice, parts = whole(out), random.Random(o.seed), []
    print(f'the whole job takes {took:.0f} s', flush=True)
    if o.kills: parts += kills(o.kills, out, dice, want, took)
    if o.inputs: parts += inputs(o.inputs, out, o.seed, o.kinds, want)
    if o.sizes: parts += disk(o.sizes, out, want)
    if o.pairs: parts += pairs(o.pairs, out, dice, want, took)
    print('| what | tries | outcomes | lost |', '|---|--:|---|--:|', *(p.row() for p in parts if p.tries), sep='\n')
    print(f'\n{(time.monotonic() - began)/60:.0f} minutes')
    return int(any(p.wrong for p in parts))


if __name__ == '__main__': sys.exit(main())
