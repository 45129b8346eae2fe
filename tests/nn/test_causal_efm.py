"""The causal embedding module against loops over genes on the dense graph, and what must not change its answer."""

import dataclasses

import pytest
import torch
from making import random_causal_efm, random_sfm, random_tokens
from torch.nn import functional as F

from sccafm.nn.causal_efm import LEAST, exchanged, graph_of, mean_message
from sccafm.types import Factors

EPS = torch.finfo(torch.float32).eps


def some_cells(padded=False):
    tokens = random_tokens(padded=padded)
    with torch.no_grad():
        return tokens, random_sfm()(tokens)


def plain_norm(x, weight=None):
    x = x / (x.square().mean() + EPS).sqrt()
    return x if weight is None else x * weight


def plain_message(scores, features, weight, j):
    """What gene j hears, gene by gene."""
    total, said = 0.0, torch.zeros_like(features[0])
    for i in range(len(features)):
        total = total + scores[i, j] * weight[i]
        said = said + scores[i, j] * weight[i] * features[i]
    return said / (total + LEAST)


def plain_sequential(layers, x):
    return layers[2].weight @ F.silu(layers[0].weight @ x + layers[0].bias) + layers[2].bias


def plain_level(efm, tokens, c, g):
    human, mouse = efm.usual_level[:, tokens.gene_ids[c, g]]
    species = int(tokens.conditions[c, 1])
    return human if species == 1 else mouse if species == 2 else (human + mouse) / 2


def plain_efm(efm, tokens, factors, c, is_hidden=None):
    """One cell, one gene at a time, on the graph as a matrix."""
    genes = [g for g in range(tokens.gene_ids.shape[1]) if tokens.is_gene[c, g]]
    scores = factors.scores()[c][genes][:, genes]
    x, above, vectors, rows = [], [], [], []
    for g in genes:
        is_blind = is_hidden is not None and bool(is_hidden[c, g])
        value = torch.tensor(0.0) if is_blind else tokens.expression[c, g]
        over = torch.tensor(0.0) if is_blind else tokens.expression[c, g] - plain_level(efm, tokens, c, g)
        vector = efm.gene_proj.weight @ efm.gene_vectors[tokens.gene_ids[c, g]] + efm.gene_proj.bias
        vector = vector + efm.gene_shift.weight[tokens.gene_ids[c, g]]
        features = torch.stack((value, over, (value > 0).float(), torch.tensor(float(is_blind))))
        scale, shift = plain_sequential(efm.value_encoder, features).chunk(2)
        rows.append(vector + efm.tf_type.weight[0 if tokens.is_tf[c, g] else 1] + vector * scale + shift)
        x, above, vectors = [*x, value], [*above, over], [*vectors, vector]
    for layer in efm.layers:
        normed = [plain_norm(row, layer.norm.weight) for row in rows]
        new = []
        for j in range(len(genes)):
            heard, told = plain_message(scores, normed, x, j), plain_message(scores.T, normed, x, j)
            new.append(rows[j] + plain_sequential(layer.update, torch.cat((normed[j], heard, told))))
        rows = new
    rows = [plain_norm(row, efm.final_norm.weight) for row in rows]
    pooled = []
    for head in range(efm.config.pool_heads):
        look = [
            efm.pool.look.weight[head] @ r + efm.pool.look.bias[head] + efm.pool.slope[head] * v
            for r, v in zip(rows, x, strict=True)
        ]
        share = torch.softmax(torch.stack(look), 0)
        pooled.append(sum(s * r for s, r in zip(share, rows, strict=True)))
    length = torch.stack(above).norm() + LEAST
    departure = sum(a * v for a, v in zip(above, vectors, strict=True)) / length
    cell = efm.pool.mix.weight @ torch.cat(pooled) + efm.pool.mix.bias + efm.pool.direct.weight @ departure
    return plain_norm(cell), torch.stack(rows), genes


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("hides", [False, True])
@torch.no_grad()
def test_every_number_equals_the_loop_on_the_dense_graph(padded, hides):
    efm, (tokens, factors) = random_causal_efm(), some_cells(padded)
    is_hidden = torch.rand(3, 9, generator=torch.Generator().manual_seed(5)) < 0.4 if hides else None
    found = efm(tokens, factors, is_hidden)
    for c in range(3):
        cell, rows, genes = plain_efm(efm, tokens, factors, c, is_hidden)
        torch.testing.assert_close(found.cells[c], cell, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(found.genes[c, genes], rows, atol=2e-5, rtol=1e-4)
        assert (found.genes[c, len(genes) :] == 0).all()


@torch.no_grad()
def test_messages_are_linear_in_genes_and_equal_the_dense_product():
    tokens, factors = some_cells(padded=True)
    features = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(1))
    scores = factors.scores()
    weighted = scores * tokens.expression[:, :, None]
    expected = weighted.transpose(1, 2) @ features / (weighted.sum(1)[..., None] + LEAST)
    torch.testing.assert_close(mean_message(factors.u, factors.v, features, tokens.expression), expected)
    assert expected.abs().max() > 0.1


@torch.no_grad()
def test_a_hidden_value_changes_nothing():
    efm, (tokens, factors) = random_causal_efm(), some_cells()
    is_hidden = torch.zeros(3, 9, dtype=torch.bool)
    is_hidden[:, 4] = True
    other = tokens.expression.clone()
    other[:, 4] += 2.0
    changed = dataclasses.replace(tokens, expression=other)
    for one, two in zip(efm(tokens, factors, is_hidden), efm(changed, factors, is_hidden), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(efm(tokens, factors).cells, efm(changed, factors).cells)


@pytest.mark.parametrize("graph", ["sfm", "shuffled", "none"])
@torch.no_grad()
def test_neither_order_of_genes_nor_other_cells_matter(graph):
    efm, (tokens, factors) = random_causal_efm(graph=graph), some_cells()
    expected = efm(tokens, factors)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    names = ("gene_ids", "expression", "is_tf")
    turned = dataclasses.replace(tokens, **{name: getattr(tokens, name)[:, order] for name in names})
    found = efm(turned, Factors(factors.u[:, order], factors.v[:, order], factors.summary))
    torch.testing.assert_close(found.cells, expected.cells, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.genes, expected.genes[:, order], atol=1e-5, rtol=1e-4)
    alone = efm(tokens[1:2], factors[1:2])
    torch.testing.assert_close(alone.cells, expected.cells[1:2], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_species_share_a_space_up_to_the_usual_levels():
    efm, (tokens, factors) = random_causal_efm(), some_cells()
    human, mouse, unknown = (torch.zeros_like(tokens.conditions) + s for s in (1, 2, 0))
    of = {
        n: efm(dataclasses.replace(tokens, conditions=c), factors).cells
        for n, c in zip("hmu", (human, mouse, unknown), strict=True)
    }
    assert not torch.allclose(of["h"], of["m"])
    efm.usual_level[1] = efm.usual_level[0]
    same = {
        n: efm(dataclasses.replace(tokens, conditions=c), factors).cells
        for n, c in zip("hm", (human, mouse), strict=True)
    }
    assert torch.equal(same["h"], same["m"])
    assert torch.equal(same["h"], of["h"])


@torch.no_grad()
def test_a_shuffled_graph_hands_the_same_rows_to_other_genes():
    tokens, factors = some_cells()
    shuffled = graph_of("shuffled", tokens, factors)
    for found, own, where in ((shuffled.u, factors.u, tokens.is_tf), (shuffled.v, factors.v, tokens.is_gene)):
        for c in range(3):
            assert sorted(found[c, where[c]].tolist()) == sorted(own[c, where[c]].tolist())
            assert (found[c, ~where[c]] == 0).all()
    assert not torch.equal(shuffled.v, factors.v)
    ids = torch.arange(40)[None]
    moved = exchanged(torch.arange(40.0)[None, :, None], ids, ids >= 0)[0, :, 0]
    assert (moved == torch.arange(40)).sum() < 6  # nearly all get another's row


@torch.no_grad()
def test_without_a_graph_every_regulator_speaks_to_every_gene():
    tokens, _ = some_cells()
    graph = graph_of("none", tokens, None)
    assert torch.equal(graph.scores()[0], tokens.is_tf[0].float()[:, None].expand(9, 9))


@torch.no_grad()
def test_values_are_told_beside_the_usual_level():
    efm, (tokens, factors) = random_causal_efm(), some_cells()
    genes = efm(tokens, factors).genes
    found = efm.predict(genes, tokens)
    for c, g in ((0, 0), (2, 5)):
        expected = plain_sequential(efm.value_head, genes[c, g])[0] + plain_level(efm, tokens, c, g)
        assert float(found[c, g]) == pytest.approx(float(expected), abs=1e-5)
