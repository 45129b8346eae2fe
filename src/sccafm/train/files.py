"""One h5ad or zarr file: surveyed once in a pass of flat memory, then read by rows as they are needed.

A `File` is what a pass over the cells tells (genes, species, usual levels, which cells are held out) without the counts.
A `DataSet` is some of its rows in memory. A small corpus has one data set per file, with all of its rows; a large one is
streamed as many (`sccafm.train.stream`).
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
from anndata.io import read_elem, sparse_dataset
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.neighbors import NearestNeighbors
from tqdm.auto import tqdm

from sccafm._io import write_whole
from sccafm._text import warn
from sccafm.data.input import ModelInput, read
from sccafm.data.matrix import TARGET_SUM, csr_block, variable_genes
from sccafm.data.options import InputOptions
from sccafm.reference.bundle import ReferenceData
from sccafm.train.config import RunConfig

SUFFIXES = (".h5ad", ".zarr")
SURVEY_VERSION = 1  # raise it when a survey means something else than before
MIN_CELLS = 10  # fewer have no neighbours to speak of
MAX_COMPONENTS = 30


@dataclass(frozen=True, eq=False)
class File:
    """What one pass over a file tells."""

    path: Path
    species: str
    where: str  # the matrix of counts inside the file: "X", "raw/X", "layers/counts"
    size: int  # counts that are not zero
    columns: np.ndarray  # positions of the known genes
    tokens: np.ndarray  # their tokens
    is_tf: np.ndarray  # DNA-binding regulators among them
    is_cofactor: np.ndarray  # other regulators among them
    appeal: np.ndarray  # probability of a known gene to be drawn as a target
    variable: np.ndarray  # positions of the most variable genes
    level: np.ndarray  # log1p of the mean of counts per 10,000 of the known genes
    conditions: np.ndarray  # C 4
    cells: np.ndarray  # positions of the cells that hold anything
    is_held_out: np.ndarray  # of these, bool: never trained on

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def n_train(self) -> int:
        return int((~self.is_held_out).sum())


@dataclass(frozen=True)
class DataSet:
    """Cells of one file in memory: counts of all genes, and which of them the model knows."""

    name: str
    species: str
    counts: sparse.csr_matrix  # cells x all genes, float32
    columns: np.ndarray  # positions of the known genes
    tokens: np.ndarray  # their tokens
    is_tf: np.ndarray  # DNA-binding regulators among them
    is_cofactor: np.ndarray  # other regulators among them
    appeal: np.ndarray  # probability of a known gene to be drawn as a target
    conditions: np.ndarray  # C 4
    neighbors: np.ndarray  # cells x k, each cell among its own
    level: np.ndarray  # log1p of the mean expression of the known genes, over the whole file
    train: np.ndarray  # positions of cells
    validation: np.ndarray


def corpus_files(folder: Path) -> list[Path]:
    """The h5ad and zarr files of a folder, by name.

    Raises
    ------
    FileNotFoundError
        There are none.
    """
    paths = sorted(path for path in Path(folder).expanduser().glob("*") if path.suffix in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no .h5ad file and no .zarr folder; data= names a folder of them")
    return paths


@contextmanager
def opened(path: Path) -> Iterator:
    """The root group of a file, for reading."""
    if path.suffix == ".zarr":
        import zarr

        yield zarr.open_group(str(path), mode="r")
    else:
        with h5py.File(path, "r") as file:
            yield file


def on_disk(group, where: str) -> object:
    """A matrix of a file, left where it is."""
    element = group[where]
    kind = element.attrs.get("encoding-type", element.attrs.get("h5sparse_format", ""))
    if kind.startswith("csc"):
        raise ValueError(
            f"{where} is stored by columns (CSC), training reads cells; store it by rows: adata.X = adata.X.tocsr()"
        )
    return sparse_dataset(element) if kind.startswith("csr") else element


def on_disk_adata(group) -> ad.AnnData:
    """The parts of a file that `sccafm.data.input` looks at; matrices stay on disk."""
    raw = None
    if "raw" in group and "X" in group["raw"]:
        raw = {"X": on_disk(group, "raw/X"), "var": read_elem(group["raw/var"])}
    return ad.AnnData(
        X=on_disk(group, "X") if "X" in group else None,
        obs=read_elem(group["obs"]),
        var=read_elem(group["var"]),
        uns=read_elem(group["uns"]) if "uns" in group else None,
        layers={"counts": on_disk(group, "layers/counts")}
        if "layers" in group and "counts" in group["layers"]
        else None,
        raw=raw,
    )


def survey_file(path: Path, config: RunConfig, reference_data: ReferenceData) -> File:
    """Read everything once, block by block.

    Raises
    ------
    ValueError
        The file cannot be read or trained on; the message begins with its path.
    """
    try:
        with opened(path) as group, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the receipt would tell a user
            model_input = read(on_disk_adata(group), reference_data, InputOptions(regulators="all", n_top_genes=None))
            return summarise(path, model_input, config, reference_data)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:  # what h5py, zarr and the door raise
        told = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ValueError(f"{path}: {told}") from error


def summarise(path: Path, model_input: ModelInput, config: RunConfig, reference_data: ReferenceData) -> File:
    if model_input.matrix.kind != "counts":
        raise ValueError(
            f"it holds {model_input.matrix.kind} values; training needs counts in X, layers['counts'] or raw"
        )
    survey, binding = model_input.survey, read_binding(model_input, reference_data)
    cells = np.setdiff1d(np.arange(survey.n_cells), survey.empty)
    if len(cells) < MIN_CELLS:
        raise ValueError(f"{len(cells)} of its {survey.n_cells} cells hold counts; at least {MIN_CELLS} are needed")
    seen = survey.detected[model_input.columns] >= max(3, 0.005 * survey.n_cells)
    if not binding[seen].any():
        raise ValueError("no regulator that the model knows is seen in 3 cells or more")
    columns = model_input.columns[seen]
    rng = np.random.default_rng([config.seed, *path.name.encode()])
    held = rng.permutation(cells)[: max(1, int(config.validation_share * len(cells)))]
    variable = variable_genes(survey, columns, 2000)
    appeal = np.full(len(columns), 0.5 / len(columns))  # half of the targets at random, half among the variable ones
    appeal[np.isin(columns, variable)] += 0.5 / len(variable)
    return File(
        path=path,
        species=model_input.species,
        where={"X": "X", "raw.X": "raw/X"}.get(model_input.matrix.origin, "layers/counts"),
        size=int(survey.detected.sum()),
        columns=columns,
        tokens=model_input.gene_ids[seen],
        is_tf=binding[seen],
        is_cofactor=(model_input.is_tf & ~binding)[seen],
        appeal=appeal / appeal.sum(),
        variable=variable,
        level=np.log1p(survey.mean[columns]),
        conditions=model_input.conditions,
        cells=cells,
        is_held_out=np.isin(cells, held),
    )


def read_binding(model_input: ModelInput, reference_data: ReferenceData) -> np.ndarray:
    """DNA-binding regulators among the genes that are read: G bool."""
    table = reference_data.regulators[model_input.species]
    binding = set(table.index[table["class"] == "dna_binding"])
    return model_input.is_tf & np.array([str(symbol).upper() in binding for symbol in model_input.symbols])


def load(file: File, config: RunConfig, chosen: Sequence[np.ndarray] | None = None) -> DataSet:
    """Bring cells of a file into memory.

    Parameters
    ----------
    file
        Its survey.
    config
        For the number of neighbours, which are looked for among the loaded cells.
    chosen
        Runs of positions in ``file.cells``; absent: all of them.
    """
    runs = [np.arange(len(file.cells))] if chosen is None else chosen
    try:
        with opened(file.path) as group:
            values = on_disk(group, file.where)
            counts = sparse.vstack([read_run(values, file.cells[run]) for run in runs], "csr")
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{file.path} could be surveyed but not be read again: {error}") from error
    cells = np.concatenate(runs)
    held = file.is_held_out[cells]
    shared: dict[str, Any] = {f.name: getattr(file, f.name) for f in fields(DataSet) if hasattr(file, f.name)}
    return DataSet(
        **{**shared, "conditions": file.conditions[file.cells[cells]]},
        counts=counts,
        neighbors=nearest(counts, file.variable, config),
        train=np.flatnonzero(~held),
        validation=np.flatnonzero(held),
    )


def read_run(values: object, cells: np.ndarray) -> sparse.csr_matrix:
    """Counts of a run of cells: one read for all of them."""
    start = cells[0]
    block = [
        csr_block(values, a, min(a + 512, cells[-1] + 1)).astype(np.float32) for a in range(start, cells[-1] + 1, 512)
    ]
    return sparse.vstack(block, "csr")[cells - start]


def per_ten_thousand(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    totals = np.maximum(np.asarray(counts.sum(1, dtype=np.float64)).ravel(), 1)
    return sparse.diags(TARGET_SUM / totals) @ counts


def nearest(counts: sparse.csr_matrix, variable: np.ndarray, config: RunConfig) -> np.ndarray:
    """Nearest cells by principal components of the variable genes: cells x k, itself first."""
    if config.neighbors <= 1:
        return np.arange(counts.shape[0], dtype=np.int32)[:, None]
    log = per_ten_thousand(counts)[:, variable].log1p()
    components = min(MAX_COMPONENTS, min(log.shape) - 1)
    scores = TruncatedSVD(components, random_state=config.seed).fit_transform(log)
    k = min(config.neighbors, len(scores))
    return NearestNeighbors(n_neighbors=k).fit(scores).kneighbors(scores, return_distance=False).astype(np.int32)


def survey_files(
    paths: Sequence[Path],
    config: RunConfig,
    reference_data: ReferenceData,
    *,
    rank: int = 0,
    world: int = 1,
    barrier: Callable[[], None] = lambda: None,
    progress: bool = True,
) -> tuple[list[File], dict[Path, str]]:
    """Survey a corpus, each process its share, and keep the surveys in the run folder for the next start.

    Returns
    -------
    The files that can be trained on, and what is wrong with the others.
    """
    folder = Path(config.run) / "survey"
    folder.mkdir(parents=True, exist_ok=True)
    kept = {path: folder / f"{path.name}.safetensors" for path in paths}
    for path in tqdm(paths[rank::world], desc="surveying", unit="file", disable=not progress or rank > 0):
        mark = fingerprint(path, config, reference_data)
        if read_mark(kept[path]) == mark:
            continue
        try:
            file, told = survey_file(path, config, reference_data), ""
        except ValueError as error:
            file, told = None, str(error)
        keep_survey(kept[path], file, {"mark": mark, "error": told})
    barrier()
    found = {path: read_survey(kept[path], path) for path in paths}
    good = [file for file in found.values() if isinstance(file, File)]
    return good, {path: told for path, told in found.items() if isinstance(told, str)}


def refuse_or_skip(bad: dict[Path, str], n_good: int, on_bad_file: str) -> None:
    """Say which files cannot be trained on, as an error or a warning.

    Raises
    ------
    ValueError
        There are bad files and they are to be refused, or no good ones.
    """
    if not bad:
        return
    told = "\n".join(bad.values())
    if on_bad_file == "refuse" or not n_good:
        raise ValueError(
            f"{told}\n{len(bad)} of {len(bad) + n_good} files cannot be trained on. Mend or remove them"
            + ('; on_bad_file="skip" goes on without them' if n_good else "")
        )
    warn(f"{len(bad)} of {len(bad) + n_good} files are skipped:\n{told}")


def fingerprint(path: Path, config: RunConfig, reference_data: ReferenceData) -> str:
    """Changes when the file, or what a survey depends on, changes."""
    parts = [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]
    stats = [part.stat() for part in parts]
    content = [
        SURVEY_VERSION,
        str(path.resolve()),
        [(s.st_size, s.st_mtime_ns) for s in stats],
        [config.seed, config.validation_share],
        [
            reference_data.vocabulary.size,
            reference_data.conditions.size,
            sorted(reference_data.regulators["human"].index),
        ],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_mark(kept: Path) -> str | None:
    if not kept.exists():
        return None
    with safe_open(kept, "numpy") as file:
        return file.metadata().get("mark")


def keep_survey(kept: Path, file: File | None, told: dict[str, str]) -> None:
    content = {} if file is None else {f.name: getattr(file, f.name) for f in fields(file)}
    arrays = {name: np.ascontiguousarray(value) for name, value in content.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in content.items() if isinstance(value, (str, int))}
    write_whole(kept, lambda p: save_file(arrays, p, told | {"plain": json.dumps(plain)}))


def read_survey(kept: Path, path: Path) -> File | str:
    """A survey that was kept; what is wrong where the file could not be surveyed."""
    with safe_open(kept, "numpy") as file:
        told = file.metadata()
        if told["error"]:
            return told["error"]
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a safe_open is no mapping
    return File(path=path, **json.loads(told["plain"]), **arrays)
