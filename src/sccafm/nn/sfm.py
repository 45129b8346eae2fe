"""SFM, the structure module: tokens -> encoder -> two routers -> factors whose product is the cell's directed graph."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sccafm.nn.config import check_config
from sccafm.nn.embedding import EmbeddingConfig, TokenEmbedding
from sccafm.nn.layers import Backbone, BackboneConfig
from sccafm.nn.routing import Router
from sccafm.nn.shared_start import SharedStart
from sccafm.types import Factors, Tokens


@dataclass(frozen=True)
class SFMConfig:
    """Sizes of a structure module, as stored under "sfm" in sfm_config.json; the defaults are the published ones."""

    embed_dim: int = 512  # D
    expr_num_bins: int = 32
    expr_hidden_dim: int = 256
    expr_tau: float = 1.0
    batch_num_bins: int = 32
    batch_hidden_dim: int = 128
    batch_tau: float = 1.0
    cond_dropout: float = 0.1
    out_dropout: float = 0.1
    num_layers: int = 4
    num_heads: int = 8
    backbone_mlp_hidden_dim: int | None = None  # None: 4 D
    backbone_mlp_dropout: float = 0.1
    use_rotary: bool = False
    qkv_bias: bool = True
    out_bias: bool = True
    backbone_mlp_bias: bool = True
    norm_eps: float = 1e-6
    rotary_base: float = 10000.0
    rotary_interleaved: bool = False
    num_factors: int = 256  # M
    router_hidden_dim: int = 128
    router_dropout: float = 0.1
    topk: int | None = 32  # K; None: every factor, without balanced gating
    router_temperature: float = 1.0
    beta_momentum: float = 1.0
    freeze_loaded_gene_embeddings: bool = False  # training: gene vectors keep the values they were loaded with
    # Read and kept so that a published config comes back as it was; they change no number here.
    attention_backend: str = "fa4"
    cond_vocab_size: int = 4096
    gene_embedding_ckpt: str | None = None

    is_causal = False

    def __post_init__(self):
        check_config(self)


def embedding_config(config) -> EmbeddingConfig:
    return EmbeddingConfig(
        config.embed_dim,
        config.expr_num_bins,
        config.expr_hidden_dim,
        config.expr_tau,
        config.batch_num_bins,
        config.batch_hidden_dim,
        config.batch_tau,
        config.cond_dropout,
        config.out_dropout,
    )


def backbone_config(config) -> BackboneConfig:
    return BackboneConfig(
        config.embed_dim,
        config.num_layers,
        config.num_heads,
        config.backbone_mlp_hidden_dim or 4 * config.embed_dim,
        config.backbone_mlp_dropout,
        config.use_rotary,
        config.rotary_base,
        config.rotary_interleaved,
        config.qkv_bias,
        config.out_bias,
        config.backbone_mlp_bias,
        config.norm_eps,
        config.is_causal,
    )


class SFM(nn.Module):
    """Structure module.

    Parameters
    ----------
    config
        Sizes.
    vocab_size
        Rows of the gene embedding, V: the highest token index of the vocabulary + 1.
    num_conditions
        Rows of the condition embedding: the highest index of the condition vocabulary + 1.
    """

    def __init__(self, config: SFMConfig, vocab_size: int, num_conditions: int):
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(embedding_config(config), vocab_size, num_conditions)
        self.backbone = Backbone(backbone_config(config))
        sizes = (config.embed_dim, config.router_hidden_dim, config.num_factors, config.router_dropout)
        gating = (config.topk, config.router_temperature, config.beta_momentum)
        self.tf_router = Router(*sizes, *gating)
        self.tg_router = Router(*sizes, *gating)
        self._start: SharedStart | None = None

    def encode(self, tokens: Tokens) -> Tensor:
        """Hidden states, the cell token first: C L D.

        Cells that are read on a CPU without gradients share what their genes without a count do in the first layer.
        """
        if not self._shares_start(tokens):
            return self.backbone(*self.embedding(tokens))
        start = self._start
        if start is None or not start.serves(tokens, self.embedding, self.backbone):
            genes = (tokens.gene_ids[0], tokens.is_tf[0])
            self._start = start = SharedStart(self.embedding, self.backbone, *genes)
        return start.encode(tokens)

    def _shares_start(self, tokens: Tokens) -> bool:
        return (
            not (self.training or torch.is_grad_enabled() or self.config.use_rotary)
            and self.config.num_layers > 0
            and tokens.is_padding is None
            and tokens.expression.device.type == "cpu"
            and tokens.expression.dtype == self.embedding.gene_type_embedding.dtype == torch.float32
            and len(tokens) > 0
            and bool((tokens.gene_ids == tokens.gene_ids[0]).all() and (tokens.is_tf == tokens.is_tf[0]).all())
        )

    def route(self, tokens: Tokens) -> "Routing":
        """Factors, and the router logits that training balances."""
        hidden = self.encode(tokens)
        genes = hidden[:, 1:]  # C G D
        is_tf = tokens.is_tf & tokens.is_gene
        tf_logits = self.tf_router.mlp(genes[is_tf])
        tg_logits = self.tg_router.mlp(genes[tokens.is_gene])
        u = scatter_rows(self.tf_router.distribution(tf_logits), is_tf)
        v = scatter_rows(self.tg_router.distribution(tg_logits), tokens.is_gene)
        return Routing(Factors(u, v, hidden[:, 0]), tf_logits, tg_logits)

    def forward(self, tokens: Tokens) -> Factors:
        """Factors of each cell; see `Factors` for the shapes."""
        return self.route(tokens).factors


class Routing(NamedTuple):
    factors: Factors
    tf_logits: Tensor  # N M, of the N regulator positions of all cells in turn
    tg_logits: Tensor  # N M, of all gene positions


def scatter_rows(rows: Tensor, where: Tensor) -> Tensor:
    """Put rows back to the positions they came from, exact zeros elsewhere: N M, C G bool -> C G M."""
    full = rows.new_zeros(*where.shape, rows.shape[-1])
    return full.index_put((*where.nonzero(as_tuple=True),), rows)
