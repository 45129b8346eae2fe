"""What speaks for each edge before the model is asked: the evidence that the structure module learns to read from one cell.

For regulator i, target j and cell c, with every term but the prior's on the scale of standard deviations over the genes, or
the regulators, that are shown together::

    e_cij =  target:     a detection_cj + b breadth_j + c regulates_j + d activity_cj
          +  regulator:  e degree_i + f detection_ci + g activity_ci
          +  pair:       h affinity_ij + k known_ij sqrt(active_ci active_cj) + l activity_ci activity_cj

Detection and activity are averages over cells like c, which the model does not see: from one cell's counts it has to
tell what they are. Every weight is a setting (`EvidenceWeights`), and 0 takes its term away. What each is worth on held-out truths
is measured by ``benchmarks/evidence.py``.
"""

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sccafm.reference.bundle import Lexicon
from sccafm.train.config import EvidenceWeights

PROBE_WIDTH, PROBE_STEPS, PROBE_PAIRS = 64, 1500, 2048
LIMIT = 2.5  # standard deviations beyond which a term says no more


class Evidence(nn.Module):
    """Tables by token, and the formula.

    Parameters
    ----------
    weights
        What each term counts.
    lexicon
        For the prior: edges, degrees.
    breadth
        V, share of the corpus's files that detect the gene.
    profiles
        V P, where genes are expressed (`gene_profiles`), from which affinity is learned.
    seed
        Of the probe that learns it.
    """

    def __init__(
        self, weights: EvidenceWeights, lexicon: Lexicon, breadth: np.ndarray, profiles: np.ndarray, seed: int
    ):
        super().__init__()
        self.weights, self.size = weights, lexicon.vocabulary.size
        edges = lexicon.prior_tokens
        source, target = (torch.tensor(edges[end].to_numpy()) for end in ("source", "target"))
        strength = torch.tensor(edges["confidence"].to_numpy() if "confidence" in edges else np.full(len(edges), 0.9))
        keys = source * self.size + target
        order = keys.argsort()
        self._keep("keys", keys[order])
        self._keep("strength", strength.float().clamp(0, 0.99)[order])
        self._keep("degree", torch.bincount(source, minlength=self.size).float().log1p())
        self._keep("breadth", torch.from_numpy(breadth).float())
        sends, receives = (
            fit_affinity(torch.from_numpy(profiles).float(), source, target, seed)
            if weights.affinity
            else (torch.zeros(self.size, 1),) * 2
        )
        self._keep("sends", sends)
        self._keep("receives", receives)

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor, persistent=False)

    def known(self, regulators: Tensor, targets: Tensor) -> Tensor:
        """How surely the prior holds each pair, 0 where it does not: T, G tokens -> T G."""
        keys = regulators[:, None] * self.size + targets
        position = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return torch.where(self.keys[position] == keys, self.strength[position], 0.0)

    def forward(self, regulators: Tensor, genes: Tensor, acts: Tensor, detection: Tensor, activity: Tensor) -> Tensor:
        """Evidence of all pairs.

        Parameters
        ----------
        regulators, genes
            T and G tokens; `acts` says which of the genes the regulators are: G bool.
        detection
            C G, share of cells like this one that hold the gene.
        activity
            C G in [0, 1), level beside the gene's usual level: 0.5 where they are equal.

        Returns
        -------
        C T G
        """
        w = self.weights
        seen, lively = standardised(detection), standardised(activity)
        tables = self.breadth[genes], self.degree[genes], self.degree[regulators]
        breadth, upstream, degree = (standardised(table[None]) for table in tables)
        target = w.detection * seen + w.breadth * breadth + w.regulates * upstream + w.activity * lively
        regulator = w.degree * degree + w.regulator_detection * seen[:, acts]
        regulator = regulator + w.regulator_activity * lively[:, acts]
        affinity = self.sends[regulators] @ self.receives[genes].T
        pair = w.affinity * standardised(affinity.reshape(1, -1)).view_as(affinity) if w.affinity else affinity
        pair = pair + w.known * self.known(regulators, genes) * (activity[:, acts, None] * activity[:, None]).sqrt()
        pair = pair + w.coactivity * lively[:, acts, None] * lively[:, None]
        return regulator[:, :, None] + target[:, None] + pair


def standardised(x: Tensor) -> Tensor:
    """Values of each row on one scale, within `LIMIT`."""
    centered = x - x.mean(1, keepdim=True)
    return (centered / x.std(1, keepdim=True, correction=0).clamp_min(1e-6)).clamp(-LIMIT, LIMIT)


def fit_affinity(profiles: Tensor, source: Tensor, target: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Vectors whose product tells prior edges from pairs with one end exchanged: V P -> V K, V K.

    Exchanging one end keeps the degrees of both, so that hubs win nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sends, receives = (two_layers(profiles.shape[1]) for _ in range(2))
        optimizer = torch.optim.AdamW([*sends.parameters(), *receives.parameters()], lr=1e-3, weight_decay=0.1)
        for _ in range(PROBE_STEPS):
            true, other = (torch.randint(len(source), (PROBE_PAIRS,), generator=generator) for _ in range(2))
            keeps_source = torch.rand(PROBE_PAIRS, generator=generator) < 0.5
            i = torch.where(keeps_source, source[true], source[other])
            j = torch.where(keeps_source, target[other], target[true])
            positive = (sends(profiles[source[true]]) * receives(profiles[target[true]])).sum(1)
            negative = (sends(profiles[i]) * receives(profiles[j])).sum(1)
            loss = (F.softplus(-positive) + F.softplus(negative)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return sends.eval()(profiles), receives.eval()(profiles)


def two_layers(inputs: int) -> nn.Sequential:
    hidden = 2 * PROBE_WIDTH
    layers = nn.Linear(inputs, hidden), nn.SiLU(), nn.Dropout(0.2), nn.Linear(hidden, PROBE_WIDTH)
    network = nn.Sequential(*layers)
    network[-1].weight.data.mul_(PROBE_WIDTH**-0.25)  # so that products start at the scale of one entry
    return network


def ablations(weights: EvidenceWeights) -> dict[str, EvidenceWeights]:
    """The same weights with each term taken away in turn."""
    return {f.name: dataclasses.replace(weights, **{f.name: 0.0}) for f in dataclasses.fields(weights)}
