"""Vectors that stand in obsm, and which embedding module made them."""

import numpy as np
from anndata import AnnData

from sccafm._text import warn
from sccafm.data.options import InputOptions


def check_cells(adata) -> None:
    """TypeError for what is no AnnData."""
    if not isinstance(adata, AnnData):
        raise TypeError(
            f"expected an AnnData with vectors in obsm, got {type(adata).__name__}: anndata.read_h5ad(path) reads a file, and "
            "Embedding.to_adata() has an embedding's vectors"
        )


def vectors(adata: AnnData, use_rep: str) -> np.ndarray:
    """C D, float32."""
    if use_rep not in adata.obsm:
        raise KeyError(f"obsm has no {use_rep!r}; there are {list(adata.obsm)}: sccafm.embed(adata) makes X_sccafm")
    x = np.asarray(adata.obsm[use_rep], dtype=np.float32)
    if not np.isfinite(x).all():
        raise ValueError(f"obsm[{use_rep!r}] holds values that are not finite; leave those cells out")
    return x


def embedding_hash(adata: AnnData, use_rep: str) -> str:
    """Of the space that the vectors lie in: of the module that made them, or of what they are anchored to; "" where it is not known."""
    params = adata.uns[use_rep].get("params", {}) if use_rep in adata.uns else {}
    return str(params.get("space", params.get("efm_hash", "")))


def warn_of_unused(where: str, options: InputOptions, **settings: object) -> None:
    """Warn of options, and of settings whose default is None or "auto", that are set and have no effect."""
    set_here = [
        name
        for name, value in settings.items()
        if value is not None and not (isinstance(value, str) and value == "auto")
    ]
    for name in (*set_here, *options.changed()):
        warn(f"{name}= has no effect {where}")
