"""InputOptions: how an AnnData is read, in the words of every call that reads one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np


@dataclass(frozen=True)
class InputOptions:
    """What to read of an AnnData. `sccafm._docs` describes each option; the defaults stand here alone."""

    regulators: str | Sequence[str] = "dna_binding"
    always: Sequence[str] = ()
    genes: Sequence[str] | None = None
    n_top_genes: int | None = 2000
    layer: str | None = None
    gene_key: str | None = None
    species: str | None = None
    condition_keys: Mapping[str, str] | None = None
    preprocess: str = "auto"

    def __post_init__(self):
        n = self.n_top_genes
        if n is not None and (isinstance(n, bool) or not isinstance(n, (int, np.integer))):
            raise ValueError(f"n_top_genes must be a whole number or None for every gene, got {n!r}")
        for name, value in (("genes", self.genes), ("always", self.always)):
            if isinstance(value, str):
                raise ValueError(f"{name} must be a list of names, got the text {value!r}; write {name}=[{value!r}]")
        if not isinstance(self.condition_keys, Mapping | None):
            raise ValueError(
                f'condition_keys maps slots to obs columns, e.g. {{"tissue": "organ"}}; got {self.condition_keys!r}'
            )

    def of_networks(self, grn) -> "InputOptions":
        """The same for networks that were inferred before: their genes and regulators are read."""
        return self if grn is None else replace(self, regulators=list(grn.regulators), genes=list(grn.genes.index))

    def changed(self) -> list[str]:
        """Options that are not as by default."""
        return [field.name for field in fields(self) if not _same(getattr(self, field.name), field.default)]


def _same(value: object, default: object) -> bool:
    return value is default or (isinstance(value, str | int | np.integer | tuple) and value == default)
