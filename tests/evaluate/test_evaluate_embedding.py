"""Measures of an embedding against scikit-learn and plain loops; `embedding` on made-up cells; its validation."""

import re
import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.figure import Figure
from scipy.sparse import csr_matrix
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.metrics import f1_score, silhouette_score

from sccafm.evaluate import EmbeddingReport, embedding, hvg_pca, log_expression, random_embedding
from sccafm.evaluate import integration as measures
from sccafm.evaluate.representations import run_representations, scvi_embedding

KEYS = {"batch_key": "donor", "label_key": "cell_type"}


@pytest.fixture
def adata() -> AnnData:
    """Three cell types from two donors, a fourth from one: counts of 40 genes; X_good knows them, X_batch the donor."""
    rng = np.random.default_rng(0)
    kind, donor = np.arange(120) % 3, np.arange(120) // 60
    kind[(np.arange(120) % 12 == 5) & (donor == 1)] = 3
    rate = rng.gamma(2.0, 2.0, (4, 40))
    adata = AnnData(csr_matrix(rng.poisson(rate[kind] * rng.uniform(0.9, 1.1, (2, 40))[donor]).astype(np.float32)))
    adata.obs["cell_type"], adata.obs["donor"] = np.array(list("abcd"))[kind], np.array(["d0", "d1"])[donor]
    adata.obs["time"] = kind + rng.random(120)
    adata.obsm["X_good"] = np.eye(4)[kind] + 0.05 * rng.normal(size=(120, 4))
    adata.obsm["X_batch"] = pd.DataFrame(np.eye(2)[donor] + 0.05 * rng.normal(size=(120, 2)), index=adata.obs_names)
    return adata


@pytest.fixture
def parts(adata):
    """Embedding, labels, batches, and three draws of cells, as the measures take them."""
    x = hvg_pca(adata, n_components=3).astype(float)
    labels, batches = (adata.obs[key].to_numpy(dtype=object) for key in ("cell_type", "donor"))
    return x, labels, batches, measures.cell_draws(batches, 3, np.random.default_rng(1))


def nearest(x: np.ndarray, cell: int, among: np.ndarray, k: int) -> np.ndarray:
    """k nearest of the cells `among`, by a plain sort."""
    return among[np.argsort(((x[among] - x[cell]) ** 2).sum(axis=1), kind="stable")[:k]]


def test_draws_keep_the_size_of_each_batch(parts):
    _, _, batches, counts = parts
    for batch in ("d0", "d1"):
        assert (counts[:, batches == batch].sum(axis=1) == (batches == batch).sum()).all()


def test_label_silhouette_equals_scikit_learn(parts):
    x, labels, _, counts = parts
    found = measures.silhouette_label(x, labels, counts)
    assert found.value == pytest.approx((silhouette_score(x, labels) + 1) / 2)
    same = measures.silhouette_label(x, labels, np.ones((1, len(x)), dtype=int))
    assert same.draws[0] == pytest.approx(found.value)


def test_batch_silhouette_equals_a_plain_loop(parts):
    x, labels, batches, counts = parts
    expected = []
    for label in "abc":  # d comes from one donor
        cells = np.flatnonzero(labels == label)
        widths = []
        for i in cells:
            distance = np.linalg.norm(x[cells] - x[i], axis=1)
            own, other = batches[cells] == batches[i], batches[cells] != batches[i]
            a, b = distance[own].sum() / (own.sum() - 1), distance[other].mean()
            widths.append(1 - abs((b - a) / max(a, b)))
        expected.append(np.mean(widths))
    assert measures.silhouette_batch(x, labels, batches, counts).value == pytest.approx(np.mean(expected))
    one = measures.silhouette_batch(x, labels, labels, counts)
    assert np.isnan(one.value) and np.isnan(one.draws).all()


def test_graph_connectivity_equals_a_flood(parts):
    _, labels, _, _ = parts
    x, every = np.random.default_rng(3).normal(size=(120, 2)), np.arange(120)
    near = {i: set(nearest(x, i, every[every != i], 4)) for i in every}
    expected = []
    for label in "abcd":
        left, largest = set(np.flatnonzero(labels == label)), 0
        n = len(left)
        while left:
            piece, frontier = set(), {left.pop()}
            while frontier:
                piece |= frontier
                frontier = {j for j in left if any(j in near[i] or i in near[j] for i in frontier)}
                left -= frontier
            largest = max(largest, len(piece))
        expected.append(largest / n)
    assert min(expected) < 1
    assert measures.graph_connectivity(x, labels, 4) == pytest.approx(np.mean(expected))


def test_isolated_labels_are_those_in_the_fewest_batches(parts):
    _, labels, batches, _ = parts
    assert measures.isolated_labels(labels, batches) == ["d"]
    assert measures.isolated_labels(labels[labels != "d"], batches[labels != "d"]) == ["a", "b", "c"]


def test_isolated_label_f1_is_the_best_over_all_clusters(parts):
    from scipy.cluster.hierarchy import cut_tree, linkage

    x, labels, _, _ = parts
    tree = cut_tree(linkage(x, "ward"))  # without a neighbour graph, as with all neighbours
    clusters = {tuple(tree[:, level] == c) for level in range(len(x)) for c in np.unique(tree[:, level])}
    best = max(f1_score(labels == "d", np.array(cluster)) for cluster in clusters)
    assert 0 < best < 1
    assert measures.isolated_label_f1(x, labels, ["d"], len(x)) == pytest.approx(best)
    apart = np.hstack([np.eye(4)[pd.factorize(labels)[0]], 1e-3 * x])
    assert measures.isolated_label_f1(apart, labels, ["d", "a"], 5) == 1.0


def test_label_transfer_equals_a_plain_vote(parts):
    x, labels, batches, counts = parts
    predicted, is_known = measures.transfer_labels(x, labels, batches, 5)
    assert (is_known == (labels != "d")).all()
    for cell in range(len(x)):
        votes = pd.Series(labels[nearest(x, cell, np.flatnonzero(batches != batches[cell]), 5)]).value_counts()
        assert predicted[cell] in votes.index[votes == votes.max()]
    found = measures.transfer_scores(labels, predicted, is_known, counts)
    assert found["transfer_accuracy"].value == pytest.approx(np.mean(labels[is_known] == predicted[is_known]))
    f1 = f1_score(labels[is_known], predicted[is_known], labels=list("abc"), average="macro", zero_division=0)
    assert found["transfer_f1"].value == pytest.approx(f1)
    drawn = np.repeat(np.arange(len(x)), counts[0] * is_known)
    assert found["transfer_accuracy"].draws[0] == pytest.approx(np.mean(labels[drawn] == predicted[drawn]))
    f1 = f1_score(labels[drawn], predicted[drawn], labels=list("abc"), average="macro", zero_division=0)
    assert found["transfer_f1"].draws[0] == pytest.approx(f1)


def test_pseudotime_correlation_equals_a_plain_mean(adata, parts):
    x, _, batches, counts = parts
    time = adata.obs["time"].to_numpy()
    read = np.array([
        time[nearest(x, cell, np.flatnonzero(batches != batches[cell]), 6)].mean() for cell in range(len(x))
    ])  # fmt: skip
    found = measures.pseudotime_correlation(x, time, batches, counts, 6)
    assert found.value == pytest.approx(spearmanr(read, time).statistic)
    drawn = np.repeat(np.arange(len(x)), counts[2])
    assert found.draws[2] == pytest.approx(spearmanr(read[drawn], time[drawn]).statistic)
    assert measures.pseudotime_correlation(np.zeros_like(x), time, batches, counts, 60).value <= 0


def test_baselines_are_what_they_say(adata):
    counts = adata.X.toarray()
    logged = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    np.testing.assert_allclose(log_expression(adata), logged, rtol=1e-5)
    assert log_expression(adata, n_top_genes=10, batch_key="donor").shape == (120, 10)
    found, expected = hvg_pca(adata, n_components=5), PCA(5).fit_transform(logged)
    np.testing.assert_allclose(abs(found), abs(expected), atol=1e-3)
    dense = adata.copy()
    dense.X = dense.X.toarray()
    np.testing.assert_allclose(log_expression(dense, n_top_genes=10), log_expression(adata, n_top_genes=10), rtol=1e-5)
    assert (random_embedding(adata) == random_embedding(adata)).all()


def test_a_good_embedding_beats_a_bad_one(adata):
    report = embedding(adata, ["X_good", "X_batch"], **KEYS, pseudotime_key="time", scib=False, baselines="fast")
    assert isinstance(report, EmbeddingReport)
    table = report.to_frame().set_index("method")
    assert list(table.index) == ["X_good", "X_batch", "hvg_pca", "log_expression", "random"]
    for measure in (
        "silhouette_label",
        "isolated_f1",
        "transfer_accuracy",
        "transfer_f1",
        "silhouette_batch",
        "pseudotime",
    ):
        assert table.loc["X_good", measure] > table.loc["X_batch", measure], measure
    for measure in ("silhouette_label", "transfer_accuracy", "transfer_f1", "silhouette_batch", "pseudotime"):
        assert (table[f"{measure}_low"] <= table[measure]).all() and (table[measure] <= table[f"{measure}_high"]).all()
    text = repr(report)
    # Which of two near baselines is the stronger is for the machine's rounding to say.
    assert re.search(r"label silhouette: X_good beats the strongest baseline, (log_expression|hvg_pca): \+", text)
    assert re.search(r"batch silhouette: X_batch loses to the strongest baseline, \w+: -", text)
    assert "120 cells, 4 labels, 2 batches of donor (5 in no other batch" in text
    assert "not run: cLISI" in text and report.isolated == ("d",)


def test_random_numbers_are_at_chance(adata):
    table = embedding(adata, "X_good", **KEYS, scib=False).to_frame().set_index("method")
    assert abs(table.loc["random", "silhouette_label"] - 0.5) < 0.02
    assert table.loc["random", "silhouette_batch"] > 0.95
    assert 0.2 < table.loc["random", "transfer_accuracy"] < 0.5


def test_without_batches_folds_are_crossed(adata):
    report = embedding(adata, "X_good", batch_key=None, label_key="cell_type", scib=False, baselines=None)
    assert not {"silhouette_batch", "isolated_f1"} & set(report.to_frame()) and report.across == "folds"
    assert report.to_frame().loc[0, "transfer_accuracy"] > 0.95  # five cells of d outvote nobody
    assert "5 random folds" in repr(report)


def test_seeded_and_storage_does_not_matter(adata):
    first = embedding(adata, "X_good", **KEYS, scib=False).to_frame()
    dense = adata.copy()
    dense.X = dense.X.toarray()
    pd.testing.assert_frame_equal(embedding(adata, "X_good", **KEYS, scib=False).to_frame(), first)
    pd.testing.assert_frame_equal(embedding(dense, "X_good", **KEYS, scib=False).to_frame(), first, rtol=1e-3)


def test_what_is_left_out_is_counted(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].replace("d", None)
    adata.obs.loc[adata.obs_names[:4], "time"] = [np.nan, np.inf, np.nan, np.inf]
    report = embedding(adata, "X_good", **KEYS, pseudotime_key="time", scib=False, max_cells=100)
    assert report.counts["n_without_label"] == 5 and report.counts["n_not_drawn"] == 15
    assert report.counts["n_cells"] == 100 and 0 < report.counts["n_without_pseudotime"] <= 4
    assert "5 left out without a label or batch; 15 not drawn" in repr(report)


def test_report_shows_tables_and_figures(adata):
    report = embedding(adata, "X_good", **KEYS, scib=False, baselines={"theirs": adata.obsm["X_batch"].to_numpy()})
    lines = report.to_markdown().splitlines()
    assert lines[0].startswith("| method | label silhouette |") and lines[2].startswith("| X_good | 0.")
    assert lines[3].startswith("| theirs |") and len({line.count("|") for line in lines[:4]}) == 1
    assert isinstance(report.plot(), Figure)


def test_scib_metrics_agree_and_add(adata, parts):
    scib_metrics = pytest.importorskip("scib_metrics")
    x, labels, batches, counts = parts
    label, batch = pd.factorize(labels)[0], pd.factorize(batches)[0]
    theirs = scib_metrics.silhouette_label(x, label), scib_metrics.silhouette_batch(x, label, batch)
    assert measures.silhouette_label(x, labels, counts).value == pytest.approx(theirs[0], abs=1e-4)
    assert measures.silhouette_batch(x, labels, batches, counts).value == pytest.approx(theirs[1], abs=1e-4)
    table = embedding(adata, ["X_good", "X_batch"], **KEYS, baselines=None).to_frame().set_index("method")
    assert table.loc["X_good", "nmi"] == pytest.approx(1.0) and table.loc["X_batch", "nmi"] < 0.2
    assert table.loc["X_good", "ilisi"] > table.loc["X_batch", "ilisi"]
    assert table.loc["X_good", "clisi"] > table.loc["X_batch", "clisi"]
    assert table["ari"].notna().all()


def test_packages_that_are_not_installed_are_named(adata, monkeypatch):
    monkeypatch.setitem(sys.modules, "scvi", None)
    with pytest.raises(ImportError, match="pip install scvi-tools"):
        scvi_embedding(adata)
    monkeypatch.setitem(sys.modules, "scib_metrics", None)
    with pytest.raises(ImportError, match="pip install scib-metrics"):
        embedding(adata, "X_good", **KEYS, scib=True, baselines=None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found, skipped = run_representations("all", adata, layer=None, batch_key=None, random_state=0)
    assert list(found) == ["hvg_pca", "log_expression", "random"] and "scvi-tools" in skipped["scvi"]


def test_validation(adata):
    with pytest.raises(KeyError, match=r"obsm has no field 'X_umap'; there are \['X_good', 'X_batch'\]"):
        embedding(adata, "X_umap", **KEYS)
    with pytest.raises(KeyError, match="obs has no column 'batch'.*donor.*batch_key="):
        embedding(adata, "X_good", batch_key="batch", label_key="cell_type")
    with pytest.raises(KeyError, match="obs has no column 'type'.*label_key="):
        embedding(adata, "X_good", batch_key="donor", label_key="type")
    with pytest.raises(KeyError, match="pass one as `pseudotime_key=`"):
        embedding(adata, "X_good", **KEYS, pseudotime_key="dpt", baselines=None)
    with pytest.raises(ValueError, match="no two different numbers"):
        embedding(adata, "X_good", **KEYS, pseudotime_key="cell_type", baselines=None)
    one = adata[adata.obs["donor"] == "d0"]
    with pytest.raises(ValueError, match="obs\\['donor'\\] holds 1 value .*batch_key=None"):
        embedding(one, "X_good", **KEYS)
    with pytest.raises(ValueError, match="obs\\['cell_type'\\] holds 1 value"):
        embedding(adata[adata.obs["cell_type"] == "a"], "X_good", **KEYS)
    with pytest.raises(ValueError, match=r"'mine' has shape \(3, 2\), expected 120 cells"):
        embedding(adata, "X_good", **KEYS, baselines={"mine": np.zeros((3, 2))})
    with pytest.raises(ValueError, match="name an embedding and a baseline"):
        embedding(adata, "X_good", **KEYS, baselines={"X_good": np.zeros((120, 2))})
    with pytest.raises(ValueError, match=r"unknown baselines \['pca'\]"):
        embedding(adata, "X_good", **KEYS, baselines="pca")
    adata.obsm["X_good"][7] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite values in 1 of 120 cells; leave those cells out"):
        embedding(adata, "X_good", **KEYS)
    with pytest.raises(ValueError, match="none of 40 genes varies"):
        log_expression(AnnData(np.ones((3, 40))))
