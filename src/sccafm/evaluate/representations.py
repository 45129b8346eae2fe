"""Embeddings that a model's embedding must beat in the same run.

Every function takes an AnnData and returns an array cells x D, float32. Counts are brought to 10,000 per cell and log1p,
other input is read as it is, as in `sccafm.evaluate.baselines`.
"""

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy.sparse import csr_matrix, issparse

from sccafm.evaluate.baselines import dense_columns, deviation, expression, raw_expression

N_TOP_GENES, N_PCS = 2000, 50
NAMES = ("hvg_pca", "log_expression", "random", "scvi")
FAST = ("hvg_pca", "log_expression", "random")
SCVI_INSTALL = "pip install scvi-tools"


def log_expression(
    adata: AnnData, *, layer: str | None = None, batch_key: str | None = None, n_top_genes: int = N_TOP_GENES
) -> np.ndarray:
    """Log-expression of the most variable genes (`scanpy.pp.highly_variable_genes`, flavour "seurat"), unscaled.

    Parameters
    ----------
    layer
        Layer to read instead of X.
    batch_key
        Column of obs within which variable genes are ranked.
    n_top_genes
        Genes to keep; all where there are no more.

    Raises
    ------
    KeyError
        The layer is absent.
    ValueError
        NaN or infinite expression, or no gene varies.
    """
    x, genes = expression(adata, layer)
    varies = np.flatnonzero(deviation(x))
    if not len(varies):
        raise ValueError(f"none of {len(genes)} genes varies; pass the layer that holds expression: `layer='counts'`")
    if len(varies) > n_top_genes:
        kept = x[:, varies]
        cells = AnnData(csr_matrix(kept) if issparse(kept) else kept, obs=adata.obs)  # scanpy knows no sparse arrays
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a gene that is constant in one batch has no dispersion there
            sc.pp.highly_variable_genes(cells, n_top_genes=n_top_genes, batch_key=batch_key)
        varies = varies[cells.var["highly_variable"].to_numpy()]
    return dense_columns(x, varies).astype(np.float32)


def hvg_pca(
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    n_components: int = N_PCS,
    random_state: int = 0,
) -> np.ndarray:
    """First principal components of `log_expression`; as many as the data have where that is fewer.

    Other parameters and errors as in `log_expression`.
    """
    from sklearn.decomposition import PCA

    x = log_expression(adata, layer=layer, batch_key=batch_key)
    n = min(n_components, *x.shape)
    return PCA(n, random_state=random_state).fit_transform(x)


def random_embedding(adata: AnnData, *, n_components: int = N_PCS, random_state: int = 0) -> np.ndarray:
    """Independent normal numbers: what a measure gives when an embedding knows nothing."""
    return np.random.default_rng(random_state).normal(size=(adata.n_obs, n_components)).astype(np.float32)


def scvi_embedding(
    adata: AnnData, *, layer: str | None = None, batch_key: str | None = None, random_state: int = 0
) -> np.ndarray:
    """Latent space of scVI (Lopez et al., Nature Methods 2018) at its defaults, trained on these cells and batches.

    ImportError without scvi-tools; ValueError for values that are no counts.
    """
    try:
        import scvi  # pyright: ignore[reportMissingImports] (an extra of the user's)
    except ImportError as error:
        raise ImportError(f"the baseline 'scvi' needs scvi-tools: `{SCVI_INSTALL}`") from error
    x = raw_expression(adata, layer)
    values = np.asarray(x.data if issparse(x) else x)
    if (values < 0).any() or (values != np.floor(values)).any():
        raise ValueError("scVI models counts, and these are none; name their layer: `layer='counts'`")
    scvi.settings.seed = random_state
    cells = AnnData(x.copy(), obs=adata.obs.copy())
    scvi.model.SCVI.setup_anndata(cells, batch_key=batch_key)
    model = scvi.model.SCVI(cells)
    model.train()
    return np.asarray(model.get_latent_representation(), dtype=np.float32)


def run_representations(
    wanted: str | Sequence[str] | None,
    adata: AnnData,
    *,
    layer: str | None,
    batch_key: str | None,
    random_state: int,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Embeddings of the baselines by name, and why the others are absent.

    `wanted` is "all", "fast" (without scVI), names, or None. ValueError for an unknown name.
    """
    presets = {"all": NAMES, "fast": FAST}
    names = presets.get(wanted, (wanted,)) if isinstance(wanted, str) else tuple(wanted or ())
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(f"unknown baselines {unknown}; expected 'all', 'fast', or some of {list(NAMES)}")
    skipped = {}
    if wanted == "all" and importlib.util.find_spec("scvi") is None:
        skipped["scvi"] = f"is not installed: {SCVI_INSTALL}"
    options: dict[str, Any] = {"layer": layer, "batch_key": batch_key}
    run = {
        "hvg_pca": lambda: hvg_pca(adata, **options, random_state=random_state),
        "log_expression": lambda: log_expression(adata, **options),
        "random": lambda: random_embedding(adata, random_state=random_state),
        "scvi": lambda: scvi_embedding(adata, **options, random_state=random_state),
    }
    return {name: run[name]() for name in names if name not in skipped}, skipped
