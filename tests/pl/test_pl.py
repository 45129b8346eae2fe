"""Pictures of regulators, contexts, comparisons and trajectories: what is drawn is what was found; bad input is said."""

import itertools
import types

import numpy as np
import pandas as pd
import pytest
from conftest import toy_data
from drawing import adata, closed, extents, grn, of_kind, overlaps, sparse_grn, words  # noqa: F401 (fixtures)
from matplotlib.collections import PathCollection

import sccafm
from sccafm import pl
from sccafm.pl.comparison import labelled
from sccafm.pl.edges import weights_of

# --- regulators


@pytest.fixture
def ranked() -> pd.DataFrame:
    rows = itertools.product(["B", "T"], ["PAX5", "GATA3", "JUN", "RARE"])
    table = pd.DataFrame(rows, columns=["group", "regulator"])
    table["specificity"] = [3, -1, 0.2, 5, -2, 2, 0.1, -1.0]
    table["detection"] = [0.8, 0.1, 1, 0.01, 0.0, 0.5, 1, 0.01]
    return table


def test_regulators_show_specificity_and_detection(ranked):
    ax = pl.regulators(ranked, n_top=2)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["PAX5", "JUN", "GATA3"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["B", "T"]
    (dots,) = of_kind(ax, PathCollection)
    np.testing.assert_allclose(dots.get_array(), [3, 0.2, -1, -2, 0.1, 2])
    np.testing.assert_allclose(dots.get_sizes() / dots.get_sizes().max(), [0.8, 1, 0.1, 0, 1, 0.5])
    assert dots.get_clim() == (-3, 3)
    ax.figure.draw_without_rendering()
    labels = extents(ax.get_xticklabels())
    assert overlaps(labels) == []
    assert not [p for p in overlaps(np.concatenate([extents([ax.get_legend()]), labels])) if 0 in p]


def test_regulators_can_be_asked_for(ranked):
    ax = pl.regulators(ranked, regulators=["RARE", "PAX5"], groups=["T"])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["RARE", "PAX5"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["T"]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.drop(columns="detection"), {}, r"no \['detection'\]; pass what sccafm.tl.rank_regulators"),
        (lambda t: t, {"groups": ["NK"]}, "no group 'NK' in the table"),
        (lambda t: t, {"regulators": ["SPI1"]}, "no regulator 'SPI1' in the table"),
        (lambda t: t.assign(detection=0.0), {}, "lower min_detection"),
    ],
)
def test_regulators_say_what_they_cannot_draw(ranked, change, options, message):
    with pytest.raises((KeyError, ValueError), match=message):
        pl.regulators(change(ranked), **options)


# --- contexts, edges


def test_composition_shows_mean_shares(grn):
    ax = pl.contexts(grn, n_top=3)
    share = grn.context.groupby(grn.groups, observed=True).mean()
    first = share.mean().idxmax()
    width = [bar.get_width() for bar in ax.containers[0]]
    np.testing.assert_allclose(width, share[first], rtol=1e-6)
    total = sum(np.array([bar.get_width() for bar in c]) for c in ax.containers)
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert len(ax.containers) == 4
    assert "9 others" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_composition_of_other_groups(grn):
    halves = pd.Series(["first"] * 15 + ["second"] * 15, index=grn.cells, name="half")
    ax = pl.contexts(grn, groupby=halves)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["first", "second"]


def test_map_shows_every_cell_once(grn, adata):
    ax = pl.contexts(grn, adata[::-1])
    points = np.concatenate([c.get_offsets() for c in of_kind(ax, PathCollection)])
    expected = np.asarray(adata.obsm["X_umap"])
    assert sorted(map(tuple, points)) == sorted(map(tuple, expected))


def test_edge_shows_exact_weights_where_factors_are_kept(grn, adata):
    weight = weights_of(grn, "SPI1", "LYZ")
    for cell in ("cell0", "cell7"):
        u, v = grn.factors(cell)
        assert weight[cell] == pytest.approx(float((u.loc["SPI1"] * v.loc["LYZ"]).sum()), rel=1e-5)
    ax = pl.edge(grn, "SPI1", "LYZ", adata)
    (dots,) = of_kind(ax, PathCollection)
    np.testing.assert_allclose(dots.get_array(), np.sort(weight))


def test_edge_shows_kept_weights_and_greys_the_rest(sparse_grn, adata):
    source, target = sparse_grn["cell0"][["source", "target"]].iloc[0]
    weight = weights_of(sparse_grn, source, target)
    table = sparse_grn.to_frame().query("source == @source and target == @target").set_index("cell")["weight"]
    np.testing.assert_allclose(weight.dropna(), table.astype(float).reindex(weight.dropna().index))
    missing = int(weight.isna().sum())
    ax = pl.edge(sparse_grn, source, target, adata)
    assert len(of_kind(ax, PathCollection)[0].get_offsets()) == (missing or 30)
    if missing:
        assert f"{missing} of 30 cells do not keep it" in ax.get_title()


def test_maps_say_what_they_lack(grn, adata):
    with pytest.raises(KeyError, match="adata.obsm has no 'X_tsne'; there are"):
        pl.contexts(grn, adata, basis="X_tsne")
    with pytest.raises(ValueError, match="a map needs cells"):
        pl.contexts(grn, kind="map")
    with pytest.raises(ValueError, match="kind must be one of 'composition', 'map', got 'pie'"):
        pl.contexts(grn, kind="pie")
    with pytest.raises(KeyError, match="10 cells of the networks are not in adata, first 'cell20'"):
        pl.edge(grn, "SPI1", "LYZ", adata[:20])
    with pytest.raises(KeyError, match="'LYZ' is no regulator"):
        pl.edge(grn, "LYZ", "SPI1", adata)


# --- compare


def comparison(tested: bool):
    rng = np.random.default_rng(0)
    n = 40
    ends = {"test_mean": rng.uniform(0.1, 1, n), "reference_mean": rng.uniform(0.1, 1, n)}
    main = {"group": ["B"] * 20 + ["T"] * 20, **ends, "effect": np.log2(ends["test_mean"] / ends["reference_mean"])}
    main["qvalue"] = np.where(np.abs(main["effect"]) > 1, 1e-3, 0.5) if tested else np.full(n, np.nan)
    regulators = pd.DataFrame({"regulator": [f"R{i % 20}" for i in range(n)], **main})
    edges = pd.DataFrame({"source": [f"R{i % 4}" for i in range(n)], "target": [f"G{i}" for i in range(n)], **main})
    return types.SimpleNamespace(
        contrast=("stim", "ctrl"), regulators=regulators, edges=edges, contexts=regulators, notes=()
    )


@pytest.mark.parametrize("tested", [True, False])
def test_volcano_shows_effects(tested):
    found = comparison(tested)
    ax = pl.compare(found, group="B", n_labels=6)
    own = found.regulators[found.regulators["group"] == "B"]
    points = of_kind(ax, PathCollection)[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], own["effect"])
    expected = -np.log10(own["qvalue"]) if tested else (own["test_mean"] + own["reference_mean"]) / 2
    np.testing.assert_allclose(points[:, 1], expected)
    assert len(ax.texts) == 6
    ax.figure.draw_without_rendering()
    assert overlaps(words(ax.texts)) == []
    assert ("nothing was tested" in ax.get_ylabel()) != tested


@pytest.mark.parametrize(
    ("up", "down", "n", "expected"),
    [(9, 9, 6, (3, 3)), (9, 1, 6, (5, 1)), (1, 9, 6, (1, 5)), (2, 1, 6, (2, 1)), (0, 0, 6, (0, 0))],
)
def test_half_of_the_names_are_on_each_side_where_there_are_as_many(up, down, n, expected):
    is_up = np.array([True] * up + [False] * down + [True])
    worth = np.append(np.arange(1.0, up + down + 1), 0)
    found = labelled(worth, is_up, n)
    assert (is_up[found].sum(), (~is_up[found]).sum()) == expected
    assert len(set(found)) == len(found)
    if up > n:
        assert found[0] == up - 1  # of the most worth


def test_rewiring_shows_one_regulators_targets():
    found = comparison(False)
    ax = pl.compare(found, group="T", regulator="R1", n_labels=3)
    own = found.edges.query("group == 'T' and source == 'R1'")
    (points,) = of_kind(ax, PathCollection)
    np.testing.assert_allclose(points.get_offsets(), own[["reference_mean", "test_mean"]])
    change = (own["test_mean"] - own["reference_mean"]).abs().sort_values(ascending=False).index[:3]
    assert {t.get_text() for t in ax.texts} == set(own.loc[change, "target"])


def test_comparisons_say_what_they_cannot_draw():
    found = comparison(True)
    with pytest.raises(ValueError, match="2 groups were compared; pick one: group='B'"):
        pl.compare(found)
    with pytest.raises(KeyError, match="no group 'NK' in the comparison"):
        pl.compare(found, group="NK")
    with pytest.raises(KeyError, match="no compared edge begins at 'SPI1'"):
        pl.compare(found, group="B", regulator="SPI1")
    found.edges, found.notes = None, ("edges are not compared: infer with keep_factors=True",)
    with pytest.raises(ValueError, match="infer with keep_factors=True"):
        pl.compare(found, group="B", table="edges")


# --- trajectory


@pytest.fixture
def followed():
    time = np.linspace(0, 1, 50)
    shape = {"EARLY": 1 - time, "LATE": np.clip(time - 0.6, 0, 1), "MID": np.exp(-20 * (time - 0.5) ** 2)}
    switch = {"EARLY": 0.5, "LATE": 0.8, "MID": 0.3}
    regulators = pd.DataFrame(
        [(name, switch[name], switch[name] - 0.1, switch[name] + 0.1) for name in shape],
        columns=["regulator", "switch", "switch_low", "switch_high"],
    )
    points = [
        pd.DataFrame({"pseudotime": time, "regulator": n, "log2_strength": y, "low": y - 0.1, "high": y + 0.1})
        for n, y in shape.items()
    ]
    return types.SimpleNamespace(
        regulators=regulators, curves=pd.concat(points), edges=None, edge_curves=None, notes=("infer with factors",)
    )


def test_rows_are_in_the_order_of_switches_and_less_their_mean(followed):
    ax = pl.trajectory(followed)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["MID", "EARLY", "LATE"]
    values = ax.images[0].get_array()
    np.testing.assert_allclose(values.mean(1), 0, atol=1e-12)
    assert values[1, 0] == pytest.approx(0.5)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.3, 0.5, 0.8])
    ax.figure.draw_without_rendering()
    assert overlaps(words(ax.get_yticklabels())) == []


def test_curves_are_drawn_with_bands(followed):
    ax = pl.trajectory(followed, ["LATE", "EARLY"])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["LATE", "EARLY"]
    curve = ax.lines[0].get_ydata()
    np.testing.assert_allclose(curve, followed.curves.query("regulator == 'LATE'")["log2_strength"])
    assert len(ax.collections) == 2


def test_edges_are_named_by_their_ends(followed):
    ends = {"source": ["A", "B", "C"], "target": ["X", "Y", "Z"]}
    followed.edges = followed.regulators.assign(**ends).drop(columns="regulator")
    points = followed.curves.rename(columns={"log2_strength": "log2_score"})
    number = points.groupby("regulator", sort=False).ngroup()
    followed.edge_curves = points.assign(
        source=number.map(dict(enumerate("ABC"))), target=number.map(dict(enumerate("XYZ")))
    )
    ax = pl.trajectory(followed, edges=True)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["C -> Z", "A -> X", "B -> Y"]


def test_trajectories_say_what_they_cannot_draw(followed):
    with pytest.raises(ValueError, match="infer with factors"):
        pl.trajectory(followed, edges=True)
    with pytest.raises(KeyError, match="'GATA1' was not followed; there are"):
        pl.trajectory(followed, "GATA1")
    with pytest.raises(ValueError, match="kind must be one of 'heatmap', 'curves', got 'rows'"):
        pl.trajectory(followed, kind="rows")


# --- receipt, reliability


def test_receipt_counts_genes(grn, adata):
    ax = pl.receipt(grn)
    found = grn.params["receipt"]
    assert sum(bar.get_width() for c in ax.containers[:-2] for bar in c) == found["n_genes"]
    assert [c[0].get_width() for c in ax.containers[-2:]] == [found["n_used"], found["n_regulators"]]
    again = pl.receipt(adata)  # annotated by the inference
    assert [t.get_text() for t in again.texts] == [t.get_text() for t in ax.texts]


def test_lost_regulators_are_named(grn):
    params = grn.params | {"receipt": grn.params["receipt"] | {"lost_regulators": [f"TF{i}" for i in range(12)]}}
    ax = pl.receipt(types.SimpleNamespace(params=params))
    assert "lost regulators: TF0, TF1, TF2, TF3, TF4, TF5, TF6, TF7 and 4 more" in ax.get_title(loc="left")


def test_receipt_that_does_not_exist_is_said(adata):
    with pytest.raises(KeyError, match="there is no receipt"):
        pl.receipt(toy_data())


def test_reliability_is_the_share_of_true_edges(grn):
    confidence = grn.confidence()
    rng = np.random.default_rng(0)
    pairs = [(s, t) for s in confidence.index for t in confidence.columns if s != t and rng.random() < 0.3]
    truth = pd.DataFrame(pairs, columns=["source", "target"])
    ax = pl.reliability(grn, truth, n_bins=4)
    line = ax.lines[2]  # after the diagonal and the base rate
    n_candidates = len(confidence) * (len(confidence.columns) - 1)
    assert line.get_ydata().mean() == pytest.approx(len(pairs) / n_candidates, abs=0.01)
    assert np.all(np.diff(line.get_xdata()) >= 0)
    assert f"{n_candidates:,} candidate edges" in ax.get_title()


def test_reliability_needs_confidence(tiny_model):
    grn = sccafm.infer_grn(toy_data(), tiny_model, progress=False)
    with pytest.raises(ValueError, match="the model has no calibration"):
        pl.reliability(grn, pd.DataFrame({"source": ["SPI1"], "target": ["LYZ"]}))
