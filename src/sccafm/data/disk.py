"""Cells that stay on disk: one h5ad or zarr file as an AnnData whose matrices are read by rows, and files of a folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset

from sccafm._io import whole_path

SUFFIXES = (".h5ad", ".zarr")


def is_path(source: object) -> bool:
    """Whether cells are named by a path, or several."""
    return isinstance(source, str | Path) or (
        isinstance(source, list | tuple) and len(source) > 0 and all(isinstance(path, str | Path) for path in source)
    )


def find_paths(source: str | Path | Iterable[str | Path]) -> list[Path]:
    """Files of cells: one, a list of them, or all of a folder by name.

    Raises
    ------
    FileNotFoundError
        A file is missing, or a folder holds none.
    ValueError
        A file of another kind, or one that is named twice.
    """
    named = [source] if isinstance(source, str | Path) else list(source)
    paths = []
    for name in named:
        path = whole_path(name)
        if path.suffix not in SUFFIXES and path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
            if not inside:
                raise FileNotFoundError(f"{path} holds no .h5ad file and no .zarr folder")
            paths += inside
            continue
        if not path.exists():
            raise FileNotFoundError(f"no file {name}; give an .h5ad file or a .zarr folder, a list or a folder of them")
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{path} is no .h5ad file and no .zarr folder; sccafm reads these two from a path")
        paths.append(path)
    twice = [path for i, path in enumerate(paths) if path in paths[:i]]
    if twice:
        raise ValueError(f"{twice[0]} is named twice; name each file once")
    return paths


def open_group(path: Path):
    """Root of a file, for reading; it is closed when nothing refers to it any more."""
    if path.suffix == ".zarr":
        try:
            import zarr
        except ImportError as error:
            raise ImportError("zarr stores need zarr: pip install 'sccafm[zarr]'") from error
        return zarr.open_group(str(path), mode="r")
    return h5py.File(path, "r")


def open_matrix(path: Path, where: str) -> object:
    """One matrix of a file, left where it is: rows are read when they are asked for."""
    return as_matrix(open_group(path)[where])


def as_matrix(element) -> object:
    kind = element.attrs.get("encoding-type", element.attrs.get("h5sparse_format", ""))
    return sparse_dataset(element) if str(kind).startswith(("csr", "csc")) else element


def open_cells(path: Path) -> AnnData:
    """A file as an AnnData: annotation in memory, matrices on disk.

    Raises
    ------
    ValueError
        The file cannot be read.
    """
    try:
        group: Any = open_group(path)
        raw = None
        if "raw" in group and "X" in group["raw"]:
            raw = {"X": as_matrix(group["raw/X"]), "var": read_elem(group["raw/var"])}
        return AnnData(
            X=as_matrix(group["X"]) if "X" in group else None,
            obs=read_elem(group["obs"]),
            var=read_elem(group["var"]),
            uns=read_elem(group["uns"]) if "uns" in group else None,
            layers={name: as_matrix(group["layers"][name]) for name in group["layers"]} if "layers" in group else None,
            raw=raw,
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ValueError(f"{path} is no readable {path.suffix[1:]} file: {reason}") from error


def place_of(values: object) -> tuple[Path, str] | None:
    """File of a matrix on disk and its place in it; None for one in memory."""
    group: Any = getattr(values, "group", values)
    if isinstance(group, h5py.Group | h5py.Dataset):
        return Path(group.file.filename).absolute(), group.name
    if type(group).__module__.startswith("zarr") and hasattr(group, "store"):
        root = getattr(group.store, "root", None)
        return None if root is None else (Path(root).absolute(), group.path)
    return None
