"What a run starts from: components published for the encoder of Spurious ImageNet's authors."

from dataclasses import replace

import pytest
import torch
from timm.models.resnet import Bottleneck, ResNet

from spurnb.core import UserError, save_png, to_tensor
from spurnb.encoders import AUTHORS_ENCODER, load_encoder
from spurnb.features import NeuralPCA
from spurnb.photos.spurious_imagenet import spurious_feature
from spurnb.run.material import describe_feature, photo_material
from spurnb.run.settings import settings_for
from spurnb.world.scenes import class_scenes, draw_scenes, reference_scenes


@pytest.fixture
def photographs(tmp_path):
    "References in the archive's layout, and images of the class."
    component = spurious_feature('hummingbird').labeled[0]
    archive = f'archive/images/spurious_class_94_hummingbird_{component}'
    for folder, scenes in (
        (archive, reference_scenes('hummingbird', 12, seed=1)),
        ('class', class_scenes('hummingbird', 12, seed=2)),
        ('others', class_scenes('koala', 12, seed=3)),
    ):
        for i, scene in enumerate(scenes): save_png(tmp_path/folder/f'{i}.png', scene.draw())
    return tmp_path, component


@pytest.mark.parametrize('name, published', [(AUTHORS_ENCODER, True), ('another.pt', False)])
def test_the_authors_encoder_brings_its_components(photographs, name, published):
    place, component = photographs
    torch.manual_seed(0)
    net = ResNet(Bottleneck, (1, 1, 1, 1), num_classes=1000, channels=(8, 8, 8, 16))
    torch.save(net.state_dict(), place/name) # nothing but the state dict
    settings = settings_for(
        'sd15', target='hummingbird', encoder=str(place/name), data=str(place/'archive'),
        other_images=str(place/'others'), class_images=str(place/'class'),
        references=dict(n=4, held_out=4), generate=dict(n=2), components=dict(n_class_images=12, n_other_images=8))
    encoder = load_encoder(settings.encoder)
    material = photo_material(settings, place/'run', encoder, 64, 'cpu')
    outcome = describe_feature(settings, place/'run', material, encoder, figures=False)[1]
    assert (outcome['rule'] == f'published for {AUTHORS_ENCODER}') == published
    if published: assert list(outcome['chosen']) == [component]


@pytest.mark.parametrize('record, said', [(None, 'has no components.json beside it'), ('[]', 'names no components'),
                                          ('{"rule": "?"}', 'names no components')])
def test_a_pca_without_a_choice_asks_for_one(photographs, record, said):
    place, _ = photographs
    encoder = load_encoder()
    pca = NeuralPCA.fit(encoder, to_tensor(draw_scenes(class_scenes('hummingbird', 12, seed=2))), target=0)
    pca.save(place/'pca.safetensors')
    if record: (place/'components.json').write_text(record)
    settings = settings_for(
        'sd15', target='hummingbird', encoder='robust.pt', data=str(place/'archive'),
        class_images=str(place/'pca.safetensors'), other_images=str(place/'others'),
        references=dict(n=4, held_out=4), generate=dict(n=2))
    material = photo_material(settings, place/'run', encoder, 64, 'cpu')
    material.target = replace(material.target, index=pca.target)
    with pytest.raises(UserError, match=said): describe_feature(settings, place/'run', material, encoder, figures=False)
