"""Tables of edges: the truths that networks are judged by, and the networks themselves.

Genes are matched without regard to case, to white space, or to the version of an Ensembl id. Where an AnnData is at hand, the names in its
var columns lead to its var_names, so that a truth in symbols meets a matrix in Ensembl ids and the other way round.
Every truth comes with a receipt of what was mapped and lost: `Truth`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from sccafm._text import warn
from sccafm.grn.edge_tables import NETWORK_LABELS, WEIGHTS, edge_columns, find_column, read_delimited
from sccafm.reference.genes import normalize_symbol

KINDS = ("binding", "response", "curated")  # they ask different questions, and are never averaged alone
LABELS = ("label", "weight", "score", "truth", "is_true", "is_edge", "edge", "value")  # of a truth: zero is no edge
ALIAS_COLUMNS = (
    "gene_ids", "gene_id", "ensembl", "ensembl_id", "feature_id",
    "symbol", "gene_symbol", "gene_symbols", "gene_name", "feature_name",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Truth:
    """True edges and the receipt of their reading.

    `n_rows == n_mapped + n_filtered + n_unmapped + n_self_loops + n_duplicates`; a row is counted at the first of
    these that applies, in the order filtered, unmapped, self-loop, duplicate.
    """

    edges: pd.DataFrame  # source, target: unique, without self-loops, spelled as the measured genes where given
    n_rows: int
    n_mapped: int
    n_unmapped: int  # an end is empty or not measured
    n_self_loops: int
    n_duplicates: int
    n_filtered: int = 0  # below the confidence or score that was asked for
    unmapped_genes: tuple[str, ...] = field(default=(), repr=False)  # up to ten examples
    kind: str | None = None  # what the edges tell: one of KINDS, or None where nobody said

    def __repr__(self) -> str:
        lost = f", e.g. {', '.join(self.unmapped_genes[:3])}" if self.unmapped_genes else ""
        return (
            f"Truth{f' ({self.kind})' if self.kind else ''}: {self.n_mapped:,} edges of {self.edges['source'].nunique():,} regulators from {self.n_rows:,} rows "
            f"({self.n_filtered:,} filtered, {self.n_unmapped:,} unmapped{lost}, {self.n_self_loops:,} self-loops, "
            f"{self.n_duplicates:,} duplicates)"
        )


def gene_keys(names: Iterable) -> pd.Index:
    """Spelling by which genes are matched: stripped, upper case, Ensembl version cut; missing names become ''."""
    code, unique = pd.factorize(np.asarray(list(names), dtype=object))  # each spelling is cleaned once; missing is -1
    return pd.Index(np.array([*map(normalize_symbol, unique), ""], dtype=object)[code])


def gene_lookup(genes: AnnData | Iterable[str]) -> dict[str, str]:
    """Dictionary from gene key to the spelling of a measured gene; the first of two genes with one key wins.

    Of an AnnData, var_names come first, then the columns of var that usually carry symbols or Ensembl ids
    (`ALIAS_COLUMNS`).
    """
    is_adata, given = isinstance(genes, AnnData), cast(Any, genes)
    names = pd.Index(given.var_names if is_adata else given).astype(str)
    keys = gene_keys(names)
    lookup: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        lookup.setdefault(key, name)
    for column in ALIAS_COLUMNS if is_adata else ():
        if column in given.var:
            for alias, key in zip(gene_keys(given.var[column]), keys, strict=True):
                lookup.setdefault(alias, lookup[key])
    lookup.pop("", None)
    return lookup


def respell(names: Iterable, lookup: dict[str, str]) -> pd.Index:
    """Names as the measured genes spell them; a gene that is not measured keeps its key."""
    return pd.Index([lookup.get(key, key) for key in gene_keys(names)], dtype=object)


def read_edges(
    table: "pd.DataFrame | str | Path | Truth | Iterable[tuple[str, str]]",
    genes: AnnData | Iterable[str] | None = None,
    *,
    regulators: Iterable[str] = (),
    keep: Sequence[bool] | None = None,
    kind: str | None = None,
) -> Truth:
    """Edges of a table, matched to the measured genes, with a receipt.

    Parameters
    ----------
    table
        A table, or a CSV or TSV file, with the columns source, target or Gene1, Gene2 or TF, target (any case). Rows whose
        label, weight or score (`LABELS`) is the number 0 or False are no edges and count as filtered; other columns are
        ignored. Or a list or set of pairs (source, target). Symbols or Ensembl ids.
    genes
        Measured genes. None keeps every gene, in its first spelling.
    regulators
        Sources that are accepted although they are not measured.
    keep
        One boolean per row; the others are counted as filtered.
    kind
        What the edges tell: "binding" (ChIP), "response" (of a gene to its regulator's loss or gain) or "curated". None
        keeps the kind of a `Truth`.

    Raises
    ------
    KeyError
        No known pair of columns.
    ValueError
        Unknown kind.
    """
    kind = table.kind if kind is None and isinstance(table, Truth) else kind
    if kind not in (None, *KINDS):
        raise ValueError(f"unknown kind of truth {kind!r}; expected one of {list(KINDS)}, or None")
    rows = edge_table(table)
    source, target = edge_columns(rows)
    kept = np.ones(len(rows), dtype=bool) if keep is None else np.asarray(keep, dtype=bool)
    kept &= ~marked_absent(rows)
    ends = rows.loc[kept, [source, target]]
    if genes is None:
        genes = ends.to_numpy().ravel()
    lookup = gene_lookup(genes)
    source_lookup = gene_lookup(regulators) | lookup
    edges = pd.DataFrame({
        "source": [source_lookup.get(key) for key in gene_keys(ends[source])],
        "target": [lookup.get(key) for key in gene_keys(ends[target])],
    }, dtype=object)  # fmt: skip
    is_mapped = edges.notna().all(axis=1)
    lost = pd.unique(ends.to_numpy()[edges.isna().to_numpy()].astype(str))
    mapped = edges[is_mapped]
    proper = mapped[mapped["source"] != mapped["target"]]
    unique = proper.drop_duplicates(ignore_index=True)
    return Truth(
        edges=unique,
        n_rows=len(rows),
        n_mapped=len(unique),
        n_unmapped=int((~is_mapped).sum()),
        n_self_loops=len(mapped) - len(proper),
        n_duplicates=len(proper) - len(unique),
        n_filtered=int((~kept).sum()),
        unmapped_genes=tuple(lost[:10]),
        kind=kind,
    )


def marked_absent(table: pd.DataFrame) -> np.ndarray:
    """Rows that a column of numbers or booleans marks as no edge, by a zero."""
    columns = [name for name in table if str(name).strip().lower() in LABELS]
    columns = [name for name in columns if pd.api.types.is_numeric_dtype(table[name])]
    return (table[columns] == 0).any(axis=1).to_numpy() if columns else np.zeros(len(table), dtype=bool)


def read_beeline(table: pd.DataFrame | str | Path, genes: AnnData | Iterable[str] | None = None) -> Truth:
    """A BEELINE reference network (columns Gene1, Gene2; Pratapa et al., Nature Methods 2020).

    BEELINE writes mouse symbols in upper case, and its STRING files hold each edge twice; both are taken care of.
    Parameters and errors as in `read_edges`.
    """
    return read_edges(table, genes)


def read_collectri(
    table: pd.DataFrame | str | Path,
    genes: AnnData | Iterable[str] | None = None,
    *,
    levels: Sequence[str] | None = None,
) -> Truth:
    """A DoRothEA or CollecTRI table (source, target or tf, target, and for DoRothEA `confidence` A to E).

    Complexes (`COMPLEX:...`, AP1, NFKB) are no genes and count as unmapped where `genes` are given.

    Parameters
    ----------
    levels
        DoRothEA levels to keep, for instance `("A", "B", "C")`; None keeps all.

    Raises
    ------
    KeyError
        No known pair of columns, or `levels` for a table without a column `confidence`.
    """
    rows = read_delimited(table)
    if levels is None:
        return read_edges(rows, genes, kind="curated")
    confidence = rows[find_column(rows, ("confidence", "dorothea_level"), "levels=None keeps all rows")]
    return read_edges(rows, genes, keep=confidence.astype(str).str.strip().str.upper().isin(levels), kind="curated")


def read_chip_atlas(
    table: pd.DataFrame | str | Path,
    genes: AnnData | Iterable[str] | None = None,
    *,
    min_score: float = 50.0,
    cell_type: str | None = None,
) -> Truth:
    """A ChIP-Atlas table of target genes (Oki et al., EMBO Reports 2018), or a long table with a score.

    The wide table has a column `Target_genes`, one `<antigen>|Average`, and one `<experiment>|<cell type>` per
    experiment. The long one is read by `read_edges` and needs a column `score`.

    Parameters
    ----------
    min_score
        Smallest binding score (-10 log10 of MACS2's q) of a true edge; 50 means q < 1e-5.
    cell_type
        Of a wide table, the mean over the experiments in this cell type instead of the average of all.

    Raises
    ------
    KeyError
        A column is missing, or no experiment is from `cell_type`.
    """
    rows = read_delimited(table)
    if "target_genes" in rows.columns.str.lower():
        rows = _long_chip_atlas(rows, cell_type)
    score = pd.to_numeric(rows[find_column(rows, ("score",), "add one: `table['score'] = ...`")])
    return read_edges(rows, genes, keep=score >= min_score, kind="binding")


def gene_duplicates(adata: AnnData) -> np.ndarray:
    """True for genes whose name, but for case and version, stood earlier in var_names."""
    return gene_keys(adata.var_names).duplicated()


def score_matrix(scores, group: str | None = None) -> pd.DataFrame:
    """A network as a DataFrame regulators x targets of floats; edges that a long table does not hold are `-inf`.

    Parameters
    ----------
    scores
        An object with `.matrix(group)`, a DataFrame regulators x targets, or a long table
        `source, target, weight`. Larger is more likely; pass absolute weights of a signed network.
    group
        Group of a GRN or of a long table with a column `group`.

    Raises
    ------
    KeyError
        Unknown columns, or a group that is absent.
    ValueError
        NaN scores, an empty table, several networks in one long table, or an unlabelled array.
    """
    if isinstance(scores, pd.DataFrame):
        matrix = _pivot(_one_network(scores, group)) if _is_long(scores) else scores
    elif hasattr(scores, "matrix"):
        matrix = scores.matrix() if group is None else scores.matrix(group)
    else:
        raise ValueError(
            f"expected a GRN or a DataFrame, got {type(scores).__name__}; label an array: "
            "`pd.DataFrame(array, index=regulators, columns=genes)`"
        )
    if not matrix.size:
        raise ValueError(f"expected at least one regulator and one target, got a matrix of shape {matrix.shape}")
    if len(matrix.columns) < 0.5 * len(matrix.index) and set(matrix.columns) < set(matrix.index):
        raise ValueError(
            f"expected regulators in rows and targets in columns, got {len(matrix.index):,} rows that hold all "
            f"{len(matrix.columns):,} columns: the matrix seems to be transposed; pass scores.T"
        )
    matrix = matrix.astype(float)
    if matrix.isna().to_numpy().any():
        n_missing = int(matrix.isna().to_numpy().sum())
        raise ValueError(
            f"{n_missing:,} of {matrix.size:,} scores are NaN; let missing edges rank last: `scores.fillna(-numpy.inf)`"
        )
    return matrix


def aligned(
    matrix: pd.DataFrame, regulators: pd.Index, genes: pd.Index, lookup: dict[str, str], what: str = "scores"
) -> np.ndarray:
    """Scores as an array `regulators` x `genes`; what the matrix does not hold is `-inf`.

    Rows or columns that name one gene twice are joined by their highest score, with a warning.
    """
    values = matrix.set_axis(respell(matrix.index, lookup), axis=0).set_axis(respell(matrix.columns, lookup), axis=1)
    n_twice = int(values.index.duplicated().sum() + values.columns.duplicated().sum())
    if n_twice:
        warn(f"{what}: {n_twice} genes stand there twice; the highest score is kept")
        values = values.groupby(level=0).max().T.groupby(level=0).max().T
    row, column = values.index.get_indexer(regulators), values.columns.get_indexer(genes)
    out = np.full((len(regulators), len(genes)), -np.inf)
    out[np.ix_(row >= 0, column >= 0)] = values.to_numpy(dtype=float)[np.ix_(row[row >= 0], column[column >= 0])]
    return out


def spelled_edges(table: "pd.DataFrame | Truth", lookup: dict[str, str]) -> pd.DataFrame:
    """Columns source, target of a table of edges, as the measured genes spell them; missing names become ''."""
    rows = edge_table(table)
    source, target = edge_columns(rows)
    return pd.DataFrame({"source": respell(rows[source], lookup), "target": respell(rows[target], lookup)})


def marked(edges: pd.DataFrame, regulators: pd.Index, genes: pd.Index) -> np.ndarray:
    """R x G booleans, True where `edges` (source, target) holds the pair."""
    row, column = regulators.get_indexer(edges["source"]), genes.get_indexer(edges["target"])
    marks = np.zeros((len(regulators), len(genes)), dtype=bool)
    inside = (row >= 0) & (column >= 0)
    marks[row[inside], column[inside]] = True
    return marks


def edge_table(edges: "pd.DataFrame | str | Path | Truth | Iterable[tuple[str, str]]") -> pd.DataFrame:
    """Edges in any form that is accepted, pairs (source, target) among them, as a table."""
    if isinstance(edges, Truth):
        return edges.edges
    if isinstance(edges, set | frozenset | list | tuple):
        return pd.DataFrame(sorted(edges), columns=["source", "target"])
    return read_delimited(edges)


def _long_chip_atlas(table: pd.DataFrame, cell_type: str | None) -> pd.DataFrame:
    label, column = table.columns.str.split("|").str[-1], find_column(table, ("target_genes",), "")
    averages = [name for name in table.columns if name.endswith("|Average")]
    if not averages:
        raise KeyError(f"expected a column '<antigen>|Average', got {list(table.columns[:8])}")
    is_wanted = label == ("Average" if cell_type is None else cell_type)
    if not is_wanted.any():
        raise KeyError(f"no experiment in cell type {cell_type!r}; there are {sorted(set(label[2:]))[:20]}")
    score = table.loc[:, is_wanted].apply(pd.to_numeric).mean(axis=1)
    return pd.DataFrame({"source": averages[0].removesuffix("|Average"), "target": table[column], "score": score})


def _is_long(scores: pd.DataFrame) -> bool:
    if all(pd.api.types.is_numeric_dtype(dtype) for dtype in scores.dtypes):
        return False
    edge_columns(scores)
    return True


def _one_network(scores: pd.DataFrame, group: str | None) -> pd.DataFrame:
    label = next((name for name in NETWORK_LABELS if name in scores.columns), None)
    if label is None or (group is None and scores[label].nunique() == 1):
        return scores
    present = list(pd.unique(scores[label]))
    if group is None:
        raise ValueError(
            f"the table holds {len(present)} networks in column {label!r}; pick one: `group={present[0]!r}`, or pool them first"
        )
    if group not in present:
        raise KeyError(f"group {group!r} is absent; the table holds {present[:20]}")
    return scores[scores[label] == group]


def _pivot(table: pd.DataFrame) -> pd.DataFrame:
    source, target = edge_columns(table)
    weight = find_column(table, WEIGHTS, "rename it: `table.rename(columns={'my_score': 'weight'})`")
    edges = pd.DataFrame({"source": table[source], "target": table[target], "weight": table[weight].astype(float)})
    if edges["weight"].isna().any():
        raise ValueError(
            f"{edges['weight'].isna().sum():,} of {len(edges):,} weights are NaN; drop them, missing edges rank last: "
            f"`table.dropna(subset=[{weight!r}])`"
        )
    edges[["source", "target"]] = edges[["source", "target"]].apply(gene_keys)
    n_twice = int(edges.duplicated(["source", "target"]).sum())
    if n_twice:
        warn(f"scores: {n_twice:,} edges stand there twice; the highest weight is kept")
    genes = pd.Index(pd.unique(edges[["source", "target"]].to_numpy().ravel("F")))
    regulators = pd.Index(pd.unique(edges["source"]))
    edges = edges.sort_values("weight").drop_duplicates(["source", "target"], keep="last")
    values = np.full((len(regulators), len(genes)), -np.inf)
    values[regulators.get_indexer(edges["source"]), genes.get_indexer(edges["target"])] = edges["weight"]
    return pd.DataFrame(values, index=regulators, columns=genes)
