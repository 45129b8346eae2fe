"""compare: what differs between two conditions, as a volcano, and how one regulator's targets change."""

from pathlib import Path

import numpy as np
import pandas as pd

from sccafm.pl.canvas import INK, check_choice, finish, label_points, new_axes, open_frame

TABLES = ("regulators", "edges", "contexts")
UP, DOWN, FLAT = "#b2314a", "#2b6ca3", "#c4c8ce"

LONGEST = 26  # characters of a context's name beside its point; tables have it whole


def compare(
    comparison,
    *,
    table: str = "regulators",
    group: str | None = None,
    regulator: str | None = None,
    n_labels: int = 12,
    max_fdr: float = 0.05,
    ax=None,
    show: bool = False,
    save: str | Path | None = None,
):
    """Draw what `sccafm.tl.compare` found.

    Without `regulator` a volcano: effect, and how sure it is (q-value) or, where nothing was tested, how strong the
    regulation is. With `regulator` its targets: mean weight in one condition beside that in the other.

    Parameters
    ----------
    comparison
        What `sccafm.tl.compare` returns.
    table
        "regulators", "edges" or "contexts", for a volcano.
    group
        Group of cells; None: all that were compared together, or the only one.
    regulator
        Whose targets are drawn instead.
    n_labels
        Names to write, of the largest effects (among those below `max_fdr`, where there are such).
    max_fdr
        q-value up to which points are coloured; untested points are coloured by the sign of their effect.
    ax, show, save
        See `sccafm.pl`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    KeyError
        No such group or regulator.
    ValueError
        Several groups and none named, or edges that were not compared.
    """
    check_choice(table, TABLES, "table")
    table = "edges" if regulator is not None else table
    found = getattr(comparison, table)
    if found is None:
        raise ValueError(f"edges were not compared: {'; '.join(comparison.notes) or 'see compare(n_edges=)'}")
    found = of_group(found, group)
    contrast = comparison.contrast
    if regulator is not None:
        ax = rewiring(found, regulator, contrast, n_labels, ax)
    else:
        ax = volcano(found, names_of(found), contrast, n_labels, max_fdr, ax)
    groups = pd.unique(found["group"].astype(str))
    where = "" if len(groups) == 1 and groups[0] == "all" else f", {groups[0]}"
    what = f"targets of {regulator}" if regulator is not None else table
    ax.set_title(f"{what}: {contrast[0]} beside {contrast[1]}{where}", fontsize=9, color=INK)
    return finish(ax, show, save)


def of_group(table: pd.DataFrame, group: str | None) -> pd.DataFrame:
    present = list(pd.unique(table["group"].astype(str)))
    if group is None and len(present) > 1:
        raise ValueError(f"{len(present)} groups were compared; pick one: group={present[0]!r}")
    group = present[0] if group is None else str(group)
    if group not in present:
        raise KeyError(f"no group {group!r} in the comparison; there are {present}")
    return table[(table["group"].astype(str) == group).to_numpy()].reset_index(drop=True)


def names_of(table: pd.DataFrame) -> pd.Series:
    if "source" in table:
        return table["source"].astype(str) + " → " + table["target"].astype(str)
    if "regulator" in table:
        return table["regulator"].astype(str)
    names = table["context"].astype(str).str.split(",").str[0]  # the factor and the regulators that lead it
    return names.where(names.str.len() <= LONGEST, names.str.slice(0, LONGEST - 1).str.rstrip() + "…")


def volcano(table: pd.DataFrame, names: pd.Series, contrast, n_labels: int, max_fdr: float, ax):
    tested = table["qvalue"].notna().any()
    x = table["effect"].to_numpy(float)
    mean = (table["test_mean"] + table["reference_mean"]).to_numpy(float) / 2
    q = table["qvalue"].to_numpy(float)
    y = -np.log10(np.maximum(np.nan_to_num(q, nan=1.0), 1e-300)) if tested else mean
    is_sure = np.nan_to_num(q, nan=1.0) <= max_fdr if tested else np.ones(len(table), bool)
    color = np.where(is_sure, np.where(x > 0, UP, DOWN), FLAT)
    ax = new_axes(ax, 4.8, 4.0)
    shown = np.ones(len(table), bool) if tested else mean > 0
    ax.scatter(x[shown], y[shown], s=9, c=color[shown], lw=0, alpha=0.8 if tested else 0.3)
    if tested:
        ax.axhline(-np.log10(max_fdr), color="#9aa0a8", lw=0.7, ls=(0, (4, 3)))
        ax.set_ylabel("-log10 q-value", fontsize=8)
    else:
        ax.set_yscale("log")
        ax.set_ylabel("mean of both conditions (nothing was tested)", fontsize=8)
    ax.axvline(0, color="#9aa0a8", lw=0.7)
    end = max(float(np.nanmax(np.abs(x[shown]))) * 1.15, 1e-6)
    ax.set_xlim(-end, end)
    ax.set_xlabel(f"effect (log2)   {contrast[1]}  ←  →  {contrast[0]}", fontsize=8)
    open_frame(ax)
    worth = np.abs(x) * (is_sure if is_sure.any() else 1)
    if not tested:  # large effects of what is next to nothing are no news
        worth = worth * np.sqrt(np.sqrt(mean))
    first = labelled(np.where(shown, worth, 0), x > 0, n_labels)
    ax.scatter(x[first], y[first], s=11, c=color[first], lw=0)
    label_points(ax, x[first], y[first], names.iloc[first], np.column_stack([x, y])[shown])
    return ax


def labelled(worth: np.ndarray, is_up: np.ndarray, n: int) -> np.ndarray:
    """Positions of the most worth, half of them on each side where there are as many."""
    order = np.argsort(-worth, kind="stable")
    order = order[worth[order] > 0]
    up, down = order[is_up[order]], order[~is_up[order]]
    n_up = min(len(up), max(n // 2, n - len(down)))
    return np.concatenate([up[:n_up], down[: n - n_up]])


def rewiring(table: pd.DataFrame, regulator: str, contrast, n_labels: int, ax):
    own = table[(table["source"].astype(str) == regulator).to_numpy()]
    if own.empty:
        raise KeyError(f"no compared edge begins at {regulator!r}; compare more: n_edges=")
    x, y = own["reference_mean"].to_numpy(float), own["test_mean"].to_numpy(float)
    ax = new_axes(ax, 4.4, 4.2)
    end = 1.06 * max(x.max(), y.max())
    ax.plot([0, end], [0, end], color="#9aa0a8", lw=0.7, zorder=1)
    ax.scatter(x, y, s=14, c=np.where(own["effect"] > 0, UP, DOWN), lw=0, alpha=0.85, zorder=2)
    ax.set(xlim=(0, end), ylim=(0, end), aspect="equal")
    ax.set_xlabel(f"mean weight, {contrast[1]}", fontsize=8)
    ax.set_ylabel(f"mean weight, {contrast[0]}", fontsize=8)
    open_frame(ax)
    first = np.argsort(-np.abs(y - x), kind="stable")[:n_labels]
    label_points(ax, x[first], y[first], own["target"].astype(str).iloc[first], np.column_stack([x, y]))
    return ax
