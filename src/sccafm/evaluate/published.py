"""The published protocols of scCAFM, number for number: pooled, without baselines or a null.

They stand here for comparison with printed figures; `network` and `perturbation` are what a network is judged by.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import wasserstein_distance

from sccafm.evaluate._network import find_candidates
from sccafm.evaluate._perturbation import find_labels, find_perturbed, first_places
from sccafm.evaluate.baselines import dense_columns, raw_expression
from sccafm.evaluate.metrics import average_precision, early_precision
from sccafm.evaluate.truth import Truth, aligned, gene_keys, gene_lookup, respell, score_matrix


@dataclass(frozen=True, eq=False)
class ChipSeq:
    """Result of the published ChIP-seq protocol."""

    auprc: float
    early_precision: float
    n_candidates: int
    n_positive_edges: int
    positive_rate: float
    supported_tfs: tuple[str, ...]  # regulators of the network with a true edge, upper case, in its order
    reference: Truth


def chipseq_protocol(scores_or_grn, reference) -> ChipSeq:
    """AUPRC and early precision against a ChIP-seq reference, as scCAFM published them (pooled, without baselines).

    Candidates are the regulators of the network that have at least one reference edge, times all its targets, without
    self-edges. AUPRC is average precision; early precision is that of the first k candidates, k = number of true
    ones, where candidates tied at the cut-off count with the fraction of places left.

    Raises
    ------
    KeyError
        Unknown columns.
    ValueError
        No reference edge within the network, one class only, or NaN scores.
    """
    matrix = score_matrix(scores_or_grn)
    candidates = find_candidates(matrix, reference)
    is_scored = candidates.regulators.isin(respell(matrix.index, candidates.lookup))
    mask = candidates.is_candidate & is_scored[:, None]
    labels = candidates.is_true[mask]
    scores = aligned(matrix, candidates.regulators, candidates.genes, candidates.lookup)[mask]
    in_order = dict.fromkeys(gene_keys(matrix.index))
    supported = set(gene_keys(candidates.regulators[is_scored]))
    return ChipSeq(
        auprc=average_precision(labels, scores),
        early_precision=early_precision(labels, scores),
        n_candidates=labels.size,
        n_positive_edges=int(labels.sum()),
        positive_rate=float(labels.mean()),
        supported_tfs=tuple(tf for tf in in_order if tf in supported),
        reference=candidates.truth,
    )


@dataclass(frozen=True, eq=False)
class PerturbSeq:
    """Result of the published Perturb-seq protocol."""

    table: pd.DataFrame  # rank, Gene1, Gene2, score, n_control, n_perturbed, wasserstein_distance
    top_k_edges: int
    n_candidates: int
    n_evaluated_edges: int
    n_control_cells: int
    n_perturbed_cells: int
    n_perturbed_tfs: int
    mean_wasserstein_distance: float
    median_wasserstein_distance: float


def perturbseq_protocol(
    scores_or_grn,
    adata: AnnData,
    *,
    perturbation_key: str = "perturbation",
    control: str = "non-targeting",
    top_k_edges: int = 100,
    layer: str | None = None,
) -> PerturbSeq:
    """Wasserstein distance of the first edges of perturbed regulators, as scCAFM published it (without a null).

    Candidates are the regulators of the network that are a label of `obs[perturbation_key]` (any case), times the
    targets of the network that `adata` measures, without self-edges. The `top_k_edges` highest scores over all of them,
    ties in the order of the matrix, are evaluated: the distance between the target's values, as they stand in X or the
    layer, in all control cells and in the regulator's perturbed cells. Cells of other perturbations are not looked at.

    Raises
    ------
    KeyError
        An obs column, the control label or the layer is absent.
    ValueError
        No perturbed regulator is in the network, or none of its targets is measured.
    """
    matrix, lookup = score_matrix(scores_or_grn), gene_lookup(adata)
    labels, is_control = find_labels(adata, perturbation_key, control, 1)
    everywhere = np.ones(adata.n_obs, dtype=bool)
    cells, _ = find_perturbed(labels, is_control, everywhere, respell(matrix.index, lookup), lookup, 1)
    source, target = respell(matrix.index, lookup), respell(matrix.columns, lookup)
    is_candidate = (
        source.isin(list(cells))[:, None]
        & target.isin(adata.var_names)
        & (source.to_numpy()[:, None] != target.to_numpy())
    )
    row, column = np.nonzero(is_candidate)
    if not len(row):
        raise ValueError(
            f"no target of the network ({', '.join(map(str, target[:3]))}, ...) is a gene of adata "
            f"({', '.join(adata.var_names[:3])}, ...); add ids that match: `adata.var['gene_ids'] = ...`"
        )
    score = matrix.to_numpy()[row, column]
    first = np.argsort(-score, kind="stable")[:top_k_edges]
    x, place = raw_expression(adata, layer), first_places(adata.var_names, target)
    edges = []
    for rank, edge in enumerate(first, start=1):
        values = dense_columns(x, [place[column[edge]]]).ravel()
        is_perturbed = cells[source[row[edge]]]
        edges.append({
            "rank": rank, "Gene1": matrix.index[row[edge]], "Gene2": matrix.columns[column[edge]], "score": score[edge],
            "n_control": int(is_control.sum()), "n_perturbed": int(is_perturbed.sum()),
            "wasserstein_distance": wasserstein_distance(values[is_control], values[is_perturbed]),
        })  # fmt: skip
    table = pd.DataFrame(edges)
    return PerturbSeq(
        table=table,
        top_k_edges=top_k_edges,
        n_candidates=len(row),
        n_evaluated_edges=len(table),
        n_control_cells=int(is_control.sum()),
        n_perturbed_cells=int(np.sum(list(cells.values()))),
        n_perturbed_tfs=len(cells),
        mean_wasserstein_distance=float(table["wasserstein_distance"].mean()),
        median_wasserstein_distance=float(table["wasserstein_distance"].median()),
    )
