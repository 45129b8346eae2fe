"""Is an expected change better than the mean of other perturbations? Judged on cells that were perturbed."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from sccafm.evaluate.baselines import expression as expression_of

MIN_CELLS = 20
LEAST = 3  # perturbations from which a verdict is drawn
SEPARATOR = "+"  # between genes of one perturbation


@dataclass(frozen=True, eq=False)
class Judged:
    """Expected changes beside the mean of other perturbations, on the same perturbed cells."""

    table: pd.DataFrame  # perturbation, genes, n_cells, network, mean_of_others (Pearson r with the observed change)
    observed: pd.DataFrame = field(repr=False)  # perturbations x genes, mean change of expression

    @property
    def difference(self) -> tuple[float, float, float]:
        """Mean difference of both correlations over perturbations, with its 95 % interval (Student)."""
        d = (self.table["network"] - self.table["mean_of_others"]).to_numpy()
        if len(d) < 2:
            return float(d.mean()) if len(d) else np.nan, np.nan, np.nan
        half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
        return float(d.mean()), float(d.mean() - half), float(d.mean() + half)

    @property
    def is_above(self) -> bool:
        """The whole interval of the difference lies above 0, over at least three perturbations."""
        return len(self.table) >= LEAST and self.difference[1] > 0

    @property
    def verdict(self) -> str:
        """In words: whether to read the expected changes."""
        n = len(self.table)
        network, mean = self.table["network"].mean(), self.table["mean_of_others"].mean()
        said = f"on {n} perturbations the network's change has r = {network:.3f} with the observed one, the mean of the others {mean:.3f}"
        if n < LEAST:
            return f"Abstains: {said}; fewer than {LEAST} perturbations tell nothing."
        middle, low, high = self.difference
        spread = f"difference {middle:+.3f} [{low:+.3f}, {high:+.3f}]"
        if self.is_above:
            return f"Above the mean of other perturbations: {said} ({spread})."
        return (
            f"Abstains: {said} ({spread}), which is not above it. Do not read these values as the expected change; the mean of "
            "other perturbations tells more."
        )


def judge(
    predict: Callable[[list[str]], np.ndarray],
    regulators: pd.Index,
    targets: pd.Index,
    adata: AnnData,
    perturbation_key: str,
    control: str,
    strata_key: str | None,
    layer: str | None,
) -> Judged:
    """Judge predictions for every perturbation of `adata` whose genes are all regulators.

    The observed change is the mean over perturbed cells less that over controls, within each stratum, weighted by perturbed
    cells. The rival is the mean change of the other perturbations that share no gene with it, in the same strata. Perturbed
    genes themselves are left out of correlations.

    Parameters
    ----------
    predict
        Expected change of each target (G) where some genes are perturbed.

    Raises
    ------
    KeyError, ValueError
        No such column or label, or no perturbation that can be judged.
    """
    for parameter, key in (("perturbation_key", perturbation_key), ("strata_key", strata_key)):
        if key is not None and key not in adata.obs:
            raise KeyError(f"{parameter}={key!r} is no column of the perturbed cells' obs; there are {list(adata.obs)}")
    labels = adata.obs[perturbation_key].astype(str).to_numpy()
    if control not in labels:
        raise KeyError(f"no perturbed cell is control={control!r}; there are {sorted(set(labels))[:8]}")
    strata = np.full(len(labels), "") if strata_key is None else adata.obs[strata_key].astype(str).to_numpy()
    x, names = expression_of(adata, layer)
    at = pd.Index(names).get_indexer(targets)
    read = at >= 0
    x = x[:, at[read]]
    shifts = {}
    for label in np.unique(labels[labels != control]):
        found = shift_of(x, labels, strata, label, control)
        if found is not None:
            shifts[label] = found
    genes = {label: label.split(SEPARATOR) for label in shifts}
    rows = []
    for label, own in genes.items():
        if not set(own) <= set(regulators):
            continue
        others = [shifts[o].change for o, theirs in genes.items()
                  if o != label and not set(theirs) & set(own) and shifts[o].strata & shifts[label].strata]  # fmt: skip
        if not others:
            continue
        kept = ~targets[read].isin(own)
        seen = shifts[label].change[kept]
        expected, rival = predict(own)[read][kept], np.mean(others, axis=0)[kept]
        rows.append({"perturbation": label, "genes": ", ".join(own), "n_cells": shifts[label].n_cells,
                     "network": correlation(expected, seen), "mean_of_others": correlation(rival, seen)})  # fmt: skip
    if not rows:
        raise ValueError(
            f"none of {len(shifts)} perturbations with at least {MIN_CELLS} cells beside controls perturbs regulators of these "
            f"networks alone (they are {list(shifts)[:5]}); infer the networks with regulators=[those genes]"
        )
    observed = pd.DataFrame(np.nan, index=list(shifts), columns=targets)
    observed.loc[:, read] = np.stack([shift.change for shift in shifts.values()])
    return Judged(pd.DataFrame(rows), observed)


@dataclass(frozen=True)
class Shift:
    change: np.ndarray  # of each gene that was read
    n_cells: int
    strata: frozenset


def shift_of(x, labels: np.ndarray, strata: np.ndarray, label: str, control: str) -> Shift | None:
    total, count, used = np.zeros(x.shape[1]), 0, set()
    for stratum in np.unique(strata[labels == label]):
        own, rest = (np.flatnonzero((strata == stratum) & (labels == name)) for name in (label, control))
        if len(rest) < MIN_CELLS or not len(own):
            continue
        total = total + (np.asarray(x[own].mean(0)).ravel() - np.asarray(x[rest].mean(0)).ravel()) * len(own)
        count += len(own)
        used.add(str(stratum))
    return Shift(total / count, count, frozenset(used)) if count >= MIN_CELLS else None


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson; 0 where one of both does not vary, for it then tells nothing."""
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
