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
    step = 1 if device.type == "cpu" else len(tokens)
    found = []
    for start in range(0, len(tokens), step):
        factors: Factors = sfm(tokens[start : start + step].to(device))
        u = factors.u[:, torch.from_numpy(is_tf).to(device)]
        found.append((u.float(), factors.v.float(), factors.context().float(), factors.summary.float()))
    u, v, context, summary = (torch.cat(many) for many in zip(*found, strict=True))
    return u, v, context, summary
