"""Groups of cells, from a column of obs."""

import warnings

import pandas as pd

ALL = "all"  # the one group of a run without groupby
UNASSIGNED = "unassigned"


def find_groups(adata, groupby: str | None) -> pd.Series:
    """Group of each cell, categorical in the order of the column's categories."""
    cells = adata.obs_names.rename(None)
    if groupby is None:
        return pd.Series(pd.Categorical([ALL] * adata.n_obs), index=cells, name=ALL)
    if groupby not in adata.obs:
        raise KeyError(f"groupby={groupby!r} is no column of obs; there are {list(adata.obs.columns)}")
    column = adata.obs[groupby].astype("category").cat.remove_unused_categories()
    order = list(column.cat.categories.astype(str).unique())
    unassigned = int(column.isna().sum())
    if unassigned:
        warnings.warn(f"{unassigned:,} cells have no {groupby!r}; they form the group {UNASSIGNED!r}", stacklevel=3)
        order = [name for name in order if name != UNASSIGNED] + [UNASSIGNED]
    groups = column.astype(str).where(column.notna(), UNASSIGNED)
    return pd.Series(pd.Categorical(groups, order), index=cells, name=groupby)
