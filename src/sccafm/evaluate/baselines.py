"""Baselines that a network must beat in the same run.

Every function returns a DataFrame regulators x targets of scores, larger is more likely, never NaN. Those that learn
from typing import TypeAlias
from expression take an AnnData or a DataFrame cells x genes; counts (whole numbers only) are brought to 10,000 per
cell and log1p, other input is read as it is, and a gene that does not vary scores 0. Those that know a prior or the
truth take a table of edges.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scipy.stats import rankdata

from sccafm.evaluate.truth import edge_columns, gene_duplicates, gene_keys, score_matrix, spelled_edges

Expression: TypeAlias = AnnData | pd.DataFrame
COUNTS_PER_CELL = 1e4
EARLY_STOP_WINDOW = 25  # trees over which GRNBoost2 looks for an out-of-bag improvement
TARGETS_AT_ONCE = 1000  # ranked densely in one go


def pearson(data: Expression, regulators: Sequence[str] | None = None, *, layer: str | None = None) -> pd.DataFrame:
    """Absolute Pearson correlation over cells, in [0, 1].

    Parameters
    ----------
    data
        AnnData or DataFrame, cells x genes.
    regulators
        Names among the genes; None takes all genes.
    layer
        Layer of the AnnData to read instead of X.

    Returns
    -------
    DataFrame regulators x genes.

    Raises
    ------
    KeyError
        A regulator or the layer is absent.
    ValueError
        NaN or infinite expression.
    """
    x, genes = expression(data, layer)
    rows = _positions(genes, regulators)
    return pd.DataFrame(_correlation(dense_columns(x, rows), x), index=genes[rows], columns=genes)


def spearman(data: Expression, regulators: Sequence[str] | None = None, *, layer: str | None = None) -> pd.DataFrame:
    """Absolute Spearman correlation over cells, in [0, 1]: Pearson on mean ranks.

    Parameters, result and errors as in `pearson`.
    """
    x, genes = expression(data, layer)
    rows = _positions(genes, regulators)
    sources = rankdata(dense_columns(x, rows), axis=0)
    parts = [
        _correlation(sources, rankdata(dense_columns(x, slice(i, i + TARGETS_AT_ONCE)), axis=0))
        for i in range(0, len(genes), TARGETS_AT_ONCE)
    ]
    return pd.DataFrame(np.hstack(parts), index=genes[rows], columns=genes)


def target_mean(data: Expression, regulators: Sequence[str] | None = None, *, layer: str | None = None) -> pd.DataFrame:
    """Mean expression of the target, the same for every regulator.

    The regulators need not be measured. Other parameters, result and errors as in `pearson`.
    """
    x, genes = expression(data, layer)
    rows = genes if regulators is None else pd.Index(regulators)
    mean = np.asarray(x.mean(axis=0)).ravel()
    return pd.DataFrame(np.tile(mean, (len(rows), 1)), index=rows, columns=genes)


def genie3(
    data: Expression,
    regulators: Sequence[str] | None = None,
    *,
    layer: str | None = None,
    n_trees: int = 100,
    max_cells: int | None = 2000,
    n_jobs: int = 1,
    random_state: int = 0,
) -> pd.DataFrame:
    """Tree importances in the manner of GENIE3 (Huynh-Thu et al., PLoS ONE 2010), with extra trees.

    Each target, scaled to unit variance, is regressed on all regulators but itself; a split looks at the square root of
    their number. The score is the total reduction of variance, a mean over trees, in [0, 1].

    Parameters
    ----------
    n_trees
        Trees per target. The paper takes 1,000, in ten times the time.
    max_cells
        Cells drawn without replacement; None takes all.
    n_jobs
        Processes over targets; -1 takes all cores. The result does not depend on it.

    Notes
    -----
    Other parameters, result and errors as in `pearson`.
    """
    from sklearn.tree import ExtraTreeRegressor

    def importance(sources: np.ndarray, target: np.ndarray, seed: int) -> np.ndarray:
        # the trees of ExtraTreesRegressor(n_trees, random_state=seed), without what its loop costs beside small trees
        total = np.zeros(sources.shape[1])
        for tree_seed in np.random.RandomState(seed).randint(np.iinfo(np.int32).max, size=n_trees):
            tree = ExtraTreeRegressor(max_features="sqrt", random_state=tree_seed)
            tree.fit(sources, target, check_input=False)
            total += tree.tree_.compute_feature_importances(normalize=False)
        return total / n_trees

    return _regressed(importance, data, regulators, layer, max_cells, n_jobs, random_state)


def grnboost2(
    data: Expression,
    regulators: Sequence[str] | None = None,
    *,
    layer: str | None = None,
    n_trees: int = 5000,
    max_cells: int | None = 2000,
    n_jobs: int = 1,
    random_state: int = 0,
) -> pd.DataFrame:
    """Boosted-tree importances by GRNBoost2's recipe (Moerman et al., Bioinformatics 2019).

    Stochastic gradient boosting: learning rate 0.01, a tenth of the regulators per split, 90 % of the cells per tree.
    It stops when the last 25 trees did not improve the out-of-bag error on average. The score is the importance times
    the number of trees, so that targets that are explained well weigh more.

    Parameters
    ----------
    n_trees
        Largest number of trees per target.

    Notes
    -----
    Other parameters as in `genie3`, result and errors as in `pearson`.
    """
    from sklearn.ensemble import GradientBoostingRegressor

    def importance(sources: np.ndarray, target: np.ndarray, seed: int) -> np.ndarray:
        boosting = GradientBoostingRegressor(
            learning_rate=0.01, n_estimators=n_trees, max_features=0.1, subsample=0.9, random_state=seed
        )
        boosting.fit(sources, target, monitor=_stops_early)
        return boosting.feature_importances_ * len(boosting.estimators_)

    return _regressed(importance, data, regulators, layer, max_cells, n_jobs, random_state)


def prior_edges(prior: pd.DataFrame, regulators: Iterable[str], targets: Iterable[str]) -> pd.DataFrame:
    """1 where the prior network holds the edge, else 0.

    Parameters
    ----------
    prior
        Table of edges with columns as in `sccafm.evaluate.read_edges`; genes match without regard to case.
    regulators, targets
        Rows and columns of the result.

    Raises
    ------
    KeyError
        No known pair of columns.
    """
    regulators, targets = pd.Index(regulators), pd.Index(targets)
    edges = _keyed(prior)
    is_source, is_target = edges["source"].isin(gene_keys(regulators)), edges["target"].isin(gene_keys(targets))
    known = edges[is_source & is_target].assign(value=1.0).pivot(index="source", columns="target", values="value")
    known = known.reindex(index=gene_keys(regulators), columns=gene_keys(targets)).fillna(0.0)
    return known.set_axis(regulators, axis=0).set_axis(targets, axis=1)


def prior_degrees(prior: pd.DataFrame, regulators: Iterable[str], targets: Iterable[str]) -> pd.DataFrame:
    """log1p out-degree of the regulator + log1p in-degree of the target in the whole prior.

    It knows hubs and no single edge. Parameters and errors as in `prior_edges`.
    """
    edges = _keyed(prior)
    regulators, targets = pd.Index(regulators), pd.Index(targets)
    out_degree = edges["source"].value_counts().reindex(gene_keys(regulators)).fillna(0)
    in_degree = edges["target"].value_counts().reindex(gene_keys(targets)).fillna(0)
    scores = np.log1p(out_degree.to_numpy())[:, None] + np.log1p(in_degree.to_numpy())
    return pd.DataFrame(scores, index=regulators, columns=targets)


def random_scores(regulators: Iterable[str], targets: Iterable[str], *, random_state: int = 0) -> pd.DataFrame:
    """Uniform random scores in [0, 1)."""
    rows, columns = pd.Index(regulators), pd.Index(targets)
    values = np.random.default_rng(random_state).random((len(rows), len(columns)))
    return pd.DataFrame(values, index=rows, columns=columns)


def oracle_out_degree(truth: pd.DataFrame, regulators: Iterable[str], targets: Iterable[str]) -> pd.DataFrame:
    """Number of true targets of the regulator, the same for every target: the ceiling of a contest of degrees.

    It has seen the truth, so it is no method; a pooled number below it may be nothing but a list of hubs, while its
    AUROC per regulator is 0.5. Only targets among `targets` count. Parameters and errors as in `prior_edges`.
    """
    rows, columns = pd.Index(regulators), pd.Index(targets)
    edges = _keyed(truth)
    degree = edges.loc[edges["target"].isin(gene_keys(targets)), "source"].value_counts()
    degree = degree.reindex(gene_keys(regulators)).fillna(0).to_numpy(dtype=float)
    return pd.DataFrame(np.tile(degree[:, None], (1, len(columns))), index=rows, columns=columns)


FROM_EXPRESSION = {"pearson": pearson, "spearman": spearman, "target_mean": target_mean}
FROM_TREES = {"genie3": genie3, "grnboost2": grnboost2}
FROM_PRIOR = {"prior_edges": prior_edges, "prior_degrees": prior_degrees}
FAST = (*FROM_EXPRESSION, *FROM_PRIOR, "random")
ALL = (*FROM_EXPRESSION, *FROM_TREES, *FROM_PRIOR, "random")
ORACLE = "oracle_out_degree"  # joins FAST and ALL where there is a truth


def run_baselines(
    wanted: str | Sequence[str] | Mapping[str, Any] | None,
    regulators: pd.Index,
    genes: pd.Index,
    lookup: dict[str, str],
    *,
    adata: AnnData | None,
    prior: pd.DataFrame | None,
    truth: pd.DataFrame | None = None,
    layer: str | None,
    n_jobs: int,
    max_cells: int | None,
    random_state: int,
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Networks of the baselines by name, and why the others are absent.

    `wanted` is "all", "fast", names, a dictionary of further networks, or None; `regulators` and `genes` are spelled by
    `lookup` (`gene_lookup`).

    Raises
    ------
    ValueError
        An unknown name, or a baseline asked for by name that lacks its input.
    """
    if isinstance(wanted, Mapping):
        return {name: score_matrix(scores) for name, scores in wanted.items()}, {}
    oracle = () if truth is None else (ORACLE,)
    presets = {"all": ALL + oracle, "fast": FAST + oracle}
    names = presets.get(wanted, (wanted,)) if isinstance(wanted, str) else tuple(wanted or ())
    if unknown := [name for name in names if name not in presets["all"]]:
        raise ValueError(f"unknown baselines {unknown}; expected 'all', 'fast', or some of {list(presets['all'])}")
    lacking = {name: "pass adata=" for name in (*FROM_EXPRESSION, *FROM_TREES) if adata is None}
    lacking |= {name: "pass prior=" for name in FROM_PRIOR if prior is None}
    skipped = {name: lacking[name] for name in names if name in lacking}
    if skipped and wanted not in ("all", "fast"):
        raise ValueError(
            f"baselines lack their input: {skipped}; pass it, or take `baselines='fast'`, which leaves them out"
        )
    cells: Any = None if adata is None else adata[:, ~gene_duplicates(adata)]
    trees = {"max_cells": max_cells, "n_jobs": n_jobs, "random_state": random_state}

    def run(name: str) -> pd.DataFrame:
        if name in FROM_PRIOR:
            return FROM_PRIOR[name](spelled_edges(prior, lookup), regulators, genes)
        if name == "random":
            return random_scores(regulators, genes, random_state=random_state)
        if name == ORACLE:
            return oracle_out_degree(truth, regulators, genes)
        if name == "target_mean":
            return target_mean(cells, regulators, layer=layer)
        measured = regulators[regulators.isin(cells.var_names)]
        if name in FROM_TREES:
            return FROM_TREES[name](cells, measured, layer=layer, **trees)
        return FROM_EXPRESSION[name](cells, measured, layer=layer)

    return {name: run(name) for name in names if name not in lacking}, skipped


def expression(data: Expression, layer: str | None = None) -> tuple[np.ndarray | sp.csc_array, pd.Index]:
    """Matrix cells x genes (dense, or sparse CSC) as float64, counts log-normalised, and the gene names.

    Raises
    ------
    KeyError
        The layer is absent.
    ValueError
        NaN or infinite values, or no cells.
    """
    x, genes = (
        (data.to_numpy(), data.columns)
        if isinstance(data, pd.DataFrame)
        else (raw_expression(data, layer), data.var_names)
    )
    x = sp.csc_array(x, dtype=float) if sp.issparse(x) else np.asarray(x, dtype=float)
    values = np.asarray(x.data if sp.issparse(x) else x)
    if not len(x.shape) == 2 or not x.shape[0]:
        raise ValueError(f"expected cells x genes with at least one cell, got shape {x.shape}")
    if not np.isfinite(values).all():
        raise ValueError("expression holds NaN or infinite values; drop those genes or cells first: `adata[:, keep]`")
    is_counts = (values >= 0).all() and (values == np.floor(values)).all() and (values > 1).any()
    return (_log_normalised(x) if is_counts else x), genes


def raw_expression(adata: AnnData, layer: str | None = None):
    """X or a layer as it stands, in memory; KeyError if the layer is absent."""
    if layer is not None and layer not in adata.layers:
        raise KeyError(f"layer {layer!r} is absent; there are {list(adata.layers)}, or pass layer=None for X")
    x = adata.X if layer is None else adata.layers[layer]
    return x if isinstance(x, np.ndarray) or sp.issparse(x) else x[:]  # a backed file is read whole


def _log_normalised(x):
    total = np.asarray(x.sum(axis=1)).ravel()
    factor = COUNTS_PER_CELL / np.where(total > 0, total, 1)
    if sp.issparse(x):
        return sp.csc_array(sp.diags_array(factor) @ x).log1p()
    return np.log1p(x * factor[:, None])


def dense_columns(x, columns) -> np.ndarray:
    """Chosen columns of a dense or sparse matrix as a dense array."""
    x = x[:, columns]
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def _positions(genes: pd.Index, regulators: Sequence[str] | None) -> np.ndarray:
    if regulators is None:
        return np.arange(len(genes))
    first = ~genes.duplicated()
    position = pd.Series(np.flatnonzero(first), index=genes[first]).reindex(pd.Index(regulators))
    if position.isna().any():
        absent = list(position.index[position.isna()])
        raise KeyError(
            f"{len(absent)} of {len(position)} regulators are no genes of the data, e.g. {absent[:5]}; "
            "keep the measured ones: `[g for g in regulators if g in adata.var_names]`"
        )
    return position.to_numpy(dtype=int)


def _correlation(sources: np.ndarray, x) -> np.ndarray:
    """``|Pearson|`` of dense `sources` (cells x T) with the columns of x (cells x G, may be sparse): T x G."""
    n = len(sources)
    centred = sources - sources.mean(axis=0)
    covariance = np.asarray((x.T @ centred).T) / n  # T x G
    scale = np.outer(deviation(sources), deviation(x))
    r = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
    return np.minimum(np.abs(r), 1.0)


def deviation(x) -> np.ndarray:
    """Standard deviation of each column; exactly 0 for a column of one value."""
    if not sp.issparse(x):
        return np.where(x.max(axis=0) > x.min(axis=0), x.std(axis=0), 0.0)
    mean = np.asarray(x.mean(axis=0)).ravel()
    centred = x.copy()
    centred.data -= np.repeat(mean, np.diff(x.indptr))
    n_zero = x.shape[0] - np.diff(x.indptr)
    variance = (np.asarray(centred.power(2).sum(axis=0)).ravel() + n_zero * mean**2) / x.shape[0]
    span = x.max(axis=0).toarray().ravel() - x.min(axis=0).toarray().ravel()
    return np.where(span > 0, np.sqrt(variance), 0.0)


def _regressed(importance, data, regulators, layer, max_cells, n_jobs, random_state) -> pd.DataFrame:
    """Scores of all regulators for each target, one regression per target, seeded by the target's place."""
    from joblib import Parallel, delayed

    x, genes = expression(data, layer)
    rows = _positions(genes, regulators)
    if max_cells is not None and x.shape[0] > max_cells:
        drawn = np.random.default_rng(random_state).choice(x.shape[0], max_cells, replace=False)
        x = x[np.sort(drawn)]
    sources = dense_columns(x, rows).astype(np.float32)
    # arguments, not a closure: joblib shares large arrays between processes, and would send a closure with each target
    columns = Parallel(n_jobs=n_jobs)(
        delayed(_target_scores)(importance, sources, rows, dense_columns(x, [column]).ravel(), column, random_state)
        for column in range(len(genes))
    )
    return pd.DataFrame(np.stack(columns, axis=1), index=genes[rows], columns=genes)


def _target_scores(importance, sources, rows, target, column: int, random_state: int) -> np.ndarray:
    """Scores of all regulators for the gene in `column`; its own is 0, and so are all for a gene that does not vary."""
    scores, others = np.zeros(len(rows)), np.flatnonzero(rows != column)
    if target.max() > target.min() and len(others):
        own = np.ascontiguousarray(sources[:, others])
        scores[others] = importance(own, target / target.std(), random_state + column)
    return scores


def _stops_early(i: int, boosting, _locals: dict) -> bool:
    window = boosting.oob_improvement_[max(0, i - EARLY_STOP_WINDOW + 1) : i + 1]
    return i >= EARLY_STOP_WINDOW - 1 and bool(np.mean(window) < 0)


def _keyed(table: pd.DataFrame) -> pd.DataFrame:
    source, target = edge_columns(table)
    edges = pd.DataFrame({"source": gene_keys(table[source]), "target": gene_keys(table[target])})
    return edges.drop_duplicates(ignore_index=True)
