"""Correcting for batches: formulas against plain ones, what is taken away and what stays, and other cells."""

import numpy as np
import pytest

from sccafm.embedding import batches
from sccafm.embedding.batches import RIDGE, correct, evenness, fit_round, ridge, unit


@pytest.fixture
def cells():
    """300 cells of three states and two batches of other shares of them; batches differ by a shift, and more so in state 2."""
    rng = np.random.default_rng(0)
    codes = np.arange(300) % 2
    state = np.where(rng.random(300) < np.where(codes == 0, 0.7, 0.2), 0, 1 + rng.integers(0, 2, 300))
    x = 4 * np.eye(3, 12)[state] + rng.normal(0, 0.3, (300, 12))
    x[:, 5] += 3 * codes
    x[:, 6] += 2 * codes * (state == 2)
    return x, codes, state


def found_in_other_batch(x, codes, state):
    """Share of cells whose nearest cell of another batch is of their state."""
    near = np.where(codes[:, None] == codes, -np.inf, x @ x.T).argmax(1)
    return (state[near] == state).mean()


def test_batches_of_a_state_meet_and_states_stay_apart(cells):
    x, codes, state = cells
    moved, _ = correct(x, codes, np.arange(300))
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1)
    before = unit(x)
    for k in range(3):
        gap = [
            np.linalg.norm(rows[(state == k) & (codes == 0)].mean(0) - rows[(state == k) & (codes == 1)].mean(0))
            for rows in (before, moved)
        ]
        assert gap[1] < 0.5 * gap[0]
    means = np.stack([moved[state == k].mean(0) for k in range(3)])
    assert (means @ means.T)[np.triu_indices(3, 1)].max() < 0.5
    assert found_in_other_batch(moved, codes, state) > 0.98


def test_the_ridge_is_that_of_a_regression_on_batches():
    rng = np.random.default_rng(1)
    codes, weight, x = rng.integers(0, 3, 40), rng.random(40), rng.normal(size=(40, 4))
    batch = np.eye(3)[codes]
    held = (weight[:, None] * batch).sum(0)
    sums = np.einsum("i,ib,iw->bw", weight, batch, x)
    design = np.hstack([np.ones((40, 1)), batch])
    plain = np.linalg.solve(
        design.T @ (weight[:, None] * design) + np.diag([0, RIDGE, RIDGE, RIDGE]), design.T @ (weight[:, None] * x)
    )
    np.testing.assert_allclose(ridge(sums[:, None], held[:, None])[:, 0], plain[1:], atol=1e-10)


def test_clusters_are_drawn_to_hold_all_batches():
    assert evenness(np.array([[4.0, 4.0]]), np.array([0.5, 0.5])) == pytest.approx(1)
    assert evenness(np.array([[8.0, 0.0]]), np.array([0.5, 0.5]))[0] == pytest.approx([5 / 9, 5.0])


def test_a_shift_of_one_batch_alone_parts_no_cluster(cells):
    x, codes, _ = cells
    batch = np.eye(2)[codes]
    by_batch = np.eye(2)[codes] * 0.98 + 0.01  # clusters that are the batches, to begin with
    found = fit_round(unit(x), unit(x), batch, by_batch, np.random.default_rng(0))
    held = found.shares(unit(x), codes).T @ batch
    assert (held.min(1) / held.sum(1)).max() > 0.05


def test_cells_outside_the_pool_are_moved_alike(cells, monkeypatch):
    x, codes, state = cells
    monkeypatch.setattr(batches, "BLOCK", 64)
    twice, pool = np.concatenate([x, x]), np.arange(300)
    moved, _ = correct(twice, np.concatenate([codes, codes]), pool)
    np.testing.assert_allclose(moved[:300], moved[300:])
    np.testing.assert_allclose(moved[:300], correct(x, codes, pool)[0])
    np.testing.assert_array_equal(correct(x, codes, pool, seed=3)[0], correct(x, codes, pool, seed=3)[0])


def test_a_batch_that_the_pool_does_not_hold_stays_where_it_is(cells):
    x, codes, _ = cells
    codes = np.where(np.arange(300) >= 290, 2, codes)
    moved, _ = correct(x, codes, np.arange(290))
    np.testing.assert_allclose(moved[290:], unit(x[290:]))


def test_other_cells_are_one_more_batch(cells):
    x, codes, state = cells
    _, clusters = correct(x, codes, np.arange(300))
    new = x[:100] + 2 * np.eye(12)[8]
    moved = clusters.corrected(new)
    means = np.stack([correct(x, codes, np.arange(300))[0][state == k].mean(0) for k in range(3)])

    def gap(rows):
        return np.linalg.norm(rows - means[state[:100]], axis=1).mean()

    assert gap(moved) < 0.7 * gap(unit(new))
    alone = clusters.corrected(new[:1])
    assert np.linalg.norm(alone - unit(new[:1])) < np.linalg.norm(moved[:1] - unit(new[:1]))


def test_copies_of_few_cells_are_no_trouble():
    x = np.repeat(np.eye(4)[:2], 60, axis=0)
    moved, _ = correct(x, np.arange(120) % 2, np.arange(120))
    np.testing.assert_allclose(moved, x, atol=1e-6)
