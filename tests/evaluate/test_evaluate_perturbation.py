"""`perturbation` on simulated knock-downs, its parts against SciPy, its validation."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.figure import Figure
from scipy.sparse import csr_matrix
from scipy.stats import mannwhitneyu, norm, wasserstein_distance

from sccafm.evaluate import PerturbationReport, perturbation
from sccafm.evaluate._perturbation import _matched, _top_weights, rank_sum_columns, wasserstein_columns
from sccafm.evaluate.baselines import FROM_EXPRESSION

GENES = [f"G{i}" for i in range(80)]
TARGETS = {"G0": GENES[10:20], "G1": GENES[30:40]}
KEYS = {"perturbation_key": "guide", "control": "non-targeting"}


@pytest.fixture
def adata() -> AnnData:
    """Control cells and two knock-downs that lower ten targets each; expression differs between genes and batches."""
    rng = np.random.default_rng(0)
    guide = np.repeat(["non-targeting", "g0", "G1", "G0+G1", "G2"], [120, 60, 60, 30, 5])
    batch = np.where(rng.random(len(guide)) < 0.5, "a", "b")
    level = rng.gamma(2.0, size=80) + 1.0 * (batch == "b")[:, None]
    x = rng.normal(level, 0.4)
    for regulator, targets in TARGETS.items():
        x[np.ix_(np.char.upper(guide) == regulator, [GENES.index(t) for t in targets])] -= 0.8
    adata = AnnData(np.maximum(x, 0))
    adata.var_names = GENES
    adata.obs["guide"], adata.obs["batch"] = guide, batch
    return adata


@pytest.fixture
def scores() -> pd.DataFrame:
    """Knows the targets."""
    scores = pd.DataFrame(0.01 * np.random.default_rng(1).random((3, 80)), index=["G0", "G1", "G2"], columns=GENES)
    for regulator, targets in TARGETS.items():
        scores.loc[regulator, targets] += 1
    return scores


def test_columns_equal_scipy():
    rng = np.random.default_rng(2)
    a, b = np.round(rng.normal(size=(23, 6)), 1), np.round(rng.normal(0.3, size=(31, 6)), 1)
    a[:, 5] = b[:, 5] = 0
    excess, variance = rank_sum_columns(a, b)
    for j in range(6):
        assert wasserstein_columns(a, b)[j] == pytest.approx(wasserstein_distance(a[:, j], b[:, j]))
        test = mannwhitneyu(a[:, j], b[:, j], method="asymptotic", use_continuity=False)
        assert excess[j] == pytest.approx(test.statistic - 23 * 31 / 2)
        if j < 5:
            z = np.sqrt(variance[j])
            assert 2 * norm.sf(abs(excess[j]) / z) == pytest.approx(test.pvalue)
    assert variance[5] == 0


def test_ties_share_the_places_that_are_left():
    weights = _top_weights(np.array([5.0, 3, 3, 3, 1]), 3)
    np.testing.assert_allclose(weights, [1, 2 / 3, 2 / 3, 2 / 3, 0])
    np.testing.assert_allclose(_top_weights(np.full(4, -np.inf), 2), 0.5)


def test_matched_genes_are_neighbours_in_expression():
    rng = np.random.default_rng(3)
    level = rng.permutation(50).astype(float)
    chosen = np.array([7, 20, np.argmax(level), np.argmin(level)])
    drawn = _matched(chosen, level, 6, 400, rng)
    assert drawn.shape == (4, 400)
    for gene, row in zip(chosen, drawn, strict=True):
        near = np.argsort(abs(level - level[gene]), kind="stable")[1:]
        assert gene not in row and len(set(row)) == 6
        if 3 <= level[gene] <= 46:
            assert set(row) <= set(near[:7])
        assert abs(level[row] - level[gene]).max() <= 6


def test_true_targets_move_more_than_matched_genes(adata, scores):
    report = perturbation(scores, adata, **KEYS, n_targets=10, name="model")
    assert isinstance(report, PerturbationReport)
    rows = report.to_frame().set_index("method")
    for measure in ("wasserstein", "de_percentile"):
        assert rows.loc["model", f"{measure}_excess"] > 3 * abs(rows.loc["random", f"{measure}_excess"])
        assert rows.loc["model", f"{measure}_p"] < 0.01 < rows.loc["target_mean", f"{measure}_p"]
        low, high = rows.loc["model", [f"{measure}_excess_low", f"{measure}_excess_high"]]
        assert low <= rows.loc["model", f"{measure}_excess"] <= high
    assert rows.loc["model", "n_regulators"] == 2
    assert report.left_out["G0+G1".upper()] == "no regulator of the network"
    assert report.left_out["G2"].startswith("5 cells beside control cells, fewer than 20")
    assert report.skipped == {"prior_edges": "pass prior=", "prior_degrees": "pass prior="}


def test_numbers_equal_plain_loops(adata, scores):
    report = perturbation(scores, adata, **KEYS, n_targets=10, baselines=None, groupby="batch")
    row = report.per_regulator.set_index("regulator").loc["G1"]
    guide, batch = adata.obs["guide"].to_numpy(), adata.obs["batch"].to_numpy()
    expected = []
    for target in TARGETS["G1"]:
        values, total = adata.obs_vector(target), 0.0
        for b in ("a", "b"):
            moved, still = values[(guide == "G1") & (batch == b)], values[(guide == "non-targeting") & (batch == b)]
            total += wasserstein_distance(moved, still) * len(moved) / 60
        expected.append(total)
    assert row["wasserstein"] == pytest.approx(np.mean(expected))
    assert row["n_perturbed_cells"] == 60


def test_comparing_within_batches_removes_an_unbalanced_design(adata, scores):
    """Perturbed cells of one batch only: without `groupby` the batch moves every gene."""
    one_batch = adata[(adata.obs["batch"] == "b") | (adata.obs["guide"] == "non-targeting")]
    pooled, within = (
        perturbation(scores, one_batch, **KEYS, n_targets=10, baselines=None, groupby=g, min_cells=10)
        for g in (None, "batch")
    )
    matched = [report.to_frame().loc[0, "wasserstein_matched"] for report in (pooled, within)]
    assert matched[0] > 1.5 * matched[1]
    no_control = adata[(adata.obs["batch"] == "b") | (adata.obs["guide"] != "non-targeting")]
    report = perturbation(scores, no_control, **KEYS, n_targets=10, baselines=None, groupby="batch", min_cells=10)
    n = report.per_regulator.set_index("regulator")["n_perturbed_cells"]
    is_b = adata.obs["batch"] == "b"
    assert n["G0"] == (is_b & (adata.obs["guide"] == "g0")).sum()


def test_seeded_and_storage_does_not_matter(adata, scores):
    expected = perturbation(scores, adata, **KEYS, n_targets=10).to_frame()
    pd.testing.assert_frame_equal(perturbation(scores, adata, **KEYS, n_targets=10).to_frame(), expected)
    sparse = adata.copy()
    sparse.X = csr_matrix(sparse.X)
    pd.testing.assert_frame_equal(perturbation(scores, sparse, **KEYS, n_targets=10).to_frame(), expected)


def test_baselines_do_not_see_the_perturbation(adata, scores, monkeypatch):
    seen = []

    def spy(cells, regulators, *, layer):
        seen.append(cells.obs["guide"].unique().tolist())
        return pd.DataFrame(0.5, index=regulators, columns=cells.var_names)

    monkeypatch.setitem(FROM_EXPRESSION, "pearson", spy)
    perturbation(scores, adata, **KEYS, n_targets=10, baselines=["pearson"])
    assert seen == [["non-targeting"]]


def test_a_gene_that_is_not_measured_can_be_perturbed(adata, scores):
    renamed = adata.copy()
    renamed.obs["guide"] = renamed.obs["guide"].replace({"g0": "KLF1"})
    report = perturbation(scores.rename(index={"G0": "Klf1"}), renamed, **KEYS, n_targets=10)
    rows = report.to_frame().set_index("method")
    assert rows.loc["scores", "n_regulators"] == 2
    assert rows.loc["pearson", "n_unscored_regulators"] == 1 and rows.loc["target_mean", "n_unscored_regulators"] == 0
    assert "(1 regulators without a score)" in repr(report)


def test_report_tells_the_story(adata, scores):
    report = perturbation(scores, adata, **KEYS, n_targets=10, name="model")
    text = repr(report)
    assert "model: first 10 targets of 2 perturbed regulators" in text and "120 control cells" in text
    assert "2 perturbations left out" in text and "not run: prior_edges" in text
    lines = report.to_markdown().splitlines()
    assert lines[0].startswith("| method | Wasserstein distance |") and "excess +" in lines[2]
    assert isinstance(report.plot(), Figure)


def test_validation(adata, scores):
    with pytest.raises(KeyError, match="obs has no column 'condition'.*guide"):
        perturbation(scores, adata, perturbation_key="condition", control="ctrl")
    with pytest.raises(KeyError, match=r"no cell of obs\['guide'\] is 'ctrl'.*non-targeting"):
        perturbation(scores, adata, perturbation_key="guide", control="ctrl")
    with pytest.raises(KeyError, match="obs has no column 'plate'"):
        perturbation(scores, adata, **KEYS, groupby="plate")
    with pytest.raises(ValueError, match="120 control cells, expected at least 500"):
        perturbation(scores, adata, **KEYS, min_cells=500)
    with pytest.raises(ValueError, match="no perturbed gene is a regulator.*G2"):
        perturbation(scores.loc[["G2"]], adata, **KEYS)
    with pytest.raises(ValueError, match="n_targets must be between 1 and half of the 80 genes, got 60"):
        perturbation(scores, adata, **KEYS, n_targets=60)
    with pytest.raises(ValueError, match="scores are NaN"):
        perturbation(scores.mask(scores > 0.5), adata, **KEYS)
