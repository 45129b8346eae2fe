"""What an AnnData says, in the model's terms: species, genes, regulators, conditions, and a receipt of all of it.

This is the door for data: whatever is wrong with it is said here, with the line that mends it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from sccafm._text import listing, warn
from sccafm.data.genes import always_read, choose_genes, find_regulators, left_out_of_lineages
from sccafm.data.groups import obs_column
from sccafm.data.matrix import KINDS, Matrix, Survey, find_matrix
from sccafm.data.options import InputOptions
from sccafm.reference.bundle import ReferenceData
from sccafm.reference.genes import (
    MIXED_SHARE,
    SPECIES,
    WAYS,
    GeneMatch,
    Vocabulary,
    count_species,
    guess_species,
    match_genes,
    normalize_symbol,
    species_name,
)
from sccafm.types import CONDITIONS

# var columns that may hold names beside var_names, by the habits of CELLxGENE, 10x and scanpy.
NAME_COLUMNS = (
    "gene_ids", "feature_id", "ensembl_id", "ensembl", "gene_id",
    "feature_name", "gene_symbols", "gene_symbol", "symbol", "gene_name", "gene_names",
)  # fmt: skip
# obs columns (and uns keys, for the species) that may hold a condition, CELLxGENE's name first.
CONDITION_COLUMNS = {
    "platform": ("assay", "platform", "technology"),
    "species": ("organism", "species", "organism_ontology_term_id"),
    "tissue": ("tissue", "tissue_general"),
    "disease": ("disease",),
}
MIN_KNOWN_SHARE = 0.05  # below this share of known names the names are probably not what they seem
MIN_KNOWN_GENES = 2


DEFAULTS = InputOptions()


@dataclass(frozen=True)
class Receipt:
    """What became of a data set's genes and labels on the way into the model."""

    matrix: str  # which values were read
    values: str  # what they are, and how they are read
    species: str
    species_from: str
    n_cells: int
    n_genes: int
    n_ensembl: int  # found by Ensembl id
    n_symbol: int
    n_ortholog: int  # mouse genes translated to their human ortholog
    n_alias: int  # retired symbols and synonyms translated
    n_lost: int
    lost: tuple[str, ...]  # unknown to the vocabulary
    lost_regulators: tuple[str, ...]  # those of them that the species' list holds
    duplicates: tuple[str, ...]  # further columns for a gene that another column already gives
    not_found: tuple[str, ...]  # of genes=: neither in the data nor in the vocabulary
    rare_regulators: tuple[str, ...]  # detected, but in too few cells to be read (always= reads them)
    lineage_regulators: tuple[
        str, ...
    ]  # known for a lineage, in the data and not read: "GATA1 (Erythroblasts; in 3 cells)"
    n_used: int  # genes the model reads
    n_regulators: int
    conditions: Mapping[str, str]  # slot -> what was found

    def __str__(self) -> str:
        ways = [(self.n_ensembl, "by Ensembl id"), (self.n_symbol, "by symbol")]
        ways += [(self.n_ortholog, "by mouse ortholog"), (self.n_alias, "by alias")]
        found = ", ".join(f"{n:,} {way}" for n, way in ways if n)
        lines = [
            f"read {self.matrix}: {self.values}",
            f"species {self.species} (from {self.species_from}), {self.n_cells:,} cells",
            f"genes {self.n_genes - self.n_lost:,} of {self.n_genes:,} known: {found}",
        ]
        if self.lost:
            lines.append(f"lost {self.n_lost:,} genes: {listing(self.lost)}")
        if self.lost_regulators:
            lines.append(f"lost {len(self.lost_regulators)} regulators: {listing(self.lost_regulators)}")
        if self.duplicates:
            lines.append(
                f"left out {len(self.duplicates):,} columns that share a gene's token: {listing(self.duplicates)}"
            )
        if self.not_found:
            lines.append(f"did not find {len(self.not_found):,} of the genes asked for: {listing(self.not_found)}")
        if self.rare_regulators:
            lines.append(
                f"left out {len(self.rare_regulators):,} regulators that few cells show (infer_grn(always=[...]) reads them): "
                f"{listing(self.rare_regulators)}"
            )
        if self.lineage_regulators:
            lines.append(
                f"of genes not read, {len(self.lineage_regulators):,} are regulators known for a lineage (infer_grn(always=[...]) reads them): "
                f"{listing(self.lineage_regulators)}"
            )
        lines.append("conditions " + "; ".join(f"{slot}: {what}" for slot, what in self.conditions.items()))
        lines.append(f"used {self.n_used:,} genes, {self.n_regulators:,} of them as regulators")
        return "\n".join(f"sccafm: {line}" for line in lines)

    def to_dict(self) -> dict:
        """Plain values that h5ad and JSON can hold."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return plain | {"conditions": dict(self.conditions)}


@dataclass(frozen=True)
class ModelInput:
    """An AnnData, ready for the tokenizer: which columns of which matrix, and what they are."""

    matrix: Matrix
    columns: np.ndarray  # G positions in the matrix
    names: pd.Index  # G labels, unique
    gene_ids: np.ndarray  # G tokens
    symbols: np.ndarray  # G symbols in the gene's own species
    is_tf: np.ndarray  # G bool
    conditions: np.ndarray  # C 4 condition ids
    species: str
    receipt: Receipt
    known_genes: frozenset  # labels of all genes that the vocabulary holds, used or not
    regulator_labels: frozenset  # labels of all genes that may regulate, used or not
    gene_key: str | None
    survey: Survey  # of all genes of the matrix

    @property
    def digest(self) -> str:
        """Of the gene means: tells data with other values from these."""
        return hashlib.sha256(self.survey.mean.tobytes()).hexdigest()[:16]

    def labels_of(self, adata) -> pd.Index:
        """How this input calls the genes of `adata`, which may be others than the matrix's (raw)."""
        if self.gene_key is None:
            return adata.var_names.astype(str)
        if self.gene_key in adata.var:
            return pd.Index(adata.var[self.gene_key]).astype(str)
        return pd.Index(self.matrix.var[self.gene_key].reindex(adata.var_names)).astype(str)  # raw.var alone has it

    def gene_table(self, vocabulary: Vocabulary) -> pd.DataFrame:
        """What the genes are called, and which may regulate: columns symbol, gene_id, is_tf."""
        ids = [vocabulary.gene_id(token) for token in self.gene_ids]
        return pd.DataFrame(
            {"symbol": self.symbols.astype(str), "gene_id": ids, "is_tf": self.is_tf}, index=self.names.rename(None)
        )


def warn_of_silent(model_input: ModelInput, cells: Sequence[int] | np.ndarray, consequence: str) -> None:
    """Name cells (positions) without a count in the genes that are read; of cells without any count it was said already."""
    silent = np.setdiff1d(cells, model_input.survey.empty).astype(int)
    if len(silent):
        names = listing(model_input.matrix.obs_names[silent])
        warn(f"{len(silent):,} cells have no count in the genes that were read, {consequence}: {names}")


def prepare(adata, model, options: InputOptions = DEFAULTS) -> ModelInput:
    """Read an AnnData for a model: the one door through which `infer_grn`, `embed` and the heads take their data."""
    return read(adata, model.reference_data, options)


def read(
    adata, reference_data: ReferenceData, options: InputOptions = DEFAULTS, matrix: Matrix | None = None
) -> ModelInput:
    """Read an AnnData in the terms of a model's tables, where no model is at hand (training)."""
    if not isinstance(adata, AnnData):
        raise TypeError(f"expected an AnnData, got {type(adata).__name__}; anndata.AnnData(X) makes one of a matrix")
    matrix = find_matrix(adata, options.layer, options.preprocess) if matrix is None else matrix
    check_names(adata)
    survey = matrix.survey()
    warn_about(matrix, survey)
    columns = name_columns(matrix, options.gene_key)
    species, species_from = find_species(adata, columns, options.species, options.condition_keys)
    warn_of_other_species(columns, species, species_from)
    match = match_genes(columns, label_index(matrix, options.gene_key), species, reference_data.genes)
    check_known(match, columns)
    kept, duplicates = drop_duplicates(match, survey)
    is_tf, listed = find_regulators(match, kept, options.regulators, reference_data, species)
    asked, not_there = always_read(match, kept, options.always)
    is_tf[asked] = True
    chosen, not_found = choose_genes(match, kept, is_tf, survey, options)
    chosen, not_found = np.union1d(chosen, asked), (*not_found, *not_there)
    if not is_tf[chosen].any():
        raise ValueError(
            f"none of the {len(chosen):,} genes is a regulator ({species}, regulators={brief(options.regulators)}); pass "
            'regulators="all" or a list of names (sccafm.infer_grn), keep regulators in genes=, or check species='
        )
    condition_ids, condition_words = read_conditions(adata, reference_data, species, options.condition_keys)
    lost = match.names[~match.is_known].astype(str)
    spelled = {
        normalize_symbol(symbol): name for symbol, name in zip(match.symbols[~match.is_known], lost, strict=True)
    }
    receipt = Receipt(
        matrix=matrix.origin,
        values=KINDS[matrix.kind],
        species=species,
        species_from=species_from,
        n_cells=adata.n_obs,
        n_genes=len(match.names),
        **{f"n_{way}": int((match.ways == way).sum()) for way in WAYS},
        n_lost=len(lost),
        lost=tuple(lost),
        lost_regulators=tuple(name for key, name in spelled.items() if key in listed),
        duplicates=duplicates,
        not_found=not_found,
        rare_regulators=tuple(
            map(str, match.names[np.setdiff1d(kept[is_tf[kept] & (survey.detected[kept] > 0)], chosen)])
        ),
        lineage_regulators=left_out_of_lineages(match, kept, chosen, survey, reference_data),
        n_used=len(chosen),
        n_regulators=int(is_tf[chosen].sum()),
        conditions=condition_words,
    )
    return ModelInput(
        matrix=matrix,
        columns=chosen,
        names=match.names[chosen],
        gene_ids=match.tokens[chosen],
        symbols=match.symbols[chosen],
        is_tf=is_tf[chosen],
        conditions=condition_ids,
        species=species,
        receipt=receipt,
        known_genes=frozenset(match.names[match.is_known]),
        regulator_labels=frozenset(match.names[is_tf]),
        gene_key=options.gene_key,
        survey=survey,
    )


def check_names(adata) -> None:
    """Names of cells must be unique text: h5ad and the tables of the results hold nothing else."""
    for index, field, what in ((adata.obs_names, "obs_names", "cell"), (adata.var_names, "var_names", "gene")):
        if isinstance(index, pd.MultiIndex):
            raise ValueError(
                f"{what} names must be text, adata.{field} is a MultiIndex of {index.names}; join its levels: "
                f'adata.{field} = adata.{field}.map("_".join)'
            )
        odd = next((name for name in index if not isinstance(name, str)), None)
        if odd is not None:
            kind = "missing" if pd.isna(odd) else f"{odd!r}, a {type(odd).__name__}"
            raise ValueError(
                f"{what} names must be text, one in adata.{field} is {kind}; adata.{field} = adata.{field}.astype(str)"
            )
    if (adata.obs_names.str.strip() == "").any():
        raise ValueError("a cell name is empty; name every cell: adata.obs_names = ...")
    if not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()][0]
        raise ValueError(f"cell names must be unique, {twice!r} stands twice; adata.obs_names_make_unique()")


def warn_about(matrix: Matrix, survey: Survey) -> None:
    if len(survey.empty):
        cells = listing(matrix.obs_names[survey.empty])
        warn(f"{len(survey.empty):,} cells have no counts, and will have no edges: {cells}")
    if matrix.is_boolean:
        warn(f"{matrix.origin} holds booleans: they are read as counts of 0 and 1, which say little of a gene's level")
    if matrix.kind == "linear":
        warn(
            f"{matrix.origin} is normalised but not log-transformed: it is read as log1p of shares of 10,000. "
            'If that is wrong, prepare the values yourself and pass preprocess="none"'
        )
    elif matrix.kind == "log":
        warn(
            f"{matrix.origin} is normalised: it is read as it is. Counts in adata.X, adata.layers['counts'] or "
            "adata.raw would be preferred"
        )


def name_columns(matrix: Matrix, gene_key: str | None) -> dict[str, Iterable[object]]:
    """Columns that may hold gene names, the labels first."""
    var = matrix.var
    if gene_key is not None:
        if gene_key not in var:
            raise KeyError(f"gene_key={gene_key!r} is no column of var; there are {list(var.columns)}")
        return {gene_key: var[gene_key].astype(str)}
    others = {key: var[key].astype(str) for key in NAME_COLUMNS if key in var}
    return {"var_names": var.index.astype(str)} | others


def label_index(matrix: Matrix, gene_key: str | None) -> pd.Index:
    """How genes are called in the results: var_names, or the column that was asked for."""
    labels = matrix.var.index if gene_key is None else pd.Index(matrix.var[gene_key])
    return labels.astype(str)


def find_species(
    adata, columns: Mapping[str, Iterable[object]], species: str | None, condition_keys: Mapping[str, str] | None
) -> tuple[str, str]:
    """The one species of a data set, and what told it.

    Raises
    ------
    ValueError
        Two species in one object, or one that is neither human nor mouse.
    """
    named = (condition_keys or {}).get("species")
    for key, column in columns.items():
        check_one_species(key, column)
    if species is not None:
        if named is not None:
            warn(f"condition_keys species={named!r} has no effect where species= is given")
        return known_species([species], "species="), "species="
    if named is not None and named not in adata.obs:
        raise KeyError(f"condition_keys names species={named!r}, adata.obs has {list(adata.obs.columns)}")
    for key in [named] if named else CONDITION_COLUMNS["species"]:
        if key in adata.obs and obs_column(adata, key).notna().any():
            return known_species(obs_column(adata, key).dropna().unique(), f"obs[{key!r}]"), f"obs[{key!r}]"
        if key in adata.uns and isinstance(adata.uns[key], str):
            return known_species([adata.uns[key]], f"uns[{key!r}]"), f"uns[{key!r}]"
    for key, column in columns.items():
        guess = guess_species(column)
        if guess is not None:
            return guess, f"the spelling of {key}"
    return "human", "default: neither obs, uns nor the names tell"


def check_one_species(key: str, names: Iterable[object]) -> None:
    """Human and mouse genes beside each other are two experiments in one matrix."""
    names = list(names)
    counts = count_species(names)
    if min(counts.values()) > MIXED_SHARE * len(names):
        raise ValueError(
            f"{key} holds genes of two species, {counts['human']:,} human and {counts['mouse']:,} mouse: a model reads one "
            'at a time. Split cells and genes, e.g. by their prefix: human = adata[adata.obs["organism"] == "human", '
            'adata.var_names.str.startswith("GRCh38")].copy(), and infer each by itself'
        )


def warn_of_other_species(columns: Mapping[str, Iterable[object]], species: str, species_from: str) -> None:
    """Names that state a species (Ensembl ids, a genome's prefix) know better than a word does."""
    for key, names in columns.items():
        counts = count_species(names)
        other = max(counts, key=counts.__getitem__)
        if other != species and counts[other] > 0.5 * sum(1 for _ in names):
            warn(
                f"{key} names genes of the {other}, and {species_from} says {species}; pass species={other!r} if the names are right"
            )


def known_species(words: Iterable[object], origin: str) -> str:
    names = {str(word): species_name(word) for word in words}
    unknown = [word for word, name in names.items() if name is None]
    if unknown:
        raise ValueError(
            f"{origin} says {unknown[0]!r}, which is neither human nor mouse; the model knows "
            f'{", ".join(w for s in SPECIES.values() for w in s[:2])}. Pass species="human" or "mouse" to override'
        )
    if len(set(names.values())) > 1:
        raise ValueError(
            f'{origin} holds two species {sorted(names)}: split the data, e.g. adata[adata.obs["organism"] == '
            f'"human"], or pass species="human" to read all cells as one'
        )
    return str(next(iter(names.values())))


def check_known(match: GeneMatch, columns: Mapping[str, Iterable[object]]) -> None:
    known, total = int(match.is_known.sum()), len(match.names)
    if known < max(MIN_KNOWN_GENES, MIN_KNOWN_SHARE * total):
        raise ValueError(
            f"only {known:,} of {total:,} genes are in the model's vocabulary. Looked at {list(columns)}, names such as "
            f'{listing(match.names)}. Expected human or mouse symbols or Ensembl ids: pass gene_key="column of var" '
            "that holds them, or species= if it was taken wrongly"
        )


def drop_duplicates(match: GeneMatch, survey: Survey) -> tuple[np.ndarray, tuple[str, ...]]:
    """One column per gene: the best-known name, then the higher mean, then the first. Positions in file order."""
    known = np.flatnonzero(match.is_known)
    way = np.array([WAYS.index(w) for w in match.ways[known]], dtype=int)
    order = known[np.lexsort((known, -survey.mean[known], way, match.tokens[known]))]
    is_first = np.append(True, np.diff(match.tokens[order]) != 0) if len(order) else np.zeros(0, bool)
    kept, dropped = np.sort(order[is_first]), np.sort(order[~is_first])
    # Two kept columns of one label could not be told apart in the results.
    twice = match.names[kept].duplicated()
    kept, dropped = kept[~twice], np.append(dropped, kept[twice])
    if len(dropped):
        warn(
            f"{len(dropped):,} columns share the model's token of a gene that is there already and are left out: "
            f"{listing(match.names[dropped])}"
        )
    return kept, tuple(match.names[dropped].astype(str))


def read_conditions(
    adata, reference_data: ReferenceData, species: str, condition_keys: Mapping[str, str] | None
) -> tuple[np.ndarray, dict[str, str]]:
    """Condition ids of each cell, and what to say of each slot."""
    keys = dict(condition_keys or {})
    unknown_slots = set(keys) - set(CONDITIONS)
    if unknown_slots:
        raise ValueError(f"condition_keys maps {list(CONDITIONS)} to obs columns; unknown: {sorted(unknown_slots)}")
    columns, said = {"species": species}, {}
    for slot in CONDITIONS:
        if slot == "species":
            said[slot] = species if species in reference_data.conditions else f"{species} (unknown to the model)"
            continue
        candidates = [keys[slot]] if slot in keys else [c for c in CONDITION_COLUMNS[slot] if c in adata.obs]
        for key in candidates:
            if key not in adata.obs:
                raise KeyError(f"condition_keys names {slot}={key!r}, adata.obs has {list(adata.obs.columns)}")
        if not candidates:
            said[slot] = "absent"
            continue
        known = {key: known_words(obs_column(adata, key), reference_data) for key in candidates}
        key = max(known, key=lambda k: len(known[k][0]))
        columns[slot] = obs_column(adata, key)
        words, unknown = known[key]
        said[slot] = f"obs[{key!r}] {listing(words, 3)}" if words else f"obs[{key!r}]"
        if unknown:
            said[slot] += f" (unknown to the model: {listing(unknown, 3)})"
    return reference_data.conditions.encode(columns, adata.n_obs), said


def known_words(column: pd.Series, reference_data: ReferenceData) -> tuple[list[str], list[str]]:
    words = [str(word) for word in column.unique()]
    return [w for w in words if w in reference_data.conditions], [
        w for w in words if w not in reference_data.conditions
    ]


def brief(regulators: str | Sequence[str]) -> str:
    return repr(regulators) if isinstance(regulators, str) else f"a list of {len(regulators)}"
