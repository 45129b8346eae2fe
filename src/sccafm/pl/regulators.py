"""regulators: which regulators mark which group, as a dot plot."""

from pathlib import Path

import numpy as np
import pandas as pd

from sccafm.pl.canvas import INK, finish, new_axes

NEEDED = ("group", "regulator", "specificity", "detection")
LARGEST = 120.0  # points squared, of a regulator that all cells show


def regulators(
    table: pd.DataFrame,
    *,
    n_top: int = 4,
    regulators: list[str] | None = None,
    groups: list[str] | None = None,
    min_detection: float = 0.1,
    ax=None,
    show: bool = False,
    save: str | Path | None = None,
):
    """Draw regulators by group: specificity as colour, share of cells that show the regulator as size.

    Parameters
    ----------
    table
        What `sccafm.tl.rank_regulators` returns: columns group, regulator, specificity, detection.
    n_top
        Most specific regulators of each group to show; one that two groups share stands where it is first.
    regulators
        Show these instead, in this order.
    groups
        Groups to show, in this order; None: all.
    min_detection
        Regulators that fewer of a group's cells show, 0 to 1, are not chosen for it (but shown where asked for).
    ax, show, save
        See `sccafm.pl`.

    Returns
    -------
    matplotlib.axes.Axes
        Columns are regulators, rows groups. Colours end at the largest absolute specificity shown.

    Raises
    ------
    KeyError
        A column, group or regulator is absent.
    ValueError
        No regulator is left.
    """
    missing = [name for name in NEEDED if name not in table]
    if missing:
        raise KeyError(f"the table has no {missing}; pass what sccafm.tl.rank_regulators returns")
    table = table.astype({"group": str, "regulator": str})
    groups = list(pd.unique(table["group"])) if groups is None else [str(group) for group in groups]
    absent = [group for group in groups if group not in set(table["group"])]
    if absent:
        raise KeyError(f"no group {absent[0]!r} in the table; there are {list(pd.unique(table['group']))}")
    shown = top_regulators(table, groups, n_top, min_detection) if regulators is None else list(regulators)
    unknown = [name for name in shown if name not in set(table["regulator"])]
    if unknown:
        raise KeyError(f"no regulator {unknown[0]!r} in the table")
    if not shown:
        raise ValueError(f"no regulator is seen in a share of {min_detection} of a group; lower min_detection")
    wide = table.drop_duplicates(["group", "regulator"]).set_index(["group", "regulator"])
    place = pd.MultiIndex.from_product([groups, shown])
    color = wide["specificity"].reindex(place).to_numpy(float)
    seen = wide["detection"].reindex(place).to_numpy(float)
    row, column = np.divmod(np.arange(len(place)), len(shown))
    ax = new_axes(ax, 1.9 + 0.24 * len(shown) + 0.07 * max(map(len, groups)), 1.2 + 0.26 * len(groups))
    end = np.nanmax(np.abs(color)) if np.isfinite(color).any() else 1.0
    dots = ax.scatter(
        column, row, s=LARGEST * np.nan_to_num(seen), c=np.nan_to_num(color), cmap="RdBu_r", vmin=-end, vmax=end,
        edgecolors="#6b7178", linewidths=0.4,
    )  # fmt: skip
    ax.set_xticks(range(len(shown)), shown, rotation=90, fontsize=8, color=INK)
    ax.set_yticks(range(len(groups)), groups, fontsize=8, color=INK)
    ax.set(xlim=(-0.7, len(shown) - 0.3), ylim=(len(groups) - 0.3, -0.7))
    ax.tick_params(length=0)
    ax.spines[:].set_color("#c4c8ce")
    keys(ax, dots)
    return finish(ax, show, save)


def top_regulators(table: pd.DataFrame, groups: list[str], n_top: int, min_detection: float) -> list[str]:
    seen = table[(table["detection"] >= min_detection) & (table["specificity"] > 0)]
    seen = seen.sort_values("specificity", ascending=False, kind="stable")
    first = seen.drop_duplicates("regulator")  # where it is most specific
    return [name for group in groups for name in first.loc[first["group"] == group, "regulator"].head(n_top)]


def keys(ax, dots) -> None:
    from matplotlib.lines import Line2D

    high = ax.figure.get_size_inches()[1] * ax.get_position().height
    bar = ax.figure.colorbar(dots, ax=ax, shrink=min(0.8, 1.8 / high), aspect=14, pad=0.02)
    bar.set_label("specificity (log2)", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    handles = [
        Line2D([], [], ls="", marker="o", color="#8a8f98", ms=np.sqrt(LARGEST * share), label=f"{share:.0%}")
        for share in (0.25, 0.5, 1.0)
    ]
    ax.legend(
        handles=handles, title="cells that show it", loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, fontsize=7,
        title_fontsize=7, frameon=False,
    )  # fmt: skip
