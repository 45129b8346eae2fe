"""The networks that read a label or a number from a cell's vector, and how they are fitted to vectors that stand still."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp
from torch import Tensor, nn
from torch.nn import functional as F

from sccafm.nn import CausalEFM
from sccafm.tl.scores import make_folds

PENALTIES = (
    1e-3,
    1e-2,
    1e-1,
    1.0,
    10.0,
    100.0,
)  # of half the squared length of the weights, beside the mean error of a cell
INNER_FOLDS, INNER_CELLS = 3, 2000  # by which the penalty of a linear head is chosen
MOST_SURPRISE = 10.0  # nats that one cell may cost there, so that a label which a fold lacks does not decide


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
    labels: str = "text"  # what the labels are in obs: text, int or bool


class Fit(NamedTuple):
    """A network, what vectors are centred and divided by, and the embedding module that was tuned with it, if one was."""

    network: Any  # nn.Module
    center: Tensor  # D
    scale: Tensor  # D; the same for all axes of a linear head
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
    groups
        C names that are not to be parted where the penalty is chosen.
    """

    def __init__(self, x: np.ndarray, y: Tensor, settings: Settings, n_classes: int, groups: np.ndarray | None = None):
        self.x, self.y, self.settings, self.n_classes, self.groups = x, y, settings, n_classes, groups

    def fit(self, cells: np.ndarray) -> Fit:
        groups = None if self.groups is None else self.groups[cells]
        return fit(self.x[cells], self.y[cells], self.settings, self.n_classes, groups)

    def outputs(self, found: Fit, cells: np.ndarray) -> Tensor:
        return outputs(found, torch.from_numpy(self.x[cells]))


def make_network(settings: Settings, width: int, outputs: int) -> Any:
    if settings.network == "linear":
        return nn.Linear(width, outputs)
    return nn.Sequential(
        nn.Linear(width, settings.hidden), nn.SiLU(), nn.Dropout(0.2), nn.Linear(settings.hidden, outputs)
    )


def fit(x: np.ndarray, y: Tensor, settings: Settings, n_classes: int, groups: np.ndarray | None = None) -> Fit:
    """A network on vectors; labels count alike, however rare."""
    if settings.network == "linear":
        return fit_linear(x, y, settings, n_classes, groups)
    center, scale = torch.from_numpy(x.mean(0)), torch.from_numpy(np.maximum(x.std(0), 1e-6))
    z = (torch.from_numpy(x) - center) / scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.random_state)
        network = make_network(settings, x.shape[1], n_classes or 1)
        if not n_classes:  # the bias begins at the mean
            network[-1].bias.data.fill_(y.mean())
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


def fit_linear(x: np.ndarray, y: Tensor, settings: Settings, n_classes: int, groups: np.ndarray | None) -> Fit:
    """Logistic or ridge regression, its penalty chosen by the error on folds of these cells.

    All axes are divided by one number, their root-mean-square standard deviation: an axis along which cells hardly differ counts as
    little as it does between the cells. With fewer cells than axes a head would else fit what is noise.
    """
    x, labels = x.astype(np.float64), y.numpy()
    center, scale = x.mean(0), max(np.sqrt(x.var(0).mean()), 1e-6)
    z = (x - center) / scale
    kept = np.sort(np.random.default_rng(settings.random_state).permutation(len(z))[:INNER_CELLS])
    penalty = choose_penalty(z[kept], labels[kept], settings, n_classes, None if groups is None else groups[kept])
    weight, bias = regression(z, labels, penalty, n_classes)
    with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and replaced
        network = nn.Linear(z.shape[1], n_classes or 1)
    network.weight.data, network.bias.data = (torch.from_numpy(found).float() for found in (weight, bias))
    return Fit(network.eval(), torch.from_numpy(center).float(), torch.full((z.shape[1],), float(scale)))


def choose_penalty(
    z: np.ndarray, y: np.ndarray, settings: Settings, n_classes: int, groups: np.ndarray | None
) -> float:
    """The one of `PENALTIES` with the least error on held-out folds: cross-entropy, labels counting alike, or squares."""
    is_grouped = groups is not None and len(np.unique(groups)) > 1
    folds = make_folds(
        pd.DataFrame({"group": groups}, index=range(len(z))), "group" if is_grouped else None, INNER_FOLDS, 0
    )
    errors = np.zeros(len(PENALTIES))
    for fold in np.unique(folds):
        held = folds == fold
        if held.all() or not held.any():
            continue
        for i, penalty in enumerate(PENALTIES):
            weight, bias = regression(z[~held], y[~held], penalty, n_classes)
            errors[i] += error(z[held] @ weight.T + bias, y[held], n_classes)
    return PENALTIES[int(errors.argmin())]


def regression(z: np.ndarray, y: np.ndarray, penalty: float, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (classes D, or 1 D) and biases of the penalised fit; a label that no cell has is never said."""
    from sklearn.linear_model import LogisticRegression, Ridge

    if not n_classes:
        found = Ridge(penalty * len(z)).fit(z, y.astype(np.float64))
        return found.coef_.reshape(1, -1), np.atleast_1d(found.intercept_).astype(np.float64)
    weight, bias = np.zeros((n_classes, z.shape[1])), np.full(n_classes, -1e4)
    present = np.unique(y)
    if len(present) == 1:
        bias[present] = 0.0
        return weight, bias
    found = LogisticRegression(C=1 / (penalty * len(z)), class_weight="balanced", max_iter=1000).fit(z, y)
    coefficients, intercepts = found.coef_, found.intercept_
    if len(present) == 2:  # one row tells both labels
        coefficients, intercepts = (np.concatenate([-a / 2, a / 2]) for a in (coefficients, intercepts))
    weight[present], bias[present] = coefficients, intercepts
    return weight, bias


def error(out: np.ndarray, y: np.ndarray, n_classes: int) -> float:
    if not n_classes:
        return float(((out[:, 0] - y) ** 2).sum())
    surprise = logsumexp(out, axis=1) - out[np.arange(len(y)), y]
    present, codes = np.unique(y, return_inverse=True)
    each = np.bincount(codes, np.minimum(surprise, MOST_SURPRISE)) / np.bincount(codes)
    return float(each.sum())


@torch.inference_mode()
def outputs(found: Fit, x: Tensor) -> Tensor:
    """Logits or a value of each vector: C D -> C classes, or C 1.

    Row by row: how a matrix product rounds depends on its number of rows, and a cell's answer must not.
    """
    return torch.cat([found.network((row - found.center) / found.scale) for row in x.split(1)])
