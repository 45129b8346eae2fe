"""Finds the released files (models/ and the CSVs) and reads the tables: regulators, prior edges, orthologs, aliases."""

import gzip
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from sccafm.reference.genes import Homologs, normalize_symbol

# In a wheel the files stand inside the package, in a checkout at the repository's root.
PACKAGED = Path(__file__).parents[1] / "release"
CHECKOUT = Path(__file__).parents[3]


def bundled() -> Path:
    """Folder of the release that ships with the library: models/ and four CSVs."""
    return PACKAGED if PACKAGED.is_dir() else CHECKOUT


def read_table(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV whose named columns must be there; text stays text ("NA" is a gene name, not a hole)."""
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable CSV: {error}") from error
    missing = [column for column in required if column not in table]
    if missing:
        raise ValueError(f"{path} needs the columns {list(required)}; it has {list(table.columns)}")
    return table


def read_homologs(path: Path) -> Homologs:
    return Homologs(read_table(path, ("mouse_EnsemblID", "mouse_Symbol", "human_EnsemblID", "human_Symbol")))


def read_aliases(path: Path, retired_only: bool = False) -> dict[str, str]:
    """Retired symbols and synonyms -> current symbol, both spelled; or those alone that were official once."""
    table = read_table(path, ("alias", "gene_symbol", "type") if retired_only else ("alias", "gene_symbol"))
    if retired_only:
        table = table[table["type"] == "hgnc_previous"]
    return dict(zip(table["alias"].map(normalize_symbol), table["gene_symbol"].map(normalize_symbol), strict=True))


def read_regulators(path: Path) -> pd.DataFrame:
    """A species' regulators: spelled symbol as index, "class" where the list has one ("dna_binding" otherwise)."""
    table = read_table(path, ("TF",))
    table = table.assign(**{"class": table.get("class", "dna_binding")}, TF=table["TF"].map(normalize_symbol))
    return table.drop_duplicates("TF").set_index("TF")


def read_lineages(path: Path) -> dict[str, str]:
    """Regulators that are known for a lineage: spelled symbol -> what they are known for."""
    table = read_table(path, ("TF", "lineages"))
    return dict(zip(table["TF"].map(normalize_symbol), table["lineages"], strict=True))


def read_prior(path: Path) -> pd.DataFrame:
    """The prior network: Gene1 -> Gene2, spelled, unique, without self-edges; further columns as they came."""
    table = read_table(path, ("Gene1", "Gene2"))
    table = table.assign(Gene1=table["Gene1"].map(normalize_symbol), Gene2=table["Gene2"].map(normalize_symbol))
    return table[table["Gene1"] != table["Gene2"]].drop_duplicates(["Gene1", "Gene2"], ignore_index=True)


def read_gene_sets(path: Path | None = None) -> Mapping[str, frozenset]:
    """Gene sets of a GMT file (gzipped or not): name -> spelled symbols; None: the GO and Reactome sets that ship."""
    path = bundled() / "models/genesets.gmt.gz" if path is None else Path(path)
    return {name: frozenset(map(normalize_symbol, genes)) for name, genes in read_gmt(path).items()}


def read_gmt(path: Path) -> dict[str, list[str]]:
    """Sets of a GMT file (gzipped or not): name -> genes as they stand there, without weights ("GENE,1.0").

    Raises
    ------
    ValueError
        No GMT file.
    """
    try:
        text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable GMT file: {error}") from error
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    if short := [row[0] for row in rows if len(row) < 3]:
        raise ValueError(f"{path} is no GMT file: {short[:3]} have no name, description and genes, separated by tabs")
    sets: dict[str, list[str]] = {}
    for name, _, *genes in rows:
        sets.setdefault(name.strip(), []).extend(gene.split(",")[0] for gene in genes if gene)
    return sets
