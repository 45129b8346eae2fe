"""One run over the cells of a data set: what is found out first, then its parts, here or by workers, in memory or in a store."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from sccafm._io import digest, disk_errors, whole_path
from sccafm._machine import give_back_memory
from sccafm._parallel import check_jobs, choose_jobs, clear_other_run, completed, mark_run
from sccafm.confidence.permutation import NULL_CELLS
from sccafm.data.files import prepare_cells
from sccafm.data.groups import find_groups, kept_obs
from sccafm.data.input import ModelInput
from sccafm.data.joined import CellFiles
from sccafm.data.neighbors import smoothed
from sccafm.data.options import InputOptions
from sccafm.data.serialization import cells_of
from sccafm.grn import storage
from sccafm.grn.background import find_null, find_pairs, read_sample
from sccafm.grn.estimate import Size, most_workers, warn_before
from sccafm.grn.grn import GRN
from sccafm.grn.pairs import Pairs
from sccafm.grn.parts import (
    EdgeInference,
    EdgeSettings,
    PartTask,
    add_sums,
    arrays_file,
    computed_part,
    remove_part,
    tested_rows,
    write_inference,
)
from sccafm.grn.provenance import parameters, run_card
from sccafm.grn.storage import CellEdges, Part, Store, n_parts, stored_results
from sccafm.model.model import Model
from sccafm.model.validation import check_edges, check_key, forward_batch_size


@dataclass(frozen=True)
class RunSettings:
    """What `infer_grn` is asked for beside what is read; it describes each."""

    groupby: str | None = None
    top_k: int | None = 1000
    min_weight: float | None = None
    keep_factors: bool = False
    null_cells: int = NULL_CELLS
    neighbors: int = 0
    batch_size: int | str = "auto"
    key_added: str = "sccafm"
    n_jobs: int | None = None
    memory_limit: int | str | None = None

    def __post_init__(self):
        check_edges(self.top_k, self.min_weight, self.null_cells)
        check_key(self.key_added)
        check_jobs(self.n_jobs)


@dataclass(frozen=True, eq=False)
class Run:
    """What is known before the first cell is computed."""

    model: Model
    model_input: ModelInput
    settings: RunSettings
    grn: GRN  # labels without results
    inference: EdgeInference

    @property
    def size(self) -> Size:
        return size_of(self.model, self.model_input, self.grn.groups, self.settings)


def size_of(model: Model, model_input: ModelInput, groups: pd.Series, settings: RunSettings) -> Size:
    return Size(
        cells=len(groups),
        genes=len(model_input.names),
        regulators=int(model_input.is_tf.sum()),
        groups=len(groups.cat.categories),
        top_k=settings.top_k,
        keep_factors=settings.keep_factors,
        null_cells=settings.null_cells,
        config=model.sfm.config,
    )


def read_input(adata, model: Model, options: InputOptions, settings: RunSettings) -> tuple[ModelInput, pd.Series]:
    """Genes, values and groups of the cells."""
    model_input = prepare_cells(adata, model, options)
    if settings.neighbors:
        near = smoothed(model_input.matrix, model_input.columns, settings.neighbors)
        model_input = replace(model_input, matrix=near)
    return model_input, find_groups(annotated(adata), settings.groupby)


def annotated(adata):
    """What holds the cells' annotation."""
    return adata.adata if isinstance(adata, CellFiles) else adata


def begin(adata, model: Model, options: InputOptions, settings: RunSettings) -> Run:
    """Read the data, and find out what all parts share."""
    model_input, groups = read_input(adata, model, options, settings)
    own = {name: getattr(settings, name) for name in RUN_CARD}
    params = parameters(model, model_input, run_card(model, model_input, groups, **own))
    sample = read_sample(model_input)
    null = find_null(model, model_input, sample, settings.null_cells)
    pairs = find_pairs(model, model_input, sample.values, null)
    grn = empty_grn(model, model_input, groups, kept_obs(annotated(adata), settings.key_added), params, pairs)
    kept = EdgeSettings(
        None if settings.top_k is None else int(settings.top_k),
        None if settings.min_weight is None else float(settings.min_weight),
        settings.keep_factors,
        forward_batch_size(settings.batch_size, model),
    )
    codes = groups.cat.codes.to_numpy()
    tested = np.zeros((0, 2), np.int64)
    if null is not None:
        tested = tested_rows(groups.index, codes, len(groups.cat.categories))
    shared = (null, pairs.chance, kept, tested, storage.PART_CELLS)
    inference = EdgeInference(model.sfm, model.calibration, cells_of(model_input), codes, *shared)
    give_back_memory()
    return Run(model, model_input, settings, grn, inference)


RUN_CARD = ("groupby", "top_k", "min_weight", "keep_factors", "null_cells", "neighbors")


def empty_grn(
    model: Model, model_input: ModelInput, groups: pd.Series, obs: pd.DataFrame, params: dict, pairs: Pairs
) -> GRN:
    """Labels without results."""
    genes = model_input.gene_table(model.vocabulary)
    return GRN(groups.index, genes, groups, CellEdges.join([]), pairs, {}, {}, params, obs)


def no_sums(run: Run) -> dict[str, np.ndarray]:
    """Running sums before the first part."""
    grn, null = run.grn, run.inference.null
    regulators, targets = grn.in_prior.shape
    factors, groups = run.model.sfm.config.num_factors, len(grn.groups.cat.categories)
    test = {}
    if null is not None:
        test = {
            "null_tail": null.group_tail,
            "tested": np.zeros((groups + 1, regulators, targets), np.float32),
            "n_tested": np.zeros(groups + 1, np.int64),
        }
    return test | {
        "scores": np.zeros((groups, regulators, targets)),
        "expression": np.zeros((groups, targets)),
        "u": np.zeros((regulators, factors)),
        "v": np.zeros((targets, factors)),
    }


def run_to_memory(run: Run, progress: bool) -> tuple[GRN, np.ndarray]:
    """All parts, and the cells without a count in the genes that were read."""
    warn_before(run.size, None)
    grn, sums, parts = run.grn, no_sums(run), []
    numbers = range(n_parts(len(grn)))
    jobs = jobs_of(run, len(numbers), None)
    with progress_bar(len(grn), progress) as bar, tempfile.TemporaryDirectory(prefix="sccafm-") as folder:
        for _, part in parts_of(run, numbers, jobs, Path(folder), bar):
            if isinstance(part.edges, Path):
                part = replace(part, edges=storage.read_edges(part.edges, None))
            add_sums(sums, part.sums)
            parts.append(replace(part, sums={}))
            del part  # its sums must not stand beside those of the next
    arrays = {name: np.concatenate([p.arrays[name] for p in parts]) for name in parts[0].arrays}
    values = {name: getattr(grn, name) for name in ("cells", "genes", "groups", "pairs", "params", "obs")}
    found = GRN(**values, edges=CellEdges.join([p.edges for p in parts]), sums=sums, arrays=arrays)
    return found, np.concatenate([part.silent for part in parts])


def run_to_store(run: Run, folder: str | Path, progress: bool) -> tuple[GRN, np.ndarray]:
    """The same, written to a folder as they come; what stands there of this run is not computed again."""
    grn, silent = run.grn, [np.zeros(0, np.int64)]
    warn_before(run.size, whole_path(folder))
    store = Store(folder, {"run": grn.params["run"], "params": grn.params}, grn.tables())
    done, sums = store.finished()
    sums = no_sums(run) if sums is None else sums
    numbers = range(done, n_parts(len(grn)))
    jobs = jobs_of(run, len(numbers), store.folder)
    work, uncounted = store.folder / "work", []
    with progress_bar(len(grn), progress) as bar:
        bar.update(min(done * storage.PART_CELLS, len(grn)))
        for number, part in parts_of(run, numbers, jobs, work, bar):
            add_sums(sums, part.sums)
            store.add(number, part, sums)
            silent.append(part.silent)
            uncounted.append(number)
            del part  # its sums must not stand beside those of the next
            if store.counts(number, sums):  # until then a killed run needs them again
                for counted in uncounted:
                    remove_part(work, counted)
                uncounted = []
    store.complete()
    values = {name: getattr(grn, name) for name in ("cells", "genes", "groups", "pairs", "obs")}
    results = stored_results(store.folder, len(grn), store.header["edges"])
    return GRN(**values, sums=sums, params=store.params, **results), np.concatenate(silent)


def progress_bar(cells: int, progress: bool) -> tqdm:
    return tqdm(total=cells, desc="sccafm", unit="cell", disable=not progress)


def jobs_of(run: Run, parts: int, folder: Path | None) -> int:
    """Workers of a run; 0: this process computes."""
    if run.model.device.type != "cpu" and run.settings.n_jobs is None:
        return choose_jobs(None, parts, 0.0)  # one process fills a GPU
    seconds = run.size.cell_seconds() * storage.PART_CELLS
    return choose_jobs(run.settings.n_jobs, parts, seconds, most_workers(run.size, run.settings.memory_limit))


def parts_of(run: Run, numbers: range, jobs: int, folder: Path, bar: tqdm) -> Iterator[tuple[int, Part]]:
    """Parts in their order, each with its number."""
    mark = digest(json.dumps(run.grn.params["run"], sort_keys=True))
    clear_other_run(folder, mark)
    if jobs == 0:
        for number in numbers:
            there = arrays_file(folder, number).exists()  # computed by workers of a run that was stopped
            yield number, computed_part(folder, number) if there else run.inference.part(number, bar.update)
        return
    with disk_errors(folder.parent):
        folder.mkdir(exist_ok=True)
        write_inference(run.inference, folder)
        mark_run(folder, mark)
    with disk_errors(folder.parent):
        yield from in_order(folder, mark, numbers, jobs, len(run.grn), bar.update)


def in_order(
    folder: Path, mark: str, numbers: range, jobs: int, n_cells: int, tick: Callable[[int], object]
) -> Iterator[tuple[int, Part]]:
    """Parts that workers compute, as soon as all before them are there."""

    def is_done(number: int) -> bool:
        return arrays_file(folder, number).exists()

    ready = {number for number in numbers if is_done(number)}
    size = storage.PART_CELLS
    tick(sum(min(size, n_cells - number * size) for number in ready))
    missing = [number for number in numbers if number not in ready]
    wanted = iter(numbers)
    next_number = next(wanted, None)
    while next_number in ready:
        yield next_number, computed_part(folder, next_number)
        next_number = next(wanted, None)
    for found in completed(PartTask(folder, mark), missing, jobs, is_done):
        tick(min(size, n_cells - found * size))
        ready.add(found)
        while next_number in ready:
            yield next_number, computed_part(folder, next_number)
            next_number = next(wanted, None)
