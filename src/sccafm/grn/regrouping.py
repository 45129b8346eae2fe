"""Mean networks of other groups than those of the inference: from sums that join, or from kept factors."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sccafm._io import blocks
from sccafm.confidence.permutation import tested_cells
from sccafm.grn.factors import unpack_factors

BLOCK_CELLS = 64  # whose factors are dense together
NOT_KEPT = {
    "scores": "mean networks: infer with keep_factors=True, or with groupby= a column whose groups these join",
    "expression": "mean expression: only groups that join groups of the inference have it",
}


def regrouped_sums(
    sums: Mapping[str, np.ndarray], old: pd.Series, new: pd.Series, arrays: Mapping[str, np.ndarray], n_factors: int
) -> dict[str, np.ndarray]:
    """Running sums of new groups of the same cells.

    Parameters
    ----------
    sums
        Of the old groups: scores (groups T G), expression (groups G), and what is not of groups.
    old, new
        Group of each cell, categorical.
    arrays
        Kept factors of the cells, where there are any.
    n_factors
        M.

    Returns
    -------
    The same with the new groups. Where they cannot be known, `all_scores` and `all_expression` (of all cells) take the
    place of scores and expression.
    """
    found = {name: array for name, array in sums.items() if not name.endswith(("scores", "expression", "tested"))}
    joins = joined_groups(old, new)
    found |= regrouped_tests(sums, joins, new, arrays, n_factors)
    for name in ("scores", "expression"):
        if name in sums and joins is not None:
            found[name] = np.stack([sums[name][joins == group].sum(0) for group in range(len(new.cat.categories))])
        elif name == "scores" and "u_index" in arrays:
            found[name] = summed_scores(arrays, new.cat.codes.to_numpy(), len(new.cat.categories), n_factors)
        else:
            found[f"all_{name}"] = sums[name].sum(0) if name in sums else sums[f"all_{name}"]
    return found


def regrouped_tests(
    sums: Mapping[str, np.ndarray],
    joins: np.ndarray | None,
    new: pd.Series,
    arrays: Mapping[str, np.ndarray],
    n_factors: int,
) -> dict[str, np.ndarray]:
    """Sums over the cells by which new groups are tested; of all cells alone where nothing is known of groups."""
    if "tested" not in sums:
        return {}
    n_groups, every = len(new.cat.categories), (sums["tested"][-1:], sums["n_tested"][-1:])
    if "u_index" in arrays:
        cells = tested_cells(new.index, new.cat.codes.to_numpy(), n_groups)[:-1]
        codes = np.full(len(new), -1)
        for group, chosen in enumerate(cells):
            codes[chosen] = group
        total = summed_scores(arrays, codes, n_groups, n_factors).astype(np.float32)
        found = total, np.array([len(chosen) for chosen in cells])
    elif joins is not None and len(sums["tested"]) > 1:
        # The joined group with the most tested cells stands for all of them: a sum over many would have more power.
        counts = np.where(joins == np.arange(n_groups)[:, None], sums["n_tested"][:-1], -1)
        best = counts.argmax(1)
        there = (counts.max(1) > 0).astype(np.int64)
        found = sums["tested"][best] * there[:, None, None].astype(np.float32), sums["n_tested"][best] * there
    else:
        found = every[0][:0], every[1][:0]
    return {
        name: np.concatenate(pair)
        for name, pair in zip(("tested", "n_tested"), zip(found, every, strict=True), strict=True)
    }


def joined_groups(old: pd.Series, new: pd.Series) -> np.ndarray | None:
    """Position of the new group that each old group lies in (-1 for one without cells); None where one is divided."""
    pairs = pd.DataFrame({"old": old.cat.codes.to_numpy(), "new": new.cat.codes.to_numpy()}).drop_duplicates()
    if pairs["old"].duplicated().any():
        return None
    found = np.full(len(old.cat.categories), -1)
    found[pairs["old"]] = pairs["new"]
    return found


def summed_scores(arrays: Mapping[str, np.ndarray], codes: np.ndarray, n_groups: int, n_factors: int) -> np.ndarray:
    """Scores summed over the cells of each group: groups T G float64.

    The sum over cells of u v' is one product of the cells' factors side by side.
    """
    n_regulators, n_targets = arrays["u_index"].shape[1], arrays["v_index"].shape[1]
    total = np.zeros((n_groups, n_regulators, n_targets))
    for group in range(n_groups):
        cells = np.flatnonzero(codes == group)
        for start, stop in blocks(len(cells), BLOCK_CELLS):
            u, v = (side_by_side(arrays, name, cells[start:stop], n_factors) for name in "uv")
            total[group] += u @ v.T
    return total


def side_by_side(arrays: Mapping[str, np.ndarray], name: str, cells: np.ndarray, n_factors: int) -> np.ndarray:
    """Factors of some cells as one matrix: rows x (cells * M)."""
    dense = unpack_factors(
        np.asarray(arrays[f"{name}_index"][cells]), np.asarray(arrays[f"{name}_value"][cells]), n_factors
    )
    return dense.transpose(1, 0, 2).reshape(dense.shape[1], -1)
