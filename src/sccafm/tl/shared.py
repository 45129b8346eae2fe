"""What the functions that answer questions share: whose cells these are, and how strength is put on a log scale."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from anndata import AnnData

from sccafm._text import warn
from sccafm.data.groups import ALL, group_cells, labels_of
from sccafm.grn.grn import GRN

OFFSET = 0.01  # of the median strength, added before the logarithm


def check_grn(grn) -> GRN:
    """The door for networks.

    Raises
    ------
    TypeError
        It is no GRN.
    """
    if not isinstance(grn, GRN):
        raise TypeError(
            f"expected networks (sccafm.GRN), got {type(grn).__name__}: grn = sccafm.infer_grn(adata), or sccafm.read_grn(folder)"
        )
    return grn


def obs_of(grn: GRN, adata: AnnData | None) -> pd.DataFrame | None:
    """Annotation of the networks' cells: that of `adata`, else as it was at inference.

    Raises
    ------
    ValueError
        The networks are of other cells.
    """
    if adata is None:
        return grn.obs
    missing = grn.cells.difference(adata.obs_names)
    if len(missing):
        raise ValueError(
            f"these networks are of other cells: {len(missing):,} of {len(grn):,} are not in adata (first: "
            f"{missing[0]!r}; adata has {adata.obs_names[0]!r}); pass the AnnData that they were inferred from"
        )
    return adata.obs.loc[grn.cells]


def column(name: str | pd.Series | Iterable, obs: pd.DataFrame | None, cells: pd.Index, parameter: str) -> pd.Series:
    """A label of each cell; errors name the parameter that asked for it."""
    try:
        return labels_of(name, obs, cells)
    except KeyError as error:
        raise KeyError(f"{parameter}: {error.args[0]}") from None


def donors_of(sample_key: str | pd.Series | Iterable, obs: pd.DataFrame | None, cells: pd.Index) -> pd.Series:
    """Donor of each cell as text; missing ones stay missing, with a warning."""
    found = column(sample_key, obs, cells, "sample_key")
    missing = int(found.isna().sum())
    if missing:
        warn(f"left out {missing:,} of {len(found):,} cells without a donor in {found.name!r}")
    return found.astype(object).map(str, na_action="ignore")


def several_groups(labels: pd.Series, least: int, parameter: str) -> pd.Series:
    """Groups of at least `least` cells; smaller ones become missing, with a warning.

    Raises
    ------
    ValueError
        Fewer than two such groups.
    """
    groups = group_cells(labels)
    sizes = groups.value_counts(sort=False)
    small = sizes.index[sizes < least]
    if labels.name == ALL and len(sizes) == 1:
        raise ValueError(f"the cells have no groups, and a comparison needs two: pass {parameter}=, a column of obs")
    if len(sizes) - len(small) < 2:
        raise ValueError(
            f"{parameter}={labels.name!r} has {len(sizes)} groups, {len(sizes) - len(small)} of them with at least {least} "
            "cells; a comparison needs two: pass another column"
        )
    if len(small):
        warn(f"left out {len(small)} groups of fewer than {least} cells: {', '.join(small[:5])}")
    return groups.cat.remove_categories(small)


def log_strength(strength: np.ndarray) -> np.ndarray:
    """log2 of strengths, C T float64; a hundredth of their median is added, so that 0 has a logarithm."""
    values = np.asarray(strength, dtype=np.float64)
    middle = np.median(values)
    return np.log2(values + OFFSET * (middle if middle > 0 else 1.0))
