"""q-values: the null, its uniformity under permuted data, and Benjamini-Hochberg against scipy's."""

import anndata as ad
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import sccafm
from sccafm.confidence.permutation import (
    CellTest,
    benjamini_hochberg,
    fit_null,
    group_pvalues,
    permuted_cells,
    round_up,
    sample_cells,
)

NO_EDGES = np.array([], dtype=int)


def factory(rng, shape=(12, 40)):
    """Scores of cells under the null: each pair has a level and a spread of its own, skewed like products of shares."""
    level, spread = rng.gamma(2, 0.01, shape), rng.uniform(0.1, 0.4, shape)
    return lambda: (level * rng.lognormal(0, spread)).astype(np.float32)


def null_of(scores):
    return fit_null([lambda s=s: s for s in scores], NO_EDGES)


# --- permuted cells


@given(st.integers(1, 6), st.integers(1, 15))
def test_permuted_cells_give_each_gene_its_values_back(cells, n):
    values = np.arange(cells * 4, dtype=np.float32).reshape(cells, 4)
    found = permuted_cells(values, n)
    assert found.shape == (n, 4)
    for gene in range(4):
        times = np.unique(found[:, gene], return_counts=True)[1]
        assert set(found[:, gene]) <= set(values[:, gene])
        assert times.max() == -(-n // cells)
        assert n < cells or len(times) == cells


def test_permuted_cells_break_cells_apart():
    values = np.repeat(np.arange(50.0)[:, None], 2, 1)
    found = permuted_cells(values, 50)
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.4


def test_sample_depends_on_names_alone():
    names = np.array([f"cell{i}" for i in range(30)])
    order = np.random.default_rng(0).permutation(30)
    assert names[sample_cells(names, 7)].tolist() == names[order][sample_cells(names[order], 7)].tolist()
    assert len(set(sample_cells(names, 99))) == 30


# --- the null


def test_moments_are_those_of_the_permuted_scores():
    rng = np.random.default_rng(0)
    scores = rng.random((9, 3, 5)).astype(np.float32)
    null = null_of(scores)
    np.testing.assert_allclose(null.mean, scores.mean(0), rtol=1e-5)
    np.testing.assert_allclose(null.sd, scores.std(0, ddof=1), rtol=1e-4)


def test_pvalues_of_cells_are_uniform_under_the_null():
    rng = np.random.default_rng(1)
    draw = factory(rng)
    test = CellTest(null_of([draw() for _ in range(32)]), NO_EDGES)
    p = np.stack([test.pvalues(draw()) for _ in range(60)])
    for level in (0.01, 0.05, 0.2, 0.5, 0.8):
        assert np.mean(p <= level) == pytest.approx(level, rel=0.2, abs=0.004)


def test_pvalues_of_groups_are_uniform_under_the_null():
    rng = np.random.default_rng(2)
    p = []
    for _ in range(12):
        draw = factory(rng)
        null = null_of([draw() for _ in range(32)])
        p.append(
            group_pvalues(np.mean([draw() for _ in range(20)], 0), 20, null.mean, null.sd, null.n, null.group_tail)
        )
    for level in (0.05, 0.2, 0.5, 0.8):
        assert np.mean(np.array(p) <= level) == pytest.approx(level, rel=0.25)


def test_raised_pairs_are_found_and_few_others():
    rng = np.random.default_rng(3)
    draw = factory(rng)
    test = CellTest(null_of([draw() for _ in range(32)]), NO_EDGES)
    found, false = 0, 0
    for _ in range(20):
        scores = draw()
        scores[0, :8] *= 6
        q = test.qvalues(scores, np.arange(scores.size)).reshape(scores.shape)
        found += np.sum(q[0, :8] <= 0.1)
        false += np.sum(q <= 0.1) - np.sum(q[0, :8] <= 0.1)
    assert found > 0.5 * 160
    assert false <= 0.25 * (found + false)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_qvalues_are_benjamini_hochberg_of_the_pvalues(seed):
    rng = np.random.default_rng(seed)
    draw = factory(rng, (4, 6))
    self_edges = np.array([0, 7, 14, 21])
    test = CellTest(fit_null([lambda s=s: s for s in [draw() for _ in range(10)]], self_edges), self_edges)
    scores = draw() * rng.choice([1, 5], (4, 6)).astype(np.float32)
    tested = np.setdiff1d(np.arange(24), self_edges)
    expected = stats.false_discovery_control(test.pvalues(scores).ravel()[tested])
    np.testing.assert_allclose(test.qvalues(scores, tested), round_up(expected), rtol=1e-5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_rounded_qvalues_are_never_smaller(q):
    rounded = round_up(np.array(q))
    assert (rounded >= np.clip(q, 1e-12, 1) * (1 - 1e-6)).all()
    assert (rounded <= np.clip(q, 1e-12, 1) * 1.13).all()
    assert rounded.dtype == np.float32


def test_a_null_with_long_tails_leaves_small_pvalues():
    """The statistic's range ends beyond the null's own: else a pair far above it would share the last bin with much of the null."""
    rng = np.random.default_rng(5)
    scores = rng.normal(1e-6, 1e-7, (32, 200, 300))
    scores[rng.random(scores.shape) < 1e-3] = 4e-5  # about 50 standard errors in a mean over ten cells
    null = null_of(list(scores.astype(np.float32)))
    n_tests = 5 * 200 * 300
    strong = np.full((200, 300), 1.0, np.float32)
    p = group_pvalues(strong, 10, null.mean, null.sd, null.n, null.group_tail)
    assert p.max() <= 3 / n_tests


def test_adjusted_pvalues_keep_their_shape():
    p = np.random.default_rng(0).random((3, 5))
    np.testing.assert_allclose(benjamini_hochberg(p).ravel(), stats.false_discovery_control(p.ravel()))


# --- through the model


@pytest.fixture
def shuffled(toy_adata):
    """200 cells in two groups whose genes know nothing of each other: log values, each gene shuffled over the cells."""
    counts = toy_adata.X.toarray()

    def make(seed):
        rng = np.random.default_rng(seed)
        many = rng.poisson(counts[rng.integers(0, 30, 200)])
        log = np.log1p(many / many.sum(1, keepdims=True) * 1e4)
        adata = ad.AnnData(rng.permuted(log, axis=0).astype(np.float32), var=toy_adata.var)
        adata.obs["part"] = np.repeat(["small", "large"], [20, 180])
        return adata

    return make


@pytest.mark.filterwarnings("ignore:X is normalised")
def test_pvalues_are_uniform_under_permuted_data_and_qvalues_find_nothing(tiny_model, shuffled):
    levels, shares, found = (0.05, 0.2, 0.5, 0.8), [], []
    for seed in range(9):
        grn = sccafm.infer_grn(shuffled(seed), tiny_model, progress=False, groupby="part", top_k=None)
        null = grn.pairs
        tail = grn.sums["null_tail"]
        p = group_pvalues(grn.sums["tested"][0] / 10, 10, null.null_mean, null.null_sd, null.n_null, tail)
        shares.append([np.mean(p <= level) for level in levels])
        found.append([np.mean(grn.pool()["qvalue"] <= 0.05), np.mean(grn.to_frame()["qvalue"] <= 0.05)])
    np.testing.assert_allclose(np.mean(shares, 0), levels, atol=0.1)
    assert np.mean(found, 0).max() < 0.01


@pytest.mark.filterwarnings("ignore:7 columns share")
@pytest.mark.filterwarnings("ignore:.*genes asked for")
def test_significant_pairs_do_not_follow_the_size_of_a_group():
    cells = sccafm.datasets.pbmc3k()
    kind = cells.obs["cell_type"].value_counts().index[0]
    cells = cells[cells.obs["cell_type"] == kind].copy()
    sizes = {"a": 10, "b": 25, "c": cells.n_obs - 35}
    order = np.random.default_rng(0).permutation(np.repeat(list(sizes), list(sizes.values())))
    cells.obs["part"] = order
    genes = list(cells.var_names[np.argsort(-np.asarray(cells.X.sum(0)).ravel())[:400]])
    grn = sccafm.infer_grn(
        cells, groupby="part", genes=[*genes, "SPI1", "TCF7", "GATA3"], progress=False, regulators="all"
    )
    shares = [float(np.nanmean(grn.qvalues(part) <= 0.05)) for part in sizes]
    assert max(shares) <= 2 * min(shares) + 0.01
    by_hand = grn.regroup(cells.obs["part"].replace({"b": "c"}).astype(str))
    assert by_hand.qvalues("a").equals(grn.qvalues("a"))
    assert by_hand.sums["n_tested"].max() == 10  # one of the joined groups stands for both
    assert by_hand.qvalues("c").equals(grn.qvalues("b"))  # the first of equals


def test_qvalues_of_new_groups_are_those_of_an_inference_in_these_groups(tiny_model, toy_adata):
    whole = sccafm.infer_grn(toy_adata, tiny_model, keep_factors=True, progress=False)
    groups = sccafm.infer_grn(toy_adata, tiny_model, groupby="cell_type", progress=False)
    found = whole.regroup(toy_adata.obs["cell_type"])
    for group in groups.group_sizes.index:
        np.testing.assert_allclose(found.qvalues(group), groups.qvalues(group), rtol=1e-3)
    bare = sccafm.infer_grn(toy_adata, tiny_model, progress=False).regroup(toy_adata.obs["cell_type"])
    with pytest.raises(KeyError, match="have no mean networks"):
        bare.qvalues(groups.group_sizes.index[0])


def test_no_permuted_cells_give_no_qvalues(tiny_model, toy_adata):
    grn = sccafm.infer_grn(toy_adata, tiny_model, progress=False, null_cells=0)
    assert grn.to_frame()["qvalue"].isna().all()
    assert grn.pool()["qvalue"].isna().all()
    assert grn.qvalues().isna().all(axis=None)


def test_pooled_qvalues_are_those_of_all_pairs(tiny_model, toy_adata):
    grn = sccafm.infer_grn(toy_adata, tiny_model, groupby="cell_type", progress=False)
    null = grn.pairs
    for group in grn.group_sizes.index:
        names = grn.cells[(grn.groups == group).to_numpy()]
        chosen = names[sample_cells(names, 10)]
        mean = sccafm.infer_grn(toy_adata[chosen].copy(), tiny_model, progress=False, genes=list(grn.targets)).matrix()
        proper = np.array([[r != t for t in grn.targets] for r in grn.regulators])
        tail = grn.sums["null_tail"]
        p = group_pvalues(mean.to_numpy(), len(chosen), null.null_mean, null.null_sd, null.n_null, tail)
        q = np.full(p.shape, np.nan)
        q[proper] = stats.false_discovery_control(p[proper])
        np.testing.assert_allclose(grn.qvalues(group), q)
        pooled = grn.pool(9).query("group == @group")
        where = grn.regulators.get_indexer(pooled["source"]), grn.targets.get_indexer(pooled["target"])
        np.testing.assert_allclose(pooled["qvalue"], q[where])


@pytest.mark.parametrize("n", [-1, 3, 2.5, True])
def test_bad_numbers_of_permuted_cells_are_refused(tiny_model, toy_adata, n):
    with pytest.raises(ValueError, match="null_cells must be 0 or a whole number of at least 8, got"):
        sccafm.infer_grn(toy_adata, tiny_model, progress=False, null_cells=n)
