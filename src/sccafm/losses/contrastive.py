"""Cause-aware contrastive objectives of the EFM: tensors in, scalar out; and what tells a collapsed space from a full one.

Letters beyond those of :mod:`sccafm.types`: N anchors, K negatives of each, E width of a head. Each function is tested
against a slow plain version.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def cell_contrast(
    one: Tensor, other: Tensor, temperature: float, hard: Tensor | None = None, is_negative: Tensor | None = None
) -> Tensor:
    """InfoNCE over two views of the same cells, both ways; mean over cells.

    ``-log exp(a_c.b_c / t) / (exp(a_c.b_c / t) + sum_d exp(a_c.b_d / t) + sum_h exp(a_c.h_ch / t))`` over the cells d that
    are negatives of c, with all vectors brought to length 1; and the same from `other` to `one`, without hard negatives.

    Parameters
    ----------
    one, other
        C E, two views.
    temperature
        t, above 0.
    hard
        C H E, vectors that must not be taken for the cell of `one`: what it would be with a cause taken away.
    is_negative
        C C bool, which cells are told apart from which; absent: each from all others. The diagonal says nothing.
    """
    one, other = F.normalize(one, dim=-1), F.normalize(other, dim=-1)
    logits = one @ other.T / temperature  # C C
    same = torch.eye(len(one), dtype=torch.bool, device=one.device)
    if is_negative is not None:
        logits = logits.masked_fill(~(is_negative | same), -torch.inf)
    forth = logits
    if hard is not None:
        against = torch.einsum("ce,che->ch", one, F.normalize(hard, dim=-1)) / temperature
        forth = torch.cat((logits, against), 1)
    target = torch.arange(len(one), device=one.device)
    return 0.5 * (F.cross_entropy(forth, target) + F.cross_entropy(logits.T, target))


def edge_confidence(scores: Tensor, least: float = 0.9) -> Tensor:
    """How sure an edge is beside what its regulator and its target score anyway: 0 for most, up to 1 for the surest.

    ``max(0, (rank - least) / (1 - least))`` of the log scores after the means of rows and columns are taken away; rank
    is the share of pairs that score less. Hubs and widely expressed targets win nothing by being that.

    Parameters
    ----------
    scores
        T G, not negative.
    least
        Share of the pairs that are not sure at all.
    """
    log = (scores + 1e-6).log()
    excess = log - log.mean(1, keepdim=True) - log.mean(0, keepdim=True) + log.mean()
    rank = excess.flatten().argsort(stable=True).argsort(stable=True).view_as(excess) / excess.numel()
    return ((rank - least) / (1 - least)).clamp_min(0)


def matched_negatives(expression: Tensor, confidence: Tensor, anchors: Tensor, k: int) -> Tensor:
    """Genes as much like each anchor as can be that its regulators do not regulate: N K positions.

    Of the genes on which the anchor's regulators have less confidence than on half of all genes, those with the least
    ``|mean_n - mean_j| / sd - r_jn``: near in mean expression (sd: of the means over genes), and co-expressed (r: Pearson
    over the cells). The anchor itself is never taken.

    Parameters
    ----------
    expression
        C G.
    confidence
        T G.
    anchors
        N positions of genes.
    k
        How many of each.
    """
    mean = expression.mean(0)
    centered = expression - mean
    unit = centered / centered.norm(dim=0).clamp_min(1e-6)
    likeness = unit[:, anchors].T @ unit  # N G
    distance = (mean[anchors, None] - mean).abs() / mean.std(correction=0).clamp_min(1e-6)
    regulated = confidence[:, anchors].T @ confidence  # N G
    is_free = regulated <= regulated.median(1, keepdim=True).values
    cost = (distance - likeness).masked_fill(~is_free, torch.inf)
    cost.scatter_(1, anchors[:, None], torch.inf)
    return cost.topk(min(k, cost.shape[1] - 1), 1, largest=False).indices


def gene_contrast(
    source: Tensor,
    target: Tensor,
    confidence: Tensor,
    regulator_index: Tensor,
    anchors: Tensor,
    negatives: Tensor,
    temperature: float,
) -> Tensor:
    """Is a target nearer to the message of its regulators than matched genes are, and than it is as their source?

    For anchor j, with regulators i: message ``m_j = sum_i c_ij s_i``, reversed message ``r_j = sum_i c_ij t_i``, both and
    all vectors brought to length 1::

        -log exp(m_j.t_j / t) / (exp(m_j.t_j / t) + sum_n exp(m_j.t_n / t) + exp(r_j.s_j / t))

    mean over anchors, weighted by ``sum_i c_ij``. The last term keeps the direction: a target is no source of its
    regulators.

    Parameters
    ----------
    source, target
        G E: every gene as a source, and as a target.
    confidence
        T G, not negative.
    regulator_index
        T positions of the regulators among the genes.
    anchors, negatives
        N, N K positions.
    temperature
        t, above 0.
    """
    source, target = F.normalize(source, dim=-1), F.normalize(target, dim=-1)
    sure = confidence[:, anchors].T  # N T
    sure = sure * (regulator_index != anchors[:, None])
    weight = sure.sum(1)
    message = F.normalize(sure @ source[regulator_index], dim=-1)
    reversed_message = F.normalize(sure @ target[regulator_index], dim=-1)
    pulled = (message * target[anchors]).sum(-1, keepdim=True)
    matched = torch.einsum("ne,nke->nk", message, target[negatives])
    reverse = (reversed_message * source[anchors]).sum(-1, keepdim=True)
    logits = torch.cat((pulled, matched, reverse), 1) / temperature
    loss = torch.logsumexp(logits, 1) - logits[:, 0]
    return (weight * loss).sum() / weight.sum().clamp_min(1e-6)


def reconstruction(predicted: Tensor, expression: Tensor, is_hidden: Tensor) -> Tensor:
    """Mean squared error of the hidden values, with expressed and silent genes counting half each.

    Most values of a cell are 0; without the balance a model that always says 0 does well.

    Parameters
    ----------
    predicted, expression
        C G.
    is_hidden
        C G bool.
    """
    square = (predicted - expression).square()
    parts = [is_hidden & (expression > 0), is_hidden & (expression == 0)]
    one, other = (0.5 * (square * part).sum() / part.sum().clamp_min(1) for part in parts)
    return one + other


def effective_rank(x: Tensor) -> Tensor:
    """In how many directions the rows spread: exp of the entropy of the covariance's spectrum (Roy and Vetterli 2007).

    1 for a space that collapsed to a line, up to the width for one that is equally wide everywhere. x is C E.
    """
    spectrum = torch.linalg.svdvals((x - x.mean(0)).float()).square()
    share = spectrum / spectrum.sum().clamp_min(1e-12)
    return torch.exp(-torch.special.xlogy(share, share).sum())


def uniformity(x: Tensor) -> Tensor:
    """``log mean exp(-2 |a - b|^2)`` over pairs of different rows of length 1 (Wang and Isola 2020): 0 where all are equal."""
    if len(x) < 2:  # of one cell nothing can be said
        return x.new_zeros(())
    x = F.normalize(x, dim=-1)
    squared = torch.pdist(x).square()
    return (-2 * squared).exp().mean().log()


def alignment(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared distance of two views of a cell, brought to length 1 (Wang and Isola 2020): 0 where they are equal."""
    return (F.normalize(one, dim=-1) - F.normalize(other, dim=-1)).square().sum(-1).mean()
