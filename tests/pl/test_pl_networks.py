"""Pictures of networks: the edges that are chosen, layout, names that do not overlap, files that are whole."""

import sys

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from drawing import adata, closed, extents, grn, of_kind, overlaps, sparse_grn, words  # noqa: F401 (fixtures)
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from sccafm import pl
from sccafm.pl.canvas import label_points, text_size
from sccafm.pl.layout import boxes
from sccafm.pl.selection import chosen_edges, mean_expression, specificity

# --- which edges


def test_specificity_is_the_log_ratio_to_the_other_groups(grn):
    found = specificity(grn, "B cell")
    own = grn.matrix("B cell")
    rest = (grn.matrix("T cell") + grn.matrix("monocyte")) / 2
    floor = own.to_numpy().mean()
    for source, target in (("SPI1", "LYZ"), ("PAX5", "CD19")):
        expected = np.log2((own.loc[source, target] + floor) / (rest.loc[source, target] + floor))
        assert found.loc[source, target] == pytest.approx(expected)


def test_specificity_beside_one_group(grn):
    found = specificity(grn, "B cell", "monocyte")
    own, rest = grn.matrix("B cell"), grn.matrix("monocyte")
    floor = own.to_numpy().mean()
    np.testing.assert_allclose(found, np.log2((own + floor) / (rest + floor)))
    ax = pl.network(grn, "B cell", n_edges=5, beside=["monocyte"])
    assert ax.get_title() == "B cell (10 cells): 5 edges beside monocyte"
    with pytest.raises(ValueError, match="beside='B cell' needs another group=, got 'B cell'"):
        specificity(grn, "B cell", "B cell")
    with pytest.raises(KeyError, match="no group 'NK'"):
        pl.network(grn, "B cell", beside="NK")


def test_chosen_edges_are_those_of_a_plain_loop(grn):
    found = chosen_edges(grn, "B cell", n_edges=12, max_regulators=2)
    table, ratio = grn.network("B cell"), specificity(grn, "B cell")
    ranked = sorted(
        (-row.weight * ratio.loc[row.source, row.target], i, row.source, row.target)
        for i, row in enumerate(table.itertuples())
        if ratio.loc[row.source, row.target] > 0
    )
    count, expected = {}, []
    for _, _, source, target in ranked:
        count[target] = count.get(target, 0) + 1
        if count[target] <= 2:
            expected.append((source, target))
    assert list(zip(found["source"], found["target"], strict=True)) == expected[:12]


def test_by_weight_gives_the_strongest(grn):
    found = chosen_edges(grn, "B cell", n_edges=9, rank="weight", max_regulators=None)
    pd.testing.assert_frame_equal(found.drop(columns="specificity"), grn.network("B cell", 9))


def test_expression_is_the_mean_over_the_groups_cells(grn, adata):
    of_group = mean_expression(grn, "T cell")
    counts = adata[adata.obs["cell_type"] == "T cell"].X.toarray()
    counts = counts / counts.sum(1, keepdims=True)
    np.testing.assert_allclose(of_group[adata.var_names], np.log1p(counts * 1e4).mean(0), rtol=1e-5)
    sizes = grn.group_sizes
    weighted = sum(mean_expression(grn, g) * n for g, n in sizes.items()) / sizes.sum()
    np.testing.assert_allclose(mean_expression(grn, None), weighted)


# --- layout


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), min_size=1, max_size=80), st.integers(0, 99))
def test_boxes_never_overlap(edges, seed):
    graph = nx.DiGraph([(f"g{a}", f"g{b}") for a, b in edges])
    rng = np.random.default_rng(seed)
    size = {name: tuple(rng.uniform([0.2, 0.1], [0.9, 0.2])) for name in graph}
    at = boxes(graph, size, 7.0)
    found = np.array([[at[n] - np.array(size[n]) / 2, at[n] + np.array(size[n]) / 2] for n in graph])
    assert overlaps(found, slack=1e-9) == []
    assert boxes(graph, size, 7.0).keys() == at.keys()
    assert all(np.array_equal(boxes(graph, size, 7.0)[n], at[n]) for n in graph)


def test_names_beside_points_do_not_overlap():
    _, ax = plt.subplots(figsize=(4, 4))
    x, y = np.random.default_rng(0).normal(0.5, 0.05, (2, 15))
    ax.set(xlim=(0, 1), ylim=(0, 1))
    texts = label_points(ax, x, y, [f"GENE{i}" for i in range(15)])
    assert len(texts) == 15
    ax.figure.draw_without_rendering()
    assert overlaps(words(texts)) == []


def test_text_is_measured_as_it_is_drawn():
    _, ax = plt.subplots()
    text = ax.text(0, 0, "HLA-DQB1", fontsize=9)
    ax.figure.draw_without_rendering()
    drawn = text.get_window_extent().width / ax.figure.dpi
    assert text_size(["HLA-DQB1"], 9)[0, 0] == pytest.approx(drawn, rel=0.08)


# --- network


@pytest.mark.parametrize("n_edges", [5, 50, 80])
def test_network_draws_each_edge_and_name_once_without_overlap(grn, n_edges):
    ax = pl.network(grn, "B cell", n_edges=n_edges)
    edges = chosen_edges(grn, "B cell", n_edges=n_edges)
    names = set(edges["source"]) | set(edges["target"])
    found = of_kind(ax, FancyBboxPatch)
    assert len(of_kind(ax, FancyArrowPatch)) == len(edges)
    assert {t.get_text() for t in ax.texts} == names
    assert len(found) == len(ax.texts) == len(names)
    ax.figure.draw_without_rendering()
    assert overlaps(extents(found)) == []
    inside = ax.get_window_extent().get_points()
    assert (extents(found)[:, 0] >= inside[0]).all() and (extents(found)[:, 1] <= inside[1]).all()
    text, box = extents(ax.texts), extents(found)
    assert (text[:, 0, 0] >= box[:, 0, 0] - 1).all() and (text[:, 1, 0] <= box[:, 1, 0] + 1).all()
    key = ax.get_legend().get_window_extent().get_points()[None]
    assert not [pair for pair in overlaps(np.concatenate([key, box])) if 0 in pair]
    assert 5 <= ax.figure.get_size_inches()[0] <= 9


def test_network_tells_sign_confidence_and_expression(grn):
    ax = pl.network(grn, "B cell", n_edges=40)
    edges = chosen_edges(grn, "B cell", n_edges=40)
    arrows = of_kind(ax, FancyArrowPatch)
    width = np.array([arrow.get_linewidth() for arrow in arrows])
    assert np.all(np.diff(width[np.argsort(edges["confidence"].to_numpy(), kind="stable")]) >= -1e-9)
    assert len({arrow.get_edgecolor() for arrow in arrows}) == edges["sign"].nunique()
    level = mean_expression(grn, "B cell")
    fill = {t.get_text(): box.get_facecolor() for t, box in zip(ax.texts, of_kind(ax, FancyBboxPatch), strict=True)}
    dark, light = max(fill, key=level.get), min(fill, key=level.get)
    assert sum(fill[dark][:3]) < sum(fill[light][:3])
    assert {"confidence", "activates"} <= {w for t in ax.get_legend().get_texts() for w in t.get_text().split()}
    assert "B cell (10 cells): 40 edges" in ax.get_title()


def test_names_shrink_in_small_axes_and_still_do_not_overlap(grn):
    _, axes = plt.subplots(1, 2, figsize=(7, 3.4))
    ax = pl.network(grn, "T cell", n_edges=60, ax=axes[0])
    assert ax is axes[0]
    ax.figure.draw_without_rendering()
    assert overlaps(extents(ax.texts)) == []
    assert not axes[1].texts


def test_network_of_another_tool_is_drawn_without_confidence_and_expression():
    table = pd.DataFrame({"TF": ["A", "A", "B"], "target": ["X", "Y", "X"], "importance": [1.0, -2.0, 3.0]})
    ax = pl.network(table)
    assert len(of_kind(ax, FancyArrowPatch)) == 3
    assert {"represses", "weight"} <= {w for t in ax.get_legend().get_texts() for w in t.get_text().split()}
    assert len(ax.child_axes) == 0


@pytest.mark.parametrize("form", ["svg", "pdf", "png"])
def test_pictures_are_saved_whole_with_text_as_text(grn, tmp_path, form):
    pl.network(grn, "B cell", n_edges=10, save=tmp_path / f"new/net.{form}")
    assert [p.name for p in (tmp_path / "new").iterdir()] == [f"net.{form}"]
    content = (tmp_path / f"new/net.{form}").read_bytes()
    assert {"svg": b"<svg", "pdf": b"%PDF", "png": b"PNG"}[form] in content[:400]
    if form == "svg":
        assert b">SPI1<" in content or b">" + chosen_edges(grn, "B cell")["source"][0].encode() + b"<" in content


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"group": "NK"}, KeyError, "no group 'NK'; there are"),
        ({"genes": ["NOSUCH"]}, KeyError, "no edge of this group begins or ends at 'NOSUCH'"),
        ({"rank": "best"}, ValueError, "rank must be one of 'specific', 'weight', got 'best'"),
        ({"n_edges": 0}, ValueError, "n_edges must be a positive number"),
        ({"min_confidence": 1.1}, ValueError, "no edge is left"),
        ({"save": "net.doc"}, ValueError, "expected a file name that ends with .svg, .pdf, .png"),
    ],
)
def test_network_says_what_it_cannot_draw(grn, options, error, message):
    with pytest.raises(error, match=message):
        pl.network(grn, **options)


def test_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match="expected a GRN, a Network or a table of edges, got list"):
        pl.network([1, 2])


def test_without_matplotlib_the_extra_is_named(grn, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for draw in (pl.network, pl.receipt, pl.contexts):
        with pytest.raises(ImportError, match=r"pip install 'sccafm\[plot\]'"):
            draw(grn)


def test_show_calls_matplotlib(grn, monkeypatch):
    called = []
    monkeypatch.setattr(plt, "show", lambda: called.append(True))
    pl.receipt(grn, show=True)
    assert called == [True]
    pl.receipt(grn)
    assert called == [True]
