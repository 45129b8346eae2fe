"""Other cells in an anchored space: they are read on its genes, passed through its model, and projected on its axes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sccafm._settings import logger
from sccafm._torch import plain_torch
from sccafm.data.groups import find_groups
from sccafm.data.input import prepare
from sccafm.data.narrowing import narrowed
from sccafm.data.options import InputOptions
from sccafm.embedding.anchor import LEAST_CELLS
from sccafm.embedding.embed import annotated, assemble, run, with_module
from sccafm.embedding.result import Embedding
from sccafm.grn.annotation import can_annotate
from sccafm.model.model import Model
from sccafm.model.validation import as_model, check_key, check_settings, forward_batch_size
from sccafm.model.weights import module_hash


@plain_torch()
def place(
    embedding: Embedding,
    adata,
    model: Model | str | Path | None,
    *,
    own_mean: bool,
    layer: str | None,
    gene_key: str | None,
    species: str | None,
    condition_keys: Mapping[str, str] | None,
    preprocess: str,
    batch_size: int | str,
    device: str,
    key_added: str,
    copy: bool,
    progress: bool,
) -> Embedding:
    """`Embedding.place`, which documents the parameters."""
    anchor = embedding.anchor
    if anchor is None or embedding.params["harmony"]:
        raise ValueError(
            "cells are placed into an anchored space, and this embedding "
            + (
                "has none: embed with anchor=True"
                if anchor is None
                else "was corrected by Harmony: embed without harmony="
            )
        )
    if own_mean and getattr(adata, "n_obs", LEAST_CELLS) < LEAST_CELLS:
        raise ValueError(
            f"own_mean=True needs {LEAST_CELLS} cells at least, got {adata.n_obs}: one cell is its own mean"
        )
    check_key(key_added)
    can_annotate(adata, is_said=copy)
    options = InputOptions(
        regulators="all",
        n_top_genes=None,
        layer=layer,
        gene_key=gene_key,
        species=species,
        condition_keys=condition_keys,
        preprocess=preprocess,
    )
    check_settings(batch_size, options)
    model = with_module(as_model(embedding.model if model is None else model, device))
    if embedding.adapted is not None:
        model = replace(model, efm=embedding.adapted.to(model.device))
    check_same_model(embedding, model)
    whole = prepare(adata, model, options)
    symbols = embedding.gene_table["symbol"]
    model_input = narrowed(whole, anchor.read_ids, list(symbols), anchor.read_is_tf, "the embedding")
    if progress:
        logger.info(model_input.receipt)
    groups = find_groups(adata, None)
    zero_shot, sums = run(model, model_input, groups, None, forward_batch_size(batch_size, model), progress)
    cells = anchor.place(model_input, zero_shot, own_mean)
    settings = {key: embedding.params[key] for key in ("adapt", "batch_key", "harmony")}
    placed = assemble(model, model_input, groups, zero_shot, cells, sums, anchor, settings | {"own_mean": own_mean})
    return annotated(adata, placed, model_input, key_added, copy)


def check_same_model(embedding: Embedding, model: Model) -> None:
    made_by = embedding.params
    here = {"efm_hash": module_hash(model.embedding_module), "weights_hash": model.weights_hash}
    for key, module in {"efm_hash": "embedding module", "weights_hash": "structure module"}.items():
        if here[key] != made_by[key]:
            raise ValueError(
                f"the space was made by other weights ({module} {made_by[key][:16]}, here {here[key][:16]}); pass "
                f"model={made_by['model']!r}, or the model of the run"
            )
