"""Vectors of consecutive cells: a part of a run, which depends on no other part, wherever it is computed."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from sccafm._io import blocks, disk_errors, write_part_file
from sccafm._parallel import clear_other_run, completed, mark_run
from sccafm._torch import plain_torch
from sccafm.data.serialization import Cells, read_cells, write_cells
from sccafm.data.tokenizer import tokenize
from sccafm.grn.factors import FACTOR_ARRAYS
from sccafm.grn.reuse import unpacked_factors
from sccafm.model.serialization import read_modules, write_modules
from sccafm.nn import EFM, SFM, CausalEFM
from sccafm.nn.ordering import regulatory_order, reordered
from sccafm.types import Factors, Tokens

PART_CELLS = 500


@dataclass(frozen=True, eq=False)
class VectorInference:
    """Computes parts of one run."""

    sfm: SFM
    efm: EFM | CausalEFM
    cells: Cells
    groups: np.ndarray  # C codes
    factors: Mapping[str, np.ndarray] | None  # of networks that were inferred before; None: `sfm` is asked
    batch_size: int
    part_cells: int = PART_CELLS

    def part(self, number: int, tick: Callable[[int], object] = lambda n: None) -> dict[str, np.ndarray]:
        """A part by name.

        cells: C D; groups: codes of those that the cells belong to; sums: of their genes' vectors, groups G width; silent:
        positions of cells without a count in the genes that are read.
        """
        first = number * self.part_cells
        last = min(first + self.part_cells, len(self.cells))
        groups = np.unique(self.groups[first:last]).astype(np.int64)
        vectors, silent, sums = [], [], np.zeros(0)
        for start, stop in blocks(last - first, self.batch_size):
            cells, genes, is_silent = self._batch(first + start, first + stop)
            silent.extend((first + start + np.flatnonzero(is_silent)).tolist())
            sums = sums if sums.size else np.zeros((len(groups), *genes.shape[1:]))
            for place, found in zip(
                np.searchsorted(groups, self.groups[first + start : first + stop]), genes, strict=True
            ):
                sums[place] += found
            vectors.append(cells)
            tick(stop - start)
        silent = np.array(silent, dtype=np.int64)
        return {"cells": np.concatenate(vectors), "groups": groups, "sums": sums, "silent": silent}

    @torch.inference_mode()
    def _batch(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vectors of cells, C D, and of their genes, C G width, one cell at a time on a CPU; cells without a count: C bool."""
        read, device = self.cells, next(self.sfm.parameters()).device
        values = read.matrix.read(start, stop, read.columns)
        tokens = tokenize(values, read.gene_ids, read.is_tf, np.array(read.conditions[start:stop]))
        step = 1 if device.type == "cpu" else len(tokens)
        cells, genes = [], []
        for first in range(0, len(tokens), step):
            part = tokens[first : first + step].to(device)
            found = pass_cells(self.efm, part, self._factors(part, start + first).to(device))
            for many, tensor in zip((cells, genes), found, strict=True):
                many.append(tensor.float().cpu().numpy())
        return np.concatenate(cells), np.concatenate(genes), ~values.any(1)

    def _factors(self, tokens: Tokens, start: int) -> Factors:
        if self.factors is None:
            return self.sfm(tokens)
        some = slice(start, start + len(tokens))
        return unpacked_factors(self.factors, some, self.cells.is_tf, self.sfm.config.num_factors)


def pass_cells(efm: EFM | CausalEFM, tokens: Tokens, factors: Factors) -> tuple[Tensor, Tensor]:
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


# --- from process to process


def write_inference(inference: VectorInference, folder: Path) -> None:
    """Write what another process needs to compute parts to a folder that exists."""
    write_cells(inference.cells, folder)
    write_modules(folder, inference.sfm, inference.efm)
    np.save(folder / "groups.npy", inference.groups)
    factors = inference.factors or {}
    for name in (*FACTOR_ARRAYS, "summary") if factors else ():
        np.save(folder / f"factor.{name}.npy", factors[name])
    content = {name: getattr(inference, name) for name in ("batch_size", "part_cells")}
    (folder / "vectors.json").write_text(json.dumps(content | {"has_factors": inference.factors is not None}))


@lru_cache(maxsize=1)
def read_inference(folder: Path, mark: str) -> VectorInference:
    """What `write_inference` wrote, read once by each process."""
    content = json.loads((folder / "vectors.json").read_text())
    factors = None
    if content.pop("has_factors"):
        factors = {n: np.load(folder / f"factor.{n}.npy", mmap_mode="r") for n in (*FACTOR_ARRAYS, "summary")}
    groups = np.load(folder / "groups.npy", mmap_mode="r")
    sfm, efm = read_modules(folder)
    assert efm is not None  # `write_inference` wrote one
    return VectorInference(sfm, efm, read_cells(folder), groups, factors, **content)


@dataclass(frozen=True)
class VectorTask:
    """Computes a part anywhere and leaves it in the folder of the run."""

    folder: Path
    mark: str

    @plain_torch()
    def __call__(self, number: int) -> None:
        write_part(self.folder, number, read_inference(self.folder, self.mark).part(number))


def write_part(folder: Path, number: int, part: dict[str, np.ndarray]) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in part.items()}
    write_part_file(part_file(folder, number), lambda path: save_file(arrays, path))


def part_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"


def parts_of(
    inference: VectorInference, jobs: int, folder: Path | None, mark: str, bar: tqdm
) -> Iterator[dict[str, np.ndarray]]:
    """Parts in their order.

    Parameters
    ----------
    inference
        What computes them.
    jobs
        Workers; 0: this process.
    folder
        Where parts are left, and found again by a run of the same `mark` that was stopped. None: in memory, without workers.
    """
    size, n_cells = inference.part_cells, len(inference.cells)
    numbers = range(-(-n_cells // size))
    if folder is None:
        yield from (inference.part(number, bar.update) for number in numbers)
        return
    with disk_errors(folder.parent):
        clear_other_run(folder, mark)
        folder.mkdir(parents=True, exist_ok=True)
        mark_run(folder, mark)
        missing = [number for number in numbers if not part_file(folder, number).exists()]
        bar.update(
            sum(min(size, n_cells - n * size) for n in numbers) - sum(min(size, n_cells - n * size) for n in missing)
        )
        if jobs and missing:
            write_inference(inference, folder)
            is_done = lambda number: part_file(folder, number).exists()  # noqa: E731
            for number in completed(VectorTask(folder, mark), missing, jobs, is_done):
                bar.update(min(size, n_cells - number * size))
        else:
            for number in missing:
                write_part(folder, number, inference.part(number, bar.update))
    for number in numbers:
        yield load_file(part_file(folder, number))
