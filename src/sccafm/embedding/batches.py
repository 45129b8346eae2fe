"""What sets batches apart within a state of the cells, taken away: after Harmony (Korsunsky et al., Nature Methods 2019).

Rows x of length 1 are shared out among K clusters, each of which is drawn to hold all batches in their proportions:

    R_ik ~ exp(-2 (1 - <x_i, y_k>) / SOFTNESS) * ((E_kb + 1) / (O_kb + 1)) ** DIVERSITY      b: batch of cell i; rows sum to 1

O_kb is what cluster k holds of batch b, E_kb what it would hold if batches were alike. Then the batches of each cluster are moved
together: a ridge regression of its cells on their batch, whose solution is closed,

    beta_kb = (S_kb - O_kb a_k) / (O_kb + RIDGE),   a_k = sum_b S_kb / (O_kb + RIDGE)  /  sum_b O_kb / (O_kb + RIDGE)
    x_i <- unit(x_i - sum_k R_ik beta_kb)                                                    S_kb: sum of R_ik x_i over the batch

`ROUNDS` times. Harmony goes on until nothing moves; on the selection panel (benchmarks/embedding_panel.py) that mixes states too, and
two rounds with a firmer ridge serve better, and so do first clusters that are looked for with each batch's own mean taken away. It
is written here because new cells are placed by the clusters that it finds. Letters:
C cells, W width, K clusters, B batches.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.cluster.vq import kmeans2

SOFTNESS, DIVERSITY, RIDGE = 0.1, 1.0, 5.0
CELLS_OF_CLUSTER, CLUSTERS = 30, 100
ROUNDS, PASSES, PARTS = 2, 10, 20  # corrections; looks at the clusters before each; parts that a look takes in turn
BLOCK = 4096  # cells that are moved at a time


@dataclass(frozen=True)
class Round:
    """One correction."""

    directions: np.ndarray  # K W, length 1
    evenness: np.ndarray  # K B, what draws cells of a batch to a cluster
    moves: np.ndarray  # B K W, beta

    def shares(self, x: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return of_rows(affinity(x, self.directions) * self.evenness[:, codes].T)

    def offsets(self, share: np.ndarray, codes: np.ndarray) -> np.ndarray:
        found = np.empty((len(share), self.moves.shape[2]))
        for code in np.unique(codes):
            found[codes == code] = share[codes == code] @ self.moves[code]
        return found


@dataclass(frozen=True, eq=False)
class Clusters:
    """Where corrected cells are. Both K W float64."""

    directions: np.ndarray  # length 1
    means: np.ndarray  # of the cells, by their shares

    def corrected(self, x: np.ndarray) -> np.ndarray:
        """Other cells, as one more batch: each cluster's are moved by its mean less theirs, which `RIDGE` draws to nothing."""
        x = moved = unit(x.astype(np.float64))
        for _ in range(ROUNDS):
            share = of_rows(affinity(moved, self.directions))
            held = share.sum(0)[:, None]
            moved = unit(x - share @ ((share.T @ x - held * self.means) / (held + RIDGE)))
        return moved


def correct(x: np.ndarray, codes: np.ndarray, pool: np.ndarray, seed: int = 0) -> tuple[np.ndarray, Clusters]:
    """Move the batches of each state together.

    Parameters
    ----------
    x
        C W vectors; their lengths are not looked at.
    codes
        C, batch of each cell, from 0.
    pool
        Positions of the cells that the clusters are fitted to.
    seed
        Of the first clusters, and of the order in which cells are taken.

    Returns
    -------
    C W float64 with rows of length 1, and the clusters.
    """
    rng, x = np.random.default_rng(seed), unit(x.astype(np.float64))
    batch = np.eye(codes.max() + 1)[codes[pool]]
    # The first clusters are looked for with no batch apart as a whole, though states that only one of them holds are moved too.
    held = batch.sum(0)[:, None]
    starts = (batch.T @ x[pool] - held * x[pool].mean(0)) / np.maximum(held, 1)
    seen = unit(x[pool] - starts[codes[pool]])
    n_clusters = int(np.clip(round(len(pool) / CELLS_OF_CLUSTER), 1, CLUSTERS))
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # clusters may come out empty where cells are copies
        warnings.simplefilter("ignore", UserWarning)
        directions = unit(kmeans2(seen, n_clusters, minit="++", seed=rng)[0])
    share = of_rows(affinity(seen, directions))
    rounds = []
    for _ in range(ROUNDS):
        found = fit_round(x[pool], seen, batch, share, rng)
        share = found.shares(seen, codes[pool])
        seen = unit(x[pool] - found.offsets(share, codes[pool]))
        rounds.append(found)
    parts = [slice(i, i + BLOCK) for i in range(0, len(x), BLOCK)]
    moved = np.concatenate([move(x[part], starts, codes[part], rounds) for part in parts])
    return moved, Clusters(unit(share.T @ seen), share.T @ seen / np.maximum(share.sum(0)[:, None], 1e-12))


def move(x: np.ndarray, starts: np.ndarray, codes: np.ndarray, rounds: list[Round]) -> np.ndarray:
    moved = unit(x - starts[codes])
    for found in rounds:
        moved = unit(x - found.offsets(found.shares(moved, codes), codes))
    return moved


def fit_round(
    x: np.ndarray, moved: np.ndarray, batch: np.ndarray, share: np.ndarray, rng: np.random.Generator
) -> Round:
    """Clusters of cells as they were moved last, and how far their batches stood apart at first."""
    share, expected, codes = share.copy(), batch.mean(0), batch.argmax(1)
    for _ in range(PASSES):
        directions = unit(share.T @ moved)
        near = affinity(moved, directions)
        held = share.T @ batch
        for part in np.array_split(rng.permutation(len(moved)), min(PARTS, len(moved))):
            held -= share[part].T @ batch[part]
            share[part] = of_rows(near[part] * evenness(held, expected)[:, codes[part]].T)
            held += share[part].T @ batch[part]
    sums = np.stack([(share * part[:, None]).T @ x for part in batch.T])
    return Round(directions, evenness(held, expected), ridge(sums, held.T))


def evenness(held: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """K B, above 1 where a cluster K has less of a batch B than its proportion."""
    wanted = held.sum(1, keepdims=True) * expected
    return ((wanted + 1) / (np.maximum(held, 0) + 1)) ** DIVERSITY


def ridge(sums: np.ndarray, held: np.ndarray) -> np.ndarray:
    """What each cluster's batches depart by from what they have in common: B K W, from sums B K W over `held` B K cells."""
    middle = (sums / (held + RIDGE)[..., None]).sum(0) / np.maximum((held / (held + RIDGE)).sum(0), 1e-12)[:, None]
    return (sums - held[..., None] * middle) / (held + RIDGE)[..., None]


def affinity(x: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """exp(-2 (1 - cosine) / SOFTNESS), C K, by a factor that makes the largest of each row 1."""
    near = 2 * (x @ directions.T) / SOFTNESS
    return np.exp(near - near.max(1, keepdims=True))


def of_rows(x: np.ndarray) -> np.ndarray:
    """Shares of each row's sum."""
    return x / x.sum(1, keepdims=True)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
