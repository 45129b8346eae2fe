"""From a cell's tokens to its edges: factors, whose products are scores, and the strongest of these."""

import numpy as np
import torch
from torch import Tensor

from sccafm.batch import Factors, Tokens
from sccafm.nn import SFM
from sccafm.reading import Reading


@torch.inference_mode()
def factors_of(sfm: SFM, tokens: Tokens, is_tf: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u of the regulators (C T M), v (C G M), context (C M) and summary (C D)."""
    device = next(sfm.parameters()).device
    step = 1 if device.type == "cpu" else len(tokens)
    found = []
    for start in range(0, len(tokens), step):
        factors: Factors = sfm(tokens[start : start + step].to(device))
        u = factors.u[:, torch.from_numpy(is_tf).to(device)]
        found.append((u.float(), factors.v.float(), factors.context().float(), factors.summary.float()))
    return tuple(torch.cat(many) for many in zip(*found, strict=True))


def self_edges(reading: Reading) -> np.ndarray:
    """Flat positions of the pairs of a regulator with itself."""
    return np.flatnonzero(reading.is_tf) + np.arange(reading.is_tf.sum()) * len(reading.names)


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
