"""plan: what a run will read and take, before it starts."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from sccafm._io import whole_path
from sccafm._machine import available_memory, free_disk, show_bytes
from sccafm._parallel import WORKER_START, choose_jobs
from sccafm._torch import plain_torch
from sccafm.data.disk import is_path
from sccafm.data.joined import open_files
from sccafm.data.options import InputOptions
from sccafm.data.serialization import cells_of
from sccafm.grn import storage
from sccafm.grn.background import find_null, find_pairs, read_sample
from sccafm.grn.estimate import most_workers
from sccafm.grn.parts import EdgeInference, EdgeSettings
from sccafm.grn.run import RunSettings, read_input, size_of
from sccafm.grn.storage import n_parts
from sccafm.model.model import Model
from sccafm.model.validation import as_model, check_settings, forward_batch_size

CALIBRATED_CELLS = 12  # computed to measure the time of a cell
LEAST_NULL = 8  # permuted cells that the time of the others is measured on
SHARED_RATE = 0.95  # speed of one of several processes beside that of one alone


@dataclass(frozen=True)
class Plan:
    """What a run will read and take. Made by `sccafm.plan`; ``print(plan)`` shows it."""

    cells: int
    genes: int
    regulators: int
    groups: int
    receipt: str  # what was read, as inference prints it
    parts: int  # of 500 cells
    processes: int  # 1: this one, with all its threads
    cells_per_second: float  # of all processes together
    seconds: float  # of the whole run
    memory: int  # bytes of each worker; of this process where it computes
    results_memory: int  # bytes of the results in this process; 0 with store=
    available_memory: int | None  # bytes; None where it is not known
    disk: int  # bytes of the folder; 0 without store=
    free_disk: int | None  # bytes; None without store=
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        hours = self.seconds / 3600
        took = f"{self.seconds:.0f} s" if hours < 0.05 else f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"
        how = "this process" if self.processes == 1 else f"{self.processes} processes of one thread"
        free = "" if self.available_memory is None else f", {show_bytes(self.available_memory)} are free"
        lines = [
            f"{self.cells:,} cells x {self.genes:,} genes, {self.regulators:,} of them regulators; {self.groups:,} groups",
            f"time: about {took} with {how}, {self.cells_per_second:.1f} cells/s",
            f"memory: about {show_bytes(self.memory)} of each process{free}",
        ]
        if self.results_memory:
            lines.append(f"results in memory: about {show_bytes(self.results_memory)}")
        if self.free_disk is not None:
            lines.append(f"disk: about {show_bytes(self.disk)}, {show_bytes(self.free_disk)} are free")
        return "\n".join([*lines, *(f"warning: {told}" for told in self.warnings)])

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self) | {"warnings": list(self.warnings)}


@plain_torch()
def plan(
    adata,
    model: Model | str | Path | None = None,
    *,
    store: str | Path | None = None,
    n_jobs: int | None = None,
    memory_limit: int | str | None = None,
    device: str = "auto",
    **settings,
) -> Plan:
    """Say what `infer_grn` would read and take with the same arguments, from the sizes of the data and some of its cells.

    Nothing is written, and `adata` is not changed. The data are read once, which takes as long as it does in the run.

    Parameters
    ----------
    adata, model, store, n_jobs, memory_limit, device
        As in `sccafm.infer_grn`.
    **settings
        Any other of its arguments that change what is read or kept: groupby, regulators, genes, top_k, keep_factors, ...

    Returns
    -------
    Plan

    Raises
    ------
    TypeError
        A setting that `infer_grn` does not have.
    ValueError, KeyError
        What `infer_grn` refuses.
    """
    begin = time.perf_counter()
    options, asked = sorted_settings(settings)
    asked = replace(asked, n_jobs=n_jobs, memory_limit=memory_limit)
    check_settings(asked.batch_size, options)
    model = as_model(model, device)
    adata = open_files(adata) if is_path(adata) else adata
    model_input, groups = read_input(adata, model, options, asked)
    reading = time.perf_counter() - begin
    size = size_of(model, model_input, groups, asked)
    most = most_workers(size, memory_limit) if model.device.type == "cpu" else 1
    parts = n_parts(size.cells)
    found = measured(model, model_input, groups, asked, 1)
    jobs = choose_jobs(n_jobs, parts, storage.PART_CELLS * found.cell_seconds, most)
    threads = torch.get_num_threads()
    if jobs == 0 and threads > 1:
        found = measured(model, model_input, groups, asked, threads)
    cells = size.cells * found.cell_seconds
    if jobs:  # as many at once as there are processes, and the last ones alone
        waves = -(-parts // jobs) * storage.PART_CELLS
        cells = WORKER_START / 2 + min(waves, size.cells) * found.cell_seconds / SHARED_RATE
    folder = None if store is None else whole_path(store)
    disk = size.disk_bytes() if folder is not None else 0
    free = None if folder is None else free_disk(folder)
    memory, results = (
        size.worker_bytes() if jobs else size.own_bytes(),
        0 if folder is not None else size.result_bytes(),
    )
    return Plan(
        cells=size.cells, genes=size.genes, regulators=size.regulators, groups=size.groups,
        receipt=str(model_input.receipt), parts=parts, processes=max(jobs, 1),
        cells_per_second=size.cells / cells, seconds=reading + found.once_seconds + cells,
        memory=memory, results_memory=results, available_memory=available_memory(), disk=disk, free_disk=free,
        warnings=tuple(warnings_of(memory * max(jobs, 1) + results, available_memory(), disk, free)),
    )  # fmt: skip


def warnings_of(memory: int, has_memory: int | None, disk: int, has_disk: int | None):
    if has_memory is not None and memory > has_memory:
        yield (
            f"about {show_bytes(memory)} of memory are needed, {show_bytes(has_memory)} are free: pass store=, fewer n_jobs=, or read "
            "fewer genes"
        )
    if has_disk is not None and disk > has_disk:
        yield f"about {show_bytes(disk)} of disk are needed, {show_bytes(has_disk)} are free: keep fewer edges, top_k=, or name another disk"


def sorted_settings(settings: dict) -> tuple[InputOptions, RunSettings]:
    """Arguments of `infer_grn` as what is read and what is kept."""
    reads, keeps = set(InputOptions.__dataclass_fields__), set(RunSettings.__dataclass_fields__)
    unknown = sorted(set(settings) - reads - keeps - {"copy", "progress"})
    if unknown:
        raise TypeError(f"infer_grn has no {unknown[0]!r}; plan takes {sorted(reads | keeps)}")
    options = InputOptions(**{name: value for name, value in settings.items() if name in reads})
    return options, RunSettings(**{name: value for name, value in settings.items() if name in keeps})


@dataclass(frozen=True)
class Measured:
    """Of some cells on this machine."""

    cell_seconds: float
    once_seconds: float  # what is found out before the first cell


def measured(model: Model, model_input, groups, settings: RunSettings, threads: int) -> Measured:
    """Compute some cells as a run would, with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _measured(model, model_input, groups, settings)
    finally:
        torch.set_num_threads(before)


def _measured(model: Model, model_input, groups, settings: RunSettings) -> Measured:
    start = time.perf_counter()
    sample = read_sample(model_input)
    read = time.perf_counter() - start
    n_null = min(settings.null_cells, LEAST_NULL)
    start = time.perf_counter()
    null = find_null(model, model_input, sample, n_null)
    each = (time.perf_counter() - start) / max(n_null, 1)
    start = time.perf_counter()
    pairs = find_pairs(model, model_input, sample.values, null)
    paired = time.perf_counter() - start
    kept = EdgeSettings(
        settings.top_k, settings.min_weight, settings.keep_factors, forward_batch_size(settings.batch_size, model)
    )
    codes = groups.cat.codes.to_numpy()
    inference = EdgeInference(
        model.sfm, model.calibration, cells_of(model_input), codes, null, pairs.chance, kept, np.zeros((0, 2), np.int64)
    )
    n = min(CALIBRATED_CELLS, len(groups))
    inference.networks(0, min(2, n))  # what the first cells alone take
    start = time.perf_counter()
    inference.networks(0, n)
    seconds = (time.perf_counter() - start) / n
    return Measured(seconds, read + each * settings.null_cells + paired)
