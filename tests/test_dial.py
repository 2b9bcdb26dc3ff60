"The dial from the command line: images at several doses, resumed, and the curve of an audit."

import pytest

from spurnb import cli
from spurnb.core import read_json
from spurnb.generate import load_generator, read_manifest
from spurnb.report.dial import dial_folders, dose_table, dose_text
from spurnb.train.lora import add_lora, save_lora
from tiny import tiny_folder

HOW = ['--seed', 3, '--device', 'cpu', '--generate.n', 2, '--generate.num_inference_steps', 2]


@pytest.fixture(scope='module')
def models(tiny_folder, tmp_path_factory):
    "-> folder of the untuned model, of its adapters, and of the tuned model with weights of its own"
    import torch

    place = tmp_path_factory.mktemp('models')
    pipe = add_lora(load_generator(str(tiny_folder), device='cpu'), 2)
    with torch.no_grad():
        for part in (pipe.unet, pipe.text_encoder):
            for k, p in part.named_parameters():
                if 'lora_B' in k:
                    p.normal_(std=2.0, generator=torch.Generator().manual_seed(0))
    save_lora(pipe, place / 'lora')
    tuned = load_generator(str(tiny_folder), str(place / 'lora'), device='cpu')
    tuned.fuse_lora()
    tuned.unload_lora_weights()
    tuned.save_pretrained(place / 'tuned')
    return str(tiny_folder), str(place / 'lora'), str(place / 'tuned')


def generate(out, *options):
    cli.spurnb_generate(['a photo of a feeder', *HOW, '--out', out, *options])



def pixels(folder):
    from PIL import Image

    return [Image.open(folder / f'{i:05d}.png').tobytes() for i in range(2)]


@pytest.mark.parametrize('kind', ['adapters', 'weights'])
def test_the_ends_of_the_dial_are_the_two_models(models, kind, tmp_path, capsys):
    untuned, lora, tuned = models
    how = ['--model', untuned, '--lora', lora] if kind == 'adapters' else ['--model', tuned, '--base', untuned]
    generate(tmp_path / 'dial', *how, '--scale', 1, 0, 0.5)
    assert list(dial_folders(tmp_path / 'dial')) == ['scale_0', 'scale_0.5', 'scale_1']
    generate(tmp_path / 'untuned', '--model', untuned)
    generate(tmp_path / 'tuned', *how[:4] if kind == 'adapters' else how[:2])
    found = {name: pixels(tmp_path / 'dial' / name) for name in ('scale_0', 'scale_0.5', 'scale_1')}
    assert found['scale_0'] == pixels(tmp_path / 'untuned') and found['scale_1'] == pixels(tmp_path / 'tuned')
    assert found['scale_0'] != found['scale_0.5'] != found['scale_1'] != found['scale_0']
    marks = {read_manifest(folder).model[0] for folder in dial_folders(tmp_path / 'dial').values()}
    assert len(marks) == 3, 'images of another point would be taken for its own'
    capsys.readouterr()
    generate(tmp_path / 'dial', *how, '--scale', 0, 0.5, 1)
    assert '0 images generated, 6 were there' in capsys.readouterr().out


@pytest.mark.parametrize(
    'options, said',
    [
        (['--scale', 0, 1], 'give adapters as --lora, or the untuned model as --base'),
        (['--scale', 0, 3, '--base', 'mini'], 'scale is 3.0; give numbers from 0'),
    ],
)
def test_a_dial_without_two_models_is_refused(options, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        generate(tmp_path / 'dial', *options)
    assert stop.value.code == 2 and said in capsys.readouterr().err and not (tmp_path / 'dial').exists()


def test_an_audit_of_a_dial_is_a_curve(models, tmp_path, capsys):
    untuned, lora, _ = models
    generate(tmp_path / 'dial', '--model', untuned, '--lora', lora, '--scale', 0, 1)
    judges = ['--audit.judges', 'test_resnet', 'test_vit']
    audit = [tmp_path / 'dial', *judges, '--device', 'cpu', '--out', tmp_path / 'out']
    cli.spurnb_audit(audit)
    assert 'spurious rate by scale: 0: ' in capsys.readouterr().out
    metrics = read_json(tmp_path / 'out' / 'metrics.json')
    table = dose_table(metrics)
    assert table.classifier.tolist() == ['test_resnet', 'test_resnet', 'test_vit', 'test_vit', 'mean', 'mean']
    assert table.scale.tolist() == [0, 1] * 3 and (table.n[:4] == 2).all()
    assert 'scale_1-scale_0' in metrics['mcnemar'], 'doses are paired by seed'
    assert 'id="dial"' in (tmp_path / 'out' / 'report.html').read_text(encoding='utf-8')
    assert (tmp_path / 'out' / 'tables' / 'dial.csv').read_text().startswith('classifier,scale,value')
    with pytest.raises(SystemExit) as stop:
        cli.spurnb_audit([*audit, '--limit', '.2'])
    assert stop.value.code == 2 and 'give one of its folders' in capsys.readouterr().err


def test_doses_are_named_in_any_way():
    def rate(x): return dict(value=x, low=0, high=1, n=8)
    arms = {'scale_1.0': rate(.75), 'scale_0': rate(.25), 'scale_1e-05': rate(.25), 'images': rate(.5)}
    metrics = dict(classifiers={}, arms={a: dict(spurious_rate=m) for a, m in arms.items()})
    metrics['differences'] = {'scale_1.0-scale_0': dict(value=.5, low=.25, high=.75, n=8)}
    first, second = dose_text(metrics)
    assert first == 'spurious rate by scale: 0: 25%, 1e-05: 25%, 1: 75%'
    assert second.startswith('from scale 0 to scale 1.0: +50')
