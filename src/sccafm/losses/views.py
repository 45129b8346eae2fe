"""Other looks at the same cells: molecules lost, genes left out, values hidden, a cause taken away.

Views know nothing of the EFM; they work on `Tokens` and `Factors` alone, so that training and `embed(adapt=)` share them.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sccafm.types import Factors, Tokens


def thinned(tokens: Tokens, share: Tensor) -> Tokens:
    """Keep each molecule of a cell with a probability, and bring what is left to the same depth.

    Counts are read back from the values: the smallest one of a cell is taken for one molecule, which is true of counts
    per 10,000 where any gene was counted once, and nearly so elsewhere.

    Parameters
    ----------
    share
        C, of the molecules to keep.
    """
    linear = tokens.expression.expm1()
    one = linear.masked_fill(linear <= 0, torch.inf).amin(1, keepdim=True)
    one = torch.where(one.isfinite(), one, 1.0)  # C 1, what a molecule is worth
    counts = (linear / one).round().clamp(0, 1e6)
    kept = torch.binomial(counts, share[:, None].expand_as(counts).contiguous())
    return replace(tokens, expression=(kept * one / share[:, None]).log1p())


def hidden_genes(tokens: Tokens, share: float) -> Tensor:
    """Genes whose values are to be hidden, at random: C G bool."""
    return (torch.rand(tokens.expression.shape, device=tokens.expression.device) < share) & tokens.is_gene


class Activity(NamedTuple):
    """How much of a cell's regulation each gene sends and receives: C G, sums over the partner genes' expression."""

    sent: Tensor
    received: Tensor


def activity(tokens: Tokens, factors: Factors) -> Activity:
    """``sent_i = x_i sum_j S_ij x_j`` and ``received_j = x_j sum_i S_ij x_i``, linear in genes.

    x is log expression: an edge counts where both its ends are expressed.
    """
    x = tokens.expression[..., None]
    return Activity(
        (factors.u * (factors.v * x).sum(1, keepdim=True)).sum(-1) * tokens.expression,
        (factors.v * (factors.u * x).sum(1, keepdim=True)).sum(-1) * tokens.expression,
    )


def kept_genes(tokens: Tokens, factors: Factors | None, n: int, causal_share: float) -> Tensor:
    """Which `n` genes of each cell a view shows: C n positions, ascending.

    The genes that send or receive most of the cell's regulation stay (a share of n, half of them as regulators and half
    as targets); the others are drawn at random, as all are without factors.
    """
    keep = torch.rand(tokens.expression.shape, device=tokens.expression.device)  # C G in [0, 1)
    if factors is not None and causal_share > 0:
        sent, received = activity(tokens, factors)
        for flow in (sent, received):
            best = flow.topk(min(int(0.5 * causal_share * n), flow.shape[1]), 1)
            keep.scatter_add_(1, best.indices, (best.values > 0).to(keep.dtype))  # 1 more: ahead of all that is drawn
    if tokens.is_padding is not None:
        keep = keep.masked_fill(tokens.is_padding, -1.0)
    return keep.topk(min(n, keep.shape[1]), 1).indices.sort(1).values


def taken(tokens: Tokens, factors: Factors | None, positions: Tensor) -> tuple[Tokens, Factors | None]:
    """Cells with some of their genes: positions are C n."""
    names = ("gene_ids", "expression", "is_tf", "is_padding")
    genes = {name: getattr(tokens, name) for name in names if getattr(tokens, name) is not None}
    shown = replace(tokens, **{name: tensor.gather(1, positions) for name, tensor in genes.items()})
    if factors is None:
        return shown, None
    rows = positions[..., None].expand(-1, -1, factors.u.shape[-1])
    return shown, replace(factors, u=factors.u.gather(1, rows), v=factors.v.gather(1, rows))


def knocked_out(tokens: Tokens, factors: Factors, regulators: Tensor, steps: int = 2) -> Tokens:
    """The cell without some regulators, and what that does along its graph.

    A gene loses the share of its regulation that came from what was lost, of regulators that lost a part themselves
    that part of it::

        loss_j = sum_i S_ij x_i loss_i / sum_i S_ij x_i        x_j <- x_j (1 - loss_j)

    with loss 1 for what was knocked out, repeated `steps` times from there. Linear in genes.

    Parameters
    ----------
    regulators
        C R positions.
    """
    x = tokens.expression
    out = torch.zeros_like(x).scatter(1, regulators, 1.0)
    total = (factors.v * (factors.u * x[..., None]).sum(1, keepdim=True)).sum(-1)  # C G
    loss = out
    for _ in range(steps):
        gone = (factors.v * (factors.u * (x * loss)[..., None]).sum(1, keepdim=True)).sum(-1)
        loss = torch.maximum(out, gone / total.clamp_min(1e-9))
    return replace(tokens, expression=x * (1 - loss.clamp(0, 1)))


def active_regulators(tokens: Tokens, factors: Factors, n: int, among: int) -> Tensor:
    """`n` regulators of each cell, drawn from the `among` that send most: C n positions."""
    sent = activity(tokens, factors).sent
    best = sent.topk(min(among, sent.shape[1]), 1).indices  # C among
    drawn = torch.rand(best.shape, device=best.device).topk(min(n, best.shape[1]), 1).indices
    return best.gather(1, drawn)
