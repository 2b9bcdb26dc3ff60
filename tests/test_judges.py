"What a judge refuses: faulty models and transforms, each with a message that names it."
import pytest
import torch
from torchvision import transforms as T

from spurnb.audit.judges import Judge, JudgeFailed, transform_hash
from spurnb.core import UserError

usual = T.Compose([T.Resize(8), T.CenterCrop(8), T.ToTensor()])


class Odd(torch.nn.Module):
    "A classifier of two classes with a fault."
    def __init__(self, fault):
        super().__init__()
        self.fault = fault
    def forward(self, x): return self.fault(x, x.mean((2, 3))[:, :2])


def no_memory(x, logits): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 1 GiB')


def judge(fault, **kwargs): return Judge('odd', Odd(fault), transform=usual, **kwargs)


@pytest.mark.parametrize('transform, message', [
    (T.Compose([T.RandomResizedCrop(64), T.ToTensor()]), 'not for training'),
    (T.Resize(64), 'float tensor'),
    (T.Compose([T.Grayscale(), T.ToTensor()]), 'float tensor'),
    (T.Compose([T.Resize((8, 8)), T.PILToTensor()]), 'float tensor'),
])
def test_transforms(transform, message):
    with pytest.raises(JudgeFailed, match=message): transform_hash(transform)


@pytest.mark.parametrize('fault, message', [
    (no_memory, "'odd' fails: CUDA out of memory"),
    (lambda x, logits: (logits, logits), 'returns tuple'),
    (lambda x, logits: logits[:1], r'returns Tensor \(1, 2\) for 3 images'),
    (lambda x, logits: x, 'returns Tensor'),
    (lambda x, logits: logits/0, 'not finite for 3 of 3 images, first for number 0'),
    (lambda x, logits: 1/0, "'odd' fails: division by zero"),
])
def test_models(fault, message):
    with pytest.raises(JudgeFailed, match=message): judge(fault).logits(torch.rand(3, 3, 8, 8))


def test_protocols():
    def fine(x, logits): return logits
    with pytest.raises(UserError, match="the protocol is 'mine'"): judge(fine, protocol='mine')
    with pytest.raises(JudgeFailed, match='mean and std'): judge(fine, protocol='original')
    assert judge(fine, config=dict(mean=(.5,)*3, std=(.5,)*3), protocol='original').on_class.transform is not usual


def test_an_object_with_logits():
    "transformers returns one."
    from types import SimpleNamespace
    assert judge(lambda x, logits: SimpleNamespace(logits=logits)).logits(torch.rand(3, 3, 8, 8)).shape == (3, 2)
