"""trajectory: regulators or edges along pseudotime, as rows of colour or as curves."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from sccafm.pl.canvas import INK, check_choice, finish, new_axes, open_frame, pyplot

KINDS = ("heatmap", "curves")


def trajectory(
    trajectory,
    names: str | Iterable[str] | None = None,
    *,
    kind: str | None = None,
    edges: bool = False,
    n_top: int = 20,
    ax=None,
    show: bool = False,
    save: str | Path | None = None,
):
    """Draw what `sccafm.tl.trajectory` found.

    Parameters
    ----------
    trajectory
        Its result.
    names
        Regulators, or edges as "STAT1 -> IRF1"; None: the `n_top` that change most.
    kind
        "heatmap": a row each, in the order of their switch points, which are marked. "curves": lines with 95 % bands.
        None: curves for up to six names that were asked for.
    edges
        Draw edges, not regulators.
    n_top
        Rows or curves, where no names are given.
    ax, show, save
        See `sccafm.pl`.

    Returns
    -------
    matplotlib.axes.Axes
        A heatmap shows each curve less its mean, in log2; curves show log2 strength (score, of edges).

    Raises
    ------
    KeyError
        A name is not in the result.
    ValueError
        Edges were not followed.
    """
    features, points, value = parts_of(trajectory, edges)
    wanted = None if names is None else [names] if isinstance(names, str) else list(names)
    if kind is None:
        kind = "curves" if wanted is not None and len(wanted) <= 6 else "heatmap"
    check_choice(kind, KINDS, "kind")
    if wanted is None:
        wanted = list(features["name"].head(n_top))
    unknown = [name for name in wanted if name not in set(features["name"])]
    if unknown:
        raise KeyError(f"{unknown[0]!r} was not followed; there are {list(features['name'][:5])}, ...")
    features = features.drop_duplicates("name").set_index("name").loc[wanted]
    wide = points[points["name"].isin(wanted)].pivot(index="name", columns="pseudotime", values=[value, "low", "high"])
    draw = heatmap if kind == "heatmap" else lines
    return finish(draw(features, wide, value, ax), show, save)


def parts_of(trajectory, edges: bool) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Features and points with a column name, and the column of the curve."""
    if not edges:
        tables, value, ends = (trajectory.regulators, trajectory.curves), "log2_strength", ["regulator"]
    elif trajectory.edges is None:
        raise ValueError("; ".join(trajectory.notes) or "edges were not followed; see trajectory(n_edges=)")
    else:
        tables, value, ends = (trajectory.edges, trajectory.edge_curves), "log2_score", ["source", "target"]
    features, points = (t.assign(name=t[ends].astype(str).agg(" -> ".join, axis=1)) for t in tables)
    return features, points, value


def heatmap(features: pd.DataFrame, wide: pd.DataFrame, value: str, ax):
    features = features.sort_values("switch", kind="stable")
    curve = wide[value].loc[features.index]
    values = curve.sub(curve.mean(axis=1), axis=0).to_numpy()
    time = curve.columns.to_numpy(float)
    longest = max(map(len, features.index))
    ax = new_axes(ax, 4.6 + 0.06 * longest, 1.1 + 0.2 * len(features))
    end = np.abs(values).max() or 1.0
    half = (time[1] - time[0]) / 2
    image = ax.imshow(
        values, aspect="auto", cmap="RdBu_r", vmin=-end, vmax=end, interpolation="nearest",
        extent=(time[0] - half, time[-1] + half, len(features) - 0.5, -0.5),
    )  # fmt: skip
    rows = np.arange(len(features))
    ax.hlines(rows, features["switch_low"], features["switch_high"], color=INK, lw=0.8)
    ax.plot(features["switch"], rows, "o", color="white", ms=3.2, mec=INK, mew=0.8, label="switch")
    ax.set_yticks(rows, features.index, fontsize=7.5, color=INK)
    ax.set_xlabel("pseudotime", fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=8)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, aspect=16, pad=0.02)
    bar.set_label(f"{value.replace('_', ' ')}, less its mean", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return ax


def lines(features: pd.DataFrame, wide: pd.DataFrame, value: str, ax):
    ax = new_axes(ax, 5.4, 3.4)
    time = wide[value].columns.to_numpy(float)
    colors = pyplot().get_cmap("tab10" if len(features) <= 10 else "tab20")
    for i, (name, row) in enumerate(features.iterrows()):
        color = colors(i % colors.N)
        ax.fill_between(
            time, *(wide[side].loc[name].to_numpy(float) for side in ("low", "high")), color=color, alpha=0.15, lw=0
        )
        ax.plot(time, wide[value].loc[name], color=color, lw=1.5, label=name)
        if np.isfinite(row["switch"]):
            ax.plot(row["switch"], np.interp(row["switch"], time, wide[value].loc[name]), "o", color=color, ms=4)
    ax.set_xlabel("pseudotime", fontsize=8)
    ax.set_ylabel(value.replace("_", " "), fontsize=8)
    open_frame(ax)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False)
    return ax
