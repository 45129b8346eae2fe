"""What travels between data and model: frozen dataclasses of tensors.

The alphabet of shapes, used in every trailing comment of this package:

    C cells   G genes   L = G + 1 (the cell token comes first)   D width
    M factors   K kept factors   T regulators   V vocabulary rows
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

CONDITIONS = ("platform", "species", "tissue", "disease")  # the order of the four condition slots


class _Tensors:
    """Moves and slices a frozen dataclass of tensors whose first axis is the cell."""

    def to(self, device):
        return self._map(lambda tensor: tensor.to(device))

    def __getitem__(self, cells):
        return self._map(lambda tensor: tensor[cells])

    def _map(self, function):
        names = [field.name for field in fields(self)]  # pyright: ignore[reportArgumentType] (of the dataclasses below)
        values = {name: getattr(self, name) for name in names}
        return type(self)(**{name: None if v is None else function(v) for name, v in values.items()})


@dataclass(frozen=True, eq=False)
class Tokens(_Tensors):
    """Cells as the model reads them."""

    gene_ids: Tensor  # C G int64, rows of the vocabulary
    expression: Tensor  # C G float32, as the model was trained: log1p of counts per 10,000
    conditions: Tensor  # C 4 int64, in the order of CONDITIONS
    is_tf: Tensor  # C G bool, regulators of the cell's species
    is_padding: Tensor | None = None  # C G bool, None where every position is a gene

    def __len__(self) -> int:
        return len(self.gene_ids)

    @property
    def is_gene(self) -> Tensor:
        """Positions that hold a gene: C G bool."""
        return torch.ones_like(self.is_tf) if self.is_padding is None else ~self.is_padding


@dataclass(frozen=True, eq=False)
class Factors(_Tensors):
    """What the structure module says of each cell.

    The score of regulator i on target j is ``sum_m u[c, i, m] * v[c, j, m]``, between 0 and 1.
    """

    u: Tensor  # C G M, each regulator's distribution over factors; 0 where the gene is no regulator
    v: Tensor  # C G M, each target's distribution over factors; 0 on padding
    summary: Tensor  # C D, the encoder's cell token

    def __len__(self) -> int:
        return len(self.u)

    def scores(self) -> Tensor:
        """Scores of all ordered pairs, regulators in rows: C G G."""
        return torch.einsum("cim,cjm->cij", self.u, self.v)

    def context(self) -> Tensor:
        """Share of a cell's regulation that flows through each factor: C M, rows sum to 1."""
        flow = self.u.sum(1) * self.v.sum(1)
        return flow / flow.sum(1, keepdim=True).clamp_min(torch.finfo(flow.dtype).tiny)
