"""Tokens become vectors: gene identity + soft-binned expression + regulator flag, and one cell token before them.

Must agree with the published checkpoints: parameter names, an exact zero reads its own bin, the cell token is
the condition prefix plus a bin mixture pooled over the cell's expression values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sccafm.nn.layers import zero_padding
from sccafm.types import Tokens

# The embedding-side norms were published without an epsilon, which torch reads as float32's.
FLOAT32_EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class EmbeddingConfig:
    """Sizes of the token embedding."""

    embed_dim: int  # D
    expr_num_bins: int  # bins of the expression value, the exact-zero bin included
    expr_hidden_dim: int
    expr_tau: float  # temperature of the soft assignment to bins
    batch_num_bins: int
    batch_hidden_dim: int
    batch_tau: float
    cond_dropout: float
    out_dropout: float


def value_encoder(hidden: int) -> nn.Sequential:
    """A scalar becomes a vector of `hidden`."""
    return nn.Sequential(
        nn.Linear(1, hidden), nn.SiLU(), nn.RMSNorm(hidden, eps=FLOAT32_EPS), nn.Linear(hidden, hidden)
    )


def soft_bins(encoded: Tensor, prototypes: Tensor, tau: float) -> Tensor:
    """Softmax over bins of the negative squared distance to each bin's prototype: ... He, B He -> ... B."""
    # ||e||^2 is the same for all bins and cancels in the softmax, but keeps the published rounding where tau is small.
    squared = encoded.square().sum(-1, keepdim=True) + prototypes.square().sum(-1) - 2 * encoded @ prototypes.T
    return torch.softmax(-squared.clamp_min(0.0) / tau, -1)


class ExpressionEmbedding(nn.Module):
    """Mixture of bin vectors for a value; an exact zero is its own bin and is never mixed."""

    def __init__(self, config: EmbeddingConfig):
        super().__init__()
        self.tau = config.expr_tau
        self.value_encoder = value_encoder(config.expr_hidden_dim)
        self.bin_prototypes = nn.Parameter(torch.randn(config.expr_num_bins - 1, config.expr_hidden_dim))
        self.bin_embeddings = nn.Parameter(0.02 * torch.randn(config.expr_num_bins, config.embed_dim))

    def forward(self, expression: Tensor) -> Tensor:  # C G -> C G D
        is_expressed = expression != 0  # most values of a cell are zero: only the others are encoded
        weights = soft_bins(self.value_encoder(expression[is_expressed, None]), self.bin_prototypes, self.tau)
        embedded = self.bin_embeddings[0].expand(*expression.shape, -1).clone()
        embedded[is_expressed] = (weights @ self.bin_embeddings[1:]).to(embedded.dtype)
        return embedded


class BatchEmbedding(nn.Module):
    """One vector per cell, pooled by attention over its expression values, whatever the genes: depth and technology."""

    def __init__(self, config: EmbeddingConfig):
        super().__init__()
        self.tau = config.batch_tau
        self.value_encoder = value_encoder(config.batch_hidden_dim)
        self.attention_score = nn.Linear(config.batch_hidden_dim, 1)
        self.bin_prototypes = nn.Parameter(torch.randn(config.batch_num_bins, config.batch_hidden_dim))
        self.bin_embeddings = nn.Parameter(0.02 * torch.randn(config.batch_num_bins, config.embed_dim))

    def forward(self, expression: Tensor, is_padding: Tensor | None) -> Tensor:  # C G -> C D
        encoded = self.value_encoder(expression[..., None])  # C G Hb
        score = self.attention_score(encoded)[..., 0]  # C G
        if is_padding is not None:
            score = score.masked_fill(is_padding, torch.finfo(score.dtype).min)
        weights = torch.softmax(score, -1)
        if is_padding is not None:  # a cell of padding alone must come out zero, not as a mean of padding
            weights = weights.masked_fill(is_padding, 0.0)
            weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-6)
        pooled = torch.einsum("cg,cgh->ch", weights, encoded)
        return soft_bins(pooled, self.bin_prototypes, self.tau) @ self.bin_embeddings


class ConditionEmbedding(nn.Module):
    """Platform, species, tissue and disease of a cell become one vector."""

    def __init__(self, config: EmbeddingConfig, num_conditions: int):
        super().__init__()
        width = config.embed_dim
        self.cond_embedding = nn.Embedding(num_conditions, width)
        self.cond_position_embedding = nn.Embedding(4, width)
        self.cond_encoder = nn.Sequential(
            nn.Linear(4 * width, width), nn.SiLU(), nn.RMSNorm(width, eps=FLOAT32_EPS), nn.Linear(width, width)
        )
        self.dropout = nn.Dropout(config.cond_dropout)

    def forward(self, conditions: Tensor) -> Tensor:  # C 4 -> C D
        slots = self.cond_embedding(conditions) + self.cond_position_embedding.weight  # C 4 D
        return self.dropout(self.cond_encoder(slots.flatten(1)))


class TokenEmbedding(nn.Module):
    """Tokens -> C L D, the cell token first."""

    def __init__(self, config: EmbeddingConfig, vocab_size: int, num_conditions: int):
        super().__init__()
        width = config.embed_dim
        self.prefix_type_embedding = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.gene_type_embedding = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.gene_embedding = nn.Embedding(vocab_size, width)
        self.expr_embedding = ExpressionEmbedding(config)
        self.batch_embedding = BatchEmbedding(config)
        self.condition_embedding = ConditionEmbedding(config, num_conditions)
        self.tf_type_embedding = nn.Embedding(2, width)  # row 0 regulator, row 1 any other gene
        self.final_norm = nn.RMSNorm(width, eps=FLOAT32_EPS)
        self.dropout = nn.Dropout(config.out_dropout)

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
        """The embedded sequence C L D, and where it is padding: C L bool or None."""
        genes = self._genes(tokens.gene_ids, tokens.expression, tokens.is_tf)
        genes = zero_padding(genes, tokens.is_padding) + self.gene_type_embedding  # C G D
        sequence = torch.cat((self._cell(tokens), genes), 1)  # C L D
        is_padding = None if tokens.is_padding is None else nn.functional.pad(tokens.is_padding, (1, 0))
        return zero_padding(self.dropout(self.final_norm(sequence)), is_padding), is_padding

    def genes(self, gene_ids: Tensor, expression: Tensor, is_tf: Tensor) -> Tensor:
        """The tokens of some genes of one cell alone, as `forward` gives them without dropout: N -> N D."""
        return self.final_norm(self._genes(gene_ids, expression, is_tf) + self.gene_type_embedding[0])

    def cell(self, tokens: Tokens) -> Tensor:
        """The cell token alone, as `forward` gives it without dropout: C D."""
        return self.final_norm(self._cell(tokens))[:, 0]

    def _genes(self, gene_ids: Tensor, expression: Tensor, is_tf: Tensor) -> Tensor:
        genes = self.gene_embedding(gene_ids) + self.expr_embedding(expression)
        return genes + self.tf_type_embedding((~is_tf).long())

    def _cell(self, tokens: Tokens) -> Tensor:
        cell = self.condition_embedding(tokens.conditions) + self.batch_embedding(tokens.expression, tokens.is_padding)
        return cell[:, None] + self.prefix_type_embedding  # C 1 D
