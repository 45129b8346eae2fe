"""Baselines against NumPy, SciPy, scikit-learn and plain loops."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from joblib import parallel_config
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor

from sccafm.evaluate import (
    genie3,
    grnboost2,
    oracle_out_degree,
    pearson,
    prior_degrees,
    prior_edges,
    random_scores,
    spearman,
    target_mean,
)
from sccafm.evaluate.baselines import expression, run_baselines

GENES = [f"G{i}" for i in range(12)]
REGULATORS = ["G3", "G0", "G7", "G9"]
PRIOR = pd.DataFrame({"Gene1": ["g3", "G3", "G3", "G0", "X"], "Gene2": ["G1", "G1", "g2", "G1", "G5"]})


@pytest.fixture
def cells() -> pd.DataFrame:
    """60 cells x 12 genes, not counts; G5 does not vary, G1 follows G3 and G0."""
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.gamma(2.0, size=(60, 12)) * (rng.random((60, 12)) < 0.7), columns=GENES)
    x["G5"] = 0.25
    x["G1"] = 2 * x["G3"] - x["G0"] + 0.1 * rng.normal(size=60)
    return x


def as_adata(cells: pd.DataFrame, form=np.asarray) -> AnnData:
    adata = AnnData(form(cells.to_numpy()))
    adata.var_names = cells.columns
    return adata


def test_pearson_equals_numpy(cells):
    found = pearson(cells, REGULATORS)
    assert list(found.index) == REGULATORS and list(found.columns) == GENES
    for source in REGULATORS:
        for target in GENES:
            expected = 0.0 if target == "G5" else abs(np.corrcoef(cells[source], cells[target])[0, 1])
            assert found.loc[source, target] == pytest.approx(expected, abs=1e-9)


def test_spearman_equals_scipy(cells, monkeypatch):
    monkeypatch.setattr("sccafm.evaluate.baselines.TARGETS_AT_ONCE", 5)
    found = spearman(cells, REGULATORS)
    for source in REGULATORS:
        for target in GENES:
            expected = 0.0 if target == "G5" else abs(spearmanr(cells[source], cells[target]).statistic)
            assert found.loc[source, target] == pytest.approx(expected, abs=1e-9)


def test_target_mean_is_the_same_for_every_regulator(cells):
    found = target_mean(cells, ["G3", "not measured"])
    for _, row in found.iterrows():
        np.testing.assert_allclose(row, cells.mean())


@pytest.mark.parametrize("baseline", [pearson, spearman, target_mean])
@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, np.asfortranarray])
def test_storage_does_not_matter(cells, baseline, form):
    expected = baseline(cells, REGULATORS)
    pd.testing.assert_frame_equal(baseline(as_adata(cells, form), REGULATORS), expected)


def test_without_regulators_all_genes_regulate(cells):
    assert pearson(cells).shape == spearman(cells).shape == target_mean(cells).shape == (12, 12)


def test_a_constant_gene_with_rounding_scores_zero():
    x = pd.DataFrame({"A": [0.1] * 7, "B": np.arange(7) / 3})
    assert pearson(x).loc["A", "B"] == pearson(as_adata(x, sp.csr_matrix)).loc["A", "B"] == 0


def test_counts_are_log_normalised_and_other_input_is_not(cells):
    counts = np.random.default_rng(1).poisson(3.0, size=(20, 5)).astype(float)
    counts[4] = 0  # a cell without counts stays zero
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for form in (np.asarray, sp.csr_matrix):
        x, _ = expression(as_adata(pd.DataFrame(counts, columns=GENES[:5]), form))
        np.testing.assert_allclose(x.toarray() if sp.issparse(x) else x, np.log1p(counts / total * 1e4))
    np.testing.assert_array_equal(expression(cells)[0], cells.to_numpy())


def test_genie3_equals_scikit_learn(cells):
    found = genie3(cells, REGULATORS, n_trees=15, random_state=7)
    assert found.loc["G3", "G3"] == 0 and (found["G5"] == 0).all()
    assert found["G1"].idxmax() == "G3"
    column, others = GENES.index("G1"), cells[REGULATORS].to_numpy(dtype=np.float32)
    forest = ExtraTreesRegressor(15, max_features="sqrt", random_state=7 + column)
    forest.fit(others, cells["G1"] / cells["G1"].std(ddof=0))
    expected = [tree.tree_.compute_feature_importances(normalize=False) for tree in forest.estimators_]
    np.testing.assert_allclose(found["G1"], np.mean(expected, axis=0), rtol=1e-12)
    assert found["G1"].sum() <= 1.0 + 1e-9  # the share of a unit variance


def test_grnboost2_equals_scikit_learn_with_a_plain_stop(cells):
    found = grnboost2(cells, REGULATORS, n_trees=200, random_state=3)
    column, others = GENES.index("G1"), cells[REGULATORS].to_numpy(dtype=np.float32)
    y = cells["G1"] / cells["G1"].std(ddof=0)

    def fitted(n_trees: int) -> GradientBoostingRegressor:
        options = {"learning_rate": 0.01, "max_features": 0.1, "subsample": 0.9, "random_state": 3 + column}
        return GradientBoostingRegressor(n_estimators=n_trees, **options).fit(others, y)

    improvement = fitted(200).oob_improvement_
    stops = [i + 1 for i in range(24, 200) if improvement[i - 24 : i + 1].mean() < 0]
    n_trees = stops[0] if stops else 200
    np.testing.assert_allclose(found["G1"], fitted(n_trees).feature_importances_ * n_trees)
    assert found["G1"].idxmax() == "G3"


@pytest.mark.parametrize("baseline", [genie3, grnboost2])
def test_trees_do_not_depend_on_jobs_and_do_on_cells(cells, baseline):
    few = cells[["G0", "G1", "G3"]]
    one = baseline(few, ["G0", "G3"], n_trees=5, n_jobs=1)
    with parallel_config("threading"):
        pd.testing.assert_frame_equal(one, baseline(few, ["G0", "G3"], n_trees=5, n_jobs=2))
    assert not one.equals(baseline(few, ["G0", "G3"], n_trees=5, max_cells=30))


def test_a_lone_regulator_does_not_explain_itself(cells):
    assert genie3(cells[["G0", "G1"]], ["G0"], n_trees=3).loc["G0", "G0"] == 0


def test_prior_edges_and_degrees():
    edges = prior_edges(PRIOR, ["G3", "G0", "G8"], ["g1", "G2"])
    assert edges.to_numpy().tolist() == [[1, 1], [1, 0], [0, 0]]
    assert list(edges.columns) == ["g1", "G2"]
    degrees = prior_degrees(PRIOR, ["G3", "G8"], ["G1", "G2", "G9"])
    expected = np.log1p([[2], [0]]) + np.log1p([2, 1, 0])  # the doubled edge counts once
    np.testing.assert_allclose(degrees, expected)


def test_oracle_counts_true_targets_among_the_candidates():
    found = oracle_out_degree(PRIOR, ["G0", "G3"], ["G1", "G7"])
    assert found.to_numpy().tolist() == [[1, 1], [1, 1]]
    assert oracle_out_degree(PRIOR, ["G3"], ["G1", "G2"]).to_numpy().tolist() == [[2, 2]]


def test_random_scores_are_seeded():
    one, two = (random_scores(["A"], GENES, random_state=1) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    assert not one.equals(random_scores(["A"], GENES, random_state=2))


def test_presets(cells):
    ends = pd.Index(["G0", "G3"]), pd.Index(GENES), {g: g for g in GENES}
    options = {"layer": None, "n_jobs": 1, "max_cells": None, "random_state": 0}
    found, skipped = run_baselines("fast", *ends, adata=as_adata(cells), prior=PRIOR, **options)
    assert list(found) == ["pearson", "spearman", "target_mean", "prior_edges", "prior_degrees", "random"]
    assert not skipped
    found, skipped = run_baselines("all", *ends, adata=None, prior=None, truth=PRIOR, **options)
    assert list(found) == ["random", "oracle_out_degree"]
    assert skipped["genie3"] == "pass adata=" and skipped["prior_edges"] == "pass prior="
    assert run_baselines(None, *ends, adata=None, prior=None, **options) == ({}, {})
    with pytest.raises(ValueError, match=r"unknown baselines \['grnboost3'\]"):
        run_baselines("grnboost3", *ends, adata=None, prior=None, **options)
    with pytest.raises(ValueError, match="lack their input: .*pearson.*adata="):
        run_baselines(["pearson"], *ends, adata=None, prior=None, **options)


def test_validation(cells):
    with pytest.raises(KeyError, match="2 of 3 regulators are no genes of the data"):
        pearson(cells, ["G1", "A", "B"])
    with pytest.raises(KeyError, match="layer 'counts' is absent"):
        pearson(as_adata(cells), layer="counts")
    with pytest.raises(ValueError, match="NaN or infinite"):
        pearson(cells.where(cells > 0))
    with pytest.raises(ValueError, match="at least one cell"):
        spearman(cells[:0])
    with pytest.raises(KeyError, match="rename them"):
        prior_edges(pd.DataFrame({"a": ["G1"], "b": ["G2"]}), ["G1"], ["G2"])
