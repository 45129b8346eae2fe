"""contexts: through which factors the regulation of cells flows, on a map or by group."""

from pathlib import Path

import numpy as np
import pandas as pd

from sccafm.grn.grn import GRN
from sccafm.pl.canvas import INK, bare, check_choice, finish, new_axes, open_frame, pyplot
from sccafm.tl.shared import check_grn

REST = "#d5d8dc"
KINDS = ("composition", "map")


def contexts(
    grn: GRN,
    adata=None,
    *,
    kind: str | None = None,
    basis: str = "X_umap",
    n_top: int = 8,
    groupby: str | pd.Series | None = None,
    ax=None,
    show: bool = False,
    save: str | Path | None = None,
):
    """Draw contexts: the mean share of each factor by group, or each cell's leading factor on a map.

    Parameters
    ----------
    grn
        Networks of cells.
    adata
        Cells with ``obsm[basis]``, for a map.
    kind
        "composition" or "map"; None: a map where `adata` is given.
    basis
        Key of obsm with two or more columns.
    n_top
        Factors with a colour of their own, those with the largest mean share (led cells, for a map); the rest is grey.
    groupby
        Labels of the cells for a composition: a column of the inference's obs, or a Series; None: the groups of `grn`.
    ax, show, save
        See `sccafm.pl`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    KeyError
        No such basis, or a cell of `grn` is not in `adata`.
    ValueError
        A map without `adata`.
    """
    check_grn(grn)
    kind = check_choice(("map" if adata is not None else "composition") if kind is None else kind, KINDS, "kind")
    if kind == "composition":
        ax = composition(grn if groupby is None else grn.regroup(groupby), n_top, ax)
    else:
        if adata is None:
            raise ValueError('a map needs cells: contexts(grn, adata, kind="map")')
        ax = leading(grn, on_map(grn, adata, basis), basis, n_top, ax)
    return finish(ax, show, save)


def on_map(grn: GRN, adata, basis: str) -> np.ndarray:
    """Two coordinates of each cell of `grn`."""
    if basis not in adata.obsm:
        mend = "sc.pp.neighbors(adata, use_rep='X_sccafm_sfm'); sc.tl.umap(adata)"
        raise KeyError(f"adata.obsm has no {basis!r}; there are {list(adata.obsm)}. {mend} makes X_umap")
    rows = adata.obs_names.get_indexer(grn.cells)
    if (rows < 0).any():
        missing = grn.cells[rows < 0]
        raise KeyError(f"{len(missing):,} cells of the networks are not in adata, first {missing[0]!r}")
    return np.asarray(adata.obsm[basis])[rows, :2]


def palette(n: int) -> list:
    return [pyplot().get_cmap("tab20")(i) for i in [*range(0, 20, 2), *range(1, 20, 2)]][:n]


def composition(grn: GRN, n_top: int, ax):
    share = grn.context.groupby(grn.groups, observed=True).mean()  # groups x factors
    order = share.mean().sort_values(ascending=False, kind="stable").index[: min(n_top, 20)]
    names = dict(zip(share.columns, grn.params["factors"], strict=True))
    ax = new_axes(ax, 8.4, 1.0 + 0.24 * len(share))
    left = np.zeros(len(share))
    rows = np.arange(len(share))
    for factor, color in zip(order, palette(len(order)), strict=True):
        ax.barh(rows, share[factor], left=left, color=color, height=0.8, label=short(names[factor]))
        left += share[factor].to_numpy()
    ax.barh(rows, 1 - left, left=left, color=REST, height=0.8, label=f"{share.shape[1] - len(order)} others")
    ax.set_yticks(rows, share.index.astype(str), fontsize=8, color=INK)
    ax.set(xlim=(0, 1), ylim=(len(share) - 0.4, -0.6))
    ax.set_xlabel("mean share of a cell's regulation", fontsize=8)
    open_frame(ax)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False)
    return ax


def leading(grn: GRN, at: np.ndarray, basis: str, n_top: int, ax):
    label = grn.context_label
    order = label.value_counts().loc[lambda n: n > 0].index[: min(n_top, 20)]
    ax = new_axes(ax, 7.4, 4.0)
    size = float(np.clip(6000 / max(len(at), 1), 1.5, 22))
    rest = ~label.isin(order).to_numpy()
    if rest.any():
        ax.scatter(*at[rest].T, s=size, color=REST, lw=0, label="other")
    for name, color in zip(order, palette(len(order)), strict=True):
        own = (label == name).to_numpy()
        ax.scatter(*at[own].T, s=size, color=color, lw=0, label=f"{short(name)} ({own.sum():,})")
    bare(ax)
    name = basis.removeprefix("X_")
    ax.set_xlabel(f"{name} 1", fontsize=8)
    ax.set_ylabel(f"{name} 2", fontsize=8)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False, markerscale=20 / size / 3 + 1)
    return ax


def short(name: str, most: int = 56) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
