"""`sign`: does a regulator raise or lower a target? From the data, from signed knowledge, or 0 where neither is sure.

Known signs are those that the prior's sources state (`sign_source` TRRUST or CollecTRI). CollecTRI's default +1 is no
evidence and not used. Other pairs are judged by a logistic model of three numbers: the dependence of both genes in the
data at hand given the cells' common programmes, and how often TRRUST says that this regulator activates, and that this
target is activated. Below a stated precision it abstains. `scripts/calibrate.py` fits it to TRRUST's signed pairs.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.special import expit

from sccafm.reference.bundle import ReferenceData

SAMPLE_CELLS = 1000  # cells from which dependence is measured
COMPONENTS = 1  # principal components given which it is measured: depth and the main state
STATED = ("TRRUST", "CollecTRI")  # values of sign_source that a source stated
PRIOR_COUNT = 4  # pseudo-observations of a tendency
FEATURES = ("dependence", "regulator_tendency", "target_tendency")


def conditional_dependence(values: np.ndarray, is_tf: np.ndarray, components: int = COMPONENTS) -> np.ndarray:
    """Correlation of each regulator with each gene over cells, given the first principal components.

    Parameters
    ----------
    values
        C G log-expression.
    is_tf
        G bool.

    Returns
    -------
    T G float32 in [-1, 1]; 0 where one of the genes does not vary or there are too few cells (components + 10).
    """
    cells, genes = values.shape
    if cells < components + 10:
        return np.zeros((int(is_tf.sum()), genes), dtype=np.float32)
    centered = values - values.mean(0, dtype=np.float64)
    spread = centered.std(0)
    varies = spread > 1e-8
    standard = np.divide(centered, spread, out=np.zeros_like(centered), where=varies)
    basis = np.linalg.eigh(standard @ standard.T)[1][:, -min(components, genes) :]  # cells x components
    rest = standard - basis @ (basis.T @ standard)
    norm = np.linalg.norm(rest, axis=0)
    rest = np.divide(rest, norm, out=np.zeros_like(rest), where=norm > 1e-6 * np.sqrt(cells))
    return np.clip(rest[:, is_tf].T @ rest, -1, 1).astype(np.float32)


def stated_signs(reference_data: ReferenceData) -> pd.DataFrame:
    """Edges of the prior whose sign a source states: tokens source and target, sign, sign_source."""
    edges = reference_data.prior_tokens
    if not {"sign", "sign_source"} <= set(edges):
        return edges.assign(sign=0, sign_source="").iloc[:0][["source", "target", "sign", "sign_source"]]
    stated = edges["sign_source"].isin(STATED) & (edges["sign"] != 0)
    return edges.loc[stated, ["source", "target", "sign", "sign_source"]]


def tendencies(edges: pd.DataFrame, end: str, genes: np.ndarray) -> np.ndarray:
    """Mean sign of the signed edges of each gene at one end, drawn towards 0 by PRIOR_COUNT unsigned ones: G."""
    grouped = edges.groupby(end)["sign"]
    mean = grouped.sum() / (grouped.size() + PRIOR_COUNT)
    return mean.reindex(genes, fill_value=0.0).to_numpy(dtype=np.float64)


def infer_signs(
    values: np.ndarray, gene_ids: np.ndarray, is_tf: np.ndarray, reference_data: ReferenceData, fitted: Mapping | None
) -> np.ndarray:
    """Sign of every pair: T G int8, 0 where it abstains.

    Parameters
    ----------
    values
        C G log-expression of a sample of cells.
    gene_ids
        G tokens.
    is_tf
        G bool.
    fitted
        "intercept", "coefficients" (of FEATURES), "up" and "down": least probability of either sign. None: only stated
        signs are given.
    """
    stated = stated_signs(reference_data)
    signs = np.zeros((int(is_tf.sum()), len(gene_ids)), dtype=np.int8)
    if fitted is not None:
        known = stated[stated["sign_source"] == "TRRUST"]
        a, b, c = fitted["coefficients"]
        logit = a * conditional_dependence(values, is_tf)
        logit += fitted["intercept"] + b * tendencies(known, "source", gene_ids[is_tf])[:, None]
        probability = expit(logit + c * tendencies(known, "target", gene_ids))
        signs[probability >= fitted["up"]] = 1
        signs[1 - probability >= fitted["down"]] = -1
    tokens = pd.Index(gene_ids)
    rows, columns = tokens[is_tf].get_indexer(stated["source"]), tokens.get_indexer(stated["target"])
    both = (rows >= 0) & (columns >= 0)
    signs[rows[both], columns[both]] = stated["sign"].to_numpy()[both]
    return signs
