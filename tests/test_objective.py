"The similarity loss: identities on made-up networks, every scheduler, and combinations that are refused."

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, FlowMatchEulerDiscreteScheduler

from spurnb.core import UserError, generator
from spurnb.encoders import Encoder, small_resnet
from spurnb.features import NeuralPCA
from spurnb.objective import REFERENCES, SFSL, diffusion_loss, evidence, min_snr_weights, prior_split
from spurnb.prediction import noise_target, noisify


def images(n, what): return torch.rand(n, 3, 32, 32, generator=generator(0, what))


@pytest.fixture(scope='module')
def pca():
    torch.manual_seed(0)
    encoder = Encoder(small_resnet(3, (4, 4, 8, 8)), 32)
    return NeuralPCA.fit(encoder, images(12, 'class'), target=1, all_images=images(12, 'all'))


@pytest.fixture(scope='module')
def vae():
    torch.manual_seed(0)
    blocks = dict(block_out_channels=(8, 8), down_block_types=('DownEncoderBlock2D',)*2,
                  up_block_types=('UpDecoderBlock2D',)*2, norm_num_groups=4)
    return AutoencoderKL(latent_channels=4, **blocks).eval().requires_grad_(False)


@pytest.fixture(scope='module')
def stage(vae):
    "Return references, their latents and noise."
    references = images(4, 'references')
    with torch.no_grad(): z = vae.encode(2*references - 1).latent_dist.mean * vae.config.scaling_factor
    return references, z, torch.randn(z.shape, generator=generator(0, 'noise'))


def at(loss, scheduler, vae, stage, t, output=None, **more):
    "Return the loss of an output, by default the perfect one."
    references, z, noise = stage
    output = noise_target(scheduler, z, noise, t) if output is None else output
    return loss(scheduler, vae, output, noisify(scheduler, z, noise, t), t, references, **more)[0]


@pytest.mark.parametrize('kind', ['epsilon', 'v_prediction', 'sample', 'flow'])
def test_one_call_for_every_kind_of_model(pca, vae, stage, kind):
    "A perfect output leaves the VAE's loss alone, and with equal weights that is the same for all kinds and timesteps."
    scheduler, t = DDIMScheduler(prediction_type=kind), torch.tensor([0, 100, 300, 500])
    if kind == 'flow':
        scheduler = FlowMatchEulerDiscreteScheduler()
        t = scheduler.timesteps[[999, 700, 500, 300]]
    loss = SFSL(pca, weight='uniform')
    alone = at(loss, DDIMScheduler(prediction_type='sample'), vae, stage, torch.zeros(4, dtype=torch.long))
    assert at(loss, scheduler, vae, stage, t).item() == pytest.approx(alone.item(), rel=.02)


def test_all_ways_to_choose_a_reference_agree_on_one(pca, vae, stage):
    references, z, noise = stage
    one = [x[:1] for x in stage]
    scheduler, t = DDIMScheduler(), torch.tensor([200])
    output = torch.randn(one[1].shape, generator=generator(0, 'output'))
    found = [at(SFSL(pca, reference=r, references=one[0]), scheduler, vae, one, t, output).item() for r in REFERENCES]
    assert found == pytest.approx([found[0]]*len(REFERENCES))


def test_the_strongest_reference_has_the_largest_sum_of_alphas(pca, vae, stage):
    "All predictions are pushed to one amount, in standard deviations of the sum over class images."
    references, z, noise = (x[:2] for x in stage)
    loss, t = SFSL(pca, [0, 1], reference='strongest', weight='uniform', references=references), torch.zeros(2).long()
    amount, spread = (pca.alpha(x)[:, :2].sum(1) for x in (references, images(12, 'class')))
    assert loss.unit == pytest.approx(spread.std().item(), rel=1e-3)
    found = pca.alpha(loss.decode(vae, z))[:, :2].sum(1)
    expected = (amount.max() - found).clamp_min(0).mean() / loss.unit
    assert at(loss, DDIMScheduler(prediction_type='sample'), vae, (references, z, noise), t).item() == pytest.approx(
        expected.item(), rel=.02)


def test_evidence_is_all_but_the_objects_components():
    found = dict(chosen=[2], object=[0], contrast=[0.]*4)
    assert evidence(found) == [1, 2, 3] and evidence(found, 'chosen') == [2]
    by_hand = dict(chosen=[2], contrast=[0.]*4)
    assert evidence(by_hand) == [2] == evidence(dict(found, object=[]))


def test_a_push_is_in_standard_deviations_of_alpha(pca, vae, stage):
    "A classifier with logits twice as large asks for the same."
    louder = NeuralPCA(**vars(pca) | dict(mean=2*pca.mean, weight=2*pca.weight, eigenvalues=4*pca.eigenvalues))
    scheduler, t = DDIMScheduler(), torch.full((4,), 300)
    output = torch.zeros_like(stage[1])
    plain, loud = (at(SFSL(p), scheduler, vae, stage, t, output).item() for p in (pca, louder))
    assert plain > 0 and loud == pytest.approx(plain, rel=1e-4)


def test_a_weight_by_signal_is_the_uniform_loss_times_the_share(pca, vae, stage):
    scheduler = DDIMScheduler()
    for i in range(4):
        one, t = [x[i:i+1] for x in stage], torch.tensor([200*i])
        signal, uniform = (at(SFSL(pca, weight=w), scheduler, vae, one, t).item() for w in ('signal', 'uniform'))
        assert signal == pytest.approx(uniform*scheduler.alphas_cumprod[t].item(), rel=1e-4)


def test_checkpoints_change_nothing(pca, vae, stage):
    scheduler, t, found = DDIMScheduler(), torch.full((4,), 300), []
    for decoder in ('exact', 'checkpointed'):
        output = torch.zeros_like(stage[1]).requires_grad_()
        loss = at(SFSL(pca, decoder=decoder), scheduler, vae, stage, t, output)
        found.append((loss.item(), torch.autograd.grad(loss, output)[0]))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])
    assert not vae.decoder.gradient_checkpointing


def test_a_sample_is_right_on_average_and_a_gate_closes(pca, vae, stage):
    scheduler, t = DDIMScheduler(), torch.tensor([0, 300, 600, 999])
    sampled = SFSL(pca, gate=.1, sample=.5)
    outcomes = [at(sampled, scheduler, vae, stage, t, look=torch.full((4,), u)).item() for u in (.2, .7)]
    assert sum(outcomes)/2 == pytest.approx(at(SFSL(pca, gate=.1), scheduler, vae, stage, t).item(), rel=1e-5)
    assert at(SFSL(pca, gate=1.), scheduler, vae, stage, t).item() == 0


def test_settings_make_the_loss(pca):
    asked = dict(features='phi', distance='cosine', reference='image', weight='uniform', decoder='tiny', gate=.1,
                 sample=.5)
    made = SFSL.from_settings(SimpleNamespace(**asked, tiny='mini'), pca)
    assert made.tiny is not None and made.settings().items() >= asked.items()
    plain = SFSL.from_settings(SimpleNamespace(**asked | dict(decoder='exact'), tiny='mini'), pca)
    assert plain.tiny is None and plain.settings()['tiny'] != made.settings()['tiny']


REFUSED = {
    "take 'phi' or 'psi' with it": dict(distance='cosine'),
    'give one or more of 0 to 7': dict(components=[10_000]),
    "did you mean 'tiny'": dict(decoder='tinny'),
    'between 0 and 1': dict(gate=1.5),
    'a probability above 0': dict(sample=0.),
    'needs an AutoencoderTiny': dict(decoder='tiny'),
    'needs all references': dict(reference='mean'),
    'needs amounts': dict(reference='strongest', features='phi', distance='cosine', references=images(2, 'two')),
    'there are 1': dict(distance='l2', references=images(1, 'one')),
}


@pytest.mark.parametrize('said', REFUSED)
def test_combinations_that_are_refused(pca, said):
    with pytest.raises(UserError) as e: SFSL(pca, **REFUSED[said])
    assert said in str(e.value)


def test_phi_needs_the_mean_over_all_classes(pca):
    bare = NeuralPCA.fit(pca.encoder, images(12, 'class'), target=1)
    with pytest.raises(UserError, match='fit the PCA with all_images'): SFSL(bare, features='phi', distance='cosine')


@pytest.mark.parametrize('kind, expected', [('epsilon', lambda snr: snr.clamp(max=5)/snr),
                                            ('v_prediction', lambda snr: snr.clamp(max=5)/(snr + 1)),
                                            ('sample', lambda snr: snr.clamp(max=5))])
def test_min_snr_weights(kind, expected):
    scheduler, t = DDIMScheduler(prediction_type=kind), torch.arange(1, 1000, 37)
    a = scheduler.alphas_cumprod[t]
    assert min_snr_weights(scheduler, t).numpy() == pytest.approx(expected(a/(1 - a)).numpy(), rel=5e-3)


def test_flow_matching_has_no_min_snr_weights():
    flow = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(UserError, match='leave snr_gamma at 0'): min_snr_weights(flow, flow.timesteps[:2])


def test_weights_and_halves():
    pred, target = torch.zeros(8, 1, 2, 2), torch.arange(8.).view(8, 1, 1, 1).expand(-1, -1, 2, 2)
    losses = diffusion_loss(pred, target)
    assert losses.tolist() == [i*i for i in range(8)]
    assert diffusion_loss(pred, target, weights=torch.eye(8)[3]).tolist() == [0, 0, 0, 9, 0, 0, 0, 0]
    assert prior_split(losses, 8)[0] == losses.mean()
    assert prior_split(losses, 2, .5)[0] == losses[:2].mean() + .5*losses[2:].mean()
