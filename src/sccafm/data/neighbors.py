"""Cells read as the mean of their nearest cells, where a single cell holds too few molecules to tell its state.

Off by default: other cells then change a cell's answer, which otherwise depends on the cell alone.
"""

from dataclasses import dataclass

import numpy as np

from sccafm._io import BLOCK, blocks
from sccafm.data.matrix import Matrix

COMPONENTS = 50
FITTED_CELLS = 5000  # that the components are fitted to, at most


@dataclass(frozen=True, eq=False)
class SmoothedMatrix:
    """A matrix whose cells are means over neighbours, itself among them; otherwise as `Matrix`."""

    matrix: Matrix
    nearest: np.ndarray  # C k positions, the cell itself first

    def __getattr__(self, name: str):
        return getattr(self.matrix, name)

    def read(self, start: int, stop: int, columns: np.ndarray) -> np.ndarray:
        """log1p of the mean over each cell's neighbours of values per 10,000: C G float32."""
        rows, position = np.unique(self.nearest[start:stop], return_inverse=True)
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)  # neighbours in a row are read together
        values = np.concatenate([self.matrix.read(run[0], run[-1] + 1, columns) for run in runs])
        if self.matrix.kind == "asis":
            return values[position.reshape(stop - start, -1)].mean(1)
        linear = np.expm1(values)[position.reshape(stop - start, -1)]  # C k G
        return np.log1p(linear.mean(1)).astype(np.float32)


def smoothed(matrix: Matrix, columns: np.ndarray, k: int, seed: int = 0) -> SmoothedMatrix:
    """Find each cell's nearest cells in the leading components of the genes that are read.

    Parameters
    ----------
    matrix
        Cells x genes.
    columns
        G positions of the genes that are read.
    k
        Cells of a mean, itself among them.
    seed
        Of the choice of up to 5,000 cells that the components are fitted to.

    Raises
    ------
    ValueError
        `k` is below 2, or there are fewer cells.
    """
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors  # here: workers that smooth nothing start sooner

    n = len(matrix.obs_names)
    if not 2 <= k <= n:
        raise ValueError(f"neighbors must be 0, or from 2 to the number of cells ({n}), got {k}")
    some = np.sort(np.random.default_rng(seed).permutation(n)[:FITTED_CELLS])
    fitted = PCA(min(COMPONENTS, len(some) - 1, len(columns)), svd_solver="randomized", random_state=seed)
    fitted.fit(np.concatenate([matrix.read(c, c + 1, columns) for c in some]))
    places = np.concatenate([fitted.transform(matrix.read(a, b, columns)) for a, b in blocks(n, BLOCK)])
    found = NearestNeighbors(n_neighbors=k).fit(places).kneighbors(places, return_distance=False)
    own = np.arange(n)[:, None]  # equal cells may stand before a cell itself
    others = np.where((found == own).any(1, keepdims=True), found, np.concatenate([own, found[:, :-1]], 1))
    return SmoothedMatrix(matrix, itself_first(others, own))


def itself_first(near: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Neighbours with each cell before the others: equal cells may stand before a cell itself. C k, C 1 -> C k."""
    order = np.argsort(near != own, axis=1, kind="stable")
    return np.take_along_axis(near, order, 1)
