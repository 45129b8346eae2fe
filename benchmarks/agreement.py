"""What two networks, and two cells, share of their strongest edges; what networks of cell types are made of."""

import itertools

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import normalized_mutual_info_score

import sccafm
from sccafm import evaluate
from sccafm.grn.anatomy import anatomy

TOP = 1000  # edges of a network that are compared
STRONGEST = 50  # edges that are asked for their regulators
LEADS = 0.05  # share of the cells that a factor leads at least, to count
SEEN_ONE_BY_ONE = 20  # cells of each set whose own scores are taken apart


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


def judge_types(title: str, adata, model: sccafm.Model) -> tuple[list[dict], pd.DataFrame]:
    """Networks of the types of one set: what they share with each other and with their halves; and their anatomy."""
    grn = sccafm.infer_grn(adata, model, groupby="half", keep_factors=True, null_cells=0, progress=False)
    types = list(pd.unique(adata.obs["type"]))
    halves = {name: [grn.matrix(f"{name} {half}") for half in (0, 1)] for name in types}
    whole = {name: (one + two) / 2 for name, (one, two) in halves.items()}
    rows = [{"set": title, "of": name, "what": "halves", "value": overlap(*halves[name])} for name in types]
    rows += [
        {"set": title, "of": f"{a}, {b}", "what": "types", "value": overlap(whole[a], whole[b])}
        for a, b in itertools.combinations(types, 2)
    ]
    for name, scores in whole.items():
        n = strongest(scores, STRONGEST)["source"].nunique()
        rows.append({"set": title, "of": name, "what": "regulators", "value": n})
    rows += [{"set": title, "of": "all", "what": what, "value": value} for what, value in contexts(grn, adata).items()]
    shares = pd.DataFrame({name: anatomy(scores) for name, scores in whole.items()}).T
    shares = pd.concat([shares, grn.anatomy(SEEN_ONE_BY_ONE).loc[["mean of all cells", "cell by cell"]]])
    return rows, shares.rename_axis("network").reset_index().assign(set=title)


def contexts(grn: sccafm.GRN, adata) -> dict[str, float]:
    """How many factors lead a good share of the cells each, and what the leading factor tells of the cell's type."""
    leading = grn.context_label.astype(str)
    share = leading.value_counts(normalize=True)
    types = adata.obs["type"].astype(str).reindex(grn.cells)
    return {"factors": float((share >= LEADS).sum()), "NMI": float(normalized_mutual_info_score(types, leading))}
