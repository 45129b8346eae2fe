"""From a cell's tokens to its edges: factors, whose products are scores, and the strongest of these."""

import numpy as np


def self_edges(is_tf: np.ndarray) -> np.ndarray:
    """Flat positions of the pairs of a regulator with itself; `is_tf` is G bool."""
    return np.flatnonzero(is_tf) + np.arange(is_tf.sum()) * len(is_tf)


def select_edges(
    scores: np.ndarray, top_k: int | None, min_weight: float | None, excluded: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The strongest edges of one cell.

    Parameters
    ----------
    scores
        T G; changed in place.
    top_k
        How many; ties at the cut go to the lowest flat index. None: no limit.
    min_weight
        Least score. None: above 0.
    excluded
        Flat positions that are never chosen (self-edges).

    Returns
    -------
    Flat positions in rising order (int32) and scores (float32).
    """
    flat = scores.reshape(-1)
    flat[excluded] = 0
    least = np.finfo(np.float32).tiny if min_weight is None else max(min_weight, np.finfo(np.float32).tiny)
    if top_k is not None and top_k < len(flat):
        cut = np.partition(flat, len(flat) - top_k)[len(flat) - top_k]
        if cut >= least:
            above = np.flatnonzero(flat > cut)
            tied = np.flatnonzero(flat == cut)[: top_k - len(above)]
            chosen = np.sort(np.concatenate([above, tied]))
            return chosen.astype(np.int32), flat[chosen]
    chosen = np.flatnonzero(flat >= least)
    return chosen.astype(np.int32), flat[chosen]
