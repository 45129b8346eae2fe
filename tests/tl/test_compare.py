"""compare: donors are the replicates. Formulas against slow plain versions, the null, and every door."""

import itertools

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from making import made_grn
from scipy import stats

from sccafm.tl import compare
from sccafm.tl.designs import find_design
from sccafm.tl.moderation import paired, prior_variance, unpaired

STIM = ("stim", "ctrl")


def study(n_donors=4, n_cells=15, n_regulators=6, is_paired=True, switched=(0,), seed=0, kinds=("T", "B"), spread=0.1):
    """Cells of donors under two conditions; switched regulators are twice as strong in stimulated T cells."""
    rng = np.random.default_rng(seed)
    parts, rows = [], []
    for donor, condition, kind in itertools.product(range(n_donors), STIM, kinds):
        if not is_paired and (donor % 2 == 0) == (condition == "stim"):
            continue
        own = np.exp(np.random.default_rng([seed, donor]).normal(0, spread, n_regulators))  # of the donor
        own = own * np.exp(rng.normal(0, spread, n_regulators))  # of the donor under this condition
        if condition == "stim" and kind == "T":
            own[list(switched)] *= 2
        parts.append(own * rng.lognormal(0, 0.2, (n_cells, n_regulators)))
        rows += [{"donor": f"d{donor}", "condition": condition, "kind": kind}] * n_cells
    return np.concatenate(parts), np.random.default_rng(9).random((n_regulators, 12)), pd.DataFrame(rows)


@pytest.mark.parametrize("is_paired", [True, False])
def test_the_switched_regulator_is_found_in_its_cells_alone(is_paired):
    grn = made_grn(*study(8, is_paired=is_paired))
    found = compare(grn, STIM, sample_key="donor", groupby="kind")
    table = found.regulators
    called = table[table["qvalue"] <= 0.05]
    assert called[["group", "regulator"]].astype(str).to_numpy().tolist() == [["T", "r0"]]
    row = called.iloc[0]
    assert row["low"] < 1 < row["high"] and row["effect"] == pytest.approx(1, abs=0.3)
    assert row["auroc"] > 0.8 and row["test_mean"] > row["reference_mean"]
    edges = found.edges[found.edges["qvalue"] <= 0.05]
    assert len(edges) and set(edges["source"]) == {"r0"} and set(edges["group"]) == {"T"}
    assert set(found.design["design"]) == {"paired donors" if is_paired else "donors on one side each"}
    assert "1 of 12 at an FDR of 5%" in repr(found)


def test_effects_are_differences_of_donor_means():
    levels, weights, obs = study(3)
    grn = made_grn(levels, weights, obs)
    found = compare(grn, STIM, sample_key="donor", groupby="kind").regulators.set_index(["group", "regulator"])
    strength = grn.strengths["r2"].to_numpy(dtype=float)
    log = np.log2(strength + 0.01 * np.median(grn.strengths.to_numpy(dtype=float)))
    differences = [
        log[(obs["donor"] == d) & (obs["condition"] == "stim") & (obs["kind"] == "B")].mean()
        - log[(obs["donor"] == d) & (obs["condition"] == "ctrl") & (obs["kind"] == "B")].mean()
        for d in ("d0", "d1", "d2")
    ]
    assert found.loc[("B", "r2"), "effect"] == pytest.approx(np.mean(differences))


def test_contrast_turned_round_turns_the_signs():
    grn = made_grn(*study())
    one, other = (compare(grn, c, sample_key="donor", groupby="kind") for c in (STIM, STIM[::-1]))
    for name in ("regulators", "contexts", "edges"):
        ends = ["group", "source", "target"] if name == "edges" else ["group", name[:-1]]
        a, b = (getattr(x, name).set_index(ends).sort_index() for x in (one, other))
        np.testing.assert_allclose(a["effect"], -b["effect"], atol=1e-12)
        np.testing.assert_allclose(a["pvalue"], b["pvalue"])
        np.testing.assert_allclose(a["low"], -b["high"], atol=1e-12)


def test_a_context_that_grows_is_found():
    levels, weights, obs = study(6, switched=())
    stim = (obs["condition"] == "stim").to_numpy()
    share = np.random.default_rng(3).dirichlet(np.full(6, 50.0), len(obs))
    share[stim, 2] *= 2
    grn = made_grn(levels, weights, obs, context=(share / share.sum(1, keepdims=True)).astype(np.float32))
    best = compare(grn, STIM, sample_key="donor", n_edges=0).contexts.iloc[0]
    assert best["context"] == "factor_002" and best["effect"] > 0 and best["qvalue"] < 0.01


def test_without_donors_nothing_is_tested_and_it_is_said():
    grn = made_grn(*study())
    with pytest.warns(UserWarning, match="cells are not replicates"):
        found = compare(grn, STIM, groupby="kind")
    assert found.regulators[["pvalue", "qvalue", "low", "high", "t"]].isna().all(axis=None)
    assert found.regulators.iloc[0][["group", "regulator"]].tolist() == ["T", "r0"]
    assert "cells are not replicates" in repr(found)
    assert (found.regulators["auroc"] - 0.5).abs().is_monotonic_decreasing
    assert found.contexts["effect"].abs().is_monotonic_decreasing


@pytest.mark.filterwarnings("ignore:left out 1 groups", "ignore:descriptive")
def test_groups_of_few_cells_are_left_out_without_donors_too():
    levels, weights, obs = study()
    few = np.flatnonzero((obs["kind"] == "B") & (obs["condition"] == "stim"))[3:]
    grn = made_grn(levels, weights, obs.assign(kind=obs["kind"].mask(np.isin(np.arange(len(obs)), few), "T")))
    with pytest.warns(
        UserWarning, match=r"left out 1 sides of a group with fewer than min_cells=10 cells: B \(3 cells\)"
    ):
        found = compare(grn, STIM, groupby="kind", n_edges=0)
    assert set(found.regulators["group"]) == {"T"}
    assert set(compare(grn, STIM, groupby="kind", n_edges=0, min_cells=3).regulators["group"]) == {"B", "T"}


def test_edges_that_are_not_available_are_a_note():
    levels, weights, obs = study()
    found = compare(made_grn(levels, weights, obs, keep_factors=False), STIM, sample_key="donor")
    assert found.edges is None and "edges are not compared: groups of 'donor' have no mean networks" in found.notes[0]


# --- the null


@pytest.mark.parametrize(("n_donors", "n_hidden"), [(5, 4), (8, 4), (5, 40)])
def test_random_halves_of_donors_differ_nowhere(n_donors, n_hidden):
    """Regulators of a donor are correlated, as real ones are: a few hidden numbers of each donor move all of them."""
    shares = []
    for seed in range(8):
        rng = np.random.default_rng([seed, n_hidden])
        own = rng.normal(size=(n_donors, n_hidden)) @ rng.normal(0, 0.2 / np.sqrt(n_hidden), (n_hidden, 40))
        own = np.exp(own + rng.normal(0, 0.03, (n_donors, 40)))
        levels = np.repeat(own, 12, 0) * rng.lognormal(0, 0.2, (n_donors * 12, 40))
        donor = np.repeat(np.arange(n_donors), 12)
        for half in rng.permutation(list(itertools.combinations(range(n_donors), n_donors // 2)))[:5]:
            obs = pd.DataFrame({"donor": donor.astype(str), "half": np.isin(donor, half).astype(str)})
            grn = made_grn(levels, rng.random((40, 45)), obs)
            found = compare(grn, ("True", "False"), sample_key="donor", n_edges=200)
            shares.append([(t["qvalue"] <= 0.05).mean() for t in (found.regulators, found.edges)])
    assert len(shares) == 40
    assert np.mean(shares, axis=0).max() <= 0.05


def test_features_that_are_one_and_the_same_lend_each_other_nothing():
    """The worst case of correlation: each p-value must still be below 0.05 in one of twenty studies."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(3000):
        donors = np.outer(rng.normal(size=5), np.ones(30)) + rng.normal(0, 1e-3, (5, 30))
        found.append((unpaired(donors[:2], donors[2:]).pvalue < 0.05).mean())
    assert np.mean(found) == pytest.approx(0.05, abs=0.015)


def test_real_donors_halved_at_random_differ_nowhere(shared, tiny_model):
    """The donors of a real study, in a model whose numbers mean nothing but depend on the cells."""
    import anndata as ad

    import sccafm

    adata = ad.read_h5ad(shared / "datasets/dev/kang18_8684x2511.h5ad")
    chosen = adata.obs.groupby(["donor", "cell_type"], observed=True).sample(15, random_state=0).index
    adata = adata[chosen, np.asarray(adata.X.sum(0)).ravel().argsort()[-400:]].copy()
    grn = sccafm.infer_grn(adata, tiny_model, keep_factors=True, null_cells=0, progress=False)
    donors = sorted(adata.obs["donor"].astype(str).unique())
    shares = []
    for half in itertools.combinations(donors, 2):
        side = adata.obs["donor"].astype(str).isin(half).map({True: "one", False: "other"})
        found = compare(grn, ("one", "other"), condition_key=side, sample_key="donor", groupby="cell_type", n_edges=500)
        shares.append([(t["qvalue"] <= 0.05).mean() for t in (found.regulators, found.edges)])
    assert len(shares) == 10
    assert np.mean(shares, axis=0).max() <= 0.05


# --- the test


def test_moderated_t_lies_between_its_limits():
    """Equal variances: the prior counts as much as the data. Variances all over: it counts for next to nothing."""
    rng = np.random.default_rng(0)
    same = rng.normal(size=(6, 3000))
    found = paired(same, np.zeros_like(same))
    assert abs((found.pvalue < 0.05).mean() - 0.05) < 0.015
    wild = rng.normal(size=(6, 400)) * np.exp(rng.normal(0, 4, 400))
    found = paired(wild, np.zeros_like(wild))
    plain = stats.ttest_1samp(wild, 0)
    assert np.corrcoef(found.t, plain.statistic)[0, 1] > 0.97


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    one, other = rng.normal(1, 1, (4, 4000)), rng.normal(0, 1, (5, 4000))
    found = unpaired(one, other)
    assert ((found.low < 1) & (found.high > 1)).mean() == pytest.approx(0.95, abs=0.015)


def test_prior_of_variances_is_found_again():
    rng = np.random.default_rng(2)
    true = 3.0 * 10 / rng.chisquare(10, 50_000)
    s2 = true * rng.chisquare(5, 50_000) / 5
    s0, df0 = prior_variance(s2, 5)
    assert (s0, df0) == (pytest.approx(3, rel=0.05), pytest.approx(10, rel=0.1))
    assert prior_variance(np.full(10, 2.0), 5)[1] == np.inf


def test_what_cannot_be_tested_is_nan():
    values = np.array([[1.0, np.nan, 2.0, 3.0], [2.0, 1.0, 2.0, 1.0], [0.0, 1.0, 2.0, 5.0]])
    assert np.isnan(paired(values, 0 * values).pvalue).tolist() == [False, True, True, False]


@pytest.mark.parametrize("is_paired", [True, False])
def test_permutation_equals_counting_all_of_them(is_paired):
    values = np.random.default_rng(4).normal(size=(8, 3)) + np.repeat([[2.0], [0.0]], 4, 0)
    samples = list("abcd") * 2 if is_paired else list("abcdefgh")
    design = find_design(pd.DataFrame({"sample": samples, "side": np.repeat([0, 1], 4)}))
    found = design.test(values, "permutation", np.random.default_rng(0))
    if is_paired:
        difference = values[:4] - values[4:]
        ts = [paired(difference * np.array(s)[:, None], 0 * difference).t for s in itertools.product([1, -1], repeat=4)]
    else:
        halves = list(itertools.combinations(range(8), 4))
        ts = [unpaired(values[list(h)], np.delete(values, h, 0)).t for h in halves]
    expected = (np.abs(ts) >= np.abs(found.t) * (1 - 1e-9)).mean(0)
    np.testing.assert_allclose(found.pvalue, expected)
    assert found.pvalue.min() >= (2 / 16 if is_paired else 2 / 70)


def test_many_donors_are_permuted_at_random_with_a_seed(monkeypatch):
    monkeypatch.setattr("sccafm.tl.designs.MOST_PERMUTATIONS", 50)
    grn = made_grn(*study(8, n_cells=10))
    one, other = (compare(grn, STIM, sample_key="donor", groupby="kind", test="permutation", n_edges=0) for _ in "ab")
    pd.testing.assert_frame_equal(one.regulators, other.regulators)
    assert one.regulators["pvalue"].min() >= 1 / 50


# --- validation


def test_validation():
    levels, weights, obs = study()
    grn = made_grn(levels, weights, obs)
    with pytest.raises(ValueError, match='two different labels, as \\("stim", "ctrl"\\)'):
        compare(grn, ("stim", "stim"))
    with pytest.raises(KeyError, match="no columns of obs hold both labels"):
        compare(grn, ("still", "rest"))
    with pytest.raises(
        KeyError, match=r"obs\['condition'\] holds one of the labels, not both; there are \['ctrl', 'stim'\]"
    ):
        compare(grn, ("stim", "rest"))
    with pytest.raises(ValueError, match="no cell has 'rest' in 'condition'; there are \\['ctrl', 'stim'\\]"):
        compare(grn, ("stim", "rest"), condition_key="condition")
    with pytest.raises(KeyError, match="condition_key: 'state' is no column"):
        compare(grn, STIM, condition_key="state")
    with pytest.raises(ValueError, match='test must be "moderated" or "permutation"'):
        compare(grn, STIM, test="wilcoxon")
    with pytest.raises(TypeError, match="expected networks"):
        compare(obs, STIM)
    with pytest.raises(ValueError, match="these networks are of other cells"):
        compare(grn, STIM, adata=AnnData(np.zeros((2, 1), np.float32)))
    with (
        pytest.raises(ValueError, match="no group of cells has both sides of the contrast with at least 99 cells"),
        pytest.warns(),
    ):
        compare(grn, STIM, sample_key="donor", min_cells=99)


def test_cells_without_a_donor_or_a_group_are_counted():
    levels, weights, obs = study()
    obs.loc[:2, "donor"] = None
    obs.loc[100:101, "kind"] = None
    grn = made_grn(levels, weights, obs)
    donors, groups = (
        "left out 3 of 240 cells without a donor in 'donor'",
        "left out 2 cells of the contrast without a group",
    )
    with pytest.warns(UserWarning, match=donors), pytest.warns(UserWarning, match=groups):
        found = compare(grn, STIM, sample_key="donor", groupby="kind")
    assert found.design[["test_cells", "reference_cells"]].to_numpy().sum() == 235


def test_one_donor_a_side_is_refused():
    grn = made_grn(*study(2, is_paired=False))
    with pytest.raises(ValueError, match="no group has two on each side \\(at most 1 and 1\\)"):
        compare(grn, STIM, sample_key="donor", groupby="kind")


def test_groups_that_are_not_tested_are_named():
    levels, weights, obs = study(3)
    lone = (obs["kind"] == "B") & (obs["donor"] != "d0")
    grn = made_grn(levels[~lone], weights, obs[~lone])
    with pytest.warns(UserWarning, match="not tested, with fewer than two donors a side: B"):
        found = compare(grn, STIM, sample_key="donor", groupby="kind")
    assert found.regulators.loc[found.regulators["group"] == "B", "pvalue"].isna().all()
    assert found.regulators.loc[found.regulators["group"] == "T", "pvalue"].notna().all()


def test_donors_on_one_side_are_left_out_beside_pairs():
    levels, weights, obs = study(5)
    lone = (obs["donor"] == "d4") & (obs["condition"] == "stim")
    grn = made_grn(levels[~lone], weights, obs[~lone])
    with pytest.warns(UserWarning, match="left out donors that are on one side alone, beside 4 on both: d4"):
        found = compare(grn, STIM, sample_key="donor", groupby="kind")
    assert (found.design["design"] == "paired donors").all()


def test_adata_is_annotated_and_can_be_written(tmp_path):
    levels, weights, obs = study()
    grn = made_grn(levels, weights, obs)
    adata = AnnData(np.zeros((len(obs), 2), np.float32), obs=grn.obs)
    found = compare(grn, STIM, sample_key="donor", groupby="kind", adata=adata)
    pd.testing.assert_series_equal(adata.uns["compare"]["regulators"]["qvalue"], found.regulators["qvalue"])
    adata.write_h5ad(tmp_path / "a.h5ad")
