"""Judge networks and perturbation effects beside the baselines that they must beat."""

from .baselines import (
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
from .metrics import auroc, average_precision, early_precision
from .network import Report, network
from .truth import Truth, read_beeline, read_chip_atlas, read_collectri, read_edges

__all__ = [
    "Report",
    "Truth",
    "auroc",
    "average_precision",
    "early_precision",
    "genie3",
    "grnboost2",
    "network",
    "oracle_out_degree",
    "pearson",
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
