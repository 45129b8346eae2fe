"""predict: labels and numbers of cells by a fitted head."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from sccafm._docs import shared_parameters
from sccafm._settings import logger
from sccafm._torch import plain_torch
from sccafm.data.input import prepare
from sccafm.data.narrowing import narrowed
from sccafm.data.options import InputOptions
from sccafm.model.model import Model
from sccafm.model.validation import as_model, check_key, check_settings, forward_batch_size
from sccafm.tl.cells import embed_cells
from sccafm.tl.heads import Head, Tuned, read_head
from sccafm.tl.vectors import check_cells, embedding_hash, vectors, warn_of_unused


@plain_torch()
@shared_parameters
def predict(
    adata: AnnData,
    head: Head | str | Path,
    *,
    key_added: str | None = None,
    copy: bool = False,
    model: Model | str | Path | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    species: str | None = None,
    condition_keys: Mapping[str, str] | None = None,
    batch_size: int | str = "auto",
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Read labels or numbers of cells from their vectors, or with a head of `finetune` from their expression.

    Parameters
    ----------
    adata
        Cells with vectors in the field of obsm that the head was fitted on; for a head that was fitted with `finetune`,
        cells as `sccafm.embed` takes them, with at least half of the genes that it was fitted on.
    head
        What `fit_head` returned, or the folder that `Head.write` wrote.
    key_added
        Name of what is written; None: the head's target and "_predicted".
    copy
        Leave `adata` alone.
    model
        With `finetune` alone, and so are the following: the model that the head was fitted with, for its structure module; the embedding module is the
        head's.
    %(layer)s
    %(gene_key)s
    %(species)s
    %(condition_keys)s
    %(batch_size)s
    %(device)s
    progress
        With `finetune`: print the receipt and show a bar.

    Returns
    -------
    DataFrame
        Of "classify" a probability for each class, of "regress" the column "value". In `adata` ``obs[key]`` (categorical,
        or float32), and of "classify" ``obs[key + "_probability"]`` (float32, of the named class).

    Raises
    ------
    KeyError, ValueError
        No such vectors, another width, or vectors that another embedding module made; with `finetune` another structure
        module, fewer than half of the genes, or what `sccafm.embed` refuses.
    """
    if key_added is not None:
        check_key(key_added)
    check_cells(adata)
    options = InputOptions(layer=layer, gene_key=gene_key, species=species, condition_keys=condition_keys)
    head = head if isinstance(head, Head) else read_head(head)
    if head.tuned is None:
        unused = {"model": model, "batch_size": batch_size, "device": device}
        warn_of_unused("on this head, which reads vectors", options, **unused)
        x = fitting_vectors(adata, head)
    else:
        check_settings(batch_size, options)
        model = as_model(model, device)
        check_same_module(model, head.tuned)
        whole = prepare(
            adata, model, replace(options, regulators="all", n_top_genes=None, preprocess=head.tuned.preprocess)
        )
        model_input = narrowed(whole, head.tuned.gene_ids, head.tuned.symbols, head.tuned.is_tf, "the head")
        if progress:
            logger.info(model_input.receipt)
        x = embed_cells(
            model, head.tuned.efm.to(model.device), model_input, forward_batch_size(batch_size, model), progress
        )
    out = head.apply(x)
    table = pd.DataFrame(out if out.ndim == 2 else out[:, None], adata.obs_names, head.labels or ["value"])
    if not copy:
        annotate(adata, out, head, f"{head.settings.target}_predicted" if key_added is None else key_added)
    return table


def fitting_vectors(adata: AnnData, head: Head) -> np.ndarray:
    """Vectors in obsm that are of the head's kind."""
    use_rep = str(head.settings.use_rep)
    x = vectors(adata, use_rep)
    if x.shape[1] != len(head.center):
        raise ValueError(
            f"obsm[{use_rep!r}] is {x.shape[1]} wide, the head was fitted on {len(head.center)}: these are vectors of another kind or space. "
            "Anchored vectors: place these cells beside the head's, Embedding.place(adata)"
        )
    found = embedding_hash(adata, use_rep)
    if head.embedding_hash and found and found != head.embedding_hash:
        raise ValueError(
            f"obsm[{use_rep!r}] lies in another space than the vectors that the head was fitted on. Anchored vectors: place "
            "these cells beside the head's, Embedding.place(adata), or fit the head with use_rep='X_sccafm_zero_shot'. Others: "
            "embed them with the same model (the adapted one is Embedding.model)"
        )
    return x


def check_same_module(model: Model, tuned: Tuned) -> None:
    if model.weights_hash != tuned.weights_hash:
        raise ValueError(
            f"the head was fitted with the structure module {tuned.weights_hash[:16]} of the model from {tuned.source}, the "
            f"model from {model.source} has {model.weights_hash[:16]}; pass the model it was fitted with, "
            f"model={None if tuned.source == 'bundled' else tuned.source!r}, or fit the head again"
        )


def annotate(adata: AnnData, out: np.ndarray, head: Head, key: str) -> None:
    if head.settings.kind == "classify":
        adata.obs[key] = pd.Categorical.from_codes(out.argmax(1), head.labels)
        adata.obs[f"{key}_probability"] = out.max(1)
    else:
        adata.obs[key] = out
