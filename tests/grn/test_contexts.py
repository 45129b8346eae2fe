"""Factors in words: enrichment, names, where they are active, explanations, and agreement between seeds."""

import gzip

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import sccafm
from sccafm import evaluate
from sccafm.grn.contexts import (
    enrichment,
    leading,
    load_entropy,
    matched_correlation,
    name_factor,
    names_nothing,
    short_term,
    where_active,
)
from sccafm.reference.tables import read_gene_sets

GENES = pd.Index([f"G{i}" for i in range(40)])
SETS = {"first (GO:0000001)": frozenset(GENES[:8]), "last": frozenset(GENES[-5:]), "elsewhere": frozenset(["X1", "X2"])}


def test_enrichment_is_the_hypergeometric_test():
    weight = np.linspace(1, 0, 40)
    table = enrichment(weight, GENES, SETS, n_top=10)
    assert table["term"].tolist() == ["first (GO:0000001)"]
    first = table.iloc[0]
    assert (first["overlap"], first["size"]) == (8, 8)
    assert first["pvalue"] == pytest.approx(stats.hypergeom.sf(7, 40, 8, 10))
    assert first["fdr"] == pytest.approx(3 * first["pvalue"])
    assert first["genes"] == ", ".join(sorted(GENES[:8]))


def test_genes_without_weight_are_no_targets():
    weight = np.zeros(40)
    weight[-5:] = 1
    table = enrichment(weight, GENES, SETS, n_top=10)
    assert table["term"].tolist() == ["last"]
    assert table["pvalue"].iloc[0] == pytest.approx(stats.hypergeom.sf(4, 40, 5, 5))
    assert len(enrichment(np.zeros(40), GENES, SETS)) == 0
    assert len(enrichment(weight, GENES, {})) == 0


def test_names_come_from_the_best_set_else_from_regulators():
    table = enrichment(np.linspace(1, 0, 40), GENES, SETS, n_top=10)
    name, evidence = name_factor(3, ["STAT1", "IRF1"], table)
    assert name == "factor_003: STAT1/IRF1, first"
    assert "8 of 8 genes among its targets, FDR" in evidence
    name, evidence = name_factor(3, ["STAT1", "IRF1", "MYC"], table.assign(fdr=0.2))
    assert name == "factor_003: STAT1/IRF1"
    assert "no gene set that tells a state is enriched" in evidence
    assert name_factor(3, [], table.iloc[:0])[0] == "factor_003"


@pytest.mark.parametrize(
    "term", ["Leishmania infection", "Eukaryotic Translation Elongation", "Respiratory electron transport"]
)
def test_sets_of_housekeeping_and_of_diseases_name_nothing(term):
    table = enrichment(np.linspace(1, 0, 40), GENES, SETS, n_top=10)
    renamed = pd.concat([table.head(1).assign(term=term), table.assign(fdr=0.01)], ignore_index=True)
    assert name_factor(3, ["STAT1"], renamed)[0] == "factor_003: STAT1, first"
    assert name_factor(3, ["STAT1"], renamed.head(1))[0] == "factor_003: STAT1"
    assert not names_nothing("cellular response to tumor necrosis factor (GO:0071356)")


def test_leading_rows_are_heavy_and_heavier_than_elsewhere():
    weight = np.array([[0.5, 0.5, 0.5], [0.3, 0.0, 0.0], [0.1, 0.4, 0.1], [0.0, 0.0, 0.2]])
    assert [rows.tolist() for rows in leading(weight, 2)] == [[1], [2], [3]]  # row 0 is a hub of every column


def test_terms_are_shortened_at_a_word():
    assert short_term("interferon-gamma signaling (GO:0060333)") == "interferon-gamma signaling"
    assert short_term("positive regulation of transcription by RNA polymerase II", 30) == "positive regulation"
    assert short_term("response to factor (long name of it) and", 20) == "response to factor"


def test_factors_are_active_where_their_share_is_largest():
    context = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    best = where_active(context, pd.Series(["liver", "liver", "blood"]), 1)
    assert best == [[("liver", pytest.approx(0.85))], [("blood", pytest.approx(0.9))]]


def test_entropy_of_the_load():
    assert load_entropy(np.ones(7)) == pytest.approx(1)
    assert load_entropy(np.array([1, 0, 0])) == 0
    assert load_entropy(np.array([1, 1, 0, 0])) == pytest.approx(0.5)


def test_matching_undoes_a_permutation():
    rng = np.random.default_rng(0)
    loads = rng.random((50, 6))
    order = rng.permutation(6)
    partners, correlation = matched_correlation(loads, 3 * loads[:, order] + 1)
    assert order[partners].tolist() == list(range(6))
    np.testing.assert_allclose(correlation, 1)
    assert matched_correlation(loads, rng.random((50, 6)))[1].mean() < 0.5


# --- gene sets


def test_shipped_sets_hold_what_is_known():
    sets = read_gene_sets()
    assert len(sets) > 1000
    (name,) = [n for n in sets if n.startswith("type I interferon signaling pathway")]
    assert {"STAT1", "MX1", "IFI6"} <= sets[name]


def test_gene_sets_are_read_plain_or_packed(tmp_path):
    text = "a\tnote\tGata1\tSPI1\nb\tnote\tMYC\n"
    (tmp_path / "sets.gmt").write_text(text)
    (tmp_path / "sets.gmt.gz").write_bytes(gzip.compress(text.encode()))
    for file in ("sets.gmt", "sets.gmt.gz"):
        assert read_gene_sets(tmp_path / file) == {"a": {"GATA1", "SPI1"}, "b": {"MYC"}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.gmt", b"a\tb", "have no name, description and genes"),
        ("a.gmt.gz", b"a\tb\tC", "is no readable"),
        ("none.gmt", None, "is no"),
    ],
)
def test_other_files_are_no_gene_sets(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_gene_sets(tmp_path / name)


# --- of a GRN


@pytest.fixture
def grn(calibrated_model, toy_adata):
    return sccafm.infer_grn(toy_adata, calibrated_model, groupby="cell_type", keep_factors=True, progress=False)


def test_contexts_carry_the_names_of_the_model(grn, toy_adata, calibrated_model):
    assert toy_adata.obs["sccafm_context"].cat.categories.tolist() == list(calibrated_model.contexts)
    assert grn.factors_table()["name"].tolist() == list(calibrated_model.contexts)
    codes = grn.context.to_numpy().argmax(1)
    assert grn.context_label.tolist() == [calibrated_model.contexts[code] for code in codes]


def test_factors_table_says_where_and_what(grn):
    sets = {"immune": frozenset(["CD3D", "CD3E", "CD4", "CD8A", "CD8B"]), "all": frozenset(grn.targets)}
    table = grn.factors_table(2, sets)
    shares = grn.context.groupby(grn.groups.astype(str).to_numpy()).mean()
    symbols = pd.Index(grn.genes["symbol"])
    for m, (factor, row) in enumerate(table.iterrows()):
        assert row["active_in"].split(" (")[0] == shares[factor].idxmax()
        best = enrichment(grn.sums["v"][:, m], symbols, sets).head(1)
        assert row["term"] == (best["term"].iloc[0] if len(best) else None)


def test_sets_are_matched_whatever_their_case_and_form(grn):
    immune = ["CD3D", "CD3E", "CD4", "CD8A", "CD8B"]
    expected = grn.factors_table(2, {"immune": frozenset(immune)})
    assert expected["term"].notna().any()
    small = {"immune": [gene.lower() for gene in immune]}
    for sets in (small, evaluate.read_gene_sets(small)):
        pd.testing.assert_frame_equal(grn.factors_table(2, sets), expected)


def test_explanation_adds_up_to_the_edge(grn):
    row = grn["cell4"].iloc[0]
    found = grn.explain(row["source"], row["target"], "cell4")
    assert found.weight == pytest.approx(row["weight"], rel=2**-13)  # kept weights are rounded to 14 bits
    assert found.factors["contribution"].sum() == pytest.approx(found.weight)
    assert found.mean_weight == pytest.approx(grn.matrix().loc[row["source"], row["target"]], abs=1e-6)
    assert found.factors["contribution"].is_monotonic_decreasing
    every = [float(u.loc[row["source"]] @ v.loc[row["target"]]) for u, v in map(grn.factors, grn.cells)]
    assert found.share_below == pytest.approx(np.mean(np.array(every) < every[4]), abs=0.05)
    lead = found.factors.iloc[0]
    assert lead["contribution"] == pytest.approx(lead["regulator"] * lead["target"])
    assert f"{row['source']} -> {row['target']} in cell4: weight" in repr(found)
    assert lead["name"] in repr(found)


def test_explanation_is_the_same_from_disk(grn, tmp_path):
    back = sccafm.read_grn(grn.write(tmp_path / "grn"))
    one, other = (g.explain("SPI1", "LYZ", "cell9") for g in (grn, back))
    pd.testing.assert_frame_equal(one.factors, other.factors)
    assert one.share_below == other.share_below


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (("LYZ", "SPI1", "cell0"), "'LYZ' is no regulator of this GRN; they look like"),
        (("SPI1", "nothing", "cell0"), "'nothing' is no gene of this GRN"),
        (("SPI1", "LYZ", "cell99"), "1 cells are not in this GRN"),
    ],
)
def test_unknown_names_are_said(grn, what, message):
    with pytest.raises(KeyError, match=message):
        grn.explain(*what)


def test_explanation_needs_factors(tiny_model, toy_adata):
    grn = sccafm.infer_grn(toy_adata, tiny_model, progress=False)
    with pytest.raises(KeyError, match="keeps no factors; infer with keep_factors=True"):
        grn.explain("SPI1", "LYZ", "cell0")
