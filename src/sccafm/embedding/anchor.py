"""Anchored vectors: a data set's own principal components, joined with the embedding module's reading of each cell.

For a cell with log-expression x (G variable genes) and module vector z (D), and means over all cells:

    d = unit((x - mean) / s ** GENE_POWER)            s: standard deviation of each gene within batches
    e = unit((V' d - mean) / l ** POWER)              V, l: leading principal axes of d, and the standard deviation along each
    f = unit(W' (z - mean) / k ** MODEL_POWER)        W, k: those of z, the leading MODEL_COMPONENTS
    anchored = (e, MODEL_WEIGHT f) / sqrt(1 + MODEL_WEIGHT ** 2)

`unit` divides by the Euclidean length, so that distances between anchored vectors are those of directions: how deep a cell was
sequenced changes the length of its deviation more than the direction. Where there are several batches, the anchored vectors are
corrected for what sets them apart within a state (`sccafm.embedding.batches`). To depart from each batch's own mean instead is
wrong where batches hold other shares of the states, and carries labels less well. Axes of z along which these cells hardly differ are
left out: to neighbours they mean nothing, and a head that is fitted to few cells, and weighs all axes alike, drowns in them. The constants
were chosen on the selection panel (benchmarks/embedding_panel.py). Letters: C cells, G genes, K components, M of them of z, D width of z,
B batches.
"""

import hashlib
from dataclasses import dataclass, fields
from functools import reduce
from operator import add

import numpy as np

from sccafm._io import BLOCK, blocks
from sccafm.data.input import ModelInput
from sccafm.data.matrix import variable_genes
from sccafm.embedding.batches import Clusters, correct, unit

GENES, COMPONENTS = 2000, 50
GENE_POWER, POWER = 0.5, 0.1
MODEL_COMPONENTS, MODEL_WEIGHT, MODEL_POWER = 16, 0.5, 0.5
POOL = 10_000  # cells that the principal axes are fitted on, at most; more are drawn from
LEAST_CELLS = 3


@dataclass(frozen=True, eq=False)
class Anchor:
    """What places cells into an anchored space: float64 but for genes' tokens (int64) and `read_is_tf` (bool)."""

    read_ids: np.ndarray  # R tokens of the genes that the embedding module reads
    read_is_tf: np.ndarray  # R, which of them act as regulators
    gene_ids: np.ndarray  # G tokens of the genes whose expression is looked at
    mean: np.ndarray  # G, log-expression over all cells
    scale: np.ndarray  # G, what a deviation is divided by
    loadings: np.ndarray  # G K, divided by l ** POWER
    center: np.ndarray  # K, mean of the projected deviations
    model_mean: np.ndarray  # D
    model_loadings: np.ndarray  # D M, divided by k ** MODEL_POWER
    cluster_directions: np.ndarray  # of `Clusters`; no rows where there was a single batch
    cluster_means: np.ndarray

    @property
    def space(self) -> str:
        """sha256 over all arrays: anchored vectors can be compared where it is the same."""
        sha = hashlib.sha256()
        for array in self.arrays().values():
            sha.update(array.tobytes())
        return sha.hexdigest()

    def arrays(self) -> dict[str, np.ndarray]:
        return {item.name: np.ascontiguousarray(getattr(self, item.name)) for item in fields(self)}

    def place(self, model_input: ModelInput, z: np.ndarray, own_mean: bool) -> np.ndarray:
        """Other cells in this space.

        Parameters
        ----------
        model_input
            The cells' expression. Genes of the space that they lack are taken to be at their mean.
        z
            C D vectors of the same embedding module, read from the genes of the space's cells.
        own_mean
            Cells depart from their own mean, not from that of the space's cells; in a space of several batches they are then
            corrected as one batch more.

        Returns
        -------
        C (K + M) float32.
        """
        columns, here = self._columns(model_input)
        values = Values(model_input, columns, self.scale[here])
        mean = values.mean() if own_mean else self.mean[here]
        e = values.project(mean, self.loadings[here])
        z = z.astype(np.float64)
        placed = join(
            e - (e.mean(0) if own_mean else self.center),
            (z - (z.mean(0) if own_mean else self.model_mean)) @ self.model_loadings,
        )
        if own_mean and len(self.cluster_means):
            placed = Clusters(self.cluster_directions, self.cluster_means).corrected(placed)
        return placed.astype(np.float32)

    def _columns(self, model_input: ModelInput) -> tuple[np.ndarray, np.ndarray]:
        """Columns of the matrix that hold genes of the space, and which genes these are."""
        column = dict(zip(model_input.gene_ids.tolist(), model_input.columns.tolist(), strict=True))
        here = np.array([token in column for token in self.gene_ids.tolist()])
        return np.array([column[token] for token in self.gene_ids[here].tolist()], dtype=int), here


def fit_anchor(
    model_input: ModelInput, z: np.ndarray, batches: np.ndarray | None = None, seed: int = 0, corrects: bool = True
) -> tuple[Anchor, np.ndarray]:
    """Fit a space to cells, in three passes over their values.

    Parameters
    ----------
    model_input
        The cells' expression, in memory or backed: it is read block by block.
    z
        C D vectors of the embedding module.
    batches
        Batch of each cell.
    seed
        Of the draw of cells that axes and clusters are fitted on, where there are more than `POOL`; of the clusters.
    corrects
        Take away what sets batches apart. False leaves that to another method.

    Returns
    -------
    The space, and the cells in it: C (K + M) float32.

    Raises
    ------
    ValueError
        No gene varies within a batch.
    """
    n = len(z)
    codes = np.zeros(n, int) if batches is None else np.unique(batches, return_inverse=True)[1]
    columns = variable_genes(model_input.survey, model_input.columns, GENES)
    values = Values(model_input, columns)
    mean, deviation = values.moments(codes)
    varies = deviation > 0
    if not varies.any():
        raise ValueError(
            f"none of {len(columns):,} genes varies within a batch; leave batch_key= out, or pass anchor=False"
        )
    scale = deviation[varies] ** GENE_POWER
    values, mean = Values(model_input, columns[varies], scale), mean[varies]
    pool = np.arange(n) if n <= POOL else np.sort(np.random.default_rng(seed).choice(n, POOL, replace=False))
    drawn = values.deviations(mean, pool)
    loadings = axes(drawn - drawn.mean(0, dtype=np.float64), COMPONENTS, POWER)
    e, z = values.project(mean, loadings), z.astype(np.float64)
    centred = z - z.mean(0)
    model_loadings = axes(centred[pool], MODEL_COMPONENTS, MODEL_POWER)
    cells = join(e - e.mean(0), centred @ model_loadings)
    none = np.zeros((0, cells.shape[1]))
    clusters = Clusters(none, none)
    if batches is not None and corrects:
        cells, clusters = correct(cells, codes, pool, seed)
    token = dict(zip(model_input.columns.tolist(), model_input.gene_ids.tolist(), strict=True))
    anchor = Anchor(
        read_ids=model_input.gene_ids.astype(np.int64), read_is_tf=model_input.is_tf.astype(bool),
        gene_ids=np.array([token[column] for column in values.columns.tolist()], dtype=np.int64),
        mean=mean, scale=scale, loadings=loadings, center=e.mean(0), model_mean=z.mean(0), model_loadings=model_loadings,
        cluster_directions=clusters.directions, cluster_means=clusters.means,
    )  # fmt: skip
    return anchor, cells.astype(np.float32)


def check_anchor(model_input: ModelInput) -> None:
    """ValueError for cells that no space can be fitted to."""
    n = model_input.survey.n_cells
    if n < LEAST_CELLS:
        raise ValueError(
            f"an anchored space is fitted to {LEAST_CELLS} cells at least, got {n}: pass anchor=False for the embedding module's "
            "own vectors, or place the cells beside others: Embedding.place(adata)"
        )
    if not (model_input.survey.variance[model_input.columns] > 0).any():
        raise ValueError(
            f"none of {len(model_input.columns):,} genes varies between the cells, and there are no components to anchor to; pass "
            'anchor=False, or other values with layer="..."'
        )


def join(e: np.ndarray, f: np.ndarray) -> np.ndarray:
    joined = np.concatenate([unit(e), MODEL_WEIGHT * unit(f)], axis=1)
    return joined / np.sqrt(1 + MODEL_WEIGHT**2)


def axes(x: np.ndarray, most: int, power: float) -> np.ndarray:
    """Principal axes of centred rows, each divided by a power of the standard deviation along it: W K, K at most `most`.

    Axes along which nothing varies are left out. Each points to where its largest entry is positive.
    """
    few = len(x) < x.shape[1]
    x = x.astype(np.float64)
    values, vectors = np.linalg.eigh(x @ x.T if few else x.T @ x)
    values, vectors = values[::-1][:most], vectors[:, ::-1][:, :most]
    kept = values > 1e-9 * max(values[0], 1e-300)
    values, vectors = values[kept], vectors[:, kept]
    if few:
        vectors = x.T @ vectors / np.sqrt(values)
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    return vectors / np.sqrt(values / len(x)) ** power


@dataclass(frozen=True)
class Values:
    """Some genes of a matrix, read block by block."""

    model_input: ModelInput
    columns: np.ndarray  # G positions in the matrix
    scale: np.ndarray | None = None  # G

    def blocks(self):
        for start, stop in blocks(len(self.model_input.matrix.obs_names), BLOCK):
            yield start, stop, self.model_input.matrix.read(start, stop, self.columns).astype(np.float64)

    def mean(self) -> np.ndarray:
        return reduce(add, (x.sum(0) for _, _, x in self.blocks())) / len(self.model_input.matrix.obs_names)

    @property
    def _scale(self) -> np.ndarray | float:
        return 1.0 if self.scale is None else self.scale

    def moments(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean of all cells and standard deviation within batches, both G."""
        counts = np.bincount(codes)
        sums, squares = np.zeros((len(counts), len(self.columns))), np.zeros(len(self.columns))
        for start, stop, x in self.blocks():
            for code in np.unique(codes[start:stop]):
                sums[code] += x[codes[start:stop] == code].sum(0)
            squares += (x**2).sum(0)
        within = np.maximum(squares - (sums**2 / counts[:, None]).sum(0), 0) / len(codes)
        # What rounding leaves of a constant gene is no deviation.
        return sums.sum(0) / len(codes), np.sqrt(np.where(within > 1e-10, within, 0))

    def deviations(self, mean: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Of some cells, ascending: float32, rows of length 1."""
        parts = []
        for start, stop, x in self.blocks():
            wanted = cells[(cells >= start) & (cells < stop)]
            parts.append(unit((x[wanted - start] - mean) / self._scale).astype(np.float32))
        return np.concatenate(parts)

    def project(self, mean: np.ndarray, loadings: np.ndarray) -> np.ndarray:
        """Deviations of all cells on the axes: C K."""
        return np.concatenate([unit((x - mean) / self._scale) @ loadings for _, _, x in self.blocks()])
