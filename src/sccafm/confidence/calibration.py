"""What was fitted to a model's outputs after training: confidence of edges, signs, and how unusual a cell is.

`scripts/calibrate.py` fits it and writes calibration.json and calibration.safetensors beside the weights; it belongs to
these weights alone. A release without it gives no confidence (NaN), stated signs alone, and no `ood`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from safetensors.numpy import load_file
from scipy.special import expit, logit
from scipy.stats import rankdata

from sccafm._text import warn

FEATURES = ("log_quantile", "minus_log_rest", "pair_log_odds", "target_expression")
CONFIDENCE_STEPS = 250  # stored confidences are rounded to this many steps: a column then packs to a byte an edge


@dataclass(frozen=True, eq=False)
class Calibration:
    """Fitted maps, as calibration.json and calibration.safetensors hold them."""

    weights_hash: str  # of the weights that it was fitted to
    confidence: Mapping  # "cell", "group": intercept, coefficients of FEATURES; "base_rate"
    signs: Mapping  # see `signs.infer_signs`
    ood: Mapping  # quantile knots of both distances and of their larger quantile, in held-out tissues
    tensors: Mapping[str, np.ndarray]  # centers, precision of summaries; usual_human, usual_mouse by token


def read_calibration(files: Mapping[str, Path], weights_hash: str) -> Calibration | None:
    """Calibration of a release; None where it has none, or one of other weights, which is said."""
    if not {"calibration", "calibration_tensors"} <= set(files):
        return None
    content = json.loads(files["calibration"].read_text())
    if content["weights_hash"] != weights_hash:
        warn(
            f"{files['calibration']} was fitted to other weights ({content['weights_hash'][:12]}, these are "
            f"{weights_hash[:12]}) and is not used; fit it again: python scripts/calibrate.py"
        )
        return None
    parts = {name: content[name] for name in ("weights_hash", "confidence", "signs", "ood")}
    return Calibration(**parts, tensors=load_file(files["calibration_tensors"]))


# --- confidence


def row_quantiles(scores: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Place of chosen pairs among all scores of their regulator, in (0, 1): share at or below, less half a step.

    Scores depend on how many genes are read and on the regulator; the quantile does not.

    Parameters
    ----------
    scores
        T G.
    edge
        Flat positions.
    """
    genes = scores.shape[1]
    rows, columns = np.divmod(edge, genes)
    if len(edge) * 10 > scores.size:  # then sorting whole rows is cheaper than comparing with them
        return (rankdata(scores, "max", axis=1)[rows, columns] - 0.5) / genes
    found = np.empty(len(edge))
    for start in range(0, len(edge), 256):
        part = slice(start, start + 256)
        here = scores[rows[part]]
        found[part] = np.count_nonzero(here <= here[np.arange(len(here)), columns[part], None], axis=1)
    return (found - 0.5) / genes


def expression_rank(expression: np.ndarray) -> np.ndarray:
    """Place of each gene's expression among the genes of a cell or group, ties in the middle: G in (0, 1)."""
    return (rankdata(expression) - 0.5) / len(expression)


def features(quantile: np.ndarray, chance: np.ndarray, level: np.ndarray) -> np.ndarray:
    """What confidence is read from, in the order of FEATURES: N, N, N -> N 4."""
    return np.stack([np.log(quantile), -np.log1p(-quantile), logit(chance.astype(np.float64)), level - 0.5], -1)


def confidence_of(quantile: np.ndarray, chance: np.ndarray, level: np.ndarray, fitted: Mapping | None) -> np.ndarray:
    """Probability that edges are real, float32 in steps of 1 / CONFIDENCE_STEPS; NaN without a fit.

    Beta calibration (Kull et al. 2017) of the quantile of the score among its regulator's, with two further terms:
    `chance` (the mean of the pair's probabilities of binding and response), and how highly the target is expressed.
    """
    if fitted is None:
        return np.full(len(quantile), np.nan, dtype=np.float32)
    probability = expit(fitted["intercept"] + features(quantile, chance, level) @ np.array(fitted["coefficients"]))
    return (np.round(probability * CONFIDENCE_STEPS) / CONFIDENCE_STEPS).astype(np.float32)


def at_base_rate(confidence, fitted: float, wanted: float):
    """Confidence where a share `wanted` of all candidates is real, and not the share that the fit assumes.

    What counts as real differs between experiments more than anything else about them: in the ChIP-seq truths of
    BEELINE alone from 1 in 12 to more than half of the candidates. The evidence of an edge stays what it is, only the
    odds before it change.

    Parameters
    ----------
    confidence
        Array of any shape, Series or DataFrame (`GRN.confidence`), in [0, 1]; NaN stays NaN.
    fitted
        Share that the confidence assumes, above 0 and below 1: ``grn.params["calibration"]["base_rate"]``.
    wanted
        Share to assume instead.

    Returns
    -------
    The same form and labels, float64 in (0, 1).
    """
    values = confidence if isinstance(confidence, pd.Series | pd.DataFrame) else np.asarray(confidence)
    inner = values.astype(np.float64).clip(1e-6, 1 - 1e-6)
    return expit(logit(inner) + logit(wanted) - logit(fitted))


def calibration_error(
    probability: np.ndarray, is_true: np.ndarray, n_bins: int = 15, bins: Literal["full", "wide"] = "full"
) -> float:
    """Expected calibration error: mean of |share that is true - mean probability| over bins, weighted by their size.

    Parameters
    ----------
    probability, is_true
        N in [0, 1], N bool.
    n_bins
        How many; empty ones count nothing.
    bins
        "full": equally full ones, for probabilities that crowd in a part of the range, as those of edges do. "wide":
        equally wide ones (Guo et al. 2017), as the errors of classifiers are usually given.
    """
    parts = full_bins(probability, n_bins) if bins == "full" else wide_bins(probability, n_bins)
    gaps = [len(part) * abs(is_true[part].mean() - probability[part].mean()) for part in parts if len(part)]
    return float(sum(gaps) / len(probability))


def full_bins(probability: np.ndarray, n_bins: int) -> list[np.ndarray]:
    """Positions in rising order, parted equally. Equals are parted at random (seeded), not in the order they came in."""
    mixed = np.random.default_rng(0).permutation(len(probability))
    return np.array_split(mixed[np.argsort(probability[mixed], kind="stable")], n_bins)


def wide_bins(probability: np.ndarray, n_bins: int) -> list[np.ndarray]:
    """Positions by the part of the range that a probability lies in; 1 lies in the last."""
    found = np.minimum((probability * n_bins).astype(int), n_bins - 1)
    return [np.flatnonzero(found == b) for b in range(n_bins)]


# --- out of distribution
