"""report: everything about a run on one page: what was read, what regulates what, how sure it is, and how to cite it."""

import base64
import html
import io
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sccafm._io import write_file
from sccafm.data.groups import ALL
from sccafm.grn.grn import GRN
from sccafm.pl.canvas import INK, new_axes, open_frame, pyplot
from sccafm.pl.contexts import contexts
from sccafm.pl.networks import network
from sccafm.pl.quality import receipt
from sccafm.pl.regulators import regulators
from sccafm.tl import rank_regulators
from sccafm.tl.shared import check_grn

SAMPLE = 2000  # cells whose edges are looked at for the spread of confidence
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22262b; max-width: 1000px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2.2em; border-bottom: 1px solid #dde1e6; }
h3 { font-size: 1em; margin-bottom: 0.2em; }
img { max-width: 100%; height: auto; } nav a { margin-right: 1em; } pre { white-space: pre-wrap; background: #f7f8fa; padding: 1em; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: 2px 10px 2px 0; text-align: left; vertical-align: top; }
.note { color: #6b7178; font-size: 13px; } .pictures { display: flex; flex-wrap: wrap; gap: 1em; }
"""


def report(
    grn: GRN,
    path: str | Path,
    *,
    groups: Sequence[str] | None = None,
    n_edges: int = 40,
    title: str | None = None,
) -> Path:
    """Write one self-contained HTML page about a run.

    Parameters
    ----------
    grn
        Networks of `sccafm.infer_grn` or `sccafm.read_grn`.
    path
        HTML file; it appears whole or not at all, and an existing one is replaced.
    groups
        Groups whose networks are drawn; None: all.
    n_edges
        Edges of each network.
    title
        Of the page.

    Returns
    -------
    Path of the file. The page has the receipt, regulators of groups, contexts, a network of each group, quality (unusual
    cells, confidence and detection), the run card, and a methods paragraph with citations (`GRN.methods`).

    Raises
    ------
    KeyError
        No such group.
    """
    check_grn(grn)
    pyplot()
    present = grn.group_names
    absent = [group for group in groups or [] if str(group) not in present]
    if absent:
        raise KeyError(f"no group {absent[0]!r}; there are {present}")
    title = f"sccafm: {len(grn):,} cells" if title is None else title
    sections = {
        "What was read": receipt_section(grn),
        "Regulators": regulator_section(grn),
        "Contexts": context_section(grn),
        "Networks": network_section(grn, present if groups is None else [str(g) for g in groups], n_edges),
        "Quality": quality_section(grn),
        "Run card": card_section(grn),
        "Methods": f"<pre>{html.escape(grn.methods())}</pre>",
    }
    links = " ".join(f'<a href="#{anchor(name)}">{name}</a>' for name in sections)
    body = "\n".join(f'<h2 id="{anchor(name)}">{name}</h2>\n{text}' for name, text in sections.items())
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{html.escape(title)}</h1>\n<nav>{links}</nav>\n{body}\n</body></html>\n"
    )
    write_file(path, lambda p: p.write_text(page, encoding="utf-8"))
    return Path(path)


def anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def picture(draw: Callable[[], Any], told: str) -> str:
    """What `draw` draws (it returns Axes), as an image in the page; letters are outlines, so that no font is needed."""
    plt = pyplot()
    with plt.rc_context({"svg.fonttype": "path", "svg.hashsalt": "sccafm"}):
        figure = draw().figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(told, quote=True)}" src="data:image/svg+xml;base64,{data}">'


def note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def receipt_section(grn: GRN) -> str:
    found = grn.params["receipt"]
    conditions = "; ".join(f"{slot}: {what}" for slot, what in found["conditions"].items())
    return picture(lambda: receipt(grn), "genes matched and lost") + note(
        f"Species {found['species']} (from {found['species_from']}). Conditions {conditions}."
    )


def regulator_section(grn: GRN) -> str:
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            table = rank_regulators(grn)
            image = picture(lambda: regulators(table), "regulators by group")
    except (ValueError, KeyError) as error:  # one group, or strengths that are not known
        return note(f"Regulators are not ranked: {error.args[0]}.")
    words = "".join(note(str(warning.message)) for warning in said)
    return (
        image
        + words
        + note(
            "Specificity is mean log2 strength less that of the other groups; dots grow with the share of cells that show the regulator. "
            "Intervals over cells speak of these cells alone."
        )
    )


def context_section(grn: GRN) -> str:
    table = grn.factors_table(3).sort_values("share_of_cells", ascending=False).head(8)
    shown = table[["name", "share_of_cells", "mean_context", "top_regulators", "top_targets"]]
    return picture(lambda: contexts(grn), "contexts by group") + shown.to_html(
        index=False, float_format="{:.1%}".format
    )


def network_section(grn: GRN, groups: list[str], n_edges: int) -> str:
    parts = []
    for group in groups:
        try:
            parts.append(picture(lambda group=group: network(grn, group, n_edges=n_edges), f"network of {group}"))
        except (ValueError, KeyError) as error:
            parts.append(note(f"{group}: no network is drawn: {error.args[0]}"))
    return "\n".join(parts) + note(
        "The edges that are strongest beside the other groups. An arrow says that the model scores the pair highly in these cells; "
        "it is not proof of a cause."
    )


def quality_section(grn: GRN) -> str:
    parts = []
    if "ood" in grn.arrays:
        parts.append(picture(lambda: ood_by_group(grn), "unusual cells by group"))
        strange = float((grn.ood > 0.95).mean())
        parts.append(note(f"{strange:.1%} of the cells are more unusual than 95 % of cells in held-out tissues."))
    edges = grn.to_frame(grn.cells[:: max(len(grn) // SAMPLE, 1)])
    if edges["confidence"].notna().any():
        parts.append(picture(lambda: spread(edges["confidence"], "confidence of kept edges"), "confidence"))
        rate = grn.params["calibration"].get("base_rate")
        parts.append(
            note(f"Confidence assumes that {rate:.1%} of the candidate edges are real." if rate is not None else "")
        )
    if "regulator_expression" in grn.arrays:
        detected = pd.Series((np.asarray(grn.arrays["regulator_expression"]) > 0).mean(0), index=grn.regulators)
        parts.append(picture(lambda: spread(detected, "share of cells that show a regulator"), "detection"))
    signs = edges["sign"].value_counts(normalize=True)
    said = ", ".join(
        f"{signs.get(s, 0):.0%} {w}" for s, w in ((1, "activate"), (-1, "repress"), (0, "are of unknown sign"))
    )
    parts.append(note(f"Of the kept edges {said}; {edges['in_prior'].mean():.1%} are in the prior network."))
    return "\n".join(parts)


def ood_by_group(grn: GRN):
    names = grn.group_names
    values = [grn.ood[(grn.groups == name).to_numpy()].to_numpy() for name in names]
    ax = new_axes(None, 6.0, 0.9 + 0.24 * len(names))
    parts = ax.boxplot(values, orientation="horizontal", widths=0.6, flierprops={"ms": 2}, patch_artist=True)
    for box in parts["boxes"]:
        box.set(facecolor="#e4eaf1", edgecolor=INK, lw=0.8)
    ax.set_yticks(range(1, len(names) + 1), ["all cells" if n == ALL else n for n in names], fontsize=8, color=INK)
    ax.set(xlim=(0, 1))
    ax.invert_yaxis()
    ax.set_xlabel("how unusual a cell is (0 usual, 1 most unusual)", fontsize=8)
    open_frame(ax)
    return ax


def spread(values: pd.Series, what: str):
    ax = new_axes(None, 4.4, 2.2)
    ax.hist(values.dropna(), bins=40, color="#6aa6cf")
    ax.set_xlabel(what, fontsize=8)
    ax.set_yticks([])
    open_frame(ax)
    ax.spines["left"].set_visible(False)
    return ax


def card_section(grn: GRN) -> str:
    params = {k: v for k, v in grn.params.items() if k not in ("factors", "receipt", "run", "calibration")}
    rows = {**params, **{f"run: {k}": v for k, v in grn.params["run"].items()}}
    lines = "".join(
        f"<tr><td>{html.escape(str(key))}</td><td>{html.escape(value if isinstance(value, str) else json.dumps(value))}</td></tr>"
        for key, value in rows.items()
    )
    return f"<table>{lines}</table>"
