"""Networks of consecutive cells: a part of a run, which depends on no other part, wherever it is computed.

`EdgeInference` holds what a part is computed from. `write_inference` writes it to a folder, `read_inference` reads it back in another
process, and `compute_part` leaves a part's results in that folder. Letters as in `sccafm.types`.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from sccafm._io import blocks, write_part_file
from sccafm._machine import give_back_memory
from sccafm._torch import plain_torch
from sccafm.confidence.calibration import Calibration, confidence_of, expression_rank, row_quantiles
from sccafm.confidence.permutation import CellTest, NullDistribution, tested_cells
from sccafm.confidence.unusual import out_of_distribution
from sccafm.data.serialization import Cells, read_cells, write_cells
from sccafm.data.tokenizer import tokenize
from sccafm.grn.edges import select_edges, self_edges
from sccafm.grn.factors import pack_factors
from sccafm.grn.storage import PART_CELLS, CellEdges, Part, write_edges
from sccafm.model.forward import factors_of
from sccafm.model.serialization import read_modules, write_modules
from sccafm.nn import SFM

TEST_STEPS = 2**20  # float32 adds ten multiples of 1 / TEST_STEPS below 1 exactly
NULL_ARRAYS = ("mean", "sd", "tail", "group_tail")


@dataclass(frozen=True)
class EdgeSettings:
    """What is kept of a cell."""

    top_k: int | None
    min_weight: float | None
    keep_factors: bool
    batch_size: int


class EdgeInference:
    """Computes parts of one run.

    Parameters
    ----------
    sfm, calibration
        Of the model.
    cells
        What is read.
    groups
        C codes of the cells' groups.
    null
        None: no q-values.
    chance
        T G, mean of binding and response (`Pairs.chance`).
    tested
        N 2, positions of cells and the rows of the sums that they test (`tested_rows`).
    """

    def __init__(
        self,
        sfm: SFM,
        calibration: Calibration | None,
        cells: Cells,
        groups: np.ndarray,
        null: NullDistribution | None,
        chance: np.ndarray,
        settings: EdgeSettings,
        tested: np.ndarray,
        part_cells: int = PART_CELLS,
    ):
        self.sfm, self.calibration, self.cells, self.groups = sfm, calibration, cells, groups
        self.null, self.chance, self.settings, self.part_cells = null, chance, settings, part_cells
        self.tested = tested
        self.self_edges = self_edges(cells.is_tf)
        self.test = None if null is None else CellTest(null, self.self_edges)

    def part(self, number: int, tick: Callable[[int], object] = lambda n: None) -> Part:
        """Networks of one part's cells; `tick` is told of every batch."""
        first = number * self.part_cells
        return self.networks(first, min(first + self.part_cells, len(self.cells)), tick)

    def networks(self, first: int, last: int, tick: Callable[[int], object] = lambda n: None) -> Part:
        """Networks of some consecutive cells."""
        sums = self._no_sums(first, last)
        edges, arrays, silent = [], [], []
        for start, stop in blocks(last - first, self.settings.batch_size):
            batch_edges, batch_arrays = self._batch(first + start, first + stop, sums, silent)
            edges.extend(batch_edges)
            arrays.append(batch_arrays)
            give_back_memory()
            tick(stop - start)
        joined = {name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]}
        return Part(CellEdges.join(edges), joined, sums, np.array(silent, dtype=np.int64))

    def _no_sums(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Of the groups that these cells belong to, and of the tests that they take part in."""
        groups = np.unique(self.groups[first:last])
        rows = np.unique(self.tested[(self.tested[:, 0] >= first) & (self.tested[:, 0] < last), 1])
        regulators, targets = int(self.cells.is_tf.sum()), len(self.cells.gene_ids)
        factors = self.sfm.config.num_factors
        return {
            "groups": groups.astype(np.int64),
            "scores": np.zeros((len(groups), regulators, targets)),
            "expression": np.zeros((len(groups), targets)),
            "u": np.zeros((regulators, factors)),
            "v": np.zeros((targets, factors)),
            "tests": rows.astype(np.int64),
            "tested": np.zeros((len(rows), regulators, targets), np.float32),
            "n_tested": np.zeros(len(rows), np.int64),
        }

    def _batch(self, start: int, stop: int, sums: dict[str, np.ndarray], silent: list) -> tuple[list[CellEdges], dict]:
        cells = self.cells
        values = cells.matrix.read(start, stop, cells.columns)
        tokens = tokenize(values, cells.gene_ids, cells.is_tf, np.array(cells.conditions[start:stop]))
        u, v, context, summary = factors_of(self.sfm, tokens, cells.is_tf)
        nothing = np.flatnonzero(~values.any(1))
        if len(nothing):  # nothing is known of such cells: they have no edges
            u = u.clone()
            u[nothing.tolist()] = 0
            silent.extend((start + nothing).tolist())
        places = np.searchsorted(sums["groups"], self.groups[start:stop])
        edges, strengths = [], []
        for i in range(stop - start):
            # A product may round by where its factors stand in memory: copies stand alike for every cell.
            scores = (u[i].clone() @ v[i].clone().T).cpu().numpy()  # T G
            sums["scores"][places[i]] += scores
            sums["expression"][places[i]] += values[i]
            self._add_tested(start + i, scores, sums)
            edges.append(self._edges(start + i, scores, values[i]))
            strengths.append(scores.sum(1))  # self-edges are 0 by now
        u, v = u.cpu().numpy(), v.cpu().numpy()
        for i in range(stop - start):  # one by one: the sums are then the same for every batch size
            sums["u"] += u[i]
            sums["v"] += v[i]
        arrays = {"context": context.cpu().numpy(), "summary": summary.cpu().numpy()}
        arrays["strengths"] = np.stack(strengths)  # C T
        arrays["regulator_expression"] = values[:, cells.is_tf]  # C T
        if self.calibration is not None:
            seen = (values, cells.gene_ids, cells.species)
            arrays["ood"] = out_of_distribution(arrays["summary"], *seen, self.calibration)
            arrays["ood"][nothing] = 1
        if self.settings.keep_factors:
            width = min(self.sfm.config.topk or u.shape[-1], u.shape[-1])
            for name, dense in (("u", u), ("v", v)):
                arrays[f"{name}_index"], arrays[f"{name}_value"] = pack_factors(dense, width)
        return edges, arrays

    def _add_tested(self, cell: int, scores: np.ndarray, sums: dict[str, np.ndarray]) -> None:
        """Rounded so that the few cells of a test have the same sum in any order."""
        for row in np.searchsorted(sums["tests"], self.tested[self.tested[:, 0] == cell, 1]):
            sums["tested"][row] += np.rint(scores * np.float32(TEST_STEPS)) / np.float32(TEST_STEPS)
            sums["n_tested"][row] += 1

    def _edges(self, cell: int, scores: np.ndarray, values: np.ndarray) -> CellEdges:
        """Kept edges of one cell; the scores of self-edges are set to 0."""
        edge, weight = select_edges(scores, self.settings.top_k, self.settings.min_weight, self.self_edges)
        level = expression_rank(values)[edge % len(values)]
        fitted = None if self.calibration is None else self.calibration.confidence["cell"]
        confidence = confidence_of(row_quantiles(scores, edge), self.chance.ravel()[edge], level, fitted)
        q = np.full(len(edge), np.nan, np.float32) if self.test is None else self.test.qvalues(scores, edge)
        return CellEdges(np.full(len(edge), cell, np.int32), edge, weight, confidence, q)


def tested_rows(names, groups: np.ndarray, n_groups: int) -> np.ndarray:
    """Which cell tests which group, the last row all cells: N 2 (cell, row), see `tested_cells`."""
    found = tested_cells(names, groups, n_groups)
    return np.array([(cell, row) for row, cells in enumerate(found) for cell in cells], dtype=np.int64).reshape(-1, 2)


def add_sums(total: dict[str, np.ndarray], part: dict[str, np.ndarray]) -> None:
    """Add a part's sums to those of the parts before it: in the order of the parts, so that the bits are always the same."""
    for name in ("scores", "expression"):
        for place, group in enumerate(part["groups"]):
            total[name][group] += part[name][place]
    for name in ("u", "v"):
        total[name] += part[name]
    for place, row in enumerate(part["tests"]):
        total["tested"][row] += part["tested"][place]
        total["n_tested"][row] += part["n_tested"][place]


# --- from process to process


def write_inference(inference: EdgeInference, folder: Path) -> None:
    """Write what another process needs to compute parts to a folder that exists."""
    write_cells(inference.cells, folder)
    write_modules(folder, inference.sfm)
    np.save(folder / "groups.npy", inference.groups)
    arrays = {"chance": inference.chance, "tested": inference.tested}
    null, calibration = inference.null, inference.calibration
    if null is not None:
        arrays |= {f"null.{name}": getattr(null, name) for name in NULL_ARRAYS}
    if calibration is not None:
        arrays |= {f"calibration.{name}": array for name, array in calibration.tensors.items()}
    content = {
        "settings": asdict(inference.settings),
        "part_cells": inference.part_cells,
        "null_cells": None if null is None else null.n,
        "calibration": None if calibration is None else {n: getattr(calibration, n) for n in FITTED},
    }
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "run.safetensors")
    (folder / "run.json").write_text(json.dumps(content))


FITTED = ("weights_hash", "confidence", "signs", "ood")


@lru_cache(maxsize=1)
def read_inference(folder: Path, mark: str) -> EdgeInference:
    """What `write_inference` wrote, read once by each process; `mark` tells one run from another in the same folder."""
    content = json.loads((folder / "run.json").read_text())
    arrays = load_file(folder / "run.safetensors")
    own = {
        kind: {n.split(".", 1)[1]: a for n, a in arrays.items() if n.startswith(kind)}
        for kind in ("null", "calibration")
    }
    null = None if content["null_cells"] is None else NullDistribution(**own["null"], n=content["null_cells"])
    fitted = content["calibration"] and Calibration(**content["calibration"], tensors=own["calibration"])
    sfm, _ = read_modules(folder)
    groups = np.load(folder / "groups.npy", mmap_mode="r")
    settings = EdgeSettings(**content["settings"])
    shared = (null, arrays["chance"], settings, arrays["tested"], content["part_cells"])
    return EdgeInference(sfm, fitted, read_cells(folder), groups, *shared)


@dataclass(frozen=True)
class PartTask:
    """Computes a part anywhere and leaves it in the folder of the run."""

    folder: Path
    mark: str

    @plain_torch()
    def __call__(self, number: int) -> None:
        part = read_inference(self.folder, self.mark).part(number)
        write_part_file(edges_file(self.folder, number), lambda path: write_edges(part.edges, path))
        arrays = {f"array.{name}": array for name, array in part.arrays.items()}
        arrays |= {f"sum.{name}": array for name, array in part.sums.items()} | {"silent": part.silent}
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        write_part_file(arrays_file(self.folder, number), lambda path: save_file(arrays, path))


def edges_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.parquet"


def arrays_file(folder: Path, number: int) -> Path:
    """Written last: where it stands the part is whole."""
    return folder / f"{number:05d}.safetensors"


def computed_part(folder: Path, number: int) -> Part:
    """A part that `PartTask` left; its edges stay where they are, as a path."""
    found = load_file(arrays_file(folder, number))
    own = {
        kind: {n.removeprefix(f"{kind}."): a for n, a in found.items() if n.startswith(f"{kind}.")}
        for kind in ("array", "sum")
    }
    return Part(edges_file(folder, number), own["array"], own["sum"], found["silent"])


def remove_part(folder: Path, number: int) -> None:
    for path in (edges_file(folder, number), arrays_file(folder, number)):
        path.unlink(missing_ok=True)
