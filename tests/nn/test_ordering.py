"""The regulatory order of genes against a slow plain version on the full G x G matrix."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import random_sfm, random_tokens

from sccafm.nn.ordering import gene_order, regulatory_order, reordered


def plain_order(scores, is_gene):
    """G x G, one gene at a time, as the method is described."""
    graph = np.maximum(np.array(scores, dtype=np.float64), 0)
    np.fill_diagonal(graph, 0)
    active = [g for g in range(len(graph)) if is_gene[g]]
    incoming = {g: sum(graph[i, g] for i in active) for g in active}
    outgoing = {g: sum(graph[g, j] for j in active) for g in active}
    order, breaks, left = [], 0, list(active)
    while left:
        sources = [g for g in left if incoming[g] <= 0]
        if sources:
            best = max(sources, key=lambda g: (outgoing[g], -g))
        else:
            best = max(left, key=lambda g: (outgoing[g] / (incoming[g] + 1e-12), -g))
            breaks += 1
        order.append(best)
        left.remove(best)
        for g in left:
            incoming[g] = max(incoming[g] - graph[best, g], 0)
            outgoing[g] = max(outgoing[g] - graph[g, best], 0)
    return order + [g for g in range(len(graph)) if not is_gene[g]], breaks


graphs = st.integers(1, 8).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.integers(-1, 3), min_size=n, max_size=n), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
    )
)


@settings(max_examples=200, deadline=None)
@given(graphs)
def test_the_order_equals_the_slow_plain_one(graph):
    scores, regulator_mask, is_gene = (np.array(part) for part in graph)
    scores = np.where(regulator_mask[:, None], scores, 0)
    regulators = torch.from_numpy(np.flatnonzero(regulator_mask & is_gene))
    found, breaks = gene_order(torch.from_numpy(scores).float()[regulators], regulators, torch.from_numpy(is_gene))
    assert (found.tolist(), breaks) == plain_order(scores, is_gene)


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_each_cell_is_ordered_by_its_own_scores(padded):
    tokens = random_tokens(padded=padded)
    factors = random_sfm()(tokens)
    order = regulatory_order(factors, tokens)
    for cell, scores in enumerate(factors.scores()):
        expected, breaks = plain_order(scores, tokens.is_gene[cell])
        assert order.positions[cell].tolist() == expected
        assert order.cycle_breaks[cell] == breaks
    assert torch.equal(order.lengths, tokens.is_gene.sum(1))


@torch.no_grad()
def test_regulators_stand_before_their_targets_in_a_graph_without_cycles():
    chain = torch.zeros(4, 4)
    chain[2, 0] = chain[0, 3] = chain[3, 1] = 0.5
    positions, breaks = gene_order(chain, torch.arange(4), torch.ones(4, dtype=torch.bool))
    assert (positions.tolist(), breaks) == ([2, 0, 3, 1], 0)


def test_reordering_moves_genes_with_all_that_belongs_to_them():
    tokens = random_tokens(padded=True)
    order = regulatory_order(random_sfm()(tokens), tokens)
    moved = reordered(tokens, order)
    for cell in range(len(tokens)):
        for name in ("gene_ids", "expression", "is_tf", "is_padding"):
            before, after = getattr(tokens, name)[cell], getattr(moved, name)[cell]
            assert after.tolist() == [before[p].item() for p in order.positions[cell]]
    assert torch.equal(moved.conditions, tokens.conditions)
    plain = dataclasses.replace(tokens, is_padding=None)
    assert reordered(plain, order).is_padding is None
