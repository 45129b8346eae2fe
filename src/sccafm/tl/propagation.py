"""How a loss travels along a signed network: the model behind `knockout`.

    r[0] = -1 for the genes that are lost (+1 for a gain), 0 for all others
    r[t+1][j] = sum_i W[i, j] r[t][i] for all other genes j; genes that are lost stay lost
    W[i, j] = sign[i, j] * share[i, j]

`share` is the part of the target's regulation that is this regulator's own: what the network's mean score exceeds the product of
both genes' levels by, where it does, over the sum of the target's scores. Absolute values of a column of W so add up to less than
1, and no r exceeds 1. r is a change relative to the gene's own level: the expected change of its mean (log) expression is r times
that mean.
"""

import numpy as np

from sccafm.grn.grn import GRN


def signed_shares(grn: GRN, group: object, unsigned: str) -> tuple[np.ndarray, np.ndarray]:
    """W, regulators x targets, and the part of each column's total whose sign is known (G)."""
    scores = grn.matrix(group).to_numpy(copy=True)
    rows, own = np.arange(len(grn.regulators)), grn.targets.get_indexer(grn.regulators)
    scores[rows, own] = 0
    tiny = np.finfo(float).tiny
    expected = scores.sum(1, keepdims=True) * scores.sum(0) / max(scores.sum(), tiny)
    excess = np.maximum(scores - expected, 0)
    excess[rows, own] = 0
    share = excess / np.maximum(scores.sum(0), tiny)
    sign = grn.pairs.sign.astype(float)
    known = (share * (sign != 0)).sum(0) / np.maximum(share.sum(0), tiny)
    return share * (np.where(sign == 0, 1.0, sign) if unsigned == "activates" else sign), known


def propagate(shares: np.ndarray, regulators: np.ndarray, lost: np.ndarray, amount: float, n_steps: int) -> np.ndarray:
    """Relative change of every gene after each step: n_steps G, each in [-1, 1].

    Parameters
    ----------
    shares
        W, T G.
    regulators
        Position of each regulator among the genes.
    lost
        Positions of the genes that are lost or gained.
    amount
        -1 for a loss, +1 for a gain.
    """
    change = np.zeros(shares.shape[1])
    change[lost] = amount
    steps = []
    for _ in range(n_steps):
        change = change[regulators] @ shares
        change[lost] = amount
        steps.append(change)
    return np.stack(steps)
