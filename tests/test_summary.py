"Sentences of the report that a notebook need not show: one table of cases per function."
import re

import pytest

from spurnb.report.summary import (
    answer, cautions, deciding, findings, headline, left_out, loss_note, safety_note, show, show_difference,
    text_report, text_table, why_not)


def measure(value, low=None, high=None, n=64):
    return dict(value=value, low=value if low is None else low, high=value if high is None else high, n=n)


def metrics(arms, differences=(), judges=('vit', 'nfnet'), **more):
    rates = {a: dict(spurious_rate=measure(r, max(0, r - .05), min(1, r + .05))) for a, r in arms.items()}
    classifiers = {j: {a: measure(r) for a, r in arms.items()} for j in judges}
    target = dict(name='fireboat', feature='water jet', prompted='white water jet')
    return dict(target=target, arms=rates, classifiers=classifiers, differences=dict(differences), **more)


HIGHER, LOWER, OPEN = measure(.2, .1, .3), measure(-.2, -.3, -.1), measure(.01, -.1, .12)


@pytest.mark.parametrize('arms, differences, said', [
    (dict(prompted=.4, dreambooth=.3, sfsl=.6), {'sfsl-prompted': HIGHER, 'sfsl-dreambooth': HIGHER},
     ', 20 points more than prompted, the strongest rival (+10 to +30).'),
    (dict(prompted=.3, dreambooth=.4, sfsl=.2), {'sfsl-prompted': LOWER, 'sfsl-dreambooth': LOWER},
     ', 20 points less than dreambooth, the strongest rival (-30 to -10).'),
    (dict(prompted=.6, sfsl=.6), {'sfsl-prompted': OPEN},
     '; the difference from prompted, the strongest rival, is undecided: +1 points (-10 to +12); '
     'about 7,700 more images per arm would decide it if it stays this large.'),
    (dict(images=.5, background=.02), {}, ', compared with 2% of bare backgrounds (0 to 7%).'),
    (dict(images=.5), {}, '(95% interval 45 to 55%).'),
    (dict(references=.5, sfsl=.6), {'sfsl-references': HIGHER}, '(95% interval 55 to 65%).'), # references are no rival
])
def test_the_answer_has_the_comparison_that_matters(arms, differences, said):
    sentence = answer(metrics(arms, differences))
    assert sentence.endswith(said) and sentence.startswith('On average over 2 classifiers, ')
    assert findings(metrics(arms, differences))[0] == sentence
    assert text_report(metrics(arms, differences)).splitlines()[0] == headline(metrics(arms, differences))


@pytest.mark.parametrize('arms, differences, said', [
    (dict(prompted=.4, sfsl=.6), {'sfsl-prompted': HIGHER},
     '60% of the sfsl images are called fireboat, 20 points more than prompted.'),
    (dict(prompted=.6, sfsl=.6), {'sfsl-prompted': OPEN},
     '60% of the sfsl images are called fireboat; the difference from prompted is undecided.'),
    (dict(images=.5, background=.02), {}, '50% of the images are called fireboat, and 2% of bare backgrounds.'),
    (dict(images=.5), {}, '50% of the images are called fireboat.')])
def test_the_headline_is_the_answer(arms, differences, said):
    assert headline(metrics(arms, differences)) == said


@pytest.mark.parametrize('m, said', [
    (measure(.05, -.05, .15), 'about 200 more images per arm'), # twice as precise: four times 64
    (measure(-.05, -.15, .05), 'about 200 more images per arm'),
    (measure(.05, 0, .1), 'about 1 more image per arm'),
    (measure(0, -.1, .1), 'it is zero'),
    (measure(.0001, -.1, .1), 'too small for any sensible number')])
def test_what_would_decide_a_difference(m, said):
    assert said in deciding(m)


def test_the_table_fits_80_columns():
    "At the widest: every value with a decimal in every place."
    found = metrics({a: .995 for a in ('references', 'other_context', 'sfsl')})
    for values in found['arms'].values():
        for m in ('spurious_rate', 'spurious_rate_valid', 'object_absent', 'feature_present', 'near_copies'):
            values[m] = measure(.995, .991, .998)
    lines = text_table(found).splitlines()
    assert max(map(len, lines)) <= 80 and '99.5 (99.1-99.8)' in lines[1]
    assert max(map(len, text_report(found).splitlines())) <= 80


@pytest.mark.parametrize('change, said', [
    (dict(judges=('vit',)), 'According to vit, 60% of the 64 images'),
    (dict(n=1), 'the only image is classified as fireboat in 60% of cases')])
def test_one_classifier_and_one_image(change, said):
    n = change.pop('n', 64)
    found = metrics(dict(images=.6), **change)
    found['arms']['images']['spurious_rate']['n'] = n
    assert said in answer(found)


def test_failing_images_stand_beside_the_valid_ones():
    "In the sentence and in the table; without such images, or in the numbers of an older version, nothing is said."
    found = metrics(dict(sfsl=.74))
    checks = dict(object_absent=measure(1), feature_present=measure(.36), spurious_rate_valid=measure(.76, .66, .84))
    found['arms']['sfsl'] |= checks
    alone = 'the rate on images that pass both checks is 76% (66 to 84%).'
    assert any(s.endswith(alone) for s in findings(found))
    found['arms']['sfsl']['spurious_rate_failing'] = dict(value=None, low=None, high=None, n=0, why='none fails')
    assert any(s.endswith(alone) for s in findings(found))
    found['arms']['sfsl']['spurious_rate_failing'] = measure(.73, .6, .8)
    both = alone.replace(').', '), and 73% (60 to 80%) on those that fail one.')
    assert any(s.endswith(both) for s in findings(found)) and both in ' '.join(text_report(found).split())
    head, row, *_ = text_table(found).splitlines()
    at = head.index('on failing')
    assert head.index('on valid') < at and row[at:].startswith('73 (60-80)')


@pytest.mark.parametrize('rates, said', [
    ((0, 0), 'All classifiers have the same rate, 0%.'),
    ((.001, .002), 'The classifiers range from 0.1% (a) to 0.2% (b).'),
    ((.301, .302), 'All classifiers have the same rate, 30%.')]) # equal as shown
def test_equal_ends_are_no_range(rates, said):
    found = metrics(dict(images=.5))
    found['classifiers'] = {j: dict(images=measure(r)) for j, r in zip('ab', rates)}
    assert said in findings(found)


@pytest.mark.parametrize('values, said', [
    (dict(), 'Nothing checked whether'),
    (dict(object_absent=measure(.7), feature_present=measure(1)), 'finds the object (fireboat) in 30% of the images'),
    (dict(object_absent=measure(1), feature_present=measure(.5)), 'Only 50% of the images show the feature'),
    (dict(object_absent=measure(1), near_copies=measure(.3, .2, .4)), 'near copies of a reference (20 to 40%)')])
def test_cautions(values, said):
    found = metrics(dict(images=.5))
    found['arms']['images'] |= values
    assert [said in c for c in cautions(found)] == [True]


@pytest.mark.parametrize('lost, said', [
    (dict(left_out={'resnet999': 'there is no such model.'}), ['resnet999 was left out: there is no such model.']),
    (dict(other_files=dict(held_out=dict(files=4, unreadable={'a.gif': 'empty'}))),
     ["1 of 4 files of the references cannot be read and was left out: 'a.gif' (empty)."]),
    (dict(files=dict(files=9, unreadable={f'{i}.png': 'empty' for i in range(7)})),
     ['7 of 9 files cannot be read and were left out: '
      + ', '.join(f"'{i}.png' (empty)" for i in range(5)) + ' and 2 more.']),
    (dict(files=dict(files=9, copies={'b.png': 'c.png', 'd.png': 'c.png'})),
     ["2 of 9 files are copies of others and count once: 'b.png' (of 'c.png'), 'd.png' (of 'c.png')."]),
    ({}, [])])
def test_what_was_left_out(lost, said):
    assert left_out(lost) == said


@pytest.mark.parametrize('m, text', [
    (measure(.5, .5, .5), ('50%', '50%')), (measure(1, .94, 1), ('100%', '94 to 100%')),
    (dict(value=.5, low=None, high=None), ('50%', '')), (None, ('not defined', ''))])
def test_show(m, text):
    assert show(m) == text


@pytest.mark.parametrize('m, text', [
    (measure(-.002, -.2, .1), ('-0.2 points', '-20 to +10')), (measure(0, -.004, .004), ('0 points', '-0.4 to +0.4')),
    (dict(value=.5, low=None, high=None), ('+50 points', '')), (None, ('not defined', ''))])
def test_show_difference(m, text):
    assert show_difference(m) == text


@pytest.mark.parametrize('m, why', [
    (None, ''), (measure(0), ''), (dict(value=None, n=0), 'there is no image to count'),
    (dict(value=None, n=3), 'it has no value on these images'), (dict(value=None, n=3, why='none'), 'none')])
def test_why_not(m, why):
    assert why_not(m) == why


@pytest.mark.parametrize('found, said', [
    (dict(), ''), (dict(safety_checker='', redrawn=dict(sfsl=0)), ''),
    (dict(safety_checker='off', redrawn=dict(untuned=0)), 'off; images that came out black .*: none'),
    (dict(safety_checker='on', redrawn=dict(untuned=0, prompted=3, sfsl=1)), 'on; .*: 3 of prompted, 1 of sfsl')])
def test_a_safety_checker_is_mentioned_if_there_is_one(found, said):
    assert re.fullmatch(said, safety_note(metrics(dict(sfsl=.5), **found)))


def test_an_arm_that_was_left_out_is_a_caution():
    lost = metrics(dict(untuned=.2), left_out_arms=dict(sfsl='image 3 came out black 10 times in a row.'))
    assert left_out(lost) == ['Arm sfsl was left out: image 3 came out black 10 times in a row.']
    assert left_out(lost)[0] in cautions(lost)


def test_the_loss_is_described_with_its_strength():
    loss = dict(distance='push', features='alpha', weight=1., ratio=.314)
    assert loss_note(metrics(dict(sfsl=.5), similarity_loss=loss)).startswith(
        "push of alpha in standard deviations of class images, times 1; "
        "at the network's output its gradient has 0.31 times")
    assert 'deviations' not in loss_note(metrics(dict(sfsl=.5), similarity_loss=loss | dict(distance='cosine')))
    assert loss_note(metrics(dict(sfsl=.5), similarity_loss=loss | dict(ratio=None))) == '' == loss_note(metrics({}))
