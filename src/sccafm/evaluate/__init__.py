"""Judge networks, per-cell networks, perturbation effects and embeddings beside the baselines that they must beat."""

from sccafm.evaluate._embedding import EmbeddingReport, embedding
from sccafm.evaluate._genes import GeneReport, genes, start_vectors
from sccafm.evaluate._network import network
from sccafm.evaluate._per_cell import PerCellReport, per_cell
from sccafm.evaluate._perturbation import PerturbationReport, perturbation
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
from sccafm.evaluate.gene_sets import GeneSets, read_gene_sets
from sccafm.evaluate.kinds import by_kind, kinds_markdown
from sccafm.evaluate.metrics import auroc, average_precision, early_precision
from sccafm.evaluate.published import ChipSeq, PerturbSeq, chipseq_protocol, perturbseq_protocol
from sccafm.evaluate.report import Report
from sccafm.evaluate.representations import hvg_pca, log_expression, random_embedding, scvi_embedding
from sccafm.evaluate.swap import SwapTest, swap_test
from sccafm.evaluate.truth import Truth, read_beeline, read_chip_atlas, read_collectri, read_edges
from sccafm.simulation.truth import CellTruth

__all__ = [
    "CellTruth",
    "ChipSeq",
    "EmbeddingReport",
    "GeneReport",
    "GeneSets",
    "PerCellReport",
    "PerturbSeq",
    "PerturbationReport",
    "Report",
    "SwapTest",
    "Truth",
    "auroc",
    "average_precision",
    "by_kind",
    "chipseq_protocol",
    "early_precision",
    "embedding",
    "end_expression",
    "expression_product",
    "genes",
    "genie3",
    "grnboost2",
    "group_pearson",
    "hvg_pca",
    "kinds_markdown",
    "lioness",
    "log_expression",
    "network",
    "oracle_out_degree",
    "pearson",
    "per_cell",
    "perturbation",
    "perturbseq_protocol",
    "prior_degrees",
    "prior_edges",
    "random_embedding",
    "random_scores",
    "read_beeline",
    "read_chip_atlas",
    "read_collectri",
    "read_edges",
    "read_gene_sets",
    "scvi_embedding",
    "spearman",
    "start_vectors",
    "swap_test",
    "target_mean",
]
