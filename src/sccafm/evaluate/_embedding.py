"""Judge embeddings of cells: is biology kept, are batches mixed, and is that more than simple embeddings give?"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import issparse

from sccafm.evaluate.comparison import ComparisonReport, Panel, verdict
from sccafm.evaluate.integration import (
    SCIB_INSTALL,
    CellScores,
    cell_draws,
    graph_connectivity,
    isolated_label_f1,
    isolated_labels,
    pseudotime_correlation,
    scib_measures,
    silhouette_batch,
    silhouette_label,
    transfer_labels,
    transfer_scores,
)
from sccafm.evaluate.markdown import markdown_table
from sccafm.evaluate.metrics import interval
from sccafm.evaluate.representations import run_representations

MEASURES = {
    "silhouette_label": "label silhouette",
    "graph_connectivity": "graph connectivity",
    "isolated_f1": "isolated-label F1",
    "transfer_accuracy": "label-transfer accuracy",
    "transfer_f1": "label-transfer macro-F1",
    "silhouette_batch": "batch silhouette",
    "pseudotime": "pseudotime Spearman",
    "clisi": "cLISI",
    "nmi": "NMI",
    "ari": "ARI",
    "ilisi": "iLISI",
}
WITH_INTERVAL = ("silhouette_label", "transfer_accuracy", "transfer_f1", "silhouette_batch", "pseudotime")
N_FOLDS = 5


@dataclass(frozen=True, eq=False)
class EmbeddingReport(ComparisonReport):
    """What `embedding` found. `to_frame`, `to_markdown` and `plot` show it."""

    keys: tuple[str, ...]  # embeddings that were judged
    table: pd.DataFrame  # one row per embedding and baseline
    differences: pd.DataFrame  # judged embedding minus baseline, paired over bootstrap draws
    counts: dict[str, int]  # n_cells, n_labels, n_batches, n_without_label, n_not_drawn, n_only_in_one_fold, ...
    isolated: tuple[str, ...] = field(repr=False)  # labels in the fewest batches
    skipped: dict[str, str]  # baseline or measure -> why it is absent
    across: str  # what label transfer crosses: the batch column, or "folds"

    def to_frame(self) -> pd.DataFrame:
        """One row per embedding and baseline: method, is_judged, n_dimensions, then each measure that was computed.

        Larger is better in all. Measures that are means over cells have `_low` and `_high` (95 % bootstrap interval
        over cells within batches; it knows nothing of the spread between donors).
        """
        return self.table.copy()

    def to_markdown(self) -> str:
        """GitHub table: value [low, high] of each measure."""
        measures = self._measures()
        rows = ([row["method"], *(_with_interval(row, m) for m in measures)] for row in self.table.to_dict("records"))
        return markdown_table(["method", *(MEASURES[m] for m in measures)], rows) + "\n\n" + self._story()

    def plot(self):
        """A matplotlib Figure: a dot with its interval per method, a panel per measure."""
        panels = [
            Panel(MEASURES[m], self.table, m, *((f"{m}_low", f"{m}_high") if m in WITH_INTERVAL else (None, None)))
            for m in self._measures()
        ]
        return self._figure(panels, self._story(), 2.2)

    def __repr__(self) -> str:
        measures, width = self._measures(), max(self.table["method"].str.len())
        lines = [self._story()]
        for measure in measures:
            lines.append(f"  {MEASURES[measure]}")
            for row in self.table.sort_values(measure, ascending=False).to_dict("records"):
                lines.append(
                    f"    {'*' if row['is_judged'] else ' '} {row['method']:{width}}  {_with_interval(row, measure)}"
                )
        lines += [f"  {self._verdict(key, m)}" for key in self.keys for m in measures if m in WITH_INTERVAL]
        lines += [f"  not run: {name} ({why})" for name, why in self.skipped.items()]
        return "\n".join(line for line in lines if line.strip())

    def _measures(self) -> list[str]:
        return [measure for measure in MEASURES if measure in self.table]

    def _story(self) -> str:
        n = self.counts
        lost = [f"{n[k]:,} {text}" for k, text in LEFT_OUT.items() if n.get(k)]
        batches = f"{n['n_batches']} batches of {self.across}" if n["n_batches"] else f"{N_FOLDS} random folds"
        return (
            f"{', '.join(self.keys)}: {n['n_cells']:,} cells, {n['n_labels']} labels, {batches}"
            + (f" ({'; '.join(lost)})" if lost else "")
        )  # fmt: skip

    def _verdict(self, key: str, measure: str) -> str:
        """One sentence: the embedding against the strongest baseline of this measure."""
        rows = self.table.set_index("method")[[measure, "is_judged"]]
        rivals = rows.loc[~rows["is_judged"], measure].dropna()
        if measure == "silhouette_batch":
            rivals = rivals.drop("random", errors="ignore")  # noise mixes batches better than any biology
        if rivals.empty or np.isnan(rows.loc[key, measure]):
            return ""
        best = rivals.idxmax()
        gap = self.differences.query("embedding == @key and baseline == @best and measure == @measure").iloc[0]
        return f"{MEASURES[measure]}: {verdict(key, f'the strongest baseline, {best}', gap, '+')}"


LEFT_OUT = {
    "n_without_label": "left out without a label or batch",
    "n_not_drawn": "not drawn",
    "n_only_in_one_fold": "in no other batch, left out of label transfer",
    "n_without_pseudotime": "without a pseudotime",
}


@dataclass(frozen=True, eq=False)
class _Cells:
    """What all methods are judged by."""

    labels: np.ndarray  # C
    batches: np.ndarray | None  # C
    folds: np.ndarray  # C: the batches, or random
    pseudotime: np.ndarray | None  # C, NaN where unknown
    draws: np.ndarray  # W C times drawn
    isolated: list
    with_scib: bool


def embedding(
    adata: AnnData,
    obsm_keys: str | Sequence[str],
    *,
    batch_key: str | None,
    label_key: str,
    pseudotime_key: str | None = None,
    baselines: str | Sequence[str] | Mapping[str, np.ndarray] | None = "all",
    layer: str | None = None,
    scib: bool | None = None,
    n_bootstrap: int = 200,
    max_cells: int | None = 5000,
    random_state: int = 0,
) -> EmbeddingReport:
    """Judge embeddings by biology kept and batches mixed, beside simple embeddings of the same cells.

    Label silhouette, graph connectivity, isolated-label F1 and batch silhouette follow scIB (Luecken et al., Nature
    Methods 2022), by scikit-learn; `sccafm.evaluate.integration` has the formulas. Label transfer names the cells of each
    batch by their nearest neighbours in all other batches. Distances are Euclidean, in the embedding as it stands.

    Parameters
    ----------
    obsm_keys
        One or several fields of `adata.obsm`: arrays or DataFrames cells x D.
    batch_key, label_key
        Columns of obs. Without a batch (None) label transfer crosses five random folds, and the batch silhouette and the
        isolated-label F1 are left out. Cells without a label or batch are left out, and counted in the report.
    pseudotime_key
        Column of obs with a number per cell: how well is it read from the nearest neighbours in other batches or folds?
        A pseudotime that was computed from an embedding favours that embedding.
    baselines
        "all" (principal components of variable genes, their log-expression, random numbers, scVI where installed);
        "fast" (without scVI); names; a dictionary from names to arrays cells x D; None.
    layer
        Layer of `adata` for the baselines: counts or log-expression.
    scib
        Add cLISI, NMI, ARI and iLISI by scib-metrics. None does so where it is installed.
    n_bootstrap
        Draws of cells for the 95 % intervals and the paired differences.
    random_state
        Seed of everything that is drawn.
    max_cells
        Cells drawn without replacement, the same for all methods; None takes all.

    Returns
    -------
    EmbeddingReport

    Raises
    ------
    KeyError
        An obsm field, obs column or layer is absent.
    ValueError
        A single label or batch, NaN or infinite values in an embedding, or a shape that does not fit.
    ImportError
        `scib=True` or the baseline "scvi" without the package.
    """
    keys = (obsm_keys,) if isinstance(obsm_keys, str) else tuple(obsm_keys)
    spaces = {key: _field(adata, key) for key in keys}
    is_known = _known(adata, batch_key, label_key)
    if isinstance(baselines, Mapping):
        rivals, skipped = {name: checked(name, x, adata.n_obs)[is_known] for name, x in baselines.items()}, {}
    else:
        rivals, skipped = run_representations(
            baselines, adata[is_known], layer=layer, batch_key=batch_key, random_state=random_state
        )
    if twice := sorted(set(keys) & set(rivals)):
        raise ValueError(f"{twice} name an embedding and a baseline; rename the field of obsm")
    spaces = {key: x[is_known] for key, x in spaces.items()} | {name: x.astype(float) for name, x in rivals.items()}
    known, rng = adata.obs[is_known], np.random.default_rng(random_state)
    chosen = np.arange(len(known))
    if max_cells is not None and len(chosen) > max_cells:
        chosen = np.sort(rng.choice(chosen, max_cells, replace=False))
    with_scib = importlib.util.find_spec("scib_metrics") is not None if scib is None else scib
    if not with_scib:
        skipped["cLISI, NMI, ARI, iLISI"] = f"need scib-metrics: {SCIB_INSTALL}"
    cells = _cells(known.iloc[chosen], batch_key, label_key, pseudotime_key, n_bootstrap, rng, with_scib)
    results = {name: _measured(x[chosen], cells) for name, x in spaces.items()}
    return EmbeddingReport(
        keys=keys,
        table=pd.DataFrame([_row(name, name in keys, spaces[name].shape[1], r) for name, r in results.items()]),
        differences=_differences(keys, results),
        counts=_counts(adata.n_obs, len(known), cells),
        isolated=tuple(map(str, cells.isolated)),
        skipped=skipped,
        across=batch_key or "folds",
    )


def checked(name: str, x, n_cells: int) -> np.ndarray:
    """An embedding as a finite array `n_cells` x D; ValueError says what is wrong with it."""
    x = x.toarray() if issparse(x) else np.asarray(x)
    if x.ndim != 2 or len(x) != n_cells or not x.shape[1]:
        raise ValueError(f"{name!r} has shape {x.shape}, expected {n_cells} cells x dimensions; transpose or subset it")
    if not np.issubdtype(x.dtype, np.number):
        raise ValueError(f"{name!r} holds {x.dtype}, expected numbers; drop the columns of text")
    if not np.isfinite(x).all():
        n_bad = int((~np.isfinite(x)).any(axis=1).sum())
        raise ValueError(
            f"{name!r} holds NaN or infinite values in {n_bad:,} of {n_cells:,} cells; leave those cells out: "
            f"`adata[numpy.isfinite(adata.obsm[{name!r}]).all(axis=1)]`"
        )
    return x.astype(np.float64)


def _field(adata: AnnData, key: str) -> np.ndarray:
    if key not in adata.obsm:
        raise KeyError(f"obsm has no field {key!r}; there are {list(adata.obsm)}: pass one of them as `obsm_keys=`")
    return checked(key, adata.obsm[key], adata.n_obs)


def _known(adata: AnnData, batch_key: str | None, label_key: str) -> np.ndarray:
    """Which cells have a label and a batch; raises where a column is absent or has a single value."""
    is_known = np.ones(adata.n_obs, dtype=bool)
    for key, option in ((label_key, "label_key"), (batch_key, "batch_key")):
        if key is not None and key not in adata.obs:
            raise KeyError(f"obs has no column {key!r}; there are {list(adata.obs)}: pass one as `{option}=`")
        is_known &= True if key is None else adata.obs[key].notna().to_numpy()
    mend = {
        "label_key": "label the cells, for instance by clusters: `sc.tl.leiden(adata)`",
        "batch_key": "without batches pass `batch_key=None`: transfer then crosses random folds",
    }
    for key, option in ((label_key, "label_key"), (batch_key, "batch_key")):
        values = [] if key is None else list(pd.unique(adata.obs.loc[is_known, key]))
        if key is not None and len(values) < 2:
            raise ValueError(
                f"obs[{key!r}] holds {len(values)} value ({values}), expected at least two; {mend[option]}"
            )
    return is_known


def _cells(obs, batch_key, label_key, pseudotime_key, n_bootstrap, rng, with_scib) -> _Cells:
    labels = obs[label_key].astype(str).to_numpy(dtype=object)
    batches = None if batch_key is None else obs[batch_key].astype(str).to_numpy(dtype=object)
    folds = rng.permutation(len(obs)) % N_FOLDS if batches is None else pd.factorize(batches)[0]
    return _Cells(
        labels=labels,
        batches=batches,
        folds=folds,
        pseudotime=None if pseudotime_key is None else _pseudotime(obs, pseudotime_key),
        draws=cell_draws(folds, n_bootstrap, rng),
        isolated=[] if batches is None else isolated_labels(labels, batches),
        with_scib=with_scib,
    )


def _pseudotime(obs: pd.DataFrame, key: str) -> np.ndarray:
    if key not in obs:
        raise KeyError(f"obs has no column {key!r}; there are {list(obs)}: pass one as `pseudotime_key=`")
    values = pd.to_numeric(obs[key], errors="coerce").to_numpy(dtype=float, copy=True)
    values[~np.isfinite(values)] = np.nan  # scanpy's dpt gives inf to cells that the root does not reach
    if len(np.unique(values[~np.isnan(values)])) < 2:
        raise ValueError(f"obs[{key!r}] holds no two different numbers; compute one: `sc.tl.dpt(adata)`")
    return values


def _measured(x: np.ndarray, cells: _Cells) -> dict[str, CellScores | float]:
    """All measures of one embedding, in the order of `MEASURES`."""
    labels, batches, draws = cells.labels, cells.batches, cells.draws
    predicted, is_known = transfer_labels(x, labels, cells.folds)
    found: dict = {"silhouette_label": silhouette_label(x, labels, draws)}
    found["graph_connectivity"] = graph_connectivity(x, labels)
    if batches is not None:
        found["isolated_f1"] = isolated_label_f1(x, labels, cells.isolated)
        found["silhouette_batch"] = silhouette_batch(x, labels, batches, draws)
    if is_known.any():
        found |= transfer_scores(labels, predicted, is_known, draws)
    if cells.pseudotime is not None:
        timed = ~np.isnan(cells.pseudotime)
        found["pseudotime"] = pseudotime_correlation(
            x[timed], cells.pseudotime[timed], cells.folds[timed], draws[:, timed]
        )
    if cells.with_scib:
        found |= scib_measures(x, labels, batches)
    return {measure: found[measure] for measure in MEASURES if measure in found}


def _row(method: str, is_judged: bool, n_dimensions: int, found: dict) -> dict:
    row = {"method": method, "is_judged": is_judged, "n_dimensions": n_dimensions}
    for measure, scores in found.items():
        if measure in WITH_INTERVAL:
            low, high = interval(scores.draws)
            row |= {measure: scores.value, f"{measure}_low": low, f"{measure}_high": high}
        else:
            row[measure] = scores
    return row


def _differences(keys: Sequence[str], results: dict[str, dict]) -> pd.DataFrame:
    """Judged embedding minus baseline, with the interval of that difference over the same draws."""
    gaps = []
    for key in keys:
        for rival in [name for name in results if name not in keys]:
            for measure in WITH_INTERVAL:
                if measure not in results[key]:
                    continue
                one, two = results[key][measure], results[rival][measure]
                low, high = interval(one.draws - two.draws)
                gaps.append((key, rival, measure, one.value - two.value, low, high))
    return pd.DataFrame(gaps, columns=["embedding", "baseline", "measure", "difference", "low", "high"])


def _counts(n_obs: int, n_known: int, cells: _Cells) -> dict[str, int]:
    n_folds = pd.DataFrame({"label": cells.labels, "fold": cells.folds}).drop_duplicates()["label"].value_counts()
    lone = n_folds.index[n_folds == 1]
    return {
        "n_cells": len(cells.labels),
        "n_labels": len(np.unique(cells.labels)),
        "n_batches": 0 if cells.batches is None else len(np.unique(cells.batches)),
        "n_without_label": n_obs - n_known,
        "n_not_drawn": n_known - len(cells.labels),
        "n_only_in_one_fold": int(np.isin(cells.labels, lone).sum()),
        "n_without_pseudotime": 0 if cells.pseudotime is None else int(np.isnan(cells.pseudotime).sum()),
    }


def _with_interval(row: dict, measure: str) -> str:
    low, high = row.get(f"{measure}_low", np.nan), row.get(f"{measure}_high", np.nan)
    value = "-" if np.isnan(row[measure]) else f"{row[measure]:.3f}"
    return value if np.isnan(low) else f"{value} [{low:.3f}, {high:.3f}]"
