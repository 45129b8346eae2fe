"""embed: vectors of cells and genes that know the cell's graph. Cells are read block by block, like in `infer_grn`."""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from sccafm.adaptation import Adapt, adapt_efm, read_adapt
from sccafm.annotation import storable
from sccafm.batch import Factors, Tokens
from sccafm.doors import as_model, check_settings, pass_size
from sccafm.factors import unpack_factors
from sccafm.grn import GRN
from sccafm.groups import ALL, UNASSIGNED, find_groups
from sccafm.nn import CausalEFM
from sccafm.nn.ordering import regulatory_order, reordered
from sccafm.preprocess import blocks
from sccafm.pretrained import Model
from sccafm.reading import Reading, read
from sccafm.run_card import digest
from sccafm.store import new_folder, write_table, write_whole
from sccafm.tokenizer import tokenize

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Embedding:
    """Vectors of the cells and genes of one data set. Made by `sccafm.embed` and `sccafm.read_embedding`."""

    cells: pd.DataFrame  # cells x width, float32
    groups: pd.Series  # group of each cell, categorical; "all" without groupby
    gene_table: pd.DataFrame = field(repr=False)  # index name; columns symbol, gene_id, is_tf
    sums: np.ndarray = field(repr=False)  # groups G width float64: contextual vectors, summed over a group's cells
    static_genes: pd.DataFrame = field(repr=False)  # G x width, the gene's vector whatever the cell
    columns: tuple[str, ...] = field(repr=False)  # what the entries of a contextual gene vector are
    params: dict = field(repr=False)  # run card
    model: Model | None = field(default=None, repr=False)  # what embedded them, adapted where that was asked for
    adata: object = field(default=None, repr=False)  # the annotated copy, with copy=True

    def __len__(self) -> int:
        return len(self.cells)

    def __repr__(self) -> str:
        groups = (
            "" if self.groups.name == ALL else f", groups of {self.groups.name}: {list(self.groups.cat.categories)}"
        )
        return (
            f"Embedding of {len(self):,} cells ({self.cells.shape[1]} wide) and {len(self.gene_table):,} genes "
            f"({len(self.columns)} wide){groups}; {self.params['kind']} module of model {self.params['model']}"
        )

    @cached_property
    def genes(self) -> pd.DataFrame:
        """Contextual vector of each gene, mean over all cells: genes x width, float32.

        Columns `state_*` say what the gene is in these cells; with this library's module `source_*` and `target_*` say what
        it would regulate and what regulates it: ``source @ target.T`` for the regulators' rows (``gene_table["is_tf"]``). Source
        vectors of other genes were hardly trained and mean little.
        """
        return self._frame(self.sums.sum(0) / len(self))

    @cached_property
    def genes_by_group(self) -> dict[str, pd.DataFrame]:
        """The same as a mean over each group's cells."""
        counts = self.groups.value_counts(sort=False)
        return {name: self._frame(self.sums[i] / counts[name]) for i, name in enumerate(self.groups.cat.categories)}

    def _frame(self, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values.astype(np.float32), self.gene_table.index, list(self.columns))

    def write(self, folder: str | Path) -> Path:
        """Write to a folder that is new or empty: parquet, safetensors, JSON. `sccafm.read_embedding` reads it."""
        folder = new_folder(folder)
        arrays = {"cells": self.cells.to_numpy(), "gene_sums": self.sums, "static_genes": self.static_genes.to_numpy()}
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        labels = pd.DataFrame({"cell": self.cells.index.astype(str), "group": self.groups.array})
        write_table(labels, folder / "cells.parquet")
        write_table(self.gene_table.rename_axis("name").reset_index(), folder / "genes.parquet")
        write_whole(folder / "vectors.safetensors", lambda p: save_file(arrays, p))
        header = {"format": FORMAT, "groupby": self.groups.name, "columns": list(self.columns), "params": self.params}
        write_whole(folder / "embedding.json", lambda p: p.write_text(json.dumps(header, indent=1) + "\n"))
        return folder


def read_embedding(folder: str | Path) -> Embedding:
    """Read what `Embedding.write` wrote.

    Raises
    ------
    FileNotFoundError
        The folder holds no embedding.
    ValueError
        It was written by another version.
    """
    folder = Path(folder)
    path = folder / "embedding.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no embedding: it has no embedding.json")
    header = json.loads(path.read_text())
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {header.get('format')}, this version reads {FORMAT}; embed again")
    arrays = load_file(folder / "vectors.safetensors")
    labels = pd.read_parquet(folder / "cells.parquet")
    genes = pd.read_parquet(folder / "genes.parquet").set_index("name").rename_axis(None)
    cells = pd.Index(labels["cell"]).rename(None)
    groups = labels["group"].astype("category").set_axis(cells).rename(header["groupby"])
    return Embedding(
        cells=cell_frame(arrays["cells"], cells),
        groups=groups,
        gene_table=genes,
        sums=arrays["gene_sums"],
        static_genes=static_frame(arrays["static_genes"], genes.index),
        columns=tuple(header["columns"]),
        params=header["params"],
    )


def embed(
    adata,
    model: Model | str | Path | None = None,
    *,
    grn: GRN | None = None,
    groupby: str | None = None,
    genes: Sequence[str] | None = None,
    n_top_genes: int | None = 2000,
    layer: str | None = None,
    gene_key: str | None = None,
    species: str | None = None,
    condition_keys: Mapping[str, str] | None = None,
    preprocess: str = "auto",
    adapt: str | Adapt | None = None,
    batch_key: str | None = None,
    batch_size: int | str = "auto",
    device: str = "auto",
    key_added: str = "X_sccafm",
    copy: bool = False,
    progress: bool = True,
) -> Embedding:
    """Embed cells and genes by what regulates them.

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
        Continue training on these cells first: "5 epochs", "3 minutes" or an `sccafm.Adapt`. The model that was passed
        stays as it is; the adapted one is `Embedding.model`.
    batch_key
        With `adapt`: column of obs whose differences are not to be learned (donor, plate, study).
    batch_size
        Cells of one pass on a GPU, and of one read on a CPU, where cells are passed one at a time so that a cell's
        answer has the same bits whatever the batch.
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
        And in `adata`: ``obsm["X_sccafm"]`` (float32, cells), ``varm["X_sccafm"]`` (float32, `Embedding.genes`; NaN for
        genes that were not read) and ``uns["X_sccafm"]["params"]`` (run card with the receipt of the gene mapping).

    Raises
    ------
    TypeError
        `adata` is no AnnData.
    ValueError, KeyError
        Data that cannot be read, a model without an embedding module, or networks of other cells, genes or weights: the
        message says what was expected, what came and what mends it.
    """
    check_settings(None, None, batch_size, genes, n_top_genes, 0)
    adapt = read_adapt(adapt)
    model = as_model(model, device)
    if model.efm is None:
        raise ValueError(
            f"the model from {model.source} has no embedding module (efm_config.json, efm_model.safetensors); use the "
            "bundled one, model=None, or train one: python -m sccafm.train efm"
        )
    check_grn(adata, grn, model, genes)
    reading = read(
        adata,
        model.lexicon,
        **genes_to_read(grn, genes),
        n_top_genes=n_top_genes,
        layer=layer,
        gene_key=gene_key,
        species=species,
        condition_keys=condition_keys,
        preprocess=preprocess,
    )
    if grn is not None:
        check_same_values(grn, reading)
    groups = find_groups(adata, groupby)
    batches = find_batches(adata, batch_key, adapt)
    if progress:
        print(reading.receipt)
    if adapt is not None:
        model = dataclasses.replace(model, efm=adapt_efm(model, reading, adapt, batches, progress))
    graph = model.sfm if grn is None else lambda tokens, start, stop: stored_factors(grn, reading, start, stop)
    cells, sums = run(model, reading, groups, graph, pass_size(batch_size, model), progress)
    embedding = Embedding(
        cells=cell_frame(cells, groups.index),
        groups=groups,
        gene_table=reading.gene_table(model.vocabulary),
        sums=sums,
        static_genes=static_frame(static_vectors(model, reading), reading.names.rename(None)),
        columns=gene_columns(model),
        params=parameters(model, reading, adapt, batch_key),
        model=model,
    )
    if copy:
        adata = adata.to_memory() if adata.isbacked else adata.copy()
        object.__setattr__(embedding, "adata", adata)
    annotate(adata, embedding, reading, key_added)
    return embedding


def run(
    model: Model, reading: Reading, groups: pd.Series, graph, batch_size: int, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of all cells, and sums of the genes' over each group's: one cell is added at a time, in their order."""
    n, codes = len(reading.matrix.obs_names), groups.cat.codes.to_numpy()
    cells, sums = [], np.zeros((len(groups.cat.categories), len(reading.names), len(gene_columns(model))))
    with tqdm(total=n, desc="sccafm embed", unit="cell", disable=not progress) as bar:
        for start, stop in blocks(n, batch_size):
            values = reading.matrix.read(start, stop, reading.columns)
            tokens = tokenize(values, reading.gene_ids, reading.is_tf, reading.conditions[start:stop])
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


def stored_factors(grn: GRN, reading: Reading, start: int, stop: int) -> Factors:
    """What the structure module said of some cells when their networks were inferred."""
    return unpacked_factors(grn.arrays, slice(start, stop), reading.is_tf, grn.sums["u"].shape[1])


def unpacked_factors(
    arrays: Mapping[str, np.ndarray], cells: slice | np.ndarray, is_tf: np.ndarray, size: int
) -> Factors:
    """Factors of some cells from what is kept of them.

    Parameters
    ----------
    arrays
        u_index, u_value, v_index, v_value (`factors.pack_factors`) and summary, a row per cell.
    cells
        Rows of the arrays.
    is_tf
        G bool: u is kept of regulators alone.
    size
        Number of factors, M.
    """
    u, v = (
        unpack_factors(np.asarray(arrays[f"{n}_index"][cells]), np.asarray(arrays[f"{n}_value"][cells]), size) for n in "uv"
    )  # fmt: skip
    whole = np.zeros((len(u), len(is_tf), size), dtype=u.dtype)
    whole[:, is_tf] = u
    return Factors(torch.from_numpy(whole), torch.from_numpy(v), torch.from_numpy(np.array(arrays["summary"][cells])))


def check_grn(adata, grn: GRN | None, model: Model, genes: Sequence[str] | None) -> None:
    if grn is None:
        return
    if not isinstance(grn, GRN):
        raise TypeError(f"grn must be what sccafm.infer_grn or sccafm.read_grn returned, got {type(grn).__name__}")
    if "u_index" not in grn.arrays:
        raise ValueError(
            "grn= holds no factors; infer it with keep_factors=True: sccafm.infer_grn(adata, keep_factors=True)"
        )
    if grn.params["run"]["weights"] != model.weights_hash[:16]:
        raise ValueError(
            f"grn= was inferred by other weights ({grn.params['run']['weights']}) than the model's "
            f"({model.weights_hash[:16]}); pass the model it was inferred with, model={grn.params.get('model')!r}"
        )
    names = pd.Index(getattr(adata, "obs_names", []))
    if not names.equals(grn.cells):
        common = len(names.intersection(grn.cells))
        raise ValueError(
            f"grn= is of other cells: {len(grn):,} there, {len(names):,} here, {common:,} in common, and their order must "
            "agree; pass adata[grn.cells], or infer the networks of these cells"
        )
    if genes is not None:
        warnings.warn("genes= has no effect beside grn=, whose genes are read", stacklevel=3)


def genes_to_read(grn: GRN | None, genes: Sequence[str] | None) -> dict:
    """Regulators and genes as `read` takes them: those of the networks, where there are some."""
    if grn is None:
        return {"regulators": "dna_binding", "genes": genes}
    return {"regulators": list(grn.regulators), "genes": list(grn.genes.index)}


def check_same_values(grn: GRN, reading: Reading) -> None:
    here = f"{reading.matrix.origin} {reading.matrix.kind} {reading.digest}"
    there = grn.params["run"]["values"]
    same_genes = list(reading.names) == list(grn.genes.index)
    if here != there or not same_genes or not np.array_equal(reading.is_tf, grn.genes["is_tf"].to_numpy()):
        raise ValueError(
            f"grn= was inferred from other values or genes (there {there}, here {here}); pass the same layer=, gene_key= "
            "and preprocess= as then, or infer it again"
        )


def find_batches(adata, batch_key: str | None, adapt: Adapt | None) -> np.ndarray | None:
    if batch_key is None:
        return None
    if batch_key not in adata.obs:
        raise KeyError(f"batch_key={batch_key!r} is no column of obs; there are {list(adata.obs.columns)}")
    if adapt is None:
        warnings.warn('batch_key has no effect without adapt=; write adapt="5 epochs"', stacklevel=3)
        return None
    column = adata.obs[batch_key]
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
def static_vectors(model: Model, reading: Reading) -> np.ndarray:
    ids = torch.from_numpy(reading.gene_ids).to(model.device)
    find: Callable = model.efm.static if isinstance(model.efm, CausalEFM) else model.efm.embedding.gene_embedding
    return find(ids).float().cpu().numpy()


def cell_frame(values: np.ndarray, cells: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(values, cells, [f"cell_{i:03d}" for i in range(values.shape[1])])


def static_frame(values: np.ndarray, names: pd.Index) -> pd.DataFrame:
    return pd.DataFrame(values, names, [f"static_{i:03d}" for i in range(values.shape[1])])


def parameters(model: Model, reading: Reading, adapt: Adapt | None, batch_key: str | None) -> dict:
    return {
        "model": model.source,
        "revision": model.revision or "",
        "kind": "causal" if isinstance(model.efm, CausalEFM) else "published",
        "weights_hash": model.weights_hash,
        "efm_hash": module_hash(model.efm),
        "version": version("sccafm"),
        "torch": torch.__version__,
        "device": str(model.device),
        "genes": digest(*reading.names),
        "adapt": {} if adapt is None else dataclasses.asdict(adapt),
        "batch_key": batch_key or "",
        "receipt": reading.receipt.to_dict(),
    }


def module_hash(module: torch.nn.Module) -> str:
    """sha256 over names and values of a module's tensors."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def annotate(adata, embedding: Embedding, reading: Reading, key: str) -> None:
    """Write the vectors into the AnnData."""
    adata.obsm[key] = embedding.cells.to_numpy(copy=True)
    place = pd.Series(np.arange(len(reading.names)), index=reading.names).reindex(reading.labels_of(adata))
    vectors = np.full((len(place), len(embedding.columns)), np.nan, dtype=np.float32)
    found = place.notna().to_numpy()
    vectors[found] = embedding.genes.to_numpy()[place[found].astype(int)]
    adata.varm[key] = vectors
    adata.uns[key] = {"params": storable(embedding.params)}
