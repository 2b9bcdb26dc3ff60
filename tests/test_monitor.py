"Monitoring: what it refuses."
import pytest

from spurnb.core import UserError
from spurnb.train.monitor import Monitor, _ask, card_peak, load_probe


@pytest.mark.parametrize('wrong, said', [
    (dict(probe=len), 'also give validation_steps'),
    (dict(report_to=('tensorbord',)), "did you mean 'tensorboard'"),
    (dict(num_validation_images=0), 'num_validation_images is 0'),
    (dict(num_inference_steps=0), 'num_inference_steps is 0'),
    (dict(validation_steps=-1), 'validation_steps is -1')], ids=lambda x: str(x)[:40])
def test_monitors_that_are_refused(wrong, said):
    with pytest.raises(UserError, match=said): Monitor(**wrong)

@pytest.mark.parametrize('spec, said', [
    ('whiteness', 'give MODULE:FACTORY'),
    ('spurnb.core:whiteness', "no attribute 'whiteness'"),
    ('no.such:probe', 'No module named')])
def test_probes_that_are_not_there(spec, said):
    with pytest.raises(UserError, match=said): load_probe(spec, 'fireboat')

def test_a_probe_returns_a_dict():
    assert _ask(None, 1) == {} and _ask(lambda x: dict(a=2), 1) == {'probe/a': 2.}
    with pytest.raises(UserError, match='the probe returned float; it should return a dict'): _ask(lambda x: .5, 1)

@pytest.mark.parametrize('name, peak', [
    ('NVIDIA A100-SXM4-40GB', 312), ('Tesla T4', 65), ('NVIDIA L40S', 362), ('NVIDIA L4', 121),
    ('NVIDIA GeForce RTX 4090', 165), ('NVIDIA A10G', None), ('NVIDIA GeForce GTX 1080', None)])
def test_peaks_of_cards(name, peak): assert card_peak(name) == peak
