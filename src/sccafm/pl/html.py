"""network_html: a group's network as one page with search and filters, which needs nothing but a browser."""

import html
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from sccafm._io import write_file
from sccafm.grn.exports import plain_values
from sccafm.grn.grn import GRN
from sccafm.grn.networks import Network
from sccafm.pl.canvas import SIGN_COLORS, text_size
from sccafm.pl.layout import boxes
from sccafm.pl.networks import FONT, PAD, PAGE, fill_colors, heading, line_widths
from sccafm.pl.selection import as_network, chosen_edges, mean_expression

HERE = Path(__file__).parent
PIXELS = 100  # of an inch of the layout
FIRST = ("weight", "confidence", "qvalue", "in_prior")  # columns of a gene's table; the others follow


def network_html(
    network: GRN | Network | pd.DataFrame,
    path: str | Path,
    group: object = None,
    *,
    n_edges: int = 200,
    rank: str = "specific",
    beside: str | Iterable[str] | None = None,
    genes: Iterable[str] | None = None,
    max_regulators: int | None = 5,
    min_confidence: float | None = None,
    title: str | None = None,
) -> Path:
    """Write one self-contained HTML page of a network: search a gene, filter by confidence and sign, click for edges.

    Parameters
    ----------
    network, group, rank, beside, genes, max_regulators, min_confidence
        As in `sccafm.pl.network`.
    path
        HTML file; it appears whole or not at all, and an existing one is replaced.
    n_edges
        Edges on the page; up to a few hundred are readable.
    title
        None: the group and its number of cells.

    Returns
    -------
    Path of the file.

    Raises
    ------
    KeyError, ValueError
        As in `sccafm.pl.network`.

    Notes
    -----
    The page holds cytoscape.js 3.35 (MIT; its licence is in the page and beside the vendored file).
    """
    network = as_network(network)
    edges = chosen_edges(
        network, group, n_edges=n_edges, rank=rank, beside=beside, genes=genes, max_regulators=max_regulators,
        min_confidence=min_confidence,
    ).astype({"source": str, "target": str})  # fmt: skip
    content = page_data(network, group, edges, heading(network, group, len(edges), beside) if title is None else title)
    # "</" in a name would end the script
    data = json.dumps(content, allow_nan=False).replace("</", "<\\/")
    page = (HERE / "page.html").read_text(encoding="utf-8")
    for mark, text in (
        ("__TITLE__", html.escape(content["title"])),
        ("__CYTOSCAPE__", (HERE / "vendor/cytoscape.min.js").read_text(encoding="utf-8")),
        ("__DATA__", data),
    ):
        page = page.replace(mark, text)
    write_file(path, lambda p: p.write_text(page, encoding="utf-8"))
    return Path(path)


def page_data(network: GRN | Network, group: object, edges: pd.DataFrame, title: str) -> dict:
    """What the page reads: elements with their places, and what its filters start from."""
    import networkx as nx
    from matplotlib.colors import to_hex

    graph = nx.from_pandas_edgelist(edges, create_using=nx.DiGraph)
    names, acting = sorted(graph), set(edges["source"])
    size = np.array([text_size([n], FONT, "bold")[0] for n in names]) + PAD
    at = boxes(graph, dict(zip(names, size, strict=True)), 1.6 * PAGE)
    expression = mean_expression(network, group)
    fills = fill_colors(expression, names, acting)
    nodes = []
    for name, extent in zip(names, size, strict=True):
        node = {
            "id": name,
            "is_regulator": name in acting,
            "fill": to_hex(fills.colors[name]),
            "width": round(extent[0] * PIXELS, 1),
            "height": round(extent[1] * PIXELS, 1),
        }
        if expression is not None:
            node["expression"] = float(expression[name])
        place = {"x": round(at[name][0] * PIXELS, 1), "y": round(-at[name][1] * PIXELS, 1)}
        nodes.append({"data": node, "position": place})
    lines = [
        {"data": {"id": f"{row['source']} -> {row['target']}", "line": round(float(width), 2), **plain_values(row)}}
        for row, width in zip(edges.to_dict("records"), line_widths(edges), strict=True)
    ]
    has_confidence = "confidence" in edges and bool(edges["confidence"].notna().all())
    ends = [float(edges["confidence"].min()), float(edges["confidence"].max())] if has_confidence else [0.0, 1.0]
    shown = [name for name in edges if edges[name].notna().any()]
    others = [name for name in shown if name not in (*FIRST, "source", "target", "sign", "n_cells")]
    return {
        "title": title,
        "notes": notes(network, edges),
        "elements": {"nodes": nodes, "edges": lines},
        "columns": [*(name for name in FIRST if name in shown), *others],
        "has_confidence": has_confidence,
        "range": ends,
        "colors": SIGN_COLORS,
    }


def notes(network: GRN | Network, edges: pd.DataFrame) -> list[str]:
    if isinstance(network, Network):
        return [f"{len(edges):,} edges of a network that was read from a table."]
    params = network.params
    return [
        f"The {len(edges):,} edges that are strongest beside the other groups, inferred by sccafm {params['version']}, "
        f"model {params['model']}, weights {params['weights_hash'][:12]}.",
        "Weight ranks edges; confidence is the calibrated probability that an edge is real. Neither proves a cause.",
    ]
