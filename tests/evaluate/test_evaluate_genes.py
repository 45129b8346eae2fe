"""Probes against plain versions, `genes` on made-up vectors that know something, and its validation."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score

from sccafm.evaluate import GeneReport, genes, start_vectors
from sccafm.evaluate.probes import (
    complex_pairs,
    direction_pairs,
    fold_aurocs,
    pair_aurocs,
    pair_features,
    principal,
    regulation_pairs,
    term_aurocs,
)

RNG = np.random.default_rng(11)
N = 240
NAMES = np.array([f"G{i}" for i in range(N)])
HIDDEN = RNG.normal(size=(N, 6))  # what genes do
VECTORS = pd.DataFrame(HIDDEN + 0.1 * RNG.normal(size=(N, 6)), index=NAMES)
TERMS = {f"t{k}": list(NAMES[HIDDEN @ RNG.normal(size=6) > 2]) for k in range(12)}
COMPLEXES = {f"c{k}": list(NAMES[6 * k : 6 * k + 6]) for k in range(40)}
OPTIONS = {"progress": False, "baselines": ["degree", "random"]}


def made_edges() -> np.ndarray:
    """Edges of 60 regulators, of which a level grows downstream: s regulates t if it is alike and stands above."""
    score = HIDDEN[:60, :3] @ HIDDEN[:, :3].T - 1.5 * HIDDEN[None, :, 5] + 1.5 * HIDDEN[:60, 5:]
    rows, columns = np.nonzero(score > np.quantile(score, 0.9))
    return np.column_stack([rows, columns])[rows != columns]


EDGES = made_edges()
PAIRS = pd.DataFrame(NAMES[EDGES], columns=["source", "target"])


def gene_folds() -> np.ndarray:
    folds = np.full(N, -1)
    folds[:60] = np.random.default_rng(1).permutation(60) % 5
    return folds


def test_term_probe_equals_a_plain_loop():
    is_member = np.stack([np.isin(NAMES, TERMS[t]) for t in ("t0", "t1")], axis=1)
    folds = np.arange(N) % 4
    x, found = VECTORS.to_numpy(), term_aurocs(VECTORS.to_numpy(), is_member, folds)
    for t in range(2):
        aurocs = []
        for fold in range(4):
            train, test = folds != fold, folds == fold
            mean, std = x[train].mean(0), x[train].std(0)
            probe = RidgeCV(np.logspace(1, 5, 5)).fit((x[train] - mean) / std, is_member[train, t].astype(float))
            aurocs.append(roc_auc_score(is_member[test, t], probe.predict((x[test] - mean) / std)))
        assert found[t] == pytest.approx(np.mean(aurocs)) and found[t] > 0.8


def test_a_fold_of_one_class_does_not_count():
    scores, labels = np.arange(6.0)[:, None], np.array([0, 0, 1, 0, 0, 0])[:, None]
    assert fold_aurocs(scores, labels, np.array([0, 0, 0, 1, 1, 1]))[0] == 1.0
    assert np.isnan(fold_aurocs(scores, 0 * labels, np.zeros(6, dtype=int))[0])


def test_pair_features_are_bilinear():
    x = RNG.normal(size=(5, 3))
    row = pair_features(x, np.array([1]), np.array([4]))[0]
    np.testing.assert_allclose(row, [*x[1], *x[4], *np.outer(x[1], x[4]).ravel()])
    assert principal(RNG.normal(size=(50, 30)), 4).shape == (50, 4)
    np.testing.assert_allclose(principal(RNG.normal(size=(50, 30)), 4).std(axis=0), 1)


def test_false_targets_are_matched_and_false():
    pairs = regulation_pairs(EDGES, EDGES, NAMES, gene_folds(), np.random.default_rng(2))
    known = set(map(tuple, EDGES.tolist()))
    ends = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    for pair, is_true in zip(ends, pairs.is_true, strict=True):
        assert (pair in known) == is_true and pair[0] != pair[1]
    true, false = (np.bincount(pairs.first[kind], minlength=60) for kind in (pairs.is_true, ~pairs.is_true))
    np.testing.assert_array_equal(true, false)
    assert (pairs.fold == gene_folds()[pairs.first]).all()
    in_degree = [np.bincount(pairs.second[kind], minlength=N) for kind in (pairs.is_true, ~pairs.is_true)]
    assert np.corrcoef(in_degree)[0, 1] > 0.7


def test_directions_are_edges_and_their_reverse():
    pairs = direction_pairs(EDGES, NAMES, gene_folds())
    known = set(map(tuple, EDGES.tolist()))
    half = len(pairs.first) // 2
    assert pairs.is_true[:half].all() and not pairs.is_true[half:].any()
    np.testing.assert_array_equal(pairs.first[:half], pairs.second[half:])
    np.testing.assert_array_equal(pairs.unit[:half], pairs.unit[half:])
    for s, t in zip(pairs.first[:half].tolist(), pairs.second[:half].tolist(), strict=True):
        assert (s, t) in known and (t, s) not in known and max(s, t) < 60
    folds = gene_folds()
    tested = pairs.fold >= 0
    assert (folds[pairs.first[tested]] == folds[pairs.second[tested]]).all() and 0 < tested.mean() < 0.5


def test_complexes_stay_together():
    members = {name: np.array([int(g[1:]) for g in group]) for name, group in COMPLEXES.items()}
    members["shared"] = np.array([0, 6, 12])
    pairs = complex_pairs(members, N, 5, np.random.default_rng(3), max_pairs=8)
    names = list(members)
    for first, second, is_true, unit, fold in zip(
        pairs.first, pairs.second, pairs.is_true, pairs.unit, pairs.fold, strict=True
    ):
        shared = [n for n in names if first in members[n] and second in members[n]]
        assert (names[unit] in shared) if is_true else not shared
        assert pairs.gene_fold[first] == pairs.gene_fold[second] == fold
    assert np.bincount(pairs.unit[pairs.is_true]).max() <= 8


def test_held_out_genes_are_not_trained_on():
    pairs = direction_pairs(EDGES, NAMES, gene_folds())
    seen = []

    def spy(first, second):
        seen.append(set(first.tolist()) | set(second.tolist()))
        return VECTORS.to_numpy()

    pair_aurocs(spy, pairs)
    folds = gene_folds()
    assert [not any(folds[gene] == fold for gene in genes) for fold, genes in enumerate(seen)] == [True] * 5


def test_pair_aurocs_are_within_units():
    pairs = regulation_pairs(EDGES, EDGES, NAMES, gene_folds(), np.random.default_rng(2))
    aurocs = pair_aurocs(VECTORS.to_numpy(), pairs, 5)
    n_true = np.bincount(pairs.unit[pairs.is_true], minlength=len(pairs.units))
    np.testing.assert_array_equal(np.isfinite(aurocs), n_true >= 5)
    assert np.nanmean(aurocs) > 0.75


def test_vectors_that_know_beat_those_that_do_not():
    report = genes(VECTORS, terms=TERMS, complexes=COMPLEXES, pairs=PAIRS, min_genes=8, **OPTIONS)
    assert isinstance(report, GeneReport)
    table = report.to_frame().set_index(["task", "method"])
    for task in ("terms", "regulation", "direction"):
        assert table.loc[(task, "vectors"), "auroc"] > 0.7, task
        assert abs(table.loc[(task, "random"), "auroc"] - 0.5) < 0.15, task
    assert table.loc[("regulation", "degree"), "auroc"] < table.loc[("regulation", "vectors"), "auroc"]
    assert abs(table.loc[("complexes", "vectors"), "auroc"] - 0.5) < 0.1  # these say nothing about complexes
    assert (table["auroc_low"] <= table["auroc"]).all() and (table["auroc"] <= table["auroc_high"]).all()
    text = repr(report)
    assert "linear probes on 240 genes" in text and "vectors beats the strongest baseline" in text
    assert "terms: GeneSets" in text and "regulation: Truth" in text


def test_direction_is_not_read_from_symmetric_vectors():
    """Without the hidden level, likeness alone tells an edge and not its direction."""
    flat = VECTORS.iloc[:, :5]
    table = genes(flat, pairs=PAIRS, **OPTIONS).to_frame().set_index(["task", "method"])
    full = genes(VECTORS, pairs=PAIRS, **OPTIONS).to_frame().set_index(["task", "method"])
    assert table.loc[("direction", "vectors"), "auroc"] < full.loc[("direction", "vectors"), "auroc"] - 0.15


def test_degree_of_a_set_counts_the_other_sets():
    """A gene of many sets is in one more: the count of other sets tells members from others, without vectors."""
    rng = np.random.default_rng(5)
    popular = rng.random(N)
    sets = {f"s{k}": NAMES[rng.random(N) < popular**2] for k in range(30)}
    table = genes(VECTORS, terms=sets, **OPTIONS).to_frame().set_index("method")
    assert table.loc["degree", "auroc"] > 0.65 > table.loc["random", "auroc"]


def test_seeded_and_spelling_does_not_matter():
    first = genes(VECTORS, terms=TERMS, pairs=PAIRS, min_genes=8, **OPTIONS).to_frame()
    lower = VECTORS.set_axis([name.lower() for name in NAMES])
    pd.testing.assert_frame_equal(genes(lower, terms=TERMS, pairs=PAIRS, min_genes=8, **OPTIONS).to_frame(), first)


def test_genes_that_some_vectors_lack_are_left_out():
    partial = VECTORS.copy()
    partial.iloc[:40] = np.nan
    other = pd.DataFrame(RNG.normal(size=(230, 3)), index=NAMES[10:])
    report = genes(
        {"one": VECTORS, "two": partial}, terms=TERMS, baselines={"other": other}, min_genes=5, progress=False
    )
    assert (report.n_genes, report.n_left_out) == (200, 40)
    assert "(40 that some of the vectors lack are left out)" in repr(report)
    assert list(report.to_frame()["method"]) == ["one", "two", "other"]


def test_start_vectors_are_the_bundled_ones():
    frame = start_vectors(["spi1", "ENSG00000141510.3", "nothing"])
    assert list(frame.index) == ["spi1", "ENSG00000141510.3"]
    np.testing.assert_array_equal(frame.iloc[1], start_vectors(["TP53"]).iloc[0])


def test_report_shows_tables_and_figures():
    report = genes(VECTORS, terms=TERMS, pairs=PAIRS, min_genes=8, **OPTIONS)
    lines = report.to_markdown().splitlines()
    assert lines[0] == "| method | gene sets | regulator-target | direction |" and lines[2].startswith("| vectors | 0.")
    assert isinstance(report.plot(), Figure)


def test_validation():
    with pytest.raises(ValueError, match="nothing to judge by; pass `terms=`"):
        genes(VECTORS)
    with pytest.raises(ValueError, match="label it: `pd.DataFrame"):
        genes({"mine": VECTORS.to_numpy()}, terms=TERMS)
    holes = VECTORS.mask(np.eye(N, 6, dtype=bool))
    with pytest.raises(ValueError, match="NaN or infinite values within 6 of 240 vectors"):
        genes(holes, terms=TERMS)
    with pytest.raises(ValueError, match="names 1 genes twice, e.g. 'g0'"):
        genes(VECTORS.set_axis(["G0", "g0", *NAMES[2:]]), terms=TERMS)
    with pytest.raises(ValueError, match=r"unknown baselines \['pca'\]; expected 'all'"):
        genes(VECTORS, terms=TERMS, baselines="pca")
    with pytest.raises(ValueError, match="have 0 genes in common.*baselines="):
        genes(VECTORS, terms=TERMS)  # the bundled vectors know no G0
    with pytest.raises(ValueError, match="name vectors and a baseline"):
        genes({"random": VECTORS}, terms=TERMS, baselines="random")
    with pytest.raises(ValueError, match="none of 12 sets has 150 to 500 matched genes.*lower `min_genes=`"):
        genes(VECTORS, terms=TERMS, min_genes=150, **OPTIONS)
    with pytest.raises(ValueError, match="the pairs have 2 regulators.*at least 10"):
        genes(VECTORS, pairs=PAIRS[PAIRS["source"].isin(["G0", "G1"])], **OPTIONS)
    with pytest.raises(ValueError, match="2 complexes have three genes, expected at least 10"):
        genes(VECTORS, complexes={"a": NAMES[:4], "b": NAMES[4:9]}, **OPTIONS)
