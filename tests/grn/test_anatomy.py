"""Shares of variance against plain loops over an analysis of variance, and what must have none."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from making import made_grn

from sccafm.grn.anatomy import CELL_TERMS, FLOOR, PAIR_TERMS, anatomy, log_scores, two_lists_share


def plain(x: np.ndarray) -> dict[str, float]:
    """Three-way analysis of variance of C x T x G values, effect by effect, without the cells' own level."""
    x = x - x.mean((1, 2), keepdims=True)
    squares = dict.fromkeys((*PAIR_TERMS, *CELL_TERMS), 0.0)
    n_cells, n_rows, n_columns = x.shape
    for i in range(n_rows):
        for j in range(n_columns):
            row, column = x[:, i, :].mean(), x[:, :, j].mean()
            pair = x[:, i, j].mean() - row - column
            for c in range(n_cells):
                by_row = x[c, i, :].mean() - row
                by_column = x[c, :, j].mean() - column
                rest = x[c, i, j] - row - column - pair - by_row - by_column
                for term, effect in zip(squares, (row, column, pair, by_row, by_column, rest), strict=True):
                    squares[term] += effect**2
    return {term: square / np.sum(x**2) for term, square in squares.items()}


def test_cells_equal_plain_loops():
    rng = np.random.default_rng(0)
    x = (
        rng.normal(size=(6, 1, 1))
        + rng.normal(size=(1, 4, 1))
        + rng.normal(size=(1, 1, 9))
        + rng.normal(size=(1, 4, 9))
    )
    x = x + rng.normal(size=(6, 4, 1)) + rng.normal(size=(6, 1, 9)) + 0.3 * rng.normal(size=(6, 4, 9))
    expected = plain(x)
    found = anatomy(np.exp(x), floor=0)
    assert sum(expected.values()) == pytest.approx(1) and min(expected.values()) > 0.005
    assert found.to_dict() == pytest.approx(expected, abs=1e-12)
    assert anatomy(iter(np.exp(x)), floor=0).to_dict() == found.to_dict()


def test_one_network_equals_plain_loops():
    x = np.random.default_rng(1).normal(size=(5, 8)) + np.arange(8)
    found, expected = anatomy(pd.DataFrame(np.exp(x)), floor=0), plain(x[None])
    assert list(found.index) == list(PAIR_TERMS) and found.sum() == pytest.approx(1)
    assert found.to_dict() == pytest.approx({term: expected[term] for term in PAIR_TERMS})
    assert two_lists_share(x) == pytest.approx(found["regulator"] + found["target"])


def test_two_lists_have_no_pairs_and_copies_have_no_cells():
    rng = np.random.default_rng(2)
    lists = np.outer(rng.gamma(1.0, size=5) + 0.1, rng.gamma(1.0, size=7) + 0.1)
    assert anatomy(lists)["pair"] == pytest.approx(0, abs=1e-12)
    shares = anatomy(np.exp(rng.normal(size=(5, 7)))[None] * rng.gamma(1.0, size=(4, 1, 1)))
    assert shares[list(CELL_TERMS)].sum() == pytest.approx(0, abs=1e-12)  # a level of the cell counts nowhere
    of_cells = anatomy(lists[None] * rng.gamma(1.0, size=(4, 5, 1)) * rng.gamma(1.0, size=(4, 1, 7)))
    assert of_cells[["pair", "cell x pair"]].sum() == pytest.approx(0, abs=1e-12)
    assert of_cells[["cell x regulator", "cell x target"]].min() > 0.05


def test_zeros_are_raised_to_the_floor():
    scores = np.array([[0.0, 1.0], [1.0, 2.0]])
    assert log_scores(scores)[0, 0] == pytest.approx(np.log(FLOOR)) and log_scores(scores, 1e-2)[0, 0] == np.log(1e-2)
    assert (log_scores(scores)[scores > 0] == np.log(scores[scores > 0])).all()


def test_scale_changes_nothing_and_constant_scores_have_no_shares():
    scores = np.random.default_rng(3).gamma(0.5, size=(6, 5, 8)) * (np.random.default_rng(4).random((6, 5, 8)) < 0.7)
    assert anatomy(1e-6 * scores).to_dict() == pytest.approx(anatomy(scores).to_dict())
    assert anatomy(np.ones((3, 4))).isna().all()


def test_cells_are_not_held_together():
    rng = np.random.default_rng(5)
    tracemalloc.start()
    anatomy(rng.random((100, 400)) + 0.1 for _ in range(50))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 100 * 400 * 8  # ten networks, not fifty


def test_validation():
    with pytest.raises(ValueError, match="0 or more to have a logarithm, got -1"):
        anatomy(np.array([[1.0, -1.0]]))
    with pytest.raises(ValueError, match="0 or more to have a logarithm, got nan"):
        anatomy(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="mean score is 0"):
        anatomy(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="regulators x targets .* shape \\(3,\\)"):
        anatomy([np.ones(3)])
    with pytest.raises(ValueError, match="at least one cell"):
        anatomy([])
    with pytest.raises(ValueError, match="shapes \\(2, 3\\) and \\(3, 2\\)"):
        anatomy([np.ones((2, 3)), np.ones((3, 2))])


@pytest.fixture
def made():
    """Two groups whose regulators differ in strength; a target means the same everywhere."""
    rng = np.random.default_rng(6)
    levels = rng.gamma(2.0, size=(6, 4)) + 0.1
    groups = pd.Series(pd.Categorical(list("aabbbb")), [f"cell{i}" for i in range(6)], name="type")
    return levels, rng.gamma(2.0, size=(4, 9)) + 0.1, groups


def test_a_grn_tells_its_anatomy(made):
    levels, weights, groups = made
    grn = made_grn(levels, weights, groups=groups)
    found = grn.anatomy()
    assert list(found.index) == ["mean of all cells", "mean of a", "mean of b", "cell by cell"]
    assert list(found["n_cells"]) == [6, 2, 4, 6] and found.drop(columns="n_cells").sum(
        axis=1
    ).to_numpy() == pytest.approx(1)
    assert found.loc["mean of b", "pair"] == pytest.approx(anatomy(grn.matrix("b"))["pair"])
    assert found.loc["mean of a", list(CELL_TERMS)].isna().all()
    each = plain(np.log((levels[:, :, None] * weights).astype(np.float32).astype(float)))
    assert found.loc["cell by cell", list(each)].to_dict() == pytest.approx(each, abs=1e-5)
    assert found.loc["cell by cell", "cell x regulator"] > 0.1 > found.loc["cell by cell", "cell x target"]


def test_cells_of_the_anatomy_are_chosen(made):
    levels, weights, _ = made
    grn = made_grn(levels, weights)
    assert (
        list(grn.anatomy(3).index) == ["mean of all cells", "cell by cell"] and grn.anatomy(3)["n_cells"].iloc[1] == 3
    )
    chosen = grn.anatomy(["cell1", "cell4"])
    assert chosen["n_cells"].iloc[1] == 2 and not chosen.iloc[1].equals(grn.anatomy().iloc[1])
    with pytest.raises(ValueError, match="cells must be a number of at least 1, names of cells, or None, got 0"):
        grn.anatomy(0)
    with pytest.raises(KeyError, match="1 cells are not in this GRN"):
        grn.anatomy(["cell9"])


def test_anatomy_of_cells_needs_factors(made):
    levels, weights, groups = made
    grn = made_grn(levels, weights, groups=groups, keep_factors=False)
    assert list(grn.anatomy().index) == ["mean of all cells", "mean of a", "mean of b"]
    with pytest.raises(KeyError, match="infer with keep_factors=True"):
        grn.anatomy(cells=5)
