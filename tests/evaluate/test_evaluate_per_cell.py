"""`per_cell` against plain loops, the per-cell baselines against slow versions, forms of scores, and validation."""

import dataclasses

import matplotlib
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

import sccafm
from sccafm.evaluate import (
    CellTruth,
    end_expression,
    expression_product,
    group_pearson,
    lioness,
    per_cell,
)
from sccafm.evaluate.cell_baselines import state_mean
from sccafm.evaluate.cell_scores import cell_scores
from sccafm.grn.edges import WEIGHT_BITS

CELLS = pd.Index([f"c{i}" for i in range(24)])
STATES = pd.Series(["a"] * 12 + ["b"] * 8 + ["c"] * 4, index=CELLS)
EDGES = pd.DataFrame([(f"R{i % 4}", f"T{i}") for i in range(20)], columns=["source", "target"])
RNG = np.random.default_rng(0)
ACTIVITY = pd.DataFrame(RNG.random((3, 20)) < 0.5, index=["a", "b", "c"])
ACTIVITY[[0, 1]] = [[True, False]] * 3  # one edge is always on, one never
TRUTH = CellTruth(EDGES, ACTIVITY, STATES)
IS_SWITCHED = (ACTIVITY.any() & ~ACTIVITY.all()).to_numpy()


@pytest.fixture(autouse=True)
def no_display():
    matplotlib.use("Agg")


@pytest.fixture
def scores() -> np.ndarray:
    """Own edges rank somewhat higher; rounded, so that there are ties."""
    own = ACTIVITY.loc[STATES].to_numpy()
    return np.round(np.random.default_rng(1).random((24, 20)) + 0.3 * own, 1)


@pytest.fixture
def adata() -> AnnData:
    x = np.random.default_rng(2).gamma(2.0, 1.0, (24, 24))
    return AnnData(
        x,
        obs=pd.DataFrame(index=CELLS),
        var=pd.DataFrame(index=[f"R{i}" for i in range(4)] + [f"T{i}" for i in range(20)]),
    )


def test_numbers_equal_plain_loops(scores):
    row = per_cell(scores, TRUTH, baselines=None, n_bootstrap=10).to_frame().iloc[0]
    judged = np.flatnonzero(IS_SWITCHED)
    own, gap = {}, {}
    for state in ACTIVITY.index:
        fit = [
            [roc_auc_score(ACTIVITY.loc[s, judged], scores[c, judged]) for s in [state, *ACTIVITY.index.drop(state)]]
            for c in np.flatnonzero(STATES.to_numpy() == state)
        ]
        own[state] = np.mean([f[0] for f in fit])
        gap[state] = np.mean([f[0] - np.mean(f[1:]) for f in fit])
    edge = [roc_auc_score(ACTIVITY.loc[STATES, e], scores[:, e]) for e in judged]
    assert row["auroc_cell"] == pytest.approx(np.mean(list(own.values())), abs=1e-12)
    assert row["specificity"] == pytest.approx(np.mean(list(gap.values())), abs=1e-12)
    assert row["auroc_edge"] == pytest.approx(np.mean(edge), abs=1e-12)
    assert row["auroc_edge_low"] < row["auroc_edge"] < row["auroc_edge_high"]


def test_a_network_copied_to_all_cells_is_at_chance_and_the_truth_at_the_top():
    copied = np.tile(np.random.default_rng(3).random(20), (24, 1))
    report = per_cell(copied, TRUTH, baselines=None, n_bootstrap=50)
    for row in report.to_frame().to_dict("records"):
        assert row["auroc_edge"] == row["auroc_edge_low"] == row["auroc_edge_high"] == 0.5
        assert row["specificity"] == pytest.approx(0, abs=1e-12)
        assert row["specificity_low"] < 0 < row["specificity_high"]
        assert row["auroc_cell"] != 0.5  # what makes this number alone a poor judge
    best = per_cell(ACTIVITY.loc[STATES].to_numpy(float), TRUTH, baselines=None).to_frame().iloc[0]
    for metric in ("auroc_edge", "auroc_cell", "auroc_cell_low"):
        assert best[metric] == pytest.approx(1, abs=1e-12)
    worst = per_cell(-ACTIVITY.loc[STATES].to_numpy(float), TRUTH, baselines=None).to_frame().iloc[0]
    assert worst["auroc_edge"] == worst["auroc_cell"] == 0.0


def test_numbers_do_not_change_with_order_or_a_rising_function(scores):
    table = per_cell(scores, TRUTH, baselines=None, n_bootstrap=5).to_frame().iloc[0]
    order, cells = np.random.default_rng(4).permutation(20), np.random.default_rng(5).permutation(24)
    turned = CellTruth(
        EDGES.iloc[order].reset_index(drop=True), ACTIVITY[order].set_axis(range(20), axis=1), STATES.iloc[cells]
    )
    again = per_cell(np.exp(3 * scores)[np.ix_(cells, order)], turned, baselines=None, n_bootstrap=5).to_frame().iloc[0]
    for metric in ("auroc_edge", "specificity", "auroc_cell"):
        assert again[metric] == pytest.approx(table[metric], abs=1e-12)


def test_all_forms_of_scores_say_the_same(scores):
    columns = pd.MultiIndex.from_frame(EDGES.apply(lambda c: c.str.lower()))
    frame = pd.DataFrame(scores, index=CELLS, columns=columns)
    tables = {cell: EDGES.assign(weight=scores[i]) for i, cell in enumerate(CELLS)}
    for form in (frame, frame.iloc[::-1, ::-1], tables):
        values, is_scored = cell_scores(form, EDGES, STATES)
        np.testing.assert_array_equal(values, scores)
        assert is_scored.all()


def test_a_dictionary_of_states_is_copied_to_their_cells_and_missing_edges_rank_last():
    networks = {s: EDGES.assign(weight=np.arange(20) + 1.0 + i)[i:] for i, s in enumerate("abc")}
    values, is_scored = cell_scores(networks, EDGES, STATES)
    assert is_scored.all()
    np.testing.assert_array_equal(values[0], np.arange(20) + 1.0)
    np.testing.assert_array_equal(values[-1], np.r_[0, 0, np.arange(2, 20) + 3.0])
    signed = {s: table.assign(weight=table["weight"] - 10) for s, table in networks.items()}
    assert cell_scores(signed, EDGES, STATES)[0][-1, 0] == -9.0  # the lowest of all
    values, is_scored = cell_scores({s: t[2:] for s, t in networks.items()}, EDGES, STATES)
    assert is_scored.sum() == 18


@pytest.fixture(scope="module")
def grns(tiny_model):
    """A simulation of genes that the model knows, and its GRN with kept factors and with kept edges."""
    adata = sccafm.simulate(30, n_cells=16, progress=False)
    settings = {"model": tiny_model, "device": "cpu", "progress": False, "top_k": None}
    factors, kept = (sccafm.infer_grn(adata, keep_factors=keep, **settings) for keep in (True, False))
    return adata, factors, kept, sccafm.infer_grn(adata, **settings | {"top_k": 20})


def test_a_grn_gives_its_scores_from_factors_and_from_kept_edges(grns):
    adata, factors, kept, few = grns
    truth = sccafm.simulation.read_truth(adata)
    exact, is_scored = cell_scores(factors, truth.edges, truth.states)
    for cell in (0, 7):
        u, v = factors.factors(adata.obs_names[cell])
        full = (u @ v.T).to_numpy()
        rows = u.index.get_indexer(truth.edges["source"]), v.index.get_indexer(truth.edges["target"])
        np.testing.assert_allclose(exact[cell], full[rows], atol=1e-7)
    assert is_scored.all()
    found, _ = cell_scores(kept, truth.edges, truth.states)
    np.testing.assert_allclose(found, exact, rtol=2.0**-WEIGHT_BITS, atol=1e-6)
    sparse, _ = cell_scores(few, truth.edges, truth.states)
    assert 0 < (sparse > 0).sum() < (exact > 0).sum()
    np.testing.assert_allclose(sparse[sparse > 0], exact[sparse > 0], rtol=2.0**-WEIGHT_BITS, atol=1e-6)


def test_lioness_equals_a_slow_loop(adata):
    adata.X[:, 5] = 0  # T1 never varies
    adata.X[1:, 6] = 0  # T2 varies in one cell alone: without it there is no correlation
    found = lioness(adata, EDGES)
    for e, (source, target) in enumerate(EDGES.to_numpy()):
        x, y = (adata[:, g].X.ravel().astype(float) for g in (source, target))

        def r(x, y):
            return np.corrcoef(x, y)[0, 1] if np.ptp(x) > 0 and np.ptp(y) > 0 else 0.0

        slow = [24 * r(x, y) - 23 * r(np.delete(x, q), np.delete(y, q)) for q in range(24)]
        np.testing.assert_allclose(found.iloc[:, e], slow, rtol=1e-4, atol=1e-4)
    assert list(found.columns) == [tuple(e) for e in EDGES.to_numpy()]


def test_other_baselines_equal_plain_versions(adata):
    grouped, pooled = group_pearson(adata, EDGES, STATES.to_numpy()), group_pearson(adata, EDGES)
    product, ends = expression_product(adata, EDGES), [end_expression(adata, EDGES, e) for e in ("source", "target")]
    frame = adata.to_df()
    for e, (source, target) in enumerate(EDGES.to_numpy()):
        for state in "abc":
            cells = frame[STATES.to_numpy() == state]
            expected = abs(np.corrcoef(cells[source], cells[target])[0, 1])
            np.testing.assert_allclose(grouped.loc[cells.index].iloc[:, e], expected, rtol=1e-5)
        np.testing.assert_allclose(pooled.iloc[:, e], abs(np.corrcoef(frame[source], frame[target])[0, 1]), rtol=1e-5)
        np.testing.assert_allclose(product.iloc[:, e], frame[source] * frame[target], rtol=1e-5)
        np.testing.assert_allclose(ends[0].iloc[:, e], frame[source], rtol=1e-6)
        np.testing.assert_allclose(ends[1].iloc[:, e], frame[target], rtol=1e-6)


def test_baselines_do_not_depend_on_how_many_edges_are_held_at_once(adata, monkeypatch):
    whole = [lioness(adata, EDGES), group_pearson(adata, EDGES, STATES.to_numpy())]
    monkeypatch.setattr("sccafm.evaluate.cell_baselines.EDGES_AT_ONCE", 3)
    for before, after in zip(
        whole, [lioness(adata, EDGES), group_pearson(adata, EDGES, STATES.to_numpy())], strict=True
    ):
        pd.testing.assert_frame_equal(before, after)


def test_ranking_in_parts_changes_nothing(scores, monkeypatch):
    whole = per_cell(scores, TRUTH, baselines=None).to_frame()
    monkeypatch.setattr("sccafm.evaluate._per_cell.RANKED_AT_ONCE", 60)
    pd.testing.assert_frame_equal(per_cell(scores, TRUTH, baselines=None).to_frame(), whole)


def test_edges_are_spelled_as_the_cells_spell_them(scores, adata):
    plain = per_cell(scores, TRUTH, adata=adata).to_frame()
    lower = dataclasses.replace(TRUTH, edges=EDGES.apply(lambda names: names.str.lower()))
    pd.testing.assert_frame_equal(per_cell(scores, lower, adata=adata).to_frame(), plain)
    report = per_cell(scores, TRUTH, adata=adata[:, adata.var_names != "T2"], baselines=["pooled_pearson"])
    assert report.counts["n_unscored"] == int(IS_SWITCHED[2])


def test_the_report_shows_all_methods_and_says_what_is_missing(scores, adata):
    report = per_cell(scores, TRUTH, adata=adata, name="mine")
    methods = report.to_frame()["method"].tolist()
    assert methods[:3] == ["mine", "mine, pooled", "lioness"] and len(methods) == 10
    assert report.to_markdown().count("\n") == len(methods) + 3
    assert isinstance(report.plot(), Figure)
    assert "the strongest baseline that does not know the states" in repr(report)
    assert f"{IS_SWITCHED.sum()} switched edges of 4 regulators in 24 cells of 3 states" in repr(report)
    assert set(report.per_state["state"]) == set("abc") and len(report.per_edge) == IS_SWITCHED.sum()
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.name = "other"
    without = per_cell(scores, TRUTH)
    assert set(without.to_frame()["method"]) == {"scores", "scores, pooled", "random"}
    assert without.skipped["lioness"] == "pass adata="
    pd.testing.assert_frame_equal(per_cell(scores, TRUTH).to_frame(), without.to_frame())


def test_states_without_cells_are_named_and_switch_nothing(scores):
    of_two = dataclasses.replace(TRUTH, states=STATES[:20])
    report = per_cell(scores[:20], of_two, baselines=None)
    assert report.skipped == {"state c": "no cells"}
    assert report.counts["n_edges"] == (ACTIVITY.loc["a"] != ACTIVITY.loc["b"]).sum()
    alone = CellTruth(EDGES, ACTIVITY.loc[["a", "b"]], STATES[:20])
    pd.testing.assert_frame_equal(per_cell(scores[:20], alone, baselines=None).to_frame(), report.to_frame())


def test_the_mean_over_states_ignores_their_sizes_and_counts_lost_edges(scores):
    frame = pd.DataFrame(scores, index=CELLS, columns=pd.MultiIndex.from_frame(EDGES))
    report = per_cell(frame.drop(columns=[("R2", "T2")]), TRUTH, baselines=None)
    assert report.counts["n_unscored"] == int(IS_SWITCHED[2])
    per_state = report.per_state.query("method == 'scores'")
    assert report.to_frame()["auroc_cell"][0] == pytest.approx(per_state["auroc_cell"].mean())


def test_correlations_find_edges_that_are_switched_where_levels_do_not_tell():
    """With off_occupancy=0.5 the target's level is blind, and correlation within the state is not."""
    edges = pd.DataFrame(
        {
            "source": [f"R{i // 8}" for i in range(40)],
            "target": [f"T{i}" for i in range(40)],
            "sign": 1,
            "strength": 4.0,
        }
    )
    kinetics = sccafm.simulation.Kinetics(off_occupancy=0.5, duration=20.0)
    rates = pd.DataFrame(1.6, index=[f"R{i}" for i in range(5)], columns=["x", "y"])
    truth = sccafm.simulate(
        edges,
        n_cells=800,
        states={"x": None, "y": "x"},
        share_switched=0.5,
        master_rates=rates,
        kinetics=kinetics,
        progress=False,
    )
    report = per_cell(np.zeros((800, 40)), truth, layer="expression").to_frame().set_index("method")
    assert report.loc["state_pearson", "auroc_edge"] > 0.95
    assert report.loc["lioness", "specificity_low"] > 0
    assert abs(report.loc["target_expression", "auroc_edge"] - 0.5) < 0.1


def test_the_mean_of_a_state_is_handed_to_its_cells():
    scores = pd.DataFrame({"a": [1.0, 3.0, 5.0], "b": [0.0, 2.0, 7.0]}, index=["c0", "c1", "c2"])
    found = state_mean(scores, pd.Series(["x", "y", "x"], index=scores.index))
    expected = pd.DataFrame({"a": [3.0, 3.0, 3.0], "b": [3.5, 2.0, 3.5]}, index=scores.index)
    pd.testing.assert_frame_equal(found, expected)


def test_a_truth_can_be_made_from_a_table_of_states():
    table = pd.DataFrame({"state": ["a", "a", "b"], "source": "R", "target": ["x", "y", "x"]})
    truth = CellTruth.of(table, pd.Series(["a", "b"], index=["c0", "c1"]))
    assert truth.activity.to_numpy().tolist() == [[True, True], [True, False]]
    assert "2 edges of 1 regulators, 1 of them switched between 2 states; 2 cells" in repr(truth)
    with pytest.raises(KeyError, match="expected columns"):
        CellTruth.of(table.drop(columns="state"), truth.states)
    with pytest.raises(KeyError, match=r"states \['z'\] of the cells have no edge"):
        CellTruth.of(table, pd.Series(["z"], index=["c0"]))
    with pytest.raises(ValueError, match="0 self-edges and 3 edges that stand twice"):
        CellTruth.of(pd.concat([table, table]), truth.states)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda s: (s[:, :5], TRUTH), ValueError, "an array 24 cells x 20 edges, got"),
        (lambda s: (np.where(s > 0.5, np.nan, s), TRUTH), ValueError, "scores are NaN; let missing edges rank last"),
        (lambda s: ([1, 2], TRUTH), ValueError, "expected a GRN, a DataFrame"),
        (lambda s: (pd.DataFrame(s, index=CELLS), TRUTH), ValueError, "label the columns"),
        (lambda s: (labelled(s).iloc[1:], TRUTH), KeyError, "1 of 24 cells of the truth have no scores, first 'c0'"),
        (lambda s: ({"a": EDGES.assign(weight=1.0)}, TRUTH), KeyError, r"24 of 24 cells \(or states\)"),
        (lambda s: (labelled(s).rename(columns=lambda n: f"X{n}"), TRUTH), ValueError, "among the scored regulators"),
        (lambda s: (s, dataclasses.replace(TRUTH, activity=ACTIVITY | True)), ValueError, "none of 20 edges is on in one"),
        (lambda s: (s, dataclasses.replace(TRUTH, states=STATES.replace("a", "z"))), KeyError, r"states that the truth lacks: \['z'\]"),
        (lambda s: (s, dataclasses.replace(TRUTH, states=STATES.replace(["b", "c"], "a"))), ValueError, "take cells of two states"),
    ],
)  # fmt: skip
def test_wrong_scores_and_truths_are_named(scores, change, error, message):
    with pytest.raises(error, match=message):
        per_cell(*change(scores), baselines=None)


def labelled(scores) -> pd.DataFrame:
    return pd.DataFrame(scores, index=CELLS, columns=pd.MultiIndex.from_frame(EDGES))


def test_wrong_baselines_and_cells_are_named(scores, adata):
    with pytest.raises(ValueError, match=r"unknown baselines \['magic'\]"):
        per_cell(scores, TRUTH, adata=adata, baselines=["magic"])
    with pytest.raises(ValueError, match="lioness need expression"):
        per_cell(scores, TRUTH, baselines=["lioness"])
    with pytest.raises(ValueError, match="names the judged scores and a baseline"):
        per_cell(scores, TRUTH, baselines=["random"], name="random")
    with pytest.raises(KeyError, match="1 cells of the truth are not in adata, first 'c0'"):
        per_cell(scores, TRUTH, adata=adata[1:])
    with pytest.raises(KeyError, match="expected an AnnData from sccafm.simulate"):
        per_cell(scores, adata)
    with pytest.raises(KeyError, match="genes of the edges are not in the data"):
        lioness(adata, EDGES.assign(target="nobody"))
    with pytest.raises(ValueError, match="needs 3 cells, got 2"):
        lioness(adata[:2], EDGES)
    with pytest.raises(ValueError, match="a group for each of 24 cells, got 2"):
        group_pearson(adata, EDGES, ["a", "b"])


def test_cells_that_a_grn_lacks_are_named(grns):
    adata, factors, *_ = grns
    more = sccafm.simulate(30, n_cells=20, progress=False)
    with pytest.raises(KeyError, match=r"4 of 20 cells of the truth have no scores.*truth\[list\(grn.cells\)\]"):
        per_cell(factors, more)
    assert len(per_cell(factors, more[list(factors.cells)], baselines=None).to_frame()) == 2
    with pytest.raises(ValueError, match="regulators='all'"):
        outside = more[list(factors.cells)].copy()
        outside.uns["simulation"]["edges"] = outside.uns["simulation"]["edges"].assign(source="nobody")
        per_cell(factors, outside, baselines=None)
