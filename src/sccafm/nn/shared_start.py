"""The first attention layer of cells that show the same genes: what genes without a count do there is worked out once for all.

A gene without a count enters the encoder as the same vector in every cell, and so are its query, key and value in the first layer. For such
a query i the sums of the softmax are a constant over all genes, plus what the few expressed genes E and the cell token change::

    sum_j exp(q_i k_j) v_j  =  N_i  -  sum_{j in E} exp(q_i k0_j) v0_j  +  sum_{j in E, cell} exp(q_i k_j) v_j

with k0, v0 of the gene without a count. The same result up to rounding, for less arithmetic the fewer genes are expressed.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sccafm.nn.embedding import TokenEmbedding
from sccafm.nn.layers import Backbone, Block
from sccafm.types import Tokens

MOST_EXPRESSED = 0.35  # share of the genes above which attention as it is takes less time
LEAST_LEFT = 0.5  # share of the constant sum below which a difference of sums has lost too many digits
ROWS = 128  # queries at once


class Heads(NamedTuple):
    """Of some tokens: heads N head_dim each; queries carry the factor 1 / sqrt(head_dim)."""

    q: Tensor
    k: Tensor
    v: Tensor


class SharedStart:
    """Constants of one list of genes under one set of weights.

    Parameters
    ----------
    embedding, backbone
        Of the module; the first layer is neither causal nor rotary.
    gene_ids, is_tf
        G: the genes that every cell shows, in this order.
    """

    def __init__(self, embedding: TokenEmbedding, backbone: Backbone, gene_ids: Tensor, is_tf: Tensor):
        layers: list[Block] = list(backbone.layers)  # pyright: ignore[reportAssignmentType] (a ModuleList holds any module)
        self.embedding, self.layers, self.norm = embedding, layers, backbone.final_norm
        self.gene_ids, self.is_tf = gene_ids.clone(), is_tf.clone()
        self.versions = versions(embedding, backbone)
        self.silent = embedding.genes(gene_ids, torch.zeros(len(gene_ids)), is_tf)  # G D
        self.heads = heads_of(self.layers[0], self.silent)
        q, k, v = self.heads
        values = torch.cat((v, torch.ones_like(v[..., :1])), -1)  # the last column adds the weights up
        highest, sums = [], []
        for first in range(0, q.shape[1], ROWS):
            logits = q[:, first : first + ROWS] @ k.transpose(1, 2)
            highest.append(logits.amax(-1, keepdim=True))
            sums.append((logits - highest[-1]).exp_() @ values)
        # The highest logit is taken off by a column of its own: heads G head_dim+1 both.
        self.shifted, self.sums = torch.cat((q, -torch.cat(highest, 1)), -1), torch.cat(sums, 1)

    def serves(self, tokens: Tokens, embedding: TokenEmbedding, backbone: Backbone) -> bool:
        """Whether these cells show the same genes, and the weights are still those of the constants."""
        return (
            tokens.gene_ids.shape[1] == len(self.gene_ids)
            and bool((tokens.gene_ids == self.gene_ids).all())
            and bool((tokens.is_tf == self.is_tf).all())
            and versions(embedding, backbone) == self.versions
        )

    def encode(self, tokens: Tokens) -> Tensor:
        """Hidden states as `Backbone` gives them, the cell token first: C L D."""
        return torch.cat([self._cell(tokens[i : i + 1]) for i in range(len(tokens))])

    def _cell(self, tokens: Tokens) -> Tensor:
        expressed = tokens.expression[0].nonzero()[:, 0]  # E
        if len(expressed) > MOST_EXPRESSED * len(self.gene_ids):
            hidden, is_padding = self.embedding(tokens)
            mixed = self.layers[0].attn(self.layers[0].attn_norm(hidden), is_padding)
        else:
            hidden, mixed = self._first(tokens, expressed)
        hidden = self.layers[0].transform(hidden + mixed)
        for layer in self.layers[1:]:
            hidden = layer(hidden, None)
        return self.norm(hidden)

    def _first(self, tokens: Tokens, expressed: Tensor) -> tuple[Tensor, Tensor]:
        """The embedded sequence, and what attention adds to it: 1 L D each."""
        cell = self.embedding.cell(tokens)  # 1 D
        shown = self.embedding.genes(
            self.gene_ids[expressed], tokens.expression[0, expressed], self.is_tf[expressed]
        )  # E D
        own = heads_of(self.layers[0], torch.cat((cell, shown)))  # the cell token before the expressed genes
        keys, values = (
            torch.cat((changed[:, :1], constant.index_copy(1, expressed, changed[:, 1:])), 1)
            for constant, changed in ((self.heads.k, own.k), (self.heads.v, own.v))
        )
        of_own = attend(own.q, keys, values)
        mixed = own.q.new_empty(own.q.shape[0], len(self.gene_ids) + 1, own.q.shape[2])
        mixed[:, 0], mixed[:, 1 + expressed] = of_own[:, 0], of_own[:, 1:]
        silent = (tokens.expression[0] == 0).nonzero()[:, 0]
        mixed[:, 1 + silent] = self._silent(silent, expressed, own, keys, values)
        hidden = torch.cat((cell, self.silent.index_copy(0, expressed, shown)))
        return hidden[None], self.layers[0].attn.out_proj(mixed.transpose(0, 1).flatten(1))[None]

    def _silent(self, silent: Tensor, expressed: Tensor, own: Heads, keys: Tensor, values: Tensor) -> Tensor:
        """What genes without a count read: heads S head_dim."""
        before = Heads(*(part[:, expressed] for part in self.heads))
        ones = torch.ones_like(own.v[..., :1])
        changed = torch.cat((torch.cat((own.k, before.k), 1), torch.cat((ones, ones[:, 1:]), 1)), -1)
        gained = torch.cat((torch.cat((own.v, ones), -1), -torch.cat((before.v, ones[:, 1:]), -1)), 1)
        shifted, constant = self.shifted[:, silent], self.sums[:, silent]
        changed = changed.transpose(1, 2)
        sums = torch.empty_like(constant)
        for first in range(0, len(silent), ROWS):  # a block's weights stay in the processor's cache
            rows = slice(first, first + ROWS)
            weights = torch.bmm(shifted[:, rows], changed).exp_()
            torch.add(torch.bmm(weights, gained), constant[:, rows], out=sums[:, rows])
        left = sums[..., -1:]
        mixed = sums[..., :-1] / left
        # A difference of sums has lost too many digits, or an exponential is not finite.
        is_lost = ~((left >= LEAST_LEFT * constant[..., -1:]) & left.isfinite()).all(0)[:, 0]
        if is_lost.any():
            mixed[:, is_lost] = attend(shifted[:, is_lost, :-1], keys, values)
        return mixed


def heads_of(layer: Block, embedded: Tensor) -> Heads:
    """Queries, keys and values of tokens: N D."""
    attn = layer.attn
    q, k, v = attn.qkv_proj(layer.attn_norm(embedded)).unflatten(-1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)
    return Heads(q / q.shape[-1] ** 0.5, k.contiguous(), v.contiguous())


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[None], k[None], v[None], scale=1.0)[0]


def versions(*modules: nn.Module) -> tuple:
    """Changes with every change of a weight in place, and with every new weight."""
    return tuple((p.data_ptr(), p._version) for module in modules for p in module.parameters())
