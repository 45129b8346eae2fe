"""Truths by which a finished model is judged. Nothing is chosen by them, and docs/decisions.md counts the looks.

    panel = judged_panel(SHARED)    # truths by name, each with its cells
    note_look("edges_panel.py", model.weights_hash)

SHARED is the folder that holds datasets/. No code that selects settings may import this file (tests/test_panels.py): settings are
chosen with selection_panel.py.
"""

import datetime
import os
from pathlib import Path

import pandas as pd
from panel import PanelTruth, as_edges, no_edges

TRUTHS = {  # name -> kind, species, cells, network
    "hHep ChIP": ("binding", "human", "beeline_hHep_delay", "delay_hHep_testing_refNetwork"),
    "mHSC-L ChIP": ("binding", "mouse", "beeline_mHSC-L_delay", "delay_mHSC-L_training_refNetwork"),
    "mDC ChIP": ("binding", "mouse", "beeline_mDC_TFs500", "mccalla_mDC_chipunion"),
    "mDC knock-down": ("response", "mouse", "beeline_mDC_TFs500", "mccalla_mDC_KDUnion"),
}
SIMULATIONS = (
    "sim_sergio_DS4",
    "sim_sergio_DS5",
)  # cells and networks of one name; the toy networks are too small to swap
CELL_TYPES = {  # cells in which networks of types are compared: file -> column of obs
    "kang18_8684x2511": "cell_type",
    "pancreas_baron_mouse": "cell_type",
    "paul15_myeloid": "cell_type",
}
DECISIONS = Path(__file__).parents[1] / "docs/decisions.md"
LOOKS = "## Looks at the judged panel"
HEAD = "| look | date | script | weights |\n|---|---|---|---|"


def judged_panel(shared: Path) -> dict[str, PanelTruth]:
    """Truths by name; candidates are the genes of their cells."""
    data, truths = shared / "datasets", {}
    for name, (kind, species, cells, network) in TRUTHS.items():
        edges = _edges(data / f"networks/{network}.csv.gz")
        truths[name] = PanelTruth(name, kind, species, edges, pd.Index([]), no_edges(), data / f"dev/{cells}.h5ad")
    return truths


def simulated_panel(shared: Path) -> dict[str, PanelTruth]:
    """Simulated cells with their whole network, whose genes are numbers: a model that reads names knows nothing of them."""
    data, truths = shared / "datasets", {}
    for name in SIMULATIONS:
        edges = _edges(data / f"networks/{name}.csv.gz")
        truths[name] = PanelTruth(
            name, "response", "synthetic", edges, pd.Index([]), no_edges(), data / f"dev/{name}.h5ad"
        )
    return truths


def cell_types(shared: Path) -> dict[str, tuple[Path, str]]:
    """Files of cells whose types' networks are compared, and the column of obs that names the types."""
    return {name: (shared / f"datasets/dev/{name}.h5ad", column) for name, column in CELL_TYPES.items()}


def note_look(script: str, weights_hash: str, page: Path = DECISIONS) -> int:
    """Append one row to the page's table of looks at this panel, and return how many there are now."""
    text = page.read_text()
    if LOOKS not in text:
        text = f"{text.rstrip()}\n\n{LOOKS}\n\nA finished model is judged; no setting is chosen by what is seen.\n\n{HEAD}\n"
    before, after = text.split(LOOKS)
    lines = after.splitlines()
    rows = [place for place, line in enumerate(lines) if line.startswith("| ")]  # the head among them
    lines.insert(
        max(rows[-1], lines.index(HEAD.splitlines()[1])) + 1,
        f"| {len(rows)} | {datetime.date.today()} | {script} | {weights_hash[:12]} |",
    )
    partial = page.with_name(page.name + ".partial")
    partial.write_text(before + LOOKS + "\n".join(lines) + "\n")
    os.replace(partial, page)
    return len(rows)


def _edges(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path)
    return as_edges(table, *table.columns[:2])
