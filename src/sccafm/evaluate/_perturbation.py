"""Judge a network by perturbations: do the predicted targets of a perturbed regulator move more than matched genes?

For each perturbed regulator, every gene's shift between its perturbed cells and the control cells is measured twice:
as Wasserstein distance of the two distributions, and as the rank of its differential expression. The network's first
targets are compared with genes drawn at random among those of equal mean expression in control cells, because highly
expressed genes move further whatever regulates them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import rankdata

from sccafm.evaluate.baselines import dense_columns, expression, run_baselines
from sccafm.evaluate.comparison import ComparisonReport, Panel
from sccafm.evaluate.markdown import markdown_table, unscored
from sccafm.evaluate.metrics import bootstrap_counts, interval, mean, p_value
from sccafm.evaluate.truth import aligned, gene_keys, gene_lookup, respell, score_matrix

MEASURES = {"wasserstein": "Wasserstein distance", "de_percentile": "differential-expression percentile"}
CHUNK_VALUES = 4_000_000  # cells x genes sorted at once


@dataclass(frozen=True, eq=False)
class PerturbationReport(ComparisonReport):
    """What `perturbation` found. `to_frame`, `to_markdown` and `plot` show it."""

    name: str  # row of the network that was judged
    table: pd.DataFrame  # one row per method
    per_regulator: pd.DataFrame  # one row per method and regulator
    left_out: dict[str, str]  # label of a perturbation -> why it was not judged
    skipped: dict[str, str]  # baseline -> why it is absent
    n_targets: int
    n_control_cells: int = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """One row per method.

        For each measure (wasserstein, de_percentile): its mean over regulators, `_matched` (of matched genes), `_excess` (the
        difference), `_excess_low` and `_excess_high` (95 % bootstrap interval over regulators, NaN below two), and `_p`
        (one-sided, against draws of matched genes). Then n_regulators and n_unscored_regulators, whose
        targets are a tie because the method has no score for them.
        """
        return self.table.copy()

    def to_markdown(self) -> str:
        """GitHub table: excess over matched genes with its interval and p, for both measures."""
        rows = ([row["method"], *_cells(row)] for row in self.table.to_dict("records"))
        return markdown_table(["method", *MEASURES.values()], rows) + "\n\n" + self._counts()

    def plot(self):
        """A matplotlib Figure: excess over matched genes with its interval, a row per method, a panel per measure."""
        panels = [
            Panel(f"{title}, excess", self.table, f"{m}_excess", f"{m}_excess_low", f"{m}_excess_high", 0)
            for m, title in MEASURES.items()
        ]
        return self._figure(panels, self._counts(), 4)

    def _is_judged(self, rows: pd.DataFrame) -> np.ndarray:
        return (rows["method"] == self.name).to_numpy()

    def __repr__(self) -> str:
        width = self.table["method"].str.len().max()
        lines = [self._counts(), f"  {'':{width}}  " + "  ".join(f"{title:48}" for title in MEASURES.values())]
        for row in self.table.to_dict("records"):
            lines.append(
                f"  {row['method']:{width}}  " + "  ".join(f"{cell:48}" for cell in _cells(row)) + unscored(row)
            )
        lines += [f"  not run: {name} ({why})" for name, why in self.skipped.items()]
        if self.left_out:
            examples = "; ".join(f"{label} ({why})" for label, why in list(self.left_out.items())[:3])
            lines.append(f"  {len(self.left_out)} perturbations left out: {examples}")
        return "\n".join(lines)

    def _counts(self) -> str:
        n = self.per_regulator["regulator"].nunique()
        return (
            f"{self.name}: first {self.n_targets} targets of {n} perturbed regulators against genes matched for expression, "
            f"{self.n_control_cells:,} control cells"
        )


def perturbation(
    scores_or_grn,
    adata: AnnData,
    *,
    perturbation_key: str,
    control: str,
    groupby: str | None = None,
    n_targets: int = 20,
    n_matched: int = 10,
    n_null: int = 500,
    n_bootstrap: int = 200,
    min_cells: int = 20,
    baselines: str | Sequence[str] | Mapping[str, pd.DataFrame] | None = "fast",
    prior: pd.DataFrame | None = None,
    group: str | None = None,
    layer: str | None = None,
    n_jobs: int = 1,
    max_cells: int | None = 2000,
    random_state: int = 0,
    name: str = "scores",
) -> PerturbationReport:
    """Ask whether the first targets of perturbed regulators move more than genes of equal expression.

    A label of `obs[perturbation_key]` counts if it is the name of a regulator of the network (any case, symbol or
    Ensembl id); perturbations of two genes are left out. Counts are log-normalised. Expression baselines are computed
    from the control cells alone, so that no method sees a perturbation. Targets tied at the cut-off share the places
    that are left.

    Parameters
    ----------
    scores_or_grn
        A GRN, a DataFrame regulators x targets, or a long table `source, target, weight`; larger is more likely.
    perturbation_key, control
        Column of obs, and its label of the control cells.
    groupby
        Column of obs (cell line, batch) within which cells are compared: distances are averaged by the number of
        perturbed cells, and the rank tests are joined (van Elteren). Needed where the design is not balanced.
    n_targets
        First targets of each regulator that are judged.
    n_matched
        Genes nearest in mean control expression, predicted or not, from which a matched gene is drawn.
    n_null
        Draws of matched genes.
    n_bootstrap
        Draws of regulators for the 95 % intervals.
    min_cells
        Perturbed cells that a regulator needs, and control cells.
    baselines, prior, group, layer, n_jobs, max_cells, random_state, name
        As in `sccafm.evaluate.network`; there is no oracle here.

    Returns
    -------
    PerturbationReport

    Raises
    ------
    KeyError
        An obs column or the control label is absent.
    ValueError
        No perturbed regulator is in the network, too few control cells or genes, NaN scores or expression.
    """
    matrix = score_matrix(scores_or_grn, group)
    lookup = gene_lookup(adata)
    genes = pd.Index(list(dict.fromkeys(respell(adata.var_names, lookup))))
    labels, is_control = find_labels(adata, perturbation_key, control, min_cells)
    strata = _strata(adata, groupby)
    is_comparable = np.isin(strata, strata[is_control])
    cells, left_out = find_perturbed(
        labels, is_control, is_comparable, respell(matrix.index, lookup), lookup, min_cells
    )
    if not 0 < n_targets <= len(genes) // 2:
        raise ValueError(
            f"n_targets must be between 1 and half of the {len(genes)} genes, got {n_targets}; lower `n_targets=`"
        )
    regulators = pd.Index(cells)
    rivals, skipped = run_baselines(
        baselines, regulators, genes, lookup, adata=adata[is_control], prior=prior,
        layer=layer, n_jobs=n_jobs, max_cells=max_cells, random_state=random_state,
    )  # fmt: skip
    values = {m: aligned(s, regulators, genes, lookup, m) for m, s in {name: matrix, **rivals}.items()}
    x, names = expression(adata, layer)
    x = x[:, first_places(names, genes)]
    level = np.asarray(x[np.flatnonzero(is_control)].mean(axis=0)).ravel()
    results: dict[str, list] = {method: [] for method in values}
    for i, (regulator, is_perturbed) in enumerate(cells.items()):
        shift = _shifts(x, is_perturbed, is_control, strata)
        others = np.flatnonzero(genes != regulator)
        for method, scores in values.items():
            rng = np.random.default_rng([random_state, i])
            found = _against_matched(
                scores[i, others], shift[:, others], level[others], n_targets, n_matched, n_null, rng
            )
            results[method].append({"regulator": regulator, "n_perturbed_cells": int(is_perturbed.sum()), **found})
    draws = bootstrap_counts(len(regulators), n_bootstrap, np.random.default_rng(random_state))
    return PerturbationReport(
        name=name,
        table=pd.DataFrame([{"method": method, **_summary(found, draws)} for method, found in results.items()]),
        per_regulator=pd.concat([_rows(method, found) for method, found in results.items()], ignore_index=True),
        left_out=left_out,
        skipped=skipped,
        n_targets=n_targets,
        n_control_cells=int(is_control.sum()),
    )


def wasserstein_columns(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Wasserstein distance between the columns of `a` (cells x G) and `b` (other cells x G): the area between both CDFs."""
    values = np.concatenate([a, b])
    order = np.argsort(values, axis=0, kind="stable")
    step = np.where(order < len(a), 1 / len(a), -1 / len(b))
    gap = np.abs(np.cumsum(step, axis=0))[:-1]
    return (gap * np.diff(np.take_along_axis(values, order, axis=0), axis=0)).sum(axis=0)


def rank_sum_columns(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mann-Whitney U minus its expectation, and its variance with ties, for each column of `a` against `b`."""
    n, n_a, n_b = len(a) + len(b), len(a), len(b)
    rank = rankdata(np.concatenate([a, b]), axis=0)
    excess = rank[:n_a].sum(axis=0) - n_a * (n + 1) / 2
    return excess, n_a * n_b / (n * (n - 1)) * ((rank - (n + 1) / 2) ** 2).sum(axis=0)


def find_labels(adata: AnnData, key: str, control: str, min_cells: int) -> tuple[pd.Series, np.ndarray]:
    """Label of each cell as a gene key, and which cells are controls."""
    if key not in adata.obs:
        raise KeyError(f"obs has no column {key!r}; there are {list(adata.obs)}: pass one as `perturbation_key=`")
    labels = pd.Series(gene_keys(adata.obs[key]), index=adata.obs_names)
    is_control = (labels == gene_keys([control])[0]).to_numpy()
    if not is_control.any():
        raise KeyError(
            f"no cell of obs[{key!r}] is {control!r}; the commonest labels are {list(adata.obs[key].value_counts().index[:8])}"
        )
    if is_control.sum() < min_cells:
        raise ValueError(f"{is_control.sum()} control cells, expected at least {min_cells}; lower `min_cells=`")
    return labels, is_control


def find_perturbed(
    labels: pd.Series,
    is_control: np.ndarray,
    is_comparable: np.ndarray,
    regulators: pd.Index,
    lookup: dict[str, str],
    min_cells: int,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Perturbed cells (booleans) of each regulator, in the order of the network, and why other labels are left out.

    `is_comparable` marks the cells whose group holds control cells.
    """
    spelled = pd.Series(respell(labels, lookup), index=labels.index)
    is_perturbed = ~is_control & is_comparable
    counts = spelled[is_perturbed].value_counts()
    cells, left_out = {}, {}
    for label, gene in zip(labels[~is_control], spelled[~is_control], strict=True):
        if gene not in regulators:
            left_out[label] = "no regulator of the network"
        elif counts.get(gene, 0) < min_cells:
            left_out[label] = f"{counts.get(gene, 0)} cells beside control cells, fewer than {min_cells}"
    for regulator in regulators.unique():
        if counts.get(regulator, 0) >= min_cells:
            cells[regulator] = (spelled == regulator).to_numpy() & is_perturbed
    if not cells:
        raise ValueError(
            f"no perturbed gene is a regulator of the network with at least {min_cells} cells; perturbed are "
            f"{list(left_out)[:5]}, regulators {list(regulators[:5])}; infer the network for the perturbed genes, "
            "or lower `min_cells=`"
        )
    return cells, left_out


def _strata(adata: AnnData, groupby: str | None) -> np.ndarray:
    if groupby is None:
        return np.zeros(adata.n_obs, dtype=int)
    if groupby not in adata.obs:
        raise KeyError(f"obs has no column {groupby!r}; there are {list(adata.obs)}: pass one as `groupby=`")
    return pd.factorize(adata.obs[groupby])[0]


def first_places(names: pd.Index, genes: pd.Index) -> np.ndarray:
    """Place of the first of equal names; -1 for a gene that is absent."""
    return (
        pd.Series(np.arange(len(names)), index=names)
        .groupby(level=0)
        .min()
        .reindex(genes)
        .fillna(-1)
        .to_numpy(dtype=int)
    )


def _shifts(x, is_perturbed: np.ndarray, is_control: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """2 x G: Wasserstein distance, and percentile in (0, 1] of |z| of the rank test, joined over strata."""
    n_genes = x.shape[1]
    distance, excess, variance = np.zeros((3, n_genes))
    for s in np.unique(strata[is_perturbed]):
        rows_a, rows_b = np.flatnonzero(is_perturbed & (strata == s)), np.flatnonzero(is_control & (strata == s))
        step = max(1, CHUNK_VALUES // (len(rows_a) + len(rows_b)))
        for begin in range(0, n_genes, step):
            part = slice(begin, begin + step)
            a, b = dense_columns(x[rows_a], part), dense_columns(x[rows_b], part)
            distance[part] += wasserstein_columns(a, b) * len(a) / is_perturbed.sum()
            u, v = rank_sum_columns(a, b)
            excess[part] += u
            variance[part] += v
    z = np.divide(np.abs(excess), np.sqrt(variance), out=np.zeros(n_genes), where=variance > 0)
    return np.stack([distance, rankdata(z) / n_genes])


def _top_weights(scores: np.ndarray, n_targets: int) -> np.ndarray:
    """Weights of the first targets, summing to `n_targets`; those tied at the cut-off share the places left."""
    cut = np.partition(scores, -n_targets)[-n_targets]
    above, tied = scores > cut, scores == cut
    return above + tied * (n_targets - above.sum()) / tied.sum()


def _matched(chosen, level, n_matched, n_null, rng) -> np.ndarray:
    """k x n_null genes: for each of k chosen ones, draws among its neighbours in expression, itself left out."""
    order = np.lexsort((rng.random(len(level)), level))  # equal levels in random order
    place = np.argsort(order)[chosen]
    low = np.clip(place - n_matched // 2, 0, len(level) - n_matched - 1)
    drawn = low[:, None] + rng.integers(n_matched, size=(len(chosen), n_null))
    return order[drawn + (drawn >= place[:, None])]


def _against_matched(scores, shift, level, n_targets, n_matched, n_null, rng) -> dict:
    weights = _top_weights(scores, n_targets)
    chosen = np.flatnonzero(weights)
    drawn = _matched(chosen, level, min(n_matched, len(level) - 1), n_null, rng)
    found = {"is_scored": bool((scores > scores.min()).any())}
    for measure, values in zip(MEASURES, shift, strict=True):
        found[measure] = weights @ values / n_targets
        found[f"{measure}_null"] = weights[chosen] @ values[drawn] / n_targets  # n_null
    return found


def _summary(found: list[dict], draws: np.ndarray) -> dict[str, float]:
    """Means over regulators, intervals from draws of regulators, p from draws of matched genes."""
    out: dict[str, float] = {}
    for measure in MEASURES:
        value = np.array([row[measure] for row in found])
        null = np.stack([row[f"{measure}_null"] for row in found])  # regulators x n_null
        excess = value - null.mean(axis=1)
        low, high = interval(draws @ excess / len(found)) if len(found) > 1 else (np.nan, np.nan)
        out |= {measure: mean(value), f"{measure}_matched": float(null.mean()), f"{measure}_excess": mean(excess)}
        out |= {f"{measure}_excess_low": low, f"{measure}_excess_high": high}
        out[f"{measure}_p"] = p_value(mean(value), null.mean(axis=0))
    n_unscored = sum(not row["is_scored"] for row in found)
    return out | {"n_regulators": len(found), "n_unscored_regulators": n_unscored}


def _rows(method: str, found: list[dict]) -> pd.DataFrame:
    rows = []
    for row in found:
        out = {"method": method, "regulator": row["regulator"], "n_perturbed_cells": row["n_perturbed_cells"]}
        for measure in MEASURES:
            null = row[f"{measure}_null"]
            out |= {
                measure: row[measure],
                f"{measure}_matched": null.mean(),
                f"{measure}_excess": row[measure] - null.mean(),
            }
            out[f"{measure}_p"] = p_value(row[measure], null)
        rows.append(out | {"is_scored": row["is_scored"]})
    return pd.DataFrame(rows)


def _cells(row: dict) -> list[str]:
    """value, excess with its interval, and p of each measure."""
    out = []
    for measure in MEASURES:
        low, high = row[f"{measure}_excess_low"], row[f"{measure}_excess_high"]
        span = "" if np.isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
        excess, p = row[f"{measure}_excess"], row[f"{measure}_p"]
        out.append(f"{row[measure]:.3f}, excess {excess:+.3f}{span}, p {p:.2g}")
    return out
