"""Judge per-cell networks: do the edges of a cell's own state rank above those of the other states?

Only edges that are on in some states and off in others can tell. Three numbers, on them alone:

- `auroc_edge`, within each edge over cells: do cells where the edge is on score it higher than cells where it is off?
  One network copied to all cells ties throughout: exactly 0.5.
- `specificity`, within each cell over edges: AUROC of the edges of its own state, minus the mean AUROC of the same
  scores for the edges of each other state. A copied network gains in one state what it loses in another: exactly 0.
- `auroc_cell`, the first half of that difference. A copied network may well be above 0.5 here, because edges that are
  on in many states are both easier to see and more often right: read it beside `pooled_...`, never alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import rankdata

from sccafm.evaluate.cell_baselines import run_cell_baselines
from sccafm.evaluate.cell_scores import cell_scores
from sccafm.evaluate.comparison import ComparisonReport, Panel, verdict
from sccafm.evaluate.markdown import markdown_table
from sccafm.evaluate.metrics import bootstrap_counts, interval
from sccafm.evaluate.truth import gene_lookup, respell
from sccafm.simulation.truth import CellTruth, read_truth

METRICS = {
    "auroc_edge": "AUROC within edges",
    "specificity": "own minus other states",
    "auroc_cell": "AUROC within cells",
}
CHANCE = {"auroc_edge": 0.5, "specificity": 0.0, "auroc_cell": 0.5}
SEES_STATES = ("state_pearson", "state_target_expression")  # baselines that are told the state of each cell
RANKED_AT_ONCE = 4_000_000  # scores


@dataclass(frozen=True, eq=False)
class PerCellReport(ComparisonReport):
    """What `per_cell` found. `to_frame`, `to_markdown` and `plot` show it."""

    name: str  # row of the scores that were judged
    table: pd.DataFrame  # one row per method
    differences: pd.DataFrame  # judged scores minus baseline, paired over bootstrap draws
    per_state: pd.DataFrame  # one row per method and state
    per_edge: pd.DataFrame  # one row per judged edge, a column per method: AUROC over cells
    counts: dict[str, float]
    truth: CellTruth = field(repr=False)
    skipped: dict[str, str]  # baseline or state -> why it is absent

    def to_frame(self) -> pd.DataFrame:
        """One row per method: each metric, and with it `_low` and `_high` (95 % bootstrap interval).

        Draws are of states and of cells within them (`specificity`, `auroc_cell`), or of regulators (`auroc_edge`).
        """
        return self.table.copy()

    def to_markdown(self) -> str:
        """GitHub table: value [low, high] of each metric."""
        rows = ([row["method"], *(_with_interval(row, m) for m in METRICS)] for row in self.table.to_dict("records"))
        return markdown_table(["method", *METRICS.values()], rows) + "\n\n" + self._counted()

    def plot(self):
        """A matplotlib Figure: a dot with its interval per method, a panel per metric, chance as a line."""
        panels = [Panel(t, self.table, m, f"{m}_low", f"{m}_high", CHANCE[m]) for m, t in METRICS.items()]
        return self._figure(panels, self._counted(), 3.2)

    def _is_judged(self, rows: pd.DataFrame) -> np.ndarray:
        return (rows["method"] == self.name).to_numpy()

    def __repr__(self) -> str:
        width = max(self.table["method"].str.len())
        lines = [self._counted(), f"  {'':{width}}  " + "  ".join(f"{title:26}" for title in METRICS.values())]
        for row in self.table.to_dict("records"):
            cells = "  ".join(f"{_with_interval(row, metric):26}" for metric in METRICS)
            lines.append(f"  {row['method']:{width}}  {cells}".rstrip())
        lines += [f"  {self._verdict(metric)}" for metric in ("auroc_edge", "specificity")]
        lines += [f"  not judged: {what} ({why})" for what, why in self.skipped.items()]
        return "\n".join(line for line in lines if line.strip())

    def _counted(self) -> str:
        c = self.counts
        return (
            f"{self.name}: {c['n_edges']:,} switched edges of {c['n_regulators']:,} regulators in {c['n_cells']:,} cells of "
            f"{c['n_states']} states ({c['n_constant']:,} edges never switch, {c['n_unscored']:,} switched ones have no score; "
            f"{c['share_lowest']:.0%} of the scores tie at the lowest)"
        )

    def _verdict(self, metric: str) -> str:
        """One sentence: the judged scores against the strongest baseline that is not told the states."""
        rivals = self.table.set_index("method")[metric].drop([self.name, *SEES_STATES], errors="ignore").dropna()
        if rivals.empty:
            return ""
        best = rivals.idxmax()
        gap = self.differences.query("baseline == @best and metric == @metric").iloc[0]
        rival = f"the strongest baseline that does not know the states, {best}"
        return f"{METRICS[metric]}: {verdict(self.name, rival, gap)}"


def per_cell(
    scores_or_grn,
    truth: AnnData | CellTruth,
    *,
    adata: AnnData | None = None,
    baselines: str | Sequence[str] | None = "all",
    state_key: str = "state",
    layer: str | None = None,
    n_bootstrap: int = 200,
    random_state: int = 0,
    name: str = "scores",
) -> PerCellReport:
    """Judge per-cell networks against edges that are switched between states, beside per-cell baselines.

    Judged are the edges that are on in some states and off in others. `auroc_edge` asks, within each edge, whether cells
    where it is on score it higher than cells where it is off; one network copied to all cells has exactly 0.5.
    `specificity` asks, within each cell, how much better its scores fit the edges of its own state than those of the
    other states; a copied network has exactly 0. `auroc_cell` is the fit to the own state alone, which a copied network
    may reach above 0.5: read it beside "pooled". States weigh the same whatever their cells. An edge that is off also
    changes the level of its target unless it is simulated with ``Kinetics(off_occupancy=0.5)``: look at
    target_expression before the credit goes to regulation.

    Parameters
    ----------
    scores_or_grn
        A GRN (exact scores with ``keep_factors=True``, otherwise edges that a cell did not keep count as 0); a DataFrame
        cells x (source, target); a dictionary from cell or state to a network; or an array cells x edges in the order
        of the truth. Larger is more likely.
    truth
        What `sccafm.simulate` returned, or a `CellTruth`.
    adata
        Cells whose expression the baselines read; None: the truth, where it is an AnnData.
    baselines
        "all", names, or None. lioness (``|LIONESS|`` on Pearson), state_pearson (``|Pearson|`` within the cell's state, which it
        is told), pooled_pearson (one network for all cells), expression_product, source_expression, target_expression,
        state_target_expression (the target's mean over the cells of the state, which it is told too), random. The mean of the
        judged scores over cells, copied, always stands beside them.
    state_key
        Column of obs with the state, where the truth is an AnnData.
    layer
        Layer of `adata` for the baselines.
    n_bootstrap
        Draws for the 95 % intervals and the paired differences.
    random_state
        Seed of everything that is drawn.
    name
        Row name of the judged scores.

    Returns
    -------
    PerCellReport

    Raises
    ------
    KeyError
        Cells or states of the truth without scores, or without expression.
    ValueError
        No switched edge, none of them scored, NaN scores, or a baseline asked for by name that lacks expression.
    """
    adata = truth if adata is None and isinstance(truth, AnnData) else adata
    truth = read_truth(truth, state_key) if isinstance(truth, AnnData) else truth
    states, skipped = _judged_states(truth)
    activity = truth.activity.loc[truth.activity.index.isin(states)]
    is_switched = (activity.any() & ~activity.all()).to_numpy()
    if not is_switched.any():
        raise ValueError(
            f"none of {len(truth.edges):,} edges is on in one state and off in another, so no state can be told by its "
            "edges; simulate with `share_switched=` above 0"
        )
    values, is_scored = cell_scores(scores_or_grn, truth.edges, states)
    data, spelled = _measured(adata, truth.edges, states.index)
    judged = is_switched & is_scored & spelled.notna().all(axis=1).to_numpy()
    if not judged.any():
        raise ValueError(
            f"none of {is_switched.sum():,} switched edges ({', '.join(truth.edges['source'].unique()[:3])}, ... -> ...) is "
            "among the scored regulators and targets; infer with the truth's regulators: `infer_grn(adata, regulators='all')`"
        )
    edges, values = truth.edges[judged].reset_index(drop=True), values[:, judged]
    rivals, lacking = run_cell_baselines(baselines, data, spelled[judged], states, layer, random_state)
    own = f"{name}, pooled"
    if name in rivals:
        raise ValueError(f"{name!r} names the judged scores and a baseline; pass another: `name='model'`")
    methods = {name: values, own: np.broadcast_to(values.mean(0), values.shape), **rivals}
    bench = _Bench.of(activity.loc[:, judged], states, edges, n_bootstrap, random_state)
    results = {method: bench.score(scores) for method, scores in methods.items()}
    return PerCellReport(
        name=name,
        table=pd.DataFrame([{"method": method, **_row(result)} for method, result in results.items()]),
        differences=_differences(results, name),
        per_state=_per_state(results, states),
        per_edge=edges[["source", "target"]].assign(**{m: r.edge for m, r in results.items()}),
        counts={
            "n_cells": len(states), "n_states": states.nunique(), "n_edges": len(edges),
            "n_regulators": edges["source"].nunique(), "n_constant": int((~is_switched).sum()),
            "n_unscored": int((is_switched & ~judged).sum()), "share_lowest": float((values == values.min()).mean()),
        },
        truth=truth,
        skipped=skipped | lacking,
    )  # fmt: skip


def _judged_states(truth: CellTruth) -> tuple[pd.Series, dict[str, str]]:
    """States of the cells that can be judged; unknown states stop, cells may be of fewer states than the truth has."""
    unknown = sorted(set(truth.states) - set(truth.activity.index))
    if unknown:
        raise KeyError(
            f"cells are in states that the truth lacks: {unknown[:5]}; it has {list(truth.activity.index)}; name the "
            "right column: `state_key=`"
        )
    if truth.states.nunique() < 2:
        raise ValueError(f"all cells are in state {truth.states.iloc[0]!r}; take cells of two states or more")
    absent = truth.activity.index.difference(truth.states.unique())
    return truth.states, {f"state {state}": "no cells" for state in absent}


def _measured(adata: AnnData | None, edges: pd.DataFrame, cells: pd.Index) -> tuple[AnnData | None, pd.DataFrame]:
    """The cells' expression, and the edges in its spelling; missing where a gene is not measured."""
    ends = edges[["source", "target"]]
    if adata is None:
        return None, ends
    missing = cells[~cells.isin(adata.obs_names)]
    if len(missing):
        raise KeyError(f"{len(missing):,} cells of the truth are not in adata, first {missing[0]!r}")
    spelled = ends.apply(respell, lookup=gene_lookup(adata))
    return adata[cells], spelled.where(spelled.isin(adata.var_names))


@dataclass(frozen=True, eq=False)
class _Result:
    """One method."""

    edge: np.ndarray  # E AUROC over cells
    own: np.ndarray  # C AUROC over edges of the own state
    other: np.ndarray  # C mean of that over the other states
    found: np.ndarray  # metrics
    draws: np.ndarray  # W x metrics


@dataclass(frozen=True, eq=False)
class _Bench:
    """Labels and draws that all methods share: S states, C cells, E edges, W draws."""

    labels: np.ndarray  # S x E
    state: np.ndarray  # C position of the state
    cell_weights: np.ndarray  # 1 + W x C: in the first row, states weigh the same; then of the draws
    edge_weights: np.ndarray  # 1 + W x E: all edges once; then edges of drawn regulators

    @classmethod
    def of(
        cls, activity: pd.DataFrame, states: pd.Series, edges: pd.DataFrame, n_bootstrap: int, seed: int
    ) -> "_Bench":
        rng = np.random.default_rng(seed)
        labels, state = activity.to_numpy(), activity.index.get_indexer(states)
        regulator = pd.factorize(edges["source"])[0]
        of_regulators = bootstrap_counts(regulator.max() + 1, n_bootstrap, rng)[:, regulator]
        edge_weights = np.vstack([np.ones((1, len(edges))), of_regulators])
        is_told = labels.any(1) & ~labels.all(1)  # a state with all or none of the edges has no AUROC
        return cls(labels, state, _cell_weights(state, is_told, n_bootstrap, rng), edge_weights)

    def score(self, values: np.ndarray) -> _Result:
        edge = self._within_edges(values)
        by_state = self._within_cells(values)  # C x S
        own = by_state[np.arange(len(values)), self.state]
        others = by_state.copy()
        others[np.arange(len(values)), self.state] = np.nan
        n = np.isfinite(others).sum(1)
        other = np.divide(np.nansum(others, 1), n, out=np.full(len(values), np.nan), where=n > 0)
        metrics = [
            _weighted(self.edge_weights, edge),
            _weighted(self.cell_weights, own - other),
            _weighted(self.cell_weights, own),
        ]
        found, draws = np.array([m[0] for m in metrics]), np.stack([m[1:] for m in metrics], 1)
        return _Result(edge, own, other, found, draws)

    def _within_cells(self, values: np.ndarray) -> np.ndarray:
        """AUROC of each cell's scores for the edges of every state: C x S."""
        n_pos = self.labels.sum(1)
        step = max(1, RANKED_AT_ONCE // values.shape[1])
        won = [rankdata(values[i : i + step], axis=1) @ self.labels.T for i in range(0, len(values), step)]
        return _auroc(np.concatenate(won), n_pos, values.shape[1])

    def _within_edges(self, values: np.ndarray) -> np.ndarray:
        """AUROC of each edge's scores for the cells where it is on: E."""
        step = max(1, RANKED_AT_ONCE // len(values))
        won, n_pos = [], self.labels[self.state].sum(0)
        for i in range(0, values.shape[1], step):
            is_on = self.labels[self.state, i : i + step]
            won.append((rankdata(values[:, i : i + step], axis=0) * is_on).sum(0))
        return _auroc(np.concatenate(won), n_pos, len(values))


def _cell_weights(state: np.ndarray, is_told: np.ndarray, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """1 + W x C: states weigh the same; then draws of states, and of cells within them, with replacement."""
    size = np.bincount(state)
    weights = np.zeros((1 + n_bootstrap, len(state)))
    weights[0] = is_told[state] / size[state]
    told = np.flatnonzero(is_told)
    for row, counts in zip(
        weights[1:], bootstrap_counts(len(told), n_bootstrap, rng) if len(told) else (), strict=False
    ):
        for s, n in zip(told, counts, strict=True):
            row[state == s] = rng.multinomial(n * size[s], np.full(size[s], 1 / size[s])) / size[s]
    return weights


def _auroc(rank_sum: np.ndarray, n_pos: np.ndarray, n: int) -> np.ndarray:
    """Mann-Whitney: from rank sums of the positives, ties sharing their mean rank; NaN where a class is absent."""
    pairs = np.broadcast_to(n_pos * (n - n_pos), rank_sum.shape)
    wins = rank_sum - n_pos * (n_pos + 1) / 2
    return np.divide(wins, pairs, out=np.full(rank_sum.shape, np.nan), where=pairs > 0)


def _weighted(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted means, NaN values left out."""
    known = np.isfinite(values)
    total = weights[:, known].sum(1)
    return np.divide(weights[:, known] @ values[known], total, out=np.full(len(weights), np.nan), where=total > 0)


def _row(result: _Result) -> dict[str, float]:
    row = {}
    for i, metric in enumerate(METRICS):
        low, high = interval(result.draws[:, i])
        row |= {metric: result.found[i], f"{metric}_low": low, f"{metric}_high": high}
    return row


def _differences(results: dict[str, _Result], name: str) -> pd.DataFrame:
    rows = []
    for baseline, rival in results.items():
        for i, metric in enumerate(METRICS if baseline != name else ()):
            low, high = interval(results[name].draws[:, i] - rival.draws[:, i])
            gap = results[name].found[i] - rival.found[i]
            rows.append({"baseline": baseline, "metric": metric, "difference": gap, "low": low, "high": high})
    return pd.DataFrame(rows)


def _per_state(results: dict[str, _Result], states: pd.Series) -> pd.DataFrame:
    parts = []
    for method, result in results.items():
        cells = pd.DataFrame(
            {"auroc_cell": result.own, "specificity": result.own - result.other, "state": states.array}
        )
        grouped = cells.groupby("state", sort=False, observed=True)
        parts.append(grouped.mean().assign(n_cells=grouped.size()).reset_index().assign(method=method))
    return pd.concat(parts, ignore_index=True)[["method", "state", "n_cells", "auroc_cell", "specificity"]]


def _with_interval(row: dict, metric: str) -> str:
    if np.isnan(row[metric]):
        return "-"
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return f"{row[metric]:z.3f}" + ("" if np.isnan(low) else f" [{low:z.3f}, {high:z.3f}]")
