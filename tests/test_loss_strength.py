"How strong the similarity loss is beside the diffusion loss, in the log of every step."
import pytest, torch

from spurnb.encoders import Encoder, small_resnet
from spurnb.features import NeuralPCA
from spurnb.objective import SFSL
from spurnb.train.checkpoints import load_pipeline
from spurnb.train.settings import TrainSettings
from spurnb.train.trainer import Trainer
from tiny import tiny_folder


def first_step(folder, weight):
    "What the first step logs with this weight of the similarity loss."
    torch.manual_seed(0)
    images = torch.rand(16, 3, 32, 32)
    pca = NeuralPCA.fit(Encoder(small_resnet(3, (4, 4, 8, 8)), 32), images[:12], target=1)
    how = TrainSettings(instance_prompt='a sks', class_prompt='a', sfsl_weight=weight,
                        train_batch_size=2, prior_batch_size=2, num_class_images=2)
    return Trainer(load_pipeline(str(folder), 'cpu'), images[12:14], images[14:], how, SFSL(pca)).step(0)


def test_the_ratio_of_the_gradients_grows_with_the_weight(tiny_folder):
    once, thrice = (first_step(tiny_folder, weight) for weight in (1., 3.))
    assert once['sfsl_ratio'] > 0 and once['instance'] == thrice['instance']
    assert thrice['sfsl_ratio'] == pytest.approx(3*once['sfsl_ratio'], rel=1e-3)
    assert 'sfsl_ratio' not in first_step(tiny_folder, 0.), 'there is nothing to compare'
