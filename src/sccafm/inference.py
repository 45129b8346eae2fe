"""infer_grn: where data meets model. Cells are read block by block, and their networks written as they come."""

import hashlib
import json
import numbers
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sccafm.batch import Factors, Tokens
from sccafm.calibration import Calibration, confidence_of, levels, out_of_distribution, row_quantiles
from sccafm.grn import ALL, GRN, factor_names, pack_factors, stored_results
from sccafm.lexicon import Lexicon
from sccafm.nn import SFM
from sccafm.null import NULL_CELLS, CellTest, Null, fit_null, permuted_cells, sample_cells
from sccafm.null import SAMPLE_CELLS as NULL_SAMPLE
from sccafm.pairs import Pairs
from sccafm.preprocess import blocks
from sccafm.pretrained import Model, load, load_cached
from sccafm.reading import Reading, read
from sccafm.signs import SAMPLE_CELLS as SIGN_SAMPLE
from sccafm.signs import infer_signs
from sccafm.store import PART_CELLS, CellEdges, Part, Store, n_parts
from sccafm.tokenizer import tokenize

UNASSIGNED = "unassigned"
POPULATION_EDGES = 10_000  # edges of the population network that uns keeps per group


def infer_grn(
    adata,
    model: Model | str | Path | None = None,
    *,
    groupby: str | None = None,
    regulators: str | Sequence[str] = "dna_binding",
    genes: Sequence[str] | None = None,
    n_top_genes: int | None = 2000,
    layer: str | None = None,
    gene_key: str | None = None,
    species: str | None = None,
    condition_keys: Mapping[str, str] | None = None,
    preprocess: str = "auto",
    top_k: int | None = 1000,
    min_weight: float | None = None,
    keep_factors: bool = False,
    null_cells: int = NULL_CELLS,
    store: str | Path | None = None,
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
        stored by columns (CSC) is converted once, which takes the memory of a second copy.
    model
        What `sccafm.load` returned, or takes; None: the model that ships with the library.
    groupby
        Column of obs; `GRN.matrix` and `GRN.pool` then give the exact mean network of each group.
    regulators
        "dna_binding": DNA-binding transcription factors of the species' list. "all": also cofactors and other
        regulators of the list. Or names, which may be any genes of the vocabulary.
    genes
        Names of the genes to read. None: the regulators that are seen in at least 2 % of the cells and the
        `n_top_genes` most variable other genes; data of at most `n_top_genes` genes are taken whole.
    n_top_genes
        None: every gene that the vocabulary holds.
    layer
        Layer to read. None: the first of layers["counts"], X and raw that holds counts, else normalised values.
    gene_key
        Column of var with the gene names, which then label the results. None: every usual column is looked at, and
        var_names label the results.
    species
        "human" or "mouse". None: from obs, uns or the names.
    condition_keys
        Maps "platform", "species", "tissue", "disease" to columns of obs. None: CELLxGENE's names are looked for.
    preprocess
        "auto": counts are read as log1p of counts per 10,000, log-normalised values as they are. "none": the matrix
        is read as it is.
    top_k
        Edges to keep of each cell, the strongest; None: no limit. Self-edges are never kept.
    min_weight
        Least weight of a kept edge, between 0 and 1.
    keep_factors
        Keep each cell's factors, from which every score can be had (`GRN.factors`).
    null_cells
        Permuted cells of the data set that `qvalue` compares with, at least 8; each costs as much as a cell. 0: no
        q-values (NaN).
    store
        Folder to which edges go while cells are read: memory then stays flat in the number of cells. A run that was
        killed is taken up after the last finished part (500 cells; a few parts with many groups) when called again.
    batch_size
        Cells of one pass on a GPU, and of one read on a CPU, where cells are passed one at a time so that a cell's
        answer has the same bits whatever the batch.
    device
        "auto", "cpu", "cuda", ...; ignored for a loaded model, which stays where it is.
    key_added
        Name of what is written to `adata`.
    copy
        Leave `adata` alone and annotate a copy, `GRN.adata`.
    progress
        Print the receipt and show a bar.

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
    ValueError, KeyError
        Data that cannot be read: the message says what was expected, what came and what mends it.
    """
    check_settings(top_k, min_weight, batch_size, genes, n_top_genes, null_cells)
    model = as_model(model, device)
    reading = read(
        adata,
        model.lexicon,
        regulators=regulators,
        genes=genes,
        n_top_genes=n_top_genes,
        layer=layer,
        gene_key=gene_key,
        species=species,
        condition_keys=condition_keys,
        preprocess=preprocess,
    )
    groups = find_groups(adata, groupby)
    if progress:
        print(reading.receipt)
    run = run_card(model, reading, groups, groupby, top_k, min_weight, keep_factors, null_cells)
    params = parameters(model, reading, run)
    sample = read_sample(reading)
    null = find_null(model, reading, sample, null_cells)
    grn = empty_grn(model, reading, groups, params, find_pairs(model, reading, sample.values, null))
    size = pass_size(batch_size, model)
    inferred = Inference(model, reading, grn, null, top_k, min_weight, keep_factors, size)
    grn = inferred.to_memory(progress) if store is None else inferred.to_store(store, progress)
    if copy:
        adata = adata.to_memory() if adata.isbacked else adata.copy()
        object.__setattr__(grn, "adata", adata)
    annotate(adata, grn, reading, key_added)
    return grn


class Inference:
    """One run over the cells of a data set."""

    def __init__(
        self,
        model: Model,
        reading: Reading,
        grn: GRN,
        null: Null | None,
        top_k: int | None,
        min_weight: float | None,
        keep_factors: bool,
        batch_size: int,
    ):
        self.sfm, self.calibration, self.reading, self.grn = model.sfm, model.calibration, reading, grn
        self.top_k, self.min_weight, self.keep_factors = top_k, min_weight, keep_factors
        self.batch_size = batch_size
        self.group_codes = grn.groups.cat.codes.to_numpy()
        self.self_edges = self_edges(reading)
        self.test = None if null is None else CellTest(null, self.self_edges)

    def to_memory(self, progress: bool) -> GRN:
        parts, sums = [], self._no_sums()
        with self._bar(progress) as bar:
            for number in range(n_parts(len(self.grn))):
                parts.append(self._part(number, sums, bar))
        arrays = {name: np.concatenate([p.arrays[name] for p in parts]) for name in parts[0].arrays}
        values = {name: getattr(self.grn, name) for name in ("cells", "genes", "groups", "pairs", "params")}
        return GRN(**values, edges=CellEdges.join([p.edges for p in parts]), sums=sums, arrays=arrays)

    def to_store(self, folder: str | Path, progress: bool) -> GRN:
        header = {"run": self.grn.params["run"], "params": self.grn.params}
        store = Store(folder, header, self.grn.tables())
        done, sums = store.finished()
        sums = self._no_sums() if sums is None else sums
        with self._bar(progress) as bar:
            bar.update(min(done * PART_CELLS, len(self.grn)))
            for number in range(done, n_parts(len(self.grn))):
                store.add(number, self._part(number, sums, bar), sums)
        store.complete()
        values = {name: getattr(self.grn, name) for name in ("cells", "genes", "groups", "pairs")}
        return GRN(**values, sums=sums, params=store.params, **stored_results(store.folder, len(self.grn)))

    def _bar(self, progress: bool) -> tqdm:
        return tqdm(total=len(self.grn), desc="sccafm", unit="cell", disable=not progress)

    def _no_sums(self) -> dict[str, np.ndarray]:
        regulators, targets = self.grn.in_prior.shape
        factors = self.sfm.config.num_factors
        groups = len(self.grn.groups.cat.categories)
        tail = {} if self.test is None else {"null_tail": self.test.null.group_tail}
        return tail | {
            "scores": np.zeros((groups, regulators, targets)),
            "expression": np.zeros((groups, targets)),
            "u": np.zeros((regulators, factors)),
            "v": np.zeros((targets, factors)),
        }

    def _part(self, number: int, sums: dict[str, np.ndarray], bar: tqdm) -> Part:
        first = number * PART_CELLS
        last = min(first + PART_CELLS, len(self.grn))
        edges, arrays = [], []
        for start, stop in blocks(last - first, self.batch_size):
            batch_edges, batch_arrays = self._batch(first + start, first + stop, sums)
            edges.extend(batch_edges)
            arrays.append(batch_arrays)
            bar.update(stop - start)
        joined = {name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]}
        return Part(CellEdges.join(edges), joined)

    def _batch(self, start: int, stop: int, sums: dict[str, np.ndarray]) -> tuple[list[CellEdges], dict]:
        reading = self.reading
        values = reading.matrix.read(start, stop, reading.columns)
        tokens = tokenize(values, reading.gene_ids, reading.is_tf, reading.conditions[start:stop])
        u, v, context, summary = factors_of(self.sfm, tokens, reading.is_tf)
        edges = []
        for i in range(stop - start):
            scores = (u[i] @ v[i].T).cpu().numpy()  # T G
            sums["scores"][self.group_codes[start + i]] += scores
            sums["expression"][self.group_codes[start + i]] += values[i]
            edges.append(self._edges(start + i, scores, values[i]))
        u, v = u.cpu().numpy(), v.cpu().numpy()
        for i in range(stop - start):  # one by one: the sums are then the same for every batch size
            sums["u"] += u[i]
            sums["v"] += v[i]
        arrays = {"context": context.cpu().numpy(), "summary": summary.cpu().numpy()}
        if self.calibration is not None:
            seen = (values, reading.gene_ids, reading.species)
            arrays["ood"] = out_of_distribution(arrays["summary"], *seen, self.calibration)
        if self.keep_factors:
            width = min(self.sfm.config.topk or u.shape[-1], u.shape[-1])
            for name, dense in (("u", u), ("v", v)):
                arrays[f"{name}_index"], arrays[f"{name}_value"] = pack_factors(dense, width)
        return edges, arrays

    def _edges(self, cell: int, scores: np.ndarray, values: np.ndarray) -> CellEdges:
        """Kept edges of one cell; the scores of self-edges are set to 0."""
        edge, weight = select_edges(scores, self.top_k, self.min_weight, self.self_edges)
        level = levels(values)[edge % len(values)]
        fitted = None if self.calibration is None else self.calibration.confidence["cell"]
        confidence = confidence_of(row_quantiles(scores, edge), self.grn.in_prior.ravel()[edge], level, fitted)
        nothing = np.full(len(edge), np.nan, np.float32)
        q = nothing if self.test is None else self.test.qvalues(scores, edge)
        return CellEdges(np.full(len(edge), cell, np.int32), edge, weight, confidence, q)


@torch.inference_mode()
def factors_of(sfm: SFM, tokens: Tokens, is_tf: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u of the regulators (C T M), v (C G M), context (C M) and summary (C D)."""
    device = next(sfm.parameters()).device
    step = 1 if device.type == "cpu" else len(tokens)
    found = []
    for start in range(0, len(tokens), step):
        factors: Factors = sfm(tokens[start : start + step].to(device))
        u = factors.u[:, torch.from_numpy(is_tf).to(device)]
        found.append((u.float(), factors.v.float(), factors.context().float(), factors.summary.float()))
    return tuple(torch.cat(many) for many in zip(*found, strict=True))


def self_edges(reading: Reading) -> np.ndarray:
    """Flat positions of the pairs of a regulator with itself."""
    return np.flatnonzero(reading.is_tf) + np.arange(reading.is_tf.sum()) * len(reading.names)


class Sample(NamedTuple):
    """Some cells of a data set that their names choose, so that neither their order nor a seed does."""

    values: np.ndarray  # C G
    conditions: np.ndarray  # C 4


def read_sample(reading: Reading, size: int = max(NULL_SAMPLE, SIGN_SAMPLE)) -> Sample:
    cells = sample_cells(reading.matrix.obs_names, size)
    values = np.concatenate([reading.matrix.read(c, c + 1, reading.columns) for c in cells])
    return Sample(values, reading.conditions[cells])


def find_null(model: Model, reading: Reading, sample: Sample, n: int) -> Null | None:
    """Scores of the model in `n` permuted cells of a data set; None for n = 0."""
    if n == 0:
        return None
    permuted = permuted_cells(sample.values[:NULL_SAMPLE], n)
    conditions = sample.conditions[np.arange(n) % len(sample.conditions)]
    tokens = tokenize(permuted, reading.gene_ids, reading.is_tf, conditions)
    found = [factors_of(model.sfm, tokens[i : i + 1], reading.is_tf)[:2] for i in range(n)]
    scores = [lambda u=u, v=v: (u[0] @ v[0].T).cpu().numpy() for u, v in found]
    return fit_null(scores, self_edges(reading))


def select_edges(
    scores: np.ndarray, top_k: int | None, min_weight: float | None, excluded: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The strongest edges of one cell.

    Parameters
    ----------
    scores
        T G; changed in place.
    top_k
        How many; ties at the cut go to the lowest flat index. None: no limit.
    min_weight
        Least score. None: above 0.
    excluded
        Flat positions that are never chosen (self-edges).

    Returns
    -------
    Flat positions in rising order (int32) and scores (float32).
    """
    flat = scores.reshape(-1)
    flat[excluded] = 0
    least = np.finfo(np.float32).tiny if min_weight is None else max(min_weight, np.finfo(np.float32).tiny)
    if top_k is not None and top_k < len(flat):
        cut = np.partition(flat, len(flat) - top_k)[len(flat) - top_k]
        if cut >= least:
            above = np.flatnonzero(flat > cut)
            tied = np.flatnonzero(flat == cut)[: top_k - len(above)]
            chosen = np.sort(np.concatenate([above, tied]))
            return chosen.astype(np.int32), flat[chosen]
    chosen = np.flatnonzero(flat >= least)
    return chosen.astype(np.int32), flat[chosen]


def check_settings(top_k, min_weight, batch_size, genes, n_top_genes, null_cells) -> None:
    if (
        isinstance(null_cells, bool)
        or not isinstance(null_cells, (int, np.integer))
        or 0 < null_cells < 8
        or null_cells < 0
    ):
        raise ValueError(f"null_cells must be 0 or a whole number of at least 8, got {null_cells!r}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or top_k < 1):
        raise ValueError(f"top_k must be a positive whole number or None for no limit, got {top_k!r}")
    if min_weight is not None and not (isinstance(min_weight, numbers.Real) and 0 <= min_weight <= 1):
        raise ValueError(f"min_weight must lie between 0 and 1, got {min_weight!r}")
    if batch_size != "auto" and (batch_size is True or not isinstance(batch_size, (int, np.integer)) or batch_size < 1):
        raise ValueError(f'batch_size must be "auto" or a positive whole number, got {batch_size!r}')
    if n_top_genes is not None and (isinstance(n_top_genes, bool) or not isinstance(n_top_genes, (int, np.integer))):
        raise ValueError(f"n_top_genes must be a whole number or None for every gene, got {n_top_genes!r}")
    if genes is not None and n_top_genes not in (None, 2000):
        warnings.warn("n_top_genes has no effect where genes= names the genes to read", stacklevel=3)


def as_model(model: Model | str | Path | None, device: str) -> Model:
    if isinstance(model, Model):
        if device != "auto" and torch.device(device) != model.device:
            warnings.warn(f"device={device!r} has no effect: the loaded model is on {model.device}", stacklevel=3)
        return model
    if model is None:
        return load_cached(None, str(device))
    return load(model, device=device)


def pass_size(batch_size: int | str, model: Model) -> int:
    if batch_size != "auto":
        return int(batch_size)
    return 64 if model.device.type == "cpu" else 32


def find_groups(adata, groupby: str | None) -> pd.Series:
    """Group of each cell, categorical in the order of the column's categories."""
    cells = adata.obs_names.rename(None)
    if groupby is None:
        return pd.Series(pd.Categorical([ALL] * adata.n_obs), index=cells, name=ALL)
    if groupby not in adata.obs:
        raise KeyError(f"groupby={groupby!r} is no column of obs; there are {list(adata.obs.columns)}")
    column = adata.obs[groupby].astype("category").cat.remove_unused_categories()
    order = list(column.cat.categories.astype(str).unique())
    unassigned = int(column.isna().sum())
    if unassigned:
        warnings.warn(f"{unassigned:,} cells have no {groupby!r}; they form the group {UNASSIGNED!r}", stacklevel=3)
        order = [name for name in order if name != UNASSIGNED] + [UNASSIGNED]
    groups = column.astype(str).where(column.notna(), UNASSIGNED)
    return pd.Series(pd.Categorical(groups, order), index=cells, name=groupby)


def digest(*things: object) -> str:
    sha = hashlib.sha256()
    for thing in things:
        sha.update(thing if isinstance(thing, bytes) else str(thing).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


def run_card(
    model: Model,
    reading: Reading,
    groups: pd.Series,
    groupby: str | None,
    top_k: int | None,
    min_weight: float | None,
    keep_factors: bool,
    null_cells: int,
) -> dict:
    """What makes two runs the same: a store takes parts of one run only."""
    return {
        "weights": model.weights_hash[:16],
        "cells": digest(*reading.matrix.obs_names),
        "genes": digest(*reading.names, reading.gene_ids.tobytes(), reading.is_tf.tobytes()),
        "values": f"{reading.matrix.origin} {reading.matrix.kind} {reading.digest}",
        "conditions": digest(reading.conditions.tobytes()),
        "groupby": groupby,
        "groups": digest(*groups.astype(str), *groups.cat.categories),
        "top_k": None if top_k is None else int(top_k),  # numpy's numbers are none to JSON
        "min_weight": None if min_weight is None else float(min_weight),
        "keep_factors": keep_factors,
        "null_cells": int(null_cells),
        "calibration": digest(json.dumps(card(model.calibration), sort_keys=True)),
        "device": model.device.type,
    }


def parameters(model: Model, reading: Reading, run: dict) -> dict:
    return {
        "model": model.source,
        "revision": model.revision or "",
        "weights_hash": model.weights_hash,
        "version": version("sccafm"),
        "torch": torch.__version__,
        "device": str(model.device),
        "receipt": reading.receipt.to_dict(),
        "calibration": card(model.calibration),
        "factors": list(model.contexts or factor_names(model.sfm.config.num_factors)),
        "run": run,
    }


def card(calibration: Calibration | None) -> dict:
    """What results carry of a calibration: how a group's confidence is read, and the share of real edges assumed."""
    return {} if calibration is None else dict(calibration.confidence)


def empty_grn(model: Model, reading: Reading, groups: pd.Series, params: dict, pairs: Pairs) -> GRN:
    """Labels without results."""
    genes = pd.DataFrame(
        {
            "symbol": reading.symbols.astype(str),
            "gene_id": [model.vocabulary.gene_id(token) for token in reading.gene_ids],
            "is_tf": reading.is_tf,
        },
        index=reading.names.rename(None),
    )
    return GRN(groups.index, genes, groups, CellEdges.join([]), pairs, {}, {}, params)


def find_pairs(model: Model, reading: Reading, values: np.ndarray, null: Null | None) -> Pairs:
    """What is known of each pair before all cells are read; `values` are those of a sample, C G."""
    fitted = None if model.calibration is None else model.calibration.signs
    sign = infer_signs(values[:SIGN_SAMPLE], reading.gene_ids, reading.is_tf, model.lexicon, fitted)
    in_prior, sources, names = prior_matrix(model.lexicon, reading)
    unknown = np.full(in_prior.shape, np.nan, np.float32)
    moments = (unknown, unknown, 0) if null is None else (null.mean, null.sd, null.n)
    return Pairs(in_prior, sources, names, sign, *moments)


def prior_matrix(lexicon: Lexicon, reading: Reading) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Which regulator-target pairs the prior network holds (T G bool), and codes and names of their sources."""
    tokens = pd.Index(reading.gene_ids)
    edges = lexicon.prior_tokens
    rows = tokens[reading.is_tf].get_indexer(edges["source"])
    columns = tokens.get_indexer(edges["target"])
    both = (rows >= 0) & (columns >= 0)
    held = np.zeros((int(reading.is_tf.sum()), len(tokens)), dtype=bool)
    held[rows[both], columns[both]] = True
    said = edges["sources"].fillna("").astype(str) if "sources" in edges else pd.Series("", index=edges.index)
    names = ("", *sorted(set(said) - {""}))
    codes = np.zeros(held.shape, dtype=np.int16)
    codes[rows[both], columns[both]] = pd.Index(names).get_indexer(said)[both]
    return held, codes, names


def annotate(adata, grn: GRN, reading: Reading, key: str) -> None:
    """Write the results that belong to cells and genes into the AnnData."""
    own = grn.own_arrays()  # what is done to one later does not change the other
    adata.obsm[f"X_{key}_sfm"] = own["summary"]
    adata.obsm[f"{key}_context"] = pd.DataFrame(own["context"], grn.cells.copy(), grn.context.columns, copy=False)
    adata.obs[f"{key}_context"] = grn.context_label.array
    adata.obs[f"{key}_context_entropy"] = grn.context_entropy.to_numpy()
    if "ood" in grn.arrays:
        adata.obs[f"{key}_ood"] = grn.ood.to_numpy()
    labels = reading.labels_of(adata)
    adata.var["is_tf"] = labels.isin(reading.regulator_labels)
    adata.var[f"{key}_in_vocab"] = labels.isin(reading.known_genes)
    network = grn.pool(POPULATION_EDGES)
    for column in ("group", "source", "target", "prior_sources"):
        network[column] = network[column].astype(str)
    first = ["source", "target", "weight"]
    network = network[first + [column for column in network if column not in first]]
    network = network if grn.groups.name != ALL else network.drop(columns="group")
    adata.uns[key] = {"grn": network, "params": storable(grn.params)}


def storable(params: dict) -> dict:
    """h5ad holds no None: what is unset becomes an empty text."""
    return json.loads(json.dumps(params), object_hook=lambda d: {k: "" if v is None else v for k, v in d.items()})
