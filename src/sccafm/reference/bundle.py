"""What a model must know to read data: gene names, conditions, regulators, and the prior network."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from sccafm.reference.conditions import Conditions
from sccafm.reference.genes import GeneNames, Vocabulary, normalize_symbol
from sccafm.reference.tables import read_aliases, read_homologs, read_lineages, read_prior, read_regulators


@dataclass(frozen=True, eq=False)
class ReferenceData:
    """A release's tables, without its networks."""

    genes: GeneNames
    conditions: Conditions
    regulators: Mapping[str, pd.DataFrame]  # "human", "mouse" -> spelled symbols, class
    prior: pd.DataFrame  # Gene1, Gene2, spelled, and what else the file has
    lineages: Mapping[str, str] = field(default_factory=dict)  # spelled human symbol -> what the regulator is known for

    @property
    def vocabulary(self) -> Vocabulary:
        return self.genes.vocabulary

    @cached_property
    def prior_tokens(self) -> pd.DataFrame:
        """The prior's edges by token (columns source, target), those that the vocabulary holds."""
        tokens = {"source": "Gene1", "target": "Gene2"}
        edges = self.prior.assign(**{k: self.prior[c].map(self.vocabulary.token) for k, c in tokens.items()})
        return edges[(edges["source"] >= 0) & (edges["target"] >= 0)]

    def without(self, regulators: Collection[str]) -> "ReferenceData":
        """The same with a prior that holds no edge of these regulators, named by symbols of human genes.

        Raises
        ------
        ValueError
            The prior knows one of them not at all.
        """
        spelled = {normalize_symbol(name) for name in regulators}
        unknown = sorted(spelled - set(self.prior["Gene1"]))
        if unknown:
            raise ValueError(f"the prior has no edges of {', '.join(unknown[:5])}; name regulators that it holds")
        return replace(self, prior=self.prior[~self.prior["Gene1"].isin(spelled)].reset_index(drop=True))


def read_reference_data(files: Mapping[str, Path]) -> ReferenceData:
    """Read the tables of a release; `files` maps logical names to paths (see `pretrained.CANDIDATES`)."""
    vocabulary = Vocabulary.read(files["vocab"])
    return ReferenceData(
        genes=GeneNames(
            vocabulary,
            read_homologs(files["homologous"]),
            aliases=read_aliases(files["aliases"]),
            retired=read_aliases(files["aliases"], retired_only=True),
        ),
        conditions=Conditions.read(files["cond_dict"]),
        regulators={species: read_regulators(files[f"{species}_tfs"]) for species in ("human", "mouse")},
        prior=read_prior(files["omnipath"]),
        lineages=read_lineages(files["lineages"]) if "lineages" in files else {},
    )
