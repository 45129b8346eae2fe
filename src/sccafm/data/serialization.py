"""What a process needs of a reading to read its cells again: written to a folder, read back where the process is.

Matrices on disk are named and opened again; those in memory are written once, row by row, and mapped.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from sccafm._io import BLOCK, blocks
from sccafm.data.disk import open_matrix, place_of
from sccafm.data.input import ModelInput
from sccafm.data.joined import JoinedMatrix
from sccafm.data.matrix import Matrix, csr_block
from sccafm.data.neighbors import SmoothedMatrix

ARRAYS = ("columns", "gene_ids", "is_tf", "conditions")
SHORT = ("float32", "float16", "bool", "int8", "int16", "uint8", "uint16")  # whose values float32 holds exactly


@dataclass(frozen=True, eq=False)
class Cells:
    """The part of a `ModelInput` that reads cells."""

    matrix: Any  # Matrix, JoinedMatrix or SmoothedMatrix
    columns: np.ndarray  # G positions in the matrix
    gene_ids: np.ndarray  # G tokens
    is_tf: np.ndarray  # G bool
    conditions: np.ndarray  # C 4
    species: str

    def __len__(self) -> int:
        return len(self.conditions)


def cells_of(model_input: ModelInput) -> Cells:
    arrays = {name: getattr(model_input, name) for name in ARRAYS}
    return Cells(model_input.matrix, **arrays, species=model_input.species)


def write_cells(cells: Cells, folder: Path) -> None:
    """Write to a folder that exists."""
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", getattr(cells, name))
    content = {"species": cells.species, "matrix": _describe(cells.matrix, folder, "matrix")}
    (folder / "cells.json").write_text(json.dumps(content))


def read_cells(folder: Path) -> Cells:
    content = json.loads((folder / "cells.json").read_text())
    arrays = {name: np.load(folder / f"{name}.npy") for name in ARRAYS[:3]}
    arrays["conditions"] = np.load(folder / "conditions.npy", mmap_mode="r")
    return Cells(_matrix(content["matrix"], folder), **arrays, species=content["species"])


def _describe(matrix, folder: Path, name: str) -> dict:
    """A matrix in JSON; what is in memory is written to files that begin with `name`."""
    if isinstance(matrix, SmoothedMatrix):
        np.save(folder / f"{name}.nearest.npy", matrix.nearest)
        return {"of": "neighbors", "name": name, "matrix": _describe(matrix.matrix, folder, f"{name}.0")}
    if isinstance(matrix, JoinedMatrix):
        for i, columns in enumerate(matrix.columns):
            np.save(folder / f"{name}.columns{i}.npy", columns)
        parts = [_describe(part, folder, f"{name}.{i}") for i, part in enumerate(matrix.parts)]
        return {"of": "files", "name": name, "sizes": list(map(int, matrix.sizes)), "parts": parts}
    place = place_of(matrix.values)
    told = {"kind": matrix.kind, "origin": matrix.origin, "shape": list(map(int, matrix.shape))}
    if place is not None:
        return told | {"of": "disk", "path": str(place[0]), "where": place[1]}
    _write_rows(matrix, folder, name)
    return told | {"of": "memory", "name": name}


def _write_rows(matrix: Matrix, folder: Path, name: str) -> None:
    """Canonical CSR arrays, block by block."""
    kind = np.float32 if str(getattr(matrix.values, "dtype", "")) in SHORT else np.float64
    ends = [np.zeros(1, np.int64)]
    with open(folder / f"{name}.data", "wb") as data, open(folder / f"{name}.indices", "wb") as indices:
        for start, stop in blocks(matrix.shape[0], BLOCK):
            block = csr_block(matrix.values, start, stop)
            block.data.astype(kind).tofile(data)
            block.indices.astype(np.int32).tofile(indices)
            ends.append(ends[-1][-1] + block.indptr[1:].astype(np.int64))
    np.save(folder / f"{name}.indptr.npy", np.concatenate(ends))
    (folder / f"{name}.json").write_text(json.dumps(np.dtype(kind).name))


def _matrix(told: dict, folder: Path) -> Any:
    if told["of"] == "neighbors":
        nearest = np.load(folder / f"{told['name']}.nearest.npy", mmap_mode="r")
        return SmoothedMatrix(_matrix(told["matrix"], folder), nearest)
    if told["of"] == "files":
        columns = [np.load(folder / f"{told['name']}.columns{i}.npy") for i in range(len(told["parts"]))]
        return JoinedMatrix([_matrix(part, folder) for part in told["parts"]], columns, told["sizes"])
    if told["of"] == "disk":
        values = open_matrix(Path(told["path"]), told["where"])
    else:
        values = MappedRows(folder, told["name"], tuple(told["shape"]))
    return Matrix(values, told["origin"], None, None, told["kind"])


class MappedRows:
    """Rows of a sparse matrix, read from files where they are asked for."""

    def __init__(self, folder: Path, name: str, shape: tuple[int, int]):
        kind = json.loads((folder / f"{name}.json").read_text())
        self.shape, self.dtype = shape, np.dtype(kind)
        self.indptr = np.load(folder / f"{name}.indptr.npy", mmap_mode="r")
        size = int(self.indptr[-1])
        self.data, self.indices = (
            np.memmap(folder / f"{name}.{part}", dtype, "r", shape=(size,)) if size else np.zeros(0, dtype)
            for part, dtype in (("data", self.dtype), ("indices", np.int32))
        )

    def __getitem__(self, rows: slice) -> sparse.csr_matrix:
        start, stop, _ = rows.indices(self.shape[0])
        ends = np.asarray(self.indptr[start : stop + 1])
        some = slice(int(ends[0]), int(ends[-1]))
        arrays = (np.array(self.data[some]), np.array(self.indices[some]), ends - ends[0])
        return sparse.csr_matrix(arrays, shape=(stop - start, self.shape[1]))
