"""The swap test against a slow loop over all swaps, and what it must be blind to."""

import time
from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sccafm.evaluate import swap as module
from sccafm.evaluate import swap_test
from sccafm.evaluate.swap import Swaps, on_scale

GENES = [f"G{i}" for i in range(40)]
REGULATORS = GENES[:7]


def plain(scores: pd.DataFrame, truth: set, excluded: set = frozenset()) -> tuple[float, int]:
    """Share of swaps won, and their number, by loops."""
    truth = {(i, j) for i, j in truth if i != j} - excluded
    won = []
    for (i, j), (k, l) in combinations(sorted(truth), 2):  # noqa: E741
        swapped = {(i, l), (k, j)}
        if i in (k, l) or j in (k, l) or swapped & (truth | excluded):
            continue
        gap = scores.loc[i, j] + scores.loc[k, l] - scores.loc[i, l] - scores.loc[k, j]
        won.append(0.5 if abs(gap) < 1e-9 else float(gap > 0))
    return float(np.mean(won)), len(won)


@pytest.fixture
def scores() -> pd.DataFrame:
    """Few values, so that many swaps tie."""
    return pd.DataFrame(np.random.default_rng(0).integers(4, size=(7, 40)).astype(float), REGULATORS, GENES)


@pytest.fixture
def truth(scores) -> set:
    keep = np.random.default_rng(1).random((7, 40)) < 0.1 + 0.1 * scores.to_numpy()
    return {(REGULATORS[i], GENES[j]) for i, j in np.argwhere(keep)}  # self-edges among them


def test_all_swaps_equal_plain_loops(scores, truth):
    found = swap_test(scores, truth)
    value, n = plain(scores, truth)
    assert (found.n_swaps, found.is_exact) == (n, True) and found.value == pytest.approx(value, abs=1e-12)
    assert found.n_true == len({(i, j) for i, j in truth if i != j})
    assert found.low < found.value < found.high


def test_excluded_edges_are_neither_true_nor_false(scores, truth):
    excluded = set(sorted(truth)[::3]) | {(r, "G20") for r in REGULATORS}
    found, (value, n) = swap_test(scores, truth, exclude=excluded), plain(scores, truth, excluded)
    assert found.n_swaps == n and found.value == pytest.approx(value, abs=1e-12)
    assert n < plain(scores, truth)[1]


def test_targets_bound_the_candidates(scores, truth):
    few = GENES[:15]
    found, (value, n) = swap_test(scores, truth, targets=few), plain(scores, {e for e in truth if e[1] in few})
    assert found.n_swaps == n and found.value == pytest.approx(value, abs=1e-12)


def test_a_sample_is_near_all_swaps_and_seeded(scores, truth):
    whole = swap_test(scores, truth)
    one, two = (swap_test(scores, truth, n_swaps=1000, random_state=3) for _ in range(2))
    assert one == two and not one.is_exact and one.n_swaps == 1000
    assert one.value == pytest.approx(whole.value, abs=0.05)
    assert swap_test(scores, truth, n_swaps=1000, random_state=4).value != one.value


@pytest.mark.parametrize("least_hits", [0.0, 1.0])
def test_every_swap_is_drawn_alike(monkeypatch, least_hits):
    """Whether swaps are found by trying pairs of edges or pairs of regulators."""
    monkeypatch.setattr(module, "LEAST_HITS", least_hits)
    rng = np.random.default_rng(2)
    is_true = rng.random((4, 14)) < 0.3 + 0.3 * rng.random((4, 1))
    is_false = ~is_true & (rng.random((4, 14)) < 0.8)
    whole = Swaps.of(is_true, is_false, 10**6, rng)
    drawn = Swaps.of(is_true, is_false, len(whole) - 1, rng)
    assert whole.is_exact and not drawn.is_exact and len(drawn) == len(whole) - 1 > 10

    def swaps(found: Swaps) -> list:
        ends = zip(found.i, found.j, found.k, found.l, strict=True)
        return [frozenset([(i, j), (k, l)]) for i, j, k, l in ends]  # noqa: E741

    assert len(set(swaps(whole))) == len(whole)
    often = Counter(swap for _ in range(600) for swap in swaps(Swaps.of(is_true, is_false, len(whole) - 1, rng)))
    assert set(often) == set(swaps(whole))
    counts, expected = np.array(list(often.values())), 600 * (len(whole) - 1) / len(whole)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_swaps_of_nested_targets_are_found():
    """Regulators whose targets hold each other's: hardly a pair of edges can be swapped."""
    rng = np.random.default_rng(3)
    is_true = np.arange(3000) < np.arange(100, 2900, 100)[:, None]
    is_true ^= rng.random(is_true.shape) < 0.001
    begin = time.process_time()
    swaps = Swaps.of(is_true, ~is_true, 10**6, rng)
    assert time.process_time() - begin < 5 and len(swaps) <= 10**6
    assert is_true[swaps.i, swaps.j].all() and is_true[swaps.k, swaps.l].all()
    assert not is_true[swaps.i, swaps.l].any() and not is_true[swaps.k, swaps.j].any()


@settings(deadline=None, max_examples=40)
@given(
    arrays(float, 7, elements=st.floats(-1e6, 1e6)),
    arrays(float, 40, elements=st.floats(-1e6, 1e6)),
    st.integers(0, 1000),
    st.sampled_from([np.float64, np.float32]),
)
def test_two_levels_score_one_half(regulator, target, seed, dtype):
    """Whatever the truth, a level of the regulator plus one of the target loses and wins nothing."""
    truth = {(REGULATORS[i], GENES[j]) for i, j in np.argwhere(np.random.default_rng(seed).random((7, 40)) < 0.3)}
    levels = pd.DataFrame((regulator[:, None] + target).astype(dtype), REGULATORS, GENES)
    assert swap_test(levels, truth).value == 0.5


@settings(deadline=None, max_examples=40)
@given(
    arrays(float, 7, elements=st.floats(1e-6, 1) | st.just(0.0)),
    arrays(float, 40, elements=st.floats(1e-6, 1) | st.just(0.0)),
    st.integers(0, 1000),
)
def test_products_of_levels_score_one_half_as_logarithms(regulator, target, seed):
    truth = {(REGULATORS[i], GENES[j]) for i, j in np.argwhere(np.random.default_rng(seed).random((7, 40)) < 0.3)}
    products = pd.DataFrame(np.outer(regulator, target), REGULATORS, GENES)
    assert swap_test(products, truth, scale="log").value == 0.5


def test_levels_added_to_scores_change_nothing(scores, truth):
    rng = np.random.default_rng(5)
    pairs = scores + rng.normal(size=scores.shape)
    popular = pairs + 10 * rng.normal(size=(7, 1)) + 10 * rng.normal(size=40)
    assert swap_test(popular, truth).value == pytest.approx(swap_test(pairs, truth).value, abs=1e-12)
    reverse = swap_test(-pairs, truth)
    assert reverse.value == pytest.approx(1 - swap_test(pairs, truth).value, abs=1e-12)


def test_the_truth_itself_wins_all_and_missing_edges_tie(truth):
    known = pd.DataFrame(-np.inf, REGULATORS, GENES)
    assert swap_test(known, truth).value == 0.5
    for i, j in truth:
        known.loc[i, j] = 1.0
    assert swap_test(known, truth).value == 1
    assert swap_test(known, truth, scale="rank").value == 1
    assert swap_test(known.replace(-np.inf, 0.0), truth, scale="log").value == 1


def test_scales():
    values, is_candidate = np.array([[0.5, -np.inf, 0.25]]), np.array([[True, True, False]])
    np.testing.assert_allclose(on_scale(values, "log", is_candidate), [[np.log(0.5), -np.inf, np.log(0.25)]])
    np.testing.assert_allclose(on_scale(values, "logit", is_candidate), [[0, -np.inf, np.log(1 / 3)]])
    np.testing.assert_allclose(on_scale(values, "rank", is_candidate), [[1.0, 0.5, -np.inf]])
    with pytest.raises(ValueError, match="reach from -1 to 2, and scale='log' needs 0 or more; take scale='rank'"):
        on_scale(np.array([[-1.0, 2.0]]), "log", np.ones((1, 2), bool))
    with pytest.raises(ValueError, match="scale='logit' needs 0 to 1"):
        on_scale(np.array([[0.0, 2.0]]), "logit", np.ones((1, 2), bool))
    with pytest.raises(ValueError, match="unknown scale 'ranks'"):
        on_scale(values, "ranks", is_candidate)


def test_the_bootstrap_draws_regulators():
    """A draw's share is that of the swaps between drawn regulators, each pair as often as both were drawn."""
    rng = np.random.default_rng(6)
    is_true, values = rng.random((5, 30)) < 0.3, rng.normal(size=(5, 30))
    swaps = Swaps.of(is_true, ~is_true, 10**6, rng)
    draws = np.array([[1, 1, 1, 1, 1], [2, 0, 3, 0, 0], [5, 0, 0, 0, 0]])
    value, drawn = swaps.score(values, draws)
    won = swaps.won(values)
    weight = draws[1][swaps.i] * draws[1][swaps.k]
    assert drawn[0] == pytest.approx(value) and drawn[1] == pytest.approx(np.average(won, weights=weight))
    assert np.isnan(drawn[2])  # one regulator alone has no swap


def test_nothing_to_swap_is_nan(scores):
    found = swap_test(scores, {("G0", "G9"), ("G0", "G10")})
    assert np.isnan([found.value, found.low]).all() and found.n_swaps == 0 and found.n_true == 2


def test_a_million_swaps_in_seconds():
    rng = np.random.default_rng(7)
    is_true, values = rng.random((200, 5000)) < 0.05, rng.random((200, 5000))
    begin = time.process_time()
    swaps = Swaps.of(is_true, ~is_true, 10**6, rng)
    value, _ = swaps.score(values, np.ones((200, 200)))
    assert len(swaps) == 10**6 and value == pytest.approx(0.5, abs=0.01)
    assert time.process_time() - begin < 5
