"""Judge a network against a truth, beside baselines, with intervals and a null.

Candidates are the truth's regulators times the measured genes, without self-edges. Per-regulator numbers come first,
because a pooled number is mostly a contest of degrees: a list of hubs wins it (`oracle_out_degree`).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData

from sccafm.evaluate.baselines import ORACLE, run_baselines
from sccafm.evaluate.markdown import markdown_table, unscored
from sccafm.evaluate.metrics import METRICS, Judge, Scored, interval
from sccafm.evaluate.truth import (
    Truth,
    aligned,
    gene_lookup,
    marked,
    read_edges,
    respell,
    score_matrix,
    spelled_edges,
)


@dataclass(frozen=True, eq=False)
class Report:
    """What `network` found. `to_frame`, `to_markdown` and `plot` show it."""

    name: str  # row of the network that was judged
    table: pd.DataFrame  # one row per subset and method
    differences: pd.DataFrame  # judged network minus baseline, paired over bootstrap draws
    per_regulator: pd.DataFrame  # one row per subset, method and regulator
    subsets: pd.DataFrame  # counts and density of each subset
    truth: Truth = field(repr=False)
    skipped: dict[str, str]  # baseline or subset -> why it is absent
    min_positives: int
    min_negatives: int

    def to_frame(self) -> pd.DataFrame:
        """One row per subset and method.

        For each metric a column of its name, `_low` and `_high` (95 % bootstrap interval over regulators), `_null` (mean
        over permutations of the targets within each regulator) and `_p` (one-sided, against that null). Then the
        counts of the subset: n_regulators, n_scored_regulators (enough positives and negatives), n_candidates, n_true,
        density, share_in_prior (of the true edges), n_unscored_regulators (the method holds none of their edges).
        """
        return self.table.copy()

    def to_markdown(self, subset: str = "all") -> str:
        """GitHub table of one subset: value [low, high] of each metric, and the null of the AUROC."""
        rows = (
            [row["method"], *(_with_interval(row, metric) for metric in METRICS), _number(row["auroc_null"])]
            for row in self._rows(subset).to_dict("records")
        )
        return markdown_table(["method", *METRICS.values(), "null AUROC"], rows) + "\n\n" + self._counts(subset)

    def plot(self, subset: str = "all"):
        """A matplotlib Figure: a dot with its interval per method, a panel per metric, the null as a tick."""
        import matplotlib.pyplot as plt

        rows = self._rows(subset).iloc[::-1]
        places = np.arange(len(rows))
        colours = np.where(rows["method"] == self.name, "tab:red", "tab:gray")
        figure, axes = plt.subplots(
            1, len(METRICS), figsize=(3.2 * len(METRICS), 1.2 + 0.3 * len(rows)), sharey=True, layout="constrained"
        )
        for axis, (metric, title) in zip(axes, METRICS.items(), strict=True):
            axis.hlines(places, rows[f"{metric}_low"], rows[f"{metric}_high"], color=colours)
            axis.scatter(rows[metric], places, color=colours, zorder=3)
            axis.scatter(rows[f"{metric}_null"], places, marker="|", color="black", label="permuted targets")
            axis.set_title(title, fontsize="medium")
        axes[0].set_yticks(places, rows["method"])
        axes[-1].legend(fontsize="small")
        figure.suptitle(self._counts(subset), fontsize="small")
        return figure

    def __repr__(self) -> str:
        rows = self._rows("all")
        width = max(rows["method"].str.len())
        lines = [
            self._counts("all"),
            f"  {self.truth!r}",
            f"  {'':{width}}  " + "  ".join(f"{t:26}" for t in METRICS.values()),
        ]
        for row in rows.to_dict("records"):
            cells = "  ".join(f"{_with_interval(row, metric):26}" for metric in METRICS)
            lines.append(f"  {row['method']:{width}}  {cells}{unscored(row)}")
        lines += [f"  {self._verdict(metric)}" for metric in ("auroc", "auprc_ratio")]
        lines += [f"  {subset}: {self._verdict('auroc', subset)}" for subset in self.subsets.index[1:]]
        lines += [f"  not run: {name} ({why})" for name, why in self.skipped.items()]
        return "\n".join(line for line in lines if line.strip())

    def _rows(self, subset: str) -> pd.DataFrame:
        if subset not in self.subsets.index:
            raise KeyError(f"subset {subset!r} is absent; there are {list(self.subsets.index)}")
        return self.table[self.table["subset"] == subset]

    def _counts(self, subset: str) -> str:
        row = self.subsets.loc[subset]
        known = "" if np.isnan(row["share_in_prior"]) else f"; the prior holds {row['share_in_prior']:.0%} of them"
        return (
            f"{self.name}, {subset}: {row['n_candidates']:,.0f} candidates of {row['n_regulators']:.0f} regulators "
            f"({row['n_scored_regulators']:.0f} with >= {self.min_positives} true and >= {self.min_negatives} false edges), "
            f"{row['n_true']:,.0f} true, density {row['density']:.3g}{known}"
        )

    def _verdict(self, metric: str, subset: str = "all") -> str:
        """One sentence: the network against the strongest baseline that has not seen the truth."""
        rows = self._rows(subset).set_index("method")[metric]
        rivals = rows.drop([self.name, ORACLE], errors="ignore").dropna()
        if rivals.empty or np.isnan(rows[self.name]):
            return ""
        best = rivals.idxmax()
        gap = self.differences.query("subset == @subset and baseline == @best and metric == @metric").iloc[0]
        word = "beats" if gap["low"] > 0 else "loses to" if gap["high"] < 0 else "is not told apart from"
        return (
            f"{METRICS[metric]}: {self.name} {word} the strongest baseline, {best}: "
            f"{gap['difference']:+.3f} [{_number(gap['low'])}, {_number(gap['high'])}]"
        )


@dataclass(frozen=True, eq=False)
class Candidates:
    """Edges that are ranked: R regulators x G genes, in the spelling of the measured genes."""

    regulators: pd.Index
    genes: pd.Index
    is_candidate: np.ndarray  # R x G, all but self-edges
    is_true: np.ndarray  # R x G
    in_prior: np.ndarray | None  # R x G
    is_new: np.ndarray | None  # R, regulators without any edge in the prior
    truth: Truth
    lookup: dict[str, str]


def network(
    scores_or_grn,
    truth,
    *,
    baselines: str | Sequence[str] | Mapping[str, pd.DataFrame] | None = "all",
    adata: AnnData | None = None,
    prior: pd.DataFrame | None = None,
    n_bootstrap: int = 200,
    random_state: int = 0,
    n_permutations: int = 50,
    min_positives: int = 20,
    min_negatives: int = 20,
    group: str | None = None,
    layer: str | None = None,
    n_jobs: int = 1,
    max_cells: int | None = 2000,
    name: str = "scores",
) -> Report:
    """Judge a network against true edges, beside baselines.

    Candidates are the truth's regulators that are measured or scored, times the measured genes, without self-edges.
    Measured are the genes of `adata`, or without it those of the scores: pass `adata` with a list of first edges, or
    the genes that it leaves out are no candidates. Edges that the scores do not hold tie at the lowest place. Ties
    favour no order. Genes match without regard to case or Ensembl version; columns of `adata.var` link symbols and
    Ensembl ids.

    Parameters
    ----------
    scores_or_grn
        A GRN, a DataFrame regulators x targets, or a long table `source, target, weight`; larger is more likely.
    truth
        Table or file of true edges (source, target or Gene1, Gene2 or TF, target), or a `Truth`.
    baselines
        "all"; "fast" (without the tree ensembles); names; a dictionary from names to further networks of the same
        forms as `scores_or_grn`; None for none. Those that need `adata` or `prior` are left out without it, and
        `Report.skipped` says so.
    adata
        Cells from which the expression baselines are computed; counts are log-normalised.
    prior
        Table of prior edges. With it come the prior baselines and two more subsets: `not_in_prior` (candidates that the
        prior does not hold) and `new_regulators` (regulators without any prior edge).
    n_bootstrap
        Draws of regulators with replacement for the 95 % intervals and the paired differences.
    random_state
        Seed of everything that is drawn.
    n_permutations
        Permutations of the targets within each regulator for the null.
    min_positives, min_negatives
        A regulator counts in the per-regulator means from this many true and false candidates on.
    group
        Group of a GRN, or of a long table with a column `group`.
    layer
        Layer of `adata` for the baselines.
    n_jobs, max_cells
        For the tree baselines.
    name
        Row name of the judged network.

    Returns
    -------
    Report

    Raises
    ------
    KeyError
        Unknown columns or group.
    ValueError
        No overlap of scores, truth and measured genes; one class only; NaN scores; a baseline asked for by name that
        lacks its input.
    """
    matrix = score_matrix(scores_or_grn, group)
    candidates = find_candidates(matrix, truth, adata, prior)
    ends = candidates.regulators, candidates.genes, candidates.lookup
    rivals, skipped = run_baselines(
        baselines, *ends, adata=adata, prior=prior, truth=candidates.truth.edges,
        layer=layer, n_jobs=n_jobs, max_cells=max_cells, random_state=random_state,
    )  # fmt: skip
    if name in rivals:
        raise ValueError(f"{name!r} names the judged network and a baseline; pass another: `name='model'`")
    values = {method: aligned(scores, *ends, method) for method, scores in {name: matrix, **rivals}.items()}
    judged = {}
    for subset, mask in _subsets(candidates).items():
        n_true, n_candidates = int(candidates.is_true[mask].sum()), int(mask.sum())
        if 0 < n_true < n_candidates:
            judged[subset] = _judged(
                candidates, mask, values, name, min_positives=min_positives, min_negatives=min_negatives,
                n_bootstrap=n_bootstrap, n_permutations=n_permutations, random_state=random_state,
            )  # fmt: skip
        else:
            skipped[subset] = f"{n_true:,} true among {n_candidates:,} candidates"
    _warn_if_too_few(judged["all"].counts, min_positives, min_negatives)
    return Report(
        name=name,
        table=_stacked({subset: part.table for subset, part in judged.items()}),
        differences=_stacked({subset: part.differences for subset, part in judged.items()}),
        per_regulator=_stacked({subset: part.per_regulator for subset, part in judged.items()}),
        subsets=pd.DataFrame({subset: part.counts for subset, part in judged.items()}).T,
        truth=candidates.truth,
        skipped=skipped,
        min_positives=min_positives,
        min_negatives=min_negatives,
    )


def find_candidates(matrix: pd.DataFrame, truth, adata: AnnData | None = None, prior=None) -> Candidates:
    """Candidate edges of a network (`score_matrix`) under a truth; parameters and errors as in `network`."""
    lookup = gene_lookup(matrix.columns if adata is None else adata)
    genes = pd.Index(list(dict.fromkeys(respell(matrix.columns if adata is None else adata.var_names, lookup))))
    scored = respell(matrix.index, lookup)
    if not respell(matrix.columns, lookup).isin(genes).any():
        raise ValueError(
            f"no target of the scores ({', '.join(map(str, matrix.columns[:3]))}, ...) is a gene of adata "
            f"({', '.join(adata.var_names[:3])}, ...); if one is in Ensembl ids, add them: `adata.var['gene_ids'] = ...`"
        )
    receipt = read_edges(truth, matrix.columns if adata is None else adata, regulators=scored)
    regulators = pd.Index(pd.unique(receipt.edges["source"]))
    if not len(regulators):
        raise ValueError(
            f"no edge of the truth is among the measured genes ({', '.join(map(str, genes[:3]))}, ...); unmapped are e.g. "
            f"{', '.join(receipt.unmapped_genes[:3])}. If one side is in Ensembl ids, pass an AnnData with both: "
            "`network(scores, truth, adata=adata)` with `adata.var['gene_ids']`"
        )
    is_candidate = regulators.to_numpy()[:, None] != genes.to_numpy()[None]
    is_true = marked(receipt.edges, regulators, genes)
    if is_true[is_candidate].all():
        raise ValueError(
            f"all {is_candidate.sum():,} candidates are true, so nothing can be ranked; widen the measured genes: pass `adata=`"
        )
    in_prior = is_new = None
    if prior is not None:
        known = read_edges(spelled_edges(prior, lookup)).edges
        in_prior, is_new = marked(known, regulators, genes), ~regulators.isin(known["source"])
    return Candidates(regulators, genes, is_candidate, is_true, in_prior, is_new, receipt, lookup)


def _subsets(candidates: Candidates) -> dict[str, np.ndarray]:
    masks = {"all": candidates.is_candidate}
    if candidates.in_prior is not None:
        masks["not_in_prior"] = candidates.is_candidate & ~candidates.in_prior
        masks["new_regulators"] = candidates.is_candidate & candidates.is_new[:, None]
    return masks


@dataclass(frozen=True, eq=False)
class _Subset:
    """One subset of the report."""

    table: pd.DataFrame
    differences: pd.DataFrame
    per_regulator: pd.DataFrame
    counts: dict[str, float]


def _judged(candidates: Candidates, mask: np.ndarray, values: dict[str, np.ndarray], name: str, **settings) -> _Subset:
    """All methods on the candidates under `mask`, with the same draws of regulators and permutations."""
    present = mask.any(axis=1)
    regulators, size = candidates.regulators[present], mask.sum(axis=1)[present]
    labels = candidates.is_true[mask]
    judge = Judge.of(labels, np.repeat(np.arange(len(size)), size), **settings)
    n_true = np.bincount(judge.blocks, labels).astype(int)
    counts = {
        "n_regulators": len(regulators),
        "n_scored_regulators": int(judge.is_scored.sum()),
        "n_candidates": labels.size,
        "n_true": int(labels.sum()),
        "density": labels.mean(),
        "share_in_prior": np.nan if candidates.in_prior is None else candidates.in_prior[mask][labels].mean(),
    }
    results = {method: judge.score(scores[mask]) for method, scores in values.items()}
    table, gaps, per_regulator = [], [], []
    for method, result in results.items():
        is_unscored = np.isneginf(values[method]).all(axis=1, where=mask)[present]
        table.append({"method": method, **result.row, **counts, "n_unscored_regulators": int(is_unscored.sum())})
        per_regulator.append(pd.DataFrame({
            "method": method, "regulator": regulators, "n_true": n_true, "n_candidates": size,
            "auroc": result.auroc, "auprc": result.auprc, "is_scored": judge.is_scored,
        }))  # fmt: skip
        if method != name:
            gaps += [{"baseline": method, **gap} for gap in _gaps(results[name], result)]
    differences = pd.DataFrame(gaps, columns=["baseline", "metric", "difference", "low", "high"])
    return _Subset(pd.DataFrame(table), differences, pd.concat(per_regulator, ignore_index=True), counts)


def _gaps(judged: Scored, rival: Scored) -> list[dict]:
    """Judged network minus a baseline, and the interval of that difference over the same draws."""
    out = []
    for i, metric in enumerate(METRICS):
        low, high = interval(judged.draws[:, i] - rival.draws[:, i])
        out.append({"metric": metric, "difference": judged.row[metric] - rival.row[metric], "low": low, "high": high})
    return out


def _stacked(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Frames of the subsets under each other, the subset as first column."""
    return pd.concat(frames, names=["subset"]).reset_index(level="subset").reset_index(drop=True)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _with_interval(row: dict, metric: str) -> str:
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    interval = "" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"
    return _number(row[metric]) + interval


def _warn_if_too_few(counts: dict, min_positives: int, min_negatives: int) -> None:
    if not counts["n_scored_regulators"]:
        warnings.warn(
            f"no regulator has {min_positives} true and {min_negatives} false candidates, so there is no per-regulator "
            "number; lower `min_positives=` and `min_negatives=` for a small network",
            stacklevel=3,
        )
