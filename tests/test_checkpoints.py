"Checkpoints and adapters: what they refuse, what stays after an error, and what other programs can read."
import errno, os, stat, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from spurnb.core import UserError
from spurnb.train.checkpoints import load_pipeline, load_result, read_losses, save_result, write_losses
from spurnb.train.lora import LORA_FILE, add_lora, check_kohya, load_lora, save_lora
from tiny import tiny_pipeline


@pytest.mark.parametrize('wrong, said', [
    (dict(name='mni'), "give 'mini'"),
    (dict(dtype='float16', device='cpu'), "'float16' needs a GPU"),
    (dict(dtype='float61'), "did you mean 'float16'")], ids=lambda x: str(x)[:40])
def test_pipelines_that_cannot_be_loaded(wrong, said):
    with pytest.raises(UserError, match=said): load_pipeline(**wrong)

def test_a_folder_without_a_pipeline(tmp_path):
    with pytest.raises(UserError, match='check that it has a model_index.json'): load_pipeline(tmp_path, 'cpu')

@pytest.mark.parametrize('file', ['model_index.json', 'text_encoder/config.json', 'tokenizer/tokenizer_config.json'])
def test_a_damaged_result_is_no_result(file, tmp_path):
    "Not the weights alone: whatever diffusers would stumble over. A model card may be edited."
    pipe, result = tiny_pipeline(), tmp_path/'model'
    save_result(pipe, result, 1, {})
    (result/'README.md').write_text('my words')
    assert load_result(pipe, result, 1, {})
    (result/file).write_bytes((result/file).read_bytes()[:-2])
    assert not load_result(pipe, result, 1, {})

def test_a_card_with_bytes_that_are_no_text(tmp_path):
    "The license was typed on a terminal in another encoding: no reason to lose a model."
    save_result(tiny_pipeline(), tmp_path/'model', 1, {}, ModelCard('by J\udcf6rg', ignore_metadata_errors=True))
    assert 'by J\\udcf6rg' in (tmp_path/'model'/'README.md').read_text(encoding='utf-8')

def test_losses_survive_a_full_disk(tmp_path, monkeypatch):
    history = [dict(step=0, loss=1/3), dict(step=1, loss=2/3)]
    write_losses(tmp_path/'losses.csv', history)
    def no_space(*args, **kwargs): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr('csv.DictWriter', no_space)
    with pytest.raises(UserError, match='the table of losses could not be written'):
        write_losses(tmp_path/'losses.csv', history[:1])
    monkeypatch.undo()
    assert read_losses(tmp_path/'losses.csv') == history

@pytest.mark.parametrize('data', [
    b'step,loss\n0,"' + b'1'*200_000, b'step,loss\n0,1,2\n', 'step,loss\n0,1\n'.encode('utf-16')])
def test_losses_that_are_none(data, tmp_path):
    (tmp_path/'losses.csv').write_bytes(data)
    assert read_losses(tmp_path/'losses.csv') == []

def test_what_adapters_refuse(tmp_path, monkeypatch):
    pipe = tiny_pipeline()
    with pytest.raises(UserError, match='train with a lora_rank'): check_kohya(pipe, 0)
    with pytest.raises(UserError, match='this pipeline has no adapters'): save_lora(pipe, tmp_path)
    with pytest.raises(UserError, match='there are no LoRA weights'): load_lora(pipe, tmp_path/'nothing')
    add_lora(pipe, rank=2)
    with pytest.raises(UserError, match='has adapters already'): add_lora(pipe)
    other = tiny_pipeline()
    def too_old(*args, **kwargs): raise ValueError('The version of PEFT you are using is not compatible')
    monkeypatch.setattr(type(other.text_encoder), 'add_adapter', too_old)
    with pytest.raises(UserError, match='that go together'): add_lora(other)

@pytest.mark.parametrize('name, rates, said', [
    ('adam', [1e-4], "did you mean 'adamw'"),
    ('prodigy', [1e-4, 1e-3], 'give 1 for network and text encoders|pip install prodigyopt')])
def test_what_optimizers_refuse(name, rates, said):
    from spurnb.train.optimizers import check_optimizer
    with pytest.raises(UserError, match=said): check_optimizer(name, rates)


def trained(**how):
    "A pipeline whose adapters have left their initial values."
    pipe = add_lora(tiny_pipeline(), rank=4, **how)
    random = torch.Generator().manual_seed(1)
    for part in (pipe.unet, pipe.text_encoder):
        for name, p in part.named_parameters():
            if 'lora_B' in name: p.data = torch.randn(p.shape, generator=random)*.3
            if 'magnitude' in name: p.data = p.data*(.5 + torch.rand(p.shape, generator=random))
    return pipe

def sample(pipe):
    pipe.set_progress_bar_config(disable=True)
    how = dict(num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type='np')
    return pipe('a feeder', **how).images[0]

def merged(pipe, state):
    "Read Kohya's keys as ComfyUI does: W + alpha/rank * up @ down, its rows scaled to DoRA's lengths."
    used = set()
    for prefix, part in dict(lora_unet=pipe.unet, lora_te=pipe.text_encoder).items():
        for name, layer in part.named_modules():
            if part is pipe.text_encoder and not name.startswith('text_model'): name = f'text_model.{name}'
            key = f'{prefix}_{name.replace(".", "_")}'
            if f'{key}.lora_down.weight' not in state: continue
            down, up, alpha, length = (state.get(f'{key}.{k}') for k in (
                'lora_down.weight', 'lora_up.weight', 'alpha', 'dora_scale'))
            weight = layer.weight.data + alpha/len(down)*(up @ down)
            if length is not None: weight = weight*(length/weight.norm(dim=1, keepdim=True))
            layer.weight.data = weight
            used |= {k for k in state if k.startswith(f'{key}.')}
    assert used == set(state)
    return pipe

@pytest.mark.parametrize('how', [dict(), dict(text_encoder=False), dict(network=False), dict(use_dora=True)],
                         ids=['both', 'network', 'text', 'dora'])
def test_other_programs_read_our_adapters(how, tmp_path):
    "diffusers' own loader, and one that knows Kohya's keys alone, sample what the trained pipeline does."
    pipe = trained(**how)
    save_lora(pipe, tmp_path)
    kohya = save_lora(pipe, tmp_path, kohya=True)
    expected, plain = sample(pipe), sample(tiny_pipeline())
    assert np.abs(expected - plain).max() > .02
    diffusers = tiny_pipeline()
    diffusers.load_lora_weights(tmp_path, weight_name=LORA_FILE)
    ours = tiny_pipeline()
    load_lora(ours, kohya)
    found = dict(diffusers=diffusers, ours=ours, kohya=merged(tiny_pipeline(), load_file(kohya)))
    if not how.get('use_dora'): # diffusers drops the lengths from Kohya's keys, with a warning
        found['diffusers, kohya'] = tiny_pipeline()
        found['diffusers, kohya'].load_lora_weights(tmp_path, weight_name=kohya.name)
    for name, one in found.items(): assert np.abs(sample(one) - expected).max() < 2e-3, name

@pytest.mark.parametrize('rate', [1, .25])
@pytest.mark.parametrize('use_dora', [False, True])
def test_alpha_over_rank_scales_foreign_adapters(rate, use_dora, tmp_path):
    from safetensors.torch import save_file
    state = load_file(save_lora(trained(use_dora=use_dora), tmp_path, kohya=True))
    state |= {k: v*rate for k, v in state.items() if k.endswith('.alpha')}
    save_file(state, tmp_path/'foreign.safetensors')
    pipe = tiny_pipeline()
    load_lora(pipe, tmp_path/'foreign.safetensors')
    assert np.abs(sample(pipe) - sample(merged(tiny_pipeline(), state))).max() < 2e-3

def test_adapters_that_hold_nothing_or_no_numbers_are_refused(tmp_path):
    from safetensors.torch import save_file
    state = load_file(save_lora(trained(), tmp_path))
    broken = next(iter(state))
    save_file({}, tmp_path/'empty.safetensors')
    save_file(state | {broken: state[broken]*float('nan')}, tmp_path/'nan.safetensors')
    for name, why in dict(empty='there are none in it', nan='1 of .* not finite, such as').items():
        pipe = tiny_pipeline()
        with pytest.raises(UserError, match=why): load_lora(pipe, tmp_path/f'{name}.safetensors')
        assert not pipe.get_list_adapters(), name

OFFLINE = '''
from spurnb.core import UserError
from spurnb.train.lora import load_lora
from tiny import tiny_pipeline
for name in 'me/kept', 'me/other':
    pipe = tiny_pipeline()
    try: load_lora(pipe, name)
    except UserError as e: print(e)
    else: print(name, bool(pipe.get_list_adapters()))
'''

def test_adapters_of_the_hub_without_a_network(tmp_path):
    "Those in the cache are loaded; of others, the network is named and not the model."
    cache, commit = tmp_path/'hub'/'models--me--kept', '0'*40
    (cache/'refs').mkdir(parents=True)
    (cache/'refs'/'main').write_text(commit)
    save_lora(trained(), cache/'snapshots'/commit)
    here = Path(__file__).parent
    env = dict(os.environ, HF_HUB_OFFLINE='1', HF_HOME=str(tmp_path), PYTHONPATH=f'{here.parent}{os.pathsep}{here}')
    said = subprocess.run([sys.executable, '-c', OFFLINE], env=env, text=True, capture_output=True)
    kept, other = said.stdout.splitlines()
    assert kept == 'me/kept True' and other.startswith("cannot load LoRA weights: 'me/other' is not on this machine")

def test_dora_that_cannot_be_read_is_refused(tmp_path):
    "Lengths over inputs, and lengths for layers that the model does not have."
    from safetensors.torch import save_file
    state = load_file(save_lora(trained(use_dora=True), tmp_path, kohya=True))
    flat = {k: v.T.contiguous() if k.endswith('dora_scale') else v for k, v in state.items()}
    save_file(flat, tmp_path/'inputs.safetensors')
    save_file({k.replace('down_blocks', 'input_blocks'): v for k, v in state.items()}, tmp_path/'others.safetensors')
    for name, why in dict(inputs='over inputs', others='other layers').items():
        with pytest.raises(UserError, match=why): load_lora(tiny_pipeline(), tmp_path/f'{name}.safetensors')

@pytest.mark.skipif(os.name == 'nt', reason='no umask')
def test_files_have_the_rights_that_the_umask_allows(tmp_path):
    (tmp_path/'plain').write_text('')
    expected = stat.S_IMODE((tmp_path/'plain').stat().st_mode)
    pipe = trained()
    for file in (save_lora(pipe, tmp_path), save_lora(pipe, tmp_path, kohya=True)):
        assert stat.S_IMODE(file.stat().st_mode) == expected
