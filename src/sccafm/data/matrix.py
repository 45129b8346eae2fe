"""Which matrix is read, and how: finds the values in an AnnData, normalises them block by block, chooses genes.

Every storage (CSR, CSC, dense, backed) goes through one road, so that the same cell gives the same values.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from sccafm._io import BLOCK, blocks
from sccafm._text import warn

TARGET_SUM = 1e4
LOG_LIMIT = 30.0  # no log-transformed value is larger: log2 of a billion is 30
KINDS = {
    "counts": "counts, read as log1p of counts per 10,000",
    "log": "normalised and log-transformed values, read as they are",
    "linear": "normalised values that are not log-transformed, read as log1p of shares of 10,000",
    "asis": 'values read as they are (preprocess="none")',
    "mixed": "values of another kind in each file, each read as its own",
}


@dataclass(frozen=True, eq=False)
class Survey:
    """One pass over a matrix: what gene choice and warnings need."""

    n_cells: int
    detected: np.ndarray  # per gene: cells with a value above 0
    mean: np.ndarray  # per gene, of values per 10,000 before the logarithm
    variance: np.ndarray  # likewise, with n - 1
    empty: np.ndarray  # positions of cells without any value


@dataclass(frozen=True, eq=False)
class Matrix:
    """Values of an AnnData as the model reads them, whatever their storage."""

    values: object  # cells x genes: array, sparse or backed
    origin: str  # "X", "layers['counts']", "raw.X"
    var: pd.DataFrame  # of these genes: raw may hold others than X
    obs_names: pd.Index
    kind: str  # a key of KINDS

    @property
    def is_boolean(self) -> bool:
        return getattr(self.values, "dtype", None) == np.dtype(bool)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.obs_names), len(self.var)

    def read(self, start: int, stop: int, columns: np.ndarray) -> np.ndarray:
        """Values of some cells and genes, normalised over all genes of the cell: C G float32."""
        if self.kind in ("log", "asis"):
            return csr_block(self.values, start, stop)[:, columns].toarray().astype(np.float32)
        return np.log1p(self._linear(start, stop)[:, columns].toarray()).astype(np.float32)

    def _linear(self, start: int, stop: int) -> sparse.csr_matrix:
        """Values per 10,000, before the logarithm: float64."""
        block = csr_block(self.values, start, stop)
        if self.kind in ("log", "asis"):
            block.data = np.expm1(np.minimum(block.data, LOG_LIMIT))  # what is larger is no logarithm
            return block
        totals = block @ np.ones(block.shape[1])
        scale = np.divide(TARGET_SUM, totals, out=np.zeros_like(totals), where=totals > 0)
        return sparse.diags(scale) @ block

    def survey(self) -> Survey:
        """Read everything once; refuse values that no model can read.

        Raises
        ------
        ValueError
            A NaN, infinite or negative value: the message names its cell and gene.
        """
        genes = self.shape[1]
        detected, total, square = np.zeros(genes, int), np.zeros(genes), np.zeros(genes)
        empty = []
        for start, stop in blocks(len(self.obs_names), BLOCK):
            raw = csr_block(self.values, start, stop)
            self._check(raw, start)
            linear = self._linear(start, stop)
            detected += np.bincount(raw.indices[raw.data > 0], minlength=genes)
            total += np.bincount(linear.indices, linear.data, minlength=genes)
            square += np.bincount(linear.indices, linear.data**2, minlength=genes)
            empty.append(start + np.flatnonzero(np.diff(raw.indptr) == 0))
        n = len(self.obs_names)
        mean = total / n
        variance = np.maximum(square - n * mean**2, 0) / max(n - 1, 1)
        return Survey(n, detected, mean, variance, np.concatenate(empty))

    def _check(self, block: sparse.csr_matrix, start: int) -> None:
        bad = np.flatnonzero(~np.isfinite(block.data) | (block.data < 0))
        if not len(bad):
            return
        cell = self.obs_names[start + np.searchsorted(block.indptr, bad[0], side="right") - 1]
        gene, value = self.var.index[block.indices[bad[0]]], block.data[bad[0]]
        if np.isfinite(value):
            raise ValueError(
                f"{self.origin} holds negative values (gene {gene!r} of cell {cell!r} is {value:.4g}): scaled data "
                f'cannot be read. Pass the counts or log-normalised values with layer="...", or keep them in adata.raw'
            )
        raise ValueError(
            f"{self.origin} holds a value that is not finite (gene {gene!r} of cell {cell!r} is {value}). Mend it at its "
            "source; a missing value that means zero: adata.X = np.nan_to_num(adata.X)"
        )


def csr_block(values: Any, start: int, stop: int) -> sparse.csr_matrix:
    """Rows of any storage as canonical CSR in float64: sums then come out the same for each."""
    block = values[start:stop]
    if hasattr(block, "compute"):  # dask
        block = block.compute()
    block = sparse.csr_matrix(block, dtype=np.float64)
    block.sum_duplicates()
    block.eliminate_zeros()
    return block


def kind_of(values: object, n_cells: int) -> str:
    """What the values are: "counts", "log", "linear" or "scaled"; from up to five blocks of cells spread over the matrix."""
    starts = sorted({int(s) for s in np.linspace(0, max(n_cells - 200, 0), 5)})
    data = np.concatenate([csr_block(values, s, min(s + 200, n_cells)).data for s in starts])
    data = data[np.isfinite(data)]
    if (data < 0).any():
        return "scaled"
    if (data == np.round(data)).all():
        return "counts"
    return "log" if data.max() <= LOG_LIMIT else "linear"


def find_matrix(adata, layer: str | None, preprocess: str) -> Matrix:
    """Choose the values to read.

    Without a layer: the first of layers["counts"], X and raw.X that holds counts, else the first of X and raw.X that
    holds log-transformed, else otherwise normalised values.

    Raises
    ------
    KeyError
        The layer does not exist.
    ValueError
        Nothing can be read: no cells, no genes, or scaled values alone.
    """
    if preprocess not in ("auto", "none"):
        raise ValueError(f'preprocess must be "auto" or "none", got {preprocess!r}')
    if layer is not None:
        if layer not in adata.layers:
            raise KeyError(f"no layer {layer!r}; adata.layers holds {list(adata.layers)}, and layer=None reads X")
        found = [(f"layers[{layer!r}]", adata.layers[layer], adata.var)]
    else:
        found = [("X", adata.X, adata.var)]
        if preprocess == "auto":
            found = [(f"layers[{k!r}]", adata.layers[k], adata.var) for k in ("counts",) if k in adata.layers] + found
            if adata.raw is not None:
                found.append(("raw.X", adata.raw.X, adata.raw.var))
    found = [(origin, by_rows(values, origin), var) for origin, values, var in found if values is not None]
    if not found:
        raise ValueError('adata.X is None; pass layer="..." with one of ' + str(list(adata.layers)))
    if adata.n_obs == 0 or all(len(var) == 0 for _, _, var in found):
        raise ValueError(f"nothing to read: adata has {adata.n_obs} cells and {adata.n_vars} genes")
    if preprocess == "none":
        (origin, values, var), *_ = found
        return Matrix(values, origin, var, adata.obs_names, "asis")
    kinds = [kind_of(values, adata.n_obs) for _, values, _ in found]
    kind = next(k for k in ("counts", "log", "linear", "scaled") if k in kinds)
    origin, values, var = found[kinds.index(kind)]
    return Matrix(values, origin, var, adata.obs_names, kind)


def by_rows(values: Any, origin: str) -> Any:
    """The same values in a storage whose rows can be read in turn."""
    if getattr(values, "format", None) != "csc":
        return values
    if not sparse.issparse(values):
        warn(
            f"{origin} is backed and stored by columns (CSC): it is read into memory once. Store it by rows to keep "
            "memory flat: adata.X = adata.X.tocsr()"
        )
        values = values.to_memory()
    return values.tocsr()


def dispersion(survey: Survey, columns: np.ndarray, n_bins: int = 20) -> np.ndarray:
    """How much more a gene varies than genes of its mean do: scanpy's "seurat" flavour (Satija et al. 2015).

    Parameters
    ----------
    survey
        Moments of all genes.
    columns
        Genes to compare with each other.

    Returns
    -------
    Normalised dispersion of each of `columns`; -inf where the gene does not vary.
    """
    mean, variance = survey.mean[columns].copy(), survey.variance[columns]
    mean[mean == 0] = 1e-12
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.log(np.where(variance > 0, variance / mean, np.nan))
    table = pd.DataFrame({"spread": spread, "bin": pd.cut(np.log1p(mean), bins=n_bins)})
    grouped = table.groupby("bin", observed=True)["spread"]
    center, scale = grouped.transform("mean"), grouped.transform("std")
    alone = scale.isna()  # a bin of one gene compares it with nothing: it counts as one spread above the mean
    scale, center = scale.where(~alone, center), center.where(~alone, 0.0)
    return ((table["spread"] - center) / scale).fillna(-np.inf).to_numpy()


def variable_genes(survey: Survey, columns: np.ndarray, n_top_genes: int) -> np.ndarray:
    """The `n_top_genes` of `columns` that vary most, ties by mean, then by position."""
    if len(columns) <= n_top_genes:
        return columns
    order = np.lexsort((np.arange(len(columns)), -survey.mean[columns], -dispersion(survey, columns)))
    return np.sort(columns[order[:n_top_genes]])
