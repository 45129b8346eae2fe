"""edge: the strength of one edge, cell by cell, on a map."""

from pathlib import Path

import numpy as np
import pandas as pd

from sccafm._io import blocks
from sccafm.grn.grn import GRN
from sccafm.pl.canvas import bare, finish, new_axes
from sccafm.pl.contexts import REST, on_map

BLOCK_CELLS = 500


def edge(
    grn: GRN,
    source: str,
    target: str,
    adata,
    *,
    basis: str = "X_umap",
    ax=None,
    show: bool = False,
    save: str | Path | None = None,
):
    """Draw the weight of an edge in every cell over an embedding.

    Parameters
    ----------
    grn
        Networks of cells.
    source, target
        Regulator and gene, by name.
    adata
        Cells with ``obsm[basis]``.
    basis
        Key of obsm.
    ax, show, save
        See `sccafm.pl`.

    Returns
    -------
    matplotlib.axes.Axes
        Cells that do not keep the edge are grey; with ``keep_factors=True`` the weight of every cell is known.

    Raises
    ------
    KeyError
        No such regulator, gene or basis.
    """
    weight = weights_of(grn, source, target)
    at = on_map(grn, adata, basis)
    ax = new_axes(ax, 4.9, 4.0)
    size = float(np.clip(6000 / max(len(at), 1), 1.5, 22))
    missing = weight.isna().to_numpy()
    if missing.any():
        ax.scatter(*at[missing].T, s=size, color=REST, lw=0)
    order = np.flatnonzero(~missing)[np.argsort(weight[~missing].to_numpy(), kind="stable")]  # strong ones on top
    dots = ax.scatter(*at[order].T, s=size, c=weight.to_numpy()[order], cmap="viridis", lw=0, vmin=0)
    bar = ax.figure.colorbar(dots, ax=ax, shrink=0.6, aspect=14, pad=0.01)
    bar.set_label("weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    bare(ax)
    said = f"; {missing.sum():,} of {len(weight):,} cells do not keep it (grey)" if missing.any() else ""
    ax.set_title(f"{source} → {target}{said}", fontsize=9)
    name = basis.removeprefix("X_")
    ax.set_xlabel(f"{name} 1", fontsize=8)
    ax.set_ylabel(f"{name} 2", fontsize=8)
    return finish(ax, show, save)


def weights_of(grn: GRN, source: str, target: str) -> pd.Series:
    """Weight of one edge in each cell, float64: exact with kept factors, else NaN where the cell does not keep the edge."""
    for name, index, kind in ((source, grn.regulators, "regulator"), (target, grn.targets, "gene")):
        if name not in index:
            raise KeyError(f"{name!r} is no {kind} of this GRN; they look like {index[0]!r}")
    row, column = grn.regulators.get_loc(source), grn.targets.get_loc(target)
    weight = np.full(len(grn), np.nan)
    for start, stop in blocks(len(grn), BLOCK_CELLS):
        if grn.params["run"]["keep_factors"]:
            u, v = (
                factor_rows(grn, name, place, start, stop) for name, place in (("u", row), ("v", column))
            )  # cells x factors
            weight[start:stop] = (u * v).sum(1)
        else:
            found = grn.edges.of(np.arange(start, stop))
            own = found.edge == row * len(grn.targets) + column
            weight[found.cell[own]] = found.weight[own]
    return pd.Series(weight, index=grn.cells, name=f"{source} -> {target}")


def factor_rows(grn: GRN, name: str, place: int, start: int, stop: int) -> np.ndarray:
    from sccafm.grn.factors import unpack_factors

    index, value = (np.asarray(grn.arrays[f"{name}_{kind}"][start:stop, place]) for kind in ("index", "value"))
    return unpack_factors(index, value, grn.context.shape[1])
