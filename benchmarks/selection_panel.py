"""Truths by which settings may be chosen, and the parts of their sources that may train beside them.

    panel = selection_panel(SHARED)                       # truths by name
    known, experiments = curated_training(SHARED), encode_training(SHARED)

SHARED is the folder that holds resources/ and datasets/. Regulators are dealt to `N_FOLDS` folds by their name alone, so that one
fold's regulators are held out of every source at once: a trainer leaves `held_out` regulators out of all that it reads. Cell lines
are held out for good. Nothing here judges a finished model: see judged_panel.py, which no code that selects may import.

What a fold cannot hide: ChEA's compiled file does not say cell lines, and mHSC-E, mHSC-GM share their ChIP experiments.
"""

from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
from panel import COLUMNS, PanelTruth, as_edges, no_edges

N_FOLDS = 5  # of regulators
EDGE_FOLDS = 10  # of the curated edges of the other regulators
HELD_OUT_CELLS = ("A549", "SKNSH", "HCT116", "CH12LX")  # 74 of 365 ENCODE experiments, one line of them of the mouse
LEAST_SHARE = 0.5  # of a regulator's experiments or signatures that hold a true edge; below, an edge is unclear
PROGENITORS = "hpc_bm_tusi6933.h5ad"  # of the training corpus, as the files below
TUMOUR = "breast_tumor_copykat302.h5ad"  # human cancer cells, for screens in human cancer lines
CD4 = ("CD4+ T Helper2", "CD4+/CD45RO+ Memory", "CD4+/CD25 T Reg", "CD4+/CD45RA+/CD25- Naive T")
CELLS = {  # truth -> cells like those that responded, and which of them
    "GEO signatures": (TUMOUR, None),
    "LINCS over-expression": (TUMOUR, None),
    "CD4 CRISPRi": ("pbmc_facs_zheng.h5ad", ("cell_type", CD4)),
    "Th17 knock-out": ("tabula_muris_immune1000.h5ad", ("cell_type", ("T cell",))),
    "mHSC-E ChIP": (PROGENITORS, None),
    "mHSC-GM ChIP": (PROGENITORS, None),
}


def held_out(regulators, fold: int = 0) -> np.ndarray:
    """Which regulators belong to a fold: booleans, by name in upper case."""
    code, names = pd.factorize(np.asarray(regulators, dtype=object))
    return np.array([crc32(f"source {name}".upper().encode()) % N_FOLDS == fold for name in names], dtype=bool)[code]


def selection_panel(shared: Path, corpus: Path | None = None, fold: int = 0) -> dict[str, PanelTruth]:
    """Truths by name. `corpus` is the folder of unpacked training cells, without which no truth names its cells."""
    truths = [*_curated(shared, fold), *_encode(shared, fold), *_responses(shared), *_progenitors(shared)]
    panel = {truth.name: truth for truth in truths}
    for name, (cells, only) in CELLS.items() if corpus is not None else ():
        panel[name] = replace(panel[name], cells=corpus / cells, only=only)
    return panel


def curated_training(shared: Path, fold: int = 0) -> pd.DataFrame:
    """Rows of OmniPath.csv that may train beside a fold: regulators and edges of the fold and `chip_only` rows are out."""
    table = read_curated(shared, fold)
    return table[(table["part"] == "training") & (table["chip_only"] == 0)].drop(columns="part")


def encode_training(shared: Path, fold: int = 0) -> pd.DataFrame:
    """ENCODE experiments (set, tf, cell, genome, targets) of other regulators and other cell lines than those held out."""
    table = _experiments(shared)
    return table[~held_out(table["tf"], fold) & ~table["cell"].isin(HELD_OUT_CELLS)].reset_index(drop=True)


def read_curated(shared: Path, fold: int = 0) -> pd.DataFrame:
    """OmniPath.csv with source, target and `part`: "training", "edge" or "regulator", the last two held out."""
    table = pd.read_csv(shared / "resources/OmniPath.csv.gz", low_memory=False)
    table = table.rename(columns={"Gene1": "source", "Gene2": "target"})
    dealt = np.array([crc32(f"{s} {t}".encode()) % EDGE_FOLDS == fold for s, t in table[COLUMNS].to_numpy()])
    part = np.where(held_out(table["source"], fold), "regulator", np.where(dealt, "edge", "training"))
    return table.assign(part=part)


def _curated(shared: Path, fold: int) -> list[PanelTruth]:
    table = read_curated(shared, fold)
    targets, is_curated = pd.Index(table["target"].unique()), table["chip_only"] == 0
    truths = []
    for part, name in {"edge": "curated edges held out", "regulator": "curated regulators held out"}.items():
        is_true = is_curated & (table["part"] == part)
        edges = as_edges(table[is_true], *COLUMNS)
        unclear = table[~is_true & table["source"].isin(edges["source"])]
        truths.append(PanelTruth(name, "curated", "human", edges, targets, as_edges(unclear, *COLUMNS)))
    return truths


def _experiments(shared: Path) -> pd.DataFrame:
    return pd.read_csv(shared / "resources/regulatory/chip_encode_experiments_noleak.csv.gz")


def _encode(shared: Path, fold: int) -> list[PanelTruth]:
    """Held-out regulators over all their experiments, and the other regulators in each held-out cell line."""
    table = _experiments(shared)
    targets = pd.Index(sorted({gene for genes in table["targets"] for gene in genes.split()}))
    is_held_out = held_out(table["tf"], fold)
    parts = {"ENCODE, regulators held out": table[is_held_out]}
    parts |= {f"ENCODE, {cell} held out": table[~is_held_out & (table["cell"] == cell)] for cell in HELD_OUT_CELLS}
    truths = []
    for name, part in parts.items():
        bound = part[["tf", "targets"]].assign(targets=part["targets"].str.split()).explode("targets")
        share = bound.value_counts().reset_index()
        share["count"] /= part["tf"].value_counts().reindex(share["tf"]).to_numpy()
        truths.append(_by_share(name, "binding", share, "tf", "targets", "count", targets))
    return truths


def _responses(shared: Path) -> list[PanelTruth]:
    """Genes that move when a regulator is taken away or added; whether they rise or fall is not asked."""
    folder = shared / "resources/regulatory/validation_only"
    geo, lincs, cd4, th17 = (
        pd.read_csv(folder / f"perturb_{name}.csv.gz")
        for name in ("geo_noleak", "lincs_oe_signed", "cd4_crispri_signed", "th17_ko_mouse")
    )
    responses = [
        _by_share("GEO signatures", "response", geo, "tf", "target", "score", pd.Index(geo["target"].unique()))
    ]
    for name, table, source, target, species in (
        ("LINCS over-expression", lincs, "tf", "target", "human"),
        ("CD4 CRISPRi", cd4, "tf", "target", "human"),
        ("Th17 knock-out", th17, "tf_mouse", "target_mouse", "mouse"),
    ):
        targets = pd.Index(table[target].unique())  # those of perturbed genes that are no regulators among them
        acts = table["is_tf"] == 1 if "is_tf" in table else slice(None)
        edges = as_edges(table[acts] if species == "human" else table, source, target)
        responses.append(PanelTruth(name, "response", species, edges, targets, no_edges()))
    return responses


def _by_share(name, kind, table, source, target, share, targets) -> PanelTruth:
    is_true = table[share] >= LEAST_SHARE
    edges, unclear = (as_edges(table[rows], source, target) for rows in (is_true, ~is_true))
    return PanelTruth(name, kind, "human", edges, targets, unclear)


def _progenitors(shared: Path) -> list[PanelTruth]:
    """BEELINE's ChIP networks of mouse progenitors; their genes are the candidates, for no cells of that study are here."""
    truths = []
    for name in ("mHSC-E", "mHSC-GM"):
        table = pd.read_csv(shared / f"datasets/networks/beeline_{name}_specific_TFs1000.csv.gz")
        edges = as_edges(table, "Gene1", "Gene2")
        targets = pd.Index(pd.unique(edges[COLUMNS].to_numpy().ravel()))
        truths.append(PanelTruth(f"{name} ChIP", "binding", "mouse", edges, targets, no_edges()))
    return truths
