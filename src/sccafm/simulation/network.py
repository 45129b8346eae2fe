"""The network that is simulated: the door for a table of signed edges, and real sub-networks of the prior."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sccafm.reference.tables import bundled, read_prior, read_regulators

ENDS = (("source", "target"), ("Gene1", "Gene2"))
STRENGTHS = (1.0, 5.0)  # production at full occupancy, uniform: the range of SERGIO's data sets
MIN_TARGETS = 10  # signed targets of a regulator that is worth drawing


def read_network(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Check a table of signed edges; strengths are drawn where it has none.

    Returns
    -------
    DataFrame with the columns source, target (str), sign (int8, +1 or -1), strength (float64, > 0).

    Raises
    ------
    KeyError
        No columns source, target (or Gene1, Gene2), or no column sign.
    ValueError
        No edge, self-edges, an edge that stands there twice, another sign than +1 or -1, or a strength that is no
        positive number.
    """
    source, target = next((ends for ends in ENDS if set(ends) <= set(table.columns)), ("", ""))
    if not source or "sign" not in table:
        raise KeyError(
            f"expected columns source, target, sign (and strength), got {list(table.columns[:8])}; "
            "rename them: `network.rename(columns={'my_tf': 'source', 'my_gene': 'target'})`"
        )
    if not len(table):
        raise ValueError("the network has no edge; pass at least one row source, target, sign")
    edges = pd.DataFrame({"source": table[source].astype(str), "target": table[target].astype(str)})
    _check_edges(edges, table["sign"], source, target)
    strength = table["strength"] if "strength" in table else rng.uniform(*STRENGTHS, len(table))
    edges = edges.assign(sign=table["sign"].astype(np.int8), strength=np.asarray(strength, dtype=float))
    if not (np.isfinite(edges["strength"]) & (edges["strength"] > 0)).all():
        raise ValueError("strengths must be positive numbers, the sign stands in `sign`: `network['strength'].abs()`")
    return edges.reset_index(drop=True)


def _check_edges(edges: pd.DataFrame, sign: pd.Series, source: str, target: str) -> None:
    is_self, is_twice = edges["source"] == edges["target"], edges.duplicated()
    if not sign.isin([-1, 1]).all():
        raise ValueError(
            f"{(~sign.isin([-1, 1])).sum()} edges have another sign than +1 or -1; drop those of unknown sign: "
            "`network[network['sign'].isin([-1, 1])]`"
        )
    if is_self.any():
        raise ValueError(
            f"{is_self.sum()} self-edges, first {edges['source'][is_self].iloc[0]!r}; drop them: "
            f"`network[network[{source!r}] != network[{target!r}]]`"
        )
    if is_twice.any():
        raise ValueError(
            f"{is_twice.sum()} edges stand there twice, first {' -> '.join(edges[is_twice].iloc[0])}; drop them: "
            f"`network.drop_duplicates([{source!r}, {target!r}])`"
        )


def sample_network(
    n_genes: int = 200,
    *,
    n_regulators: int | None = None,
    prior: pd.DataFrame | str | Path | None = None,
    max_regulators: int = 5,
    random_state: int = 0,
) -> pd.DataFrame:
    """A real signed sub-network, whose genes a model knows by name.

    Regulators are drawn among the DNA-binding factors (those that `infer_grn` reads by default) with at least ten
    signed targets, the other genes among their targets; all signed prior edges between them are kept, up to
    `max_regulators` of a target, so that one edge matters. Feedback between regulators stays.

    Parameters
    ----------
    n_genes
        Genes of the sub-network, regulators among them.
    n_regulators
        Regulators; None: a tenth of the genes, at least two.
    prior
        Table, whose sources may all be drawn, or CSV file, with the columns Gene1, Gene2, sign; None: the bundled one
        (human symbols).
    max_regulators
        Largest number of regulators of a target, drawn at random; a regulator's only edge is kept beyond it.

    Returns
    -------
    DataFrame with the columns source, target, sign; no strengths, `simulate` draws them.

    Raises
    ------
    ValueError
        The prior has too few regulators or targets.
    """
    rng = np.random.default_rng(random_state)
    edges = _signed_prior(prior)
    n_regulators = max(2, n_genes // 10) if n_regulators is None else n_regulators
    counts = edges["Gene1"].value_counts().sort_index()
    able = counts.index[counts >= MIN_TARGETS]
    if not 1 <= n_regulators <= min(len(able), n_genes // 2):
        raise ValueError(
            f"asked for {n_regulators} regulators among {n_genes} genes; the prior has {len(able)} with {MIN_TARGETS} "
            "targets or more, and at least as many other genes are needed: lower n_regulators or raise n_genes"
        )
    regulators = rng.choice(able, n_regulators, replace=False)
    own = edges[edges["Gene1"].isin(regulators)]
    others = np.setdiff1d(own["Gene2"].unique().astype(str), regulators)
    n_others = n_genes - n_regulators
    if n_others > len(others):
        raise ValueError(
            f"{n_regulators} regulators have only {len(others)} targets in the prior, {n_others} were asked for; "
            f"raise n_regulators={n_regulators}"
        )
    # one target of each regulator first, so that none is left without an edge
    firsts = own[~own["Gene2"].isin(regulators)].sample(frac=1, random_state=rng).drop_duplicates("Gene1")["Gene2"]
    firsts = firsts.unique()
    chosen = np.concatenate([firsts, rng.choice(np.setdiff1d(others, firsts), n_others - len(firsts), replace=False)])
    inside = own[own["Gene2"].isin(chosen) | own["Gene2"].isin(regulators)].sample(frac=1, random_state=rng)
    inside = inside.iloc[np.argsort(inside.duplicated("Gene1").to_numpy(), kind="stable")]
    keep = ~inside.duplicated("Gene1") | (inside.groupby("Gene2").cumcount() < max_regulators)
    found = inside[keep].sort_values(["Gene1", "Gene2"], ignore_index=True)
    return found.rename(columns={"Gene1": "source", "Gene2": "target"})[["source", "target", "sign"]]


def _signed_prior(prior: pd.DataFrame | str | Path | None) -> pd.DataFrame:
    if isinstance(prior, pd.DataFrame):
        given: Any = prior
        edges = given.rename(columns={"source": "Gene1", "target": "Gene2"})
    else:
        edges = read_prior(bundled() / "OmniPath.csv" if prior is None else Path(prior))
        classes = read_regulators(bundled() / "human_tfs.csv")["class"]
        edges = edges[edges["Gene1"].map(classes) == "dna_binding"]
    if not {"Gene1", "Gene2", "sign"} <= set(edges.columns):
        raise KeyError(f"the prior needs the columns Gene1, Gene2, sign; it has {list(edges.columns[:8])}")
    return edges[edges["sign"].isin([-1, 1]) & (edges["Gene1"] != edges["Gene2"])]
