"""Baselines for per-cell networks: scores of E edges in C cells, as DataFrames cells x (source, target).

Expression comes as in `sccafm.evaluate.baselines`: counts are log-normalised, other input is read as it is, and a gene
that does not vary correlates with nothing.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sccafm.evaluate.baselines import Expression, dense_columns, expression

EDGES_AT_ONCE = 256  # a few arrays of cells x so many edges are held at a time
ALL = (
    "lioness", "state_pearson", "pooled_pearson", "expression_product", "source_expression", "target_expression",
    "state_target_expression", "random",
)  # fmt: skip


def lioness(data: Expression, edges: pd.DataFrame, *, layer: str | None = None) -> pd.DataFrame:
    """LIONESS on Pearson correlation (Kuijjer et al., iScience 2019): signed, unbounded.

    The network of cell q is ``N r - (N - 1) r_q``, where r is the correlation over all N cells and r_q that without q.

    Parameters
    ----------
    data
        AnnData or DataFrame, cells x genes.
    edges
        Table with the columns source, target: genes of the data.
    layer
        Layer of the AnnData to read instead of X.

    Returns
    -------
    DataFrame cells x (source, target), float32.

    Raises
    ------
    KeyError
        A gene or the layer is absent.
    ValueError
        NaN or infinite expression, or fewer than three cells.
    """
    x, row, column = _ends(data, edges, layer)
    n = len(x)
    if n < 3:
        raise ValueError(f"LIONESS leaves one cell out and correlates the others: it needs 3 cells, got {n}")
    x = x - x.mean(0)
    power = (x**2).sum(0)
    left = power - x**2 * n / (n - 1)  # sums of squares around the mean without each cell, C x genes
    left[left <= 1e-9 * power] = 0
    out = np.empty((n, len(row)), dtype=np.float32)
    for s, t, part in _chunks(row, column):
        product = x[:, s] * x[:, t]
        covariance = product.sum(0)
        all_cells = _over_root(covariance, power[s] * power[t])
        without = _over_root(covariance - product * n / (n - 1), left[:, s] * left[:, t])
        out[:, part] = n * all_cells - (n - 1) * without
    return _labelled(out, data, edges)


def group_pearson(
    data: Expression, edges: pd.DataFrame, groups: Sequence | None = None, *, layer: str | None = None
) -> pd.DataFrame:
    """``|Pearson|`` over the cells of each group, handed to all its cells: an averaged network per cell type.

    Parameters
    ----------
    groups
        Group of each cell; None: all cells are one group, so that every cell has the same network.

    Notes
    -----
    Other parameters, result and errors as in `lioness`.
    """
    x, row, column = _ends(data, edges, layer)
    out = np.zeros((len(x), len(row)), dtype=np.float32)
    for cells in _members(groups, len(x)).values():
        part = x[cells] - x[cells].mean(0)
        power = np.where(np.ptp(x[cells], axis=0) > 0, (part**2).sum(0), 0)
        for s, t, where in _chunks(row, column):
            covariance = np.einsum("ce,ce->e", part[:, s], part[:, t])
            out[np.ix_(cells, where)] = np.abs(_over_root(covariance, power[s] * power[t]))
    return _labelled(out, data, edges)


def expression_product(data: Expression, edges: pd.DataFrame, *, layer: str | None = None) -> pd.DataFrame:
    """The regulator's expression times the target's, in the cell itself. Parameters and errors as in `lioness`."""
    x, row, column = _ends(data, edges, layer)
    return _labelled((x[:, row] * x[:, column]).astype(np.float32), data, edges)


def end_expression(data: Expression, edges: pd.DataFrame, end: str, *, layer: str | None = None) -> pd.DataFrame:
    """Expression of the edge's "source" or "target" in the cell itself. Other parameters and errors as in `lioness`."""
    x, row, column = _ends(data, edges, layer)
    return _labelled(x[:, {"source": row, "target": column}[end]].astype(np.float32), data, edges)


def state_mean(scores: pd.DataFrame, states: pd.Series) -> pd.DataFrame:
    """Scores of cells x edges, averaged over the cells of each state and handed to all of them: without their noise."""
    return scores.groupby(states.to_numpy()).transform("mean")


def run_cell_baselines(
    wanted: str | Sequence[str] | None,
    data: Expression | None,
    edges: pd.DataFrame,
    states: pd.Series,
    layer: str | None,
    random_state: int,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Scores (C x E) of the baselines by name, and why the others are absent.

    Raises
    ------
    ValueError
        An unknown name, or a baseline asked for by name that lacks expression.
    """
    names = ALL if wanted == "all" else (wanted,) if isinstance(wanted, str) else tuple(wanted or ())
    if unknown := [name for name in names if name not in ALL]:
        raise ValueError(f"unknown baselines {unknown}; expected 'all', None, or some of {list(ALL)}")
    lacking = {name: "pass adata=" for name in names if name != "random" and data is None}
    if lacking and wanted != "all":
        raise ValueError(f"{', '.join(lacking)} need expression; pass the cells: `adata=`")
    run = {
        "lioness": lambda: lioness(data, edges, layer=layer).abs(),
        "state_pearson": lambda: group_pearson(data, edges, states.to_numpy(), layer=layer),
        "pooled_pearson": lambda: group_pearson(data, edges, layer=layer),
        "expression_product": lambda: expression_product(data, edges, layer=layer),
        "source_expression": lambda: end_expression(data, edges, "source", layer=layer),
        "target_expression": lambda: end_expression(data, edges, "target", layer=layer),
        "state_target_expression": lambda: state_mean(end_expression(data, edges, "target", layer=layer), states),
        "random": lambda: np.random.default_rng(random_state).random((len(states), len(edges)), dtype=np.float32),
    }
    return {name: np.asarray(run[name]()) for name in names if name not in lacking}, lacking


def _ends(data: Expression, edges: pd.DataFrame, layer: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expression of the genes that the edges name, dense, and the columns of sources and targets in it."""
    matrix, genes = expression(data, layer)
    names = pd.Index(pd.unique(edges[["source", "target"]].to_numpy(dtype=object).ravel()))
    missing = names[~names.isin(genes)].tolist()
    if missing:
        raise KeyError(
            f"{len(missing)} genes of the edges are not in the data, e.g. {missing[:5]}; keep the measured ones: "
            "`edges[edges[['source', 'target']].isin(adata.var_names).all(axis=1)]`"
        )
    first = pd.Series(np.arange(len(genes)), index=genes).groupby(level=0, sort=False).first()
    x = dense_columns(matrix, first.loc[names].to_numpy())
    return x, names.get_indexer(edges["source"]), names.get_indexer(edges["target"])


def _chunks(row: np.ndarray, column: np.ndarray):
    for start in range(0, len(row), EDGES_AT_ONCE):
        part = np.arange(start, min(start + EDGES_AT_ONCE, len(row)))
        yield row[part], column[part], part


def _members(groups: Sequence | None, n: int) -> dict[object, np.ndarray]:
    if groups is None:
        return {"all": np.arange(n)}
    if len(groups) != n:
        raise ValueError(f"expected a group for each of {n} cells, got {len(groups)}")
    return pd.Series(np.arange(n)).groupby(np.asarray(groups)).apply(np.asarray).to_dict()


def _over_root(numerator: np.ndarray, squared: np.ndarray) -> np.ndarray:
    out = np.zeros(np.shape(numerator))
    return np.divide(numerator, np.sqrt(squared), out=out, where=squared > 0)


def _labelled(values: np.ndarray, data: Expression, edges: pd.DataFrame) -> pd.DataFrame:
    cells = data.index if isinstance(data, pd.DataFrame) else data.obs_names
    return pd.DataFrame(values, index=cells, columns=pd.MultiIndex.from_frame(edges[["source", "target"]]))
