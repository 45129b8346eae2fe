"""Which edges a picture shows, and how strongly its genes are expressed."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from sccafm.grn.grn import GRN
from sccafm.grn.networks import Network, from_edges

RANKS = ("specific", "weight")


def as_network(network: GRN | Network | pd.DataFrame) -> GRN | Network:
    """What has groups, `matrix` and `network`; a table of edges becomes one.

    Raises
    ------
    TypeError
        Something else.
    """
    if isinstance(network, pd.DataFrame):
        return from_edges(network)
    if not isinstance(network, GRN | Network):
        raise TypeError(
            f"expected a GRN, a Network or a table of edges, got {type(network).__name__}; "
            "grn = sccafm.infer_grn(adata), or sccafm.GRN.from_edges(table)"
        )
    return network


def specificity(network: GRN | Network, group: object, beside: str | Iterable[str] | None = None) -> pd.DataFrame:
    """log2 of each pair's weight in a group over its mean in the groups `beside` it (None: all others): regulators x targets.

    The mean weight of the group is added to both, so that pairs weak everywhere are near 0. All 0 with one group.
    """
    names, own = network.group_names, network.matrix(group)
    others = [name for name in names if name != str(group)]
    if beside is not None:
        others = [beside] if isinstance(beside, str) else list(beside)
        if group is None or str(group) in others:
            raise ValueError(f"beside={beside!r} needs another group=, got {group!r}")
    if group is None or not others:
        return own * 0
    rest = sum(network.matrix(name).to_numpy() for name in others) / len(others)
    floor = max(own.to_numpy().mean(), 1e-12)
    return np.log2((own + floor) / (rest + floor))


def chosen_edges(
    network: GRN | Network,
    group: object = None,
    *,
    n_edges: int = 50,
    rank: str = "specific",
    beside: str | Iterable[str] | None = None,
    genes: Iterable[str] | None = None,
    max_regulators: int | None = 3,
    min_confidence: float | None = None,
) -> pd.DataFrame:
    """Edges for a picture: the table of `network`, and specificity.

    Parameters
    ----------
    network, group
        None: all cells of a GRN, the only group of a Network.
    n_edges
        How many.
    rank
        "specific": by weight times `specificity`, of those above 0; by weight where there is nothing to compare with.
        "weight": by weight.
    beside
        Groups that specificity compares with; None: all others.
    genes
        Only edges that begin or end here.
    max_regulators
        Of one target, the first in rank; None: no limit.
    min_confidence
        Least confidence.
    """
    if rank not in RANKS:
        raise ValueError(f"rank must be one of {', '.join(map(repr, RANKS))}, got {rank!r}")
    if n_edges < 1:
        raise ValueError(f"n_edges must be a positive number, got {n_edges}")
    table = network.network(group)
    ratio = specificity(network, group, beside)
    source, target = ratio.index.get_indexer(table["source"]), ratio.columns.get_indexer(table["target"])
    table["specificity"] = ratio.to_numpy()[source, target]
    table = table[kept(table, genes, min_confidence)]
    if rank == "specific" and (table["specificity"] > 0).any():
        table = table[table["specificity"] > 0]
        worth = table["weight"] * table["specificity"]
        table = table.loc[worth.sort_values(ascending=False, kind="stable").index]
    if max_regulators is not None:
        table = table[table.groupby("target", observed=True).cumcount() < max_regulators]
    if table.empty:
        raise ValueError("no edge is left; ask for fewer conditions (genes=, min_confidence=), or another group")
    return table.head(n_edges).reset_index(drop=True)


def kept(table: pd.DataFrame, genes: Iterable[str] | None, min_confidence: float | None) -> pd.Series:
    keep = pd.Series(True, index=table.index)
    if genes is not None:
        wanted = [genes] if isinstance(genes, str) else list(genes)
        known = set(table["source"].astype(str)) | set(table["target"].astype(str))
        unknown = [gene for gene in wanted if gene not in known]
        if unknown:
            raise KeyError(f"no edge of this group begins or ends at {', '.join(map(repr, unknown))}")
        keep &= table["source"].isin(wanted) | table["target"].isin(wanted)
    if min_confidence is not None:
        if "confidence" not in table or table["confidence"].isna().all():
            raise ValueError("these edges have no confidence; leave min_confidence out")
        keep &= table["confidence"] >= min_confidence
    return keep


def mean_expression(network: GRN | Network, group: object) -> pd.Series | None:
    """Mean expression of each gene over a group's cells, as the model read it; None where it is not known."""
    if isinstance(network, Network):
        return None
    if group is None:
        total, cells = network.sums.get("expression", network.sums.get("all_expression")), len(network)
        total = total.sum(0) if total is not None and total.ndim == 2 else total
    elif "expression" in network.sums:
        row = list(network.group_sizes.index.astype(str)).index(str(group))
        total, cells = network.sums["expression"][row], network.group_sizes.iloc[row]
    else:
        return None
    return None if total is None else pd.Series(total / max(cells, 1), index=network.targets)
