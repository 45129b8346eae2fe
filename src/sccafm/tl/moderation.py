"""Moderated t: many features, few replicates (Smyth, Statistical Applications in Genetics and Molecular Biology 2004).

Variances of single features borrow from the distribution of all: `s2` of `df` degrees of freedom is drawn to a common
`s0` of `df0`, both estimated from the log variances by the method of moments. Features of the same donors are correlated,
so that a thousand of them are no thousand observations of the variance: together they have no more degrees of freedom than
as many independent features as their residuals show, and the prior never counts for more than the donors themselves.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

LEVEL = 0.95
LEAST = 1e-6  # of the median variance: smaller ones are taken for this


@dataclass(frozen=True, eq=False)
class Tested:
    """Of each feature: the estimate, its 95 % interval, t and two-sided p; NaN where it cannot be tested."""

    effect: np.ndarray
    low: np.ndarray
    high: np.ndarray
    t: np.ndarray
    pvalue: np.ndarray


def prior_variance(s2: np.ndarray, df: float) -> tuple[float, float]:
    """`s0` squared and `df0` of a scaled F distribution fitted to variances of `df` degrees of freedom; df0 may be inf."""
    e = np.log(s2) - special.digamma(df / 2) + np.log(df / 2)
    excess = e.var(ddof=1) - special.polygamma(1, df / 2) if len(e) > 1 else 0.0
    if excess <= 0:
        return float(np.exp(e.mean())), np.inf
    df0 = 2 * inverse_trigamma(excess)
    return float(np.exp(e.mean() + special.digamma(df0 / 2) - np.log(df0 / 2))), df0


def inverse_trigamma(value: float) -> float:
    return float(np.exp(optimize.brentq(lambda x: special.polygamma(1, np.exp(x)) - value, -12, 12)))


def independent_features(residuals: np.ndarray, df: int) -> float:
    """How many independent features would tell as much of a common variance: 1 / mean squared correlation, 1 to F.

    Parameters
    ----------
    residuals
        N F, of `df` degrees of freedom; chance alone gives correlations of mean square 1 / df, which is taken off.
    """
    unit = residuals / np.linalg.norm(residuals, axis=0)
    n = unit.shape[1]
    square = ((unit @ unit.T) ** 2).sum() / n**2
    if df < 2:
        return 1.0
    return float(1 / np.clip((square - 1 / df) / (1 - 1 / df), 1 / n, 1))


def moderated(effect: np.ndarray, residuals: np.ndarray, df: int, scale: float) -> Tested:
    """Test of each feature; one whose donors do not vary at all is not tested.

    Parameters
    ----------
    effect
        F estimates; NaN is no feature.
    residuals
        N F, around the estimates, of `df` degrees of freedom.
    scale
        The variance of an estimate is that of a residual times this (1 / n of n differences, 1 / a + 1 / b of two groups).
    """
    s2 = (residuals**2).sum(0) / max(df, 1)
    known = np.isfinite(effect) & (s2 > 0) & (df > 0)
    out = np.full((4, len(effect)), np.nan)
    if known.any():
        s2 = np.maximum(s2[known], LEAST * np.median(s2[known]))
        s0, df0 = prior_variance(s2, df)
        df0 = min(df0, df, (independent_features(residuals[:, known], df) - 1) * df)
        error = np.sqrt((df0 * s0 + df * s2) / (df0 + df) * scale)
        half = stats.t.ppf(0.5 + LEVEL / 2, df0 + df) * error
        t = effect[known] / error
        out[:, known] = effect[known] - half, effect[known] + half, t, 2 * stats.t.sf(np.abs(t), df0 + df)
    return Tested(effect, *out)


def paired(one: np.ndarray, other: np.ndarray) -> Tested:
    """`one` less `other`, N F each, of the same N donors."""
    difference = one - other
    mean = difference.mean(0)
    return moderated(mean, difference - mean, len(difference) - 1, 1 / len(difference))


def unpaired(one: np.ndarray, other: np.ndarray) -> Tested:
    """`one`, A F, less `other`, B F, of different donors."""
    residuals = np.concatenate([one - one.mean(0), other - other.mean(0)])
    effect, scale = one.mean(0) - other.mean(0), 1 / len(one) + 1 / len(other)
    return moderated(effect, residuals, len(residuals) - 2, scale)
