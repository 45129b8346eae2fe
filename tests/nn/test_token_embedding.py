"""Token embedding against plain loops: soft bins, the zero bin, pooling with padding, the condition prefix."""

import dataclasses
import math

import pytest
import torch
from making import embedding_sizes, random_tokens, shaken
from torch.nn import functional as F

from sccafm.nn.embedding import BatchEmbedding, ConditionEmbedding, ExpressionEmbedding, TokenEmbedding

EPS = 1.1920928955078125e-07  # of the embedding-side norms: float32's machine epsilon


def plain_norm(x, weight):
    return x / math.sqrt(sum(float(value) ** 2 for value in x) / len(x) + EPS) * weight


def plain_value_encoder(encoder, value):
    """Linear, SiLU, RMSNorm, Linear of one number."""
    hidden = F.silu(encoder[0].weight[:, 0] * value + encoder[0].bias)
    return encoder[3].weight @ plain_norm(hidden, encoder[2].weight) + encoder[3].bias


def plain_soft_bins(encoded, prototypes, tau):
    weights = torch.stack([torch.exp(-((encoded - prototype) ** 2).sum() / tau) for prototype in prototypes])
    return weights / weights.sum()


def plain_expression(layer, value, tau):
    if value == 0:
        return layer.bin_embeddings[0]
    weights = plain_soft_bins(plain_value_encoder(layer.value_encoder, value), layer.bin_prototypes, tau)
    return sum(w * row for w, row in zip(weights, layer.bin_embeddings[1:], strict=True))


def plain_batch(layer, values, tau):
    """Values of one cell's genes, padding left out."""
    encoded = [plain_value_encoder(layer.value_encoder, value) for value in values]
    pooled = torch.zeros(layer.bin_prototypes.shape[1])
    if encoded:
        scores = torch.stack([layer.attention_score.weight[0] @ e + layer.attention_score.bias[0] for e in encoded])
        pooled = sum(w * e for w, e in zip(torch.softmax(scores, 0), encoded, strict=True))
    return plain_soft_bins(pooled, layer.bin_prototypes, tau) @ layer.bin_embeddings


def plain_conditions(layer, ids):
    slots = [layer.cond_embedding.weight[i] + layer.cond_position_embedding.weight[s] for s, i in enumerate(ids)]
    encoder = layer.cond_encoder
    hidden = F.silu(encoder[0].weight @ torch.cat(slots) + encoder[0].bias)
    return encoder[3].weight @ plain_norm(hidden, encoder[2].weight) + encoder[3].bias


def plain_embedding(layer, tokens, tau):
    """Gene + expression + regulator flag, zeroed where padded, + type; the cell token first; then the norm."""
    out = []
    for c in range(len(tokens)):
        is_gene = tokens.is_gene[c]
        cell = plain_conditions(layer.condition_embedding, tokens.conditions[c])
        cell = cell + plain_batch(layer.batch_embedding, tokens.expression[c][is_gene], tau)
        rows = [plain_norm(cell + layer.prefix_type_embedding[0, 0], layer.final_norm.weight)]
        for g in range(tokens.gene_ids.shape[1]):
            if not is_gene[g]:
                rows.append(torch.zeros_like(cell))
                continue
            row = layer.gene_embedding.weight[tokens.gene_ids[c, g]]
            row = row + plain_expression(layer.expr_embedding, tokens.expression[c, g], tau)
            row = row + layer.tf_type_embedding.weight[0 if tokens.is_tf[c, g] else 1]
            rows.append(plain_norm(row + layer.gene_type_embedding[0, 0], layer.final_norm.weight))
        out.append(torch.stack(rows))
    return torch.stack(out)


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
@torch.no_grad()
def test_expression_embedding_equals_the_loop_and_zero_reads_its_own_bin(tau):
    layer = shaken(ExpressionEmbedding(embedding_sizes(expr_tau=tau)))
    values = torch.tensor([[0.0, 0.5, 3.0], [0.0, 0.0, 1e-7]])
    expected = torch.stack([torch.stack([plain_expression(layer, v, tau) for v in cell]) for cell in values])
    torch.testing.assert_close(layer(values), expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(layer(values)[0, 0], layer.bin_embeddings[0])


@torch.no_grad()
def test_a_cell_of_zeros_is_embedded():
    layer = shaken(ExpressionEmbedding(embedding_sizes()))
    assert torch.equal(layer(torch.zeros(1, 3)), layer.bin_embeddings[0].expand(1, 3, -1))


def test_every_bin_learns_from_zeros_and_values():
    layer = ExpressionEmbedding(embedding_sizes())
    layer(torch.tensor([[0.0, 0.5]])).square().sum().backward()
    assert (layer.bin_embeddings.grad.abs().sum(1) > 0).all()
    assert layer.bin_prototypes.grad.abs().sum() > 0


@pytest.mark.parametrize("tau", [0.3, 2.5])
@torch.no_grad()
def test_batch_embedding_pools_the_genes_and_leaves_padding_out(tau):
    layer = shaken(BatchEmbedding(embedding_sizes(batch_tau=tau)))
    values = torch.tensor([[0.0, 0.5, 3.0], [2.0, 0.0, 9.0], [1.0, 1.0, 1.0]])
    is_padding = torch.tensor([[False] * 3, [False, False, True], [True] * 3])
    expected = torch.stack([plain_batch(layer, v[~p], tau) for v, p in zip(values, is_padding, strict=True)])
    torch.testing.assert_close(layer(values, is_padding), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(layer(values[:1], None), expected[:1], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_condition_embedding_equals_the_loop():
    layer = shaken(ConditionEmbedding(embedding_sizes(), 6))
    ids = torch.tensor([[0, 1, 2, 3], [5, 5, 5, 5]])
    expected = torch.stack([plain_conditions(layer, row) for row in ids])
    torch.testing.assert_close(layer(ids), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_token_embedding_equals_the_loop(padded):
    layer = shaken(TokenEmbedding(embedding_sizes(expr_tau=0.7, batch_tau=0.7), 30, 6))
    tokens = random_tokens(padded=padded)
    embedded, is_padding = layer(tokens)
    torch.testing.assert_close(embedded, plain_embedding(layer, tokens, 0.7), atol=2e-6, rtol=1e-5)
    if padded:
        assert torch.equal(is_padding, torch.cat((torch.zeros(3, 1, dtype=torch.bool), tokens.is_padding), 1))
    else:
        assert is_padding is None


@torch.no_grad()
def test_a_cell_of_padding_alone_has_a_finite_cell_token():
    layer = shaken(TokenEmbedding(embedding_sizes(), 30, 6))
    tokens = random_tokens(cells=2)
    tokens = dataclasses.replace(tokens, is_padding=torch.tensor([[False] * 9, [True] * 9]))
    embedded, _ = layer(tokens)
    torch.testing.assert_close(embedded, plain_embedding(layer, tokens, 1.0), atol=2e-6, rtol=1e-5)
