"""Training objectives of the structure module: tensors in, scalar out.

The published ones (ELBO, prior on the top edges, DAG, sparsity) and ours (`divergence`). Shapes are those of
:mod:`sccafm.types`.
"""

import math

import torch
from torch import Tensor

from sccafm.nn.vgae import VGAEOutput
from sccafm.types import Factors

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
    regulator_mask = is_tf & is_gene
    total = ((factors.u * regulator_mask[..., None]).sum(1) * (factors.v * is_gene[..., None]).sum(1)).sum()
    return total / (regulator_mask.sum(1) * is_gene.sum(1)).sum().clamp_min(1)


def divergence(evidence: Tensor, scores: Tensor, is_pair: Tensor, floor: float = 1e-6) -> Tensor:
    """Kullback-Leibler divergence of the scores of a row, read as a distribution, from what the evidence asks for.

    ``sum_j q_j log(q_j / p_j)`` with ``q = softmax(evidence)`` and ``p = (score + floor) / sum (score + floor)``; mean
    over rows. Over all pairs of a cell it says which edges are the cell's strongest; over the targets of a regulator it
    counts every regulator alike, so that hubs cannot win.

    Parameters
    ----------
    evidence
        ... N, log-odds.
    scores
        ... N, not negative.
    is_pair
        N, or broadcastable to the scores; others count nowhere.
    floor
        Keeps the gradient finite where a score is 0.
    """
    q = torch.log_softmax(evidence.masked_fill(~is_pair, -torch.inf), -1)
    p = torch.log_softmax((scores + floor).log().masked_fill(~is_pair, -torch.inf), -1)
    gap = torch.where(is_pair, q.exp() * (q - p), 0.0)
    return gap.sum(-1).mean()


def pair_gap(evidence: Tensor, scores: Tensor, floor: float = 1e-6) -> Tensor:
    """Mean squared gap between log scores and evidence, both without the means of their rows and columns.

    What remains belongs to the pair: no level of a regulator or of a target can lower it.

    Parameters
    ----------
    evidence
        C T G, log-odds.
    scores
        C T G, not negative.
    floor
        Keeps the logarithm finite where a score is 0.
    """
    return (without_levels(evidence) - without_levels((scores + floor).log())).square().mean()


def state_gap(evidence: Tensor, scores: Tensor, floor: float = 1e-7) -> Tensor:
    """Mean squared gap between what makes each cell differ from the mean cell of its batch, in log scores and in evidence.

    What all cells share cancels, so that only a network that follows the cell can lower it.

    Parameters
    ----------
    evidence
        C T G, log-odds.
    scores
        C T G, not negative.
    floor
        Keeps the logarithm finite where a score is 0. It has to stay far below usual scores (about 1e-5): scores below it are
        all alike, and learn nothing.
    """
    found = (scores + floor).log()
    return ((evidence - evidence.mean(0)) - (found - found.mean(0))).square().mean()


def without_levels(x: Tensor) -> Tensor:
    """Matrices less the means of their rows and of their columns: ... T G."""
    return x - x.mean(-1, keepdim=True) - x.mean(-2, keepdim=True) + x.mean((-2, -1), keepdim=True)
