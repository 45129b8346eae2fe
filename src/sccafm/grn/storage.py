"""Networks on disk: parts that appear whole or not at all, so that an interrupted run resumes.

A folder holds

    grn.json                what was run; "complete" once every part is there
    genes.parquet           name, symbol, gene_id, is_tf
    cells.parquet           cell, group
    obs.parquet             annotation of the cells, as it was in the AnnData
    edges.parquet           edge, source, target, sign, binding, response, in_prior, prior_sources, null_mean, null_sd: what the edge
                            numbers mean, and what is known of a pair whatever the cell
    parts/00000.parquet     cell, edge, weight, confidence, qvalue of some cells: positions in the two tables, sorted by edge,
                            then cell, so that statistics of the row groups find an edge
    arrays/context.npy      a row per cell: context, summary, strengths and regulator_expression (and ood and factors, where
                            there are any); filled part by part
    sums.safetensors        running sums over the cells read so far, per group
    work/                   while the run lasts: what its processes need, and parts that are not yet counted in the sums

and reads with pandas, polars or DuckDB as it is: join `parts/*.parquet` with `edges.parquet` on `edge`.
"""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sccafm._io import disk_errors, make_folder, whole_path, write_table, write_whole

FORMAT = 6
PART_CELLS = 500  # cells of one part
SUMS_BYTES = 2**24  # of running sums to write per part: larger ones, of many groups, are written every few parts
ROW_GROUP_ROWS = 25_000  # rows that are read together when an edge is asked for
EDGE_TYPES = {name: np.int32 for name in ("cell", "edge")} | {
    name: np.float32 for name in ("weight", "confidence", "qvalue")
}


@dataclass(frozen=True)
class CellEdges:
    """Edges of some cells, cell by cell, within a cell in regulator-major order."""

    cell: np.ndarray  # int32, position of the cell
    edge: np.ndarray  # int32, regulator position * G + target position
    weight: np.ndarray  # float32
    confidence: np.ndarray  # float32, NaN without a calibration
    qvalue: np.ndarray  # float32, NaN without a null

    def __len__(self) -> int:
        return len(self.edge)

    def of(self, cells: np.ndarray) -> "CellEdges":
        """Edges of chosen cells, in the order asked for."""
        starts, stops = np.searchsorted(self.cell, cells, "left"), np.searchsorted(self.cell, cells, "right")
        sizes = stops - starts
        before = np.cumsum(sizes) - sizes
        rows = np.arange(sizes.sum()) + np.repeat(starts - before, sizes)
        return self.at(rows)

    def at(self, rows: np.ndarray) -> "CellEdges":
        return CellEdges(*(getattr(self, name)[rows] for name in EDGE_TYPES))

    def of_pair(self, edge: int) -> "CellEdges":
        """The rows of one edge, a cell each."""
        return self.at(np.flatnonzero(self.edge == edge))

    @staticmethod
    def join(many: list["CellEdges"]) -> "CellEdges":
        many = many or [CellEdges(*(np.zeros(0, kind) for kind in EDGE_TYPES.values()))]
        return CellEdges(*(np.concatenate([getattr(e, name) for e in many]) for name in EDGE_TYPES))


@dataclass(frozen=True)
class StoredEdges:
    """The same, read from a folder when asked for."""

    folder: Path
    n_cells: int
    n_edges: int

    def __len__(self) -> int:
        return self.n_edges

    def of(self, cells: np.ndarray) -> CellEdges:
        cells = np.asarray(cells)
        part = cells // PART_CELLS
        if not len(cells) or (np.diff(part) >= 0).all():  # part by part
            found = [self._of_part(number, cells[part == number]) for number in np.unique(part)]
            return CellEdges.join(found)
        order = np.unique(cells)
        return self.of(order).of(cells)

    def _of_part(self, number: int, cells: np.ndarray) -> CellEdges:
        return read_edges(part_path(self.folder, number, "parquet"), cells)

    def of_pair(self, edge: int) -> CellEdges:
        """The rows of one edge, a cell each: of each part the row groups that hold it are read."""
        paths = [part_path(self.folder, number, "parquet") for number in range(n_parts(self.n_cells))]
        with ThreadPoolExecutor() as pool:
            return CellEdges.join(list(pool.map(lambda path: read_pair(path, edge), paths)))


@dataclass(frozen=True)
class Part:
    """What was inferred of consecutive cells."""

    edges: CellEdges | Path  # where another process left them: a file to be moved
    arrays: dict[str, np.ndarray]  # context, summary, and factors where kept; first axis is the cell
    sums: dict[str, np.ndarray] = field(default_factory=dict)  # of the groups of these cells
    silent: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # cells without a count in the genes read


def n_parts(n_cells: int) -> int:
    return -(-n_cells // PART_CELLS)


def part_path(folder: Path, part: int, kind: str) -> Path:
    return folder / "parts" / f"{part:05d}.{kind}"


def write_edges(edges: Any, path: Path) -> None:
    """Sorted by edge, then cell: a few tenths of a byte for the edge, and row groups that statistics find it by.

    Delta-coded integers, split float bytes, and dictionaries of the few values of confidence and qvalue.
    """
    rows = edges.at(np.argsort(edges.edge, kind="stable"))
    table = pa.table(
        {name: pa.array(getattr(rows, name), pa.from_numpy_dtype(kind)) for name, kind in EDGE_TYPES.items()}
    )
    encoding = {"cell": "DELTA_BINARY_PACKED", "edge": "DELTA_BINARY_PACKED", "weight": "BYTE_STREAM_SPLIT"}
    pq.write_table(
        table, path, row_group_size=ROW_GROUP_ROWS, compression="zstd", compression_level=9,
        use_dictionary=["confidence", "qvalue"], column_encoding=encoding, store_schema=False,
    )  # fmt: skip


def read_edges(path: Path, cells: np.ndarray | None) -> CellEdges:
    """Edges of some cells of one part in the order asked for, or of all its cells."""
    rows = columns_of(path, None)
    if not len(rows):
        return rows
    if cells is not None and len(np.unique(cells)) * 4 < PART_CELLS:  # few of them: sort these alone
        rows = rows.at(np.flatnonzero(np.isin(rows.cell, cells)))
    near = (rows.cell - rows.cell.min(initial=np.iinfo(np.int32).max)).astype(
        np.int16
    )  # short integers are sorted by radix
    found = rows.at(np.argsort(near, kind="stable"))
    return found if cells is None else found.of(cells)


def read_pair(path: Path, edge: int) -> CellEdges:
    """One edge in the cells of one part."""
    file = open_part(path)
    groups = []
    for number in range(file.metadata.num_row_groups):
        statistics = file.metadata.row_group(number).column(1).statistics
        if statistics.min <= edge <= statistics.max:
            groups.append(number)
    return columns_of(path, groups, file).of_pair(edge)


def columns_of(path: Path, groups: list[int] | None, file: pq.ParquetFile | None = None) -> CellEdges:
    opened: Any = file or open_part(path)
    try:
        every = range(opened.metadata.num_row_groups) if groups is None else groups
        table = opened.read_row_groups(list(every), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error
    return CellEdges(*(table.column(name).to_numpy() for name in EDGE_TYPES))


def open_part(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> ValueError:
    """What to say of a file of networks that cannot be read."""
    reason = "it is missing" if not path.exists() else str(error).splitlines()[0]
    return ValueError(
        f"{path} is damaged ({reason}); infer the networks again into a new folder, or copy the file again"
    )


class Store:
    """A folder that takes the parts of one run.

    Parameters
    ----------
    folder
        Made if absent. An unfinished run of the same header resumes where it ended.
    header
        What was run: "run" tells one run from another, "params" is the run card.
    tables
        "genes", "cells" and "edges".

    Raises
    ------
    ValueError
        The folder holds something else, or another run.
    """

    def __init__(self, folder: str | Path, header: dict, tables: dict[str, pd.DataFrame]):
        self.folder = whole_path(folder)
        self.header: dict[str, Any] = header
        self.n_cells = len(tables["cells"])
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"store={str(folder)!r} is a file; give a folder")
        with disk_errors(self.folder):
            self._begin(folder, tables)

    def _begin(self, folder: str | Path, tables: dict[str, pd.DataFrame]) -> None:
        if (self.folder / "grn.json").exists():
            found = read_header(self.folder)
            self._check_same(found)
            self.header = self.header | {"params": found["params"]}  # the run card tells where the first part was made
        elif self.folder.exists() and any(path.suffix != ".partial" for path in self.folder.iterdir()):
            raise ValueError(f"store={str(folder)!r} is not empty and holds no networks; give a new folder")
        else:
            make_folder(self.folder)
            self._write_header(complete=False)  # first: a run interrupted while the tables are written resumes too
        for name in ("parts", "arrays"):
            (self.folder / name).mkdir(exist_ok=True)
        for name, table in tables.items():
            if not (self.folder / f"{name}.parquet").exists():
                write_table(table, self.folder / f"{name}.parquet")

    @property
    def params(self) -> dict:
        return self.header["params"]

    def _check_same(self, found: dict) -> None:
        differing = sorted(k for k, v in self.header["run"].items() if found["run"].get(k) != v)
        if differing:
            said = "; ".join(f"{k}: there {found['run'].get(k)}, here {self.header['run'][k]}" for k in differing)
            raise ValueError(
                f"store={str(self.folder)!r} belongs to another run ({said}). Give a new folder, or remove this one"
            )

    def _write_header(self, complete: bool) -> None:
        text = json.dumps(self.header | {"format": FORMAT, "part_cells": PART_CELLS, "complete": complete}, indent=1)
        write_whole(self.folder / "grn.json", lambda p: p.write_text(text + "\n"))

    def finished(self) -> tuple[int, dict[str, np.ndarray] | None]:
        """Number of parts that are done, and the running sums after them."""
        path = self.folder / "sums.safetensors"
        if not path.exists():
            return 0, None
        with safe_open(path, "np") as file:
            done = int(file.metadata()["parts"])
        return done, load_file(path)

    def add(self, number: int, part: Part, sums: dict[str, np.ndarray]) -> None:
        """Write one part, then the sums that include it: only the last step counts the part as done.

        Sums larger than `SUMS_BYTES` are not written after every part; those of a later part count it.
        """
        path = part_path(self.folder, number, "parquet")
        with disk_errors(self.folder):
            if isinstance(part.edges, Path):
                part.edges.replace(path)
            else:
                write_whole(path, lambda p: write_edges(part.edges, p))
            for name, rows in part.arrays.items():
                self._write_rows(array_path(self.folder, name), number * PART_CELLS, rows)
            if self.counts(number, sums):
                done = {"parts": str(number + 1)}
                write_whole(self.folder / "sums.safetensors", lambda p: save_file(sums, p, done))

    def counts(self, number: int, sums: dict[str, np.ndarray]) -> bool:
        """Whether the sums are written after a part."""
        every = -(-sum(array.nbytes for array in sums.values()) // SUMS_BYTES)
        return number == n_parts(self.n_cells) - 1 or (number + 1) % every == 0

    def _write_rows(self, path: Path, start: int, rows: np.ndarray) -> None:
        """Rows into a file of the size of all. Written and not mapped: a full disk ends a process that writes to a map."""
        if not path.exists():
            shape = (self.n_cells, *rows.shape[1:])
            write_whole(path, lambda p: np.lib.format.open_memmap(p, "w+", rows.dtype, shape))
        with open(path, "r+b") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            file.seek(start * rows.dtype.itemsize * int(np.prod(rows.shape[1:])), os.SEEK_CUR)
            file.write(np.ascontiguousarray(rows).data)
            file.flush()
            os.fsync(file.fileno())

    def complete(self) -> None:
        """Say that every part is there, and how many edges they hold."""
        paths = [part_path(self.folder, number, "parquet") for number in range(n_parts(self.n_cells))]
        with disk_errors(self.folder):
            self.header = self.header | {"edges": sum(open_part(path).metadata.num_rows for path in paths)}
            self._write_header(complete=True)
            shutil.rmtree(self.folder / "work", ignore_errors=True)


def read_header(folder: Path) -> dict:
    path = folder / "grn.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no networks: it has no grn.json")
    try:
        header = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); infer the networks again into a new folder") from error
    layout = {"format": FORMAT, "part_cells": PART_CELLS}
    if any(header.get(key) != value for key, value in layout.items()):
        raise ValueError(f"{path} has the layout { ({k: header.get(k) for k in layout}) }, this version reads {layout}")
    return header


def read_obs(path: Path, cells: pd.Index) -> pd.DataFrame:
    """Annotation of the cells; a file without columns has no rows either."""
    found = pd.read_parquet(path)
    return found.set_axis(cells) if len(found.columns) else pd.DataFrame(index=cells)


def array_path(folder: Path, name: str) -> Path:
    return folder / "arrays" / f"{name}.npy"


def map_array(folder: Path, name: str) -> np.ndarray:
    """One array of all cells, read from disk where it is looked at; what is written to it stays in memory."""
    path = array_path(folder, name)
    try:
        return np.load(path, mmap_mode="c").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def array_names(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "arrays").glob("*.npy"))


def stored_results(folder: Path, n_cells: int, n_edges: int) -> dict[str, Any]:
    """What of a finished run stays on disk until it is asked for."""
    return {
        "edges": StoredEdges(folder, n_cells, n_edges),
        "arrays": {name: map_array(folder, name) for name in array_names(folder)},
    }
