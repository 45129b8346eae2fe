"""Numbers of one group of cells beside the others: means with intervals, and AUROC."""

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95  # of intervals
REGULATORS_AT_ONCE = 64


def group_moments(values: np.ndarray, codes: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and squared standard error of each column in each group, K T, and cells of a group, K; code -1 counts nowhere."""
    mean, error, size = np.zeros((n, values.shape[1])), np.zeros((n, values.shape[1])), np.zeros(n)
    for k in range(n):
        own = values[codes == k]
        mean[k], size[k] = own.mean(0), len(own)
        error[k] = own.var(0, ddof=1) / len(own)
    return mean, error, size


def beside_others(mean: np.ndarray, error: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each group's mean less the mean of the other groups' means, with Welch's interval: three K T.

    Every group counts the same, however many cells it has.
    """
    n = len(mean)
    effect = mean - (mean.sum(0) - mean) / (n - 1)
    shared = (error.sum(0) - error) / (n - 1) ** 2
    variance = error + shared
    parts = error**2 / (size - 1)[:, None]
    squares = parts + (parts.sum(0) - parts) / (n - 1) ** 4
    freedom = np.divide(variance**2, squares, out=np.full_like(variance, np.inf), where=squares > 0)
    half = stats.t.ppf(0.5 + LEVEL / 2, np.maximum(freedom, 1)) * np.sqrt(variance)
    return effect, effect - half, effect + half


def beside_others_by_sample(
    values: np.ndarray, codes: np.ndarray, n: int, samples: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with a difference in each sample, and Student's interval over the samples that hold the group and others.

    NaN where fewer than one (effect) or two (interval) samples do.
    """
    width = values.shape[1]
    differences = [[] for _ in range(n)]
    for sample in np.unique(samples):
        inside = samples == sample
        means = {k: values[inside & (codes == k)].mean(0) for k in np.unique(codes[inside & (codes >= 0)])}
        for k, own in means.items():
            if len(means) > 1:
                differences[k].append(own - np.mean([mean for other, mean in means.items() if other != k], axis=0))
    effect, low, high = np.full((3, n, width), np.nan)
    for k, found in enumerate(differences):
        if found:
            effect[k] = np.mean(found, axis=0)
        if len(found) > 1:
            half = stats.t.ppf(0.5 + LEVEL / 2, len(found) - 1) * np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
            low[k], high[k] = effect[k] - half, effect[k] + half
    return effect, low, high


def group_auroc(values: np.ndarray, codes: np.ndarray, n: int) -> np.ndarray:
    """Probability that a cell of the group has more than one of the other groups, ties half: K T."""
    kept = codes >= 0
    found = np.empty((n, values.shape[1]))
    for start in range(0, values.shape[1], REGULATORS_AT_ONCE):
        part = slice(start, start + REGULATORS_AT_ONCE)
        rank = stats.rankdata(values[kept, part], axis=0)
        for k in range(n):
            own = codes[kept] == k
            size, rest = own.sum(), (~own).sum()
            found[k, part] = (rank[own].sum(0) - size * (size + 1) / 2) / (size * rest)
    return found


def long_table(names: pd.Index, groups: pd.Index, **columns: np.ndarray) -> pd.DataFrame:
    """K T arrays as a long table, group by group."""
    ends = {
        "group": pd.Categorical.from_codes(np.repeat(np.arange(len(groups)), len(names)), groups),
        "regulator": np.tile(names.to_numpy(), len(groups)),
    }
    return pd.DataFrame(ends | {name: array.ravel() for name, array in columns.items()})
