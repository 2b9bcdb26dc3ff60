"Scores, tests and intervals against scikit-learn, scipy and statsmodels, on random data with ties, empty sides and single images."
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from spurnb.audit import stats

metrics = pytest.importorskip('sklearn.metrics')
proportion = pytest.importorskip('statsmodels.stats.proportion')
raters = pytest.importorskip('statsmodels.stats.inter_rater')
tables = pytest.importorskip('statsmodels.stats.contingency_tables')
multitest = pytest.importorskip('statsmodels.stats.multitest')


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
        assert [ap, auc] == pytest.approx([f(y, s, sample_weight=np.r_[a, b]) for f in (metrics.average_precision_score, metrics.roc_auc_score)], abs=1e-12)


@pytest.mark.parametrize('p, q', [([], [.5]), ([.5], []), ([], [])])
def test_scores_without_one_side(p, q):
    "Not defined, for values and for intervals, instead of a number or a warning."
    assert all(map(math.isnan, stats.spurious_score(p, q).values()))
    mean, each = stats.score_intervals(np.empty((len(p), 3)), np.empty((len(q), 3)))
    assert len(each) == 3 and all(math.isnan(x) for one in (mean, *each) for interval in one.values() for x in interval)
    assert stats.measure(mean['ap'], len(q), 'no positives') == dict(value=None, low=None, high=None, n=len(q), why='no positives')


@pytest.mark.parametrize('seed', range(10))
def test_kappa(seed):
    rng = np.random.default_rng(seed)
    hits = rng.random((rng.integers(2, 50), rng.integers(2, 9))) < rng.random()
    if stats.why_no_kappa(hits): assert math.isnan(stats.fleiss_kappa(hits)[0])
    else: assert stats.fleiss_kappa(hits)[0] == pytest.approx(raters.fleiss_kappa(raters.aggregate_raters(hits.astype(int), n_cat=2)[0]), abs=1e-12)


@pytest.mark.parametrize('seed', range(10))
def test_rates_and_paired_tests(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 200))
    a, b = rng.random((2, n)) < rng.random()
    assert stats.wilson(a.sum(), n)[1:] == pytest.approx(proportion.proportion_confint(a.sum(), n, method='wilson'), abs=1e-12)
    both = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert stats.mcnemar(a, b)['p'] == pytest.approx(tables.mcnemar(both, exact=True).pvalue, abs=1e-12)
    theirs = proportion.confint_proportions_2indep(a.sum(), n, (rng.random(n) < .4).sum(), n, method='newcomb')
    rng = np.random.default_rng(seed); rng.integers(1, 200); rng.random((2, n)); rng.random()
    assert stats.paired_difference(a, rng.random(n) < .4, paired=False)[1:] == pytest.approx(theirs, abs=1e-9)
    p = rng.random(8)**3
    assert stats.holm(p) == pytest.approx(multitest.multipletests(p, method='holm')[1], abs=1e-12)
    assert stats.t_interval(p)[1:] == pytest.approx(scipy_stats.ttest_1samp(p, 0).confidence_interval(), abs=1e-12)


def test_large_samples_take_little_memory():
    "Resamples are drawn block by block: half a million images do not take gigabytes."
    import tracemalloc
    tracemalloc.start()
    value, low, high = stats.weighted_bootstrap(lambda c: c[:, :250_000].sum(1)/c.sum(1), 500_000, n=40)
    peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    assert low < value < high and peak < 200e6
