"Checkpoints and adapters: what they refuse, and what stays after an error."
import errno

import pytest

from spurnb.core import UserError
from spurnb.train.checkpoints import load_pipeline, read_losses, write_losses
from spurnb.train.lora import add_lora, check_kohya, load_lora, save_lora
from tiny import tiny_pipeline


@pytest.mark.parametrize('wrong, said', [
    (dict(name='mni'), "give 'mini'"),
    (dict(dtype='float16', device='cpu'), "'float16' needs a GPU"),
    (dict(dtype='float61'), "did you mean 'float16'")], ids=lambda x: str(x)[:40])
def test_pipelines_that_cannot_be_loaded(wrong, said):
    with pytest.raises(UserError, match=said): load_pipeline(**wrong)

def test_a_folder_without_a_pipeline(tmp_path):
    with pytest.raises(UserError, match='check that it has a model_index.json'): load_pipeline(tmp_path, 'cpu')

def test_losses_survive_a_full_disk(tmp_path, monkeypatch):
    history = [dict(step=0, loss=1/3), dict(step=1, loss=2/3)]
    write_losses(tmp_path/'losses.csv', history)
    def no_space(*args, **kwargs): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr('csv.DictWriter', no_space)
    with pytest.raises(UserError, match='the table of losses could not be written'):
        write_losses(tmp_path/'losses.csv', history[:1])
    monkeypatch.undo()
    assert read_losses(tmp_path/'losses.csv') == history

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
