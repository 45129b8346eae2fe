"""Trains the embedding module and a head together on labels: `fit_head(unfreeze=)`. The structure module stands still."""

import copy
import math
import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from sccafm._io import blocks
from sccafm.losses import views
from sccafm.nn import CausalEFM
from sccafm.tl.cells import Cells
from sccafm.tl.networks import Fit, Settings, fit, outputs

WARM_UP = 10  # steps
WORDS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*epochs?\s*")


@dataclass(frozen=True)
class Unfreeze:
    """How long and how to train the embedding module with the head; ``unfreeze="5 epochs"`` is short for it."""

    epochs: float
    """Passes over the cells that are fitted to, in each fold and at the end."""
    learning_rate: float = 5e-4
    """Of the embedding module."""
    head_learning_rate: float = 1e-3
    """Of the head, which begins as the one that is fitted to frozen vectors."""
    weight_decay: float = 0.0
    """Of the embedding module."""
    cells: int = 16
    """Cells of a step."""
    thin_from: float = 0.5
    """Least share of its molecules that a cell keeps in a step, drawn anew each time; 1 keeps all."""

    def __post_init__(self):
        for name in ("epochs", "learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ValueError(f"Unfreeze needs {name} above 0, got {value!r}; write Unfreeze(epochs=5)")
        if not (isinstance(self.cells, int) and self.cells > 0):
            raise ValueError(f"Unfreeze needs a whole number of cells a step, at least 1, got {self.cells!r}")
        if not 0 < self.thin_from <= 1:
            raise ValueError(f"Unfreeze needs a thin_from above 0 and at most 1, got {self.thin_from}")


def read_unfreeze(unfreeze: object) -> Unfreeze | None:
    """What ``unfreeze=`` asks for."""
    if unfreeze is None or isinstance(unfreeze, Unfreeze):
        return unfreeze
    found = WORDS.fullmatch(unfreeze) if isinstance(unfreeze, str) else None
    if found is None:
        raise ValueError(f'unfreeze must be a text such as "5 epochs", or an sccafm.tl.Unfreeze; got {unfreeze!r}')
    return Unfreeze(float(found[1]))


class Unfrozen:
    """Heads with an embedding module of their own, which begins as the one that is passed; that one stays as it is.

    Parameters
    ----------
    efm
        Embedding module to begin with.
    cells
        What is looked at.
    y
        C labels or numbers.
    settings, unfreeze, n_classes
        0 classes for numbers.
    bar
        Moves by a step.
    """

    def __init__(
        self, efm: CausalEFM, cells: Cells, y: Tensor, settings: Settings, unfreeze: Unfreeze, n_classes: int, bar: tqdm
    ):
        self.efm, self.cells, self.y, self.bar = efm, cells, y, bar
        self.settings, self.unfreeze, self.n_classes = settings, unfreeze, n_classes
        self.start = cells.vectors(efm).numpy()

    def fit(self, where: np.ndarray) -> Fit:
        """Fit to some cells (C bool); nothing of the others is looked at.

        The head is fitted to the frozen vectors first and both are trained from there: a head that begins at random would
        bend the embedding before it knows what it needs (Kumar et al. 2022).
        """
        train = np.flatnonzero(where)
        begun = fit(self.start[train], self.y[train], self.settings, self.n_classes)
        efm = copy.deepcopy(self.efm).train().requires_grad_(True)
        network, center, scale = (part.to(self.cells.device) for part in begun[:3])
        told = self.unfreeze
        optimizer = torch.optim.AdamW(
            [
                {"params": efm.parameters(), "lr": told.learning_rate, "weight_decay": told.weight_decay},
                {"params": network.parameters(), "lr": told.head_learning_rate},
            ],
            weight_decay=self.settings.weight_decay,
        )
        begin = [group["lr"] for group in optimizer.param_groups]
        loss_of = self._loss(self.y[train])
        network.train()
        n_steps, devices = steps(told, len(train)), [self.cells.device] if self.cells.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.settings.random_state)
            for number, chosen in zip(range(n_steps), shuffled(train, told.cells), strict=False):
                for group, rate in zip(optimizer.param_groups, begin, strict=True):
                    group["lr"] = rate * share_of_rate(number, n_steps)
                found = network((self._seen(efm, chosen) - center) / scale)
                loss = loss_of(found, self.y[chosen].to(found.device))
                if not torch.isfinite(loss):
                    raise FloatingPointError(f"unfreeze= met a loss of {loss.item()}; lower its learning_rate")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(efm.parameters(), 1.0)
                optimizer.step()
                self.bar.update()
        return Fit(network.eval().cpu(), begun.center, begun.scale, efm.eval().requires_grad_(False))

    def outputs(self, found: Fit, where: np.ndarray) -> Tensor:
        return outputs(found, self.cells.vectors(found.efm, np.flatnonzero(where)))

    def _seen(self, efm: CausalEFM, cells: np.ndarray) -> Tensor:
        """Vectors of cells that lost some of their molecules; their factors are those of the whole cells."""
        tokens, factors, told = self.cells.tokens(cells), self.cells.factors(cells), self.unfreeze
        if told.thin_from < 1:
            tokens = views.thinned(tokens, torch.empty(len(tokens)).uniform_(told.thin_from, 1.0))
        return efm(tokens.to(self.cells.device), factors.to(self.cells.device)).cells

    def _loss(self, y: Tensor):
        """Labels count alike, however rare; errors of numbers count beside their spread."""
        if not self.n_classes:
            spread = y.var().clamp_min(1e-12)
            return lambda out, true: (out[:, 0] - true).square().mean() / spread
        counts = torch.bincount(y, minlength=self.n_classes)
        weight = len(y) / ((counts > 0).sum() * counts.clamp_min(1))  # 1 on average over the cells

        def loss(out: Tensor, true: Tensor) -> Tensor:
            return (F.cross_entropy(out, true, reduction="none") * weight.to(out.device)[true]).mean()

        return loss


def steps(unfreeze: Unfreeze, n_cells: int) -> int:
    return max(1, round(unfreeze.epochs * math.ceil(n_cells / unfreeze.cells)))


def share_of_rate(number: int, n_steps: int) -> float:
    """Of the learning rate at a step: rising, then falling by a cosine.

    Adam's first steps move every weight by the whole rate, all cells' vectors by about the same, and away from the head.
    """
    return min(1.0, (number + 1) / WARM_UP) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * number / n_steps)))


def training_bar(unfreeze: Unfreeze, folds: np.ndarray, progress: bool) -> tqdm:
    """Over the steps of every fold, and of the fit to all cells."""
    sizes = [int((folds != fold).sum()) for fold in np.unique(folds)] + [len(folds)]
    total = sum(steps(unfreeze, size) for size in sizes)
    return tqdm(total=total, desc="sccafm fit_head", unit="step", disable=not progress)


def shuffled(cells: np.ndarray, size: int):
    """Batches without end: every cell once, then every cell again in another order."""
    while True:
        order = cells[torch.randperm(len(cells)).numpy()]
        for start, stop in blocks(len(order), size):
            yield order[start:stop]
