"""How unusual a cell is beside the cells that the model was trained on."""

import numpy as np

from sccafm.confidence.calibration import Calibration


def typicality(values: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Correlation of each cell's log-expression with the usual level of its genes: C G, G -> C; 0 for a flat cell."""
    a = values - values.mean(1, keepdims=True)
    b = usual - usual.mean()
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b)
    dot = np.array([row @ b for row in a])  # row by row: a product of all rows rounds by their number
    return np.divide(dot, norm, out=np.zeros(len(a)), where=norm > 1e-12)


def distance(summary: np.ndarray, centers: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Mahalanobis distance to the nearest data set's center (Lee et al. 2018): C D, K D, D D -> C."""
    root = np.linalg.cholesky(precision.astype(np.float64))  # |x L| is the distance
    centers = centers.astype(np.float64) @ root
    found = [np.square(row @ root - centers).sum(1).min() for row in summary.astype(np.float64)]  # row by row, as above
    return np.sqrt(np.array(found))


def out_of_distribution(
    summary: np.ndarray, values: np.ndarray, gene_ids: np.ndarray, species: str, calibration: Calibration
) -> np.ndarray:
    """How unusual each cell is: the share of cells in held-out tissues that are less unusual, C float32 in [0, 1].

    The larger of two views: the summary is far from all data sets of the corpus, or expression does not follow the
    genes' usual levels, as in a shuffled matrix or one with wrong names.
    """
    tensors, ood = calibration.tensors, calibration.ood
    usual = tensors[f"usual_{species}"][gene_ids].astype(np.float64)
    far = distance(summary, tensors["centers"], tensors["precision"])
    strange = -typicality(values.astype(np.float64), usual)
    worse = np.maximum(empirical_quantile(far, ood["distance"]), empirical_quantile(strange, ood["strangeness"]))
    return empirical_quantile(worse, ood["larger"]).astype(np.float32)


def empirical_quantile(x: np.ndarray, knots: list[float]) -> np.ndarray:
    """Quantile of `x` among held-out cells, whose evenly spaced quantiles are `knots`.

    Beyond the last knot it approaches 1 and does not reach it, so that what lies further out still scores higher.
    """
    step = 0.5 / len(knots)
    inside = np.interp(x, knots, np.linspace(step, 1 - step, len(knots)))
    beyond = np.maximum(x - knots[-1], 0) / max(knots[-1] - knots[len(knots) // 2], 1e-12)
    return np.where(beyond > 0, 1 - step * np.exp(-beyond), inside)
