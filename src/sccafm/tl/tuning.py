"""Trains the embedding module and a head together on labels: `fit_head(finetune=)`. The structure module stands still."""

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
from sccafm._torch import cosine_decay
from sccafm.losses import views
from sccafm.nn import CausalEFM
from sccafm.tl.cells import Cells
from sccafm.tl.networks import Fit, Settings, fit, outputs

WARM_UP = 10  # steps
WORDS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*epochs?\s*")


@dataclass(frozen=True)
class Finetune:
    """How long and how to train the embedding module with the head; ``finetune="5 epochs"`` is short for it."""

    epochs: float
    """Passes over the cells that are fitted to, in each fold and at the end."""
    learning_rate: float = 5e-4
    """Of the embedding module."""
    head_learning_rate: float = 1e-3
    """Of the head, which begins as the one that is fitted to frozen vectors."""
    weight_decay: float = 0.0
    """Of the embedding module."""
    batch_size: int = 16
    """Cells of a step."""
    thin_from: float = 0.5
    """Least share of its molecules that a cell keeps in a step, drawn anew each time; 1 keeps all."""

    def __post_init__(self):
        for name in ("epochs", "learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ValueError(f"Finetune needs {name} above 0, got {value!r}; write Finetune(epochs=5)")
        if not (isinstance(self.batch_size, int) and self.batch_size > 0):
            raise ValueError(f"Finetune needs a whole number as batch_size, at least 1, got {self.batch_size!r}")
        if not 0 < self.thin_from <= 1:
            raise ValueError(f"Finetune needs a thin_from above 0 and at most 1, got {self.thin_from}")


def read_finetune(finetune: object) -> Finetune | None:
    """What ``finetune=`` asks for."""
    if finetune is None or isinstance(finetune, Finetune):
        return finetune
    found = WORDS.fullmatch(finetune) if isinstance(finetune, str) else None
    if found is None:
        raise ValueError(f'finetune must be a text such as "5 epochs", or an sccafm.tl.Finetune; got {finetune!r}')
    return Finetune(float(found[1]))


class Finetuned:
    """Heads with an embedding module of their own, which begins as the one that is passed; that one stays as it is.

    Parameters
    ----------
    efm
        Embedding module to begin with.
    cells
        What is looked at.
    y
        C labels or numbers.
    settings, finetune, n_classes
        0 classes for numbers.
    bar
        Moves by a step.
    """

    def __init__(
        self, efm: CausalEFM, cells: Cells, y: Tensor, settings: Settings, finetune: Finetune, n_classes: int, bar: tqdm
    ):
        self.efm, self.cells, self.y, self.bar = efm, cells, y, bar
        self.settings, self.finetune, self.n_classes = settings, finetune, n_classes
        self.start = cells.vectors(efm).numpy()

    def fit(self, where: np.ndarray) -> Fit:
        """Fit to some cells (C bool); nothing of the others is looked at.

        The head is fitted to the frozen vectors first and both are trained from there: a head that begins at random would
        bend the embedding before it knows what it needs (Kumar et al. 2022).
        """
        train = np.flatnonzero(where)
        begun = fit(self.start[train], self.y[train], self.settings, self.n_classes)
        efm = copy.deepcopy(self.efm).train().requires_grad_(True)
        network = begun.network.to(self.cells.device)
        center, scale = begun.center.to(self.cells.device), begun.scale.to(self.cells.device)
        told = self.finetune
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
            for number, chosen in zip(range(n_steps), shuffled(train, told.batch_size), strict=False):
                for group, rate in zip(optimizer.param_groups, begin, strict=True):
                    group["lr"] = rate * share_of_rate(number, n_steps)
                found = network((self._seen(efm, chosen) - center) / scale)
                loss = loss_of(found, self.y[chosen].to(found.device))
                if not torch.isfinite(loss):
                    raise FloatingPointError(f"finetune= met a loss of {loss.item()}; lower its learning_rate")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(efm.parameters(), 1.0)
                optimizer.step()
                self.bar.update()
        return Fit(network.eval().cpu(), begun.center, begun.scale, efm.eval().requires_grad_(False))

    def outputs(self, found: Fit, where: np.ndarray) -> Tensor:
        assert found.efm is not None  # `fit` has made one
        return outputs(found, self.cells.vectors(found.efm, np.flatnonzero(where)))

    def _seen(self, efm: CausalEFM, cells: np.ndarray) -> Tensor:
        """Vectors of cells that lost some of their molecules; their factors are those of the whole cells."""
        tokens, factors, told = self.cells.tokens(cells), self.cells.factors(cells), self.finetune
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


def steps(finetune: Finetune, n_cells: int) -> int:
    return max(1, round(finetune.epochs * math.ceil(n_cells / finetune.batch_size)))


def share_of_rate(number: int, n_steps: int) -> float:
    """Of the learning rate at a step: rising, then falling by a cosine.

    Adam's first steps move every weight by the whole rate, all cells' vectors by about the same, and away from the head.
    """
    return min(1.0, (number + 1) / WARM_UP) * cosine_decay(number / n_steps)


def training_bar(finetune: Finetune, folds: np.ndarray, progress: bool) -> tqdm:
    """Over the steps of every fold, and of the fit to all cells."""
    sizes = [int((folds != fold).sum()) for fold in np.unique(folds)] + [len(folds)]
    total = sum(steps(finetune, size) for size in sizes)
    return tqdm(total=total, desc="sccafm fit_head", unit="step", disable=not progress)


def shuffled(cells: np.ndarray, size: int):
    """Batches without end: every cell once, then every cell again in another order."""
    while True:
        order = cells[torch.randperm(len(cells)).numpy()]
        for start, stop in blocks(len(order), size):
            yield order[start:stop]
