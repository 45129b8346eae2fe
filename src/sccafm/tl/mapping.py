"""map_to and annotate: new cells in the space of a reference embedding, and labels by their neighbours there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from sccafm.data.groups import ALL
from sccafm.embedding.result import Embedding, read_embedding
from sccafm.model.validation import check_key

N_NEIGHBORS = 15


def map_to(adata: AnnData, reference: Embedding | str | Path, **settings) -> Embedding:
    """Place cells into the anchored space of a reference.

    Parameters
    ----------
    adata
        New cells, of either species.
    reference
        What `sccafm.embed` returned for the reference cells, or the folder that `Embedding.write` wrote.
    settings
        As in `Embedding.place`: own_mean, model, layer, gene_key, species, key_added, ...

    Returns
    -------
    Embedding
        Of the new cells. In `adata` what `sccafm.embed` writes: ``obsm["X_sccafm"]`` (float32) compares with the reference's.

    Raises
    ------
    FileNotFoundError, ValueError
        No embedding in the folder, or what `Embedding.place` refuses.
    """
    reference = as_reference(reference)
    return reference.place(adata, **settings)


def annotate(
    adata: AnnData,
    reference: Embedding | str | Path,
    labels: pd.Series | Sequence | None = None,
    *,
    n_neighbors: int = N_NEIGHBORS,
    label_added: str = "sccafm_label",
    **settings,
) -> pd.DataFrame:
    """Name new cells by their nearest neighbours among the cells of a reference.

    Parameters
    ----------
    adata, reference, settings
        As in `map_to`.
    labels
        Label of each reference cell: a Series by cell name, or a sequence in the reference's order; cells without one do not
        vote. None: the groups that the reference was embedded with (``groupby=``).
    n_neighbors
        Voters of each cell.
    label_added
        Column of obs that is written.

    Returns
    -------
    DataFrame
        Cells x labels: shares of the votes, in [0, 1]. In `adata` ``obs[label_added]`` (categorical) and
        ``obs[label_added + "_share"]`` (float32, of the winner) beside what `map_to` writes.

    Raises
    ------
    ValueError
        Fewer than two labels, or labels that do not fit the reference; what `map_to` raises.
    """
    check_key(label_added, "label_added")
    from sklearn.neighbors import NearestNeighbors

    reference = as_reference(reference)
    voters = reference_labels(reference, labels)
    placed = map_to(adata, reference, **settings)
    is_known = voters.notna().to_numpy()
    codes, names = pd.factorize(voters[is_known].astype(str), sort=True)
    tree = NearestNeighbors(n_neighbors=min(n_neighbors, len(codes))).fit(reference.cells.to_numpy()[is_known])
    near = codes[tree.kneighbors(placed.cells.to_numpy(), return_distance=False)]
    shares = np.stack([(near == code).mean(1) for code in range(len(names))], axis=1)
    named: Any = adata if placed.adata is None else placed.adata
    named.obs[label_added] = pd.Categorical.from_codes(shares.argmax(1), list(names))
    named.obs[f"{label_added}_share"] = shares.max(1).astype(np.float32)
    return pd.DataFrame(shares, placed.cells.index, list(names))


def as_reference(reference) -> Embedding:
    if isinstance(reference, str | Path):
        return read_embedding(reference)
    if not isinstance(reference, Embedding):
        raise TypeError(
            f"expected an embedding (sccafm.Embedding) or its folder, got {type(reference).__name__}: reference = sccafm.embed(adata), or "
            "sccafm.read_embedding(folder)"
        )
    return reference


def reference_labels(reference: Embedding, labels: pd.Series | Sequence | None) -> pd.Series:
    """Label of each reference cell."""
    if labels is None:
        if reference.groups.name == ALL:
            raise ValueError("the reference has no groups to name cells by; pass labels=, or embed it with groupby=")
        found = reference.groups
    elif isinstance(labels, pd.Series):
        series: Any = labels
        found = series.reindex(reference.cells.index)
    else:
        if len(labels) != len(reference):
            raise ValueError(
                f"labels must name each of the reference's {len(reference):,} cells in order, got {len(labels):,}"
            )
        found = pd.Series(list(labels), reference.cells.index)
    if found.nunique() < 2:
        raise ValueError(
            f"labels name {found.nunique()} kind of the reference's cells, expected two at least; a Series is matched by cell "
            f"name, such as {reference.cells.index[0]!r}"
        )
    return found
