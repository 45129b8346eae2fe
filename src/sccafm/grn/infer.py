"""infer_grn: where data meets model. Cells are read block by block, and their networks written as they come."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sccafm._docs import shared_parameters
from sccafm._settings import logger
from sccafm._torch import plain_torch
from sccafm.confidence.permutation import NULL_CELLS
from sccafm.data.disk import is_path
from sccafm.data.input import DEFAULTS, warn_of_silent
from sccafm.data.joined import open_files
from sccafm.data.options import InputOptions
from sccafm.grn.annotation import annotate, can_annotate
from sccafm.grn.grn import GRN
from sccafm.grn.run import RunSettings, begin, run_to_memory, run_to_store
from sccafm.model.model import Model
from sccafm.model.validation import as_model, check_settings


@plain_torch()
@shared_parameters
def infer_grn(
    adata: Any,
    model: Model | str | Path | None = None,
    *,
    groupby: str | None = None,
    regulators: str | Sequence[str] = DEFAULTS.regulators,
    always: Sequence[str] = DEFAULTS.always,
    genes: Sequence[str] | None = None,
    n_top_genes: int | None = DEFAULTS.n_top_genes,
    layer: str | None = None,
    gene_key: str | None = None,
    species: str | None = None,
    condition_keys: Mapping[str, str] | None = None,
    preprocess: str = DEFAULTS.preprocess,
    top_k: int | None = 1000,
    min_weight: float | None = None,
    keep_factors: bool = False,
    null_cells: int = NULL_CELLS,
    neighbors: int = 0,
    store: str | Path | None = None,
    n_jobs: int | None = None,
    memory_limit: int | str | None = None,
    batch_size: int | str = "auto",
    device: str = "auto",
    key_added: str = "sccafm",
    copy: bool = False,
    progress: bool = True,
) -> GRN:
    """Infer a directed regulatory network for every cell.

    Parameters
    ----------
    adata
        Cells x genes, human or mouse; counts or normalised values in X, a layer or raw; in memory or backed. A matrix
        stored by columns (CSC) is converted once, which takes the memory of a second copy. Or a path: an .h5ad file, a .zarr
        folder, a list of these or a folder that holds them, which give one result. Cells of several files are read in the
        genes that all of them hold, and `obs` has a column "file".
    %(model)s
    groupby
        Column of obs; `GRN.matrix` and `GRN.pool` then give the exact mean network of each group.
    regulators
        "dna_binding": DNA-binding transcription factors of the species' list. "all": also cofactors and other
        regulators of the list. Or names, which may be any genes of the vocabulary.
    always
        Names of regulators that are read beside the others however few cells show them; any genes of the vocabulary. The
        receipt lists the regulators that were left out.
    %(genes)s
    %(n_top_genes)s
    %(layer)s
    %(gene_key)s
    %(species)s
    %(condition_keys)s
    %(preprocess)s
    top_k
        Edges to keep of each cell, the strongest; None: no limit. Self-edges are never kept.
    min_weight
        Least weight of a kept edge, between 0 and 1.
    keep_factors
        Keep each cell's factors, from which every score can be had (`GRN.factors`).
    null_cells
        Permuted cells of the data set that `qvalue` compares with, at least 8; each costs as much as a cell. 0: no
        q-values (NaN).
    neighbors
        Read each cell as the mean of this many nearest cells, itself among them (15 is usual), where single cells hold too few
        molecules to tell their state. Other cells then change a cell's answer. 0: each cell as it is.
    store
        Folder to which edges go while cells are read: memory then stays flat in the number of cells. An
        interrupted run resumes after the last complete chunk (500 cells; a few chunks with many groups) when called again.
    n_jobs
        Processes of one thread each that compute the parts of a run (500 cells); -1: one a core; 1: this process alone. None:
        what `joblib.parallel_config` says, so that Dask, Ray or Spark compute them, else whatever is faster on this machine.
        The results have the same bits for any number.
    memory_limit
        Memory that all processes together may take, such as "8GB" or a number of bytes: it bounds their number. None: what
        is free.
    %(batch_size)s
    %(device)s
    %(key_added)s
    copy
        Leave `adata` alone and annotate a copy, `GRN.adata`.
    %(progress)s

    Returns
    -------
    GRN
        And in `adata`, with ``key_added="sccafm"``: ``obsm["X_sccafm_sfm"]`` (float32, the encoder's cell token),
        ``obsm["sccafm_context"]`` (DataFrame, float32), ``obs["sccafm_context"]`` (categorical),
        ``obs["sccafm_context_entropy"]`` (float64), ``obs["sccafm_ood"]`` (float32, where the model has a calibration:
        how unusual the cell is, 1 most), ``var["is_tf"]``, ``var["sccafm_in_vocab"]`` (bool),
        ``uns["sccafm"]["grn"]`` (population network: the strongest edges of each group) and
        ``uns["sccafm"]["params"]`` (run card with the receipt of the gene mapping).

    Raises
    ------
    TypeError
        `adata` is no AnnData.
    ValueError, KeyError
        Data that cannot be read: the message says what was expected, what came and what mends it.
    OSError
        The disk of `store` is full, or the folder cannot be written; what is finished is kept.
    WorkerError
        Workers are killed again and again, or their scheduler is gone; what is finished is kept with `store`.
    """
    options = InputOptions(
        regulators=regulators,
        always=always,
        genes=genes,
        n_top_genes=n_top_genes,
        layer=layer,
        gene_key=gene_key,
        species=species,
        condition_keys=condition_keys,
        preprocess=preprocess,
    )
    settings = RunSettings(
        groupby=groupby,
        top_k=top_k,
        min_weight=min_weight,
        keep_factors=keep_factors,
        null_cells=null_cells,
        neighbors=neighbors,
        batch_size=batch_size,
        key_added=key_added,
        n_jobs=n_jobs,
        memory_limit=memory_limit,
    )
    check_settings(batch_size, options)
    named = is_path(adata)
    if named and copy:
        raise ValueError("copy=True annotates a copy of an AnnData; of a path nothing is annotated: leave copy= out")
    adata = open_files(adata) if named else adata
    is_annotated = not named and (copy or can_annotate(adata))
    run = begin(adata, as_model(model, device), options, settings)
    if progress:
        logger.info(run.model_input.receipt)
    grn, silent = run_to_memory(run, progress) if store is None else run_to_store(run, store, progress)
    warn_of_silent(run.model_input, silent, "and no edges")
    if copy:
        adata = adata.to_memory() if adata.isbacked else adata.copy()
        grn = replace(grn, adata=adata)
    if is_annotated:
        annotate(adata, grn, run.model_input, key_added)
    return grn
