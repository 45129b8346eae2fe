"""Contexts: what a model's factors are, in words, and how a cell's factors made one of its edges."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

MAX_FDR = 0.05  # a term above it names no factor
N_TOP = 100  # targets of a factor that are tested against gene sets
HOUSEKEEPING = (
    "translation|ribosom|peptide chain|respirat|electron transport|oxidative phosphorylation|atp synthesis|mitochondri|chaperon|"
    "protein folding|nonsense|srp-dependent|rrna|selenocysteine|proteasom|splic|mrna process|gene expression|metabolic process|"
    "40s subunit|60s subunit|43s complex|mature mrna|selenoamino|peptide biosynthetic|targeting to er|complex i biogenesis|nadh dehydrogenase|eif2ak4|ncrna|"
    "pre-mrna|transcription, dna-templated|rna polymerase|mucopolysaccharidos|^protein localization|n-linked glycosylation"
)
DISEASE = (
    "infect|virus|viral|disease|cancer|leishmania|sars|hiv|influenza|tubercul|parkinson|alzheimer|huntington|diabet|leukemia|"
    "carcinoma|tumou?r(?! necrosis)|melanoma|defective|disorder"
)
NAMES_NOTHING = re.compile(f"{HOUSEKEEPING}|{DISEASE}", re.IGNORECASE)
ACRONYM = re.compile(r"\s*\((GO:\d+|R-HSA-\d+)\)$")
DANGLING = re.compile(r"([ ,]+(a|an|and|at|by|for|from|in|into|leading|of|on|or|the|to|via|with))+$", re.IGNORECASE)


def enrichment(
    weight: np.ndarray, symbols: pd.Index, sets: Mapping[str, frozenset], n_top: int = N_TOP, min_overlap: int = 3
) -> pd.DataFrame:
    """Gene sets among the targets that a factor weighs most: one-sided hypergeometric test, Benjamini-Hochberg.

    Parameters
    ----------
    weight
        G, of one factor; genes without weight are never among the top.
    symbols
        G upper-case symbols: all of them are the background.
    sets
        Name -> upper-case symbols.
    n_top
        Targets tested.
    min_overlap
        Sets that share fewer genes with the top are left out, and count as tests all the same.

    Returns
    -------
    DataFrame term, overlap, size (genes of the set that were read), pvalue, fdr, genes; the best first.
    """
    order = np.argsort(-weight, kind="stable")[: min(n_top, len(weight) // 2)]
    top = {symbols[i] for i in order if weight[i] > 0}
    background = set(symbols)
    shared = [genes & top for genes in sets.values()]
    table = pd.DataFrame(
        {
            "term": list(sets),
            "overlap": np.array([len(genes) for genes in shared], dtype=int),
            "size": np.array([len(genes & background) for genes in sets.values()], dtype=int),
        }
    )
    p = stats.hypergeom.sf(table["overlap"] - 1, len(background), table["size"], len(top))
    table["pvalue"] = np.where(table["overlap"] > 0, p, 1.0)
    table["fdr"] = stats.false_discovery_control(table["pvalue"]) if len(table) else np.zeros(0)
    table["genes"] = [", ".join(sorted(genes)) for genes in shared]
    return table[table["overlap"] >= min_overlap].sort_values(["pvalue", "term"], ignore_index=True)


def upper_sets(sets) -> dict[str, frozenset]:
    """Gene sets as they are compared: name -> upper-case symbols, from a mapping to any iterables or a `GeneSets`."""
    return {name: frozenset(str(gene).upper() for gene in genes) for name, genes in getattr(sets, "sets", sets).items()}


def top_names(sums: np.ndarray, names: pd.Index, n_top: int) -> list[str]:
    """Names of the rows that weigh most in each column, as text: N M -> M."""
    best = np.argsort(-sums, axis=0, kind="stable")[:n_top]  # n_top M
    return [", ".join(str(names[i]) for i in column if sums[i, m] > 0) for m, column in enumerate(best.T)]


def top_terms(weights: np.ndarray, symbols: pd.Index, sets: Mapping[str, frozenset]) -> dict[str, list]:
    """The set that each factor's targets are most enriched in, G M -> M term, fdr and overlap; None where there is none."""
    best = [enrichment(weight, symbols, sets).head(1).to_dict("records") for weight in weights.T]
    return {name: [found[0][name] if found else None for found in best] for name in ("term", "fdr", "overlap")}


def short_term(term: str, most: int = 72) -> str:
    """A set's name without its identifier; a longer one ends where a phrase does, never at "of" or in a bracket."""
    text = ACRONYM.sub("", term).strip()
    if len(text) <= most:
        return text
    text = text[: most + 1].rsplit(" ", 1)[0]
    if text.count("(") > text.count(")"):
        text = text[: text.rindex("(")]
    return DANGLING.sub("", text.rstrip(" ,")) or text


def names_nothing(term: str) -> bool:
    """Whether a gene set tells no state of a cell: housekeeping, which every cell has, or a disease or infection."""
    return NAMES_NOTHING.search(term) is not None


def name_factor(number: int, regulators: list[str], terms: pd.DataFrame) -> tuple[str, str]:
    """Short name of a factor and the evidence for it.

    Its leading regulators name it, with the best enriched gene set where there is one that tells a state
    (`names_nothing`); the number keeps names unique.
    """
    label = f"factor_{number:03d}"
    if not regulators:
        return label, "no regulator uses it"
    label = f"{label}: {'/'.join(regulators[:2])}"
    telling = terms[(terms["fdr"] <= MAX_FDR) & ~terms["term"].map(names_nothing).astype(bool)] if len(terms) else terms
    if len(telling):
        best = telling.iloc[0]
        evidence = f"{best['term']}: {best['overlap']} of {best['size']} genes among its targets, FDR {best['fdr']:.1e}"
        return f"{label}, {short_term(best['term'])}", evidence
    return label, "its leading regulators; no gene set that tells a state is enriched"


def leading(weight: np.ndarray, n_top: int = 10) -> list[np.ndarray]:
    """Rows that belong to each column more than to others, the first ones first: N M -> M arrays of positions.

    Ranked by ``w log(w / mean)``: heavy in the column, and heavier there than in the mean column.
    """
    mean = weight.mean(1, keepdims=True)
    ratio = np.divide(weight, mean, out=np.ones_like(weight), where=mean > 0)
    own = weight * np.log(np.maximum(ratio, 1e-12))
    order = np.argsort(-own, axis=0, kind="stable")[:n_top]
    return [column[own[column, m] > 0] for m, column in enumerate(order.T)]


def where_active(context: np.ndarray, labels: pd.Series, n_top: int = 3) -> list[list[tuple[str, float]]]:
    """Labels (tissues, cell types, groups) in whose cells each factor carries most: mean share, strongest first.

    Parameters
    ----------
    context
        C M, rows sum to 1.
    labels
        C.
    """
    means = pd.DataFrame(context).groupby(labels.astype(str).to_numpy(), sort=True).mean()
    best = np.argsort(-means.to_numpy(), axis=0, kind="stable")[:n_top]
    return [[(str(means.index[i]), float(means.iloc[i, m])) for i in column] for m, column in enumerate(best.T)]


@dataclass(frozen=True)
class Explanation:
    """Why a cell has an edge: which factors made it, and how the cell differs from the average."""

    source: str
    target: str
    cell: str
    weight: float  # the cell's score
    mean_weight: float  # over all cells of the GRN
    share_below: float  # share of the cells whose score is lower
    factors: pd.DataFrame = field(
        repr=False
    )  # per factor: regulator, target, contribution, mean_contribution, difference

    def __repr__(self) -> str:
        lead = self.factors.iloc[0]
        change = self.factors["difference"]
        moved = change.abs().idxmax()
        return (
            f"{self.source} -> {self.target} in {self.cell}: weight {self.weight:.4f}, {self.mean_weight:.4f} on average; "
            f"{self.share_below:.0%} of the cells score lower\n"
            f"  most of it by {lead['name']}: {lead['contribution']:.4f} = {lead['regulator']:.3f} of the regulator x "
            f"{lead['target']:.3f} of the target\n"
            f"  differs from the average most by {self.factors.loc[moved, 'name']}: {change[moved]:+.4f}"
        )


def explain(u: np.ndarray, v: np.ndarray, cell: int, names: list[str], labels: pd.Index, what: tuple) -> Explanation:
    """Take one edge of one cell apart.

    Parameters
    ----------
    u, v
        C M, the regulator's and the target's factors in every cell.
    cell
        Position.
    names, labels
        Words and identifiers of the M factors.
    what
        Source, target and cell by name.
    """
    parts = u.astype(np.float64) * v.astype(np.float64)  # C M
    scores = parts.sum(1)
    mean = parts.mean(0)
    table = pd.DataFrame(
        {
            "name": names,
            "regulator": u[cell],
            "target": v[cell],
            "contribution": parts[cell],
            "mean_contribution": mean,
            "difference": parts[cell] - mean,
        },
        index=labels,
    ).sort_values("contribution", ascending=False, kind="stable")
    below = float((scores < scores[cell]).mean())
    source, target, name = what
    return Explanation(source, target, name, float(scores[cell]), float(scores.mean()), below, table)


# --- of a model over a corpus, or of two models


def load_entropy(load: np.ndarray) -> float:
    """Entropy of the factors' load as a share of its maximum: 1 if all M are used alike, 0 if one is used alone."""
    share = np.asarray(load, dtype=np.float64) / np.sum(load)
    return float(stats.entropy(share) / np.log(len(share)))


def matched_correlation(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of the factors of two models after the best one-to-one matching (Kuhn 1955).

    Parameters
    ----------
    one, other
        N M each: loads of the same genes or cells on the factors.

    Returns
    -------
    For each factor of `one` its partner in `other`, and their Pearson correlation.
    """
    from scipy.optimize import linear_sum_assignment

    def standard(x: np.ndarray) -> np.ndarray:
        centered = x - x.mean(0)
        norm = np.linalg.norm(centered, axis=0)
        return np.divide(centered, norm, out=np.zeros_like(centered, dtype=np.float64), where=norm > 0)

    correlation = standard(one).T @ standard(other)
    rows, partners = linear_sum_assignment(-correlation)
    return partners, correlation[rows, partners]
