"What a judge refuses: faulty models and transforms, each with a message that names it."
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from spurnb.audit.judges import Judge, JudgeFailed, cached_logits, crops_middle, transform_hash
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
    (T.Compose([T.Resize(8), T.ToTensor()]), r'different sizes, \(3, 8, 12\) and \(3, 12, 8\)'),
    (lambda image: image.nonsense, 'the transform fails with AttributeError'),
])
def test_transforms(transform, message):
    with pytest.raises(JudgeFailed, match=message): transform_hash(transform)


@pytest.mark.parametrize('fault, message', [
    (no_memory, "'odd' fails with OutOfMemoryError: CUDA out of memory"),
    (lambda x, logits: (logits, logits), 'returns tuple'),
    (lambda x, logits: logits[:1], r'returns Tensor \(1, 2\) for 3 images'),
    (lambda x, logits: x, 'returns Tensor'),
    (lambda x, logits: logits/0, 'not finite for 3 of 3 images, first for number 0'),
    (lambda x, logits: 1/0, "'odd' fails with ZeroDivisionError: division by zero"),
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


def test_a_transform_that_differs_for_one_kind_of_image():
    "One that turns tall images is another transform, though wide ones look the same."
    def turning(image): return usual(image.rotate(90, expand=True) if image.height > image.width else image)
    assert transform_hash(turning) != transform_hash(usual)


def test_a_corrected_forward_is_asked_again(tmp_path):
    "The weights and what Python prints of the model are the same; only its predictions differ."
    images = torch.rand(3, 3, 8, 8)
    first = cached_logits(judge(lambda x, logits: logits), images, tmp_path)
    second = cached_logits(judge(lambda x, logits: -logits), images, tmp_path)
    assert (first == -second).all() and len(list(tmp_path.iterdir())) == 2
    cached_logits(judge(lambda x, logits: logits), images, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_judge_that_fails_on_probes_alone_keeps_its_answers(tmp_path):
    def only_three(x, logits): return logits if len(x) == 3 else 1/0
    assert cached_logits(judge(only_three), torch.rand(3, 3, 8, 8), tmp_path).shape == (3, 2)


def test_a_transform_that_fails_for_one_image():
    def one(image):
        if image.size == (9, 9): raise KeyError('this image')
        return usual(image)
    found = Judge('odd', Odd(lambda x, logits: logits), transform=one)
    assert found.logits(torch.rand(2, 3, 8, 8)).shape == (2, 2)
    with pytest.raises(JudgeFailed, match="the transform of 'odd' fails with KeyError: 'this image'"):
        found.logits(torch.rand(2, 3, 9, 9))


def test_names_that_are_too_few():
    with pytest.raises(JudgeFailed, match='returns 2 logits for 3 classes'):
        judge(lambda x, logits: logits, classes=list('abc')).logits(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize('size', [(1, 60_000), (60_000, 1), (3, 30_000)])
def test_a_long_image_costs_no_memory(size):
    "Its middle is what the center crop shows of it anyway; resized whole it would have half a billion pixels."
    seen = []
    def watched(image):
        seen.append(image.size)
        return usual(image)
    long = Image.new('RGB', size, 'red')
    found = Judge('odd', Odd(lambda x, logits: logits), transform=watched)
    assert found.crops and found.prepare([long]).shape == (1, 3, 8, 8)
    assert max(seen[-1]) <= 4*min(seen[-1])
    ordinary = Image.new('RGB', (80, 20), 'red')
    found.prepare([ordinary])
    assert seen[-1] == (80, 20) # nothing changes below 1:8


def test_a_transform_that_squeezes_sees_the_whole_image():
    assert not crops_middle(T.Compose([T.Resize((8, 8)), T.ToTensor()])) and crops_middle(usual)
