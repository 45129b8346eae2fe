"""What two networks, and two cells, share of their strongest edges."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import sccafm
from sccafm import evaluate

TOP = 1000  # edges of a network that are compared


def strongest(scores: pd.DataFrame, n: int) -> pd.DataFrame:
    """The n strongest edges without self-edges: source, target."""
    values = scores.to_numpy(dtype=float, copy=True)
    values[scores.index.to_numpy()[:, None] == scores.columns.to_numpy()] = -np.inf
    row, column = np.unravel_index(np.argsort(-values, axis=None, kind="stable")[:n], values.shape)
    return pd.DataFrame({"source": scores.index[row], "target": scores.columns[column]})


def overlap(one: pd.DataFrame, two: pd.DataFrame) -> float:
    """Jaccard index of the strongest edges of two networks."""
    a, b = (set(map(tuple, strongest(scores, TOP).to_numpy())) for scores in (one, two))
    return len(a & b) / len(a | b)


def agreement(adata: ad.AnnData, model: sccafm.Model, neighbors: int = 0) -> dict:
    """Jaccard index of two cells' strongest edges, for cells of one type and of two."""
    grn = sccafm.infer_grn(adata, model, top_k=TOP, null_cells=0, neighbors=neighbors, progress=False)
    edges = grn.to_frame()
    row = grn.cells.get_indexer(edges["cell"].astype(str))
    pair = grn.regulators.get_indexer(edges["source"]) * len(grn.targets) + grn.targets.get_indexer(edges["target"])
    kept = sparse.csr_matrix((np.ones(len(row)), (row, pair)), (len(grn), len(grn.regulators) * len(grn.targets)))
    both = (kept @ kept.T).toarray()
    jaccard = both / (2 * TOP - both)
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    upper = np.triu_indices(len(labels), 1)
    same = (labels[:, None] == labels)[upper]
    alike = jaccard[upper]
    row = {"cells": len(labels), "types": len(set(labels))}
    row |= {"Jaccard within a type": alike[same].mean(), "between types": alike[~same].mean()}
    return row | {"AUROC within over between": evaluate.auroc(same, alike)}
