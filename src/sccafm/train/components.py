"""Fits the corpus's principal components (`sccafm.nn.components`) to cells of all files of a corpus, every file counting by its cells up to a limit."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from sccafm.embedding.batches import unit
from sccafm.nn.components import Components
from sccafm.train.files import DataSet, per_ten_thousand

CELLS, ALL_CELLS = 400, 20_000  # of a file and of all files, at most: they are in memory together
LEAST_FILES = 3  # that measure a gene, for it to count; all of them where there are fewer
LEAST_SHARE = 1e-4  # of the first axis's spread
LEAST_SPREAD = 0.02  # standard deviation of a gene within files
POWER = 0.5  # of a gene's spread, by which its departure is divided, and of an axis's
SPECIES = ("human", "mouse")


def fit_components(datasets: Iterable[DataSet], n_files: int, size: int, vocab_size: int, seed: int = 0) -> Components:
    """Axes along which cells of one study differ from each other, over all studies.

    Parameters
    ----------
    datasets
        With their counts; each is read once, and up to 20,000 cells are kept in memory.
    n_files
        How many there are.
    size
        K axes.
    vocab_size
        V rows of the vocabulary.
    seed
        Of the cells that are drawn from large files, and of the decomposition.

    Raises
    ------
    ValueError
        More axes than the cells span.
    """
    rng = np.random.default_rng(seed)
    most = max(1, min(CELLS, ALL_CELLS // n_files))
    values, tokens, species = [], [], []
    for dataset in datasets:
        cells = np.sort(rng.permutation(dataset.train)[:most])
        values.append(per_ten_thousand(dataset.counts[cells])[:, dataset.columns].log1p().astype(np.float32))
        tokens.append(dataset.tokens)
        species.append(dataset.species)
    level, weight = usual(values, tokens, species, vocab_size)
    genes = np.flatnonzero(weight)
    stops = np.cumsum([part.shape[0] for part in values])
    spanned = min(int(stops[-1]) - len(values), len(genes))  # each file's mean is taken away
    if size > spanned:
        raise ValueError(
            f"{stops[-1]:,} cells of {len(values)} files, with {len(genes):,} genes that vary and that "
            f"{min(LEAST_FILES, len(values))} files measure, span at most {spanned:,} components, not {size}; lower --efm.components"
        )
    departures, means = np.empty((stops[-1], len(genes)), np.float32), []
    for x, t, s, stop in zip(values, tokens, species, stops, strict=True):
        part = departure(x, t, level[SPECIES.index(s)], weight, genes)
        means.append(part.mean(0))
        departures[stop - len(part) : stop] = part - means[-1]
    _, spread, axes = randomized_svd(departures, size, random_state=seed)
    if spread[-1] < LEAST_SHARE * spread[0]:
        raise ValueError(f"the cells differ along fewer than {size} axes; lower --efm.components")
    axes = axes * np.sign(axes[np.arange(size), np.abs(axes).argmax(1)])[:, None]
    spread = spread / np.sqrt(len(departures))
    return filled(level, weight, genes, np.mean(means, 0), axes.T / spread**POWER)


def usual(
    values: Sequence[sparse.csr_matrix], tokens: Sequence[np.ndarray], species: Sequence[str], vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Usual level of each gene in a species (a mean over files; in the other species' files where its own have none) and its weight."""
    sums, times = np.zeros((2, vocab_size)), np.zeros((2, vocab_size))
    variance = np.zeros(vocab_size)
    for x, t, s in zip(values, tokens, species, strict=True):
        mean = np.asarray(x.mean(0)).ravel()
        sums[SPECIES.index(s), t] += mean
        times[SPECIES.index(s), t] += 1
        variance[t] += np.maximum(np.asarray(x.multiply(x).mean(0)).ravel() - mean**2, 0)
    both = times.sum(0)
    level = np.where(times > 0, sums / np.maximum(times, 1), sums.sum(0) / np.maximum(both, 1))
    spread = np.sqrt(variance / np.maximum(both, 1))
    counts = (both >= min(LEAST_FILES, len(values))) & (spread > LEAST_SPREAD)
    return level, np.where(counts, np.maximum(spread, LEAST_SPREAD) ** -POWER, 0.0)


def departure(
    x: sparse.csr_matrix, tokens: np.ndarray, level: np.ndarray, weight: np.ndarray, genes: np.ndarray
) -> np.ndarray:
    """Of cells of one file from the usual levels, of length 1: C G float32 over `genes`, 0 for genes that the file lacks."""
    where = np.full(len(weight), -1)
    where[genes] = np.arange(len(genes))
    known = where[tokens] >= 0
    found = np.zeros((x.shape[0], len(genes)), np.float32)
    held = tokens[known]
    found[:, where[held]] = (x[:, known].toarray() - level[held]) * weight[held]
    return unit(found)


def filled(
    level: np.ndarray, weight: np.ndarray, genes: np.ndarray, mean: np.ndarray, loadings: np.ndarray
) -> Components:
    components = Components(loadings.shape[1], len(weight))
    rows = torch.from_numpy(genes)
    components.level.copy_(torch.from_numpy(level))
    components.weight.copy_(torch.from_numpy(weight))
    components.mean[rows] = torch.from_numpy(mean).float()
    components.loadings[rows] = torch.from_numpy(loadings).half()
    return components
