"""The variational graph autoencoder that trains the SFM: expression is explained through the cell's own graph.

The mean is propagated in factor space, ``V (U^T f)``, which is linear in genes: no G x G matrix is ever made.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sccafm.nn.config import check_config
from sccafm.types import Factors


@dataclass(frozen=True)
class VGAEConfig:
    """Sizes, as stored under "vgae" in sfm_config.json."""

    hidden_dim: int = 128
    dropout: float = 0.1
    fp_steps: int = 3  # steps of the fixed-point propagation; below 1 acts as 1
    fp_damping: float = 0.5

    def __post_init__(self):
        check_config(self)


class Posterior(NamedTuple):
    mean: Tensor  # C G; 0 on padding
    scale: Tensor  # C G, above 0; 1 on padding


class Likelihood(NamedTuple):
    """Zero-inflated normal of each gene's value."""

    mean: Tensor  # C G
    scale: Tensor  # C G, above 0
    dropout: Tensor  # C G, probability of a technical zero


class VGAEOutput(NamedTuple):
    posterior: Posterior
    likelihood: Likelihood
    z: Tensor  # C G, the sample that was decoded


def two_layers(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))


class ValueProjection(nn.Module):
    """A scalar per gene becomes a vector: C G -> C G H."""

    def __init__(self, config: VGAEConfig):
        super().__init__()
        self.proj = two_layers(1, config.hidden_dim, config.hidden_dim, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x[..., None])


def propagate(factors: Factors, features: Tensor) -> Tensor:
    """What each gene hears from its regulators, ``V (U^T features)``: C G H -> C G H."""
    return factors.v @ (factors.u.transpose(1, 2) @ features)


class Encoder(nn.Module):
    def __init__(self, config: VGAEConfig):
        super().__init__()
        self.expr_proj = ValueProjection(config)
        self.posterior_proj = two_layers(3 * config.hidden_dim, config.hidden_dim, 2, config.dropout)

    def forward(self, expression: Tensor, factors: Factors, is_padding: Tensor | None) -> Posterior:
        own = self.expr_proj(expression)
        heard = propagate(factors, own)
        mean, scale = self.posterior_proj(torch.cat((own, heard, own - heard), -1)).unbind(-1)
        return Posterior(fill(mean, is_padding, 0.0), fill(F.softplus(scale) + 1e-6, is_padding, 1.0))


class Decoder(nn.Module):
    def __init__(self, config: VGAEConfig):
        super().__init__()
        self.steps, self.damping = max(1, config.fp_steps), config.fp_damping
        self.z_proj = ValueProjection(config)
        self.out_proj = two_layers(2 * config.hidden_dim, config.hidden_dim, 3, config.dropout)

    def forward(self, z: Tensor, factors: Factors, is_padding: Tensor | None) -> Likelihood:
        own = self.z_proj(z)
        hidden = own
        for _ in range(self.steps):
            hidden = own + self.damping * propagate(factors, hidden)
        mean, scale, dropout = self.out_proj(torch.cat((own, hidden), -1)).unbind(-1)
        return Likelihood(
            fill(mean, is_padding, 0.0),
            fill(F.softplus(scale) + 1e-6, is_padding, 1.0),
            fill(torch.sigmoid(dropout), is_padding, 0.0),
        )


class VGAE(nn.Module):
    """Training head: expression and the cell's factors -> posterior, likelihood and the sample between them."""

    def __init__(self, config: VGAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(
        self, expression: Tensor, factors: Factors, is_padding: Tensor | None = None, z: Tensor | None = None
    ) -> VGAEOutput:
        """Encode, sample (unless `z` is given) and decode; C G values throughout."""
        posterior = self.encoder(expression, factors, is_padding)
        sample = posterior.mean + posterior.scale * torch.randn_like(posterior.scale) if z is None else z
        return VGAEOutput(posterior, self.decoder(sample, factors, is_padding), sample)


def fill(x: Tensor, is_padding: Tensor | None, value: float) -> Tensor:
    return x if is_padding is None else x.masked_fill(is_padding, value)
