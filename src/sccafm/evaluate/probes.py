"""Cross-validated linear probes: what a linear map can read from gene vectors about genes it has not seen.

All probes are ridge regressions on zeros and ones, their penalty chosen by generalised cross-validation within the
training folds (scikit-learn's RidgeCV). Letters in comments: G genes, D width, T terms, N pairs, U units, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sccafm.evaluate.metrics import Ranking

PENALTIES = np.logspace(1, 5, 5)
N_COMPONENTS = 16  # of the vectors of a pair, for their outer product
Vectors = np.ndarray | Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Ordered pairs of genes to tell true from false.

    A pair is tested in its `fold`; a probe for that fold is trained on the pairs neither of whose genes is in it.
    """

    first: np.ndarray  # N place of a gene
    second: np.ndarray  # N
    is_true: np.ndarray  # N
    unit: np.ndarray  # N regulator or complex within which true pairs are ranked against false ones, in [0, U)
    units: tuple[str, ...]  # U names
    fold: np.ndarray  # N fold in which the pair is tested; -1 never
    gene_fold: np.ndarray  # G fold from whose training the gene is kept; -1 for none


def term_aurocs(x: np.ndarray, is_member: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """AUROC of each term's members among held-out genes, a mean over folds that hold both; NaN where none does.

    Parameters
    ----------
    x
        G D vectors, finite.
    is_member
        G T booleans.
    folds
        G fold of each gene.
    """
    scores = np.empty(is_member.shape)
    for fold in np.unique(folds):
        here = folds == fold
        scores[here] = _fit(x[~here], is_member[~here].astype(float))(x[here])
    return fold_aurocs(scores, is_member, folds)


def fold_aurocs(scores: np.ndarray, is_member: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """T AUROC of the columns of `scores` (G T), each a mean over the folds that hold both classes."""
    code = np.unique(folds, return_inverse=True)[1]
    columns = [
        Ranking.of(scores[:, t], code, code.max() + 1).auroc(is_member[:, t].astype(float))
        for t in range(scores.shape[1])
    ]
    aurocs = np.stack(columns)  # T x folds
    n = np.isfinite(aurocs).sum(axis=1)
    return np.divide(np.nansum(aurocs, axis=1), n, out=np.full(len(aurocs), np.nan), where=n > 0)


def pair_aurocs(vectors: Vectors, pairs: Pairs, min_pairs: int = 5) -> np.ndarray:
    """AUROC of true over false pairs within each unit (U); NaN with fewer than `min_pairs` of either.

    Parameters
    ----------
    vectors
        G D, or a function that makes them from the first and second genes of the true training pairs (degrees).
    """
    scores = np.full(len(pairs.first), np.nan)
    for fold in np.unique(pairs.fold[pairs.fold >= 0]):
        test = np.flatnonzero(pairs.fold == fold)
        seen = (pairs.gene_fold[pairs.first] != fold) & (pairs.gene_fold[pairs.second] != fold)
        train, known = np.flatnonzero(seen), np.flatnonzero(seen & pairs.is_true)
        x = vectors(pairs.first[known], pairs.second[known]) if callable(vectors) else vectors
        x = principal(x, N_COMPONENTS)
        features = pair_features(x, pairs.first[train], pairs.second[train])
        probe = _fit(features, pairs.is_true[train].astype(float))
        scores[test] = probe(pair_features(x, pairs.first[test], pairs.second[test]))
    tested, n_units = np.isfinite(scores), len(pairs.units)
    label, unit = pairs.is_true[tested], pairs.unit[tested]
    aurocs = Ranking.of(scores[tested], unit, n_units).auroc(label.astype(float))
    n_true, n_false = (np.bincount(unit[kind], minlength=n_units) for kind in (label, ~label))
    return np.where((n_true >= min_pairs) & (n_false >= min_pairs), aurocs, np.nan)


def pair_features(x: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """N F: both vectors and their outer product, so that a linear probe is a bilinear map that keeps direction."""
    a, b = x[first], x[second]
    return np.hstack([a, b, (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)])


def principal(x: np.ndarray, n_components: int) -> np.ndarray:
    """Standardised columns of x, or their first principal components where there are more."""
    from sklearn.decomposition import PCA

    x = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    if x.shape[1] <= n_components:
        return x
    components = PCA(n_components, random_state=0).fit_transform(x)
    return components / components.std(axis=0)


def regulation_pairs(
    edges: np.ndarray, known: np.ndarray, names: np.ndarray, folds: np.ndarray, rng: np.random.Generator
) -> Pairs:
    """Each edge against one with its target exchanged for a target of another edge, which the regulator does not have.

    Targets are drawn as often as they are targets, and a regulator has as many false as true pairs: degrees tell nothing.
    Tested are the regulators of a fold, of which the probe has seen nothing.

    Parameters
    ----------
    edges
        N 2 places of regulator and target, unique, without self-edges.
    known
        All true edges, of which none is taken for false.
    names
        G names.
    folds
        G fold of each regulator, -1 for other genes.
    """
    taken = set(map(tuple, known.tolist()))
    other = rng.choice(edges[:, 1], size=(16, len(edges)))  # 16 tries
    is_free = np.array([
        [s != t and (s, t) not in taken for s, t in zip(edges[:, 0].tolist(), row.tolist(), strict=True)]
        for row in other
    ])  # fmt: skip
    has_one = is_free.any(axis=0)
    swapped = np.column_stack([edges[:, 0], other[is_free.argmax(axis=0), np.arange(len(edges))]])[has_one]
    both = np.concatenate([edges[has_one], swapped])
    is_true = np.arange(len(both)) < has_one.sum()
    return _by_first(both, is_true, both[:, 0], folds[both[:, 0]], names, folds)


def direction_pairs(edges: np.ndarray, names: np.ndarray, folds: np.ndarray) -> Pairs:
    """Each edge between regulators against its reverse, where that is no edge.

    Both ends are regulators, so that to tell a regulator from another gene does not help; tested are edges with both ends
    in one fold. Parameters as in `regulation_pairs`.
    """
    known = set(map(tuple, edges.tolist()))
    one_way = np.array([(t, s) not in known for s, t in edges.tolist()], dtype=bool)
    edges = edges[one_way & (folds[edges] >= 0).all(axis=1)]
    both = np.concatenate([edges, edges[:, ::-1]])
    source = np.concatenate([edges[:, 0], edges[:, 0]])
    fold = np.where(folds[both[:, 0]] == folds[both[:, 1]], folds[both[:, 0]], -1)
    return _by_first(both, np.arange(len(both)) < len(edges), source, fold, names, folds)


def complex_pairs(
    complexes: dict[str, np.ndarray], n_genes: int, n_folds: int, rng: np.random.Generator, max_pairs: int = 50
) -> Pairs:
    """Pairs within a complex against pairs of its genes with genes of other complexes; whole complexes are held out.

    A gene belongs to the fold of the first of its complexes, in random order; only genes of the complex's own fold count.

    Parameters
    ----------
    complexes
        Places of the members by name.
    max_pairs
        Pairs drawn per complex.
    """
    order = rng.permutation(len(complexes))
    names, members = list(complexes), list(complexes.values())
    gene_fold = np.full(n_genes, -1)
    partners: list[set] = [set() for _ in range(n_genes)]
    for rank, c in enumerate(order):
        fresh = members[c][gene_fold[members[c]] < 0]
        gene_fold[fresh] = rank % n_folds
        for gene in members[c]:
            partners[gene] |= set(members[c].tolist())
    rows = []
    for rank, c in enumerate(order):
        fold = rank % n_folds
        own, pool = members[c][gene_fold[members[c]] == fold], np.flatnonzero(gene_fold == fold)
        i, j = np.triu_indices(len(own), 1)
        for k in rng.permutation(len(i))[:max_pairs]:
            a, b = rng.permutation([own[i[k]], own[j[k]]])
            strangers = [g for g in rng.choice(pool, 16) if g not in partners[a]]
            rows += [(a, b, True, c, fold), *((a, g, False, c, fold) for g in strangers[:1])]
    first, second, is_true, unit, fold = (np.array(column) for column in zip(*rows, strict=True))
    return Pairs(first, second, is_true, unit, tuple(names), fold, gene_fold)


def _by_first(ends, is_true, source, fold, names, folds) -> Pairs:
    found, unit = np.unique(source, return_inverse=True)
    return Pairs(ends[:, 0], ends[:, 1], is_true, unit, tuple(map(str, names[found])), fold, folds)


def _fit(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Ridge regression of y on standardised x; columns that do not vary count nothing."""
    from sklearn.linear_model import RidgeCV

    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 0, scale, np.inf)
    probe = RidgeCV(PENALTIES, alpha_per_target=y.ndim > 1).fit((x - mean) / scale, y)
    return lambda new: probe.predict((new - mean) / scale)
