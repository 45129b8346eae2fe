"""receipt: what was matched and lost on the way into the model. reliability: is confidence what it says?"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sccafm.confidence.calibration import at_base_rate, calibration_error, full_bins
from sccafm.evaluate._network import find_candidates
from sccafm.evaluate.truth import aligned
from sccafm.grn.grn import GRN
from sccafm.pl.canvas import INK, finish, new_axes, open_frame

WAYS = {
    "n_ensembl": ("by Ensembl id", "#3f7fb0"),
    "n_symbol": ("by symbol", "#6aa6cf"),
    "n_ortholog": ("by mouse ortholog", "#93c2a5"),
    "n_alias": ("by alias", "#c2d69b"),
    "n_lost": ("not known", "#d98c8c"),
}


def receipt(source, *, ax=None, show: bool = False, save: str | Path | None = None):
    """Draw what became of a data set's genes: matched, lost, used.

    Parameters
    ----------
    source
        A GRN, an Embedding or an annotated AnnData (``uns["sccafm"]``).
    ax, show, save
        See `sccafm.pl`.

    Returns
    -------
    matplotlib.axes.Axes
        Bars of the genes of the data, of those that the model reads, and of regulators among them; lost regulators are
        named under them.

    Raises
    ------
    KeyError
        There is no receipt.
    """
    found = receipt_of(source)
    ax = new_axes(ax, 7.0, 2.3)
    left = 0
    for key, (word, color) in WAYS.items():
        n = int(found[key])
        if n:
            ax.barh(0, n, left=left, color=color, height=0.62, label=f"{word}: {n:,}")
            left += n
    used, acting = int(found["n_used"]), int(found["n_regulators"])
    ax.barh(1, used, color="#8a8f98", height=0.62)
    ax.barh(2, acting, color=INK, height=0.62)
    for row, n in ((1, used), (2, acting)):
        ax.text(n, row, f" {n:,}", va="center", fontsize=8, color=INK)
    ax.set_yticks(range(3), ["genes of the data", "genes read", "regulators"], fontsize=8, color=INK)
    ax.set(ylim=(2.6, -0.6), xlim=(0, int(found["n_genes"]) * 1.02))
    open_frame(ax)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("genes", fontsize=8)
    ax.legend(loc="lower right", fontsize=7, frameon=False)
    lost = [str(name) for name in found["lost_regulators"]]
    words = f"{int(found['n_cells']):,} cells, {found['species']}, {found['matrix']}: {found['values']}"
    if lost:
        words += f"\nlost regulators: {', '.join(lost[:8])}{f' and {len(lost) - 8} more' if len(lost) > 8 else ''}"
    ax.set_title(words, fontsize=8, loc="left", color=INK)
    return finish(ax, show, save)


def receipt_of(source) -> Mapping:
    params = getattr(source, "params", None)
    if params is None and hasattr(source, "uns"):
        params = source.uns.get("sccafm", {}).get("params")
    if not params or "receipt" not in params:
        raise KeyError("there is no receipt; pass a GRN, an Embedding, or the AnnData that infer_grn annotated")
    return params["receipt"]


def reliability(
    grn: GRN,
    truth,
    *,
    group: object = None,
    n_bins: int = 10,
    ax=None,
    show: bool = False,
    save: str | Path | None = None,
):
    """Draw how often edges of each confidence are in a set of true edges.

    Parameters
    ----------
    grn
        Networks with confidence.
    truth
        True edges: a table or file as `sccafm.evaluate.network` takes it, or a `Truth`.
    group
        Group of `grn`; None: all cells.
    n_bins
        Bins with as many edges each.
    ax, show, save
        See `sccafm.pl`.

    Returns
    -------
    matplotlib.axes.Axes
        On the diagonal confidence is what it says for this truth. Truths differ in how many candidates they call real
        (the grey line): a second curve has confidence moved to this truth's share, by `calibration.at_base_rate`.

    Raises
    ------
    ValueError
        The networks have no confidence, or no overlap with the truth.
    """
    confidence = grn.confidence(group)
    if confidence.isna().all(axis=None):
        raise ValueError("these networks have no confidence: the model has no calibration")
    candidates = find_candidates(confidence, truth)
    values = aligned(confidence, candidates.regulators, candidates.genes, candidates.lookup)
    inside = candidates.is_candidate & np.isfinite(values)
    said, is_true = values[inside], candidates.is_true[inside]
    rate, assumed = float(is_true.mean()), grn.params["calibration"].get("base_rate")
    curves = {"as stated": (said, "#2b6ca3")}
    if assumed is not None:
        curves |= {f"at this truth's rate of {rate:.1%}": (at_base_rate(said, assumed, rate), "#c07a1c")}
    ax = new_axes(ax, 4.1, 4.1)
    ax.plot([0, 1], [0, 1], color="#9aa0a8", lw=0.8)
    ax.axhline(rate, color="#c4c8ce", lw=0.8, ls=(0, (4, 3)))
    low, high = rate, rate
    for word, (values, color) in curves.items():
        x, y, spread = curve(values, is_true, n_bins)
        error = calibration_error(values, is_true)
        ax.errorbar(
            x, y, yerr=spread, color=color, marker="o", ms=4, lw=1, elinewidth=0.8, label=f"{word}: error {error:.3f}"
        )
        low, high = min(low, x.min(), y.min()), max(high, x.max(), y.max())
    edge = 0.08 * max(high - low, 0.1)
    limits = max(low - edge, 0), min(high + edge, 1)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    ax.set_xlabel("confidence", fontsize=8)
    ax.set_ylabel("share of true edges", fontsize=8)
    open_frame(ax)
    ax.set_title(f"{inside.sum():,} candidate edges, {rate:.1%} true", fontsize=8, color=INK)
    ax.legend(loc="upper left", fontsize=7, frameon=False)
    return finish(ax, show, save)


def curve(said: np.ndarray, is_true: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, share of true edges, and half of its 95 % interval (normal), of equally full bins."""
    parts = [part for part in full_bins(said, n_bins) if len(part)]
    x, y = (np.array([array[part].mean() for part in parts]) for array in (said, is_true))
    return x, y, 1.96 * np.sqrt(y * (1 - y) / [len(part) for part in parts])
