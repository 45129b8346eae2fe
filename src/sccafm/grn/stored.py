"""Reads networks from disk."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sccafm._io import whole_path
from sccafm.data.groups import ALL
from sccafm.grn.grn import GRN
from sccafm.grn.pairs import STATIC, pairs_of
from sccafm.grn.storage import damaged, read_header, read_obs, stored_results


def read_grn(folder: str | Path) -> GRN:
    """Read networks that `GRN.write` or ``infer_grn(store=...)`` wrote; edges and arrays stay on disk until asked for.

    Raises
    ------
    FileNotFoundError
        The folder holds no networks.
    ValueError
        The run that wrote them has not finished.
    """
    folder = whole_path(folder)
    header = read_header(folder)
    if not header["complete"]:
        raise ValueError(f"{folder} holds an unfinished run; call infer_grn with the same arguments again to finish it")
    genes = read_table(folder / "genes.parquet").set_index("name")
    cells = read_table(folder / "cells.parquet")
    columns = [*STATIC, "prior_sources", "null_mean", "null_sd"]
    pairs = pairs_of(read_table(folder / "edges.parquet", columns), len(genes), header["run"]["null_cells"])
    groups = cells["group"].astype("category")
    obs = folder / "obs.parquet"
    return GRN(
        cells=pd.Index(cells["cell"]).rename(None),
        genes=genes.rename_axis(None),
        groups=groups.set_axis(cells["cell"]).rename_axis(None).rename(header["run"]["groupby"] or ALL),
        pairs=pairs,
        sums=read_sums(folder / "sums.safetensors"),
        params=header["params"],
        obs=read_obs(obs, pd.Index(cells["cell"]).rename(None)) if obs.exists() else None,
        **stored_results(folder, len(cells), header["edges"]),
    )


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error


def read_sums(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from error
