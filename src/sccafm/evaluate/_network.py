"""Judge a network against a truth, beside baselines, with intervals and a null.

Candidates are the truth's regulators times the measured genes, without self-edges. The swap test comes first: it alone is
blind to hubs and to popular targets. Numbers per regulator come next, beside those of the network's own target list; a
pooled number is mostly a contest of degrees: a list of hubs wins it (`oracle_out_degree`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from anndata import AnnData

from sccafm._text import warn
from sccafm.evaluate.baselines import run_baselines
from sccafm.evaluate.lists import own_lists
from sccafm.evaluate.metrics import Judge, Scored, interval, p_value
from sccafm.evaluate.report import COLUMNS, Report
from sccafm.evaluate.swap import Swaps, natural_scale, on_scale
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
from sccafm.grn.grn import GRN


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
    exclude=None,
    n_bootstrap: int = 200,
    random_state: int = 0,
    n_permutations: int = 50,
    min_positives: int = 20,
    min_negatives: int = 20,
    group: str | None = None,
    kind: str | None = None,
    scale: str | Mapping[str, str] = "auto",
    n_swaps: int = 200_000,
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
        Beside the network's own target list and regulator list, which are the means of its scores on the scale of the
        swap test: "all"; "fast" (without the tree ensembles); names; a dictionary from names to further networks of the same
        forms as `scores_or_grn`; None for
        none at all. Those that need `adata` or `prior` are left out without it, and
        `Report.skipped` says so.
    adata
        Cells from which the expression baselines are computed; counts are log-normalised.
    prior
        Table of prior edges. With it come the prior baselines and two more subsets: `not_in_prior` (candidates that the
        prior does not hold) and `new_regulators` (regulators without any prior edge).
    exclude
        Edges, in the forms of `truth`, that are no candidates: neither true nor false, as those of unclear evidence or
        those that trained the network.
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
    kind
        What the truth tells: "binding", "response" or "curated"; None takes the kind of a `Truth`.
    scale
        Scale of the swap test (`swap_test`), on which levels of regulators and targets add: of the judged network, or
        of methods by name. "auto" takes "log" for a GRN, whose weights are products, and for other scores the scale on
        which two lists explain the most, so that the test sees as little of them as can be.
    n_swaps
        Largest number of swaps in the swap test; all methods meet the same ones.
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
        lacks its input; an unknown kind or scale, or scores that the scale does not hold.
    """
    matrix = score_matrix(scores_or_grn, group)
    candidates = find_candidates(matrix, truth, adata, prior, kind, exclude)
    ends = candidates.regulators, candidates.genes, candidates.lookup
    rivals, skipped = run_baselines(
        baselines, *ends, adata=adata, prior=prior, truth=candidates.truth.edges,
        layer=layer, n_jobs=n_jobs, max_cells=max_cells, random_state=random_state,
    )  # fmt: skip
    if name in rivals:
        raise ValueError(f"{name!r} names the judged network and a baseline; pass another: `name='model'`")
    values = {method: aligned(scores, *ends, method) for method, scores in {name: matrix, **rivals}.items()}
    wanted = {name: scale} if isinstance(scale, str) else dict(scale)
    if wanted.get(name, "auto") == "auto" and isinstance(scores_or_grn, GRN):
        wanted[name] = "log"
    scales = {method: wanted.get(method, "auto") for method in values}
    scales |= {method: natural_scale(values[method]) for method, wish in scales.items() if wish == "auto"}
    lists = {} if baselines is None else own_lists(matrix, scales[name], name, candidates.regulators)
    alone = {method: aligned(scores, *ends, method) for method, scores in lists.items()}
    values = {name: values.pop(name), **alone, **values}
    scales |= dict.fromkeys(lists, "identity")
    judged = {}
    for subset, mask in _subsets(candidates).items():
        n_true, n_candidates = int(candidates.is_true[mask].sum()), int(mask.sum())
        if 0 < n_true < n_candidates:
            judged[subset] = _judged(
                candidates, mask, values, scales, name, n_swaps, min_positives=min_positives,
                min_negatives=min_negatives, n_bootstrap=n_bootstrap, n_permutations=n_permutations,
                random_state=random_state,
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


def find_candidates(
    matrix: pd.DataFrame, truth, adata: AnnData | None = None, prior=None, kind: str | None = None, exclude=None
) -> Candidates:
    """Candidate edges of a network (`score_matrix`) under a truth; parameters and errors as in `network`."""
    lookup = gene_lookup(matrix.columns if adata is None else adata)
    measured = matrix.columns if adata is None else adata.var_names
    genes = pd.Index(list(dict.fromkeys(respell(measured, lookup))))
    scored = respell(matrix.index, lookup)
    if not respell(matrix.columns, lookup).isin(genes).any():
        raise ValueError(
            f"no target of the scores ({', '.join(map(str, matrix.columns[:3]))}, ...) is a gene of adata "
            f"({', '.join(measured[:3])}, ...); if one is in Ensembl ids, add them: `adata.var['gene_ids'] = ...`"
        )
    receipt = read_edges(truth, matrix.columns if adata is None else adata, regulators=scored, kind=kind)
    regulators = pd.Index(pd.unique(receipt.edges["source"]))
    if not len(regulators):
        raise ValueError(
            f"no edge of the truth is among the measured genes ({', '.join(map(str, genes[:3]))}, ...); unmapped are e.g. "
            f"{', '.join(receipt.unmapped_genes[:3])}. If one side is in Ensembl ids, pass an AnnData with both: "
            "`network(scores, truth, adata=adata)` with `adata.var['gene_ids']`"
        )
    is_candidate = regulators.to_numpy()[:, None] != genes.to_numpy()[None]
    if exclude is not None:
        spelling = gene_lookup(scored) | lookup  # regulators need not be measured
        is_candidate &= ~marked(spelled_edges(exclude, spelling), regulators, genes)
    is_true = marked(receipt.edges, regulators, genes) & is_candidate
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
    if candidates.in_prior is not None and candidates.is_new is not None:
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


def _judged(
    candidates: Candidates,
    mask: np.ndarray,
    values: dict[str, np.ndarray],
    scales: dict[str, str],
    name: str,
    n_swaps: int,
    **settings,
) -> _Subset:
    """All methods on the candidates under `mask`, with the same swaps, draws of regulators and permutations."""
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
    is_true = (candidates.is_true & mask)[present]
    rng = np.random.default_rng(settings["random_state"])
    swaps = Swaps.of(is_true, mask[present] & ~is_true, n_swaps, rng)

    def scored(method: str) -> Scored:
        result, scores = judge.score(values[method][mask]), values[method]
        swap = swaps.score(on_scale(scores, scales[method], mask, method)[present], judge.draws)
        return _with_swap(result, *swap)

    results = {method: scored(method) for method in values}
    table, gaps, per_regulator = [], [], []
    for method, result in results.items():
        is_unscored = np.all(np.isneginf(values[method]), axis=1, where=mask)[present]
        swapped = {"swap_scale": scales[method], "n_swaps": len(swaps), "kind": candidates.truth.kind}
        table.append(
            {"method": method, **result.row, **swapped, **counts, "n_unscored_regulators": int(is_unscored.sum())}
        )
        per_regulator.append(pd.DataFrame({
            "method": method, "regulator": regulators, "n_true": n_true, "n_candidates": size,
            "auroc": result.auroc, "auprc": result.auprc, "is_scored": judge.is_scored,
        }))  # fmt: skip
        if method != name:
            gaps += [{"baseline": method, **gap} for gap in _gaps(results[name], result)]
    differences = pd.DataFrame(gaps, columns=["baseline", "metric", "difference", "low", "high"])
    return _Subset(pd.DataFrame(table), differences, pd.concat(per_regulator, ignore_index=True), counts)


def _with_swap(result: Scored, value: float, draws: np.ndarray) -> Scored:
    """The swap test as first metric; its null is 0.5 by design, its p the share of draws that do not exceed that."""
    low, high = interval(draws)
    row = {"swap": value, "swap_low": low, "swap_high": high, "swap_null": 0.5, "swap_p": p_value(-0.5, -draws)}
    return replace(result, row=row | result.row, draws=np.column_stack([draws, result.draws]))


def _gaps(judged: Scored, rival: Scored) -> list[dict]:
    """Judged network minus a baseline, and the interval of that difference over the same draws."""
    out = []
    for i, metric in enumerate(COLUMNS):
        low, high = interval(judged.draws[:, i] - rival.draws[:, i])
        out.append({"metric": metric, "difference": judged.row[metric] - rival.row[metric], "low": low, "high": high})
    return out


def _stacked(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Frames of the subsets under each other, the subset as first column."""
    return pd.concat(frames, names=["subset"]).reset_index(level="subset").reset_index(drop=True)


def _warn_if_too_few(counts: dict, min_positives: int, min_negatives: int) -> None:
    if not counts["n_scored_regulators"]:
        warn(
            f"no regulator has {min_positives} true and {min_negatives} false candidates, so there is no per-regulator "
            "number; lower `min_positives=` and `min_negatives=` for a small network"
        )
