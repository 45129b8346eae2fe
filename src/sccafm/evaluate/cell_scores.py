"""Every form of per-cell scores becomes one array: C cells x E edges."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sccafm.evaluate.truth import gene_lookup, respell, score_matrix
from sccafm.grn.grn import GRN
from sccafm.grn.storage import PART_CELLS


def cell_scores(scores, edges: pd.DataFrame, states: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the edges in the cells, and which edges are scored at all.

    Edges that one cell does not hold, but others do, count as 0, or as the lowest score where some are negative.

    Parameters
    ----------
    scores
        A GRN (kept factors, or else kept edges); a DataFrame cells x (source, target); a dictionary from cell, or from
        state, to a matrix regulators x targets or a long table source, target, weight; an array cells x edges in the
        order of `states` and `edges`.
    edges
        E rows source, target.
    states
        State of each of the C cells, index cell.

    Returns
    -------
    C x E float64, and E booleans.

    Raises
    ------
    KeyError
        Cells or states are absent.
    ValueError
        NaN, another shape, or an unknown form.
    """
    if isinstance(scores, GRN):
        values = _of_grn(scores, edges, states.index)
    elif isinstance(scores, Mapping):
        values = _of_mapping(scores, edges, states)
    elif isinstance(scores, pd.DataFrame):
        values = _of_frame(scores, edges, states.index)
    elif isinstance(scores, np.ndarray):
        if scores.shape != (len(states), len(edges)):
            raise ValueError(f"expected an array {len(states)} cells x {len(edges)} edges, got {scores.shape}")
        values = scores.astype(float)
    else:
        raise ValueError(
            f"expected a GRN, a DataFrame cells x (source, target), a dictionary of networks or an array, got "
            f"{type(scores).__name__}"
        )
    if np.isnan(values).any():
        raise ValueError(
            f"{np.isnan(values).sum():,} of {values.size:,} scores are NaN; let missing edges rank last: "
            "`scores.fillna(-numpy.inf)`"
        )
    is_held = ~np.isneginf(values)
    lowest = min(0.0, values[is_held].min(initial=0.0))
    return np.where(is_held, values, lowest), np.asarray(is_held.any(axis=0))


def _of_grn(grn: GRN, edges: pd.DataFrame, cells: pd.Index) -> np.ndarray:
    """Scores from kept factors, else weights of kept edges; -inf for edges outside the GRN's genes."""
    _check_present(cells, grn.cells, "cells", "infer them too, or judge fewer: `truth[list(grn.cells)]` of an AnnData")
    lookup = gene_lookup(grn.targets)
    row, column = (
        index.get_indexer(respell(edges[end], lookup))
        for index, end in ((grn.regulators, "source"), (grn.targets, "target"))
    )
    inside = (row >= 0) & (column >= 0)
    values = np.full((len(cells), len(edges)), -np.inf)
    if grn.params["run"]["keep_factors"]:
        for i, cell in enumerate(cells):
            u, v = (factor.to_numpy() for factor in grn.factors(cell))
            values[i, inside] = (u[row[inside]] * v[column[inside]]).sum(1)
        return values
    if inside.any():
        values[:, inside] = _of_kept(grn, row[inside] * len(grn.targets) + column[inside], cells)
    return values


def _of_kept(grn: GRN, codes: np.ndarray, cells: pd.Index) -> np.ndarray:
    """Weights of the edges with these numbers; 0 where a cell did not keep them."""
    order = np.argsort(codes, kind="stable")
    out, positions = np.zeros((len(cells), len(codes))), grn.cells.get_indexer(cells)
    row = np.full(len(grn), -1)
    row[positions] = np.arange(len(cells))
    for start in range(0, len(cells), PART_CELLS):
        kept = grn.edges.of(positions[start : start + PART_CELLS])
        place = np.minimum(np.searchsorted(codes[order], kept.edge), len(codes) - 1)
        found = codes[order][place] == kept.edge
        out[row[kept.cell[found]], order[place[found]]] = kept.weight[found]
    return out


def _of_mapping(scores: Mapping, edges: pd.DataFrame, states: pd.Series) -> np.ndarray:
    is_by_state = set(states.unique()) <= set(scores)
    if not is_by_state:
        _check_present(states.index, pd.Index(list(scores)), "cells (or states)", "give one network for each")
    keys = states if is_by_state else states.index
    of = {key: _of_network(scores[key], edges) for key in pd.unique(keys)}
    return np.stack([of[key] for key in keys])


def _of_network(network, edges: pd.DataFrame) -> np.ndarray:
    """Scores of E edges in one network, -inf where it does not hold them."""
    matrix = score_matrix(network)
    lookup = gene_lookup([*matrix.index, *matrix.columns])
    row = matrix.index.get_indexer(respell(edges["source"], lookup))
    column = matrix.columns.get_indexer(respell(edges["target"], lookup))
    inside = (row >= 0) & (column >= 0)
    return np.where(inside, matrix.to_numpy()[row, column], -np.inf)


def _of_frame(scores: pd.DataFrame, edges: pd.DataFrame, cells: pd.Index) -> np.ndarray:
    if scores.columns.nlevels != 2:
        raise ValueError(
            "expected a DataFrame cells x (source, target); label the columns: "
            "`pd.DataFrame(array, index=cells, columns=pd.MultiIndex.from_frame(edges[['source', 'target']]))`"
        )
    _check_present(cells, scores.index, "cells", "its index holds the names of the cells")
    table = scores.columns.to_frame(index=False).set_axis(["source", "target"], axis=1)
    lookup = gene_lookup(pd.unique(table.to_numpy(dtype=object).ravel()))
    held, wanted = (
        pd.MultiIndex.from_arrays([respell(t[end], lookup) for end in ("source", "target")]) for t in (table, edges)
    )
    if held.has_duplicates:
        raise ValueError(f"{held.duplicated().sum()} edges stand twice in the columns of the scores; drop them")
    column = held.get_indexer(wanted)
    values = scores.loc[cells].to_numpy(dtype=float)[:, column]
    return np.where(column >= 0, values, -np.inf)


def _check_present(wanted: pd.Index, present: pd.Index, what: str, mend: str) -> None:
    missing = wanted[~wanted.isin(present)]
    if len(missing):
        raise KeyError(
            f"{len(missing):,} of {len(wanted):,} {what} of the truth have no scores, first {missing[0]!r}; the scores "
            f"have {', '.join(map(repr, present[:3]))}, ...; {mend}"
        )
