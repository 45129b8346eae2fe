"""embed: vectors of cells and genes that know the cell's graph. Cells are read block by block, like in `infer_grn`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sccafm._io import blocks, digest
from sccafm._settings import logger
from sccafm._text import warn
from sccafm._torch import plain_torch
from sccafm.data.groups import UNASSIGNED, find_groups, obs_column
from sccafm.data.input import DEFAULTS, ModelInput, prepare
from sccafm.data.options import InputOptions
from sccafm.data.tokenizer import tokenize
from sccafm.embedding.adapt import Adapt, adapt_efm, read_adapt
from sccafm.embedding.anchor import Anchor, check_anchor, fit_anchor
from sccafm.embedding.harmony import check_harmony, corrected
from sccafm.embedding.result import Embedding, cell_frame, static_frame
from sccafm.grn.annotation import can_annotate, storable
from sccafm.grn.grn import GRN
from sccafm.grn.reuse import check_grn, check_same_values, stored_factors
from sccafm.model.model import Model
from sccafm.model.validation import as_model, check_key, check_settings, forward_batch_size
from sccafm.model.weights import module_hash
from sccafm.nn import CausalEFM
from sccafm.nn.ordering import regulatory_order, reordered
from sccafm.types import Factors, Tokens


@plain_torch()
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
        As in `sccafm.infer_grn`: counts or normalised values, human or mouse, in memory or backed.
    model
        What `sccafm.load` returned, or takes; None: the model that ships with the library.
    grn
        Networks of these cells, inferred by the same model with ``keep_factors=True``: the structure module is not asked
        again, and genes and regulators are the networks'.
    groupby
        Column of obs; `Embedding.genes_by_group` then has the genes' vectors in each group.
    genes, n_top_genes, layer, gene_key, species, condition_keys, preprocess
        As in `sccafm.infer_grn`.
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
    batch_size
        Cells of one pass on a GPU, and of one read on a CPU, where cells are passed one at a time so that a cell's
        answer does not depend on the batch.
    device
        "auto", "cpu", "cuda", ...; ignored for a loaded model, which stays where it is.
    key_added
        Name of what is written to `adata`.
    copy
        Leave `adata` alone and annotate a copy, `Embedding.adata`.
    progress
        Print the receipt and show a bar.

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
    adapt = read_adapt(adapt)
    if harmony:
        check_harmony(batch_key, anchor)
    model = with_module(as_model(model, device))
    check_grn(adata, grn, model, genes)
    model_input = prepare(adata, model, options.of_networks(grn))
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
    graph = model.sfm if grn is None else lambda tokens, start, stop: stored_factors(grn, model_input, start, stop)
    zero_shot, sums = run(model, model_input, groups, graph, forward_batch_size(batch_size, model), progress)
    space, cells = fit_anchor(model_input, zero_shot, batches, corrects=not harmony) if anchor else (None, zero_shot)
    if harmony:
        cells = corrected(cells, batches)
    embedding = assemble(model, model_input, groups, zero_shot, cells, sums, space, settings)
    return annotated(adata, embedding, model_input, key_added, copy)


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
    model: Model, model_input: ModelInput, groups: pd.Series, graph, batch_size: int, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of all cells, and sums of the genes' over each group's: one cell is added at a time, in their order."""
    n, codes = len(model_input.matrix.obs_names), groups.cat.codes.to_numpy()
    cells, sums = [], np.zeros((len(groups.cat.categories), len(model_input.names), len(gene_columns(model))))
    with tqdm(total=n, desc="sccafm embed", unit="cell", disable=not progress) as bar:
        for start, stop in blocks(n, batch_size):
            values = model_input.matrix.read(start, stop, model_input.columns)
            tokens = tokenize(values, model_input.gene_ids, model_input.is_tf, model_input.conditions[start:stop])
            found = embed_tokens(model, tokens, graph, start)
            cells.append(found[0])
            for i, vectors in enumerate(found[1]):
                sums[codes[start + i]] += vectors
            bar.update(stop - start)
    return np.concatenate(cells), sums


@torch.inference_mode()
def embed_tokens(model: Model, tokens: Tokens, graph, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of cells, C D, and of their genes, C G D."""
    step = 1 if model.device.type == "cpu" else len(tokens)
    cells, genes = [], []
    for first in range(0, len(tokens), step):
        part = tokens[first : first + step].to(model.device)
        whole = graph(part) if graph is model.sfm else graph(part, start + first, start + first + len(part))
        found = pass_cells(model.efm, part, whole.to(model.device))
        for many, tensor in zip((cells, genes), found, strict=True):
            many.append(tensor.float().cpu().numpy())
    return np.concatenate(cells), np.concatenate(genes)


def pass_cells(efm, tokens: Tokens, factors: Factors) -> tuple[Tensor, Tensor]:
    """One pass of either kind of module: cells C D, genes C G D."""
    if isinstance(efm, CausalEFM):
        found = efm(tokens, factors)
        heads = efm.source_head(found.genes), efm.target_head(found.genes)
        return found.cells, torch.cat((found.genes, *heads), -1)
    order = regulatory_order(factors, tokens)
    hidden = efm(reordered(tokens, order))[:, 1:]
    back = torch.empty_like(hidden).scatter(1, order.positions[..., None].expand_as(hidden), hidden)
    # The published cell token sees nothing but the conditions and the values' distribution: shuffle a cell's values among
    # its genes, and it stays. What its genes' states say is pooled instead, over those that are expressed.
    informative = (tokens.expression > 0) & tokens.is_gene
    informative = torch.where(informative.any(1, keepdim=True), informative, tokens.is_gene)
    share = informative / informative.sum(1, keepdim=True)
    return torch.einsum("cg,cgd->cd", share, back), back


def find_batches(adata, batch_key: str | None, is_used: bool) -> np.ndarray | None:
    if batch_key is None:
        return None
    column = obs_column(adata, batch_key, "batch_key=")
    if not is_used:
        warn("batch_key has no effect with anchor=False and without adapt=; leave anchor= out")
        return None
    batches = column.astype(str).where(column.notna(), UNASSIGNED).to_numpy()
    if len(set(batches)) < 2:
        raise ValueError(f"batch_key={batch_key!r} names a single batch, {batches[0]!r}; leave batch_key= out")
    return batches


def gene_columns(model: Model) -> tuple[str, ...]:
    """What the entries of a contextual gene vector are."""
    config = model.efm.config
    parts = {"state": config.embed_dim}
    if isinstance(model.efm, CausalEFM):
        parts |= {"source": config.head_dim, "target": config.head_dim}
    return tuple(f"{name}_{i:03d}" for name, width in parts.items() for i in range(width))


@torch.inference_mode()
def static_vectors(model: Model, model_input: ModelInput) -> np.ndarray:
    ids = torch.from_numpy(model_input.gene_ids).to(model.device)
    find: Callable = model.efm.static if isinstance(model.efm, CausalEFM) else model.efm.embedding.gene_embedding
    return find(ids).float().cpu().numpy()


def parameters(model: Model, model_input: ModelInput, space: Anchor | None, settings: dict) -> dict:
    made_by = module_hash(model.efm)
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
    if not can_annotate(adata):
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
