"""The swap test: does a network know which targets belong to which regulator, beyond two lists?

For true edges i -> j and k -> l whose exchanged pairs i -> l and k -> j are candidates and false, the test asks whether
``s_ij + s_kl > s_il + s_kj`` (ties one half). A level of the regulator plus a level of the target scores exactly 0.5, so
neither hubs nor popular targets can win it.

The sum is only blind to levels on the scale on which they add. `SCALES` names them: weights that are products are read as
logarithms, probabilities as log odds, scores of unknown form as their ranks within the method, and sums as they are.
Letters in comments: R regulators, G genes, E true edges, S swaps, W bootstrap draws.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import logit
from scipy.stats import rankdata

from sccafm.evaluate.metrics import bootstrap_counts, interval
from sccafm.evaluate.truth import aligned, gene_lookup, marked, read_edges, respell, score_matrix, spelled_edges
from sccafm.grn.anatomy import two_lists_share

SCALES = ("identity", "log", "logit", "rank")
TIE = 1e-6  # of the largest of the four scores: sums of levels in float32 must tie
LEAST_HITS = 0.05  # share of pairs of true edges that can be swapped; below, they are not found by trying


@dataclass(frozen=True)
class SwapTest:
    """Result of `swap_test`."""

    value: float  # share of swaps in which the true pairs score higher, 0 to 1; NaN without a swap
    low: float  # 95 % bootstrap interval over regulators; NaN below two regulators
    high: float
    n_swaps: int
    n_true: int  # true edges among the candidates
    n_regulators: int  # with a true edge
    is_exact: bool  # all swaps were counted, not a sample


@dataclass(frozen=True, eq=False)
class Swaps:
    """Pairs of true edges i -> j, k -> l that can be swapped; drawn once, so that methods are compared on the same."""

    i: np.ndarray  # S int32 rows
    j: np.ndarray  # S int32 columns
    k: np.ndarray
    l: np.ndarray  # noqa: E741 the letters of the formula
    shape: tuple[int, int]  # R G
    is_exact: bool

    @classmethod
    def of(cls, is_true: np.ndarray, is_false: np.ndarray, n_swaps: int, rng: np.random.Generator) -> "Swaps":
        """All swaps where there are at most `n_swaps` of them, else `n_swaps` drawn with replacement, all alike.

        A pair that is neither true nor false (R x G booleans) is in no swap.
        """
        own = is_true.astype(np.float32) @ is_false.T.astype(np.float32)  # R R targets of i that are false for k
        number = np.triu(own.astype(float) * own.T, 1)  # R R swaps between the edges of i and those of k
        n_pairs = int(is_true.sum()) * (int(is_true.sum()) - 1) // 2
        if number.sum() <= n_swaps:
            ends, is_exact = _of_regulator_pairs(is_true, is_false, number, None, rng), True
        elif number.sum() > LEAST_HITS * n_pairs:
            ends, is_exact = _of_edge_pairs(is_true, is_false, n_swaps, rng), False
        else:
            drawn = rng.multinomial(n_swaps, number.ravel() / number.sum()).reshape(number.shape)
            ends, is_exact = _of_regulator_pairs(is_true, is_false, drawn, n_swaps, rng), False
        return cls(ends[0], ends[1], ends[2], ends[3], is_true.shape, is_exact)

    def __len__(self) -> int:
        return len(self.i)

    def won(self, scores: np.ndarray) -> np.ndarray:
        """S values 0, 0.5 or 1 from scores (R x G) on the scale on which levels add; `-inf` is a missing edge."""
        i, j, k, l = self.i, self.j, self.k, self.l  # noqa: E741
        four = [scores[i, j], scores[k, l], scores[i, l], scores[k, j]]
        size = np.max([np.where(np.isfinite(s), np.abs(s), 0.0) for s in four], axis=0)
        with np.errstate(invalid="ignore"):
            gap = (four[0] + four[1]) - (four[2] + four[3])
        gap[np.isnan(gap)] = 0.0  # a missing edge on both sides
        return np.where(np.abs(gap) <= TIE * size, 0.5, gap > 0)

    def score(self, scores: np.ndarray, draws: np.ndarray) -> tuple[float, np.ndarray]:
        """Share won, and the same in each of W bootstrap draws of regulators (W x R counts), NaN where nothing is left."""
        if not len(self):
            return np.nan, np.full(len(draws), np.nan)
        won, n = self.won(scores), self.shape[0]
        pair = self.i.astype(np.int64) * n + self.k
        wins, total = (np.bincount(pair, weights, n * n).reshape(n, n) for weights in (won, None))
        drawn_wins, drawn = (np.einsum("wi,wi->w", draws @ table, draws) for table in (wins, total.astype(float)))
        return float(won.mean()), np.divide(drawn_wins, drawn, out=np.full(len(draws), np.nan), where=drawn > 0)


def swap_test(
    scores,
    truth,
    *,
    exclude=None,
    targets=None,
    scale: str = "identity",
    n_swaps: int = 1_000_000,
    n_bootstrap: int = 200,
    random_state: int = 0,
) -> SwapTest:
    """How often two true edges score more together than the two pairs that an exchange of their targets gives.

    Candidates are the regulators of the truth that are scored, times the scored genes, without self-edges; a candidate
    that is no true edge is false. All swaps count where there are at most `n_swaps`, else so many are drawn.

    Parameters
    ----------
    scores
        DataFrame regulators x targets, a GRN, or a long table `source, target, weight`; larger is more likely.
    truth
        Table or file of true edges, pairs (source, target), or a `Truth`.
    exclude
        Edges, in the forms of `truth`, that count neither as true nor as false: those a prior holds, or those whose
        evidence is unclear.
    targets
        Genes that can be targets; None takes all that are scored.
    scale
        On which the levels of regulator and target would add: "identity" for sums, "log" for products (weights; 0 is a
        missing edge), "logit" for probabilities, "rank" for other scores. Only on its own scale does a method of two
        levels score exactly 0.5; two levels read as ranks need not. "auto" takes the scale on which two lists
        explain the most of the scores.
    n_swaps
        Largest number of swaps.
    n_bootstrap
        Draws of regulators with replacement for the 95 % interval.
    random_state
        Seed of what is drawn.

    Returns
    -------
    SwapTest

    Raises
    ------
    ValueError
        Unknown scale, or scores that it does not hold; scores that are NaN.
    """
    matrix = score_matrix(scores)
    lookup = gene_lookup(matrix.columns)
    columns = (
        matrix.columns
        if targets is None
        else matrix.columns[respell(matrix.columns, lookup).isin(respell(targets, lookup))]
    )
    edges = read_edges(truth, columns, regulators=matrix.index).edges
    regulators, genes = pd.Index(pd.unique(edges["source"])), pd.Index(respell(columns, lookup).unique())
    is_true = marked(edges, regulators, genes)
    is_candidate = regulators.to_numpy()[:, None] != genes.to_numpy()[None]
    if exclude is not None:
        is_candidate &= ~marked(spelled_edges(exclude, gene_lookup(matrix.index) | lookup), regulators, genes)
    is_true &= is_candidate
    rng = np.random.default_rng(random_state)
    swaps = Swaps.of(is_true, is_candidate & ~is_true, n_swaps, rng)
    values = aligned(matrix, regulators, genes, gene_lookup(matrix.index) | lookup)
    values = on_scale(values, natural_scale(values) if scale == "auto" else scale, is_candidate)
    draws = bootstrap_counts(max(len(regulators), 1), n_bootstrap, rng)[:, : len(regulators)]
    value, drawn = swaps.score(values, draws)
    low, high = map(float, interval(drawn))
    return SwapTest(value, low, high, len(swaps), int(is_true.sum()), int(is_true.any(axis=1).sum()), swaps.is_exact)


def on_scale(scores: np.ndarray, scale: str, is_candidate: np.ndarray, what: str = "scores") -> np.ndarray:
    """Scores (R x G) on the scale on which levels add; ranks are those among the candidates, 0 to 1.

    Raises
    ------
    ValueError
        Unknown scale; negative scores on "log"; scores outside of [0, 1] on "logit".
    """
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}; expected one of {list(SCALES)}")
    if scale == "identity":
        return scores
    if scale == "rank":
        ranks = np.full(scores.shape, -np.inf)
        ranks[is_candidate] = rankdata(scores[is_candidate]) / max(is_candidate.sum(), 1)
        return ranks
    held = scores[is_candidate & ~np.isneginf(scores)]
    top = np.inf if scale == "log" else 1.0
    if len(held) and not (held.min() >= 0 and held.max() <= top):
        raise ValueError(
            f"{what} reach from {held.min():.3g} to {held.max():.3g}, and scale={scale!r} needs "
            f"{'0 or more' if scale == 'log' else '0 to 1'}; take scale='rank'"
        )
    values = np.where(np.isneginf(scores), 0.0, scores)  # a missing edge is one of weight or probability 0
    with np.errstate(divide="ignore"):
        return np.log(values) if scale == "log" else logit(values)


def natural_scale(scores: np.ndarray) -> str:
    """The scale on which a level per regulator and one per target explain the most of the scores (R x G).

    Scores with missing edges (`-inf`) are read as ranks.
    """
    held = scores > -np.inf
    scores = scores[held.any(axis=1)][:, held.any(axis=0)]
    if not scores.size or not np.isfinite(scores).all():
        return "rank"
    fits = {"identity": scores}
    if scores.min() > 0:
        fits["log"] = np.log(scores)
        if scores.max() < 1:
            fits["logit"] = logit(scores)
    fits["rank"] = rankdata(scores).reshape(scores.shape)
    shares = {scale: two_lists_share(values) for scale, values in fits.items()}
    best = np.nanmax([0.0, *shares.values()])
    return next((scale for scale, share in shares.items() if share >= best - 1e-9), "rank")


def _of_edge_pairs(is_true, is_false, n_swaps: int, rng) -> tuple[np.ndarray, ...]:
    """Ends i, j, k, l of `n_swaps` swaps: pairs of true edges, drawn until enough can be swapped."""
    edge = np.argwhere(is_true).astype(np.int32)  # E 2
    parts, found = [], 0
    while found < n_swaps:
        a, b = rng.integers(len(edge), size=(2, n_swaps))
        i, j, k, l = *edge[a].T, *edge[b].T  # noqa: E741
        keep = (i != k) & is_false[i, l] & is_false[k, j]
        parts.append((i[keep], j[keep], k[keep], l[keep]))
        found += int(keep.sum())
    return tuple(np.concatenate(part)[:n_swaps] for part in zip(*parts, strict=True))


def _of_regulator_pairs(is_true, is_false, wanted, n_swaps: int | None, rng) -> tuple[np.ndarray, ...]:
    """The same regulator by regulator: as many as `wanted` says of each pair (R x R), or without `n_swaps` all of them."""
    parts = [np.zeros((4, 0), np.int32)]
    for i, k in np.argwhere(wanted > 0):
        ours, theirs = (np.flatnonzero(is_true[a] & is_false[b]) for a, b in ((i, k), (k, i)))
        if n_swaps is None:
            j, l = (part.ravel() for part in np.meshgrid(ours, theirs, indexing="ij"))  # noqa: E741
        else:
            j, l = (rng.choice(own, wanted[i, k]) for own in (ours, theirs))  # noqa: E741
        parts.append(np.stack([np.full(len(j), i), j, np.full(len(j), k), l]).astype(np.int32))
    return tuple(np.concatenate(parts, axis=1))
