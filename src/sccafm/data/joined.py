"""Several files as one set of cells: the genes that all of them hold, every cell normalised over all genes of its own file."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from sccafm._text import listing, warn
from sccafm.data.disk import find_paths, open_cells
from sccafm.data.matrix import Matrix, Survey

FILE_COLUMN = "file"  # of obs, says where a cell comes from


@dataclass(frozen=True, eq=False)
class JoinedMatrix:
    """Cells of several matrices one after another; otherwise as `Matrix`."""

    parts: Sequence[Matrix]
    columns: Sequence[np.ndarray]  # of each part: where it holds the genes of all
    sizes: Sequence[int]  # cells of each part
    var: pd.DataFrame | None = None  # of the genes of all
    obs_names: pd.Index | None = None
    surveys: Sequence[Survey] = ()

    @property
    def origin(self) -> str:
        return f"{' and '.join(sorted({part.origin for part in self.parts}))} of {len(self.parts)} files"

    @property
    def kind(self) -> str:
        kinds = sorted({part.kind for part in self.parts})
        return kinds[0] if len(kinds) == 1 else "mixed"

    is_boolean = False

    @property
    def shape(self) -> tuple[int, int]:
        return int(sum(self.sizes)), len(self.columns[0])

    def read(self, start: int, stop: int, columns: np.ndarray) -> np.ndarray:
        """As `Matrix.read`."""
        ends = np.cumsum(self.sizes)
        found = []
        for part, own, first, last in zip(self.parts, self.columns, ends - self.sizes, ends, strict=True):
            a, b = max(start, first), min(stop, last)
            if a < b:
                found.append(part.read(a - first, b - first, own[columns]))
        return np.concatenate(found)

    def survey(self) -> Survey:
        """Moments over the cells of all parts (Chan et al. 1983), from those of each."""
        n = np.array([survey.n_cells for survey in self.surveys])[:, None]
        some = list(zip(self.surveys, self.columns, strict=True))
        means = np.stack([survey.mean[own] for survey, own in some])
        mean = (n * means).sum(0) / n.sum()
        within = sum(max(s.n_cells - 1, 0) * s.variance[own] for s, own in some)
        variance = (within + (n * (means - mean) ** 2).sum(0)) / max(n.sum() - 1, 1)
        starts = np.cumsum(self.sizes) - self.sizes
        empty = np.concatenate([survey.empty + start for survey, start in zip(self.surveys, starts, strict=True)])
        detected = np.sum([survey.detected[own] for survey, own in some], axis=0)
        return Survey(int(n.sum()), detected, mean, variance, empty)


@dataclass(frozen=True, eq=False)
class CellFiles:
    """Files of cells that give one result."""

    paths: tuple[Path, ...]
    parts: tuple[AnnData, ...]  # each with its matrices on disk
    adata: AnnData  # cells of all with their annotation; no values

    @property
    def obs_names(self) -> pd.Index:
        return self.adata.obs_names


def open_files(source: str | Path | Sequence[str | Path]) -> AnnData | CellFiles:
    """Cells of a path: an AnnData on disk for one file, `CellFiles` for several."""
    paths = find_paths(source)
    parts = [open_cells(path) for path in paths]
    if len(paths) == 1:
        return parts[0]
    return CellFiles(tuple(paths), tuple(parts), AnnData(obs=join_obs([part.obs for part in parts], paths)))


def join_obs(tables: Sequence[pd.DataFrame], paths: Sequence[Path]) -> pd.DataFrame:
    """Annotation of all cells; a column "file" is added, and names that stand in two files carry their file's."""
    labels = file_labels(paths)
    names = pd.Index(np.concatenate([table.index.astype(str) for table in tables]))
    sizes = [len(table) for table in tables]
    if not names.is_unique:
        prefixes = np.repeat(labels, sizes)
        names = pd.Index([f"{prefix}:{name}" for prefix, name in zip(prefixes, names, strict=True)])
        warn(f"cell names stand in several files: each carries its file's, {listing(names, 2)}")
    obs = stacked(tables, names)
    if FILE_COLUMN not in obs:
        obs[FILE_COLUMN] = pd.Categorical(np.repeat(labels, sizes), labels)
    return obs


def stacked(tables: Sequence[pd.DataFrame], names: pd.Index) -> pd.DataFrame:
    """Rows of all tables under new names; a column that is categorical in one of them stays so, with the categories of all in order."""
    categorical = {name for table in tables for name in table.select_dtypes("category")}
    plain = [t.astype({name: object for name in categorical & set(t)}) for t in tables]
    obs = pd.concat(plain, ignore_index=True).set_axis(names)
    for name in categorical:
        order = [v for t in tables if name in t for v in t[name].astype("category").cat.categories]
        obs[name] = pd.Categorical(obs[name], list(dict.fromkeys(order)))
    return obs


def file_labels(paths: Sequence[Path]) -> list[str]:
    """Names of the files without their ending; whole paths where two share a name."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def shared_genes(tokens: Sequence[np.ndarray], paths: Sequence[Path]) -> np.ndarray:
    """Tokens that all files hold, in the order of the first.

    Raises
    ------
    ValueError
        There are fewer than two.
    """
    common = reduce(np.intersect1d, tokens)
    if len(common) < 2:
        sizes = ", ".join(f"{path.name} {len(own):,}" for path, own in zip(paths, tokens, strict=True))
        raise ValueError(
            f"the files share {len(common)} genes that the model knows (of {sizes}); files of one result must measure the "
            "same genes: infer each by itself"
        )
    lost = [f"{path.name} {len(own) - len(common):,} of {len(own):,}" for path, own in zip(paths, tokens, strict=True)]
    if any(len(own) > len(common) for own in tokens):
        warn(f"{len(common):,} genes are in all files and can be read; left out are {', '.join(lost)}")
    first = tokens[0]
    return first[np.isin(first, common)]


def same_species(species: Sequence[str], paths: Sequence[Path]) -> str:
    """The one species of all files.

    Raises
    ------
    ValueError
        They are of two.
    """
    if len(set(species)) > 1:
        examples = ", ".join(f"{path.name} is {name}" for path, name in zip(paths, species, strict=True))
        raise ValueError(
            f'the files are of two species ({examples}); infer each species by itself, or pass species="human" or "mouse" to '
            "read all as one"
        )
    return species[0]


def column_of(tokens: np.ndarray, columns: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Columns that hold the wanted tokens."""
    order = np.argsort(tokens)
    return columns[order[np.searchsorted(tokens[order], wanted)]]
