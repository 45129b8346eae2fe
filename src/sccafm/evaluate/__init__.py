"""Judge networks, per-cell networks and perturbation effects beside the baselines that they must beat."""

from sccafm.evaluate.baselines import (
    genie3,
    grnboost2,
    oracle_out_degree,
    pearson,
    prior_degrees,
    prior_edges,
    random_scores,
    spearman,
    target_mean,
)
from sccafm.evaluate.cell_baselines import end_expression, expression_product, group_pearson, lioness
from sccafm.evaluate.metrics import auroc, average_precision, early_precision
from sccafm.evaluate.network import ChipSeq, Report, chipseq_protocol, network
from sccafm.evaluate.per_cell import PerCellReport, per_cell
from sccafm.evaluate.perturbation import PerturbationReport, PerturbSeq, perturbation, perturbseq_protocol
from sccafm.evaluate.truth import Truth, read_beeline, read_chip_atlas, read_collectri, read_edges
from sccafm.simulation.truth import CellTruth

__all__ = [
    "CellTruth",
    "ChipSeq",
    "PerCellReport",
    "PerturbSeq",
    "PerturbationReport",
    "Report",
    "Truth",
    "auroc",
    "average_precision",
    "chipseq_protocol",
    "early_precision",
    "end_expression",
    "expression_product",
    "genie3",
    "grnboost2",
    "group_pearson",
    "lioness",
    "network",
    "oracle_out_degree",
    "pearson",
    "per_cell",
    "perturbation",
    "perturbseq_protocol",
    "prior_degrees",
    "prior_edges",
    "random_scores",
    "read_beeline",
    "read_chip_atlas",
    "read_collectri",
    "read_edges",
    "spearman",
    "target_mean",
]
