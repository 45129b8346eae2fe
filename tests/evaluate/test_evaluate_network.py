"""`network` on a small made-up truth and its validation."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from making import made_grn
from matplotlib.figure import Figure
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score

from sccafm.evaluate import Report, network, read_edges, swap_test
from sccafm.evaluate.lists import own_lists
from sccafm.grn.grn import GRN

GENES = [f"G{i}" for i in range(60)]
REGULATORS = GENES[:8]


@pytest.fixture
def scores() -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(0).random((8, 60)), index=REGULATORS, columns=GENES)


@pytest.fixture
def truth(scores) -> pd.DataFrame:
    """Each regulator has its own share of targets; high scores are true more often. With a self-loop and a duplicate."""
    rng = np.random.default_rng(1)
    is_true = rng.random((8, 60)) < scores.to_numpy() * np.linspace(0.3, 0.9, 8)[:, None]
    row, column = np.nonzero(is_true & ~np.eye(8, 60, dtype=bool))
    edges = pd.DataFrame({"source": np.array(REGULATORS)[row], "target": np.array(GENES)[column]})
    extra = pd.DataFrame([("G0", "G0"), tuple(edges.iloc[0]), ("G1", "elsewhere")], columns=["source", "target"])
    return pd.concat([edges, extra], ignore_index=True)


@pytest.fixture
def adata() -> AnnData:
    adata = AnnData(np.random.default_rng(2).random((40, 60)))
    adata.var_names = GENES
    adata.var["gene_ids"] = [f"ENSG{i:011d}" for i in range(60)]
    return adata


@pytest.fixture
def prior(truth) -> pd.DataFrame:
    """Half of the true edges of the first five regulators, and some wrong ones."""
    known = truth[truth["source"].isin(REGULATORS[:5])].iloc[::2]
    wrong = pd.DataFrame({"source": ["G0"] * 5, "target": GENES[40:45]})
    return pd.concat([known, wrong]).set_axis(["Gene1", "Gene2"], axis=1)


OPTIONS = {"min_positives": 5, "min_negatives": 5, "n_bootstrap": 50, "n_permutations": 20}


def flat(scores, truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and regulator of all candidates by plain loops."""
    edges = set(map(tuple, truth.to_numpy()))
    rows = [((s, t) in edges, scores.loc[s, t], s) for s in scores.index for t in GENES if s != t]
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def test_numbers_equal_plain_loops(scores, truth):
    report = network(scores, truth, baselines=None, **OPTIONS)
    labels, values, source = flat(scores, truth)
    each = [s for s in REGULATORS if 5 <= labels[source == s].sum() <= 54]
    row = report.to_frame().iloc[0]
    assert row["auroc"] == pytest.approx(
        np.mean([roc_auc_score(labels[source == s], values[source == s]) for s in each])
    )
    expected = np.mean([average_precision_score(labels[source == s], values[source == s]) for s in each])
    assert row["auprc"] == pytest.approx(expected)
    assert row["auprc_ratio"] == pytest.approx(average_precision_score(labels, values) / labels.mean())
    first = np.argsort(-values)[: labels.sum()]
    assert row["early_precision_ratio"] == pytest.approx(labels[first].mean() / labels.mean())
    assert (row["n_candidates"], row["n_true"], row["n_scored_regulators"]) == (8 * 59, labels.sum(), len(each))
    assert row["density"] == pytest.approx(labels.mean())
    assert (report.truth.n_self_loops, report.truth.n_duplicates, report.truth.n_unmapped) == (1, 1, 1)
    per = report.per_regulator.set_index("regulator")
    assert per.loc["G7", "auroc"] == pytest.approx(roc_auc_score(labels[source == "G7"], values[source == "G7"]))


def test_intervals_null_and_baselines(scores, truth, adata, prior):
    report = network(scores, truth, baselines="fast", adata=adata, prior=prior, **OPTIONS)
    table = report.to_frame()
    assert set(table["subset"]) == {"all", "not_in_prior", "new_regulators"}
    assert table["method"].nunique() == 10
    row = table.set_index(["subset", "method"]).loc[("all", "scores")]
    for metric in ("swap", "auroc", "auprc", "auprc_ratio", "early_precision_ratio"):
        assert row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"]
        assert row[metric] > row[f"{metric}_null"]
        assert row[f"{metric}_p"] == pytest.approx(1 / 51 if metric == "swap" else 1 / 21)
    oracle = table.set_index(["subset", "method"]).loc[("all", "oracle_out_degree")]
    assert oracle["auroc"] == 0.5 and oracle["auprc_ratio"] == pytest.approx(oracle["auprc_ratio_null"])
    gaps = report.differences.query("subset == 'all' and baseline == 'random' and metric == 'auroc'").iloc[0]
    assert gaps["low"] <= gaps["difference"] <= gaps["high"]


def test_the_swap_test_stands_beside_every_method(scores, truth, adata, prior):
    report = network(scores, truth, baselines="fast", adata=adata, prior=prior, name="model", **OPTIONS)
    table = report.to_frame().set_index(["subset", "method"])
    known = set(map(tuple, prior.to_numpy()))
    others = {"exclude": known | {(s, g) for s, g in zip(REGULATORS, REGULATORS, strict=True)}}
    for subset, options in {"all": {}, "not_in_prior": others}.items():
        row = table.loc[(subset, "model")]
        expected = swap_test(scores, truth.iloc[:-1], scale=row["swap_scale"], **options)
        assert row["swap"] == pytest.approx(expected.value, abs=1e-3) and row["n_swaps"] == expected.n_swaps > 100
        lists = ["model (target list alone)", "model (regulator list alone)", "target_mean", "prior_degrees"]
        assert (table.loc[subset].loc[[*lists, "oracle_out_degree"], "swap"] == 0.5).all()
        assert (table.loc[subset].loc[lists, "swap_p"] == 1).all()
    gap = report.differences.query("subset == 'all' and metric == 'swap' and baseline == 'prior_degrees'").iloc[0]
    assert gap["low"] < gap["difference"] == table.loc[("all", "model"), "swap"] - 0.5


@pytest.mark.parametrize("scale", ["identity", "log", "logit"])
def test_two_lists_are_found_on_their_scale(truth, scale):
    """Whatever the scale on which its two levels add, a network of two lists scores 0.5 and is its own lists."""
    rng = np.random.default_rng(8)
    levels = rng.normal(size=(8, 1)) + rng.normal(size=60)
    values = {"identity": levels, "log": np.exp(levels), "logit": expit(levels)}[scale]
    frame = pd.DataFrame(values, REGULATORS, GENES)
    report = network(frame, truth, baselines={}, name="model", **OPTIONS).to_frame().set_index("method")
    assert report.loc["model", "swap"] == 0.5 and report.loc["model", "swap_scale"] == scale
    assert report.loc["model (target list alone)", "auroc"] == report.loc["model", "auroc"]


def test_own_lists_are_means_of_logarithms(scores, truth):
    """A GRN's weights are products; the list of targets knows nothing of regulators."""
    found = own_lists(scores, "log", "model", pd.Index(["G7", "G59"]))
    targets, regulators = found["model (target list alone)"], found["model (regulator list alone)"]
    np.testing.assert_allclose(targets.loc["G59"], np.log(scores).mean(axis=0))
    assert (targets.nunique() == 1).all() and list(targets.index) == [*REGULATORS, "G59"]
    np.testing.assert_allclose(regulators["G3"], np.log(scores).mean(axis=1))
    missing = scores.copy()
    missing.iloc[0, 0] = 0.0
    lowest = np.log(scores.to_numpy().ravel()[1:].min())
    assert own_lists(missing, "log", "model", missing.index)["model (target list alone)"].iloc[0, 0] == pytest.approx(
        np.append(np.log(scores.iloc[1:, 0]), lowest).mean()
    )


def test_weights_of_a_grn_are_read_as_logarithms(scores, truth):
    grn = made_grn(np.ones((3, 8)), scores)
    spelled = dict(zip(GENES, grn.targets, strict=True))
    own = network(grn, truth.replace(spelled), baselines=None, **OPTIONS)
    given = network(scores, truth, baselines=None, **OPTIONS)
    assert own.to_frame().loc[0, "swap_scale"] == "log" and given.to_frame().loc[0, "swap_scale"] != "log"
    long = scores.stack().rename_axis(["source", "target"]).rename("weight").reset_index()
    other = GRN.from_edges(long[long["source"] != long["target"]])
    assert network(other, truth, baselines=None, **OPTIONS).to_frame().loc[0, "swap_scale"] in ("identity", "rank")
    asked = network(scores, truth, baselines={"other": scores}, scale={"scores": "log", "other": "rank"}, **OPTIONS)
    table = asked.to_frame().set_index("method")
    assert list(table.loc[["scores", "other"], "swap_scale"]) == ["log", "rank"]
    assert table.loc["scores", "swap"] == own.to_frame().loc[0, "swap"]


def test_subsets_leave_out_what_the_prior_knows(scores, truth, adata, prior):
    report = network(scores, truth, baselines=["prior_edges"], prior=prior, **OPTIONS)
    known = set(map(tuple, prior.to_numpy()))
    labels, _, source = flat(scores, truth)
    pairs = [(s, t) for s in REGULATORS for t in GENES if s != t]
    is_known = np.array([pair in known for pair in pairs])
    subsets = report.subsets
    assert subsets.loc["all", "share_in_prior"] == pytest.approx(is_known[labels].mean())
    assert subsets.loc["not_in_prior", "n_candidates"] == (~is_known).sum()
    assert subsets.loc["not_in_prior", "share_in_prior"] == 0
    assert subsets.loc["not_in_prior", "n_true"] == (labels & ~is_known).sum()
    is_new = np.isin(source, REGULATORS[5:])
    assert subsets.loc["new_regulators", "n_regulators"] == 3
    assert subsets.loc["new_regulators", "n_true"] == labels[is_new].sum()
    blind = report.to_frame().set_index(["subset", "method"]).loc[("not_in_prior", "prior_edges")]
    assert blind["auroc"] == 0.5


def test_excluded_edges_are_no_candidates(scores, truth):
    excluded = truth.iloc[:40:3].set_axis(["TF", "target"], axis=1)
    report = network(scores, truth, exclude=excluded, baselines=None, **OPTIONS)
    pairs = set(map(tuple, excluded.to_numpy()))
    labels, values, source = flat(scores, truth)
    kept = np.array([(s, t) not in pairs for s in REGULATORS for t in GENES if s != t])
    row = report.to_frame().iloc[0]
    assert (row["n_candidates"], row["n_true"]) == (kept.sum(), labels[kept].sum())
    assert row["auprc_ratio"] == pytest.approx(
        average_precision_score(labels[kept], values[kept]) / labels[kept].mean()
    )
    assert row["swap"] == swap_test(scores, truth, exclude=pairs, scale=row["swap_scale"]).value


def test_a_subset_of_one_class_is_skipped_and_said(scores, truth):
    report = network(scores, truth, baselines=None, prior=truth, **OPTIONS)
    assert list(report.subsets.index) == ["all"]
    assert report.skipped["not_in_prior"].startswith("0 true among")
    assert "not run: new_regulators (0 true among 0 candidates)" in repr(report)


def test_spelling_and_form_of_the_input_do_not_matter(scores, truth, adata):
    expected = network(scores, truth, baselines=None, **OPTIONS).to_frame()
    long = scores.stack().rename_axis(["TF", "target"]).rename("score").reset_index()
    ids = dict(zip(GENES, adata.var["gene_ids"], strict=True))
    lower = truth.apply(lambda column: column.str.lower()).set_axis(["Gene1", "Gene2"], axis=1)
    in_ids = scores.rename(index=ids, columns=ids)
    shuffled = scores.iloc[::-1, ::-1]
    for case, edges, cells in [
        (long, truth, None), (scores, lower, None), (in_ids, truth, adata), (shuffled, read_edges(truth), None),
        (scores, truth.replace(ids), adata),
    ]:  # fmt: skip
        found = network(case, edges, baselines=None, adata=cells, **OPTIONS).to_frame()
        for column in ("auroc", "auprc", "auprc_ratio", "early_precision_ratio", "n_true", "n_candidates"):
            assert found.loc[0, column] == pytest.approx(expected.loc[0, column]), column


def test_missing_edges_tie_at_the_lowest_place(scores, truth, adata):
    long = scores.stack().rename_axis(["source", "target"]).rename("weight").reset_index()
    top = long[long["weight"] > 0.7]
    floor = scores.where(scores > 0.7, 0.0)
    found, expected = (network(s, truth, baselines=None, adata=adata, **OPTIONS).to_frame() for s in (top, floor))
    assert found.loc[0, "auroc"] == pytest.approx(expected.loc[0, "auroc"])
    assert found.loc[0, "early_precision_ratio"] == pytest.approx(expected.loc[0, "early_precision_ratio"])


def test_a_regulator_without_scores_counts_and_is_said(scores, truth):
    report = network(scores.drop(index="G7"), truth, baselines=None, **OPTIONS)
    per = report.per_regulator.set_index("regulator")
    assert per.loc["G7", "auroc"] == 0.5
    assert report.to_frame().loc[0, "n_unscored_regulators"] == 1
    assert "(1 regulators without a score)" in repr(report)


def test_seeded(scores, truth, adata):
    one, two = (network(scores, truth, baselines="fast", adata=adata, **OPTIONS).to_frame() for _ in range(2))
    pd.testing.assert_frame_equal(one, two)


def test_report_tells_the_story(scores, truth, adata, prior):
    worse = scores.sample(frac=1, axis=1, random_state=0).set_axis(GENES, axis=1)
    report = network(scores, truth, baselines={"worse": worse}, prior=prior, name="model", **OPTIONS)
    assert isinstance(report, Report)
    text = repr(report)
    assert "model beats the strongest baseline, worse: +" in text
    assert "8 regulators (8 with >= 5 true and >= 5 false edges)" in text
    assert "the prior holds" in text
    other_way = network(worse, truth, baselines={"better": scores}, name="model", **OPTIONS)
    assert "model loses to the strongest baseline, better: -" in repr(other_way)
    assert "not run: genie3 (pass adata=)" in repr(network(scores, truth, **OPTIONS))
    assert "AUROC per regulator: model beats its own list, model (target list alone): +" in text
    assert "swap test: model beats the strongest baseline, worse: +" in text
    lines = report.to_markdown("not_in_prior").splitlines()
    assert lines[0].startswith("| method | swap test | AUROC per regulator |") and lines[2].startswith("| model | 0.")
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert isinstance(report.plot(), Figure) and isinstance(report.plot("new_regulators"), Figure)
    with pytest.raises(KeyError, match="subset 'nothing' is absent"):
        report.plot("nothing")


def test_tree_baselines_run_under_all(scores, truth, adata):
    report = network(
        scores.iloc[:2], truth[truth["source"].isin(["G0", "G1"]) & truth["target"].isin(GENES[:12])],
        adata=adata[:, :12], min_positives=1, min_negatives=1, n_bootstrap=0, n_permutations=0, max_cells=20,
    )  # fmt: skip
    assert {"genie3", "grnboost2"} <= set(report.to_frame()["method"])
    assert report.to_frame()["auroc"].notna().all()


def test_too_few_edges_per_regulator_warns(scores, truth):
    with pytest.warns(UserWarning, match="no regulator has 50 true and 20 false.*min_positives="):
        report = network(scores, truth, baselines=None, min_positives=50, n_bootstrap=10, n_permutations=2)
    assert np.isnan(report.to_frame().loc[0, "auroc"]) and report.to_frame().loc[0, "auprc_ratio"] > 1
    assert repr(report)


def test_one_regulator_has_no_interval(scores, truth):
    report = network(scores, truth[truth["source"] == "G5"], baselines=None, **OPTIONS)
    row = report.to_frame().iloc[0]
    assert row["n_regulators"] == 1 and row["auroc"] > 0.5
    assert np.isnan([row["auroc_low"], row["auprc_ratio_high"]]).all()


def test_repeated_genes_of_adata_are_read_once(scores, truth, adata):
    twice = AnnData(np.hstack([adata.X, adata.X[:, :1]]))
    twice.var_names = [*GENES, "g0"]
    found = network(scores, truth, baselines="fast", adata=twice, **OPTIONS).to_frame()
    expected = network(scores, truth, baselines="fast", adata=adata, **OPTIONS).to_frame()
    np.testing.assert_allclose(found["auroc"], expected["auroc"])


def test_a_truth_has_a_kind(scores, truth):
    assert network(scores, truth, baselines=None, **OPTIONS).kind is None
    report = network(scores, read_edges(truth, kind="response"), baselines=None, **OPTIONS)
    assert report.kind == "response" and set(report.to_frame()["kind"]) == {"response"}
    assert "Truth (response): " in repr(report)
    assert network(scores, truth, baselines=None, kind="binding", **OPTIONS).kind == "binding"
    with pytest.raises(ValueError, match="unknown kind of truth 'chip'; expected one of"):
        network(scores, truth, kind="chip")


def test_validation(scores, truth, adata):
    with pytest.raises(ValueError, match="unknown scale 'ln'"):
        network(scores, truth, baselines=None, scale="ln")
    with pytest.raises(ValueError, match="scores reach from -.* needs 0 or more; take scale='rank'"):
        network(scores - 0.5, truth, baselines=None, scale="log")
    with pytest.raises(ValueError, match="no edge of the truth is among the measured genes.*gene_ids"):
        network(scores, pd.DataFrame({"source": ["A"], "target": ["B"]}))
    complete = pd.DataFrame([(s, t) for s in ["G0"] for t in GENES], columns=["source", "target"])
    with pytest.raises(ValueError, match="all 59 candidates are true"):
        network(scores, complete)
    with pytest.raises(ValueError, match="no target of the scores .* is a gene of adata"):
        network(scores.add_prefix("x"), truth, adata=adata)
    with pytest.raises(ValueError, match="scores are NaN"):
        network(scores.mask(scores > 0.9), truth)
    with pytest.raises(KeyError, match="expected columns source, target"):
        network(scores, truth.set_axis(["a", "b"], axis=1))
    with pytest.raises(ValueError, match="pass another: `name='model'`"):
        network(scores, truth, baselines={"scores": scores})
    with pytest.raises(ValueError, match="baselines lack their input"):
        network(scores, truth, baselines=["pearson"])
