"""The transformer that SFM and EFM share: pre-norm blocks, SDPA attention, gated MLP, optional rotary positions.

Must agree with the published checkpoints: parameter names, the (query, key, value) order of ``qkv_proj``,
padded positions excluded as keys and zero in every output.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes of a transformer encoder."""

    embed_dim: int  # D
    num_layers: int
    num_heads: int
    mlp_hidden_dim: int
    mlp_dropout: float
    use_rotary: bool
    rotary_base: float
    rotary_interleaved: bool  # False: the two halves of a head are paired (NeoX); True: neighbours are
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    norm_eps: float
    is_causal: bool


class Rotary(nn.Module):
    """Turns queries and keys by angles that grow with the position (Su et al. 2021, RoFormer)."""

    frequencies: Tensor  # head_dim/2

    def __init__(self, head_dim: int, base: float, interleaved: bool):
        super().__init__()
        self.interleaved = interleaved
        frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # C heads L head_dim
        positions = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)
        angles = positions[:, None] * self.frequencies  # L head_dim/2
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        if self.interleaved:
            even, odd = x[..., 0::2], x[..., 1::2]
            return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)
        first, second = x.chunk(2, -1)
        return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)


class Attention(nn.Module):
    def __init__(self, config: BackboneConfig):
        super().__init__()
        width = config.embed_dim
        self.num_heads, self.is_causal = config.num_heads, config.is_causal
        self.qkv_proj = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.out_proj = nn.Linear(width, width, bias=config.out_bias)
        turn = (width // config.num_heads, config.rotary_base, config.rotary_interleaved)
        self.rotary = Rotary(*turn) if config.use_rotary else nn.Identity()

    def forward(self, hidden: Tensor, is_padding: Tensor | None) -> Tensor:
        qkv = self.qkv_proj(hidden).unflatten(-1, (3, self.num_heads, -1))  # C L 3 heads head_dim
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each C heads L head_dim
        q, k = self.rotary(q), self.rotary(k)
        mask = None if is_padding is None else self._mask(is_padding)
        mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=self.is_causal and mask is None)
        mixed = mixed.transpose(1, 2).flatten(2)  # C L D
        return self.out_proj(mixed if is_padding is None else zero_padding(mixed, is_padding))

    def _mask(self, is_padding: Tensor) -> Tensor:
        """True where a query may look: C 1 1|L L."""
        mask = ~is_padding[:, None, None, :]
        if self.is_causal:
            length = is_padding.shape[1]
            mask = mask & torch.ones(length, length, dtype=torch.bool, device=is_padding.device).tril()
        return mask


class GatedMLP(nn.Module):
    def __init__(self, config: BackboneConfig):
        super().__init__()
        width, hidden = config.embed_dim, config.mlp_hidden_dim
        self.gate_proj = nn.Linear(width, hidden, bias=config.mlp_bias)
        self.up_proj = nn.Linear(width, hidden, bias=config.mlp_bias)
        self.down_proj = nn.Linear(hidden, width, bias=config.mlp_bias)
        self.dropout = nn.Dropout(config.mlp_dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)))


class Block(nn.Module):
    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.attn_norm = nn.RMSNorm(config.embed_dim, eps=config.norm_eps)
        self.attn = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = GatedMLP(config)

    def forward(self, hidden: Tensor, is_padding: Tensor | None) -> Tensor:
        hidden = hidden + zero_padding(self.attn(self.attn_norm(hidden), is_padding), is_padding)
        return zero_padding(self.transform(hidden), is_padding)

    def transform(self, hidden: Tensor) -> Tensor:
        """What follows attention, each token by itself."""
        return hidden + self.mlp(self.mlp_norm(hidden))


class Backbone(nn.Module):
    """Encoder of C L D tokens; ``is_padding`` is C L bool or None."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = nn.RMSNorm(config.embed_dim, eps=config.norm_eps)

    def forward(self, hidden: Tensor, is_padding: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden, is_padding)
        return zero_padding(self.final_norm(hidden), is_padding)


def zero_padding(x: Tensor, is_padding: Tensor | None) -> Tensor:
    """Zero the rows that hold no gene: x is C L D, is_padding C L."""
    return x if is_padding is None else x.masked_fill(is_padding[..., None], 0.0)
