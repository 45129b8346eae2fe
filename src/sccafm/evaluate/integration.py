"""How well an embedding keeps biology and mixes batches: scIB's measures (Luecken et al., Nature Methods 2022).

Arrays in, numbers out. Most are in [0, 1]; larger is always better. Measures that are means over cells give one value
per cell, so that cells can be drawn again for an interval. Letters in comments: C cells, D width, W draws.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse.csgraph import connected_components
from scipy.stats import spearmanr

from sccafm.evaluate.metrics import bootstrap_counts

N_NEIGHBORS = 15  # scIB's
SCIB_NEIGHBORS = 90  # scIB's for LISI, at most: small data have fewer cells
SCIB_INSTALL = "pip install scib-metrics"


@dataclass(frozen=True, eq=False)
class CellScores:
    """A measure that is a weighted mean over cells, with what its bootstrap needs."""

    value: float
    draws: np.ndarray  # W, the same measure on cells drawn with replacement


def silhouette_label(x: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> CellScores:
    """Mean silhouette width of the labels, scaled from [-1, 1] to [0, 1] as scIB does: (s + 1) / 2.

    Parameters
    ----------
    x
        C D embedding.
    labels
        C labels, two at least.
    counts
        W C times that each cell is drawn. Widths are not computed again: neighbours keep their places.
    """
    from sklearn.metrics import silhouette_samples

    width = (silhouette_samples(x, labels) + 1) / 2
    return CellScores(float(width.mean()), counts @ width / counts.sum(axis=1))


def silhouette_batch(x: np.ndarray, labels: np.ndarray, batches: np.ndarray, counts: np.ndarray) -> CellScores:
    """1 - |silhouette width of the batches| within each label, a mean over labels of means over cells (scIB).

    1 is a label whose batches are mixed. Labels of one batch, or with as many batches as cells, do not count; NaN if none
    is left. Parameters as in `silhouette_label`.
    """
    from sklearn.metrics import silhouette_samples

    values, draws = [], []
    for label in np.unique(labels):
        cells = np.flatnonzero(labels == label)
        if not 1 < len(np.unique(batches[cells])) < len(cells):
            continue
        width = 1 - np.abs(silhouette_samples(x[cells], batches[cells]))
        values.append(width.mean())
        drawn = counts[:, cells]
        total = drawn.sum(axis=1)
        draws.append(np.divide(drawn @ width, total, out=np.full(len(counts), np.nan), where=total > 0))
    if not values:
        return CellScores(np.nan, np.full(len(counts), np.nan))
    return CellScores(float(np.mean(values)), pd.DataFrame(draws).mean().to_numpy())  # a label nobody drew is left out


def graph_connectivity(x: np.ndarray, labels: np.ndarray, n_neighbors: int = N_NEIGHBORS) -> float:
    """Share of a label's cells in its largest connected piece of the neighbour graph, a mean over labels (scIB).

    The graph joins each cell with its `n_neighbors` nearest others, whichever of the two names the other. (scib-metrics
    counts strongly connected pieces of the directed graph, which is never more.)
    """
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(x, min(n_neighbors, len(x) - 1))
    shares = []
    for label in np.unique(labels):
        cells = np.flatnonzero(labels == label)
        _, piece = connected_components(graph[cells][:, cells], directed=False)
        shares.append(np.bincount(piece).max() / len(cells))
    return float(np.mean(shares))


def isolated_labels(labels: np.ndarray, batches: np.ndarray) -> list:
    """Labels that occur in the fewest batches (scIB): all of them where every label is in every batch."""
    n_batches = pd.DataFrame({"label": labels, "batch": batches}).drop_duplicates()["label"].value_counts()
    return sorted(n_batches.index[n_batches == n_batches.min()])


def isolated_label_f1(x: np.ndarray, labels: np.ndarray, isolated: list, n_neighbors: int = N_NEIGHBORS) -> float:
    """Best F1 of any cluster for an isolated label, a mean over the isolated labels.

    scIB takes the best Louvain cluster over a range of resolutions. Here the clusters are all nodes of one Ward tree
    along the neighbour graph (scikit-learn), which needs no resolution and no seed.
    """
    from sklearn.cluster import ward_tree
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(x, min(n_neighbors, len(x) - 1), include_self=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the number of connected components")  # pieces are joined at the end
        children = ward_tree(x, connectivity=graph + graph.T)[0]
    targets = np.stack([labels == label for label in isolated], axis=1)
    inside = np.vstack([targets, np.zeros((len(children), len(isolated)))])  # nodes x isolated labels
    size = np.concatenate([np.ones(len(x)), np.zeros(len(children))])
    for node, (left, right) in enumerate(children, start=len(x)):
        inside[node], size[node] = inside[left] + inside[right], size[left] + size[right]
    f1 = 2 * inside / (size[:, None] + targets.sum(axis=0))
    return float(f1.max(axis=0).mean())


def transfer_labels(
    x: np.ndarray, labels: np.ndarray, folds: np.ndarray, n_neighbors: int = N_NEIGHBORS
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of each fold's cells by vote of their nearest neighbours in the other folds.

    Returns
    -------
    predicted
        C labels.
    is_known
        C booleans, False for a cell whose label no other fold holds: nothing could name it.
    """
    from sklearn.neighbors import KNeighborsClassifier

    predicted, is_known = np.empty_like(labels), np.zeros(len(labels), dtype=bool)
    for fold in np.unique(folds):
        here = folds == fold
        voters = KNeighborsClassifier(min(n_neighbors, int((~here).sum()))).fit(x[~here], labels[~here])
        predicted[here] = voters.predict(x[here])
        is_known[here] = np.isin(labels[here], labels[~here])
    return predicted, is_known


def transfer_scores(
    labels: np.ndarray, predicted: np.ndarray, is_known: np.ndarray, counts: np.ndarray
) -> dict[str, CellScores]:
    """Accuracy and macro-F1 of transferred labels over the cells that could be named; F1 over their true labels."""
    labels, predicted, counts = labels[is_known], predicted[is_known], counts[:, is_known]
    is_right = (labels == predicted).astype(float)
    names = np.unique(labels)
    is_label, is_named = labels[:, None] == names, predicted[:, None] == names  # C x labels

    def macro_f1(weights: np.ndarray) -> np.ndarray:
        both, either = weights @ (is_label & is_named), weights @ is_label + weights @ is_named.astype(float)
        f1 = np.divide(2 * both, either, out=np.full(both.shape, np.nan), where=weights @ is_label > 0)
        return pd.DataFrame(f1).mean(axis=1).to_numpy()

    whole = np.ones((1, len(labels)))
    return {
        "transfer_accuracy": CellScores(float(is_right.mean()), counts @ is_right / counts.sum(axis=1)),
        "transfer_f1": CellScores(float(macro_f1(whole)[0]), macro_f1(counts)),
    }


def pseudotime_correlation(
    x: np.ndarray, pseudotime: np.ndarray, folds: np.ndarray, counts: np.ndarray, n_neighbors: int = N_NEIGHBORS
) -> CellScores:
    """Spearman correlation of a pseudotime with its mean over the nearest neighbours in the other folds, in [-1, 1]."""
    from sklearn.neighbors import KNeighborsRegressor

    predicted = np.empty(len(pseudotime))
    for fold in np.unique(folds):
        here = folds == fold
        neighbours = KNeighborsRegressor(min(n_neighbors, int((~here).sum()))).fit(x[~here], pseudotime[~here])
        predicted[here] = neighbours.predict(x[here])

    def correlation(cells: np.ndarray) -> float:
        constant = np.ptp(predicted[cells]) == 0 or np.ptp(pseudotime[cells]) == 0
        return 0.0 if constant else float(spearmanr(predicted[cells], pseudotime[cells]).statistic)

    every = np.arange(len(pseudotime))
    return CellScores(correlation(every), np.array([correlation(np.repeat(every, row)) for row in counts]))


def cell_draws(strata: np.ndarray, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """W C times that each cell is drawn, with replacement within each stratum."""
    counts = np.zeros((n_bootstrap, len(strata)), dtype=np.int64)
    for stratum in np.unique(strata):
        cells = np.flatnonzero(strata == stratum)
        counts[:, cells] = bootstrap_counts(len(cells), n_bootstrap, rng)
    return counts


def scib_measures(x: np.ndarray, labels: np.ndarray, batches: np.ndarray | None) -> dict[str, float]:
    """Further measures of scIB, by scib-metrics: cLISI, NMI and ARI of k-means; with batches iLISI.

    Its kBET is left out: it takes minutes. ImportError without scib-metrics.
    """
    from sklearn.neighbors import NearestNeighbors

    try:
        import scib_metrics  # pyright: ignore[reportMissingImports] (an extra)
        from scib_metrics.nearest_neighbors import NeighborsResults  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"scIB's further measures need scib-metrics: `{SCIB_INSTALL}`") from error

    label, n = pd.factorize(labels)[0], min(SCIB_NEIGHBORS, len(x) - 1)
    distances, indices = NearestNeighbors(n_neighbors=n).fit(x).kneighbors(x)
    neighbours = NeighborsResults(indices=indices, distances=distances)
    clusters = scib_metrics.nmi_ari_cluster_labels_kmeans(x, label)
    found = {"clisi": scib_metrics.clisi_knn(neighbours, label), "nmi": clusters["nmi"], "ari": clusters["ari"]}
    if batches is not None:
        found["ilisi"] = scib_metrics.ilisi_knn(neighbours, pd.factorize(batches)[0])
    return {measure: float(value) for measure, value in found.items()}
