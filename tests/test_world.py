"Making and checking the embedded world: refusals, before any model is trained."
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch

from spurnb import cli
from spurnb.core import UserError, read_json
from spurnb.data import mini_record, mini_root
from spurnb.encoders import small_resnet
from spurnb.lab.encoder import (answer_loss, effects, fit_head, inside, mixed_effects, parts,
                                question_mask, train_encoder, truths)
from spurnb.lab.fit import album, attack, classify, every_object, fit
from spurnb.lab.generator import new_tokenizer, new_vae, world_words
from spurnb.lab.muon import Muon, matrices_and_rest, orthogonalize
from spurnb.lab.world import WorldSettings, check_world, scene_page, ship, start_from, train_variant, train_world
from spurnb.world.scenes import CONTEXT_NAMES, LOOKALIKES, OBJECT_NAMES, Scene

TINY = WorldSettings(scenes=60, encoder_steps=2, judge_steps=1)


@pytest.fixture(scope='module')
def damaged(tmp_path_factory):
    "A copy of the shipped world with one file cut short and one missing."
    world = tmp_path_factory.mktemp('world')/'world'
    shutil.copytree(mini_root(), world)
    encoder = world/'encoder.safetensors'
    encoder.write_bytes(encoder.read_bytes()[:-1])
    (world/'judges'/'test_vit.safetensors').unlink()
    return world


@pytest.mark.parametrize('work, said', [
    (lambda world, out: check_world(world), '2 of'),
    (lambda world, out: start_from(world, out), 'start from a whole world'),
    (lambda world, out: train_variant(out, strength=2, settings=TINY), 'give a factor between 0 and 1.17'),
    (lambda world, out: train_variant(out, eps=-1, settings=TINY), 'eps is -1'),
    (lambda world, out: ship(out, TINY), 'has not finished encoder, judges/test_resnet'),
    (lambda world, out: scene_page(0), 'n is 0'),
])
def test_refusals(damaged, tmp_path, work, said):
    with pytest.raises(UserError) as refused: work(damaged, tmp_path)
    assert said in str(refused.value)


def test_the_defaults_are_those_of_the_shipped_weights():
    settings = mini_record()['settings']
    assert asdict(WorldSettings()) == settings
    train = cli.read_options(cli.WorldTrain, [], 'spurnb_world train')
    assert (train.steps, train.seed) == (settings['generator_steps'], settings['seed'])


def test_a_folder_belongs_to_one_world(tmp_path):
    "Another strength or another number of scenes needs another folder; a longer training of the generator does not."
    train_variant(tmp_path/'variant', strength=.5, eps=0, settings=TINY)
    with pytest.raises(UserError, match='a variant with other settings'):
        train_variant(tmp_path/'variant', strength=.7, eps=0, settings=TINY)
    train_world(tmp_path/'world', TINY, stages=(), measured=False)
    train_world(tmp_path/'world', WorldSettings(scenes=60, encoder_steps=2, judge_steps=1, generator_steps=9),
                stages=(), measured=False)
    with pytest.raises(UserError, match='a training with other settings'):
        train_world(tmp_path/'world', WorldSettings(scenes=61), stages=(), measured=False)


def test_the_generator_knows_the_words_of_the_targets_alone(tmp_path):
    "A word more would be a token more, and the shipped text encoder has none for it."
    new_tokenizer(tmp_path)
    fresh, shipped = (read_json(f/'vocab.json') for f in (tmp_path, mini_root()/'generator'/'tokenizer'))
    words = {f'{w}</w>' for w in world_words()}
    assert words <= {*fresh} and words <= {*shipped}
    assert {*' '.join(LOOKALIKES).split()} & world_words() == {'car'} # a freight car


class Seen(torch.nn.Linear):
    "A classifier that keeps its last batch."
    def __init__(self): super().__init__(3, 2)

    def forward(self, x):
        self.batch = x
        return super().forward(x.mean((2, 3)))


def test_classifiers_learn_rough_images(tmp_path):
    "Softer across an edge, noisy on a plain, and never quite the same."
    model, images = Seen(), np.zeros((8, 64, 64, 3), 'uint8')
    images[:, :, 32:] = 255
    classify('seen', model, images, np.arange(8) % 2, TINY, tmp_path, 1, mean=(0,)*3, std=(1,)*3)
    left, edge = model.batch[:, :, :, 5:20].flatten(1), model.batch[:, 0, :, 31].mean(1)
    assert .03 < left.std(1).max() < .07
    assert edge.min() < .05 and .2 < edge.max() < .31 # up to .9 of a third


def test_meters_know_the_look_alikes_too(tmp_path):
    _, scenes = every_object(tmp_path, WorldSettings(scenes=300))
    assert {s.obj for s in scenes} == set(OBJECT_NAMES)


@pytest.mark.parametrize('shape', [(8, 30), (30, 8), (16, 16)])
def test_an_orthogonal_step_has_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.manual_seed(0))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    for made in (matrix, u*torch.logspace(0, -2, len(s))@v): # the second has one of 1 and one of 0.01
        values = torch.linalg.svdvals(orthogonalize(made))
        assert .6 < values.min() and values.max() < 1.25, values


def test_muon_takes_the_kernels_and_adamw_the_rest():
    vae = new_vae()
    names = {id(p): n for n, p in vae.named_parameters()}
    matrices, rest = ({names[id(p)] for p in some} for some in matrices_and_rest(vae))
    assert not matrices & rest and matrices | rest == set(names.values())
    assert 'encoder.down_blocks.0.resnets.0.conv1.weight' in matrices
    assert {'encoder.conv_in.weight', 'decoder.conv_out.weight', 'quant_conv.weight', 'post_quant_conv.weight',
            'encoder.down_blocks.0.resnets.0.conv1.bias', 'encoder.conv_norm_out.weight'} <= rest


def test_muon_moves_a_kernel_by_its_rate_in_every_direction():
    kernel = torch.nn.Parameter(torch.randn(4, 3, 3, 3, generator=torch.manual_seed(1)))
    before, optimizer = kernel.detach().clone(), Muon([kernel], lr=.1)
    (kernel*torch.randn(kernel.shape, generator=torch.manual_seed(2))).sum().backward()
    optimizer.step()
    values = torch.linalg.svdvals((before - kernel.detach()).flatten(1))
    assert len(values) == 4 and .06 < values.min() and values.max() < .125


def _two_layers(folder, steps, fail=None):
    "Fit two convolutions with Muon; raise KeyboardInterrupt at step `fail`."
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 2, 3))
    def loss(step):
        if step == fail: raise KeyboardInterrupt
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        return (model(x) - x[:, :2, 2:-2, 2:-2]).square().mean()
    return fit('two', model, loss, steps, folder, lr=1e-3, warmup=5, every=4, optimizer='muon')


def test_a_training_with_muon_goes_on_where_it_was(tmp_path):
    "Momentum of Muon and averages of AdamW are in the state: an interrupted training ends in the same bits."
    whole = _two_layers(tmp_path/'whole', 12)
    with pytest.raises(KeyboardInterrupt): _two_layers(tmp_path/'cut', 12, fail=7)
    again = _two_layers(tmp_path/'cut', 12)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters()))
    with pytest.raises(UserError, match="no optimizer 'mion'; did you mean 'muon'"):
        fit('x', torch.nn.Linear(1, 1), None, 1, tmp_path, optimizer='mion')


def test_every_answer_reads_its_own_features():
    "A change of the context's features changes the answers about the context alone."
    mask, phi = question_mask(), torch.randn(2, 224, generator=torch.manual_seed(0))
    changed = phi.clone()
    changed[:, parts()['context']] += 1
    moved = ((changed - phi)@mask.T).abs().sum(0).split((13, 73, 6))
    assert [bool(m.any()) for m in moved] == [False, True, False]
    scene = Scene('lifeboat', 'hand', 'bare', 'brick', 1)
    context = CONTEXT_NAMES.index(('hand', 'bare', 'blue'))
    assert truths([scene]).tolist() == [[OBJECT_NAMES.index('lifeboat'), context, 2]]


def test_an_attack_raises_all_three_answers_and_stays_in_its_ball():
    x = torch.rand(4, 3, 8, 8, generator=torch.manual_seed(0))
    weight = torch.randn(92, 192, generator=torch.manual_seed(1))
    def logits(x): return x.flatten(1)@weight.T
    y = torch.tensor([[1, 2, 3]]*4)
    start = inside(x, .5, torch.manual_seed(2))
    length = start.flatten(1).norm(dim=1)
    assert length.max() < .6 and length.std() > .05
    found = attack(logits, x, y, .5, 2, start, answer_loss)
    assert (found - x).flatten(1).norm(dim=1).max() < .5001
    assert answer_loss(logits(found), y) > answer_loss(logits(x + start), y) > 0


@pytest.fixture(scope='module')
def questioned():
    "A network that has learned nothing, an album, and what objects and contexts change in its features."
    torch.manual_seed(0)
    model = small_resnet(92).eval()
    return model, effects(model, 60, 5)


def test_the_head_s_evidence_can_be_held_apart(questioned, tmp_path):
    "The penalties lower the mixture that plain regression leaves, and the classes are still told apart."
    model, changed = questioned
    assert changed['object'].shape == changed['context'].shape == (6, 224)
    images, labels = album(tmp_path, WorldSettings(scenes=480))
    found = {}
    for apart in (0., 3.):
        head = fit_head(model, images, labels, changed, apart=apart).fc
        w = head.weight.detach()[:6]
        found[apart] = mixed_effects(w, changed).item() # psi and its changes have no units
    assert found[3.] < .5*found[0.], found


def test_the_encoder_s_training_is_resumed_and_depends_on_the_attack(tmp_path):
    settings = WorldSettings(scenes=60, encoder_steps=2)
    robust, plain = (train_encoder(tmp_path/str(eps), settings, eps) for eps in (.5, 0))
    again = train_encoder(tmp_path/'0.5', settings, .5)
    assert robust.fc.out_features == 12
    assert all(torch.equal(a, b) for a, b in zip(robust.parameters(), again.parameters()))
    assert not torch.equal(robust.conv1[0].weight, plain.conv1[0].weight)
