"""Which genes are read, and which of them may regulate."""

import difflib
from collections.abc import Sequence

import numpy as np

from sccafm._text import listing, warn
from sccafm.data.matrix import Survey, variable_genes
from sccafm.data.options import InputOptions
from sccafm.reference.bundle import ReferenceData
from sccafm.reference.genes import UNKNOWN_TOKEN, GeneMatch, normalize_symbol

# A regulator seen in fewer cells than both is left out unless it is asked for: lineage regulators are often seen in few.
REGULATOR_CELLS, REGULATOR_SHARE = 10, 0.01


def find_regulators(
    match: GeneMatch, kept: np.ndarray, regulators: str | Sequence[str], reference_data: ReferenceData, species: str
) -> tuple[np.ndarray, frozenset[str]]:
    """Which genes may regulate (bool per gene of the data set), and the species' whole list."""
    table = reference_data.regulators[species]
    own = [normalize_symbol(symbol) for symbol in match.symbols]
    names = [normalize_symbol(name) for name in match.names]
    if isinstance(regulators, str):
        if regulators not in ("dna_binding", "all"):
            raise ValueError(f'regulators must be "dna_binding", "all" or a list of gene names, got {regulators!r}')
        chosen = table if regulators == "all" else table[table["class"] == "dna_binding"]
        listed = frozenset(chosen.index)
        vocabulary = [
            normalize_symbol(reference_data.vocabulary.symbol(t)) if t != UNKNOWN_TOKEN else "" for t in match.tokens
        ]
    else:
        listed = frozenset(normalize_symbol(name) for name in regulators)
        vocabulary = [
            normalize_symbol(reference_data.vocabulary.symbol(t)) if t != UNKNOWN_TOKEN else "" for t in match.tokens
        ]
        there = set(own) | set(names) | set(vocabulary)
        missing = sorted(listed - there)
        if missing:
            warn(f"{len(missing)} of the regulators asked for are not in the data: {listing(missing)}")
    is_tf = np.zeros(len(own), dtype=bool)
    is_tf[kept] = [any(name in listed for name in (own[i], names[i], vocabulary[i])) for i in kept]
    return is_tf, frozenset(table.index)


def choose_genes(
    match: GeneMatch,
    kept: np.ndarray,
    is_tf: np.ndarray,
    survey: Survey,
    options: InputOptions,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Positions of the genes to read, in file order, and the names of `genes` that were not found.

    A list of names is taken as far as its genes are there. Otherwise the regulators seen in at least `REGULATOR_CELLS` cells or
    `REGULATOR_SHARE` of them (all of them where they were asked for by name) and the most variable other genes; a data set that holds no more
    than `n_top_genes` genes is taken whole.
    """
    genes, n_top_genes, asked = options.genes, options.n_top_genes, not isinstance(options.regulators, str)
    if genes is not None:
        return named_genes(match, kept, genes)
    if n_top_genes is None or len(kept) <= n_top_genes:
        return kept, ()
    if n_top_genes < 1:
        raise ValueError(f"n_top_genes must be a positive number or None for every gene, got {n_top_genes}")
    least = max(1, min(REGULATOR_CELLS, REGULATOR_SHARE * survey.n_cells))
    seen = survey.detected[kept] >= (0 if asked else least)
    acting = kept[is_tf[kept] & seen]
    others = kept[~is_tf[kept] & (survey.detected[kept] > 0)]
    return np.sort(np.concatenate([acting, variable_genes(survey, others, n_top_genes)])), ()


def left_out_of_lineages(
    match: GeneMatch, kept: np.ndarray, chosen: np.ndarray, survey: Survey, reference_data: ReferenceData
) -> tuple[str, ...]:
    """Regulators that are known for a lineage and are not read although the data have the gene, those of the most cells first.

    Each with its lineages and with why: how many cells show it.
    """
    found = []
    for i in np.setdiff1d(kept, chosen):
        lineages = reference_data.lineages.get(normalize_symbol(reference_data.vocabulary.symbol(int(match.tokens[i]))))
        if lineages is not None:
            cells = int(survey.detected[i])
            seen = "in no cell" if cells == 0 else f"in {cells:,} cell{'s' if cells > 1 else ''}"
            found.append((-cells, f"{match.names[i]} ({lineages.split('; ')[0]}; {seen})"))
    return tuple(text for _, text in sorted(found))


def positions_by_name(match: GeneMatch, kept: np.ndarray) -> dict[str, int]:
    """Position of each gene that is kept, by its symbol and by its name in the data."""
    return {normalize_symbol(match.symbols[i]): i for i in kept} | {normalize_symbol(match.names[i]): i for i in kept}


def always_read(match: GeneMatch, kept: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Positions of regulators that are read however few cells show them, and the names that were not found."""
    if not len(names):
        return np.zeros(0, dtype=int), ()
    position = positions_by_name(match, kept)
    missing = tuple(str(name) for name in names if normalize_symbol(name) not in position)
    if missing:
        warn(f"{len(missing)} of always= are not in the data or not in the vocabulary: {listing(missing)}")
    found = [position[normalize_symbol(name)] for name in names if normalize_symbol(name) in position]
    return np.unique(np.array(found, dtype=int)), missing


def named_genes(match: GeneMatch, kept: np.ndarray, genes: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    position = positions_by_name(match, kept)
    wanted = {str(name): position.get(normalize_symbol(name)) for name in genes}
    missing = [name for name, where in wanted.items() if where is None]
    if not wanted:
        raise ValueError("genes= is an empty list; name the genes to read, or pass genes=None to have them chosen")
    if missing:
        close = difflib.get_close_matches(normalize_symbol(missing[0]), position, n=3)
        hint = f"; close to {missing[0]!r}: {close}" if close else ""
        message = (
            f"{len(missing)} of the {len(wanted)} genes asked for are not in the data or not in the vocabulary: "
            f"{listing(missing)}{hint}"
        )
        if len(missing) == len(wanted):
            raise KeyError(message)
        warn(f"{message}; the other {len(wanted) - len(missing):,} are read")
    found = [where for where in wanted.values() if where is not None]
    return np.unique(np.array(found, dtype=int)), tuple(missing)
