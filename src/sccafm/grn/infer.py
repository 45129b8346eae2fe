"""infer_grn: where data meets model. Cells are read block by block, and their networks written as they come."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from sccafm._io import blocks
from sccafm._settings import logger
from sccafm._text import listing, warn
from sccafm._torch import plain_torch
from sccafm.confidence.calibration import confidence_of, expression_rank, row_quantiles
from sccafm.confidence.permutation import NULL_CELLS, CellTest, NullDistribution, tested_cells
from sccafm.confidence.unusual import out_of_distribution
from sccafm.data.groups import find_groups, kept_obs
from sccafm.data.input import DEFAULTS, ModelInput, prepare
from sccafm.data.neighbors import smoothed
from sccafm.data.options import InputOptions
from sccafm.data.tokenizer import tokenize
from sccafm.grn.annotation import annotate, can_annotate
from sccafm.grn.background import find_null, find_pairs, read_sample
from sccafm.grn.edges import select_edges, self_edges
from sccafm.grn.factors import pack_factors
from sccafm.grn.grn import GRN
from sccafm.grn.pairs import Pairs
from sccafm.grn.provenance import parameters, run_card
from sccafm.grn.storage import PART_CELLS, CellEdges, Part, Store, n_parts, stored_results
from sccafm.model.forward import factors_of
from sccafm.model.model import Model
from sccafm.model.validation import as_model, check_edges, check_key, check_settings, forward_batch_size


@plain_torch()
def infer_grn(
    adata,
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
    always
        Names of regulators that are read beside the others however few cells show them; any genes of the vocabulary. The
        receipt lists the regulators that were left out.
    genes
        Names of the genes to read; unknown ones are listed and left out. None: the regulators that are seen in at least
        10 cells or 1 % of them and the
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
    neighbors
        Read each cell as the mean of this many nearest cells, itself among them (15 is usual), where single cells hold too few
        molecules to tell their state. Other cells then change a cell's answer. 0: each cell as it is.
    store
        Folder to which edges go while cells are read: memory then stays flat in the number of cells. An
        interrupted run resumes after the last complete chunk (500 cells; a few chunks with many groups) when called again.
    batch_size
        Cells of one pass on a GPU, and of one read on a CPU, where cells are passed one at a time so that a cell's
        answer does not depend on the batch.
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
    TypeError
        `adata` is no AnnData.
    ValueError, KeyError
        Data that cannot be read: the message says what was expected, what came and what mends it.
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
    check_settings(batch_size, options)
    check_edges(top_k, min_weight, null_cells)
    check_key(key_added)
    model = as_model(model, device)
    model_input = prepare(adata, model, options)
    if neighbors:
        model_input = replace(model_input, matrix=smoothed(model_input.matrix, model_input.columns, neighbors))
    groups = find_groups(adata, groupby)
    if progress:
        logger.info(model_input.receipt)
    run = run_card(model, model_input, groups, groupby, top_k, min_weight, keep_factors, null_cells, neighbors)
    params = parameters(model, model_input, run)
    sample = read_sample(model_input)
    null = find_null(model, model_input, sample, null_cells)
    pairs = find_pairs(model, model_input, sample.values, null)
    grn = empty_grn(model, model_input, groups, kept_obs(adata, key_added), params, pairs)
    size = forward_batch_size(batch_size, model)
    inferred = Inference(model, model_input, grn, null, top_k, min_weight, keep_factors, size)
    grn = inferred.to_memory(progress) if store is None else inferred.to_store(store, progress)
    silent = np.setdiff1d(inferred.silent, model_input.survey.empty).astype(int)  # of the others is said already
    if len(silent):
        cells = listing(grn.cells[silent])
        warn(f"{len(silent):,} cells have no count in the genes that were read, and no edges: {cells}")
    if copy:
        adata = adata.to_memory() if adata.isbacked else adata.copy()
        grn = replace(grn, adata=adata)
    if can_annotate(adata):
        annotate(adata, grn, model_input, key_added)
    return grn


class Inference:
    """One run over the cells of a data set."""

    def __init__(
        self,
        model: Model,
        model_input: ModelInput,
        grn: GRN,
        null: NullDistribution | None,
        top_k: int | None,
        min_weight: float | None,
        keep_factors: bool,
        batch_size: int,
    ):
        self.sfm, self.calibration, self.model_input, self.grn = model.sfm, model.calibration, model_input, grn
        self.top_k, self.min_weight, self.keep_factors = top_k, min_weight, keep_factors
        self.batch_size = batch_size
        self.group_codes = grn.groups.cat.codes.to_numpy()
        self.self_edges = self_edges(model_input)
        self.silent: list[int] = []  # cells without a count in the genes that are read
        self.chance = grn.pairs.chance.ravel()
        self.test = None if null is None else CellTest(null, self.self_edges)
        self.tested: dict[int, list[int]] = {}  # cell -> rows of the sums by which groups are tested
        if null is not None:
            for row, cells in enumerate(tested_cells(grn.cells, self.group_codes, len(grn.groups.cat.categories))):
                for cell in cells:
                    self.tested.setdefault(int(cell), []).append(row)

    def to_memory(self, progress: bool) -> GRN:
        parts, sums = [], self._no_sums()
        with self._bar(progress) as bar:
            for number in range(n_parts(len(self.grn))):
                parts.append(self._part(number, sums, bar))
        arrays = {name: np.concatenate([p.arrays[name] for p in parts]) for name in parts[0].arrays}
        values = {name: getattr(self.grn, name) for name in ("cells", "genes", "groups", "pairs", "params", "obs")}
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
        values = {name: getattr(self.grn, name) for name in ("cells", "genes", "groups", "pairs", "obs")}
        return GRN(**values, sums=sums, params=store.params, **stored_results(store.folder, len(self.grn)))

    def _bar(self, progress: bool) -> tqdm:
        return tqdm(total=len(self.grn), desc="sccafm", unit="cell", disable=not progress)

    def _no_sums(self) -> dict[str, np.ndarray]:
        regulators, targets = self.grn.in_prior.shape
        factors = self.sfm.config.num_factors
        groups = len(self.grn.groups.cat.categories)
        test = {}
        if self.test is not None:
            test = {
                "null_tail": self.test.null.group_tail,
                "tested": np.zeros((groups + 1, regulators, targets), np.float32),
                "n_tested": np.zeros(groups + 1, np.int64),
            }
        return test | {
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
        model_input = self.model_input
        values = model_input.matrix.read(start, stop, model_input.columns)
        tokens = tokenize(values, model_input.gene_ids, model_input.is_tf, model_input.conditions[start:stop])
        u, v, context, summary = factors_of(self.sfm, tokens, model_input.is_tf)
        silent = np.flatnonzero(~values.any(1))
        if len(silent):  # nothing is known of such cells: they have no edges
            u = u.clone()
            u[silent.tolist()] = 0
            self.silent.extend((start + silent).tolist())
        edges, strengths = [], []
        for i in range(stop - start):
            # A product may round by where its factors stand in memory: copies stand alike for every cell.
            scores = (u[i].clone() @ v[i].clone().T).cpu().numpy()  # T G
            sums["scores"][self.group_codes[start + i]] += scores
            sums["expression"][self.group_codes[start + i]] += values[i]
            for row in self.tested.get(start + i, ()):
                sums["tested"][row] += scores
                sums["n_tested"][row] += 1
            edges.append(self._edges(start + i, scores, values[i]))
            strengths.append(scores.sum(1, dtype=np.float64))  # self-edges are 0 by now
        u, v = u.cpu().numpy(), v.cpu().numpy()
        for i in range(stop - start):  # one by one: the sums are then the same for every batch size
            sums["u"] += u[i]
            sums["v"] += v[i]
        arrays = {"context": context.cpu().numpy(), "summary": summary.cpu().numpy()}
        arrays["strengths"] = np.stack(strengths).astype(np.float32)  # C T
        arrays["regulator_expression"] = values[:, model_input.is_tf]  # C T
        if self.calibration is not None:
            seen = (values, model_input.gene_ids, model_input.species)
            arrays["ood"] = out_of_distribution(arrays["summary"], *seen, self.calibration)
            arrays["ood"][silent] = 1
        if self.keep_factors:
            width = min(self.sfm.config.topk or u.shape[-1], u.shape[-1])
            for name, dense in (("u", u), ("v", v)):
                arrays[f"{name}_index"], arrays[f"{name}_value"] = pack_factors(dense, width)
        return edges, arrays

    def _edges(self, cell: int, scores: np.ndarray, values: np.ndarray) -> CellEdges:
        """Kept edges of one cell; the scores of self-edges are set to 0."""
        edge, weight = select_edges(scores, self.top_k, self.min_weight, self.self_edges)
        level = expression_rank(values)[edge % len(values)]
        fitted = None if self.calibration is None else self.calibration.confidence["cell"]
        confidence = confidence_of(row_quantiles(scores, edge), self.chance[edge], level, fitted)
        nothing = np.full(len(edge), np.nan, np.float32)
        q = nothing if self.test is None else self.test.qvalues(scores, edge)
        return CellEdges(np.full(len(edge), cell, np.int32), edge, weight, confidence, q)


def empty_grn(
    model: Model, model_input: ModelInput, groups: pd.Series, obs: pd.DataFrame, params: dict, pairs: Pairs
) -> GRN:
    """Labels without results."""
    genes = model_input.gene_table(model.vocabulary)
    return GRN(groups.index, genes, groups, CellEdges.join([]), pairs, {}, {}, params, obs)
