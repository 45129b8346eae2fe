"""What speaks for each edge before the model is asked: the evidence that the structure module learns to read from one cell.

For regulator i, target j and cell c, with every term but the prior's on the scale of standard deviations over the genes, the
regulators or the pairs that are shown together::

    e_cij =  pair:       a fit_ij + b known_ij sqrt(active_ci active_cj) + c activity_ci activity_cj
          +  target:     d activity_cj + e bound_j + f responds_j
          +  regulator:  g activity_ci

The pair term leads. ``fit`` is what the edge model says of the pair (`sccafm.reference.regulation`): the sum of its two questions, with
the levels of regulators and targets taken away, so that popularity can't hide in it. What depends on the cell is relative:
activity is a gene's level beside its usual one, averaged over cells like c, which the model does not see: from one cell's counts it has to
tell what they are. Popularity enters as two named terms. Every weight is a setting (`EvidenceWeights`), and 0 takes its term away.
What each is worth is measured by ``benchmarks/evidence.py``.
"""

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from sccafm.losses.structure import without_levels
from sccafm.reference.bundle import ReferenceData
from sccafm.reference.regulation import Regulation
from sccafm.train.config import EvidenceWeights

LIMIT = 2.5  # standard deviations beyond which a gene's term says no more
PAIR_LIMIT = 4.0  # the same of a pair's


class Evidence(nn.Module):
    """Tables by token, and the formula.

    Parameters
    ----------
    weights
        What each term counts.
    reference_data
        For the prior.
    regulation
        What the edge model says.
    """

    def __init__(self, weights: EvidenceWeights, reference_data: ReferenceData, regulation: Regulation):
        super().__init__()
        self.weights, self.size = weights, reference_data.vocabulary.size
        edges = reference_data.prior_tokens
        source, target = (torch.tensor(edges[end].to_numpy()) for end in ("source", "target"))
        strength = torch.tensor(edges["confidence"].to_numpy() if "confidence" in edges else np.full(len(edges), 0.9))
        keys = source * self.size + target
        order = keys.argsort()
        self._keep("keys", keys[order])
        self._keep("strength", strength.float().clamp(0, 0.99)[order])
        popularity = regulation.popularity
        self._keep("bound", torch.from_numpy(popularity["chip_breadth"]))
        self._keep("responds", torch.from_numpy(popularity["variability"] + popularity["in_degree"]))
        for name, side in (("sends", regulation.source), ("receives", regulation.target)):
            self._keep(
                name, torch.from_numpy(np.concatenate(tuple(side), 1))
            )  # V 2K: products of both questions add up

    keys: Tensor  # of the prior's edges, in rising order: source * V + target
    strength: Tensor  # of each
    degree: Tensor  # V, and so are the next two
    bound: Tensor
    responds: Tensor
    sends: Tensor  # V 2K
    receives: Tensor

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor, persistent=False)

    def known(self, regulators: Tensor, targets: Tensor) -> Tensor:
        """How surely the prior holds each pair, 0 where it does not: T, G tokens -> T G."""
        keys = regulators[:, None] * self.size + targets
        position = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return torch.where(self.keys[position] == keys, self.strength[position], 0.0)

    def fit(self, regulators: Tensor, targets: Tensor) -> Tensor:
        """What the edge model says of each pair beyond the levels of both ends: T, G tokens -> T G.

        Every regulator's row has mean 0 and standard deviation 1: else the strongest edges of a cell start at the few regulators of
        which most is known.
        """
        product = without_levels(self.sends[regulators] @ self.receives[targets].T)
        spread = product.std(1, keepdim=True, correction=0).clamp_min(1e-6)
        return (product / spread).clamp(-PAIR_LIMIT, PAIR_LIMIT)

    def forward(self, regulators: Tensor, genes: Tensor, regulator_mask: Tensor, activity: Tensor) -> Tensor:
        """Evidence of all pairs.

        Parameters
        ----------
        regulators, genes
            T and G tokens; `regulator_mask` says which of the genes the regulators are: G bool.
        activity
            C G in [0, 1), level beside the gene's usual level: 0.5 where they are equal.

        Returns
        -------
        C T G
        """
        w = self.weights
        lively = standardised(activity)
        bound, responds = (standardised(table[None]) for table in (self.bound[genes], self.responds[genes]))
        target = w.activity * lively + w.bound * bound + w.responds * responds
        regulator = w.regulator_activity * standardised(activity[:, regulator_mask])
        pair = w.pair * self.fit(regulators, genes)
        pair = (
            pair
            + w.known * self.known(regulators, genes) * (activity[:, regulator_mask, None] * activity[:, None]).sqrt()
        )
        pair = pair + w.coactivity * lively[:, regulator_mask, None] * lively[:, None]
        return regulator[:, :, None] + target[:, None] + pair


def standardised(x: Tensor) -> Tensor:
    """Values of each row on one scale, within `LIMIT`."""
    centered = x - x.mean(1, keepdim=True)
    return (centered / x.std(1, keepdim=True, correction=0).clamp_min(1e-6)).clamp(-LIMIT, LIMIT)


def ablations(weights: EvidenceWeights) -> dict[str, EvidenceWeights]:
    """The same weights with each term taken away in turn."""
    return {f.name: dataclasses.replace(weights, **{f.name: 0.0}) for f in dataclasses.fields(weights)}
