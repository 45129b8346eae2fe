"""Vectors that stand in obsm, and which embedding module made them."""

import inspect
from collections.abc import Callable

import numpy as np
from anndata import AnnData

from sccafm._text import warn


def vectors(adata: AnnData, use_rep: str) -> np.ndarray:
    """C D, float32."""
    if use_rep not in adata.obsm:
        raise KeyError(f"obsm has no {use_rep!r}; there are {list(adata.obsm)}: sccafm.embed(adata) makes X_sccafm")
    x = np.asarray(adata.obsm[use_rep], dtype=np.float32)
    if not np.isfinite(x).all():
        raise ValueError(f"obsm[{use_rep!r}] holds values that are not finite; leave those cells out")
    return x


def embedding_hash(adata: AnnData, use_rep: str) -> str:
    """Of the module that made the vectors; "" where it is not known."""
    params = adata.uns[use_rep].get("params", {}) if use_rep in adata.uns else {}
    return str(params.get("efm_hash", ""))


def warn_of_unused(function: Callable, where: str, **settings: object) -> None:
    """A setting of a function that is ignored, and is not as by default, warns."""
    known = inspect.signature(function).parameters
    for name, value in settings.items():
        if value is not known[name].default and value != known[name].default:
            warn(f"{name}= has no effect {where}")
