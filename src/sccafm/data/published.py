"""Tokens as the published code makes them; the tests hold them to the published numbers."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from sccafm.reference.conditions import Conditions
from sccafm.reference.genes import UNKNOWN_TOKEN, Vocabulary, species_name
from sccafm.types import CONDITIONS, Tokens


def tokenize_as_published(
    adata,
    vocabulary: Vocabulary,
    conditions: Conditions,
    regulators: Mapping[str, set[str]],
    *,
    max_length: int,
    gene_key: str | None = None,
    keys: Mapping[str, str] | None = None,
) -> Tokens:
    """Tokens exactly as the published tokenizer makes them, for comparison with its numbers.

    Unlike the library's own road: every cell is padded to ``max_length - 1`` genes, an unknown gene becomes a live
    ``<pad>`` token, all names are Ensembl ids or none is, mouse genes are upper-cased only.

    Parameters
    ----------
    adata
        Cells; X is read as it is.
    regulators
        Upper-case symbols of each species' regulators.
    max_length
        Sequence length, the cell token included.
    gene_key
        Column of var with the names; None: var_names.
    keys
        obs columns of CONDITIONS; an absent species key reads every cell as human.

    Raises
    ------
    ValueError
        If there are more genes than ``max_length - 1``.
    KeyError
        If the species column is named but missing.
    """
    keys = dict(keys or {})
    cells, genes = adata.shape
    width = max_length - 1
    if genes > width:
        raise ValueError(f"{genes} genes do not fit max_length={max_length}; at most {width} do")
    names = [str(n).strip().upper() for n in (adata.var_names if gene_key is None else adata.var[gene_key])]
    if all(name.startswith("ENSG") for name in names):
        names = [name.partition(".")[0] for name in names]
        ids = np.array([vocabulary.token(name) for name in names], dtype=np.int64)
        symbols = ["" if token == UNKNOWN_TOKEN else vocabulary.symbol(token).upper() for token in ids]
    else:
        ids = np.array([vocabulary.token_of_symbol(name) for name in names], dtype=np.int64)
        symbols = names
    gene_ids = np.full((cells, width), vocabulary.special("<pad>"), dtype=np.int64)
    gene_ids[:, :genes] = np.where(ids == UNKNOWN_TOKEN, vocabulary.special("<pad>"), ids)

    species = adata.obs[keys["species"]] if keys.get("species") else pd.Series(["human"] * cells)
    is_tf = np.zeros((cells, width), dtype=bool)
    for word in species.astype(str).unique():
        listed = regulators.get(species_name(word) or "", set())
        is_tf[(species.astype(str) == word).to_numpy(), :genes] = [symbol in listed for symbol in symbols]

    ids_of_cells = np.zeros((cells, len(CONDITIONS)), dtype=np.int64)
    for slot, name in enumerate(CONDITIONS):
        column = keys.get(name)
        if column in adata.obs:
            words = adata.obs[column].astype(str).str.strip().str.lower()
            ids_of_cells[:, slot] = [conditions.literal(word) for word in words]
        elif name == "species" and column is None:
            ids_of_cells[:, slot] = conditions.literal("human")

    values = np.zeros((cells, width), dtype=np.float32)
    values[:, :genes] = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    padding = np.arange(width)[None].repeat(cells, 0) >= genes
    return Tokens(
        torch.from_numpy(gene_ids),
        torch.from_numpy(values),
        torch.from_numpy(ids_of_cells),
        torch.from_numpy(is_tf),
        torch.from_numpy(padding) if genes < width else None,
    )
