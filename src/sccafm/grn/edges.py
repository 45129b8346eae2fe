"""From a cell's tokens to its edges: factors, whose products are scores, and the strongest of these."""

import numpy as np

WEIGHT_BITS = 14  # significant bits of a kept weight: 6e-5 of it; the rest would be a quarter of the space on disk
SAMPLE_STEP = 61  # one entry in so many is looked at; a prime, so that columns are sampled alike


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
    Flat positions in rising order (int32) and scores (float32, rounded to `WEIGHT_BITS`).
    """
    flat = scores.reshape(-1)
    flat[excluded] = 0
    least = np.finfo(np.float32).tiny if min_weight is None else max(min_weight, np.finfo(np.float32).tiny)
    if top_k is not None and top_k < len(flat):
        cut = kth_largest(flat, top_k)
        if cut >= least:
            chosen = np.flatnonzero(flat >= cut)
            if len(chosen) > top_k:
                tied = chosen[flat[chosen] == cut][top_k - len(chosen) :]
                chosen = np.setdiff1d(chosen, tied, assume_unique=True)
            return chosen.astype(np.int32), rounded_weights(flat[chosen])
    chosen = np.flatnonzero(flat >= least)
    return chosen.astype(np.int32), rounded_weights(flat[chosen])


def kth_largest(flat: np.ndarray, k: int) -> np.float32:
    """The k-th largest entry: looked for among those above a cut that a sample of the entries suggests."""
    sample = flat[::SAMPLE_STEP]
    wanted = 2 * k // SAMPLE_STEP + 16  # twice as many as needed, so that hardly ever too few are left
    if wanted < len(sample):
        above = flat[flat >= np.partition(sample, len(sample) - wanted)[len(sample) - wanted]]
        if len(above) >= k:
            flat = above
    return np.partition(flat, len(flat) - k)[len(flat) - k]


def rounded_weights(weight: np.ndarray) -> np.ndarray:
    """To `WEIGHT_BITS` significant bits, ties to even, at least the smallest normal number: float32."""
    drop = np.uint32(24 - WEIGHT_BITS)
    bits = np.ascontiguousarray(weight, dtype=np.float32).view(np.uint32)
    half = np.uint32(2 ** (23 - WEIGHT_BITS) - 1) + ((bits >> drop) & np.uint32(1))
    return ((bits + half) >> drop << drop).view(np.float32)
