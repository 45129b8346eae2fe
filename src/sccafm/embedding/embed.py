"""embed: vectors of cells and genes that know the cell's graph. Cells are read block by block, like in `infer_grn`."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from sccafm._docs import shared_parameters
from sccafm._io import digest, disk_errors, make_folder, whole_path
from sccafm._parallel import check_jobs, choose_jobs
from sccafm._settings import logger
from sccafm._text import warn
from sccafm._torch import plain_torch
from sccafm.data.disk import is_path
from sccafm.data.files import prepare_cells
from sccafm.data.groups import UNASSIGNED, find_groups, obs_column
from sccafm.data.input import DEFAULTS, ModelInput, warn_of_silent
from sccafm.data.joined import CellFiles, open_files
from sccafm.data.options import InputOptions
from sccafm.data.serialization import cells_of
from sccafm.embedding.adapt import Adapt, adapt_efm, read_adapt
from sccafm.embedding.anchor import Anchor, check_anchor, fit_anchor
from sccafm.embedding.harmony import check_harmony, corrected
from sccafm.embedding.parts import PART_CELLS, VectorInference, parts_of
from sccafm.embedding.result import Embedding, cell_frame, read_embedding, static_frame
from sccafm.grn.annotation import can_annotate, storable
from sccafm.grn.estimate import Size, most_workers
from sccafm.grn.grn import GRN
from sccafm.grn.reuse import check_grn, check_same_values
from sccafm.model.model import Model
from sccafm.model.validation import as_model, check_key, check_settings, forward_batch_size
from sccafm.model.weights import module_hash
from sccafm.nn import CausalEFM


@plain_torch()
@shared_parameters
def embed(
    adata,
    model: Model | str | Path | None = None,
    *,
    grn: GRN | None = None,
    groupby: str | None = None,
    genes: Sequence[str] | None = None,
    n_top_genes: int | None = DEFAULTS.n_top_genes,
    layer: str | None = None,
    gene_key: str | None = None,
    species: str | None = None,
    condition_keys: Mapping[str, str] | None = None,
    preprocess: str = DEFAULTS.preprocess,
    adapt: str | Adapt | None = None,
    batch_key: str | None = None,
    anchor: bool = True,
    harmony: bool = False,
    store: str | Path | None = None,
    n_jobs: int | None = None,
    memory_limit: int | str | None = None,
    batch_size: int | str = "auto",
    device: str = "auto",
    key_added: str = "X_sccafm",
    copy: bool = False,
    progress: bool = True,
) -> Embedding:
    """Embed cells and genes by what regulates them.

    A cell's vector is anchored to the data set: its place on the principal components of these very cells, joined with what
    the embedding module reads in the cell (`sccafm.embedding.anchor` has the formulas). It depends on the cells beside it. With
    ``anchor=False`` it is the module's vector alone, which depends on nothing but the cell. Both are kept.

    Parameters
    ----------
    adata
        As in `sccafm.infer_grn`: counts or normalised values, human or mouse, in memory, backed, or the path of one or several
        files.
    %(model)s
    grn
        Networks of these cells, inferred by the same model with ``keep_factors=True``: the structure module is not asked
        again, and genes and regulators are the networks'.
    groupby
        Column of obs; `Embedding.genes_by_group` then has the genes' vectors in each group.
    %(genes)s
    %(n_top_genes)s
    %(layer)s
    %(gene_key)s
    %(species)s
    %(condition_keys)s
    %(preprocess)s
    adapt
        Continue training on these cells first: "5 epochs", "3 minutes" or an `sccafm.Adapt`. What does not serve cells
        that are held out is not kept. The model that was passed stays as it is; the adapted one is `Embedding.model`.
    batch_key
        Column of obs whose differences are not wanted (donor, plate, study): the anchored vectors are corrected for them
        (`sccafm.embedding.batches`). With `adapt` they are not learned either.
    anchor
        False: `Embedding.cells` and ``obsm["X_sccafm"]`` are the module's own vectors.
    harmony
        Correct the anchored vectors by harmonypy instead (Korsunsky et al., Nature Methods 2019), with `batch_key` and the
        extra sccafm[harmony]. Nothing can be placed into such a space.
    store
        New folder that the embedding is written to, as by `Embedding.write`. An interrupted run resumes there after the chunks of
        500 cells that are finished, and a finished one is read and not computed again.
    n_jobs, memory_limit
        As in `sccafm.infer_grn`: processes that compute the module's vectors; the results have the same bits for any number.
    %(batch_size)s
    %(device)s
    %(key_added)s
    copy
        Leave `adata` alone and annotate a copy, `Embedding.adata`.
    %(progress)s

    Returns
    -------
    Embedding
        And in `adata`: ``obsm["X_sccafm"]`` (float32, `Embedding.cells`), ``obsm["X_sccafm_zero_shot"]`` (float32,
        `Embedding.zero_shot`), ``varm["X_sccafm"]`` (float32, `Embedding.genes`; NaN for
        genes that were not read) and ``uns["X_sccafm"]["params"]`` (run card with the receipt of the gene mapping; "space"
        tells which vectors compare), the same for ``uns["X_sccafm_zero_shot"]``.

    Raises
    ------
    TypeError
        `adata` is no AnnData.
    ImportError
        `harmony` without harmonypy.
    ValueError, KeyError
        Data that cannot be read, fewer than three cells to anchor to, a model without an embedding module, or networks of
        other cells, genes or weights: the message says what was expected, what came and what mends it.
    """
    options = InputOptions(
        genes=genes,
        n_top_genes=n_top_genes,
        layer=layer,
        gene_key=gene_key,
        species=species,
        condition_keys=condition_keys,
        preprocess=preprocess,
    )
    check_settings(batch_size, options)
    check_key(key_added)
    check_jobs(n_jobs)
    can_annotate(adata, is_said=copy)
    adapt = read_adapt(adapt)
    if harmony:
        check_harmony(batch_key, anchor)
    model = with_module(as_model(model, device))
    named = is_path(adata)
    if named and (copy or adapt is not None):
        raise ValueError("copy= and adapt= need an AnnData, not a path: sccafm.embed(anndata.read_h5ad(path), ...)")
    source = open_files(adata) if named else adata
    adata = annotated_by(source)
    check_grn(adata, grn, model, genes)
    model_input = prepare_cells(source, model, options.of_networks(grn))
    if grn is not None:
        check_same_values(grn, model_input)
    groups = find_groups(adata, groupby)
    batches = find_batches(adata, batch_key, anchor or adapt is not None)
    if anchor:
        check_anchor(model_input)
    if progress:
        logger.info(model_input.receipt)
    settings = {"adapt": {}, "batch_key": batch_key or "", "harmony": harmony}
    if adapt is not None:
        efm, record = adapt_efm(model, model_input, adapt, batches, progress)
        model, settings["adapt"] = dataclasses.replace(model, efm=efm), dataclasses.asdict(adapt) | record
    run_card = {"groups": digest(*groups.astype(str)), "batches": digest(*([] if batches is None else batches))}
    run_card |= settings | {"anchor": anchor, "grn": grn is not None}
    mark = run_mark(model, model_input, run_card)
    if store is not None and is_finished(store, mark):
        found = dataclasses.replace(read_embedding(store), model=model)
        return found if named else annotated(adata, found, model_input, key_added, copy)
    size = forward_batch_size(batch_size, model)
    work = None if store is None else new_work(store)
    zero_shot, sums = run(model, model_input, groups, grn, size, progress, n_jobs, memory_limit, work, mark)
    space, cells = fit_anchor(model_input, zero_shot, batches, corrects=not harmony) if anchor else (None, zero_shot)
    if harmony:
        cells = corrected(cells, np.asarray(batches))
    embedding = assemble(model, model_input, groups, zero_shot, cells, sums, space, settings)
    if work is not None:
        embedding.params["run"] = mark
        with disk_errors(work.parent):
            embedding.write_files(work.parent)
            shutil.rmtree(work)
    return embedding if named else annotated(adata, embedding, model_input, key_added, copy)


def annotated_by(source):
    """What holds the annotation of cells."""
    return source.adata if isinstance(source, CellFiles) else source


def run_mark(model: Model, model_input: ModelInput, card: dict) -> str:
    """Tells one run from another: a store takes parts of one run only."""
    read = (model_input.gene_ids.tobytes(), model_input.is_tf.tobytes(), model_input.conditions.tobytes())
    cells = digest(*model_input.matrix.obs_names)
    return digest(
        model.weights_hash,
        module_hash(model.embedding_module),
        model_input.digest,
        cells,
        *read,
        json.dumps(card, sort_keys=True, default=str),
    )


def is_finished(store: str | Path, mark: str) -> bool:
    """Whether a folder holds the embedding of this run; ValueError for one that holds another."""
    path = whole_path(store) / "embedding.json"
    if not path.exists():
        return False
    if json.loads(path.read_text())["params"].get("run") != mark:
        raise ValueError(f"store={str(store)!r} holds another embedding; give a new folder, or remove this one")
    return True


def new_work(store: str | Path) -> Path:
    """Where the parts of a run are left until all are there."""
    folder = whole_path(store)
    if folder.exists() and (not folder.is_dir() or any(path.name != "work" for path in folder.iterdir())):
        raise ValueError(f"store={str(store)!r} is not empty and holds no embedding; give a new folder")
    make_folder(folder)
    return folder / "work"


def assemble(
    model: Model,
    model_input: ModelInput,
    groups: pd.Series,
    zero_shot: np.ndarray,
    cells: np.ndarray,
    sums: np.ndarray,
    space: Anchor | None,
    settings: dict,
) -> Embedding:
    """The result of one run."""
    own = cell_frame(zero_shot, groups.index)
    return Embedding(
        cells=own if space is None else cell_frame(cells, groups.index),
        zero_shot=own,
        groups=groups,
        gene_table=model_input.gene_table(model.vocabulary),
        sums=sums,
        static_genes=static_frame(static_vectors(model, model_input), model_input.names.rename(None)),
        columns=gene_columns(model),
        params=parameters(model, model_input, space, settings),
        model=model,
        anchor=space,
        adapted=model.efm if settings["adapt"].get("is_kept") and isinstance(model.efm, CausalEFM) else None,
    )


def with_module(model: Model) -> Model:
    """The same; ValueError for a model that cannot embed."""
    if model.efm is None:
        raise ValueError(
            f"the model from {model.source} has no embedding module (efm_config.json, efm_model.safetensors); use the "
            "bundled one, model=None, or train one: python -m sccafm.train efm"
        )
    return model


def run(
    model: Model,
    model_input: ModelInput,
    groups: pd.Series,
    grn: GRN | None,
    batch_size: int,
    progress: bool,
    n_jobs: int | None = 1,
    memory_limit: int | str | None = None,
    work: Path | None = None,
    mark: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of all cells, and sums of the genes' over each group's: parts are added in their order."""
    factors, codes = None if grn is None else grn.arrays, groups.cat.codes.to_numpy()
    inference = VectorInference(
        model.sfm, model.embedding_module, cells_of(model_input), codes, factors, batch_size, PART_CELLS
    )
    n, names = len(codes), groups.cat.categories
    size = Size(n, len(model_input.names), int(model_input.is_tf.sum()), len(names), 0, False, 0, model.sfm.config)
    is_cpu = model.device.type == "cpu"
    jobs = choose_jobs(
        n_jobs,
        -(-n // PART_CELLS),
        PART_CELLS * size.cell_seconds() if is_cpu else 0.0,
        most_workers(size, memory_limit),
    )
    cells, silent, sums = [], [], np.zeros((len(names), len(model_input.names), len(gene_columns(model))))
    with tqdm(total=n, desc="sccafm embed", unit="cell", disable=not progress) as bar, ExitStack() as stack:
        if work is None and jobs:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sccafm-"))) / "work"
        for part in parts_of(inference, jobs, work, mark, bar):
            cells.append(part["cells"])
            silent.append(part["silent"])
            for place, group in enumerate(part["groups"]):
                sums[group] += part["sums"][place]
    warn_of_silent(model_input, np.concatenate(silent), "and vectors that are those of an empty cell")
    return np.concatenate(cells), sums


def find_batches(adata, batch_key: str | None, is_used: bool) -> np.ndarray | None:
    if batch_key is None:
        return None
    column = obs_column(adata, batch_key, "batch_key=")
    if not is_used:
        warn("batch_key has no effect with anchor=False and without adapt=; leave anchor= out")
        return None
    missing = int(column.isna().sum())
    batches = column.astype(str).where(column.notna(), UNASSIGNED).to_numpy()
    names, sizes = np.unique(batches, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"batch_key={batch_key!r} names a single batch, {batches[0]!r}; leave batch_key= out")
    if sizes.max() == 1:
        raise ValueError(
            f"batch_key={batch_key!r} names a batch for every cell; give a column whose batches hold many cells each"
        )
    if missing:
        warn(f"{missing:,} cells have no {batch_key!r}; they are corrected as one batch, {UNASSIGNED!r}")
    if (sizes == 1).any():
        warn(
            f"{(sizes == 1).sum():,} batches of {batch_key!r} hold a single cell each (first: {names[sizes == 1][0]!r})"
        )
    return batches


def gene_columns(model: Model) -> tuple[str, ...]:
    """What the entries of a contextual gene vector are."""
    efm = model.embedding_module
    parts = {"state": efm.config.embed_dim}
    if isinstance(efm, CausalEFM):
        parts |= {"source": efm.config.head_dim, "target": efm.config.head_dim}
    return tuple(f"{name}_{i:03d}" for name, width in parts.items() for i in range(width))


@torch.inference_mode()
def static_vectors(model: Model, model_input: ModelInput) -> np.ndarray:
    ids = torch.from_numpy(model_input.gene_ids).to(model.device)
    efm = model.embedding_module
    find: Callable = efm.static if isinstance(efm, CausalEFM) else efm.embedding.gene_embedding
    return find(ids).float().cpu().numpy()


def parameters(model: Model, model_input: ModelInput, space: Anchor | None, settings: dict) -> dict:
    made_by = module_hash(model.embedding_module)
    return {
        "model": model.source,
        "revision": model.revision or "",
        "kind": "causal" if isinstance(model.efm, CausalEFM) else "published",
        "weights_hash": model.weights_hash,
        "efm_hash": made_by,
        "space": made_by if space is None else space.space,
        "anchored": space is not None,
        "version": version("sccafm"),
        "torch": torch.__version__,
        "device": str(model.device),
        "genes": digest(*model_input.names),
        "receipt": model_input.receipt.to_dict(),
    } | settings


def annotated(adata, embedding: Embedding, model_input: ModelInput, key: str, copy: bool) -> Embedding:
    """The embedding, after its vectors were written into the AnnData or a copy of it."""
    if copy:
        adata = adata.to_memory() if adata.isbacked else adata.copy()
        embedding = dataclasses.replace(embedding, adata=adata)
    elif not can_annotate(adata, is_said=True):
        return embedding
    place = pd.Series(np.arange(len(model_input.names)), index=model_input.names).reindex(model_input.labels_of(adata))
    vectors = np.full((len(place), len(embedding.columns)), np.nan, dtype=np.float32)
    found = place.notna().to_numpy()
    vectors[found] = embedding.genes.to_numpy()[place[found].astype(int)]
    adata.varm[key] = vectors
    own = embedding.params | {"space": embedding.params["efm_hash"], "anchored": False}
    for name, frame, params in (
        (key, embedding.cells, embedding.params),
        (f"{key}_zero_shot", embedding.zero_shot, own),
    ):
        adata.obsm[name] = frame.to_numpy(copy=True)
        adata.uns[name] = {"params": storable(params)}
    return embedding
