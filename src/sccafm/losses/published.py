"""Published objectives that this library does not train with; the tests hold them to the published numbers."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sccafm.nn.efm import NextGene
from sccafm.types import Tokens


class NextGeneTargets(NamedTuple):
    """What the EFM is to say at each position: C L."""

    gene_ids: Tensor  # int64
    expression: Tensor  # float32
    is_valid: Tensor  # bool


def next_gene_targets(tokens: Tokens, eos: int) -> NextGeneTargets:
    """Targets of cells whose genes stand in regulatory order, padding last (`nn.ordering`).

    Position 0 (the cell token) names the first gene, and the position of the last gene the end of the sequence, `eos`,
    with expression 0. Positions after it ask for nothing.
    """
    lengths = tokens.is_gene.sum(1, keepdim=True)  # C 1
    position = torch.arange(tokens.gene_ids.shape[1] + 1, device=lengths.device)  # L
    is_gene = position < lengths
    gene_ids = F.pad(tokens.gene_ids, (0, 1)).masked_fill(~is_gene, eos)
    expression = F.pad(tokens.expression, (0, 1)).masked_fill(~is_gene, 0.0)
    return NextGeneTargets(gene_ids, expression, position <= lengths)


def next_gene_loss(predicted: NextGene, targets: NextGeneTargets, lambda_exp: float) -> tuple[Tensor, Tensor, Tensor]:
    """The published EFM objective, over all valid positions of the batch.

    Returns
    -------
    Total, mean cross-entropy of the gene, and mean squared error of its expression: total = first + lambda_exp * second.
    """
    valid = targets.is_valid
    identity = F.cross_entropy(predicted.id_logits[valid], targets.gene_ids[valid])
    expression = F.mse_loss(predicted.expression[valid], targets.expression[valid])
    return identity + lambda_exp * expression, identity, expression


def published_weights(
    epoch: int,
    epochs: int,
    step: int,
    warmup_steps: int,
    *,
    prior: tuple[float, float],
    dag: float,
    sparsity: float,
) -> dict[str, float]:
    """Weights of the published objective at a point of training.

    The prior's goes from the first to the second of `prior` along half a cosine over the epochs; with one epoch it
    stays at the first. DAG and sparsity are off for the first `warmup_steps` optimiser steps.
    """
    first, last = prior
    rise = 0.5 * (1 + math.cos(math.pi * min(epoch / epochs, 1)))
    is_warm = float(step >= warmup_steps)
    return {"elbo": 1.0, "prior": last + (first - last) * rise, "dag": dag * is_warm, "sparsity": sparsity * is_warm}
