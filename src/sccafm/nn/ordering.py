"""The order in which the published EFM reads a cell's genes: regulators before what they regulate.

Must agree with the published checkpoints. Only regulators have rows in the score matrix, so it is kept as T G, not G G;
the result is the same.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sccafm.types import Factors, Tokens


class GeneOrder(NamedTuple):
    positions: Tensor  # C G int64: positions of the genes in regulatory order, then those of padding, ascending
    lengths: Tensor  # C int64: how many of them are genes
    cycle_breaks: Tensor  # C int64: how often no gene was left without a remaining regulator


def gene_order(scores: Tensor, regulators: Tensor, is_gene: Tensor) -> tuple[Tensor, int]:
    """Order of one cell's genes, greedily: sources first, the most regulating of them before the others.

    Among the remaining genes with nothing coming in, the one with most going out is next; if there is none, a cycle is
    broken at the gene with the largest out / in. Ties go to the lowest position. What the gene sends and receives is
    then taken away. Sums are float64.

    Parameters
    ----------
    scores
        T G; what is negative counts as 0, and so do self-edges.
    regulators
        T positions of the rows among the columns.
    is_gene
        G bool; other positions come last, ascending.

    Returns
    -------
    G positions, and the number of cycles that were broken.
    """
    weight = scores.double().clamp_min(0) * is_gene[regulators, None] * is_gene  # T G
    weight[torch.arange(len(regulators)), regulators] = 0
    row = torch.full_like(is_gene, -1, dtype=torch.long)
    row[regulators] = torch.arange(len(regulators))
    incoming, outgoing = weight.sum(0), torch.zeros_like(weight.sum(0))
    outgoing[regulators] = weight.sum(1)
    remaining, order, breaks = is_gene.clone(), [], 0
    while remaining[regulators].any():
        candidates, key = remaining & (incoming <= 0), outgoing
        if not candidates.any():
            candidates, key, breaks = remaining, outgoing / (incoming + 1e-12), breaks + 1
        chosen = int(key.masked_fill(~candidates, -torch.inf).argmax())  # the first of equals
        order.append(chosen)
        remaining[chosen] = False
        if row[chosen] >= 0:
            incoming = (incoming - weight[row[chosen]]).clamp_min(0)
        outgoing[regulators] = (outgoing[regulators] - weight[:, chosen]).clamp_min(0)
    # Nothing regulates any more. What rounding left over of a sum is a cycle to the published algorithm.
    rest, stuck = remaining & (incoming <= 0), remaining & (incoming > 0)
    tail = [where.nonzero()[:, 0] for where in (rest, stuck, ~is_gene)]
    return torch.cat([torch.tensor(order, dtype=torch.long), *tail]), breaks + int(stuck.sum())


@torch.no_grad()
def regulatory_order(factors: Factors, tokens: Tokens) -> GeneOrder:
    """Order of every cell's genes by its own scores; see `gene_order`. Computed on the CPU."""
    u, v, is_gene = factors.u.float().cpu(), factors.v.float().cpu(), tokens.is_gene.cpu()
    regulator_mask = tokens.is_tf.cpu() & is_gene
    found = []
    for cell in range(len(tokens)):
        regulators = regulator_mask[cell].nonzero()[:, 0]
        found.append(gene_order(u[cell, regulators] @ v[cell].T, regulators, is_gene[cell]))
    positions = torch.stack([order for order, _ in found])
    breaks = torch.tensor([count for _, count in found])
    device = tokens.gene_ids.device
    return GeneOrder(positions.to(device), is_gene.sum(1).to(device), breaks.to(device))


def reordered(tokens: Tokens, order: GeneOrder) -> Tokens:
    """The same cells with their genes in another order; conditions stay as they are."""
    names = ("gene_ids", "expression", "is_tf", "is_padding")
    genes = {name: getattr(tokens, name) for name in names if getattr(tokens, name) is not None}
    return replace(tokens, **{name: tensor.gather(1, order.positions) for name, tensor in genes.items()})
