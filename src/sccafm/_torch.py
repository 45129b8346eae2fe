"""Torch as this library expects it, whatever the caller has set: float32 on the CPU, no autocast, gradients where asked for."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def plain_torch() -> Iterator[None]:
    """Within it default dtype, default device, autocast, `no_grad` and `inference_mode` of the caller have no effect.

    Also a decorator: ``@plain_torch()``.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # slows every call of torch, so only where it is needed
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def cosine_decay(share: float) -> float:
    """Share of the greatest learning rate once a `share` of the steps is done: from 1 along half a cosine to 5 %."""
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share))
