"""Small real data sets with counts and labels, in the package: read without a network.

`scripts/make_datasets.py` makes them; docs/resources.md has their sources and licences.
"""

from pathlib import Path

import anndata as ad

__all__ = ["kang18", "oligodendrocytes", "pbmc3k"]

FOLDER = Path(__file__).parent


def pbmc3k() -> ad.AnnData:
    """Blood cells of a healthy donor, 10x Genomics 2016: 700 of 2,700 cells, balanced over nine cell types.

    Returns
    -------
    AnnData
        X: counts, float32 CSR. obs: cell_type, organism, tissue, disease. var: gene_ids (Ensembl); genes that fewer
        than five of the cells show are left out.

    Notes
    -----
    "3k PBMCs from a Healthy Donor", 10x Genomics, `CC BY 4.0 <https://creativecommons.org/licenses/by/4.0/>`_; labels
    as in the guided tutorial of Seurat. The cells were among those that the bundled model was trained on.
    """
    return _read("pbmc3k")


def kang18() -> ad.AnnData:
    """Blood cells of lupus patients with and without interferon beta, Kang et al. 2018: 700 cells of 13 types.

    Returns
    -------
    AnnData
        X: counts, float32 CSR. obs: cell_type, condition ("CTRL", "STIM"), organism, tissue, disease. var: gene_ids.
        The donors are not named, so a contrast has no replicates.

    Notes
    -----
    Gene Expression Omnibus GSE96583 (doi:10.1038/nbt.4042), from a copy under the MIT licence. The bundled model has
    not seen these cells.
    """
    return _read("kang18")


def oligodendrocytes() -> ad.AnnData:
    """Mouse oligodendrocytes from precursor to mature cell, Marques et al. 2016: 600 cells of 13 stages.

    Returns
    -------
    AnnData
        X: counts, float32 CSR. obs: cell_type (OPC, COP, NFOL1-2, MFOL1-2, MOL1-6 in order of maturation; PPR are
        vascular cells), region, organism, tissue, disease. var: gene_ids.

    Notes
    -----
    Gene Expression Omnibus GSE75330 (doi:10.1126/science.aaf6463), from a copy under the MIT licence. The cells were
    among those that the bundled model was trained on.
    """
    return _read("oligodendrocytes")


def _read(name: str) -> ad.AnnData:
    return ad.read_h5ad(FOLDER / f"{name}.h5ad")
