"""Files that appear whole or not at all, new folders, hashes, and blocks of cells."""

import errno
import hashlib
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = 512  # cells read at a time
HEADERS = {
    "gene",
    "genes",
    "symbol",
    "gene_symbol",
    "gene_name",
    "name",
    "x",
    "gene_id",
}  # first lines that name no gene


def blocks(n: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + size, n)) for start in range(0, n, size))


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


def whole_path(path: str | Path) -> Path:
    """An absolute path: "~" is the home folder, and a later `os.chdir` changes nothing."""
    return Path(path).expanduser().absolute()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; an OSError that names it, and what mends it, where that cannot be."""
    with disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
            raise type(error)(
                error.errno,
                f"{folder} cannot be made ({os.strerror(error.errno or 0)}); name a folder below one that is there",
            ) from error


def new_folder(folder: str | Path) -> Path:
    """A folder to write to, made if it is absent; ValueError where something stands in it."""
    folder = whole_path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} is not empty; give a new folder" if folder.is_dir() else f"{folder} is a file; give a new folder"
        )
    make_folder(folder)
    return folder


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name, then rename: the file is whole or absent."""
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
    except OSError:  # the space of half a file is wanted by others
        partial.unlink(missing_ok=True)
        raise
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def write_part_file(path: Path, write: Callable[[Path], object]) -> None:
    """The same where two processes may write one file at once: each under a name of its own."""
    partial = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    try:
        write(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Says in one sentence that a disk is full, or that a folder cannot be written, and what mends it."""
    try:
        yield
    except Exception as error:
        number, told = getattr(error, "errno", None), str(error)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in told or "os error 28" in told:
            raise OSError(
                errno.ENOSPC,
                f"the disk of {folder} is full. What is finished is whole and kept: free some space and call again, or copy "
                "the folder to a larger disk and name it there",
            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermissionError(
                number, f"{folder} cannot be written ({os.strerror(number)}); name a folder that you may write to"
            ) from error
        raise


def write_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """`write_whole` in a folder that is made if it is absent."""
    path = whole_path(path)
    make_folder(path.parent)
    write_whole(path, write)


def write_table(table: pd.DataFrame, path: Path) -> None:
    write_whole(
        path, lambda p: pq.write_table(pa.Table.from_pandas(table, preserve_index=False), p, compression="zstd")
    )


def read_names(path: str | Path) -> list[str]:
    """Names of genes from a text file: one a line or separated by commas, tabs or blanks, with or without quotes and header."""
    text = whole_path(path).read_bytes().decode("utf-8-sig")
    names = [name.strip("\"'") for name in re.split(r"[\s,;]+", text)]
    names = [name for name in names if name]
    return names[1:] if names and names[0].lower() in HEADERS else names


def digest(*things: object) -> str:
    sha = hashlib.sha256()
    for thing in things:
        sha.update(thing if isinstance(thing, bytes) else str(thing).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]
