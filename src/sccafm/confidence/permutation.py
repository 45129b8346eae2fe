"""The null of `qvalue`: what the model would score in cells of the same genes whose values were shuffled.

A permuted cell takes every gene's value from another real cell, drawn for each gene by itself. A regulator so keeps its
targets in the prior and hence its degree, and a target keeps its distribution of expression: the null of an edge is
matched for both exactly. What is lost is that genes of one cell belong together. A small q-value therefore says that
these cells, and not the names of the genes alone, speak for the edge.

A group is tested by at most `TESTED_CELLS` of its cells, chosen by their names. Tested by all of them, any difference from the null
would be significant in a large enough group, and q-values of a rare and of a frequent cell type could not be compared.
"""

import hashlib
import threading
from dataclasses import dataclass

import numpy as np
from scipy import stats

NULL_CELLS = 32  # permuted cells, R
TESTED_CELLS = 10  # of a group
SAMPLE_CELLS = 256  # real cells from which their values are drawn
# Range of the statistic, and bins for each unit of it. Null scores have long tails: pairs beyond the range all have the p-value of the
# last bin, and where it is large no few pairs can be significant.
LEAST, MOST, STEPS = -8.0, 120.0, 64
QVALUES_A_DECADE = (
    20  # stored q-values are rounded up to this many steps a decade: a column then packs to a byte an edge
)


def sample_cells(names, size: int) -> np.ndarray:
    """Positions of up to `size` cells, in an order that only their names decide: neither their order nor a seed."""
    order = sorted(range(len(names)), key=lambda i: hashlib.sha256(str(names[i]).encode()).digest())
    return np.array(order[:size], dtype=int)


def tested_cells(names, codes: np.ndarray, n_groups: int) -> list[np.ndarray]:
    """Cells by which each group is tested, and last those for all cells: positions, `TESTED_CELLS` of each or all it has.

    Parameters
    ----------
    names
        Of the cells, C; they alone choose.
    codes
        C, position of each cell's group.
    """
    order = sample_cells(names, len(names))
    return [order[codes[order] == group][:TESTED_CELLS] for group in range(n_groups)] + [order[:TESTED_CELLS]]


def permuted_cells(values: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Cells in which every gene's value comes from a cell of its own: C G -> n G.

    No cell gives a gene's value twice before all have given it once.
    """
    rng = np.random.default_rng(seed)
    rounds = [rng.permuted(values, axis=0) for _ in range(-(-n // len(values)))]
    return np.concatenate(rounds)[:n]


@dataclass(frozen=True, eq=False)
class NullDistribution:
    """Scores in permuted cells: moments of each pair, and how far a permuted cell itself strays from them."""

    mean: np.ndarray  # T G float32
    sd: np.ndarray  # T G float32, n - 1
    n: int  # permuted cells
    tail: np.ndarray  # per bin of the statistic of a cell: p-value, the share of permuted pairs at or above it
    group_tail: np.ndarray  # the same for means of groups


def damping(sd: np.ndarray) -> np.float32:
    """Added to each standard deviation, as in SAM (Tusher et al. 2001): pairs that hardly vary would lead else."""
    varying = sd[sd > 0]
    return np.float32(np.median(varying)) if varying.size else np.float32(1)


def fit_null(scores: list, self_edges: np.ndarray) -> NullDistribution:
    """Null distribution from permuted cells.

    Parameters
    ----------
    scores
        One function for each permuted cell that gives its scores, T G; each is called a few times, so that only one
        matrix is held at a time.
    self_edges
        Flat positions that are no edges.
    """
    n = len(scores)
    total, square = sums_of(scores)
    mean, sd = spread(total, square, n)
    damped = damping(sd)
    counts = np.zeros(n_bins(), dtype=np.int64)
    for score in scores:  # each permuted cell against the others
        s = score().astype(np.float64)
        others = spread(total - s, square - s * s, n - 1)
        counts += histogram(s, *others, 1, n - 1, damped, self_edges)
    means, size = np.zeros(n_bins(), dtype=np.int64), min(TESTED_CELLS, n // 2)
    for first in range(0, n - size + 1, max(size // 2, 1)) if size else ():  # means of some cells against the others
        group = sums_of(scores[first : first + size])
        rest = spread(total - group[0], square - group[1], n - size)
        means += histogram(group[0] / size, *rest, size, n - size, damped, self_edges)
    return NullDistribution(mean, sd, n, tail_of(counts), tail_of(means))


def sums_of(scores: list) -> tuple[np.ndarray, np.ndarray]:
    """Sum and sum of squares of some cells' scores: T G float64."""
    total = scores[0]().astype(np.float64)
    square = np.square(total)
    for score in scores[1:]:
        s = score().astype(np.float64)
        total += s
        square += np.square(s, out=s)
    return total, square


def spread(total: np.ndarray, square: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n - 1) of sums over n cells: float32."""
    mean = total / n
    variance = np.maximum(square - n * mean**2, 0) / max(n - 1, 1)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def histogram(
    scores: np.ndarray,
    mean: np.ndarray,
    sd: np.ndarray,
    n: int,
    n_null: int,
    damped: np.float32,
    self_edges: np.ndarray,
) -> np.ndarray:
    """How many pairs fall into each bin of the statistic."""
    counts = np.bincount(bins(scores, mean, scale_of(sd, n, n_null, damped), self_edges), minlength=n_bins())
    counts[0] -= len(self_edges)
    return counts


def tail_of(counts: np.ndarray) -> np.ndarray:
    above = counts[::-1].cumsum()[::-1]
    return (above + 1.0) / (above[0] + 1.0)


def scale_of(sd: np.ndarray, n: int, n_null: int, damped: np.float32) -> np.ndarray:
    """One over the standard error of the mean of `n` cells beside that of `n_null` permuted ones, damped."""
    return np.float32(1) / ((sd + damped) * np.float32(np.sqrt(1 / n + 1 / n_null)))


def n_bins() -> int:
    return int((MOST - LEAST) * STEPS)


def bins(
    scores: np.ndarray, mean: np.ndarray, scale: np.ndarray, self_edges: np.ndarray, out: tuple | None = None
) -> np.ndarray:
    """Bin of each pair's statistic ``(score - mean) * scale``, flat; self-edges fall into the lowest.

    `out` holds a float32 and an int64 array of the shape of the scores, to be written over.
    """
    statistic, found = out or (np.empty(scores.shape, np.float32), np.empty(scores.shape, np.int64))
    np.subtract(scores, mean, out=statistic, casting="same_kind")
    statistic *= scale
    statistic -= np.float32(LEAST)
    statistic *= np.float32(STEPS)
    np.clip(statistic, 0, n_bins() - 1, out=statistic)
    np.copyto(found, statistic, casting="unsafe")
    found = found.reshape(-1)
    found[self_edges] = 0
    return found


class CellTest:
    """q-values of a cell's edges against a null; Benjamini and Hochberg (1995) over all pairs of the cell."""

    def __init__(self, null: NullDistribution, self_edges: np.ndarray):
        self.null, self.self_edges = null, self_edges
        self.scale = scale_of(null.sd, 1, null.n, damping(null.sd))
        self._own = (
            threading.local()
        )  # arrays that every cell is computed in: new memory costs more than the arithmetic

    def _bins(self, scores: np.ndarray) -> np.ndarray:
        if not hasattr(self._own, "arrays"):
            self._own.arrays = np.empty(scores.shape, np.float32), np.empty(scores.shape, np.int64)
        return bins(scores, self.null.mean, self.scale, self.self_edges, self._own.arrays)

    def pvalues(self, scores: np.ndarray) -> np.ndarray:
        """T G; 1 for self-edges."""
        p = self.null.tail[self._bins(scores)]
        p[self.self_edges] = 1
        return p.reshape(scores.shape)

    def qvalues(self, scores: np.ndarray, edge: np.ndarray) -> np.ndarray:
        """Of some flat positions, float32, rounded up (see QVALUES_A_DECADE)."""
        where = self._bins(scores)
        counts = np.bincount(where, minlength=n_bins())
        counts[0] -= len(self.self_edges)
        rank = counts[::-1].cumsum()[::-1]
        q = np.minimum.accumulate(self.null.tail * rank[0] / np.maximum(rank, 1))  # from the weakest to the strongest
        return round_up(q[where[edge]])


def round_up(q: np.ndarray) -> np.ndarray:
    """To the next of QVALUES_A_DECADE steps a decade, at most 1: float32."""
    steps = np.floor(-np.log10(np.clip(q, 1e-12, 1)) * QVALUES_A_DECADE + 1e-9)
    return (10.0 ** (-steps / QVALUES_A_DECADE)).astype(np.float32)


def group_pvalues(
    mean: np.ndarray, n: int, null_mean: np.ndarray, null_sd: np.ndarray, n_null: int, tail: np.ndarray
) -> np.ndarray:
    """One-sided p-values that a group's mean scores exceed those of permuted cells: T G.

    Conservative for cells that are most of a small data set, whose genes have the very values of the null.

    Parameters
    ----------
    mean
        T G, mean over the `n` cells by which the group is tested (`tested_cells`).
    null_mean, null_sd
        T G, over `n_null` permuted cells.
    tail
        `NullDistribution.group_tail`.
    """
    scale = scale_of(null_sd, n, n_null, damping(null_sd))
    return tail[bins(mean, null_mean, scale, np.zeros(0, int))].reshape(mean.shape)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values, in the shape of `p` (`scipy.stats.false_discovery_control` over all of them)."""
    return stats.false_discovery_control(p.ravel()).reshape(p.shape)
