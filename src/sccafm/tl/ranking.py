"""rank_regulators: which regulators mark each group of cells."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from sccafm._text import warn
from sccafm.evaluate.baselines import dense_columns
from sccafm.evaluate.baselines import expression as expression_of
from sccafm.grn.grn import GRN
from sccafm.model.validation import check_key
from sccafm.tl.group_statistics import beside_others, beside_others_by_sample, group_auroc, group_moments, long_table
from sccafm.tl.mean_networks import mean_networks
from sccafm.tl.shared import check_grn, column, donors_of, log_strength, obs_of, several_groups

MIN_CELLS = 3


def rank_regulators(
    grn_or_adata: GRN | AnnData,
    groupby: str | pd.Series | Iterable | None = None,
    *,
    sample_key: str | pd.Series | None = None,
    adata: AnnData | None = None,
    top_k: int = 1000,
    n_targets: int = 5,
    key_added: str = "rank_regulators",
    copy: bool = False,
) -> pd.DataFrame:
    """Rank the regulators of each group of cells by how much stronger they are there than elsewhere.

    Strength is `GRN.strengths`, the sum of a regulator's scores over its targets in a cell. Specificity compares groups on
    a log2 scale, where every other group counts the same, however many cells it has.

    Parameters
    ----------
    grn_or_adata
        Networks of `sccafm.infer_grn` or `sccafm.read_grn`. Or an AnnData with scores that `regulator_activity` wrote:
        ``obsm["score_sccafm"]`` then takes the place of log2 strength, and nothing is told of targets.
    groupby
        A column of obs, a Series indexed by cell names, or a label of each cell. None: the groups of the inference.
        Groups of fewer than 3 cells are left out, with a warning.
    sample_key
        A column or Series of donors. Differences are then taken within each donor and the interval is over donors, which
        are the replicates; without it the interval is over cells and speaks of these cells alone.
    adata
        Whose obs is read (None: obs as it was at inference), and which is annotated.
    top_k
        Strongest edges of a group's mean network among which targets are counted.
    n_targets
        Targets to name.
    key_added
        Key of uns.
    copy
        Leave `adata` alone.

    Returns
    -------
    DataFrame, one row per group and regulator, the most specific of a group first:

    - group (categorical), regulator, rank (from 1);
    - strength: mean over the group's cells, 0 to the number of targets;
    - specificity: mean log2 strength less the mean of the other groups' means; specificity_low, specificity_high: its 95 %
      interval (Welch's over cells, Student's over donors); NaN where fewer than two donors hold the group and another;
    - auroc: probability that a cell of the group has a greater strength than one of the others, 0 to 1;
    - detection: share of the group's cells in which the regulator itself was detected; expression: its mean, as the model
      read it;
    - n_targets: its targets among the group's `top_k` strongest edges; targets: those of its edges that are stronger in
      the group than in the others by most, as text. Both need the groups' mean networks (`GRN.regroup`), else they are
      missing, with a warning.

    In `adata`: ``uns["rank_regulators"]``, the same table with text for group.

    Raises
    ------
    TypeError
        Neither networks nor an AnnData.
    KeyError, ValueError
        No such column, an AnnData without scores, fewer than two groups, or networks of other cells.

    Examples
    --------
    >>> table = sccafm.tl.rank_regulators(grn, "cell_type")
    >>> table[table["rank"] <= 3]
    """
    check_key(key_added)
    found = scored_cells(grn_or_adata) if isinstance(grn_or_adata, AnnData) else strong_cells(grn_or_adata, adata)
    if groupby is None and found.groups is None:
        raise ValueError('an AnnData has no groups of its own: pass groupby="a column of obs"')
    labels = found.groups if groupby is None else column(groupby, found.obs, found.cells, "groupby")
    groups = several_groups(labels, MIN_CELLS, "groupby")
    names, codes = groups.cat.categories, groups.cat.codes.to_numpy()
    if sample_key is None:
        compared = beside_others(*group_moments(found.values, codes, len(names)))
    else:
        samples = donors_of(sample_key, found.obs, found.cells)
        held = samples.notna().to_numpy()
        compared = beside_others_by_sample(found.values[held], codes[held], len(names), samples[held].to_numpy())
        check_samples(compared[0], names)
    detected = np.where(np.isnan(found.expression), np.nan, found.expression > 0)
    seen = {"strength": found.strength, "detection": detected, "expression": found.expression}
    mean = {k: np.stack([a[codes == g].mean(0) for g in range(len(names))]) for k, a in seen.items()}
    table = long_table(
        found.regulators,
        names,
        strength=mean["strength"],
        **dict(zip(("specificity", "specificity_low", "specificity_high"), compared, strict=True)),
        auroc=group_auroc(found.values, codes, len(names)),
        detection=mean["detection"],
        expression=mean["expression"],
    )
    if isinstance(grn_or_adata, GRN):
        count, named = targets_of(grn_or_adata, groups, top_k, n_targets)
        table["n_targets"] = pd.array(count, dtype="Int64")
        table["targets"] = named
    table = table.sort_values(["group", "specificity"], ascending=[True, False], kind="stable", ignore_index=True)
    table.insert(2, "rank", table.groupby("group", observed=True).cumcount() + 1)
    adata = grn_or_adata if isinstance(grn_or_adata, AnnData) else adata
    if adata is not None and not copy:
        plain = table.astype({"group": str})
        if "targets" in plain:
            plain = plain.astype({"n_targets": float}).fillna({"targets": ""})
        adata.uns[key_added] = plain
    return table


def check_samples(specificity: np.ndarray, names: pd.Index) -> None:
    """Groups can be compared within donors alone: one that shares none with another has no specificity."""
    alone = [str(name) for name, row in zip(names, np.asarray(specificity), strict=True) if np.isnan(row).all()]
    if len(alone) == len(names):
        raise ValueError(
            "no donor of sample_key= holds cells of two groups, and groups are compared within donors; leave sample_key= out to "
            "compare cells, or name the column that holds the donors"
        )
    if alone:
        warn(f"{len(alone)} groups share no donor with another and have no specificity: {', '.join(alone[:5])}")


class Regulation(NamedTuple):
    """What is compared between groups: C cells, T regulators."""

    cells: pd.Index
    regulators: pd.Index
    obs: pd.DataFrame | None
    groups: pd.Series | None  # of the inference
    values: np.ndarray  # C T float64, compared
    strength: np.ndarray  # C T, told
    expression: np.ndarray  # C T


def strong_cells(grn: GRN, adata: AnnData | None) -> Regulation:
    grn = check_grn(grn)
    strength, expression = grn.strengths.to_numpy(), grn.regulator_expression.to_numpy()
    labels = obs_of(grn, adata), grn.groups
    return Regulation(grn.cells, grn.regulators, *labels, log_strength(strength), strength, expression)


def scored_cells(adata: AnnData, key: str = "score_sccafm") -> Regulation:
    """Scores that `regulator_activity` wrote; expression is NaN for regulators that are no gene of the AnnData."""
    if key not in adata.obsm:
        raise KeyError(
            f"adata.obsm has no {key!r}: sccafm.tl.regulator_activity(adata, grn) writes it; or pass the networks themselves"
        )
    scores = adata.obsm[key]
    regulators = pd.Index(scores.columns)
    x, genes = expression_of(adata)
    expression = np.full(scores.shape, np.nan)
    at = genes.get_indexer(regulators)
    expression[:, at >= 0] = dense_columns(x, at[at >= 0])
    values = scores.to_numpy(dtype=np.float64)
    return Regulation(adata.obs_names, regulators, adata.obs, None, values, values, expression)


def targets_of(grn: GRN, groups: pd.Series, top_k: int, n_targets: int) -> tuple[list, list]:
    """For each group and regulator: targets among the group's strongest edges, and the names of the most specific ones."""
    try:
        networks = mean_networks(grn, groups)
    except KeyError as error:
        warn(f"targets are not told: {error.args[0]}")
        missing = [None] * (len(groups.cat.categories) * len(grn.regulators))
        return missing, missing
    total = np.sum(networks, axis=0)
    count, named = [], []
    for network in networks:
        flat = network.ravel()
        least = np.partition(flat, -top_k)[-top_k] if top_k < flat.size else 0.0
        count.extend(((network >= least) & (network > 0)).sum(1))
        excess = network - (total - network) / (len(networks) - 1)
        for row in excess:
            best = np.argsort(-row, kind="stable")[:n_targets]
            named.append(", ".join(str(grn.targets[j]) for j in best if row[j] > 0))
    return count, named
