"""rank_regulators: formulas against slow plain versions, and every door."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from making import made_grn
from scipy import stats

import sccafm
from sccafm.tl import rank_regulators
from sccafm.tl.group_statistics import beside_others, beside_others_by_sample, group_auroc, group_moments

RNG = np.random.default_rng(0)


def some_cells(n=60, n_regulators=4, n_genes=9):
    """Regulator 0 is twice as strong in group a; donors d0 to d2 hold all groups."""
    rng = np.random.default_rng(1)
    obs = pd.DataFrame({"kind": list("abc") * (n // 3), "donor": np.repeat(["d0", "d1", "d2"], n // 3)})
    levels = rng.lognormal(0, 0.2, (n, n_regulators))
    levels[obs["kind"] == "a", 0] *= 2
    weights = rng.random((n_regulators, n_genes))
    return levels, weights, obs


@pytest.fixture
def grn():
    levels, weights, obs = some_cells()
    return made_grn(levels, weights, obs, expression=levels > 1)


def test_the_regulator_that_was_doubled_leads_its_group(grn):
    table = rank_regulators(grn, "kind")
    assert table.columns.tolist() == [
        *("group", "regulator", "rank", "strength", "specificity", "specificity_low", "specificity_high", "auroc"),
        *("detection", "expression", "n_targets", "targets"),
    ]
    assert len(table) == 3 * 4 and not table.duplicated(["group", "regulator"]).any()
    first = table[table["rank"] == 1].set_index("group")
    assert first.loc["a", "regulator"] == "r0" and first.loc["a", "auroc"] > 0.9
    assert first.loc["a", "specificity"] == pytest.approx(1, abs=0.3)  # log2 of 2
    assert first.loc["a", "specificity_low"] < first.loc["a", "specificity"] < first.loc["a", "specificity_high"]
    assert table.groupby("group", observed=True)["specificity"].apply(lambda s: s.is_monotonic_decreasing).all()


def test_means_are_those_of_the_groups_cells(grn):
    table = rank_regulators(grn, "kind").set_index(["group", "regulator"])
    inside = (grn.obs["kind"] == "b").to_numpy()
    row = table.loc[("b", "r2")]
    assert row["strength"] == pytest.approx(grn.strengths["r2"][inside].mean(), rel=1e-5)
    assert row["detection"] == pytest.approx((grn.regulator_expression["r2"][inside] > 0).mean())


def test_targets_are_those_of_the_mean_networks(grn):
    table = rank_regulators(grn, "kind", top_k=10, n_targets=2).set_index(["group", "regulator"])
    assert table.groupby("group", observed=True)["n_targets"].sum().tolist() == [10, 10, 10]
    grouped = grn.regroup("kind")
    networks = {g: grouped.matrix(g) for g in "abc"}
    excess = (networks["a"] - (networks["b"] + networks["c"]) / 2).loc["r0"].drop("r0")
    assert table.loc[("a", "r0"), "targets"] == ", ".join(excess.sort_values(ascending=False).index[:2])


def test_targets_are_missing_with_a_warning_where_nothing_was_kept():
    levels, weights, obs = some_cells()
    with pytest.warns(UserWarning, match="targets are not told: groups of 'kind' have no mean networks"):
        table = rank_regulators(made_grn(levels, weights, obs, keep_factors=False), "kind")
    assert table["n_targets"].isna().all() and table["targets"].isna().all()


def test_specificity_over_cells_is_welchs_interval():
    values, codes = RNG.normal(size=(50, 3)), np.repeat([0, 1], [20, 30])
    effect, low, high = beside_others(*group_moments(values, codes, 2))
    for j in range(3):
        expected = stats.ttest_ind(values[:20, j], values[20:, j], equal_var=False)
        assert effect[0, j] == pytest.approx(values[:20, j].mean() - values[20:, j].mean())
        interval = expected.confidence_interval()
        assert (low[0, j], high[0, j]) == pytest.approx((interval.low, interval.high))
    np.testing.assert_allclose(effect[0], -effect[1])


def test_other_groups_count_alike_however_large():
    values = np.concatenate([np.zeros((5, 1)), np.ones((500, 1)), np.full((5, 1), 3.0)]) + RNG.normal(0, 1e-6, (510, 1))
    effect, *_ = beside_others(*group_moments(values, np.repeat([0, 1, 2], [5, 500, 5]), 3))
    assert effect[0, 0] == pytest.approx(-2, abs=1e-4)


def test_interval_over_donors_is_students_on_their_differences():
    values, codes = RNG.normal(size=(40, 2)), np.tile([0, 1], 20)
    donors = np.repeat(list("wxyz"), 10)
    effect, low, high = beside_others_by_sample(values, codes, 2, donors)
    own = [values[(donors == d) & (codes == 0)].mean(0) - values[(donors == d) & (codes == 1)].mean(0) for d in "wxyz"]
    np.testing.assert_allclose(effect[0], np.mean(own, axis=0))
    expected = stats.ttest_1samp([d[1] for d in own], 0).confidence_interval()
    assert (low[0, 1], high[0, 1]) == pytest.approx((expected.low, expected.high))


def test_one_donor_has_an_effect_and_no_interval(grn):
    table = rank_regulators(grn, "kind", sample_key=pd.Series("d0", grn.cells))
    assert table["specificity"].notna().all() and table["specificity_low"].isna().all()


def test_cells_without_a_donor_count_for_no_donor(grn):
    donors = grn.obs["donor"].astype(object).where(np.arange(60) % 7 > 0)
    with pytest.warns(UserWarning, match="left out 9 of 60 cells without a donor"):
        found = rank_regulators(grn, "kind", sample_key=donors).set_index(["group", "regulator"])
    log = np.log2(grn.strengths["r0"] + 0.01 * np.median(grn.strengths))
    means = log.groupby([donors, grn.obs["kind"]]).mean().unstack()
    expected = (means["a"] - (means["b"] + means["c"]) / 2).mean()
    assert found.loc[("a", "r0"), "specificity"] == pytest.approx(expected, abs=1e-5)


def test_auroc_equals_counting_pairs():
    values, codes = RNG.integers(0, 4, (30, 2)).astype(float), RNG.integers(0, 3, 30)
    found = group_auroc(values, codes, 3)
    for group in range(3):
        own, rest = values[codes == group, 1], values[codes != group, 1]
        pairs = [(a > b) + 0.5 * (a == b) for a in own for b in rest]
        assert found[group, 1] == pytest.approx(np.mean(pairs))


def test_order_of_cells_does_not_matter():
    levels, weights, obs = some_cells()
    turned = made_grn(levels[::-1], weights, obs[::-1])
    one, other = rank_regulators(made_grn(levels, weights, obs), "kind"), rank_regulators(turned, "kind")
    pd.testing.assert_frame_equal(one, other)


def test_adata_is_annotated_and_can_be_written(grn, tmp_path):
    adata = AnnData(np.zeros((60, 2), np.float32), obs=grn.obs.assign(mine=list("xy") * 30))
    table = rank_regulators(grn, "mine", adata=adata)
    assert len(adata.uns["rank_regulators"]) == len(table) == 8
    adata.write_h5ad(tmp_path / "a.h5ad")
    del adata.uns["rank_regulators"]
    rank_regulators(grn, "mine", adata=adata, copy=True)
    assert "rank_regulators" not in adata.uns


def test_scores_in_an_adata_are_ranked_as_they_are(grn):
    adata = AnnData(np.eye(60, 2, dtype=np.float32), obs=grn.obs)
    adata.var_names = ["r0", "g0"]
    adata.obsm["score_sccafm"] = np.log2(grn.strengths)
    table = rank_regulators(adata, "kind").set_index(["group", "regulator"])
    assert table["rank"].loc[("a", "r0")] == 1 and "targets" not in table
    assert table["detection"].loc[("a", "r0")] == pytest.approx(1 / 20) and np.isnan(
        table["detection"].loc[("a", "r1")]
    )
    with pytest.raises(ValueError, match="an AnnData has no groups of its own"):
        rank_regulators(adata)
    del adata.obsm["score_sccafm"]
    with pytest.raises(KeyError, match="regulator_activity"):
        rank_regulators(adata, "kind")


def test_validation(grn):
    with pytest.raises(KeyError, match="groupby: 'sort' is no column of obs"):
        rank_regulators(grn, "sort")
    with pytest.raises(
        ValueError, match="the cells have no groups, and a comparison needs two: pass groupby=, a column of obs"
    ):
        rank_regulators(grn)
    with pytest.raises(ValueError, match="no donor of sample_key= holds cells of two groups"):
        rank_regulators(grn, "kind", sample_key=grn.obs["kind"].astype(str))
    with pytest.raises(TypeError, match="expected networks"):
        rank_regulators(grn.strengths, "kind")
    with pytest.raises(ValueError, match="these networks are of other cells: 60 of 60 are not in adata"):
        rank_regulators(grn, "kind", adata=AnnData(np.zeros((3, 1), np.float32)))
    with pytest.warns(UserWarning, match="left out 1 groups of fewer than 3 cells: rare"):
        table = rank_regulators(grn, ["rare", *grn.obs["kind"][1:]])
    assert set(table["group"]) == set("abc")


def test_groups_of_the_inference_are_the_default(tiny_model, toy_adata):
    grn = sccafm.infer_grn(toy_adata, tiny_model, groupby="cell_type", null_cells=0, progress=False)
    table = rank_regulators(grn)
    assert table["group"].cat.categories.tolist() == ["B cell", "T cell", "monocyte"]
    assert (table["n_targets"] >= 0).all()
