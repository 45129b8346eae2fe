"""Training objectives: tensors in, scalar out.

The published ones (ELBO, prior on the top edges, DAG, sparsity; the EFM's next gene) and ours (`edge_contrast`,
`context_contrast`). Shapes are those of :mod:`sccafm.batch`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sccafm.batch import Factors, Tokens
from sccafm.nn.efm import NextGene
from sccafm.nn.vgae import VGAEOutput

LOG_2PI = math.log(2 * math.pi)


def elbo(expression: Tensor, output: VGAEOutput, is_gene: Tensor, min_scale: float = 1e-5) -> Tensor:
    """Negative evidence lower bound: summed over the genes of a cell, averaged over cells.

    A zero is explained by dropout or by the normal, ``log(p + (1 - p) N(0) + 1e-8)``; any other value by
    ``log(1 - p + 1e-8) + log N(x)``. The Kullback-Leibler term is against a standard normal.

    Parameters
    ----------
    expression
        C G values.
    output
        What the VGAE says of them.
    is_gene
        C G bool; padding counts nothing.
    min_scale
        Least scale of the normal. The published 1e-5 lets a narrow peak at zero win without bound, and one value beside
        it overflow the gradient.
    """
    scale = output.likelihood.scale.clamp_min(min_scale)
    dropout = output.likelihood.dropout.clamp(1e-5, 1 - 1e-5)
    standard = (expression - output.likelihood.mean) / scale
    log_normal = -0.5 * (standard.square() + LOG_2PI) - scale.log()
    zero = (dropout + (1 - dropout) * log_normal.exp() + 1e-8).log()
    other = (1 - dropout + 1e-8).log() + log_normal
    log_likelihood = torch.where(expression == 0, zero, other)
    mean, variance = output.posterior.mean, output.posterior.scale.square()
    divergence = 0.5 * (mean.square() + variance - 1 - variance.log())
    per_gene = torch.where(is_gene, divergence - log_likelihood, 0.0)  # C G
    return per_gene.sum(1).mean()


def prior_loss(
    scores: Tensor, in_prior: Tensor, is_pair: Tensor, topk: int, pos_weight: float, neg_weight: float
) -> Tensor:
    """The published prior loss: are a cell's highest-scoring edges in the prior network?

    Per cell the `topk` best regulator -> gene pairs are labelled 1 where the prior holds them; weighted binary
    cross-entropy of their scores, divided by the sum of the weights. An edge outside the top feels no gradient.

    Parameters
    ----------
    scores
        C G G in [0, 1], regulators in rows.
    in_prior
        C G G bool, or broadcastable to it.
    is_pair
        C G G bool: a regulator and a gene, neither of them padding. Self pairs count.
    """
    # A cell with fewer pairs than topk contributes what it has.
    ranked = scores.masked_fill(~is_pair, -1.0).flatten(1)
    chosen = ranked.topk(min(topk, ranked.shape[1]), 1)
    valid = chosen.values >= 0
    labels = in_prior.expand_as(scores).flatten(1).gather(1, chosen.indices)
    eps = max(1e-8, torch.finfo(torch.float32).eps)
    probability = chosen.values.clamp(0, 1) * (1 - 2 * eps) + eps
    weight = torch.where(labels, pos_weight, neg_weight) * valid
    entropy = -torch.where(labels, probability.log(), (-probability).log1p())
    return (weight * entropy).sum() / weight.sum().clamp_min(torch.finfo(torch.float32).tiny)


def dag_penalty(factors: Factors) -> Tensor:
    """How far the factor graph is from acyclic, ``tr((I + A/M)^M) - M`` with ``A = v^T u``; mean over cells.

    The polynomial form of NOTEARS (Yu et al. 2019, DAG-GNN) on the M x M graph that the genes' graph shares its
    non-zero eigenvalues with.
    """
    size = factors.u.shape[-1]
    graph = factors.v.transpose(1, 2) @ factors.u  # C M M
    step = torch.eye(size, device=graph.device, dtype=graph.dtype) + graph / size
    power = torch.linalg.matrix_power(step, size)
    return (power.diagonal(dim1=1, dim2=2).sum(1) - size).mean()


def sparsity(factors: Factors, is_tf: Tensor, is_gene: Tensor) -> Tensor:
    """Mean score over all regulator -> gene pairs of the batch, without forming them: ``(sum u) . (sum v)``."""
    acts = is_tf & is_gene
    total = ((factors.u * acts[..., None]).sum(1) * (factors.v * is_gene[..., None]).sum(1)).sum()
    return total / (acts.sum(1) * is_gene.sum(1)).sum().clamp_min(1)


def edge_contrast(
    scores: Tensor, active: Tensor, is_pair: Tensor, safety: Tensor, sharpness: float, floor: float = 1e-4
) -> Tensor:
    """Known edges that are active in a cell against all other pairs of the same regulator, and of the same target.

    With ``l = sharpness * log(score + floor)`` each active edge is pulled above the log-sum of the negatives in its row
    (regulator kept, so out-degree cannot win) and in its column (target kept, so in-degree cannot win)::

        loss = sum_ij a_ij [softplus(R_i - l_ij - log s_j) + softplus(C_j - l_ij)] / (2 sum_ij a_ij)
        R_i = log sum_j (1 - a_ij) s_j exp(l_ij)        C_j = log sum_i (1 - a_ij) exp(l_ij)

    An edge of the prior whose ends are silent in the cell has a small ``a`` and so stands among the negatives: the
    loss asks for the network of this cell, not for the prior. Absence from the prior is weak evidence where the target
    is expressed, hence ``s``.

    Parameters
    ----------
    scores
        C T G in [0, 1].
    active
        C T G in [0, 1): how far the prior holds the edge, times how active its ends are in the cell.
    is_pair
        T G bool; self pairs are False and count nowhere.
    safety
        C G, positive: how safely a pair that the prior does not hold is taken for a negative.
    """
    logits = sharpness * (scores + floor).log()
    negative = (logits + (-active).log1p()).masked_fill(~is_pair, -torch.inf)
    rows = torch.logsumexp(negative + safety.log()[:, None], 2, keepdim=True)  # C T 1
    columns = torch.logsumexp(negative, 1, keepdim=True)  # C 1 G
    weight = active * is_pair
    # softplus(-inf) is 0: an edge without negatives is above all of them.
    pull = F.softplus(rows - logits - safety.log()[:, None]) + F.softplus(columns - logits)
    return (weight * pull).sum() / (2 * weight.sum()).clamp_min(torch.finfo(weight.dtype).tiny)


def context_contrast(context: Tensor) -> Tensor:
    """How little the contexts of some cells differ: minus their Jensen-Shannon divergence, 0 to -log C.

    ``loss = mean_c sum_m c_m log(h_m / c_m)`` with h the mean of the contexts c: minus the mutual information of cell and
    factor. The cells are of one data set, so that tissue and technology tell them apart as little as possible. A running
    mean in place of h is beaten by moving all cells together.

    Parameters
    ----------
    context
        C M, rows sum to 1.
    """
    floor = 1e-8  # keeps the gradient finite where a share is 0
    usual = context.mean(0)
    return (context * ((usual + floor).log() - (context + floor).log())).sum(1).mean()


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
