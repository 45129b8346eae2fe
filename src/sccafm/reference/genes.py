"""How genes are written: spelling, species, and the vocabulary that the model reads.

The only place that knows about Ensembl versions, mouse orthologs, aliases and letter case. A name is looked up by
itself, so one odd entry never changes how the others are read.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from sccafm.reference.former_names import FORMER

SPECIES = {
    "human": ("human", "homo sapiens", "hs", "h. sapiens", "ncbitaxon:9606", "9606"),
    "mouse": ("mouse", "mus musculus", "mm", "m. musculus", "ncbitaxon:10090", "10090"),
}
UNKNOWN_TOKEN = -1  # the token of a gene that the vocabulary does not hold
ENSEMBL = re.compile(r"ENS[A-Z]*G\d+(\.\d+)?(_PAR_Y)?")  # in upper case
# Prefix of references that join genomes: "GRCh38_", "mm10___", "GRCh38-2020-A_".
GENOME = re.compile(r"^(?:(HG19|HG38|GRCH37|GRCH38)|(MM9|MM10|MM39|GRCM38|GRCM39))(?:-\d{4}-[A-Z])?_+", re.IGNORECASE)
MIXED_SHARE = 0.01  # of names that tell another species than the rest: a few transgenes do not make data mixed
NULL_WORDS = frozenset(("", "nan", "none", "<na>", "na", "null"))

# How a name found its token, best first: of two columns for one gene the better-known name is kept.
WAYS = ("ensembl", "symbol", "ortholog", "alias")


def species_name(word: object) -> str | None:
    """The species, "human" or "mouse", for any accepted spelling of the species, None for another word."""
    word = str(word).strip().lower()
    return next((name for name, spellings in SPECIES.items() if word in spellings), None)


def normalize_symbol(name: object) -> str:
    """The form in which names are compared: stripped, upper case, no genome prefix, Ensembl ids without version."""
    name = without_genome(name).upper()
    return re.split(r"[._]", name)[0] if ENSEMBL.fullmatch(name) else name


def is_ensembl(spelled: str) -> bool:
    return ENSEMBL.fullmatch(spelled) is not None


def without_genome(name: object) -> str:
    """A name without white space and without the prefix of its genome, in its own case."""
    return GENOME.sub("", str(name).strip(), count=1)


def told_species(name: object) -> str | None:
    """Species that one name states by the prefix of its genome or as an Ensembl id; None for a plain symbol."""
    genome = GENOME.match(str(name).strip())
    if genome is not None:
        return "human" if genome[1] else "mouse"
    name = str(name).strip().upper()
    return "mouse" if name.startswith("ENSMUSG") else "human" if name.startswith("ENSG") else None


def count_species(names: Iterable[object]) -> dict[str, int]:
    """How many names state each species; those that state none are not counted."""
    told = [told_species(name) for name in names]
    return {species: told.count(species) for species in SPECIES}


def guess_species(names: Iterable[object]) -> str | None:
    """Species that most gene names look like; None if unclear.

    By the prefix of the genome or the Ensembl id, else by case (Actb against ACTB).
    """
    names = [str(name) for name in names]
    counts = count_species(names)
    mouse, human = counts["mouse"], counts["human"]
    letters = [
        name for name in map(without_genome, (n for n in names if told_species(n) is None)) if name[:2].isalpha()
    ]
    mouse += sum(name[0].isupper() and name[1:3].islower() for name in letters)
    human += sum(name[:3].isupper() for name in letters)
    if max(mouse, human) < 0.5 * len(names) or mouse == human:
        return None
    return "mouse" if mouse > human else "human"


class Vocabulary:
    """Genes that a model knows, each with its token: a row of the gene embedding.

    Parameters
    ----------
    records
        Dictionaries ``{token_index, gene_symbol, gene_id}`` in any order; indices may have gaps. Where a symbol or id
        stands twice the highest token wins.
    source
        What to call the file in errors.
    """

    def __init__(self, records: Iterable[Mapping], source: str = "vocab.json"):
        try:
            rows = sorted((int(r["token_index"]), r.get("gene_symbol"), str(r["gene_id"])) for r in _plain(records))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{source} must be a list of {{token_index, gene_symbol, gene_id}}; a record fails with {error!r}"
            ) from error
        tokens = [token for token, _, _ in rows]
        repeated = pd.Index(tokens)[pd.Index(tokens).duplicated()]
        if len(repeated):
            raise ValueError(f"{source} gives token_index {int(repeated[0])} twice; each gene needs its own")
        special = [row for row in rows if row[2].startswith("<")]
        self._special = {gene_id.strip().lower(): token for token, _, gene_id in special}
        if "<pad>" not in self._special:
            raise ValueError(f"{source} has no record with gene_id '<pad>'; a vocabulary needs one")
        self.size = max(tokens) + 1  # V
        self._symbol_of = {token: (symbol or "").strip() or gene_id for token, symbol, gene_id in rows}
        self._id_of = {token: gene_id.strip() for token, _, gene_id in rows}
        genes = [row for row in rows if not row[2].startswith("<")]
        self.tokens = np.array([token for token, _, _ in genes], dtype=np.int64)
        self._by_symbol = {normalize_symbol(symbol): token for token, symbol, _ in genes if symbol and symbol.strip()}
        self._by_id = {normalize_symbol(gene_id): token for token, _, gene_id in genes}

    @classmethod
    def read(cls, path: str | Path) -> "Vocabulary":
        try:
            records = json.loads(Path(path).read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON ({error}); download the file again") from error
        return cls(records, str(path))

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"Vocabulary of {len(self):,} genes in {self.size:,} rows"

    def special(self, name: str) -> int:
        """Token of "<pad>", "<mask>", "<sos>" or "<eos>"."""
        return self._special[name]

    def symbol(self, token: int) -> str:
        """Symbol of a token; the Ensembl id where the gene has no name."""
        return self._symbol_of[int(token)]

    def gene_id(self, token: int) -> str:
        return self._id_of[int(token)]

    def gene_ids(self) -> list[str]:
        """Ensembl id of each token, "" where a row holds no gene: V."""
        ids = [""] * self.size
        for token in self.tokens:
            ids[token] = self._id_of[int(token)]
        return ids

    def token_of_symbol(self, spelled: str) -> int:
        """Token of one spelled name that is taken for a symbol whatever it looks like."""
        return self._by_symbol.get(spelled, UNKNOWN_TOKEN)

    def token(self, spelled: str) -> int:
        """Token of one spelled symbol or Ensembl id, `UNKNOWN_TOKEN` if unknown."""
        return (self._by_id if is_ensembl(spelled) else self._by_symbol).get(spelled, UNKNOWN_TOKEN)


def _plain(records: Iterable[Mapping]) -> list[Mapping]:
    # sorted() compares symbols only where tokens are equal, which is refused anyway; None must not get that far.
    return [dict(r, gene_symbol=r.get("gene_symbol") or "") for r in records]


@dataclass(frozen=True)
class Homologs:
    """Mouse genes and the human gene that each stands for (one to one)."""

    table: pd.DataFrame  # mouse_EnsemblID, mouse_Symbol, human_EnsemblID, human_Symbol

    @cached_property
    def _rows(self) -> dict[str, tuple[str, str, str]]:
        columns = self.table[["mouse_EnsemblID", "mouse_Symbol", "human_EnsemblID", "human_Symbol"]].astype(str)
        rows = {}
        for mouse_id, mouse_symbol, human_id, human_symbol in columns.itertuples(index=False):
            row = (normalize_symbol(human_id), normalize_symbol(human_symbol), mouse_symbol.strip())
            rows.setdefault(normalize_symbol(mouse_symbol), row)
            rows.setdefault(normalize_symbol(mouse_id), row)
        return rows

    def token(self, spelled: str, vocabulary: Vocabulary) -> int:
        """Token of the human ortholog of a mouse id or symbol, `UNKNOWN_TOKEN` if there is none."""
        human_id, human_symbol, _ = self._rows.get(spelled, ("", "", ""))
        token = vocabulary.token(human_symbol)
        return token if token != UNKNOWN_TOKEN else vocabulary.token(human_id)

    def mouse_symbol(self, spelled: str) -> str:
        """Symbol of a mouse id or of a symbol in any case; the name itself where unknown."""
        return self._rows.get(spelled, ("", "", spelled))[2]


@dataclass(frozen=True)
class GeneNames:
    """What is needed to read gene names of both species."""

    vocabulary: Vocabulary
    homologs: Homologs
    aliases: Mapping[str, str] = field(default_factory=dict)  # spelled alias -> spelled current symbol
    retired: Mapping[str, str] = field(default_factory=dict)  # those that were the gene's official symbol once

    def find(self, name: object, species: str) -> tuple[int, str]:
        """Token of one name, and the way in which it was found; (`UNKNOWN_TOKEN`, "lost") if it was not."""
        spelled = normalize_symbol(name)
        # R writes HLA.DRA for HLA-DRA; a name that is known with its dot keeps it.
        forms = dict.fromkeys((spelled, spelled.replace(".", "-")))
        hits = (self._find(form, species) for form in forms)
        return next((hit for hit in hits if hit[0] != UNKNOWN_TOKEN), (UNKNOWN_TOKEN, "lost"))

    def _find(self, spelled: str, species: str) -> tuple[int, str]:
        if species == "mouse":
            token = self.homologs.token(spelled, self.vocabulary)
            if token != UNKNOWN_TOKEN:
                return token, "ortholog"
        token = self.vocabulary.token(spelled)
        if token != UNKNOWN_TOKEN:
            return token, "ensembl" if is_ensembl(spelled) else "symbol"
        # Synonyms of human genes are names of other genes in the mouse; official names of the past are mostly shared.
        aliases = self.retired if species == "mouse" else self.aliases
        token = self.vocabulary.token(aliases.get(spelled, ""))
        if token == UNKNOWN_TOKEN and species == "mouse" and spelled in FORMER:
            current = FORMER[spelled]
            token = self.homologs.token(current, self.vocabulary)
            token = self.vocabulary.token(current) if token == UNKNOWN_TOKEN else token
        return (token, "alias") if token != UNKNOWN_TOKEN else (UNKNOWN_TOKEN, "lost")

    def own_symbol(self, name: object, token: int, species: str) -> str:
        """The gene's symbol in its own species, the name as it came where nothing better is known."""
        if species == "mouse":
            known = self.homologs.mouse_symbol(normalize_symbol(name))
            return without_genome(name) if known == normalize_symbol(name) else known
        return without_genome(name) if token == UNKNOWN_TOKEN else self.vocabulary.symbol(token)


@dataclass(frozen=True)
class GeneMatch:
    """Columns of a data set, and the tokens they stand for."""

    names: pd.Index  # as the data set calls its genes
    tokens: np.ndarray  # int64, UNKNOWN_TOKEN where unknown
    ways: np.ndarray  # str: one of WAYS, or "lost"
    symbols: np.ndarray  # str: in the gene's own species

    @property
    def is_known(self) -> np.ndarray:
        return self.tokens != UNKNOWN_TOKEN


def match_genes(columns: Mapping[str, Iterable[object]], names: pd.Index, species: str, book: GeneNames) -> GeneMatch:
    """Find each gene's token by the best of several name columns.

    Parameters
    ----------
    columns
        Candidate columns of names, one entry per gene, e.g. ``{"var_names": ..., "gene_ids": ...}``. The one that
        most genes are known by is read first; what it does not know is looked up in the others.
    names
        The data set's own labels.
    species
        "human" or "mouse".
    book
        Vocabulary, orthologs and aliases.
    """
    columns = {key: list(column) for key, column in columns.items()}
    found = {key: [book.find(name, species) for name in column] for key, column in columns.items()}
    order = sorted(
        found, key=lambda key: -sum(token != UNKNOWN_TOKEN for token, _ in found[key])
    )  # ties keep their order
    telling = [
        next((key for key in order if found[key][gene][0] != UNKNOWN_TOKEN), order[0])
        for gene in range(len(found[order[0]]))
    ]
    hits = [found[key][gene] for gene, key in enumerate(telling)]
    symbols = [book.own_symbol(columns[key][gene], hits[gene][0], species) for gene, key in enumerate(telling)]
    tokens = np.array([token for token, _ in hits], dtype=np.int64)
    ways = np.array([way for _, way in hits], dtype=object)
    return GeneMatch(pd.Index(names), tokens, ways, np.array(symbols, dtype=object))
