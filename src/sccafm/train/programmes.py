"""Programmes: states of cells over the whole corpus, one for each factor, which the contexts learn to name.

Cells of all files are clustered by how far their genes stand above the usual level of their species, in the space of the
corpus's leading expression profiles. A cell's target is a soft assignment to the clusters, from the average of cells like it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans

from sccafm.train.files import DataSet, per_ten_thousand

CELLS_PER_DATASET = 400
SHARPNESS = 24.0  # of the softmax over cosines: a few of 256 programmes share a cell


@dataclass(frozen=True, eq=False)
class Programmes:
    """Clusters of cell states."""

    components: np.ndarray  # V P, orthonormal columns
    usual: dict[str, np.ndarray]  # species -> P, the usual levels in that space
    centers: np.ndarray  # M P, unit rows

    def assign(self, dataset: DataSet, cells: np.ndarray) -> np.ndarray:
        """Share of each programme in each cell: C M float32, rows sum to 1."""
        cosine = states(dataset, cells, self.components, self.usual) @ self.centers.T
        weight = np.exp(SHARPNESS * (cosine - cosine.max(1, keepdims=True)))
        return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def fit_programmes(
    datasets: Iterable[DataSet], profiles: np.ndarray, usual: dict[str, np.ndarray], size: int, seed: int
) -> Programmes:
    """Cluster cells of all data sets.

    Parameters
    ----------
    datasets
        Each counts by the square root of its cells, up to `CELLS_PER_DATASET` of them.
    profiles
        V P, where genes are expressed (`gene_profiles`).
    usual
        Species -> V, the usual level of each gene.
    size
        How many programmes, M.

    Raises
    ------
    ValueError
        Fewer cells than programmes.
    """
    components = np.linalg.qr(profiles.astype(np.float64))[0].astype(np.float32)
    usual = {species: level.astype(np.float32) @ components for species, level in usual.items()}
    rng = np.random.default_rng(seed)
    found = []
    for dataset in datasets:
        n = min(int(8 * len(dataset.train) ** 0.5), CELLS_PER_DATASET, len(dataset.train))
        found.append(states(dataset, rng.choice(dataset.train, n, replace=False), components, usual))
    sample = np.concatenate(found)
    if len(sample) < size:
        raise ValueError(
            f"{len(sample)} cells are too few for {size} programmes, one for each factor; lower sfm.num_factors, or do without: "
            "--weights.context 0"
        )
    centers = KMeans(size, n_init=3, random_state=seed).fit(sample).cluster_centers_
    return Programmes(components, usual, unit(centers).astype(np.float32))


def states(dataset: DataSet, cells: np.ndarray, components: np.ndarray, usual: dict[str, np.ndarray]) -> np.ndarray:
    """Unit vectors of some cells, each averaged over its neighbours: C P."""
    rows = dataset.neighbors[cells]  # C k
    level = per_ten_thousand(dataset.counts[rows.ravel()])[:, dataset.columns].log1p()
    mean = (level @ components[dataset.tokens]).reshape(*rows.shape, -1).mean(1)
    return unit(mean - usual[dataset.species])


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
