"""network: a group's strongest specific edges as a figure for a paper."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from sccafm.grn.grn import GRN
from sccafm.grn.networks import Network
from sccafm.pl.canvas import INK, SIGN_COLORS, SIGN_WORDS, bare, finish, new_axes, pyplot, text_size
from sccafm.pl.layout import boxes
from sccafm.pl.selection import as_network, chosen_edges, mean_expression

PAGE = 7.0  # inches, the width of a page of most journals
FONT = 7.5
PAD = np.array([0.10, 0.07])  # inches around a name, of both sides together
KEY = 0.62  # inches for the legend, under the network
KEY_WIDTH = 6.0  # inches that it needs
WIDTHS = (0.6, 2.4)  # points, of the least and the most confident edge
HEADS = {
    1: "-|>,head_length=0.34,head_width=0.15",
    -1: "|-|,widthA=0,widthB=0.24",
    0: "->,head_length=0.3,head_width=0.13",
}
PLAIN_FILL = {True: "#e4eaf1", False: "#ffffff"}


def network(
    network: GRN | Network | pd.DataFrame,
    group: object = None,
    *,
    n_edges: int = 50,
    rank: str = "specific",
    beside: str | Iterable[str] | None = None,
    genes: Iterable[str] | None = None,
    max_regulators: int | None = 3,
    min_confidence: float | None = None,
    title: str | None = None,
    ax=None,
    show: bool = False,
    save: str | Path | None = None,
):
    """Draw the strongest specific edges of a group.

    Regulators have bold names and thick frames. Arrow heads tell signs (a bar represses, an open head is unknown), widths
    confidence, fills mean expression in the group. Names never overlap.

    Parameters
    ----------
    network
        A GRN, a Network, or a table of edges.
    group
        A group by name; None: all cells of a GRN, or the only group.
    n_edges
        Edges to draw; 30 to 80 are readable.
    rank
        "specific": by weight times log2 of the weight over its mean in the other groups. "weight": by weight.
    beside
        Groups that the weight is compared with, e.g. the same cell type in the other condition; None: all others.
    genes
        Only edges that begin or end at these.
    max_regulators
        Arrows into one target, at most; None: no limit.
    min_confidence
        Least confidence of an edge.
    title
        None: the group and its number of cells.
    ax, show, save
        See `sccafm.pl`. Without `ax` the figure is as large as the network needs at a font of 7.5 points; in a smaller
        `ax` names shrink.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    KeyError
        Unknown group or gene.
    ValueError
        No edge is left.

    Examples
    --------
    >>> sccafm.pl.network(grn, "B", save="B.pdf")
    """
    import networkx as nx

    pyplot()
    network = as_network(network)
    edges = chosen_edges(
        network,
        group,
        n_edges=n_edges,
        rank=rank,
        beside=beside,
        genes=genes,
        max_regulators=max_regulators,
        min_confidence=min_confidence,
    ).astype({"source": str, "target": str})
    graph = nx.from_pandas_edgelist(edges, create_using=nx.DiGraph)
    names = sorted(graph)
    acting = set(edges["source"])
    size = np.array([text_size([n], FONT, "bold" if n in acting else "normal")[0] for n in names]) + PAD
    at = boxes(graph, dict(zip(names, size, strict=True)), PAGE)
    centers = np.array([at[name] for name in names])
    low, high = (centers - size / 2).min(0) - 0.1, (centers + size / 2).max(0) + 0.1
    low[1] -= KEY
    if high[0] - low[0] < KEY_WIDTH:
        middle = (high[0] + low[0]) / 2
        low[0], high[0] = middle - KEY_WIDTH / 2, middle + KEY_WIDTH / 2
    wide, tall = high - low
    ax = new_axes(ax, wide, tall + 0.25)
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    bare(ax)
    ax.figure.draw_without_rendering()
    inside = ax.get_window_extent()
    scale = min(1.0, inside.width / ax.figure.dpi / wide, inside.height / ax.figure.dpi / tall)
    fills = fill_colors(mean_expression(network, group), names, acting)
    half = dict(zip(names, size / 2, strict=True))
    draw_edges(ax, edges, at, half, scale)
    draw_boxes(ax, names, centers, size, acting, fills, scale)
    draw_key(ax, edges, fills, scale)
    ax.set_title(heading(network, group, len(edges), beside) if title is None else title, fontsize=9, color=INK)
    return finish(ax, show, save)


def heading(network: GRN | Network, group: object, n_edges: int, beside: str | Iterable[str] | None) -> str:
    said = f"{n_edges} edges"
    if beside is not None:
        said += f" beside {beside if isinstance(beside, str) else ', '.join(beside)}"
    if isinstance(network, Network):
        return said if group is None else f"{group}: {said}"
    cells = len(network) if group is None else network.group_sizes.loc[str(group)]
    return f"{'all cells' if group is None else group} ({cells:,} cells): {said}"


class Fills:
    """Colour of each box, and the scale that it is from (None where expression is not known)."""

    def __init__(self, colors: dict, scale=None):
        self.colors, self.scale = colors, scale


def fill_colors(expression: pd.Series | None, names: list[str], acting: set[str]) -> Fills:
    if expression is None:
        return Fills({name: PLAIN_FILL[name in acting] for name in names})
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    light = pyplot().get_cmap("YlOrBr")(np.linspace(0, 0.55, 64))  # dark names stay readable on it
    values = expression.reindex(names).fillna(0)
    scale = ScalarMappable(
        Normalize(0, max(float(values.max()), 1e-9)), LinearSegmentedColormap.from_list("fill", light)
    )
    return Fills({name: scale.to_rgba(values[name]) for name in names}, scale)


def line_widths(edges: pd.DataFrame) -> np.ndarray:
    """Points, from the least to the most confident edge; by weight where there is no confidence."""
    values = edges[width_column(edges)].to_numpy(float)
    span = values.max() - values.min()
    share = (values - values.min()) / span if span > 0 else np.full(len(values), 0.5)
    return WIDTHS[0] + (WIDTHS[1] - WIDTHS[0]) * share


def width_column(edges: pd.DataFrame) -> str:
    return "confidence" if "confidence" in edges and edges["confidence"].notna().all() else "weight"


def draw_edges(ax, edges: pd.DataFrame, at: dict, half: dict, scale: float) -> None:
    from matplotlib.patches import FancyArrowPatch

    both = set(zip(edges["source"], edges["target"], strict=True))
    for row, width in zip(edges.itertuples(), line_widths(edges), strict=True):
        start, stop = at[row.source], at[row.target]
        bend = 0.18 if (row.target, row.source) in both else 0.04
        arrow = FancyArrowPatch(
            tuple(border(start, stop, half[row.source])),
            tuple(border(stop, start, half[row.target] + 0.015)),
            arrowstyle=HEADS[row.sign],
            connectionstyle=f"arc3,rad={bend}",
            mutation_scale=(9 + 3 * width) * scale,
            shrinkA=0,
            shrinkB=0,
            lw=width * scale,
            color=SIGN_COLORS[row.sign],
            alpha=0.75,
            zorder=1,
            joinstyle="miter",
            capstyle="butt",
        )
        ax.add_patch(arrow)


def border(inner: np.ndarray, outer: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Where the way from a box's center to another point leaves the box."""
    way = np.asarray(outer) - inner
    share = np.min(half / np.maximum(np.abs(way), 1e-12))
    return inner + way * min(share, 1.0)


def draw_boxes(ax, names, centers, size, acting: set[str], fills: Fills, scale: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    for name, center, extent in zip(names, centers, size, strict=True):
        is_regulator = name in acting
        ax.add_patch(
            FancyBboxPatch(
                center - extent / 2,
                *extent,
                boxstyle=f"round,pad=0,rounding_size={0.05 if is_regulator else 0.09}",
                facecolor=fills.colors[name],
                edgecolor=INK if is_regulator else "#a3a9b1",
                lw=(1.2 if is_regulator else 0.6) * scale,
                zorder=2,
            )
        )
        ax.text(
            *center,
            name,
            ha="center",
            va="center",
            fontsize=FONT * scale,
            fontweight="bold" if is_regulator else "normal",
            color=INK,
            zorder=3,
        )


def draw_key(ax, edges: pd.DataFrame, fills: Fills, scale: float) -> None:
    from matplotlib.lines import Line2D

    marks = {1: (">", 5), -1: ("|", 7), 0: (5, 5)}
    handles = [
        Line2D([], [], color=SIGN_COLORS[s], marker=marks[s][0], ms=marks[s][1] * scale, lw=1.2, label=SIGN_WORDS[s])
        for s in (1, -1, 0)
        if (edges["sign"] == s).any()
    ]
    what = width_column(edges)
    ends = edges[what].min(), edges[what].max()
    if ends[1] > ends[0]:
        handles += [
            Line2D([], [], color="#555b63", lw=lw * scale, label=f"{what} {value:.2g}")
            for lw, value in zip(WIDTHS, ends, strict=True)
        ]
    legend = ax.legend(
        handles=handles, loc="lower left", ncols=len(handles), fontsize=7 * scale, frameon=False, borderaxespad=0.2,
        columnspacing=1.2, handlelength=1.8, handletextpad=0.5,
    )  # fmt: skip
    legend.set_zorder(4)
    if fills.scale is not None:
        wide, tall = np.diff(ax.get_xlim())[0], np.diff(ax.get_ylim())[0]
        inset = ax.inset_axes([1 - 1.15 / wide, 0.24 / tall, 1.05 / wide, 0.09 / tall])
        bar = ax.figure.colorbar(fills.scale, cax=inset, orientation="horizontal")
        bar.outline.set_visible(False)
        bar.set_ticks([0, fills.scale.norm.vmax], labels=["0", f"{fills.scale.norm.vmax:.1f}"])
        bar.ax.tick_params(labelsize=6 * scale, length=0, pad=1)
        bar.ax.set_title("mean expression", fontsize=7 * scale, pad=2, color=INK)
