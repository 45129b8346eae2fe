"""What a head is worth: folds of whole groups, calibrated probabilities, and scores on what was held out."""

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from sccafm.confidence import calibration


def make_folds(obs: pd.DataFrame, groups: str | None, n_folds: int, random_state: int) -> np.ndarray:
    """Fold of each cell; a group is in one fold, and folds hold about as many cells each."""
    rng = np.random.default_rng(random_state)
    if groups is None:
        return rng.permutation(len(obs)) % n_folds
    codes, names = pd.factorize(obs[groups].astype(str))
    if len(names) < 2:
        raise ValueError(f"groups={groups!r} names a single group, {names[0]!r}; leave it out to fold cells at random")
    sizes = np.bincount(codes)
    fold_of, load = np.zeros(len(names), dtype=int), np.zeros(min(n_folds, len(names)))
    for group in np.lexsort((rng.random(len(names)), -sizes)):
        fold_of[group] = load.argmin()
        load[fold_of[group]] += sizes[group]
    return fold_of[codes]


def fit_temperature(outputs: Tensor, y: Tensor) -> float:
    """What held-out logits are to be divided by for the least cross-entropy; among 200 steps from 1/8 to 8."""
    candidates = torch.logspace(-3, 3, 200, base=2)
    losses = torch.stack([F.cross_entropy(outputs / t, y) for t in candidates])
    return float(candidates[losses.argmin()])


def calibration_error(probability: np.ndarray, y: np.ndarray, n_bins: int = 10) -> float:
    """Of each cell's surest label, over equally wide bins: see `sccafm.confidence.calibration.calibration_error`."""
    return calibration.calibration_error(probability.max(1), probability.argmax(1) == y, n_bins, bins="wide")


def judged(outputs: Tensor, y: Tensor, folds: np.ndarray, groups: np.ndarray | None, kind: str) -> pd.DataFrame:
    """A row per fold, and one of all cells."""
    rows = []
    for fold in [*np.unique(folds), None]:
        here = folds == fold if fold is not None else np.ones(len(folds), dtype=bool)
        out, true = outputs[torch.from_numpy(here)], y[torch.from_numpy(here)].numpy()
        row = {"fold": "all" if fold is None else str(fold), "n_cells": int(here.sum())}
        row["held_out"] = "" if groups is None or fold is None else ", ".join(sorted(set(groups[here])))
        rows.append(row | (label_scores(out, true) if kind == "classify" else value_scores(out[:, 0].numpy(), true)))
    return pd.DataFrame(rows)


def label_scores(out: Tensor, true: np.ndarray) -> dict[str, float]:
    probability = torch.softmax(out, 1).numpy()
    named = probability.argmax(1)
    f1 = []
    for label in np.unique(true):
        both = ((named == label) & (true == label)).sum()
        f1.append(2 * both / ((named == label).sum() + (true == label).sum()))
    return {
        "accuracy": float((named == true).mean()),
        "macro_f1": float(np.mean(f1)),
        "calibration_error": calibration_error(probability, true),
    }


def value_scores(out: np.ndarray, true: np.ndarray) -> dict[str, float]:
    spread = ((true - true.mean()) ** 2).sum()
    is_flat = spread == 0 or np.ptp(out) == 0
    return {
        "r2": float("nan") if spread == 0 else float(1 - ((out - true) ** 2).sum() / spread),
        "spearman": float("nan") if is_flat else float(spearmanr(out, true).statistic),
    }
