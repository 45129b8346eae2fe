"""What is known of each regulator-target pair of a run, whatever the cell: prior, sources, binding, response, sign, null."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

STATIC = ("in_prior", "binding", "response", "sign")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Columns of edges.parquet, one value for each pair in regulator-major order."""

    in_prior: np.ndarray  # T G bool: the prior network holds the edge
    sources: np.ndarray  # T G int16, code of `source_names`
    source_names: tuple[str, ...]  # "" first: no source is known
    binding: np.ndarray  # T G float32: probability that the regulator binds near the gene; NaN where none is fitted
    response: np.ndarray  # T G float32: probability that the gene responds to a change of the regulator
    sign: np.ndarray  # T G int8: +1 activates, -1 represses, 0 abstains
    null_mean: np.ndarray  # T G float32, mean score in permuted cells; NaN without a null
    null_sd: np.ndarray  # T G float32
    n_null: int  # permuted cells

    @property
    def chance(self) -> np.ndarray:
        """Mean of binding and response, whatever the cell: T G float32."""
        return (self.binding + self.response) / 2

    def columns(self, edge: np.ndarray) -> dict[str, object]:
        """Static columns of an edge table, for flat positions."""
        return {
            "binding": self.binding.ravel()[edge],
            "response": self.response.ravel()[edge],
            "in_prior": self.in_prior.ravel()[edge],
            "prior_sources": pd.Categorical.from_codes(self.sources.ravel()[edge], self.source_names),
        }

    def table(self, regulators: pd.Index, targets: pd.Index) -> pd.DataFrame:
        """Everything, as edges.parquet holds it."""
        edge = np.arange(self.in_prior.size, dtype=np.int32)
        source, target = np.divmod(edge, len(targets))
        ends = {
            "edge": edge,
            "source": pd.Categorical.from_codes(source, regulators),
            "target": pd.Categorical.from_codes(target, targets),
        }
        null = {"null_mean": self.null_mean.ravel(), "null_sd": self.null_sd.ravel()}
        return pd.DataFrame(ends | {"sign": self.sign.ravel()} | self.columns(edge) | null)


def pairs_of(table: pd.DataFrame, n_targets: int, n_null: int) -> Pairs:
    """The columns of edges.parquet as matrices."""
    sources = table["prior_sources"].astype("category").cat
    matrices = {name: table[name].to_numpy().reshape(-1, n_targets) for name in STATIC}
    null = {name: table[name].to_numpy().reshape(-1, n_targets) for name in ("null_mean", "null_sd")}
    codes = sources.codes.to_numpy().astype(np.int16).reshape(-1, n_targets)
    return Pairs(**matrices, sources=codes, source_names=tuple(sources.categories), **null, n_null=n_null)
