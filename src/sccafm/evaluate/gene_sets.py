"""Reads sets of genes (GO terms, pathways, complexes) and says what was mapped and lost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from anndata import AnnData

from sccafm.evaluate.truth import gene_keys, gene_lookup, read_delimited
from sccafm.reference.tables import read_gmt

TERM_COLUMNS = ("term", "go_id", "set", "gene_set", "geneset", "pathway", "complex", "source")
GENE_COLUMNS = ("gene_id", "gene_symbol", "gene", "symbol", "target", "ensembl")


@dataclass(frozen=True, eq=False)
class GeneSets:
    """Sets of genes and the receipt of their reading.

    `n_rows == n_mapped + n_unmapped + n_duplicates + n_in_dropped_sets`; a row is one gene of one set.
    """

    sets: Mapping[str, tuple[str, ...]] = field(repr=False)  # genes unique, spelled as those given where given
    n_rows: int
    n_mapped: int
    n_unmapped: int  # empty, or none of the genes given
    n_duplicates: int
    n_dropped_sets: int  # outside of min_genes and max_genes
    n_in_dropped_sets: int
    unmapped_genes: tuple[str, ...] = field(default=(), repr=False)  # up to ten examples

    def __len__(self) -> int:
        return len(self.sets)

    def __repr__(self) -> str:
        n_genes = len({gene for genes in self.sets.values() for gene in genes})
        lost = f", e.g. {', '.join(self.unmapped_genes[:3])}" if self.unmapped_genes else ""
        return (
            f"GeneSets: {len(self):,} sets of {n_genes:,} genes from {self.n_rows:,} rows ({self.n_unmapped:,} unmapped"
            f"{lost}, {self.n_duplicates:,} duplicates, {self.n_dropped_sets:,} sets dropped for their size)"
        )


def read_gene_sets(
    table: "GeneSets | pd.DataFrame | Mapping[str, Iterable[str]] | str | Path",
    genes: AnnData | Iterable[str] | None = None,
    *,
    min_genes: int = 1,
    max_genes: int | None = None,
) -> GeneSets:
    """Sets of genes from a GMT file, a long table or a dictionary, matched to the genes at hand.

    Parameters
    ----------
    table
        GMT file (name, description, genes; tabs; may be gzipped), a CSV or TSV file or DataFrame with a row for each gene
        of each set (columns `term`, `go_id`, `set`, `pathway` or `complex`, and `gene_symbol`, `gene` or `gene_id`), or a
        dictionary from names to genes. Of a table with symbols and Ensembl ids, either may match.
    genes
        Genes to match, without regard to case or Ensembl version. None keeps every gene, in its first spelling.
    min_genes, max_genes
        Sizes, after matching, of sets that are kept.

    Raises
    ------
    KeyError
        No known columns.
    ValueError
        No gene matches, or no set has the size asked for.
    """
    rows = _rows(table)
    columns = [column for column in rows if column != "term"]
    names = rows[columns].to_numpy().ravel() if genes is None else genes
    lookup = gene_lookup(names)
    mapped = pd.Series(pd.NA, index=rows.index, dtype=object)
    for column in columns:
        mapped = mapped.fillna(pd.Series([lookup.get(key, pd.NA) for key in gene_keys(rows[column])], rows.index))
    found = pd.DataFrame({"term": rows["term"], "gene": mapped})
    is_lost = found["gene"].isna()
    if is_lost.all():
        raise ValueError(
            f"none of {len(rows):,} rows names one of the genes ({', '.join(map(str, list(lookup)[:3]))}, ...); the table holds "
            f"{', '.join(map(str, rows[columns[0]][:3]))}, ...: name both in symbols or both in Ensembl ids"
        )
    unique = found[~is_lost].drop_duplicates()
    size = unique.groupby("term")["gene"].transform("size")
    kept = unique[(size >= min_genes) & (size <= (max_genes or len(unique)))]
    if not len(kept):
        raise ValueError(
            f"none of {unique['term'].nunique():,} sets has {min_genes} to {max_genes} matched genes (the largest has "
            f"{size.max()}); lower `min_genes=`, or pass more genes"
        )
    return GeneSets(
        sets={term: tuple(group) for term, group in kept.groupby("term", sort=True)["gene"]},
        n_rows=len(rows),
        n_mapped=len(kept),
        n_unmapped=int(is_lost.sum()),
        n_duplicates=int((~is_lost).sum()) - len(unique),
        n_dropped_sets=unique["term"].nunique() - kept["term"].nunique(),
        n_in_dropped_sets=len(unique) - len(kept),
        unmapped_genes=tuple(pd.unique(rows.loc[is_lost, columns[-1]].astype(str))[:10]),
    )


def _rows(table) -> pd.DataFrame:
    """Long table: term, and one or two columns of gene names."""
    if isinstance(table, GeneSets):
        table = table.sets
    if isinstance(table, str | Path):
        name = str(table).removesuffix(".gz")
        table = read_gmt(Path(table)) if name.endswith(".gmt") else read_delimited(table)
    if isinstance(table, Mapping):
        return pd.DataFrame([(name, gene) for name, genes in table.items() for gene in genes], columns=["term", "gene"])
    names = {str(column).lower(): column for column in table.columns}
    term = next((names[name] for name in TERM_COLUMNS if name in names), None)
    genes = [names[name] for name in GENE_COLUMNS if name in names and names[name] != term]
    if term is None or not genes:
        raise KeyError(
            f"expected a column of sets ({', '.join(TERM_COLUMNS)}) and one of genes ({', '.join(GENE_COLUMNS)}), got "
            f"{list(table.columns[:8])}; rename them: `table.rename(columns={{'my_set': 'term', 'my_gene': 'gene'}})`"
        )
    return table[[term, *genes]].rename(columns={term: "term"}).reset_index(drop=True)
