"""The Mixture of Experts' router: each gene chooses K of M latent factors, under a balanced load.

The offset ``beta`` of a factor is what its load costs: selection ranks ``logits - beta``, the weights are the softmax
of the raw selected logits. Training sets beta so that every factor is chosen equally often (`balanced_beta`).
"""

import torch
from torch import Tensor, nn


class BalancedGating(nn.Module):
    """Top-k selection with an offset per factor."""

    def __init__(self, num_factors: int, k: int, temperature: float, momentum: float):
        super().__init__()
        self.k, self.temperature, self.momentum = k, temperature, momentum
        self.register_buffer("beta_qb", torch.zeros(num_factors, dtype=torch.float32))

    def forward(self, logits: Tensor) -> Tensor:  # N M -> N M, rows sum to 1, K entries are not zero
        if self.k == 0:
            return torch.zeros_like(logits)
        if self.k >= logits.shape[-1]:
            return torch.softmax(logits / self.temperature, -1)
        ranked = logits - self.beta_qb.to(logits.dtype)
        if ranked.device.type == "cpu" and ranked.dtype == torch.float32 and not torch.is_grad_enabled():
            cut, is_tied = kth_of_rows(ranked, self.k)
            if not is_tied:
                others = (ranked < cut).to(ranked.dtype) * torch.finfo(ranked.dtype).min
                return torch.softmax(logits / self.temperature + others, -1)
        chosen = ranked.topk(self.k, -1).indices
        weights = torch.softmax(logits.gather(-1, chosen) / self.temperature, -1)
        return torch.zeros_like(logits).scatter(-1, chosen, weights)

    beta_qb: Tensor  # M

    @torch.no_grad()
    def update(self, beta: Tensor) -> None:
        """Move towards the balanced offset that one optimiser step's tokens asked for."""
        self.beta_qb.lerp_(beta.to(self.beta_qb), self.momentum)


def kth_of_rows(x: Tensor, k: int) -> tuple[Tensor, bool]:
    """The k-th largest entry of each row (N 1), and whether a further entry of some row equals it.

    NumPy selects several times as fast as `torch.topk` on a CPU.
    """
    place = x.shape[-1] - k
    parted = x.numpy(force=True).copy()
    parted.partition(place, axis=-1)
    parted = torch.from_numpy(parted)
    cut = parted[:, place : place + 1]
    return cut, bool((parted[:, :place].amax(-1, keepdim=True) == cut).any())


@torch.no_grad()
def balanced_beta(logits: Tensor, beta: Tensor, k: int) -> Tensor:
    """Offsets under which each factor would be chosen by N*k/M of these N tokens: N M, M -> M.

    One alternation of the assignment problem's dual: a token's price is its (k+1)-th best offer, a factor's price the
    offer that its (N*k/M + 1)-th best token makes above its own price.
    """
    tokens, factors = logits.shape
    target = max(1, round(tokens * k / factors))
    token_price = kth_largest(logits - beta, k + 1, dim=1)  # N
    return kth_largest(logits - token_price[:, None], target + 1, dim=0)


def kth_largest(x: Tensor, k: int, dim: int) -> Tensor:
    size = x.shape[dim]
    return x.kthvalue(size - min(k, size) + 1, dim).values


class Router(nn.Module):
    """Hidden states of chosen genes -> distributions over factors: N D -> N M."""

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        num_factors: int,
        dropout: float,
        topk: int | None,
        temperature: float,
        momentum: float,
    ):
        super().__init__()
        self.temperature = temperature
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, hidden_dim), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden_dim, num_factors)
        )
        self.gating = None if topk is None else BalancedGating(num_factors, topk, temperature, momentum)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.distribution(self.mlp(hidden))

    def is_balanced(self) -> bool:
        """Whether a load can be balanced: some, but not all factors are chosen."""
        return self.gating is not None and 0 < self.gating.k < len(self.gating.beta_qb)

    def distribution(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits / self.temperature, -1) if self.gating is None else self.gating(logits)
