"""map_to and annotate: new cells in the space of a reference embedding, and labels by their neighbours there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from sccafm._text import warn
from sccafm.data.groups import ALL, UNASSIGNED
from sccafm.embedding.result import Embedding, read_embedding
from sccafm.model.validation import check_key

N_NEIGHBORS = 15
FAR, MANY = 0.95, 0.5  # of `ood`, and the share of the new cells above it that is said


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
    max_ood: float = 1.0,
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
    max_ood
        Cells that are more unusual than this, from 0 to 1, get no label: the reference may hold nothing of their kind. 1: all
        are labelled.
    label_added
        Column of obs that is written.

    Returns
    -------
    DataFrame
        Cells x labels: shares of the votes, in [0, 1]. In `adata` ``obs[label_added]`` (categorical),
        ``obs[label_added + "_share"]`` (float32, of the winner) and ``obs[label_added + "_ood"]`` (float32, by
        zero-shot vectors: the share of the reference's labelled cells that lie nearer to their own neighbours than this cell to
        those nearest to it; near 1 means that the reference holds nothing like it, or that another technology sets the two
        apart) beside what `map_to` writes.

    Raises
    ------
    ValueError
        Fewer than two labels, or labels that do not fit the reference; `n_neighbors` below 1, `max_ood` outside of 0 to 1; what
        `map_to` raises.
    """
    check_key(label_added, "label_added")
    if n_neighbors < 1 or not 0 <= max_ood <= 1:
        raise ValueError(f"n_neighbors is 1 or more and max_ood from 0 to 1; got {n_neighbors} and {max_ood}")
    if not isinstance(adata, AnnData):
        raise TypeError(
            f"expected an AnnData with the new cells, got {type(adata).__name__}: anndata.read_h5ad(path) reads a file"
        )
    from sklearn.neighbors import NearestNeighbors

    reference = as_reference(reference)
    voters = reference_labels(reference, labels)
    n_voters = int(voters.notna().sum())
    if n_neighbors >= n_voters:
        warn(
            f"n_neighbors={n_neighbors:,}, and {n_voters:,} cells of the reference have a label: all cells get the same shares"
        )
    placed = map_to(adata, reference, **settings)
    is_known = voters.notna().to_numpy()
    codes, names = pd.factorize(voters[is_known].astype(str), sort=True)
    tree = NearestNeighbors(n_neighbors=min(n_neighbors, len(codes))).fit(reference.cells.to_numpy()[is_known])
    near = codes[tree.kneighbors(placed.cells.to_numpy(), return_distance=False)]
    shares = np.stack([(near == code).mean(1) for code in range(len(names))], axis=1)
    ood = unusual(reference.zero_shot.to_numpy()[is_known], placed, n_neighbors)
    if (ood > FAR).mean() > MANY:
        warn(
            f"{(ood > FAR).sum():,} of {len(ood):,} cells are farther from the reference than {FAR:.0%} of its own cells from each other: it may "
            f"hold nothing of their kind, or the two differ as a whole (own_mean=True); see obs[{label_added + '_ood'!r}] and max_ood="
        )
    named: Any = adata if placed.adata is None else placed.adata
    named.obs[label_added] = pd.Categorical.from_codes(np.where(ood > max_ood, -1, shares.argmax(1)), list(names))
    named.obs[f"{label_added}_share"] = shares.max(1).astype(np.float32)
    named.obs[f"{label_added}_ood"] = ood.astype(np.float32)
    return pd.DataFrame(shares, placed.cells.index, list(names))


def unusual(known: np.ndarray, placed: Embedding, n_neighbors: int) -> np.ndarray:
    """Share of known cells that lie nearer to their own neighbours than each placed cell to its nearest ones: C in [0, 1].

    By the module's own vectors: an anchored space has no room for what its cells do not differ in, and holds a new kind of cell
    among the known ones. Where placed cells depart from their own mean, they do so here too.
    """
    from sklearn.neighbors import NearestNeighbors

    z = placed.zero_shot.to_numpy()
    if placed.params.get("own_mean"):
        z = z - z.mean(0) + known.mean(0)
    k = min(n_neighbors, len(known) - 1)
    tree = NearestNeighbors(n_neighbors=k).fit(known)
    own = np.sort(tree.kneighbors()[0].mean(1))  # each left out of its own neighbours
    return np.searchsorted(own, tree.kneighbors(z)[0].mean(1)) / len(own)


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
        found = reference.groups.where(reference.groups != UNASSIGNED)
    elif isinstance(labels, str):
        raise ValueError(
            f"labels={labels!r} is a text; pass the labels themselves, as reference_adata.obs[{labels!r}] is"
        )
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
