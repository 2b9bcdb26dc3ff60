"""The protocol `original` against a second implementation of the released evaluation, written from its description.

It shares no line with the package: Pillow resizes, numpy crops and normalizes, scikit-learn computes the score.
"""
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from timm.data import ImageNetInfo

from spurnb.audit.zoo import load_judge
from spurnb.core import save_png
from spurnb.photos.folders import FolderImages
from spurnb.report.spurious_score import feature_scores, published_scores

FIREBOAT, MEAN, STD = 554, (.4, .45, .5), (.2, .25, .3)


def photograph(width, height, seed):
    "An image that changes slowly and is different at every place."
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def squeezed(image, side): return image.resize((side, side), Image.Resampling.BICUBIC)


def cropped(image, side):
    "The short side to the floor of 256/224 of the size, then the middle."
    w, h = image.size
    short = int(256/224*side)
    w, h = (short, int(short*h/w)) if w < h else (int(short*w/h), short)
    left, top = round((w - side)/2), round((h - side)/2)
    return image.resize((w, h), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))


@torch.no_grad()
def outputs(model, images):
    pixels = np.stack([np.asarray(i) for i in images])/255
    x = torch.tensor((pixels - MEAN)/STD, dtype=torch.float32).permute(0, 3, 1, 2)
    return model(x)


@pytest.fixture
def photographs(tmp_path):
    "Square images of a feature, as in the archive, and images of the class as they come."
    sets = dict(feature=[photograph(s, s, s) for s in (420, 300, 333, 129)],
                boats=[photograph(w, h, w + h) for w, h in ((500, 375), (375, 500), (330, 329), (130, 400), (9, 9))])
    for name, images in sets.items():
        for i, image in enumerate(images): save_png(tmp_path/name/f'{i}.png', image)
    return sets, {name: FolderImages(sorted((tmp_path/name).iterdir())) for name in sets}


@pytest.mark.parametrize('classes, sizes, side', [
    (1000, dict(input_size=(3, 64, 64), test_input_size=(3, 115, 115)), 115), # 256/224 of it is 131.4
    (1000, dict(input_size=(3, 96, 96), test_input_size=None), 96), # 109.7, which is not 110
    (21841, dict(input_size=(3, 64, 64), test_input_size=(3, 80, 80)), 80),
], ids=['test_size', 'one_size', '21k'])
def test_equals_the_released_code(classes, sizes, side, photographs, tmp_path):
    "Logit for logit, and in the score, for another size at test time and for a head of ImageNet-21k."
    torch.manual_seed(0)
    overlay = sizes | dict(mean=MEAN, std=STD, crop_pct=.9, test_crop_pct=1., interpolation='bilinear')
    model = timm.create_model('test_resnet', num_classes=classes, pretrained_cfg_overlay=overlay)
    torch.nn.init.normal_(model.fc.weight, std=.4)
    timm.models.save_for_hf(model.eval(), str(tmp_path/'model'), safe_serialization=True)
    (seen, boats), files = photographs[0].values(), photographs[1]
    theirs = [outputs(model, [squeezed(i, side) for i in seen]), outputs(model, [cropped(i, side) for i in boats])]

    judge = load_judge(str(tmp_path/'model'), protocol='original')
    ours = [judge.logits(files['feature']).numpy(), judge.on_class.logits(files['boats']).numpy()]
    place, known = FIREBOAT, list(range(1000))
    if classes > 1000: # the released list of 21,841 WordNet ids is timm's; it lacks class 850
        outputs_of = {wordnet_id: i for i, wordnet_id in enumerate(ImageNetInfo('imagenet-22k').label_names())}
        known = [outputs_of.get(wordnet_id) for wordnet_id in ImageNetInfo().label_names()]
        place, teddy = known[FIREBOAT], known.index(None)
        rest = sorted(set(range(classes)) - set(known))
        ours, known = [np.delete(x, teddy, 1) for x in ours], [k for k in known if k is not None] + rest
    for mine, other in zip(ours, theirs): assert np.abs(mine - other[:, known].numpy()).max() < 1e-4

    p, p_class = (x.softmax(1)[:, place].numpy() for x in theirs)
    [row] = feature_scores([judge], FIREBOAT, files['feature'], files['boats'])
    truth = [1]*len(p_class) + [0]*len(p)
    assert row['ap'] == pytest.approx(average_precision_score(truth, np.concatenate([p_class, p])), abs=1e-6)
    assert row['rate'] == pytest.approx((theirs[0].argmax(1) == place).float().mean().item())


def test_published_names_are_timms():
    "Each published row names a weight of timm with the size and the head that the numbers belong to."
    table = published_scores().set_index('model')
    about = {row.name: timm.get_pretrained_cfg(row['name']) for _, row in table.iterrows() if row['name']}
    assert len(about) == len(table) - 1 # their own encoder is not in timm
    sizes = {name: (c.test_input_size or c.input_size)[1] for name, c in about.items()}
    assert list(sizes.values()) == [288, 288, 288, 288, 384, 224]
    assert about['BEiTv2-L 21k'].num_classes == 21841 and table.top1.isna().sum() == 1
    for name in table['name'][table['name'] != '']: assert name in timm.list_models(pretrained=True)
