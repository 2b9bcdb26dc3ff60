"Compare scores, tests and intervals with scikit-learn, scipy and statsmodels, on random data with ties."
import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats as scipy_stats

from statsmodels.stats import inter_rater as raters, proportion

from spurnb.audit import stats
from spurnb.core import UserError

metrics = pytest.importorskip('sklearn.metrics')
some = np.ones((4, 3), bool)


@pytest.mark.parametrize('call, message', [
    (lambda: stats.hits(np.ones(4), 0), r'logits have shape \(4,\)'),
    (lambda: stats.hits(some, 3), 'the target is class 3'),
    (lambda: stats.hits(some, 0, topk=3), 'topk is 3; give a number from 1 to 2'),
    (lambda: stats.hits(some*np.nan, 0), 'logits of 4 of 4 images are not finite, first of image 0'),
    (lambda: stats.wilson(5, 4), 'there are 5 hits of 4'),
    (lambda: stats.bootstrap(np.mean, np.arange(5), groups=range(4)), '1 samples and 4 groups'),
    (lambda: stats.bootstrap(np.mean, (np.ones(5), np.ones(5)), groups=range(5)), '2 samples and 5 groups'),
    (lambda: stats.consistency(np.ones((0, 3))), r'hits have shape \(0, 3\)'),
    (lambda: stats.spurious_score([.5, np.nan], [.5]), '1 scores are not finite'),
    (lambda: stats.paired_difference(some, some[:3]), 'paired arms need the same seeds and judges'),
    (lambda: stats.mcnemar(some, some), 'give one judge on the same images'),
    (lambda: stats.mcnemar(some[:, 0], some[:2, 0]), 'give one judge on the same images'),
])
def test_refused(call, message):
    "Each message names the value, the expected one and the cure."
    with pytest.raises(UserError, match=message): call()


@pytest.mark.parametrize('hits, kappa', [
    (np.ones((64, 8)), None), (np.zeros((64, 8)), None), (some[:, :1], None), (np.ones((0, 8)), None),
    ([[1, 0], [0, 1]], -1.), ([[1, 1], [0, 0]], 1.),
])
def test_why_no_kappa(hits, kappa):
    "A kappa is undefined exactly where there is a reason."
    found = stats.fleiss_kappa(hits)[0]
    assert bool(stats.why_no_kappa(hits)) == math.isnan(found)
    if kappa is not None: assert found == pytest.approx(kappa)


@pytest.mark.parametrize('seed', range(20))
def test_scores(seed):
    rng = np.random.default_rng(seed)
    n, m, digits = rng.integers(1, 60), rng.integers(1, 60), int(rng.integers(0, 4)) # few digits: many ties
    p, q = rng.beta(4, 2, n).round(digits), rng.beta(2, 2, m).round(digits)
    y, s = np.r_[np.ones(n), np.zeros(m)], np.r_[p, q]
    found = stats.spurious_score(p, q)
    assert found['ap'] == pytest.approx(metrics.average_precision_score(y, s), abs=1e-12)
    assert found['auc'] == pytest.approx(metrics.roc_auc_score(y, s), abs=1e-12)
    assert found['auc'] == pytest.approx(scipy_stats.mannwhitneyu(p, q).statistic/(n*m), abs=1e-12)
    few, many = rng.multinomial(n, np.ones(n)/n, 5), rng.multinomial(m, np.ones(m)/m, 5)
    for ap, auc, a, b in zip(*stats.ap_auc(p, q, few, many), few, many):
        weights = np.r_[a, b]
        assert ap == pytest.approx(metrics.average_precision_score(y, s, sample_weight=weights), abs=1e-12)
        assert auc == pytest.approx(metrics.roc_auc_score(y, s, sample_weight=weights), abs=1e-12)


@pytest.mark.parametrize('p, q', [([], [.5]), ([.5], []), ([], [])])
def test_scores_without_one_side(p, q):
    "Values and intervals are undefined, instead of a number or a warning."
    assert all(map(math.isnan, stats.spurious_score(p, q).values()))
    mean, each = stats.score_intervals(np.empty((len(p), 3)), np.empty((len(q), 3)))
    assert len(each) == 3
    for one in (mean, *each):
        for interval in one.values(): assert all(map(math.isnan, interval))
    empty = dict(value=None, low=None, high=None, n=len(q), why='no positives')
    assert stats.measure(mean['ap'], len(q), 'no positives') == empty


@pytest.mark.parametrize('seed', range(10))
def test_kappa(seed):
    rng = np.random.default_rng(seed)
    hits = rng.random((rng.integers(2, 50), rng.integers(2, 9))) < rng.random()
    found = stats.fleiss_kappa(hits)[0]
    if stats.why_no_kappa(hits):
        assert math.isnan(found)
        return
    table, _ = raters.aggregate_raters(hits.astype(int), n_cat=2)
    assert found == pytest.approx(raters.fleiss_kappa(table), abs=1e-12)
    counts = rng.multinomial(len(hits), np.ones(len(hits))/len(hits), 20)
    for kappa, count in zip(stats.fleiss_kappa(hits, counts.astype(float)), counts): # weights are repeated rows
        drawn = np.repeat(table, count, axis=0)
        if drawn.any(0).all(): assert kappa == pytest.approx(raters.fleiss_kappa(drawn), abs=1e-12)
        else: assert math.isnan(kappa)


@pytest.mark.parametrize('seed', range(10))
def test_rates(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 200))
    a, b = rng.random(n) < rng.random(), rng.random(n) < .4
    theirs = proportion.proportion_confint(a.sum(), n, method='wilson')
    assert stats.wilson(a.sum(), n)[1:] == pytest.approx(theirs, abs=1e-12)
    theirs = proportion.confint_proportions_2indep(a.sum(), n, b.sum(), n, method='newcomb')
    assert stats.paired_difference(a, b, paired=False)[1:] == pytest.approx(theirs, abs=1e-9)
    p = rng.random(8)
    theirs = scipy_stats.ttest_1samp(p, 0).confidence_interval()
    assert stats.t_interval(p)[1:] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize('seed', range(10))
def test_paired_tests(seed):
    "McNemar is a fair coin on the images that differ; Holm multiplies by m, m-1, ... and never steps back."
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, int(rng.integers(1, 200)))) < rng.random()
    first, second = int((a & ~b).sum()), int((b & ~a).sum())
    coin = scipy_stats.binomtest(first, first + second).pvalue if first + second else 1.
    found = stats.mcnemar(a, b)
    assert (found['only_first'], found['only_second']) == (first, second)
    assert found['p'] == pytest.approx(coin, abs=1e-12)
    p, adjusted, least = rng.random(8)**3, np.empty(8), 0.
    for k, i in enumerate(np.argsort(p)):
        least = max(least, min(1, p[i]*(8 - k)))
        adjusted[i] = least
    assert stats.holm(p) == pytest.approx(adjusted, abs=1e-12)


def test_paired_tests_without_anything():
    assert stats.mcnemar([True], [True])['p'] == 1 and stats.mcnemar([], [])['p'] == 1
    assert len(stats.holm([])) == 0


def intervals(x):
    "Yield all (value, low, high) within what a statistic returns."
    if isinstance(x, dict): x = [*x.values()]
    if len(x) == 3 and all(np.ndim(v) == 0 and not isinstance(v, dict) for v in x): yield tuple(x)
    else:
        for one in x: yield from intervals(one)


STATISTICS = dict(
    mean_rate=lambda h, p: stats.mean_rate(h), next_judge=lambda h, p: stats.next_judge_rate(h),
    kappa=lambda h, p: stats.weighted_bootstrap(lambda c: stats.fleiss_kappa(h, c), len(h)),
    paired=lambda h, p: stats.paired_difference(h, h[::-1]),
    unpaired=lambda h, p: stats.paired_difference(h, h[:1], False),
    grouped=lambda h, p: stats.grouped_rate(h, range(len(h))),
    scores=lambda h, p: stats.score_intervals(p, p[:2]*.9), swapped=lambda h, p: stats.score_intervals(p[:1], p),
    mean=lambda h, p: stats.mean_interval(p.mean(1)), t=lambda h, p: stats.t_interval(p.mean(1)),
    bootstrap=lambda h, p: stats.bootstrap(np.mean, p),
    by_group=lambda h, p: stats.bootstrap(np.mean, p, range(len(p))),
    two=lambda h, p: stats.bootstrap(lambda a, b: a.mean() - b.mean(), (p, p[:2])))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('values', ['zero', 'one', 'constant', 'random'])
@pytest.mark.parametrize('judges', [1, 3])
@pytest.mark.parametrize('n', [0, 1, 2, 3, 9])
@pytest.mark.parametrize('name', [*STATISTICS])
def test_a_few_images_or_equal_ones(name, n, judges, values):
    "A value with an interval around it, a value without one, or no value; and each gap has its reason."
    p = dict(zero=np.zeros, one=np.ones, constant=lambda s: np.full(s, .3), random=np.random.default_rng(n).random)
    p = p[values]((n, judges))
    for value, low, high in intervals(STATISTICS[name](p > .5, p)):
        found = stats.measure((value, low, high), n, 'a reason')
        numbers = [found[k] for k in ('value', 'low', 'high')]
        assert all(x is None or math.isfinite(x) for x in numbers)
        known = [x is not None for x in numbers]
        assert known in ([True, True, True], [True, False, False], [False, False, False])
        assert ('why' in found) == (not all(known))
        if all(known): assert numbers[1] - 1e-9 <= numbers[0] <= numbers[2] + 1e-9
        if n in (1, 2, 3) and values == 'random' and all(known): assert numbers[1] < numbers[2]


@pytest.mark.parametrize('topk, expected', [(1, [True, False, False, False]), (2, [True, True, False, False])])
def test_a_tie_is_no_hit(topk, expected):
    "A network that answers the same for all classes is never fooled."
    logits = np.array([[2., 1, 0], [1, 1, 0], [1, 1, 1], [0, 1, 2]])
    assert stats.hits(logits, 0, topk).tolist() == expected
    assert stats.spurious_rate(np.zeros((5, 6)), 3) == 0


def test_large_samples_take_little_memory():
    "Resamples are made block by block: half a million images do not take gigabytes."
    tracemalloc.start()
    value, low, high = stats.weighted_bootstrap(lambda c: c[:, :250_000].sum(1)/c.sum(1), 500_000, n=40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert low < value < high and peak < 200e6


def next_to_one(draw, judges, agreement, seed, n=64):
    "Return hits (n, judges) and a further judge of the same kind: its rate over all images, and on these."
    rng = np.random.default_rng(seed)
    rates = draw(rng, judges + 1).clip(1e-6, 1 - 1e-6)
    evidence = agreement**.5*rng.standard_normal((n, 1)) + (1-agreement)**.5*rng.standard_normal((n, judges + 1))
    hits = evidence < scipy_stats.norm.ppf(rates)
    return hits[:, :-1], rates[-1], hits[:, -1].mean()


@pytest.mark.parametrize('judges, agreement', [(8, .2), (8, .8), (3, .4), (20, .4)])
@pytest.mark.parametrize('draw, least', [
    (lambda rng, k: rng.beta(2, 2, k), .94), (lambda rng, k: rng.beta(.5, .5, k), .93),
    (lambda rng, k: rng.beta(5, 5, k), .94), (lambda rng, k: rng.beta(1, 9, k), .94),
    (lambda rng, k: rng.beta(19, 1, k), .94), (lambda rng, k: np.full(k, .02), .94),
    (lambda rng, k: np.full(k, .5), .94)])
def test_the_next_judge_is_in_its_interval(draw, least, judges, agreement):
    "Nineteen times in twenty: the rate over all images, and also the rate that the same images give."
    inside = []
    for seed in range(400):
        hits, rate, here = next_to_one(draw, judges, agreement, seed)
        value, low, high = stats.next_judge_rate(hits)
        assert 0 <= low <= value <= high <= 1
        inside.append((low <= rate <= high, low - 1e-9 <= here <= high + 1e-9))
    assert np.mean(inside, 0).min() >= least


def test_more_judges_do_not_narrow_the_next_ones_interval():
    "That of the mean shrinks to nothing; one judge more is as far from it as ever."
    rng = np.random.default_rng(0)
    rates = rng.beta(2, 2, 200)
    hits = rng.random((64, 200)) < rates
    (_, low, high), (_, a, b) = stats.next_judge_rate(hits), stats.mean_rate(hits)
    assert b - a < .1 and high - low > .9*np.ptp(np.quantile(rates, [.025, .975]))


def test_the_next_judge_of_judges_without_a_hit():
    "0 of 64 is not never, and more images say more."
    upper = [stats.next_judge_rate(np.zeros((n, 8)))[2] for n in (64, 640)]
    assert .03 < upper[0] < .06 and 9 < upper[0]/upper[1] < 11
    assert stats.next_judge_rate(np.ones((64, 8)))[1] == pytest.approx(1 - upper[0])
