"""trajectory: how regulators and edges change along pseudotime, and when they switch."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData

from sccafm._io import blocks
from sccafm.grn.factors import unpack_factors
from sccafm.grn.grn import GRN
from sccafm.model.validation import check_key
from sccafm.tl.comparison import EDGE_OFFSET
from sccafm.tl.shared import check_grn, column, donors_of, log_strength, obs_of
from sccafm.tl.smoothing import Smoother, choose_penalty, curves, make_smoother, switches

MIN_CELLS = 30
BLOCK_CELLS = 64
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Regulation along pseudotime. Made by `sccafm.tl.trajectory`."""

    regulators: pd.DataFrame  # a row per regulator, drivers first
    curves: pd.DataFrame  # a row per point of pseudotime and regulator
    edges: pd.DataFrame | None  # a row per edge of the drivers that changes; None without kept factors
    edge_curves: pd.DataFrame | None
    n_cells: int
    notes: tuple[str, ...] = field(default=())

    @property
    def drivers(self) -> list[str]:
        """Names of the drivers, in the order in which they switch."""
        found = self.regulators[self.regulators["is_driver"]].sort_values("switch", kind="stable")
        return found["regulator"].tolist()

    def __repr__(self) -> str:
        shown = self.regulators[self.regulators["is_driver"]].sort_values("switch", kind="stable").head(8)
        n = len(self.drivers)
        lines = [
            f"{self.n_cells:,} cells along pseudotime; " + (f"{n} drivers, first to switch:" if n else "no driver")
        ]
        lines += [
            f"  {r.regulator} {'up' if r.direction > 0 else 'down'} at {r.switch:.3g} [{r.switch_low:.3g}, {r.switch_high:.3g}]"
            for r in shown.itertuples()
        ]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def trajectory(
    grn: GRN,
    pseudotime: str | pd.Series | Iterable[float],
    *,
    branch: str | pd.Series | Iterable[bool] | None = None,
    sample_key: str | pd.Series | None = None,
    n_drivers: int = 20,
    min_r2: float = 0.02,
    n_edges: int = 200,
    n_bootstrap: int = 100,
    adata: AnnData | None = None,
    key_added: str = "trajectory",
    copy: bool = False,
    random_state: int = 0,
) -> Trajectory:
    """Follow regulators and edges along pseudotime.

    Each regulator's log2 strength is smoothed over single cells by cubic splines with a ridge penalty, which is chosen for
    each regulator by leaving cells out (scikit-learn's SplineTransformer and RidgeCV); no cells are binned. The switch point
    is where a curve passes half of the way between its extremes. Intervals are percentiles over resampled cells, or
    donors. A driver is a regulator whose strength changes much and predictably; whether it causes the change is another question.

    Parameters
    ----------
    grn
        Networks of `sccafm.infer_grn` or `sccafm.read_grn`.
    pseudotime
        A column of obs, a Series indexed by cell names, or a number for each cell.
    branch
        Cells to follow: a column of obs, Series or values of booleans. None: all.
    sample_key
        Donors to resample instead of cells.
    n_drivers
        Regulators to call drivers, at most: those with the largest product of change and R squared.
    min_r2
        R squared that a driver needs.
    n_edges
        Edges of the drivers to tell, chosen likewise. 0: none. Needs ``keep_factors=True``.
    n_bootstrap
        Resamples; 0: no intervals (NaN).
    adata
        Whose obs is read (None: obs as it was at inference), and which is annotated.
    key_added
        Key of uns.
    copy
        Leave `adata` alone.
    random_state
        Of the resamples.

    Returns
    -------
    Trajectory
        `regulators`: regulator, change (log2, between the extremes of its curve), r2 (share of the variance of left-out
        cells that the curve predicts), switch, switch_low, switch_high (pseudotime; 95 % interval), direction (+1 rises,
        -1 falls), is_driver. `curves`: pseudotime, regulator, log2_strength, low, high at 100 points. `edges` and
        `edge_curves` likewise, with source, target, sign and log2_score. In `adata`: ``uns["trajectory"]`` with regulators,
        edges and the drivers' curves.

    Raises
    ------
    ImportError
        scikit-learn is not installed.
    KeyError, ValueError
        No such column, pseudotime that is missing, not finite or the same for all, too few cells, or networks of other
        cells.
    """
    check_key(key_added)
    check_grn(grn)
    obs = obs_of(grn, adata)
    cells = followed(grn, branch, obs)
    time = times(pseudotime, obs, grn.cells, cells)
    smoother = make_smoother(time)
    donors = None if sample_key is None else donors_of(sample_key, obs, grn.cells).to_numpy()[cells]
    samples = resamples(len(cells), donors, n_bootstrap, random_state)
    values = log_strength(grn.strengths.to_numpy()[cells])
    regulators, shown = follow(smoother, values, samples, {"regulator": grn.regulators.to_numpy()}, "log2_strength")
    worth = regulators["change"] * regulators["r2"].clip(lower=0)
    order = np.argsort(-worth, kind="stable")
    drivers = [i for i in order[:n_drivers] if regulators["r2"].iloc[i] >= min_r2]
    regulators["is_driver"] = np.isin(np.arange(len(regulators)), drivers)
    edges = edge_curves = None
    notes = []
    if n_edges and "u_index" not in grn.arrays:
        notes.append("edges are not followed: the scores of cells were not kept; infer with keep_factors=True")
    elif n_edges and drivers:
        chosen = strongest_changes(grn, cells, smoother, np.sort(drivers), n_edges)
        edges, edge_curves = follow_edges(grn, cells, smoother, samples, *chosen)
    found = Trajectory(
        regulators.loc[order].reset_index(drop=True), shown, edges, edge_curves, len(cells), tuple(notes)
    )
    if adata is not None and not copy:
        kept = {"regulators": found.regulators, "curves": shown[shown["regulator"].isin(found.drivers)]}
        adata.uns[key_added] = kept | ({} if edges is None else {"edges": edges})
    return found


def followed(grn: GRN, branch, obs: pd.DataFrame | None) -> np.ndarray:
    """Positions of the branch's cells."""
    if branch is None:
        return np.arange(len(grn))
    labels = column(branch, obs, grn.cells, "branch")
    if not set(labels.astype(str)) <= {"True", "False"}:
        raise ValueError(
            f"branch must say True or False of each cell, got {labels.iloc[0]!r}; for a cell type: "
            'branch=adata.obs["cell_type"].isin(["HSC", "MEP", "Ery"])'
        )
    return np.flatnonzero(labels.astype(str) == "True")


def times(pseudotime, obs: pd.DataFrame | None, names: pd.Index, cells: np.ndarray) -> np.ndarray:
    """Pseudotime of the followed cells."""
    labels = column(pseudotime, obs, names, "pseudotime")
    found = pd.to_numeric(labels, errors="coerce").to_numpy(dtype=float)[cells]
    if len(cells) < MIN_CELLS:
        raise ValueError(f"a trajectory needs at least {MIN_CELLS} cells, got {len(cells)}")
    bad = ~np.isfinite(found)
    if bad.all():
        raise ValueError(
            f"pseudotime must be numbers, {labels.name or 'it'!r} holds {str(labels.iloc[0])!r} and the like; give a column of numbers, "
            'such as adata.obs["dpt_pseudotime"] of sc.tl.dpt'
        )
    if bad.any():
        raise ValueError(
            f"pseudotime is NaN or infinite in {int(bad.sum()):,} of {len(cells):,} cells (first: {names[cells[bad.argmax()]]!r}); "
            f"follow the others: branch=np.isfinite(adata.obs[{str(labels.name)!r}])"
        )
    if found.min() == found.max():
        raise ValueError(f"pseudotime is {found[0]} in every cell; there is nothing to follow")
    return found


def resamples(n: int, donors: np.ndarray | None, size: int, random_state: int) -> list[np.ndarray]:
    """Positions of cells drawn with replacement, or of the cells of donors drawn so."""
    rng = np.random.default_rng(random_state)
    if donors is None:
        return [rng.integers(n, size=n) for _ in range(size)]
    of = [np.flatnonzero(donors == donor) for donor in pd.unique(donors[pd.notna(donors)])]
    if len(of) < 2:
        raise ValueError("sample_key names one donor; intervals over donors need two: leave it out to resample cells")
    return [np.concatenate([of[i] for i in rng.integers(len(of), size=len(of))]) for _ in range(size)]


def follow(
    smoother: Smoother, values: np.ndarray, samples: list[np.ndarray], names: dict[str, np.ndarray], value: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Smooth each column of `values` (C F): a table of features, and one of points."""
    penalty, r2 = choose_penalty(smoother, values)
    curve = curves(smoother, values, penalty)  # P F
    switch, direction = switches(smoother.grid, curve)
    low, high = np.full((2, *curve.shape), np.nan)
    switch_low, switch_high = np.full((2, curve.shape[1]), np.nan)
    if samples:
        again = np.stack([curves(smoother, values, penalty, cells) for cells in samples]).astype(np.float32)
        low, high = np.percentile(again, INTERVAL, axis=0)
        found = np.stack([switches(smoother.grid, one)[0] for one in again])
        switch_low, switch_high = np.percentile(found, INTERVAL, axis=0)
    features = pd.DataFrame(
        names
        | {
            "change": np.ptp(curve, axis=0),
            "r2": r2,
            "switch": switch,
            "switch_low": switch_low,
            "switch_high": switch_high,
            "direction": direction.astype(np.int8),
        }
    )
    points = {"pseudotime": np.repeat(smoother.grid, curve.shape[1])}
    points |= {name: np.tile(labels, len(smoother.grid)) for name, labels in names.items()}
    return features, pd.DataFrame(points | {value: curve.ravel(), "low": low.ravel(), "high": high.ravel()})


def scores_of(grn: GRN, cells: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Scores of some regulators on all targets in some cells, without self-edges: C R G."""
    size = grn.context.shape[1]
    index, value = (np.asarray(grn.arrays[f"u_{kind}"][cells])[:, rows] for kind in ("index", "value"))
    u = unpack_factors(index, value, size)
    v_index, v_value = (np.asarray(grn.arrays[f"v_{kind}"][cells]) for kind in ("index", "value"))
    v = unpack_factors(v_index, v_value, size)
    found = (u @ v.transpose(0, 2, 1)).astype(np.float64)
    found[:, np.arange(len(rows)), grn.targets.get_indexer(grn.regulators[rows])] = 0
    return found


def strongest_changes(
    grn: GRN, cells: np.ndarray, smoother: Smoother, rows: np.ndarray, n_edges: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Regulator and target of the edges whose curves change most, and what is added to scores before the logarithm.

    Curves of all edges come from one pass over the cells: a ridge fit needs no more of them than their products with the
    basis.
    """
    shape = len(rows), len(grn.targets)
    mean = np.zeros(shape)
    for start, stop in blocks(len(cells), BLOCK_CELLS):
        mean += scores_of(grn, cells[start:stop], rows).sum(0)
    mean /= len(cells)
    offset = EDGE_OFFSET * float(np.median(mean[mean > 0])) if (mean > 0).any() else 1.0
    centered = smoother.basis - smoother.basis.mean(0)
    products, square, total = np.zeros((centered.shape[1], *shape)), np.zeros(shape), np.zeros(shape)
    for start, stop in blocks(len(cells), BLOCK_CELLS):
        values = np.log2(scores_of(grn, cells[start:stop], rows) + offset)
        products += np.einsum("ck,crg->krg", centered[start:stop], values)
        square, total = square + (values**2).sum(0), total + values.sum(0)
    k = centered.shape[1]
    weights = np.linalg.solve(centered.T @ centered + np.eye(k), products.reshape(k, -1))
    curve = (smoother.grid_basis - smoother.basis.mean(0)) @ weights  # P (R G), but for each edge's mean
    variance = (square - total**2 / len(cells)).ravel()
    told = (weights * products.reshape(k, -1)).sum(0)
    r2 = np.divide(told, variance, out=np.zeros_like(told), where=variance > 1e-12)
    worth = np.ptp(curve, axis=0) * np.clip(r2, 0, 1)
    worth[(mean < np.median(mean[mean > 0])).ravel() if (mean > 0).any() else ...] = 0  # edges that are next to nothing
    best = np.argsort(-worth, kind="stable")[: min(n_edges, int((worth > 0).sum()))]
    source, target = np.divmod(best, shape[1])
    return rows[source], target, offset


def follow_edges(grn, cells, smoother, samples, source, target, offset) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows, place = np.unique(source, return_inverse=True)
    parts = [
        scores_of(grn, cells[start:stop], rows)[:, place, target] for start, stop in blocks(len(cells), BLOCK_CELLS)
    ]
    names = {"source": grn.regulators.to_numpy()[source], "target": grn.targets.to_numpy()[target]}
    values = np.log2(np.concatenate(parts) + offset)
    edges, shown = follow(smoother, values, samples, names, "log2_score")
    edges.insert(2, "sign", grn.pairs.sign[source, target])
    return edges, shown
