"""regulator_activity: how active each regulator is in each cell, from its targets or from the cell's own network."""

import warnings

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sccafm._text import warn
from sccafm.evaluate.baselines import dense_columns
from sccafm.evaluate.baselines import expression as expression_of
from sccafm.grn.grn import GRN
from sccafm.model.validation import check_key
from sccafm.tl.shared import check_grn, log_strength, obs_of

METHODS = ("ulm", "waggr", "strength")

MOST_MISSING = 0.1  # share of the networks' genes that adata may lack without a word


def regulator_activity(
    adata: AnnData,
    grn: GRN,
    method: str = "ulm",
    *,
    group: object = None,
    n_targets: int = 100,
    min_targets: int = 5,
    layer: str | None = None,
    key_added: str = "sccafm",
    copy: bool = False,
) -> pd.DataFrame | AnnData:
    """Score the activity of each regulator in each cell.

    Parameters
    ----------
    adata
        Cells to score. For "ulm" and "waggr" they may be others than the networks' cells, if the genes are the same.
    grn
        Networks of `sccafm.infer_grn` or `sccafm.read_grn`.
    method
        "ulm": t of the slope of expression on the weights of the regulator's targets, over all genes. "waggr": weighted
        mean expression of the targets, beside permuted genes. Both by decoupler (pip install "sccafm[activity]",
        Badia-i-Mompel et al. 2022). "strength": log2 of `GRN.strengths` less its mean over cells, from each cell's own
        network; no other package is needed.
    group
        Group of the inference whose mean network is used, for "ulm" and "waggr". None: all cells', so that scores
        compare between groups.
    n_targets
        Targets of each regulator: those whose mean score exceeds by most what the regulator's and the target's own
        levels give, so that genes that every regulator scores highly are in no regulon for that alone.
    min_targets
        Regulators with fewer targets among the genes of `adata` are left out.
    layer
        Layer of `adata` to read. None: X. Counts are log-normalised.
    key_added
        Name of what is written to `adata`.
    copy
        Annotate and return a copy of `adata`.

    Returns
    -------
    DataFrame, or with ``copy=True`` the annotated copy of `adata`
        One row per regulator: regulator, n_targets, n_repressed (targets of sign -1, whose weight is negative; targets
        without a sign count as activated), detection (share of the cells in which the regulator itself was detected; NaN
        where it is no gene of `adata`), is_inferred_only (it is a gene of `adata`, and was detected in no cell). The table is ``uns["sccafm"]["activity"]``.

        ``obsm["score_sccafm"]`` (DataFrame cells x regulators, float64) and ``obsm["padj_sccafm"]`` (Benjamini and
        Hochberg within a cell; NaN for "strength", which tests nothing). Cells without any of the genes are NaN.

    Warns
    -----
    UserWarning
        A regulator was inferred although no cell shows its RNA: its activity rests on other genes alone. Or `adata` lacks more than a
        tenth of the networks' genes.

    Raises
    ------
    ImportError
        decoupler is not installed.
    KeyError, ValueError
        No such layer or group, networks of other cells ("strength"), or none of the networks' genes.
    """
    check_key(key_added)
    check_grn(grn)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    adata = adata.copy() if copy else adata
    x, names = expression_of(adata, layer)
    genes = shared_genes(adata, grn, names)
    if method == "strength":
        scores, padj, table = strength_scores(adata, grn)
    else:
        net = regulon_table(grn, group, n_targets)
        net = net[net["target"].isin(genes.index)]
        scores, padj = decoupled(x, adata.obs_names, genes, net, method, min_targets)
        table = counted(net, scores.columns)
    missing = 1 - len(genes) / len(grn.targets)
    if method != "strength" and missing > MOST_MISSING:
        warn(
            f"adata lacks {missing:.0%} of the networks' {len(grn.targets):,} genes, so that activity rests on the other targets alone; the "
            "AnnData that the networks were inferred from has them all"
        )
    table["detection"] = detection(x, genes, table["regulator"])
    table["is_inferred_only"] = table["detection"] == 0
    silent = table.loc[table["is_inferred_only"], "regulator"]
    if len(silent):
        warn(
            f"{len(silent)} of {len(table)} regulators were inferred although no cell shows their RNA "
            f"({', '.join(silent[:5])}{', ...' if len(silent) > 5 else ''}): their activity rests on other genes alone"
        )
    adata.obsm[f"score_{key_added}"], adata.obsm[f"padj_{key_added}"] = scores, padj
    adata.uns[key_added] = dict(adata.uns.get(key_added, {})) | {"activity": table}
    return adata if copy else table


def shared_genes(adata: AnnData, grn: GRN, names: pd.Index) -> pd.Series:
    """Position in `adata` of each gene of the networks that it holds, by var_names or the column that holds most.

    Raises
    ------
    ValueError
        It holds none.
    """
    columns = [names, *(adata.var[c].astype(str) for c in adata.var if adata.var[c].dtype.kind not in "fiub")]
    best = max(columns, key=lambda c: grn.targets.isin(c).sum())
    places = pd.Series(np.arange(len(names)), index=pd.Index(best.astype(str)))
    places = places[~places.index.duplicated()]
    found = places[places.index.isin(grn.targets)]
    if found.empty:
        raise ValueError(
            f"adata holds none of the networks' {len(grn.targets):,} genes (they look like {grn.targets[0]!r}, adata's "
            f"like {names[0]!r}); pass the AnnData that the networks were inferred from"
        )
    return found


def regulon_table(grn: GRN, group: object, n_targets: int) -> pd.DataFrame:
    """Targets of each regulator with signed weights: source, target, weight (the strongest of a regulator has 1).

    The weight is the Pearson residual of the mean score beside the product of the regulator's and the target's mean.
    """
    scores = grn.matrix(group).to_numpy(copy=True)
    own = grn.targets.get_indexer(grn.regulators)
    scores[np.arange(len(scores)), own] = 0
    expected = scores.sum(1, keepdims=True) * scores.sum(0) / max(scores.sum(), np.finfo(float).tiny)
    residual = (scores - expected) / np.sqrt(np.maximum(expected, np.finfo(float).tiny))
    residual[np.arange(len(scores)), own] = -np.inf
    tables = []
    for row, regulator in enumerate(grn.regulators):
        best = np.argsort(-residual[row], kind="stable")[:n_targets]
        best = best[residual[row, best] > 0]
        if not len(best):
            continue
        weight = residual[row, best] / residual[row, best[0]]
        sign = np.where(grn.pairs.sign[row, best] < 0, -1.0, 1.0)
        tables.append(pd.DataFrame({"source": regulator, "target": grn.targets[best], "weight": weight * sign}))
    return pd.concat(tables, ignore_index=True)


def decoupled(x, cells: pd.Index, genes: pd.Series, net: pd.DataFrame, method: str, min_targets: int):
    """decoupler's scores and adjusted p-values: two DataFrames cells x regulators."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies
            import decoupler
    except ImportError as error:
        raise ImportError(
            f'method={method!r} needs decoupler: pip install "sccafm[activity]"; method="strength" needs nothing'
        ) from error
    counts = net["source"].value_counts()
    net = net[net["source"].map(counts) >= min_targets]
    if net.empty:
        raise ValueError(
            f"no regulator has {min_targets} targets among the genes of adata (at most {counts.max() if len(counts) else 0}); "
            "lower min_targets="
        )
    values = x[:, genes.to_numpy()]
    values = sparse.csr_matrix(values) if sparse.issparse(values) else np.asarray(values)
    varies = np.asarray((values != 0).sum(1)).ravel() > 0  # a cell without any of these genes has no score: NaN
    obs, var = pd.DataFrame(index=cells[varies]), pd.DataFrame(index=genes.index)
    data = AnnData(values[varies], obs=obs, var=var)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(decoupler.mt, method)(data, net=net, tmin=min_targets, empty=False)
    return tuple(data.obsm[f"{kind}_{method}"].reindex(cells) for kind in ("score", "padj"))


def counted(net: pd.DataFrame, regulators: pd.Index) -> pd.DataFrame:
    sizes = net["source"].value_counts().reindex(regulators)
    negative = net.loc[net["weight"] < 0, "source"].value_counts().reindex(regulators, fill_value=0)
    values = {"regulator": regulators.astype(str), "n_targets": sizes.to_numpy(), "n_repressed": negative.to_numpy()}
    return pd.DataFrame(values)


def strength_scores(adata: AnnData, grn: GRN) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    obs_of(grn, adata)
    others = adata.obs_names.difference(grn.cells)
    if len(others):
        raise ValueError(
            f"{len(others):,} cells of adata have no network (first: {others[0]!r}); pass adata[grn.cells]"
        )
    values = log_strength(grn.strengths.to_numpy())
    scores = pd.DataFrame(values - values.mean(0), grn.cells, grn.regulators).loc[adata.obs_names]
    padj = pd.DataFrame(np.nan, scores.index, scores.columns)
    n = len(grn.targets) - 1
    table = pd.DataFrame({"regulator": grn.regulators.astype(str), "n_targets": n})
    table["n_repressed"] = (grn.pairs.sign < 0).sum(1)
    return scores, padj, table


def detection(x, genes: pd.Series, regulators: pd.Series) -> np.ndarray:
    """Share of the cells with a value above 0; NaN for a regulator that is no gene of the AnnData."""
    at = genes.reindex(regulators).fillna(-1).to_numpy(dtype=int)
    found = np.full(len(regulators), np.nan)
    found[at >= 0] = (dense_columns(x, at[at >= 0]) > 0).mean(0)
    return found
