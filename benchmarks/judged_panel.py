"""Truths by which a finished model is judged. Nothing is chosen by them, and docs/decisions.md counts the looks.

    panel = judged_panel(SHARED)    # truths by name, each with its cells
    note_look("edges_panel.py", model.weights_hash)

SHARED is the folder that holds datasets/. No code that selects settings may import this file (tests/benchmarks/test_panels.py): settings are
chosen with selection_panel.py.
"""

import datetime
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from panel import PanelTruth, as_edges, no_edges

TRUTHS = {  # name -> kind, species, cells, network
    "hHep ChIP": ("binding", "human", "beeline_hHep_delay", "delay_hHep_testing_refNetwork"),
    "mHSC-L ChIP": ("binding", "mouse", "beeline_mHSC-L_delay", "delay_mHSC-L_training_refNetwork"),
    "mDC ChIP": ("binding", "mouse", "beeline_mDC_TFs500", "mccalla_mDC_chipunion"),
    "mDC knock-down": ("response", "mouse", "beeline_mDC_TFs500", "mccalla_mDC_KDUnion"),
}
SIMULATED = {"seeds": (0, 1), "genes": 200, "cells": 200}  # by sccafm.simulate, whose networks are parts of the prior
CELL_TYPES = {  # cells in which networks of types are compared: file -> its title, and the labels of each major type
    "kang18_ifnb_2800": (
        "PBMC",
        {
            "T cell": ("CD4 Naive T", "CD4 Memory T", "CD8 T", "T activated"),
            "B cell": ("B", "B Activated"),
            "NK cell": ("NK",),
            "monocyte": ("CD14 Mono", "CD16 Mono"),
            "dendritic cell": ("DC", "pDC"),
        },
    ),
    "pancreas_baron_mouse": (
        "pancreas",
        {name: (name,) for name in ("beta", "alpha", "delta", "ductal", "endothelial", "macrophage")},
    ),
    "paul15_myeloid": (
        "paul15",
        {
            "erythroid": ("1Ery", "2Ery", "3Ery", "4Ery", "5Ery", "6Ery"),
            "megakaryocyte": ("8Mk",),
            "monocyte": ("14Mo", "15Mo"),
            "neutrophil": ("16Neu", "17Neu"),
            "basophil": ("12Baso", "13Baso"),
        },
    ),
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


def cell_types(shared: Path, n_cells: int) -> dict[str, ad.AnnData]:
    """Sets of cells by title, up to `n_cells` of each major type (obs `type`), dealt to two halves (obs `half`)."""
    sets, rng = {}, np.random.default_rng(0)
    for file, (title, types) in CELL_TYPES.items():
        adata = ad.read_h5ad(shared / f"datasets/dev/{file}.h5ad")
        type_of = {label: name for name, labels in types.items() for label in labels}
        named = adata.obs["cell_type"].astype(str).map(type_of)
        drawn = [rng.permutation(np.flatnonzero(named == name))[:n_cells] for name in types]
        half = np.concatenate([np.arange(len(rows)) % 2 for rows in drawn])
        part = adata[np.concatenate(drawn)].copy()
        part.obs["type"] = named.iloc[np.concatenate(drawn)].to_numpy()
        part.obs["half"] = [f"{name} {h}" for name, h in zip(part.obs["type"], half, strict=True)]
        sets[title] = part
    return sets


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
