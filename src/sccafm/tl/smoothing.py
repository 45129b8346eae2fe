"""Curves along pseudotime: penalised regression splines, and where a curve switches."""

from dataclasses import dataclass

import numpy as np

GRID = 100  # points at which a curve is told
KNOTS = 6
DEGREE = 3
PENALTIES = 10.0 ** np.arange(-3, 4)


@dataclass(frozen=True, eq=False)
class Smoother:
    """Spline basis of some cells' pseudotime, and of a grid over its range."""

    basis: np.ndarray  # C K, of the cells
    grid: np.ndarray  # P pseudotime, rising
    grid_basis: np.ndarray  # P K


def make_smoother(pseudotime: np.ndarray) -> Smoother:
    """Cubic B-splines with knots at quantiles, so that every stretch has cells.

    Raises
    ------
    ImportError
        scikit-learn is not installed.
    """
    try:
        from sklearn.preprocessing import SplineTransformer
    except ImportError as error:
        raise ImportError('trajectories need scikit-learn: pip install "sccafm[trajectory]"') from error
    knots = np.unique(np.quantile(pseudotime, np.linspace(0, 1, KNOTS)))
    splines = SplineTransformer(degree=DEGREE, knots=knots[:, None], include_bias=False, extrapolation="linear")
    grid = np.linspace(pseudotime.min(), pseudotime.max(), GRID)
    return Smoother(splines.fit_transform(pseudotime[:, None]), grid, splines.transform(grid[:, None]))


def choose_penalty(smoother: Smoother, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge penalty of each column by leave-one-out, and the share of its variance that is then predicted.

    Parameters
    ----------
    values
        C F.

    Returns
    -------
    Penalties (F) and R squared of left-out cells (F), at most 1; below 0 where the mean would be better. 0 for constants.
    """
    from sklearn.linear_model import RidgeCV

    centered = values - values.mean(0)
    model = RidgeCV(PENALTIES, alpha_per_target=True, scoring=None).fit(smoother.basis, centered)
    variance = centered.var(0)
    error = -np.atleast_1d(model.best_score_)
    r2 = np.divide(error, variance, out=np.ones_like(variance), where=variance > 0)
    return np.broadcast_to(model.alpha_, variance.shape), 1 - r2


def curves(smoother: Smoother, values: np.ndarray, penalty: np.ndarray, cells: np.ndarray | None = None) -> np.ndarray:
    """Smoothed values at the grid, P F; `cells` are positions, with repeats, of a bootstrap sample."""
    from sklearn.linear_model import Ridge

    x, y = (smoother.basis, values) if cells is None else (smoother.basis[cells], values[cells])
    return Ridge(penalty, solver="cholesky").fit(x, y).predict(smoother.grid_basis).reshape(len(smoother.grid), -1)


def switches(grid: np.ndarray, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each curve passes half of the way between its extremes, and whether it rises (+1) or falls (-1) there.

    Parameters
    ----------
    grid
        P, rising.
    curve
        P F.

    Returns
    -------
    Pseudotime (F, between grid points by interpolation) and direction (F); of several passages the last before the later
    extreme.
    """
    columns = np.arange(curve.shape[1])
    low, high = curve.argmin(0), curve.argmax(0)
    half = (curve[low, columns] + curve[high, columns]) / 2
    first, last = np.minimum(low, high), np.maximum(low, high)
    direction = np.where(high >= low, 1, -1)
    above = (curve - half) * direction  # rises from below 0 to above it between both extremes
    steps = np.arange(len(grid) - 1)[:, None]
    passes = (above[:-1] < 0) & (above[1:] >= 0) & (steps >= first) & (steps < last)
    step = np.where(passes.any(0), len(grid) - 2 - passes[::-1].argmax(0), first)
    step = np.minimum(step, len(grid) - 2)
    a, b = above[step, columns], above[step + 1, columns]
    share = np.clip(np.divide(-a, b - a, out=np.zeros_like(a), where=b != a), 0, 1)
    return grid[step] + share * (grid[step + 1] - grid[step]), direction
