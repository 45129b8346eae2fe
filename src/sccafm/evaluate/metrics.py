"""Ranking metrics in which tied scores favour no order.

Area under the ROC curve and average precision agree with scikit-learn. Early precision is the expectation over random
orders of the tied scores at the cut-off, so that no random draw is needed.

`Ranking` sorts N candidate edges once, whole or in blocks (one block per regulator), and then scores any labelling of
them: the truth, and every permutation of it. `resampled_metrics` draws whole groups of candidates again (the bootstrap
over regulators) without sorting again. `Judge` puts the numbers of a network together, with intervals and a null.
Letters in comments: N candidates, B blocks, R regulators, S segments, W draws, P permutations.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

METRICS = {
    "auroc": "AUROC per regulator",
    "auprc": "AUPRC per regulator",
    "auprc_ratio": "pooled AUPRC / density",
    "early_precision_ratio": "early precision / density",
}
INTERVAL = (2.5, 97.5)  # percent
CHUNK_VALUES = 8_000_000  # dense numbers held at once while bootstrap draws are scored


@dataclass(frozen=True)
class Ranking:
    """Candidates sorted by block and, within a block, by falling score.

    Attributes
    ----------
    order
        N candidate at each place.
    first, last
        N first and last place of the tie group that holds the place.
    block
        N block of the candidate at each place.
    start, size
        B first place and number of candidates of each block.
    """

    order: np.ndarray
    first: np.ndarray
    last: np.ndarray
    block: np.ndarray
    start: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, blocks: np.ndarray | None = None, n_blocks: int = 1) -> "Ranking":
        """Sort N scores, larger is better; `blocks` holds the block of each candidate, in [0, `n_blocks`).

        `-inf` is a legal score (an edge that a method does not hold).
        """
        scores = np.asarray(scores, dtype=float)
        order = np.argsort(-scores, kind="stable")
        block = np.zeros(len(scores), dtype=np.int64)
        if blocks is not None:
            narrow = np.uint16 if n_blocks <= np.iinfo(np.uint16).max else np.int64  # 16 bits: radix sort
            order = order[np.argsort(blocks[order].astype(narrow), kind="stable")]
            block = np.asarray(blocks, dtype=np.int64)[order]
        first, last = _tie_bounds(scores[order], block)
        size = np.bincount(block, minlength=n_blocks)
        return cls(order, first, last, block, np.cumsum(size) - size, size)

    def positives(self, labels: np.ndarray) -> np.ndarray:
        """Number of true candidates in each of the B blocks."""
        return self._sum(labels[self.order])

    def auroc(self, labels: np.ndarray) -> np.ndarray:
        """Area under the ROC curve of each block, by mean ranks; NaN where a class is absent."""
        y = labels[self.order]  # N
        n_pos = self._sum(y)  # B
        rank = (self.size + self.start)[self.block] - (self.first + self.last) / 2  # N, 1 is the worst score
        wins = self._sum(rank * y) - n_pos * (n_pos + 1) / 2
        return _ratio(wins, n_pos * (self.size - n_pos))

    def average_precision(self, labels: np.ndarray) -> np.ndarray:
        """Average precision of each block, ties entering together; NaN where a block has no true candidate."""
        y = labels[self.order]  # N
        found = np.concatenate(([0], np.cumsum(y)))  # N + 1
        hits = found[self.last + 1] - found[self.start][self.block]
        precision = hits / (self.last + 1 - self.start[self.block])
        return _ratio(self._sum(precision * y), self._sum(y))

    def early_precision(self, labels: np.ndarray) -> np.ndarray:
        """Expected precision among the first k candidates of each block, k = its number of true ones.

        The candidates tied at the cut-off share the places that are left. NaN where a block has no true candidate.
        """
        y = labels[self.order]  # N
        found = np.concatenate(([0], np.cumsum(y)))  # N + 1
        k = self._sum(y).astype(int)  # B
        cut = np.clip(self.start + k - 1, 0, max(len(y) - 1, 0))
        first, last = self.first[cut], self.last[cut]
        before = found[first] - found[self.start]
        share = (self.start + k - first) / (last + 1 - first)
        return _ratio(before + share * (found[last + 1] - found[first]), k)

    def _sum(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.block, weights=values, minlength=len(self.size))


def auroc(labels, scores) -> float:
    """Area under the ROC curve: the chance that a true edge outranks a false one, ties counting one half.

    Parameters
    ----------
    labels
        N booleans or zeros and ones.
    scores
        N finite numbers or `-inf`; larger means more likely true.

    Raises
    ------
    ValueError
        Lengths differ, scores hold NaN, or only one class is present.
    """
    labels, scores = _checked(labels, scores)
    return float(Ranking.of(scores).auroc(labels)[0])


def average_precision(labels, scores) -> float:
    """Average precision: mean, over the true edges, of the precision at the end of their tie group.

    Parameters and errors as in `auroc`.
    """
    labels, scores = _checked(labels, scores)
    return float(Ranking.of(scores).average_precision(labels)[0])


def early_precision(labels, scores) -> float:
    """Expected precision among the first k predictions, k = number of true edges, over random orders of ties.

    The early precision of BEELINE (Pratapa et al., Nature Methods 2020) without its dependence on the order of ties.
    Parameters and errors as in `auroc`.
    """
    labels, scores = _checked(labels, scores)
    return float(Ranking.of(scores).early_precision(labels)[0])


def bootstrap_counts(n_groups: int, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """`n_bootstrap` x `n_groups` counts of how often each group is drawn, with replacement."""
    return rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_bootstrap)


def resampled_metrics(
    ranking: Ranking, labels: np.ndarray, groups: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average precision, early precision and density of one block when whole groups of candidates are drawn again.

    Parameters
    ----------
    ranking
        A ranking of N candidates in one block.
    labels
        N booleans.
    groups
        N group of each candidate, in [0, R).
    counts
        W x R times that each group is drawn (`bootstrap_counts`).

    Returns
    -------
    Three arrays of length W; NaN for a draw without true candidates.
    """
    segment = _segments(ranking, labels)
    shape = (segment[-1] + 1, counts.shape[1])
    y, group = labels[ranking.order], groups[ranking.order]
    totals = sp.csr_array((np.ones(len(y)), (segment, group)), shape=shape)  # S x R
    truths = sp.csr_array((np.ones(int(y.sum())), (segment[y], group[y])), shape=shape)
    step = max(1, CHUNK_VALUES // shape[0])
    parts = [_cumulated(totals, truths, counts[i : i + step].T) for i in range(0, len(counts), step)]
    first, second, third = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second, third


@dataclass(frozen=True, eq=False)
class Scored:
    """What one method reached in one set of candidates."""

    row: dict[str, float]  # each metric, and with it `_low`, `_high`, `_null`, `_p`
    draws: np.ndarray  # W x metrics
    auroc: np.ndarray  # R
    auprc: np.ndarray  # R


@dataclass(frozen=True, eq=False)
class Judge:
    """True and false candidates of R regulators, with the draws and permutations that all methods share."""

    labels: np.ndarray  # N
    blocks: np.ndarray  # N regulator of each candidate, rising
    is_scored: np.ndarray  # R, enough true and false candidates for a number of its own
    draws: np.ndarray  # W x R times drawn
    permuted: np.ndarray  # P x N labels, shuffled within each regulator

    @classmethod
    def of(
        cls,
        labels: np.ndarray,
        blocks: np.ndarray,
        *,
        min_positives: int,
        min_negatives: int,
        n_bootstrap: int,
        n_permutations: int,
        random_state: int,
    ) -> "Judge":
        rng = np.random.default_rng(random_state)
        n_true, size = np.bincount(blocks, labels), np.bincount(blocks)
        is_scored = (n_true >= min_positives) & (size - n_true >= min_negatives)
        draws = bootstrap_counts(len(size), n_bootstrap, rng)
        permuted = np.tile(labels, (n_permutations, 1))
        for begin, end in zip(np.cumsum(size) - size, np.cumsum(size), strict=True):
            rng.permuted(permuted[:, begin:end], axis=1, out=permuted[:, begin:end])
        return cls(labels, blocks, is_scored, draws, permuted)

    def score(self, values: np.ndarray) -> Scored:
        """All metrics of N scores; NaN per regulator where no regulator has enough candidates."""
        pooled, by_regulator = Ranking.of(values), Ranking.of(values, self.blocks, len(self.is_scored))
        auroc, auprc = by_regulator.auroc(self.labels), by_regulator.average_precision(self.labels)
        found = self._metrics(pooled, by_regulator, self.labels)
        null = np.array([self._metrics(pooled, by_regulator, y) for y in self.permuted]).reshape(-1, len(METRICS))
        draws = self._bootstrap(pooled, auroc, auprc)
        row = {}
        for i, metric in enumerate(METRICS):
            low, high = interval(draws[:, i])
            row |= {metric: found[i], f"{metric}_low": low, f"{metric}_high": high}
            row |= {f"{metric}_null": mean(null[:, i]), f"{metric}_p": p_value(found[i], null[:, i])}
        return Scored(row, draws, auroc, auprc)

    def _metrics(self, pooled: Ranking, by_regulator: Ranking, labels: np.ndarray) -> list[float]:
        density = labels.mean()
        return [
            mean(by_regulator.auroc(labels)[self.is_scored]),
            mean(by_regulator.average_precision(labels)[self.is_scored]),
            pooled.average_precision(labels)[0] / density,
            pooled.early_precision(labels)[0] / density,
        ]

    def _bootstrap(self, pooled: Ranking, auroc: np.ndarray, auprc: np.ndarray) -> np.ndarray:
        """W x metrics; NaN where there are fewer than two regulators to draw from, since their spread is unknown."""
        out = np.full((len(self.draws), len(METRICS)), np.nan)
        used = self.draws[:, self.is_scored]
        if self.is_scored.sum() > 1:
            out[:, 0] = _ratio(used @ auroc[self.is_scored], used.sum(axis=1))
            out[:, 1] = _ratio(used @ auprc[self.is_scored], used.sum(axis=1))
        if len(self.is_scored) > 1 and len(self.draws):
            precision, early, density = resampled_metrics(pooled, self.labels, self.blocks, self.draws)
            out[:, 2], out[:, 3] = precision / density, early / density
        return out


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of bootstrap draws, NaN left out."""
    draws = draws[~np.isnan(draws)]
    return tuple(np.percentile(draws, INTERVAL)) if len(draws) else (np.nan, np.nan)


def mean(values: np.ndarray) -> float:
    """Mean, NaN of nothing."""
    return float(np.mean(values)) if len(values) else np.nan


def p_value(value: float, null: np.ndarray) -> float:
    """One-sided p of a value against draws of the null, never below 1 / (draws + 1)."""
    return float((1 + (null >= value).sum()) / (1 + len(null))) if len(null) and not np.isnan(value) else np.nan


def _cumulated(totals, truths, counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, p = totals @ counts, truths @ counts  # S x W
    seen, found = n.cumsum(axis=0), p.cumsum(axis=0)
    k = found[-1]  # W
    precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
    cut = np.minimum((seen < k).sum(axis=0), len(seen) - 1)[None]
    n_cut, p_cut = (np.take_along_axis(a, cut, axis=0)[0] for a in (n, p))
    seen_cut, found_cut = (np.take_along_axis(a, cut, axis=0)[0] for a in (seen, found))
    share = np.divide(k - (seen_cut - n_cut), n_cut, out=np.zeros_like(k), where=n_cut > 0)
    early = _ratio(found_cut - p_cut + share * p_cut, k)
    return _ratio((p * precision).sum(axis=0), k), early, _ratio(k, np.where(k > 0, seen[-1], 0))


def _segments(ranking: Ranking, labels: np.ndarray) -> np.ndarray:
    """N segment of each place: tie groups, where neighbouring groups without a true candidate are one segment."""
    found = np.concatenate(([0], np.cumsum(labels[ranking.order])))
    is_true = found[ranking.last + 1] > found[ranking.first]  # N, the place's tie group holds a true candidate
    opens = ranking.first == np.arange(len(is_true))
    opens[1:] &= is_true[1:] | is_true[:-1]
    return np.cumsum(opens) - 1


def _tie_bounds(scores: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """N first and last place of the tie group of each place, for sorted scores."""
    n = len(scores)
    opens = np.ones(n, dtype=bool)
    opens[1:] = (scores[1:] != scores[:-1]) | (block[1:] != block[:-1])
    begin = np.flatnonzero(opens)
    tie = np.cumsum(opens) - 1
    return begin[tie], np.append(begin[1:], n)[tie] - 1


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    out = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _checked(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels).astype(bool), np.asarray(scores, dtype=float)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(
            f"expected labels and scores of one length, got shapes {labels.shape} and {scores.shape}; "
            "pass `matrix.to_numpy().ravel()` of both"
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"{np.isnan(scores).sum()} of {scores.size} scores are NaN; a missing score ranks last: "
            "`scores = np.where(np.isnan(scores), -np.inf, scores)`"
        )
    if labels.all() or not labels.any():
        raise ValueError(
            f"expected true and false edges, got {labels.sum()} true among {labels.size}; "
            "a ranking of one class has no quality: widen the candidates"
        )
    return labels, scores
