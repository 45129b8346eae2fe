"""Preparation of counts as the published models were trained on: filter, normalise, choose variable genes.

Not needed before `sccafm.infer_grn`, which reads counts as they come. It makes the published recipe repeatable, by
scanpy's functions in the published order.
"""

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from sccafm._settings import logger
from sccafm._text import listing, warn
from sccafm.data.input import NAME_COLUMNS, check_known, find_species
from sccafm.data.matrix import kind_of
from sccafm.model.model import Model
from sccafm.model.validation import as_model
from sccafm.reference.bundle import ReferenceData
from sccafm.reference.genes import UNKNOWN_TOKEN, match_genes, normalize_symbol

__all__ = ["preprocess"]

# Spelled symbols of both species: mt-Nd1; Rps3, not the kinase Rps6ka1; Hbb-bs, not Hbegf, Hbs1l or Hbp1.
FLAGS = {
    "mt": re.compile(r"MT-.*"),
    "ribo": re.compile(r"RP[SL](A|P\d|\d+([AXL]\d?|Y\d?)?(L\d?)?)"),
    "hb": re.compile(r"HB[ABDEGMQZ]\d*[AB]?(-.*)?"),
}
PUBLISHED_FLAGS = {"mt": re.compile(r"(MT|mt)-.*"), "ribo": re.compile(r"(RPS|RPL).*"), "hb": re.compile(r"HB(?!P).*")}
TOKEN = "_sccafm_token"
FLAVORS = ("seurat", "cell_ranger", "seurat_v3")


def preprocess(
    adata: AnnData,
    model: Model | str | Path | None = None,
    *,
    gene_key: str | None = None,
    species: str | None = None,
    min_genes: int | None = 200,
    min_cells: int | None = 3,
    max_pct_counts_mt: float | None = 20.0,
    target_sum: float = 1e4,
    log1p: bool = True,
    n_top_genes: int | None = 2000,
    hvg_flavor: str = "seurat",
    subset_hvg: bool = True,
    remove_mito_genes: bool = True,
    remove_ribo_genes: bool = False,
    remove_hb_genes: bool = False,
    preserve_gene_names: Iterable[str] | None = None,
    hvg_exclude_gene_names: Iterable[str] | None = None,
    hvg_exclude_preserved_genes: bool = False,
    densify: bool = True,
    as_published: bool = False,
    progress: bool = True,
) -> AnnData:
    """Filter cells and genes, normalise, and choose variable genes; the published recipe with its options.

    In turn: genes of the vocabulary; quality metrics; cells with too few genes, genes in too few cells, cells with too
    many mitochondrial counts; mitochondrial, ribosomal and haemoglobin genes; counts per `target_sum`; logarithm;
    variable genes.

    Parameters
    ----------
    adata
        Cells x genes, counts in X. It is not changed.
    model
        Whose vocabulary is used: what `sccafm.load` returned, or takes; None: the bundled model.
    gene_key
        Column of var with the gene names; None: var_names and every usual column.
    species
        "human" or "mouse"; None: from obs, uns or the names.
    min_genes, min_cells
        Genes a cell, and cells a gene, must at least have; None: no limit.
    max_pct_counts_mt
        Greatest share of mitochondrial counts in percent; None: no limit.
    target_sum
        Counts of every cell after normalisation.
    log1p
        Take the logarithm. The published models were trained on log1p values, though some tutorials leave it out.
    n_top_genes
        Variable genes to choose; None: all genes stay.
    hvg_flavor
        "seurat" (on log1p values, of a copy where ``log1p=False``), "cell_ranger", or "seurat_v3" (on counts; needs
        scikit-misc).
    subset_hvg
        Keep the chosen genes alone; False: only mark them, in ``var["highly_variable"]``.
    remove_mito_genes, remove_ribo_genes, remove_hb_genes
        Leave out mitochondrial genes, ribosomal proteins, haemoglobins.
    preserve_gene_names, hvg_exclude_gene_names
        With ``hvg_exclude_preserved_genes=True``: genes that always stay, and genes that are left out; variable genes
        are chosen among the rest. Without it they have no effect.
    densify
        Return a dense X, as published.
    as_published
        Read names exactly as the reference does: all of them are Ensembl ids or none is, mouse genes by upper-cased
        symbol, mt, ribo and hb by human prefixes in their published case. With Ensembl ids nothing is flagged then, so
        that no cell is filtered; Mt-co1 and Rps3 are not flagged and HBEGF is.
    progress
        Print what was left out.

    Returns
    -------
    AnnData
        Float32 X; obs and var with scanpy's quality metrics, var with ``mt``, ``ribo``, ``hb`` (bool) and, where genes
        were chosen, scanpy's columns; with ``hvg_exclude_preserved_genes=True`` also ``preserved_gene``,
        ``hvg_excluded_gene``, ``hvg_target_candidate`` and ``hvg_target_gene`` (bool). ``uns["sccafm_pp"]`` counts what
        was left out at each step.

    Raises
    ------
    TypeError
        `adata` is no AnnData.
    ValueError, KeyError
        Negative values, nothing left after a filter, no gene in common with the vocabulary, a missing column.
    """
    check_options(adata, hvg_flavor, n_top_genes)
    lists = named_lists(preserve_gene_names, hvg_exclude_gene_names, hvg_exclude_preserved_genes, n_top_genes)
    reference_data = as_model(model, "cpu").reference_data
    columns = {gene_key or "var_names": gene_names(adata, gene_key)}
    if gene_key is None and not as_published:
        columns |= {key: adata.var[key].astype(str) for key in NAME_COLUMNS if key in adata.var}
    read = read_as_published if as_published else read_names
    tokens, symbols = read(adata, reference_data, columns, species)
    account = {"genes outside the vocabulary": int((tokens == UNKNOWN_TOKEN).sum())}
    adata = adata[:, tokens != UNKNOWN_TOKEN]
    adata = adata.to_memory() if adata.isbacked else adata.copy()
    adata.X = readable(adata.X, account)
    symbols = symbols[tokens != UNKNOWN_TOKEN]
    for flag, pattern in (PUBLISHED_FLAGS if as_published else FLAGS).items():
        adata.var[flag] = [pattern.fullmatch(symbol) is not None for symbol in symbols]
    adata.var[TOKEN] = tokens[tokens != UNKNOWN_TOKEN]  # stands beside its gene through every filter
    adata = filtered(adata, min_genes, min_cells, max_pct_counts_mt, account)
    chosen = {"mt": remove_mito_genes, "ribo": remove_ribo_genes, "hb": remove_hb_genes}
    for flag in [flag for flag, remove in chosen.items() if remove]:
        adata = kept(adata, slice(None), ~adata.var[flag].to_numpy(), f"{flag} genes", account)
    if lists is not None:
        mark_lists(adata, lists, reference_data, account)
    normalise(adata, target_sum, log1p, n_top_genes, hvg_flavor)
    if lists is not None:
        adata.var["hvg_target_gene"] = adata.var["highly_variable"]
    if subset_hvg and n_top_genes is not None:
        stays = (
            adata.var["highly_variable"]
            if lists is None
            else adata.var[["highly_variable", "preserved_gene"]].any(axis=1)
        )
        adata = kept(adata, slice(None), stays.to_numpy(), "genes that vary less", account)
    del adata.var[TOKEN]
    adata.X = adata.X.toarray() if densify and sparse.issparse(adata.X) else adata.X
    adata.uns["sccafm_pp"] = account
    if progress:
        left_out = ", ".join(f"{count:,} {what}" for what, count in account.items() if count)
        logger.info(f"sccafm: {adata.n_obs:,} cells x {adata.n_vars:,} genes; left out: {left_out or 'nothing'}")
    return adata


def check_options(adata, hvg_flavor: str, n_top_genes: int | None) -> None:
    if not isinstance(adata, AnnData):
        raise TypeError(f"expected an AnnData, got {type(adata).__name__}; anndata.AnnData(X) makes one of a matrix")
    if adata.n_obs == 0 or adata.n_vars == 0 or adata.X is None:
        raise ValueError(f"nothing to read: X of {adata.n_obs} cells and {adata.n_vars} genes")
    if hvg_flavor not in FLAVORS:
        raise ValueError(f"hvg_flavor must be one of {list(FLAVORS)}, got {hvg_flavor!r}")
    if hvg_flavor == "seurat_v3" and n_top_genes is not None and find_spec("skmisc") is None:
        raise ValueError('hvg_flavor="seurat_v3" needs scikit-misc: pip install scikit-misc, or choose "seurat"')
    if n_top_genes is not None and n_top_genes < 1:
        raise ValueError(f"n_top_genes must be a positive number or None for every gene, got {n_top_genes}")


def named_lists(
    preserved: Iterable[str] | None, excluded: Iterable[str] | None, active: bool, n_top_genes: int | None
) -> tuple[set[str], set[str]] | None:
    """Spelled names to keep and to leave out; None where they have no effect."""
    keep, leave = ({normalize_symbol(name) for name in names or ()} for names in (preserved, excluded))
    lists = keep, leave
    if active and n_top_genes is not None:
        return lists
    if any(lists):
        needed = "n_top_genes" if active else "hvg_exclude_preserved_genes=True"
        warn(f"preserve_gene_names and hvg_exclude_gene_names have no effect without {needed}")
    return None


def gene_names(adata, gene_key: str | None) -> pd.Series:
    if gene_key is not None and gene_key not in adata.var:
        raise KeyError(f"gene_key={gene_key!r} is no column of var; there are {list(adata.var.columns)}")
    return (adata.var_names.to_series() if gene_key is None else adata.var[gene_key]).astype(str)


def read_names(
    adata, reference_data: ReferenceData, columns: dict, species: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Token of each gene, and the spelled symbol by which it is flagged."""
    species, _ = find_species(adata, columns, species, None)
    match = match_genes(columns, adata.var_names, species, reference_data.genes)
    check_known(match, columns)
    vocabulary = reference_data.vocabulary
    symbols = [
        vocabulary.symbol(token) if token != UNKNOWN_TOKEN else name
        for token, name in zip(match.tokens, match.names, strict=True)
    ]
    return match.tokens, np.array([normalize_symbol(symbol) for symbol in symbols], dtype=object)


def read_as_published(
    adata, reference_data: ReferenceData, columns: dict, species: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """The same as the reference reads names, whatever the species: all of them are Ensembl ids, or none is."""
    (names,) = columns.values()
    upper = [name.strip().upper() for name in names]
    if all(name.startswith("ENSG") for name in upper):
        tokens = [reference_data.vocabulary.token(name.partition(".")[0]) for name in upper]
    else:
        tokens = [reference_data.vocabulary.token_of_symbol(name) for name in upper]
    if all(token == UNKNOWN_TOKEN for token in tokens):
        raise ValueError(f"none of the {len(upper):,} genes is in the model's vocabulary, e.g. {listing(list(names))}")
    return np.array(tokens, dtype=np.int64), np.array([name.strip() for name in names], dtype=object)


def readable(values, account: dict[str, int]):
    """Float32 values, what is not finite set to 0; negative ones are refused, other than counts warned about."""
    values = values.astype(np.float32) if sparse.issparse(values) else np.array(values, dtype=np.float32)
    data: Any = values.data if sparse.issparse(values) else values
    bad = ~np.isfinite(data)
    if bad.any():
        account["values that are not finite"] = int(bad.sum())
        data[bad] = 0
        warn(f"{bad.sum():,} values of X are not finite and are read as 0")
    kind = kind_of(values, values.shape[0])
    if kind == "scaled" or data.min(initial=0) < 0:
        raise ValueError(
            "X holds negative values: scaled data cannot be normalised; pass counts, e.g. adata.raw.to_adata()"
        )
    if kind != "counts":
        warn("X holds no counts: it is normalised as if it did")
    return values


def filtered(
    adata: AnnData, min_genes: int | None, min_cells: int | None, max_mt: float | None, account: dict[str, int]
) -> AnnData:
    """Quality metrics, then the three filters, each on what the one before left."""
    sc.pp.calculate_qc_metrics(adata, qc_vars=list(FLAGS), percent_top=None, log1p=True, inplace=True)
    if min_genes is not None:
        enough, adata.obs["n_genes"] = sc.pp.filter_cells(adata, min_genes=min_genes, inplace=False)
        adata = kept(adata, enough, slice(None), f"cells of fewer than {min_genes} genes", account)
    if min_cells is not None:
        enough, adata.var["n_cells"] = sc.pp.filter_genes(adata, min_cells=min_cells, inplace=False)
        adata = kept(adata, slice(None), enough, f"genes in fewer than {min_cells} cells", account)
    if max_mt is not None:
        intact = ~(adata.obs["pct_counts_mt"] > max_mt).to_numpy()  # a cell without counts has no share
        adata = kept(adata, intact, slice(None), f"cells above {max_mt:g} % mitochondrial counts", account)
    return adata


def kept(adata: AnnData, cells, genes, what: str, account: dict[str, int]) -> AnnData:
    """Some cells or genes; what is left out is counted, and nothing left is an error."""
    left = adata[cells, genes].copy()
    account[what] = adata.n_obs - left.n_obs + adata.n_vars - left.n_vars
    if left.n_obs == 0 or left.n_vars == 0:
        raise ValueError(
            f"nothing is left of {adata.n_obs:,} cells x {adata.n_vars:,} genes without {what}; loosen that limit"
        )
    return left


def mark_lists(
    adata: AnnData, lists: tuple[set[str], set[str]], reference_data: ReferenceData, account: dict[str, int]
) -> None:
    """Flag the genes to keep, to leave out, and to choose among, by spelled name or by token."""
    names = [normalize_symbol(name) for name in adata.var_names]
    flagged = []
    for listed in lists:
        tokens = {reference_data.vocabulary.token(name) for name in listed} - {UNKNOWN_TOKEN}
        flagged.append(np.array([n in listed or t in tokens for n, t in zip(names, adata.var[TOKEN], strict=True)]))
    preserved, excluded = flagged
    adata.var["preserved_gene"] = preserved
    adata.var["hvg_excluded_gene"] = excluded & ~preserved
    adata.var["hvg_target_candidate"] = ~preserved & ~excluded
    account["genes of preserve_gene_names, not there or filtered"] = len(lists[0]) - int(preserved.sum())


def normalise(adata: AnnData, target_sum: float, log1p: bool, n_top_genes: int | None, flavor: str) -> None:
    """Normalise in place and mark variable genes; each flavour ranks the values that it was made for."""
    table = None
    if n_top_genes is not None and flavor == "seurat_v3":
        table = variable_genes(adata, n_top_genes, flavor)
    sc.pp.normalize_total(adata, target_sum=target_sum)
    if log1p:
        sc.pp.log1p(adata)
    if n_top_genes is not None and flavor != "seurat_v3":
        ranked = adata if log1p or flavor != "seurat" else sc.pp.log1p(adata, copy=True)
        table = variable_genes(ranked, n_top_genes, flavor)
    if table is not None:
        adata.var[table.columns] = table
        adata.var["highly_variable"] = table["highly_variable"].fillna(False).astype(bool)


def variable_genes(adata: AnnData, n_top_genes: int, flavor: str) -> pd.DataFrame:
    """scanpy's table of the candidates, one row per gene of `adata`; NaN where a gene is no candidate."""
    var = adata.var
    candidates = var["hvg_target_candidate"] if "hvg_target_candidate" in var else pd.Series(True, var.index)
    among = adata[:, candidates.to_numpy()].copy()
    if among.n_vars == 0:
        raise ValueError("no gene is left to choose variable genes from; shorten the two lists of names")
    table = sc.pp.highly_variable_genes(among, n_top_genes=min(n_top_genes, among.n_vars), flavor=flavor, inplace=False)
    table = pd.DataFrame(table.to_numpy(), among.var_names, table.columns).astype(table.dtypes)
    return table.drop(columns="mean_bin", errors="ignore").reindex(var.index)
