"""The networks that read a label or a number from a cell's vector, and how they are fitted to vectors that stand still."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sccafm.nn import CausalEFM


@dataclass(frozen=True)
class Settings:
    """What a head is and how it is fitted."""

    kind: str
    network: str
    target: str
    use_rep: str | None  # None: the head has an embedding module of its own
    groups: str | None
    hidden: int = 64  # of a small network
    steps: int = 150
    learning_rate: float = 0.05
    weight_decay: float = 0.05
    random_state: int = 0


class Fit(NamedTuple):
    """A network, what vectors are standardised by, and the embedding module that was tuned with it, if one was."""

    network: Any  # nn.Module
    center: Tensor  # D
    scale: Tensor  # D
    efm: CausalEFM | None = None


class Frozen:
    """Heads on vectors that stay as they are.

    Parameters
    ----------
    x
        C D.
    y
        C labels or numbers.
    settings, n_classes
        0 classes for numbers.
    """

    def __init__(self, x: np.ndarray, y: Tensor, settings: Settings, n_classes: int):
        self.x, self.y, self.settings, self.n_classes = x, y, settings, n_classes

    def fit(self, cells: np.ndarray) -> Fit:
        return fit(self.x[cells], self.y[cells], self.settings, self.n_classes)

    def outputs(self, found: Fit, cells: np.ndarray) -> Tensor:
        return outputs(found, torch.from_numpy(self.x[cells]))


def make_network(settings: Settings, width: int, outputs: int) -> Any:
    if settings.network == "linear":
        return nn.Linear(width, outputs)
    return nn.Sequential(
        nn.Linear(width, settings.hidden), nn.SiLU(), nn.Dropout(0.2), nn.Linear(settings.hidden, outputs)
    )


def fit(x: np.ndarray, y: Tensor, settings: Settings, n_classes: int) -> Fit:
    """A network on standardised vectors, by AdamW over all cells at once; labels count alike, however rare."""
    center, scale = torch.from_numpy(x.mean(0)), torch.from_numpy(np.maximum(x.std(0), 1e-6))
    z = (torch.from_numpy(x) - center) / scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.random_state)
        network = make_network(settings, x.shape[1], n_classes or 1)
        if not n_classes:  # the bias begins at the mean
            (network if settings.network == "linear" else network[-1]).bias.data.fill_(y.mean())
        weight = (1 / torch.bincount(y, minlength=n_classes).clamp_min(1)).float() if n_classes else None
        optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
        spread = None if n_classes else y.var().clamp_min(1e-12)
        for _ in range(settings.steps):
            out = network(z)
            loss = F.cross_entropy(out, y, weight) if n_classes else (out[:, 0] - y).square().mean() / spread
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Fit(network.eval(), center, scale)


@torch.inference_mode()
def outputs(found: Fit, x: Tensor) -> Tensor:
    """Logits or a value of each vector: C D -> C classes, or C 1.

    Row by row: how a matrix product rounds depends on its number of rows, and a cell's answer must not.
    """
    return torch.cat([found.network((row - found.center) / found.scale) for row in x.split(1)])
