"""What scores are made of: shares of the variance of log scores due to regulators, targets, pairs, and cells.

A network whose variance is all regulator and target is two lists: it says which regulators are strong and which targets are
popular, and of no pair that it belongs together. The shares are those of a balanced analysis of variance of the logarithms,
so that they sum to 1. Letters in comments: C cells, T regulators, G genes.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import pandas as pd

PAIR_TERMS = ("regulator", "target", "pair")
CELL_TERMS = ("cell x regulator", "cell x target", "cell x pair")
FLOOR = 1e-4  # of the mean score of a matrix; lower scores, zeros among them, are raised to it before the logarithm


def anatomy(scores: pd.DataFrame | np.ndarray | Iterable[np.ndarray], *, floor: float = FLOOR) -> pd.Series:
    """Shares of the variance of log scores, by a two-way or three-way analysis of variance.

    Self-edges are read like other pairs, for the designs must be balanced.

    Parameters
    ----------
    scores
        One network, regulators x targets, of scores of 0 or more; or one such array per cell, as an array
        cells x regulators x targets or from any iterator: one cell at a time is in memory.
    floor
        Share of the mean score of a network (of a cell) below which its scores are raised to it. A zero has no
        logarithm, and without a floor the smallest scores would make up most of the variance.

    Returns
    -------
    Series that sums to 1, NaN where nothing varies. Of one network: regulator, target, pair (what neither level
    explains). Of cells: the same, from the means over cells, and cell x regulator, cell x target, cell x pair (what
    only the cell explains). The mean log score of a cell is taken away first: it tells no edge from another.

    Raises
    ------
    ValueError
        No scores, negative or NaN scores, a network without a positive score, or cells of different shapes.
    """
    if isinstance(scores, pd.DataFrame) or (isinstance(scores, np.ndarray) and scores.ndim == 2):
        return _shares(PAIR_TERMS, _two_way(log_scores(np.asarray(scores), floor)))
    return _shares((*PAIR_TERMS, *CELL_TERMS), _three_way(log_scores(cell, floor) for cell in scores))


def log_scores(scores: np.ndarray, floor: float = FLOOR) -> np.ndarray:
    """Logarithms of scores (T x G), those below `floor` times their mean raised to it: float64."""
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"expected scores regulators x targets with at least one of each, got shape {scores.shape}")
    if not scores.min() >= 0:
        raise ValueError(
            f"scores must be 0 or more to have a logarithm, got {scores.min():.3g}; take `numpy.abs(scores)`, or missing "
            "edges as 0"
        )
    if not 0 < scores.mean() < np.inf:
        raise ValueError(f"the mean score is {scores.mean():.3g}; a logarithm needs finite scores, some above 0")
    return np.log(np.maximum(scores, floor * scores.mean()))


def two_lists_share(values: np.ndarray) -> float:
    """Share of the variance of values (T x G, as they are) that a level per regulator and one per target explain."""
    shares = _shares(PAIR_TERMS, _two_way(values))
    return float(shares["regulator"] + shares["target"])


def _two_way(x: np.ndarray) -> list[float]:
    """Sums of squares of the rows, the columns and the rest of T x G values."""
    x = x - x.mean()
    row, column = x.mean(1), x.mean(0)
    rest = x - row[:, None] - column
    return [len(column) * np.sum(row**2), len(row) * np.sum(column**2), np.sum(rest**2)]


def _three_way(cells: Iterable[np.ndarray]) -> list[float]:
    """Sums of squares of PAIR_TERMS and CELL_TERMS from log scores T x G, cell by cell."""
    cells = iter(cells)
    first = next(cells, None)
    if first is None:
        raise ValueError("expected the scores of at least one cell, got none")
    n, whole, rows, columns = 0, 0.0, 0.0, 0.0
    total = np.zeros_like(first)
    for x in chain([first], cells):
        if x.shape != first.shape:
            raise ValueError(
                f"expected the same regulators and targets in every cell, got shapes {first.shape} and {x.shape}"
            )
        x = x - x.mean()
        n, total, whole = n + 1, total + x, whole + np.sum(x**2)
        rows, columns = rows + np.sum(x.mean(1) ** 2), columns + np.sum(x.mean(0) ** 2)
    size_rows, size_columns = first.shape
    pairs = [n * part for part in _two_way(total / n)]
    by_row, by_column = size_columns * rows - pairs[0], size_rows * columns - pairs[1]
    return [*pairs, by_row, by_column, whole - sum(pairs) - by_row - by_column]


def _shares(terms: Sequence[str], squares: Sequence[float] | np.ndarray) -> pd.Series:
    clipped = np.maximum(np.asarray(squares, dtype=float), 0.0)  # a difference of sums can round below
    whole = clipped.sum()
    return pd.Series(clipped / whole if whole > 0 else np.nan, index=list(terms), name="share")
