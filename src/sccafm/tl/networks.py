"""The networks that read a label or a number from a cell's vector, and how they are fitted to vectors that stand still."""

import copy
import warnings
from collections.abc import Callable
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

# Of half the squared length of a linear head's weights, beside the mean error of a cell.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
STEPS = (40, 80, 150, 300)  # of a small network, among which its training ends
LEARNING_RATE, DECAY = 3e-3, 1.0  # of a small network; chosen on studies of the training corpus
INNER_FOLDS, INNER_CELLS = 3, 2000  # by which either is chosen
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
    weight_decay: float = 0.05  # of the head while it is trained with an embedding module
    random_state: int = 0
    labels: str = "text"  # what the labels are in obs: text, int or bool


class Fit(NamedTuple):
    """A network, what vectors are centred and divided by, and the embedding module that was tuned with it, if one was."""

    network: Any  # nn.Module
    center: Tensor  # D
    scale: Tensor  # D; the same for all axes
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
        C names that are not to be parted where the regularisation of a head is chosen.
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
    """A head on vectors; labels count alike, however rare.

    All axes are divided by one number, their root-mean-square standard deviation: an axis along which cells hardly differ counts as
    little as it does between the cells. Its regularisation (a penalty, or how long a small network learns) is chosen by the error on
    folds of these cells: with fewer cells than axes it would else fit what is noise.
    """
    x = x.astype(np.float64)
    center, scale = x.mean(0), max(np.sqrt(x.var(0).mean()), 1e-6)
    z, strengths = (x - center) / scale, PENALTIES if settings.network == "linear" else STEPS
    learn = linear if settings.network == "linear" else small_network
    kept = np.sort(np.random.default_rng(settings.random_state).permutation(len(z))[:INNER_CELLS])
    chosen = choose(learn, strengths, z[kept], y[kept], settings, n_classes, None if groups is None else groups[kept])
    network = learn(z, y, settings, n_classes, (strengths[chosen],))[0]
    return Fit(network, torch.from_numpy(center).float(), torch.full((z.shape[1],), float(scale)))


def choose(
    learn: Callable,
    strengths: tuple,
    z: np.ndarray,
    y: Tensor,
    settings: Settings,
    n_classes: int,
    groups: np.ndarray | None,
) -> int:
    """Which regularisation has the least error on held-out folds: cross-entropy, labels counting alike, or squares."""
    is_grouped = groups is not None and len(np.unique(groups)) > 1
    obs = pd.DataFrame({"group": groups}, index=range(len(z)))
    folds = make_folds(obs, "group" if is_grouped else None, INNER_FOLDS, 0)
    errors = np.zeros(len(strengths))
    for fold in np.unique(folds):
        held = folds == fold
        if held.all():
            continue
        for i, network in enumerate(learn(z[~held], y[~held], settings, n_classes, strengths)):
            with torch.inference_mode():
                out = network(torch.from_numpy(z[held]).float()).double().numpy()
            errors[i] += error(out, y[held].numpy(), n_classes)
    return int(errors.argmin())


def small_network(z: np.ndarray, y: Tensor, settings: Settings, n_classes: int, steps: tuple) -> list[nn.Module]:
    """By AdamW over all cells at once, as it is after each of these numbers of steps."""
    x, found = torch.from_numpy(z).float(), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.random_state)
        network = make_network(settings, z.shape[1], n_classes or 1)
        if not n_classes:  # the bias begins at the mean
            network[-1].bias.data.fill_(y.mean())
        weight = (1 / torch.bincount(y, minlength=n_classes).clamp_min(1)).float() if n_classes else None
        optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=DECAY)
        spread = None if n_classes else y.var().clamp_min(1e-12)
        for step in range(1, max(steps) + 1):
            out = network(x)
            loss = F.cross_entropy(out, y, weight) if n_classes else (out[:, 0] - y).square().mean() / spread
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step in steps:
                found.append(copy.deepcopy(network).eval())
    return found


def linear(z: np.ndarray, y: Tensor, settings: Settings, n_classes: int, penalties: tuple) -> list[nn.Module]:
    """Logistic or ridge regression with each of these penalties."""
    found = []
    for penalty in penalties:
        weight, bias = regression(z, y.numpy(), penalty, n_classes)
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and replaced
            network = make_network(settings, z.shape[1], n_classes or 1)
        network.weight.data, network.bias.data = (torch.from_numpy(part).float() for part in (weight, bias))
        found.append(network.eval())
    return found


def regression(z: np.ndarray, y: np.ndarray, penalty: float, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (classes D, or 1 D) and biases of the penalised fit; a label that no cell has is never said."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    if not n_classes:
        found = Ridge(penalty * len(z)).fit(z, y.astype(np.float64))
        return found.coef_.reshape(1, -1), np.atleast_1d(found.intercept_).astype(np.float64)
    weight, bias = np.zeros((n_classes, z.shape[1])), np.full(n_classes, -1e4)
    present = np.unique(y)
    if len(present) == 1:
        bias[present] = 0.0
        return weight, bias
    with warnings.catch_warnings():  # a penalty that is worth choosing lets the fit converge
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = LogisticRegression(C=1 / (penalty * len(z)), class_weight="balanced", max_iter=500).fit(z, y)
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
