"""Groups of cells, from a column of obs or from labels, and what is kept of obs."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from sccafm._text import warn

ALL = "all"  # the one group of a run without groupby
UNASSIGNED = "unassigned"


def find_groups(adata, groupby: str | None) -> pd.Series:
    """Group of each cell, categorical in the order of the column's categories."""
    cells = adata.obs_names.rename(None)
    if groupby is None:
        return pd.Series(pd.Categorical([ALL] * adata.n_obs), index=cells, name=ALL)
    if groupby == ALL:
        raise ValueError(
            f"groupby={ALL!r} is what a run without groups is called; rename the column: "
            f'adata.obs = adata.obs.rename(columns={{"{ALL}": "group"}})'
        )
    return group_cells(obs_column(adata, groupby, "groupby=").set_axis(cells))


def obs_column(adata, name: object, setting: str = "") -> pd.Series:
    """One column of obs.

    Raises
    ------
    TypeError
        The name is no text, such as a list of columns.
    KeyError
        No such column.
    ValueError
        Two columns have the name.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"{setting}{name!r} must be the name of one column of obs; join several: "
            'adata.obs["both"] = adata.obs["a"].astype(str) + " " + adata.obs["b"].astype(str)'
        )
    if name not in adata.obs:
        raise KeyError(f"{setting}{name!r} is no column of obs; there are {list(adata.obs.columns)}")
    column = adata.obs[name]
    if isinstance(column, pd.DataFrame):
        raise ValueError(
            f"obs has {column.shape[1]} columns {name!r}; keep one: "
            "adata.obs = adata.obs.loc[:, ~adata.obs.columns.duplicated()]"
        )
    return column


def group_cells(labels: pd.Series) -> pd.Series:
    """Labels as groups: categorical text in the order of their categories; cells without a label form a group."""
    column = labels.astype("category").cat.remove_unused_categories()
    order = list(column.cat.categories.astype(str).unique())
    unassigned = int(column.isna().sum())
    if unassigned:
        warn(f"{unassigned:,} cells have no {labels.name!r}; they form the group {UNASSIGNED!r}")
        order = [name for name in order if name != UNASSIGNED] + [UNASSIGNED]
    groups = column.astype(str).where(column.notna(), UNASSIGNED)
    return pd.Series(pd.Categorical(groups, order), index=labels.index, name=labels.name)


def labels_of(labels: str | pd.Series | Iterable, obs: pd.DataFrame | None, cells: pd.Index) -> pd.Series:
    """A label of each cell, from a column of obs, a Series by cell name, or values in the order of the cells.

    Raises
    ------
    KeyError
        No such column, or a Series that lacks cells.
    ValueError
        Not one label for each cell.
    """
    if isinstance(labels, str):
        if obs is None or labels not in obs:
            there = [] if obs is None else list(obs.columns)
            raise KeyError(
                f"{labels!r} is no column of obs as it was at inference; there are {there}: pass adata.obs[...]"
            )
        return obs[labels].set_axis(cells)
    if isinstance(labels, pd.Series):
        series: Any = labels
        missing = cells.difference(series.index)
        if len(missing) or series.index.has_duplicates:
            raise KeyError(
                f"labels lack {len(missing):,} of {len(cells):,} cells of these networks (first: {list(missing[:2])}), "
                "or name some twice; pass a Series indexed by cell names, as adata.obs[...] is"
            )
        return series.loc[cells].rename(series.name or "labels")
    values = list(labels)
    if len(values) != len(cells):
        raise ValueError(f"expected a label or value for each of {len(cells):,} cells, got {len(values):,}")
    return pd.Series(values, index=cells, name="labels")


def kept_obs(adata, key: str) -> pd.DataFrame:
    """Annotation of the cells as networks keep it: numbers and booleans as they are, all else as categories of text.

    Columns that `infer_grn` itself writes under `key` are left out.
    """
    own = {f"{key}_context", f"{key}_context_entropy", f"{key}_ood"}
    obs = adata.obs.set_axis(adata.obs_names.rename(None))
    kept = {}
    for name in obs.columns.unique():
        if name in own:
            continue
        column = obs[name].iloc[:, 0] if isinstance(obs[name], pd.DataFrame) else obs[name]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
            kept[str(name)] = column
            continue
        codes = column.astype("category").cat
        order = codes.categories.astype(str)
        texts = np.array([*order, None], dtype=object)  # the code of a missing value is -1, the last one
        text = pd.Series(texts[codes.codes], index=obs.index)
        kept[str(name)] = text.astype(pd.CategoricalDtype(order.unique(), codes.ordered))
    return pd.DataFrame(kept, index=obs.index)
