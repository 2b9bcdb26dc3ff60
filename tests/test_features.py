"Neural PCA: batches and loaders give what one tensor gives, the identity holds in float64, and bad input is named."

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, TensorDataset

from spurnb.core import UserError, generator
from spurnb.data import mini_class_images, mini_references
from spurnb.encoders import Encoder, load_encoder, small_resnet
from spurnb.features import Evidence, NeuralPCA, choose_components, data_hash
from spurnb.world.scenes import CLASSES


@pytest.fixture(scope='module')
def encoder(): return load_encoder('mini')


@pytest.fixture(scope='module')
def images(): return mini_class_images('fireboat', 150)


@pytest.fixture(scope='module')
def pca(encoder, images): return NeuralPCA.fit(encoder, images, target=4)


def parts(pca, psi):
    "Return the logit as the sum of its parts."
    return pca.bias + pca.mean.sum() + pca.alpha_from_psi(psi).sum(1) + pca.rest_from_psi(psi)


@pytest.mark.parametrize('n, D', [(300, 20), (20, 300)])
def test_the_identity_is_exact_in_float64(n, D):
    made = torch.randn(n + 50, D, generator=generator(0, n, D), dtype=torch.float64) * torch.linspace(3, .1, D)
    pca = NeuralPCA.from_psi(made[:n], bias=1.5)
    assert parts(pca, made).numpy() == pytest.approx((1.5 + made.sum(1)).numpy(), abs=1e-10)
    assert pca.eigenvalues.sum().item() == pytest.approx(made[:n].var(0).sum().item(), abs=1e-9)
    assert torch.allclose(pca.components.T @ pca.components, torch.eye(len(pca.eigenvalues)).double(), atol=1e-10)


@pytest.mark.parametrize('n, D', [(300, 20), (20, 300)])
def test_components_are_orthonormal_even_without_rank(n, D):
    made = torch.randn(n, D, generator=generator(0, n, D), dtype=torch.float64)
    u = NeuralPCA.from_psi(torch.cat([made, made]) if n < D else made[:, :1].expand(-1, D)).components
    assert torch.allclose(u.T @ u, torch.eye(u.shape[1]).double(), atol=1e-10)


def test_batches_in_any_order_give_what_all_rows_give():
    "Also where the mean is a million times the spread."
    spread = torch.linspace(1, 3, 30)
    far = 1e6 + torch.randn(500, 30, generator=generator(0, 'far'), dtype=torch.float64) * spread
    evidence = Evidence()
    for some in far.flip(0).split([7, 200, 1, 92, 200]): evidence.add(some)
    assert not evidence.rows or len(evidence.rows) < 30
    found, values = evidence.axes(), np.linalg.eigvalsh(np.cov(far.numpy().T))[::-1]
    assert found['eigenvalues'].numpy() == pytest.approx(values, rel=1e-8)
    assert found['mean'].numpy() == pytest.approx(far.mean(0).numpy(), abs=1e-6)


def test_a_loader_over_all_classes_gives_what_the_class_alone_gives(encoder):
    everything = torch.cat([mini_class_images(c, 60) for c in CLASSES])
    labels = torch.arange(len(CLASSES)).repeat_interleave(60)
    loader = DataLoader(TensorDataset(everything, labels), batch_size=64, shuffle=True, generator=generator(0, 'mix'))
    ours, own = NeuralPCA.fit(encoder, loader, target=4), everything[labels == 4]
    same = NeuralPCA.fit(encoder, own, target=4, all_images=everything)
    assert torch.allclose(ours.eigenvalues, same.eigenvalues, atol=1e-5)
    assert (ours.n, ours.data) == (60, data_hash(own.flip(0)))
    with torch.no_grad(): mean = encoder.phi(everything).mean(0)
    assert torch.allclose(same.phi_mean, mean, atol=1e-5)


def test_the_identity_holds_from_pixels_to_logit_in_float64(images):
    sharp = load_encoder('mini').double()
    pca, new = NeuralPCA.fit(sharp, images.double(), target=4), mini_references('fireboat').images.double()
    with torch.no_grad(): assert torch.allclose(parts(pca, pca.psi(new)), sharp(new)[:, 4], atol=1e-10)


WRONG_PSI = {
    'given 1 image(s)': lambda psi: psi[:1],
    '(224,)': lambda psi: psi[0],
    'NaN': lambda psi: psi.where(psi != psi.max(), torch.nan),
}


@pytest.mark.parametrize('said', WRONG_PSI)
def test_evidence_that_makes_no_pca(pca, images, said):
    with torch.no_grad(): psi = pca.psi(images[:20])
    with pytest.raises(UserError) as e: NeuralPCA.from_psi(WRONG_PSI[said](psi))
    assert said in str(e.value)


WRONG_IMAGES = {
    'there is no class number 12: the encoder knows 12': (lambda x: x, 12),
    'no image of class number 4; give at least 2': (lambda x: x[:0], 4),
    'given 1 image(s)': (lambda x: x[:1], 4),
    'in [0,1]': (lambda x: x*255, 4),
    '(4, 1, 64, 64)': (lambda x: x[:4, :1], 4),
    'more than one pixel': (lambda x: x[..., :1, :1], 4),
    'nan': (lambda x: x[:4]*torch.nan, 4),
    'is a str': (lambda x: ['a.png', 'b.png'], 4),
    '(3, 64, 64)': (lambda x: x[0], 4),
    'images are a int': (lambda x: 3, 4),
}


@pytest.mark.parametrize('said', WRONG_IMAGES)
def test_images_that_make_no_pca(encoder, images, said):
    change, target = WRONG_IMAGES[said]
    with pytest.raises(UserError) as e: NeuralPCA.fit(encoder, change(images), target=target)
    assert said in str(e.value)


def test_a_file_belongs_to_one_encoder_and_one_set_of_images(pca, images, encoder, tmp_path):
    file = tmp_path/'pca.safetensors'
    pca.save(file)
    cases = {'another encoder': (Encoder(small_resnet(6)), None), 'from other images': (encoder, data_hash(images[1:]))}
    for said, (other, data) in cases.items():
        with pytest.raises(UserError) as e: NeuralPCA.load(file, other, data=data)
        assert said in str(e.value)
    (tmp_path/'half.safetensors').write_bytes(file.read_bytes()[:999])
    for name, said in (('half', 'damaged'), ('none', 'there is no neural PCA')):
        with pytest.raises(UserError) as e: NeuralPCA.load(tmp_path/f'{name}.safetensors', encoder)
        assert said in str(e.value)


@pytest.mark.parametrize('record', ['{"bias": ', '[1]', '{"n": 1}'])
def test_a_file_with_a_damaged_record_is_refused(record, tmp_path):
    tensors = dict(mean=torch.zeros(3), components=torch.eye(3), eigenvalues=torch.ones(3))
    save_file(tensors, tmp_path/'pca.safetensors', metadata=dict(pca=record))
    with pytest.raises(UserError, match='is damaged, it lacks'): NeuralPCA.load(tmp_path/'pca.safetensors')


def test_choices_that_cannot_be_made(pca, images):
    references, others = mini_references('fireboat').images, mini_references('koala').images
    with pytest.raises(UserError, match='there is no reference'): choose_components(pca, images[:0], images, others)
    with pytest.raises(UserError, match='n is 500'): choose_components(pca, references, images, others, n=500)
    with pytest.raises(UserError, match='no component 224'): pca.known([0, 224])
    with pytest.raises(UserError, match='has no encoder'): NeuralPCA.from_psi(torch.randn(5, 3)).psi(images)


class Numbers: # an "encoder" of images that are a row of numbers
    @staticmethod
    def phi(x): return x.flatten(1)


def numbers(n, means, spreads, seed):
    g = torch.Generator().manual_seed(seed)
    return (torch.tensor(means) + torch.tensor(spreads)*torch.randn(n, len(means), generator=g))[..., None, None]


def test_a_component_that_references_reach_half_is_the_object_s():
    "The object's component has the larger contrast, but class images have far more of it: the context's is chosen."
    of_class = numbers(400, (10., 2.), (3., 1.), 0)
    references, others = numbers(8, (3., 1.8), (.5, .5), 1), numbers(60, (0., 0.), (.5, .5), 2)
    pca = NeuralPCA.from_psi(of_class.flatten(1), weight=torch.ones(2), encoder=Numbers)
    found = choose_components(pca, references, of_class, others)
    assert found['chosen'] == [1] and found['contrast'][0] > found['contrast'][1]
    assert found['reach'][0] < .5 < found['reach'][1]
    assert found['object'] == [0] and "the object's" in found['why'][0]
    small = choose_components(pca, references, of_class, others, large=.95) # too little of the logit to be the object's
    assert small['chosen'] == [1] and small['object'] == [] and 'less than 50% is reached' in small['why'][0]
    assert choose_components(pca, references, of_class, others, reach=0.)['chosen'] == [0]
    assert 'have, the one with the largest difference' in found['rule'] # a sentence of the report
    two = choose_components(pca, references, of_class, others, n=2)
    assert 'have, the 2 with the largest difference' in two['rule']
    assert choose_components(pca, references, of_class, others, least=.9)['chosen'] == [0] # no other carries enough


def test_one_reference_is_enough_for_a_choice():
    of_class, others = numbers(100, (10., 2.), (3., 1.), 0), numbers(60, (0., 0.), (.5, .5), 2)
    pca = NeuralPCA.from_psi(of_class.flatten(1), weight=torch.ones(2), encoder=Numbers)
    found = choose_components(pca, numbers(1, (.5, 2.), (0., 0.), 1), of_class, others)
    assert found['chosen'] == [1] and all(v == v for v in found['d'])
