"""Components of a corpus: fitted axes against plain ones, and what a file may lack."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse

from sccafm.train.components import LEAST_SPREAD, POWER, fit_components

V = 40


def dataset(seed, species, n=30, lacks=()):
    """Cells of two kinds, whose genes are all tokens but those that it lacks."""
    rng = np.random.default_rng(seed)
    tokens = np.setdiff1d(np.arange(V), lacks)
    rate = np.random.default_rng(99).gamma(1.0, 3.0, (2, V))[:, tokens][np.arange(n) % 2]
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    return SimpleNamespace(
        species=species, counts=counts, columns=np.arange(len(tokens)), tokens=tokens, train=np.arange(n)
    )


@pytest.fixture(scope="module")
def datasets():
    return [
        dataset(0, "human"),
        dataset(1, "human", lacks=[5]),
        dataset(2, "mouse"),
        dataset(3, "mouse", lacks=[5, 6, 7]),
    ]


def plain(datasets, size):
    """The same by whole matrices over all V genes."""
    logs = []
    for part in datasets:
        x = part.counts.toarray()
        full = np.full((len(x), V), np.nan)
        full[:, part.tokens] = np.log1p(x * 1e4 / x.sum(1, keepdims=True))
        logs.append(full)
    by_species = {"human": logs[:2], "mouse": logs[2:]}
    level = {s: np.nanmean([f.mean(0) for f in files], 0) for s, files in by_species.items()}
    spread = np.sqrt(np.nanmean([f.var(0) for f in logs], 0))
    measured = np.array([~np.isnan(f[0]) for f in logs]).sum(0)
    genes = np.flatnonzero((measured >= 3) & (spread > LEAST_SPREAD))
    parts = []
    for part, f in zip(datasets, logs, strict=True):
        d = np.nan_to_num((f - level[part.species]) / spread**POWER)[:, genes]
        parts.append(d / np.linalg.norm(d, axis=1, keepdims=True))
    mean = np.mean([p.mean(0) for p in parts], 0)
    centred = np.concatenate([p - p.mean(0) for p in parts])
    _, s, axes = np.linalg.svd(centred, full_matrices=False)
    return genes, level, mean, axes[:size].T / (s[:size] / np.sqrt(len(centred))) ** POWER


def test_axes_are_those_of_whole_matrices(datasets):
    genes, level, mean, expected = plain(datasets, 3)
    found = fit_components(datasets, 4, 3, V)
    loadings = found.loadings[genes].float().numpy()
    cosine = np.abs((loadings * expected).sum(0)) / np.linalg.norm(loadings, axis=0) / np.linalg.norm(expected, axis=0)
    assert cosine.min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(loadings, axis=0), np.linalg.norm(expected, axis=0), rtol=2e-3)
    np.testing.assert_allclose(found.mean[genes].numpy(), mean, atol=1e-6)
    np.testing.assert_allclose(found.level[:, genes].numpy(), np.stack(list(level.values()))[:, genes], atol=1e-5)


def test_a_gene_that_few_files_measure_counts_nothing(datasets):
    found = fit_components(datasets, 4, 3, V)
    assert found.weight[5] == 0 and not found.loadings[5].any()  # two files have it
    assert found.weight[6] > 0  # three have it


def test_a_species_without_a_gene_takes_the_level_of_the_other():
    one = [dataset(s, "human") for s in (0, 1)] + [dataset(s, "mouse", lacks=[9]) for s in (2, 3)]
    found = fit_components([*one, dataset(4, "human")], 5, 3, V)
    assert found.level[0, 9] > 0 and found.level[0, 9] == found.level[1, 9]


def test_the_same_cells_give_the_same_axes_and_too_few_are_refused(datasets):
    one, other = (fit_components(datasets, 4, 4, V) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(
        ValueError,
        match="120 cells of 4 files, with 39 genes .* span at most 39 components, not 200; lower --efm.components",
    ):
        fit_components(datasets, 4, 200, V)


def test_more_axes_than_the_cells_differ_along_are_refused():
    alike = [dataset(s, species, n=2) for s, species in enumerate(("human", "human", "mouse"))]
    for part in alike:  # each cell twenty times over
        part.counts = sparse.vstack([part.counts] * 20, "csr")
        part.train = np.arange(40)
    with pytest.raises(ValueError, match="the cells differ along fewer than 10 axes; lower --efm.components"):
        fit_components(alike, 3, 10, V)


def test_the_more_files_there_are_the_fewer_cells_of_each_are_kept(datasets):
    with pytest.raises(ValueError, match="8 cells of 4 files"):  # two of each
        fit_components(datasets, 10_000, 30, V)
