"""The selection panel for embeddings: which cells of the training corpus are compared, and by which labels.

No file of it judges a finished model: the judged sets are in `embedding.py`. The bundled module has read these cells
without their labels.
"""

from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np

LEAST_CELLS = 10  # of a label: rarer ones are left out
UNNAMED = {"unannotated", "Mis", "CD11c+", "CD11c+(2hr_LPS)", "splenocyte", "nan"}  # no cell type


@dataclass(frozen=True)
class Study:
    """Cells of one file, judged by themselves."""

    file: str
    label: str = "cell_type"
    species: str = "human"
    assay: str = "droplet"
    labels_from: str = (
        "markers or sorting"  # "clusters": labels were made from expression, which favours its components
    )


STUDIES = {
    "brain_darmanis": Study("brain_darmanis", assay="plate", labels_from="clusters"),
    "breast_lines": Study("breast_lines_gambardella930"),
    "cellbench_lines": Study("cellbench_lines", assay="plate, droplet"),
    "lymph_node": Study("lymphnode_ref330", labels_from="clusters"),
    "pbmc3k": Study("pbmc3k", labels_from="clusters"),
    "pbmc_facs": Study("pbmc_facs_zheng"),
    "pbmc_facs_small": Study("pbmc_facs_garnett800"),
    "motor_cortex": Study("cortex_mop_10309x1677", species="mouse", labels_from="clusters"),
    "motor_cortex, fine": Study("cortex_mop_10309x1677", "subtype", "mouse", labels_from="clusters"),
    "fetal_brain": Study("mca_fetalbrain", species="mouse", labels_from="clusters"),
    "fetal_liver": Study("mca_fetallivere14_1", species="mouse", labels_from="clusters"),
    "lung": Study("mca_lung3", species="mouse", labels_from="clusters"),
    "placenta": Study("mca_placentae14_2", species="mouse", labels_from="clusters"),
    "small_intestine": Study("mca_smallintestine2", species="mouse", labels_from="clusters"),
    "spleen": Study("mca_spleen", species="mouse", labels_from="clusters"),
    "spleen_sorted": Study("spleen_jaitin", "group_name", "mouse", "plate"),
    "oligodendrocytes": Study("oligodendrocyte_marques2618", species="mouse", assay="plate", labels_from="clusters"),
    "tabula_muris": Study("tabula_muris_immune1000", species="mouse", labels_from="clusters"),
}

BLOOD = {
    "Naive CD4 T": "CD4 T", "Memory CD4 T": "CD4 T", "CD8 T": "CD8 T", "CD14+ Mono": "monocyte", "FCGR3A+ Mono": "monocyte",
    "B": "B", "NK": "NK", "DC": "dendritic",
    "CD19+ B": "B", "CD56+ NK": "NK", "CD8+ Cytotoxic T": "CD8 T", "CD8+/CD45RA+ Naive Cytotoxic": "CD8 T",
    "CD4+ T Helper2": "CD4 T", "CD4+/CD45RO+ Memory": "CD4 T", "CD4+/CD25 T Reg": "CD4 T",
    "CD4+/CD45RA+/CD25- Naive T": "CD4 T", "CD14+ Monocyte": "monocyte",
    "T_CD4": "CD4 T", "T_CD8": "CD8 T", "Monocytes": "monocyte",
}  # fmt: skip
IMMUNE = BLOOD | {
    "CD4 T": "T", "CD8 T": "T", "Naive CD4 T": "T", "Memory CD4 T": "T",
    "Marginal zone B cell": "B", "T cell": "T", "NK cell": "NK", "Monocyte": "monocyte", "B cell": "B",
    "Dendritic cell_S100a4 high": "dendritic", "Dendritic cell_Siglech high": "dendritic",
    "Granulocyte": "granulocyte", "Neutrophil": "granulocyte",
    "GC B cell": "B", "NK_cell": "NK", "CD8+CD86-": "dendritic", "CD8-pDC": "dendritic", "CD8-CD4+ESAM+": "dendritic",
    "CD8+CD86+": "dendritic", "CD8+pDC": "dendritic",
}  # fmt: skip
IMMUNE = {name: {"CD4 T": "T", "CD8 T": "T"}.get(label, label) for name, label in IMMUNE.items()}
BRAIN = {
    "neurons": "neuron", "astrocytes": "astrocyte", "oligodendrocytes": "oligodendrocyte", "endothelial": "endothelial",
    "microglia": "microglia", "OPC": "OPC",
    "L2/3": "neuron", "L4/5": "neuron", "L6": "neuron", "Pvalb": "neuron", "Sst": "neuron", "CGE": "neuron", "Npy": "neuron",
    "Clau": "neuron", "Astro": "astrocyte", "Oligo": "oligodendrocyte", "Endo": "endothelial", "MGC": "microglia",
}  # fmt: skip


@dataclass(frozen=True)
class Meeting:
    """Cells of several batches, whose labels are carried from one to the others."""

    across: str  # donors, technologies, studies or species
    files: tuple[str, ...]
    names: dict[str, str] | None = None  # the file's label -> the common one; None: labels are the same already
    batch: str | None = None  # column of obs; None: the file


MEETINGS = {
    "cell lines": Meeting("technologies", ("cellbench_lines",), batch="batch"),
    "spleens": Meeting("technologies", ("mca_spleen", "spleen_jaitin", "tabula_muris_immune1000"), IMMUNE),
    "blood": Meeting("studies", ("pbmc3k", "pbmc_facs_zheng", "lymphnode_ref330"), BLOOD),
    "lungs": Meeting("donors", ("mca_lung1", "mca_lung2", "mca_lung3")),
    "placentas": Meeting("donors", ("mca_placentae14_1", "mca_placentae14_2")),
    "intestines": Meeting("donors", ("mca_smallintestine2", "mca_smallintestine3")),
    "cortex": Meeting("donors", ("cortex_mop_10309x1677",), batch="batch"),
    "immune cells": Meeting("species", ("pbmc3k", "mca_spleen"), IMMUNE),
    "immune cells, sorted": Meeting("species", ("pbmc_facs_zheng", "tabula_muris_immune1000"), IMMUNE),
    "brains": Meeting("species", ("brain_darmanis", "cortex_mop_10309x1677"), BRAIN),
}  # fmt: skip


def named(adata: ad.AnnData, label: str, names: dict[str, str] | None = None) -> ad.AnnData:
    """Cells with a label, which is written to obs["label"]."""
    labels = adata.obs[label].astype(str).str.strip()
    labels = labels.where(~labels.isin(UNNAMED)) if names is None else labels.map(names)
    adata.obs["label"] = labels
    return adata[labels.notna().to_numpy()].copy()


def drawn(adata: ad.AnnData, n: int) -> ad.AnnData:
    """Up to n cells, the same in every run."""
    rng = np.random.default_rng(0)
    return adata[np.sort(rng.choice(adata.n_obs, min(n, adata.n_obs), replace=False))].copy()


def without_rare(adata: ad.AnnData) -> ad.AnnData:
    """Without labels of fewer than `LEAST_CELLS` cells."""
    counts = adata.obs["label"].value_counts()
    return adata[adata.obs["label"].isin(counts.index[counts >= LEAST_CELLS]).to_numpy()].copy()


def file_label(file: str) -> str:
    return next((study.label for study in STUDIES.values() if study.file == file), "cell_type")


def file_cells(corpus: Path, file: str, n: int) -> ad.AnnData:
    """Up to n labelled cells of one file."""
    return drawn(named(ad.read_h5ad(corpus / f"{file}.h5ad"), file_label(file)), n)


def common_cells(corpus: Path, meeting: Meeting, n: int) -> ad.AnnData:
    """Cells of several files of one species, up to n of each, on the genes that all files have."""
    parts = {}
    for file in meeting.files:
        part = named(ad.read_h5ad(corpus / f"{file}.h5ad"), file_label(file), meeting.names)
        part = drawn(part, n)
        part.obs = part.obs[["label", "species"]].astype(str).assign(batch=file)
        parts[file] = part
    return ad.concat(parts, index_unique="-", join="inner")
