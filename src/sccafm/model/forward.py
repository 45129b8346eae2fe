"""The structure module's forward pass; on a CPU one cell at a time."""

import numpy as np
import torch
from torch import Tensor

from sccafm.nn import SFM
from sccafm.types import Factors, Tokens


@torch.inference_mode()
def factors_of(sfm: SFM, tokens: Tokens, is_tf: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u of the regulators (C T M), v (C G M), context (C M) and summary (C D)."""
    device = next(sfm.parameters()).device
    regulators = torch.from_numpy(np.flatnonzero(is_tf)).to(device)
    step = 1 if device.type == "cpu" else len(tokens)
    found: list[Tensor] = []
    for start in range(0, len(tokens), step):
        factors: Factors = sfm(tokens[start : start + step].to(device))
        here = (factors.u[:, regulators], factors.v, factors.context(), factors.summary)
        if not found:  # all cells' arrays at once: parts that are joined later take twice the memory
            found = [part.new_empty(len(tokens), *part.shape[1:], dtype=torch.float32) for part in here]
        for whole, part in zip(found, here, strict=True):
            whole[start : start + step] = part
    return found[0], found[1], found[2], found[3]
