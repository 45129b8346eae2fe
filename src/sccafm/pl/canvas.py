"""What all pictures share: Axes, their end, colours and fonts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sccafm._io import write_whole

SIGN_COLORS = {1: "#1b7a5a", -1: "#b2314a", 0: "#8a8f98"}  # told apart by colour-blind readers, and by arrow heads
SIGN_WORDS = {1: "activates", -1: "represses", 0: "sign unknown"}
INK = "#22262b"
FORMATS = (".svg", ".pdf", ".png")


def pyplot():
    """matplotlib.pyplot, or an error that names the extra."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pictures are drawn by matplotlib: pip install 'sccafm[plot]'") from error
    return plt


def new_axes(ax, width: float, height: float) -> Any:
    """The Axes that were given, or those of a new figure of this size in inches."""
    if ax is not None:
        return ax
    _, ax = pyplot().subplots(figsize=(width, height), layout="constrained")
    return ax


def finish(ax, show: bool, save: str | Path | None):
    """Write the figure of `ax` where asked for, show it where asked for, and return `ax`."""
    if save is not None:
        path = Path(save)
        if path.suffix.lower() not in FORMATS:
            raise ValueError(f"save={str(save)!r}: expected a file name that ends with {', '.join(FORMATS)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        settings: Any = {"svg.fonttype": "none", "pdf.fonttype": 42}  # text stays text, to be edited
        with pyplot().rc_context(settings):
            write_whole(
                path,
                lambda p: ax.figure.savefig(p, format=path.suffix[1:].lower(), dpi=200, bbox_inches="tight"),
            )
    if show:
        pyplot().show()
    return ax


def bare(ax) -> None:
    """No ticks, no frame."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def open_frame(ax) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(which="both", labelsize=8)


def text_size(texts: Sequence[str], size: float, weight: str = "normal") -> np.ndarray:
    """Width and height of texts in inches: N 2."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(size=size, weight=weight)
    line = 1.15 * size / 72
    widths = [TextPath((0, 0), text, prop=font).get_extents().width / 72 if text.strip() else 0.0 for text in texts]
    return np.array([[width, line] for width in widths]).reshape(-1, 2)


def label_points(ax, x: np.ndarray, y: np.ndarray, names: Sequence[str], others=None, size: float = 7) -> list:
    """Names near points, each at the nearest free place: over no other name and no named point.

    Where that can be, they cover none of the points `others` (N 2, data) either, and no line to a name runs through another name. The Axes must have their limits and scales. A name that finds no place within two inches is left out.
    """
    figure = ax.figure
    figure.draw_without_rendering()
    inches = ax.transData + figure.dpi_scale_trans.inverted()
    points = inches.transform(np.column_stack([x, y]).astype(float))
    crowd = points if others is None else inches.transform(np.asarray(others, dtype=float))
    window = ax.get_window_extent()
    frame = np.array([[window.x0, window.y0], [window.x1, window.y1]]) / figure.dpi
    extents = text_size(names, size) + 0.03
    taken = [np.stack([p - 0.03, p + 0.03]) for p in points]
    texts, lines = [], np.zeros((0, 2))
    for point, extent, name in zip(points, extents, names, strict=True):
        free = free_places(point, extent, taken, frame)
        if not len(free):
            continue
        covered = (np.abs(free[:, None] - crowd[None]) < extent / 2 + 0.02).all(2).sum(1)
        struck = meets_lines(point, free, extent, np.array(taken[len(points) :]).reshape(-1, 2, 2), lines)
        covered = covered + len(crowd) * struck  # worse than any number of points
        center = free[np.argmin(covered > covered[: len(free) // 2 + 1].min())]  # the nearest of those that cover least
        taken.append(np.stack([center - extent / 2, center + extent / 2]))
        lines = np.concatenate([lines, along(point, center[None])[0]])
        place, end = inches.inverted().transform(np.stack([center, point]))
        is_far = np.max(np.abs(center - point) - extent / 2) > 0.09
        line = {"arrowstyle": "-", "color": "#6b7178", "lw": 0.5, "shrinkA": 0, "shrinkB": 2} if is_far else None
        texts.append(
            ax.annotate(name, end, place, ha="center", va="center", fontsize=size, color=INK, zorder=5, arrowprops=line)
        )
    return texts


def along(point: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Places on the straight lines from a point to some centers: K 2 -> K places 2."""
    share = np.linspace(0.1, 0.9, 17)[:, None]
    return point + share * (centers[:, None] - point)


def meets_lines(
    point: np.ndarray, centers: np.ndarray, extent: np.ndarray, names: np.ndarray, lines: np.ndarray
) -> np.ndarray:
    """Whether the line to a box runs through a name (N 2 2: low, high), or the box lies on a line (N 2): K bool."""
    way = along(point, centers)[:, :, None]  # K places 1 2
    through = np.any(np.all((way > names[:, 0]) & (way < names[:, 1]), axis=3), axis=(1, 2))
    on_line = np.any(np.all(np.abs(centers[:, None] - lines) < extent / 2, axis=2), axis=1)
    return np.logical_or(through, on_line)


def free_places(point: np.ndarray, extent: np.ndarray, taken: list, frame: np.ndarray) -> np.ndarray:
    """Centers of a box of this extent near a point, the nearest first: K 2, inches.

    The boxes overlap nothing taken and stay in the frame.
    """
    angles = np.pi * np.array([0.15, 0.85, 0.5, -0.15, -0.85, -0.5, 0.3, 0.7, -0.3, -0.7, 0.0, 1.0])
    far = np.repeat(np.arange(0.05, 2.0, 0.06), len(angles))
    way = np.tile(np.stack([np.cos(angles), np.sin(angles)], -1), (len(far) // len(angles), 1))
    center = point + way * far[:, None] + np.sign(np.round(way, 9)) * extent / 2
    low, high = center - extent / 2, center + extent / 2
    is_inside = (low >= frame[0]).all(1) & (high <= frame[1]).all(1)
    boxes = np.array(taken)  # N 2 2: low, high
    meets = (low[:, None] < boxes[None, :, 1]) & (high[:, None] > boxes[None, :, 0])  # K N 2
    over = np.any(np.all(meets, axis=2), axis=1)
    return center[is_inside & ~over]


def check_choice(value: str, choices: Sequence[str], what: str) -> str:
    if value not in choices:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value
