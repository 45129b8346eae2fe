"""The published EFM: a causal transformer over genes in regulatory order, trained to name the next gene and its value."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from sccafm.nn.config import check_config
from sccafm.nn.embedding import TokenEmbedding
from sccafm.nn.layers import Backbone
from sccafm.nn.sfm import backbone_config, embedding_config
from sccafm.types import Tokens


@dataclass(frozen=True)
class EFMConfig:
    """Sizes of the published embedding module, as stored under "efm" in efm_config.json."""

    embed_dim: int = 768  # D
    expr_num_bins: int = 32
    expr_hidden_dim: int = 128
    expr_tau: float = 1.0
    batch_num_bins: int = 128
    batch_hidden_dim: int = 128
    batch_tau: float = 1.0
    cond_dropout: float = 0.1
    out_dropout: float = 0.1
    num_layers: int = 12
    num_heads: int = 12
    backbone_mlp_hidden_dim: int | None = None  # None: 4 D
    backbone_mlp_dropout: float = 0.02
    use_rotary: bool = True
    qkv_bias: bool = True
    out_bias: bool = True
    backbone_mlp_bias: bool = True
    norm_eps: float = 1e-6
    rotary_base: float = 10000.0
    rotary_interleaved: bool = False
    head_hidden_dim: int | None = None  # None: D
    head_dropout: float = 0.1
    freeze_loaded_gene_embeddings: bool = False
    attention_backend: str = "fa4"
    cond_vocab_size: int = 4096
    gene_embedding_ckpt: str | None = None

    is_causal = True

    def __post_init__(self):
        check_config(self)


class NextGene(NamedTuple):
    id_logits: Tensor  # C L V, position p names the gene at p
    expression: Tensor  # C L


class Head(nn.Module):
    def __init__(self, config: EFMConfig, outputs: int):
        super().__init__()
        hidden = config.head_hidden_dim or config.embed_dim
        self.net = nn.Sequential(
            nn.Linear(config.embed_dim, hidden), nn.SiLU(), nn.Dropout(config.head_dropout), nn.Linear(hidden, outputs)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        return self.net(hidden)


class EFM(nn.Module):
    """Published embedding module: hidden states of tokens whose genes stand in regulatory order."""

    def __init__(self, config: EFMConfig, vocab_size: int, num_conditions: int):
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(embedding_config(config), vocab_size, num_conditions)
        self.backbone = Backbone(backbone_config(config))
        self.ph_prob = Head(config, vocab_size)
        self.ph_exp = Head(config, 1)

    def forward(self, tokens: Tokens) -> Tensor:
        """Hidden states, the cell token first: C L D."""
        return self.backbone(*self.embedding(tokens))

    def predict(self, hidden: Tensor) -> NextGene:
        """Next gene and value at every position. The logits are wide: C L V."""
        return NextGene(self.ph_prob(hidden), self.ph_exp(hidden)[..., 0])
