"""Ranking metrics against scikit-learn, plain loops and brute force over orders of ties."""

import time
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from sccafm.evaluate import auroc, average_precision, early_precision
from sccafm.evaluate.metrics import Judge, Ranking, bootstrap_counts, p_value, resampled_metrics


@st.composite
def rankings(draw):
    """Labels of both classes and scores with many ties."""
    labels = draw(st.lists(st.booleans(), min_size=2, max_size=60).filter(lambda x: 0 < sum(x) < len(x)))
    scores = draw(st.lists(st.integers(-4, 4), min_size=len(labels), max_size=len(labels)))
    return np.array(labels), np.array(scores, dtype=float)


@settings(deadline=None)
@given(rankings())
def test_metrics_equal_scikit_learn(case):
    labels, scores = case
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=2, max_size=6))
def test_early_precision_is_the_mean_over_all_orders_of_ties(pairs):
    labels, scores = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs], dtype=float)
    k = labels.sum()
    if not 0 < k < len(labels):
        return
    orders = [p for p in permutations(range(len(labels))) if all(np.diff(scores[list(p)]) <= 0)]
    expected = np.mean([labels[list(p)][:k].mean() for p in orders])
    assert early_precision(labels, scores) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(rankings(), st.randoms(use_true_random=False))
def test_order_of_candidates_does_not_matter(case, random):
    labels, scores = case
    order = random.sample(range(len(labels)), len(labels))
    for metric in (auroc, average_precision, early_precision):
        assert metric(labels, scores) == pytest.approx(metric(labels[order], scores[order]), abs=1e-12)


def test_blocks_equal_one_ranking_each():
    rng = np.random.default_rng(0)
    blocks, labels = rng.integers(7, size=500), rng.random(500) < 0.3
    scores = rng.integers(9, size=500).astype(float)
    ranking = Ranking.of(scores, blocks, 8)  # block 7 is empty
    for b in range(7):
        own = blocks == b
        assert ranking.auroc(labels)[b] == pytest.approx(auroc(labels[own], scores[own]))
        assert ranking.average_precision(labels)[b] == pytest.approx(average_precision(labels[own], scores[own]))
        assert ranking.early_precision(labels)[b] == pytest.approx(early_precision(labels[own], scores[own]))
    assert np.isnan(ranking.auroc(labels)[7])
    assert list(ranking.positives(labels)) == list(np.bincount(blocks, labels, minlength=8))


def test_unscored_edges_rank_last():
    labels = np.array([True, False, True, False])
    assert auroc(labels, [3.0, 2.0, -np.inf, -np.inf]) == roc_auc_score(labels, [3, 2, 0, 0])


def test_resampling_equals_repeating_the_candidates():
    rng = np.random.default_rng(1)
    groups, labels = rng.integers(6, size=300), rng.random(300) < 0.2
    scores = rng.integers(25, size=300).astype(float)
    counts = bootstrap_counts(6, 40, rng)
    found = np.array(resampled_metrics(Ranking.of(scores), labels, groups, counts))
    for draw, (precision, early, density) in zip(counts, found.T, strict=True):
        again = np.repeat(np.arange(300), draw[groups])
        assert precision == pytest.approx(average_precision_score(labels[again], scores[again]), abs=1e-9)
        assert early == pytest.approx(early_precision(labels[again], scores[again]), abs=1e-9)
        assert density == pytest.approx(labels[again].mean())


def test_resampling_without_a_true_candidate_is_nan():
    labels, groups = np.array([True, False, False, False]), np.array([0, 0, 1, 1])
    counts = np.array([[0, 2], [1, 1]])
    precision, early, density = resampled_metrics(Ranking.of(np.array([4.0, 3, 2, 1])), labels, groups, counts)
    assert np.isnan([precision[0], early[0], density[0]]).all()
    assert (precision[1], early[1], density[1]) == (1.0, 1.0, 0.25)


def test_judge_means_null_and_interval():
    rng = np.random.default_rng(2)
    blocks = np.repeat(np.arange(12), 80)
    labels = rng.random(960) < np.repeat(np.linspace(0.02, 0.6, 12), 80)
    options = {"min_positives": 10, "min_negatives": 10, "n_bootstrap": 100, "n_permutations": 100, "random_state": 0}
    judge = Judge.of(labels, blocks, **options)
    scores = labels + rng.normal(size=960)
    found = judge.score(scores)
    each = [roc_auc_score(labels[blocks == b], scores[blocks == b]) for b in np.flatnonzero(judge.is_scored)]
    assert found.row["auroc"] == pytest.approx(np.mean(each))
    assert found.row["auroc_low"] < found.row["auroc"] < found.row["auroc_high"]
    assert found.row["auroc_null"] == pytest.approx(0.5, abs=0.02)
    assert found.row["auroc_p"] == pytest.approx(1 / 101)
    assert found.row["auprc_ratio"] == pytest.approx(average_precision_score(labels, scores) / labels.mean())
    per_block = judge.permuted.reshape(100, 12, 80).sum(axis=2)
    assert (per_block == np.bincount(blocks, labels)).all()  # a permutation keeps every out-degree
    again = Judge.of(labels, blocks, **options).score(scores)
    assert again.row == found.row


def test_degrees_keep_their_pooled_ratio_under_the_null():
    """Permuting targets within regulators does not touch what a list of hubs knows."""
    rng = np.random.default_rng(3)
    blocks, degree = np.repeat(np.arange(10), 100), np.repeat(np.linspace(0.05, 0.7, 10), 100)
    judge = Judge.of(
        rng.random(1000) < degree, blocks,
        min_positives=1, min_negatives=1, n_bootstrap=0, n_permutations=20, random_state=0,
    )  # fmt: skip
    row = judge.score(degree).row
    assert row["auroc"] == pytest.approx(0.5)
    assert row["auprc_ratio"] > 1.3
    assert row["auprc_ratio_null"] == pytest.approx(row["auprc_ratio"])
    assert np.isnan(row["auroc_low"])


def test_p_value_counts_ties_and_itself():
    assert p_value(1.0, np.array([0.0, 1.0, 2.0])) == 0.75
    assert np.isnan(p_value(1.0, np.array([])))


def test_a_million_edges_rank_in_seconds():
    rng = np.random.default_rng(4)
    labels, scores = rng.random(1_000_000) < 0.05, rng.random(1_000_000)
    begin = time.perf_counter()
    auroc(labels, scores), average_precision(labels, scores), early_precision(labels, scores)
    assert time.perf_counter() - begin < 10


@pytest.mark.parametrize("metric", [auroc, average_precision, early_precision])
def test_validation(metric):
    with pytest.raises(ValueError, match="one length"):
        metric([True, False], [1.0])
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        metric([True, False], [1.0, np.nan])
    with pytest.raises(ValueError, match="2 true among 2"):
        metric([True, True], [1.0, 2.0])
    with pytest.raises(ValueError, match="0 true among 2"):
        metric([0, 0], [1.0, 2.0])
