"""GRN: every table against brute force from the factors, and back from disk."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import sccafm
from sccafm.grn.edges import WEIGHT_BITS, select_edges
from sccafm.grn.factors import pack_factors, unpack_factors

CELLS = 13


@pytest.fixture(scope="module")
def small_parts():
    """Parts of four cells, so that 13 cells make four."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("grn", "storage"):  # importers first
            patch.setattr(f"sccafm.grn.{module}.PART_CELLS", 4)
        yield


@pytest.fixture
def adata(toy_adata):
    return toy_adata[:CELLS].copy()


@pytest.fixture
def infer(tiny_model, adata, small_parts):
    def run(**settings):
        return sccafm.infer_grn(adata, tiny_model, progress=False, **settings)

    return run


@pytest.fixture
def grn(infer):
    return infer(groupby="cell_type", keep_factors=True, top_k=30)


@pytest.fixture
def scores(grn):
    """Every score of every cell, from the factors: C T G float64."""
    factors = [grn.factors(cell) for cell in grn.cells]
    return np.stack([(u.to_numpy() @ v.to_numpy().T).astype(np.float64) for u, v in factors])


def groups_of(grn):
    return {group: (grn.groups == group).to_numpy() for group in grn.groups.cat.categories}


def without_self(scores, grn):
    out = scores.copy()
    for i, regulator in enumerate(grn.regulators):
        out[..., i, grn.targets.get_loc(regulator)] = 0
    return out


# --- what it tells


def test_labels_fit_the_data(grn, adata):
    assert len(grn) == CELLS
    assert grn.cells.tolist() == adata.obs_names.tolist()
    assert grn.targets.tolist() == adata.var_names.tolist()
    assert grn.regulators.tolist() == adata.var_names[adata.var["is_tf"]].tolist()
    assert grn.summary.shape == (CELLS, 16)
    assert grn.summary.dtype == np.float32


def test_repr_tells_the_story(grn):
    text = repr(grn)
    assert "GRN of 13 cells: 18 regulators x 60 targets, 390 edges kept (30 a cell, in memory)" in text
    assert "groups of cell_type: B cell (4), T cell (5), monocyte (4)" in text


def test_strongest_pair_of_the_repr_is_no_self_edge(grn, scores):
    mean = without_self(scores.mean(0), grn)
    row, column = np.unravel_index(mean.argmax(), mean.shape)
    assert f"strongest on average: {grn.regulators[row]} -> {grn.targets[column]}" in repr(grn)
    grn.sums["scores"][:, 0, grn.targets.get_loc(grn.regulators[0])] = 99
    assert f"strongest on average: {grn.regulators[row]} -> {grn.targets[column]}" in repr(grn)


# --- edges


def test_kept_edges_are_the_strongest_of_each_cell(grn, scores):
    frame = grn.to_frame()
    for cell, expected in zip(grn.cells, without_self(scores, grn), strict=True):
        found = frame[frame["cell"] == cell]
        best = np.sort(expected.ravel())[::-1][:30]
        np.testing.assert_allclose(found["weight"], best, rtol=2.0**-WEIGHT_BITS, atol=1e-6)
        rows, columns = grn.regulators.get_indexer(found["source"]), grn.targets.get_indexer(found["target"])
        np.testing.assert_allclose(expected[rows, columns], found["weight"], rtol=2.0**-WEIGHT_BITS, atol=1e-6)


def test_frame_has_its_columns_and_types(grn):
    frame = grn.to_frame()
    types = {"cell": "category", "source": "category", "target": "category", "weight": "float32"}
    types |= {"confidence": "float32", "sign": "int8", "qvalue": "float32", "binding": "float32"}
    types |= {"response": "float32", "in_prior": "bool"}
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == types | {"prior_sources": "category"}
    assert frame.columns.tolist() == [*types, "prior_sources"]
    assert len(frame) == len(grn.edges) == CELLS * 30
    assert not frame.duplicated(["cell", "source", "target"]).any()
    assert (frame["source"].astype(str) != frame["target"].astype(str)).all()


def test_cells_come_in_the_order_asked_for_and_edges_by_strength(grn):
    frame = grn.to_frame(["cell7", "cell2"])
    assert frame["cell"].unique().tolist() == ["cell7", "cell2"]
    assert frame.groupby("cell", observed=True)["weight"].apply(lambda w: w.is_monotonic_decreasing).all()


def test_one_cell_is_a_table_of_its_own(grn):
    one = grn["cell5"]
    assert one.columns.tolist()[:3] == ["source", "target", "weight"]
    pd.testing.assert_frame_equal(grn.to_frame("cell5").drop(columns="cell"), one)
    everything = grn.to_frame()
    pd.testing.assert_frame_equal(everything[everything["cell"] == "cell5"][one.columns].reset_index(drop=True), one)


def test_unknown_cell_is_said(grn):
    with pytest.raises(KeyError, match="1 cells are not in this GRN, first 'cell99'; cells look like 'cell0'"):
        grn["cell99"]


def test_prior_edges_are_marked(grn, tiny_model):
    prior = tiny_model.reference_data.prior
    held = set(zip(prior["Gene1"], prior["Gene2"], strict=True))
    frame = grn.to_frame()
    expected = [(s, t) in held for s, t in zip(frame["source"], frame["target"], strict=True)]
    assert frame["in_prior"].tolist() == expected
    assert grn.in_prior.any()


def test_least_weight_leaves_cells_without_edges(infer):
    grn = infer(min_weight=0.999)
    assert len(grn.to_frame()) == 0
    assert len(grn["cell0"]) == 0
    assert "0 edges kept" in repr(grn)


def test_no_limit_keeps_every_score(infer, grn, scores):
    everything = infer(top_k=None)
    assert len(everything.edges) == (without_self(scores, grn) > 0).sum()


# --- selection


def slow_edges(scores, top_k, min_weight, excluded):
    """Slow and plain."""
    least = min_weight or 0
    rated = [(-w, i) for i, w in enumerate(scores.ravel().tolist()) if i not in excluded and w >= least and w > 0]
    return sorted(i for _, i in sorted(rated)[:top_k])


WEIGHTS = st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0])  # many ties


@given(
    hnp.arrays(np.float32, (3, 5), elements=WEIGHTS),
    st.none() | st.integers(1, 20),
    st.none() | WEIGHTS,
    st.sets(st.integers(0, 14), max_size=5),
)
def test_selection_is_the_slow_plain_one(scores, top_k, min_weight, excluded):
    expected = slow_edges(scores, top_k, min_weight, excluded)
    before = scores.ravel()[expected]
    edge, weight = select_edges(scores, top_k, min_weight, np.array(sorted(excluded), dtype=int))
    assert edge.tolist() == expected
    assert weight.tolist() == before.tolist()
    assert (edge.dtype, weight.dtype) == (np.int32, np.float32)


def test_ties_at_the_cut_go_to_the_lowest_index():
    edge, _ = select_edges(np.float32([[0.5, 0.9, 0.5], [0.5, 0.5, 0.9]]), 3, None, np.array([], dtype=int))
    assert edge.tolist() == [0, 1, 5]


# --- groups


def test_matrix_is_the_exact_mean_over_cells(grn, scores):
    found = grn.matrix()
    assert found.index.tolist() == grn.regulators.tolist()
    assert found.columns.tolist() == grn.targets.tolist()
    np.testing.assert_allclose(found, scores.mean(0), atol=1e-6)
    for group, members in groups_of(grn).items():
        np.testing.assert_allclose(grn.matrix(group), scores[members].mean(0), atol=1e-6)


def test_groups_of_whole_numbers_answer_to_numbers_and_text(infer, adata):
    adata.obs["cluster"] = [10, 2] * (adata.n_obs // 2) + [2] * (adata.n_obs % 2)
    grn = infer(groupby="cluster")
    assert grn.groups.cat.categories.tolist() == ["2", "10"]
    pd.testing.assert_frame_equal(grn.matrix(2), grn.matrix("2"))
    pd.testing.assert_frame_equal(grn.matrix(np.int64(10)), grn.matrix("10"))
    pd.testing.assert_frame_equal(grn.confidence(2), grn.confidence("2"))
    pd.testing.assert_frame_equal(grn.qvalues(2), grn.qvalues("2"))
    assert grn.qvalues(2).notna().to_numpy().any()
    with pytest.raises(KeyError, match=r"no group '1'; there are \['2', '10'\]"):
        grn.matrix(1)
    with pytest.raises(KeyError, match=r"no group '1'; there are \['2', '10'\]"):
        grn.qvalues(1)


def test_unknown_group_lists_what_there_is(grn, infer):
    with pytest.raises(KeyError, match=r"no group 'NK'; there are \['B cell', 'T cell', 'monocyte'\] \(of 'cell_type'"):
        grn.matrix("NK")
    with pytest.raises(KeyError, match="infer with groupby= to have groups"):
        infer().matrix("NK")


@pytest.mark.parametrize("top_k", [None, 7, 10**6])
def test_pool_holds_the_strongest_mean_edges_of_each_group(grn, scores, top_k):
    pooled = grn.pool(top_k)
    columns = ["group", "source", "target", "weight", "confidence", "sign", "qvalue", "n_cells", "binding"]
    assert pooled.columns.tolist() == [*columns, "response", "in_prior", "prior_sources"]
    assert not pooled.duplicated(["group", "source", "target"]).any()
    assert (pooled["source"].astype(str) != pooled["target"].astype(str)).all()
    for group, members in groups_of(grn).items():
        found = pooled[pooled["group"] == group]
        mean = without_self(scores[members].mean(0), grn)
        expected = np.sort(mean[mean > 0])[::-1][:top_k]
        np.testing.assert_allclose(found["weight"], expected, atol=1e-6)
        rows, columns = grn.regulators.get_indexer(found["source"]), grn.targets.get_indexer(found["target"])
        np.testing.assert_allclose(mean[rows, columns], found["weight"], atol=1e-6)
        assert found["n_cells"].unique().tolist() == [members.sum()]


def test_without_groups_all_cells_are_one(infer):
    grn = infer()
    assert grn.pool(3)["group"].unique().tolist() == ["all"]
    assert grn.group_sizes.to_dict() == {"all": CELLS}


def test_groups_keep_the_order_of_their_categories(infer, adata):
    adata.obs["stage"] = pd.Categorical(["day10", "day2"] * 6 + ["day2"], ["day2", "day10"], ordered=True)
    grn = infer(groupby="stage")
    assert grn.group_sizes.to_dict() == {"day2": 7, "day10": 6}
    assert grn.group_sizes.index.tolist() == ["day2", "day10"]


def test_cells_without_a_group_warn_and_form_their_own(infer, adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].where(adata.obs_names != "cell3")
    with pytest.warns(UserWarning, match="1 cells have no 'cell_type'; they form the group 'unassigned'"):
        grn = infer(groupby="cell_type")
    assert grn.group_sizes["unassigned"] == 1
    assert grn.groups["cell3"] == "unassigned"


def test_missing_group_column_lists_what_there_is(infer):
    with pytest.raises(KeyError, match=r"groupby='leiden' is no column of obs; there are \['assay', 'tissue'"):
        infer(groupby="leiden")


# --- contexts and factors


def test_context_is_the_share_of_regulation_of_each_factor(grn):
    for cell in grn.cells[:3]:
        u, v = (f.to_numpy() for f in grn.factors(cell))
        flow = np.array([sum(np.outer(u[:, m], v[:, m]).ravel()) for m in range(u.shape[1])])
        np.testing.assert_allclose(grn.context.loc[cell], flow / flow.sum(), atol=1e-6)
    np.testing.assert_allclose(grn.context.sum(1), 1, atol=1e-6)


def test_label_and_entropy_follow_from_the_context(grn):
    context = grn.context.to_numpy().astype(np.float64)
    assert grn.context_label.tolist() == grn.context.columns[context.argmax(1)].tolist()  # no names in this model
    assert grn.context_entropy.between(0, np.log(context.shape[1])).all()
    slow = [-sum(p * np.log(p) for p in row if p > 0) for row in context]
    np.testing.assert_allclose(grn.context_entropy, slow, atol=1e-9)


def test_factors_table_names_what_weighs_most(grn):
    table = grn.factors_table(2)
    factors = [grn.factors(cell) for cell in grn.cells]
    for name, row in table.iterrows():
        for side, column in ((0, "top_regulators"), (1, "top_targets")):
            total = sum(f[side][name].astype(np.float64) for f in factors)
            expected = total[total > 0].sort_values(ascending=False, kind="stable").index[:2]
            assert row[column] == ", ".join(expected)
    led = grn.context_label.value_counts(normalize=True).reindex(table.index)
    np.testing.assert_allclose(table["share_of_cells"], led)
    np.testing.assert_allclose(table["mean_context"], grn.context.mean(), rtol=1e-5)


def test_factors_are_distributions(grn):
    u, v = grn.factors("cell1")
    np.testing.assert_allclose(u.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(v.sum(1), 1, atol=1e-6)
    assert (u.index.tolist(), v.index.tolist()) == (grn.regulators.tolist(), grn.targets.tolist())


def test_factors_that_were_not_kept_are_said(infer):
    with pytest.raises(KeyError, match="keeps no factors; infer with keep_factors=True"):
        infer().factors("cell0")


@given(hnp.arrays(np.float32, (3, 9), elements=WEIGHTS), st.integers(1, 9))
def test_packed_factors_unpack_to_what_they_were(dense, width):
    dense[:, width:] = 0
    dense = dense[:, ::-1]
    np.testing.assert_array_equal(unpack_factors(*pack_factors(dense, width), 9), dense)


# --- disk


@pytest.mark.parametrize("keep_factors", [False, True])
@pytest.mark.parametrize("way", ["write", "store"])
@pytest.mark.parametrize("groupby", [None, "cell_type"])
def test_nothing_changes_on_the_way_to_disk_and_back(infer, adata, tmp_path, keep_factors, way, groupby):
    adata.obs_names.name = "barcode"
    settings = {"groupby": groupby, "keep_factors": keep_factors, "top_k": 30}
    grn = infer(**settings)
    if way == "write":
        assert grn.write(tmp_path / "grn") == tmp_path / "grn"
    else:
        infer(store=tmp_path / "grn", **settings)
    back = sccafm.read_grn(tmp_path / "grn")
    pd.testing.assert_index_equal(back.cells, grn.cells)
    pd.testing.assert_frame_equal(back.genes, grn.genes)
    pd.testing.assert_series_equal(back.groups, grn.groups)
    pd.testing.assert_frame_equal(back.to_frame(), grn.to_frame())
    pd.testing.assert_frame_equal(back["cell9"], grn["cell9"])
    pd.testing.assert_frame_equal(back.pool(), grn.pool())
    pd.testing.assert_frame_equal(back.context, grn.context)
    np.testing.assert_array_equal(back.in_prior, grn.in_prior)
    assert back.sums.keys() == grn.sums.keys()
    assert back.arrays.keys() == grn.arrays.keys()
    for found, expected in ((back.sums, grn.sums), (back.arrays, grn.arrays)):
        for name in found:
            np.testing.assert_array_equal(found[name], expected[name], strict=True)
    assert back.params == grn.params
    assert repr(back) == repr(grn).replace("in memory", "on disk")


def test_order_of_groups_survives_the_disk(infer, adata, tmp_path):
    adata.obs["stage"] = pd.Categorical(["day10", "day2"] * 6 + ["day2"], ["day2", "day10"], ordered=True)
    grn = infer(groupby="stage")
    back = sccafm.read_grn(grn.write(tmp_path / "grn"))
    pd.testing.assert_series_equal(back.groups, grn.groups)
    pd.testing.assert_frame_equal(back.pool(3), grn.pool(3))


def test_what_was_read_can_be_written_again(grn, tmp_path):
    grn.write(tmp_path / "a")
    sccafm.read_grn(tmp_path / "a").write(tmp_path / "b")
    files = [p.relative_to(tmp_path / "a") for p in sorted((tmp_path / "a").rglob("*")) if p.is_file()]
    assert [f for f in files if (tmp_path / "a" / f).read_bytes() != (tmp_path / "b" / f).read_bytes()] == []
    assert len(files) == 18


def test_cells_of_several_parts_come_in_the_order_asked_for(grn, tmp_path):
    grn.write(tmp_path / "grn")
    wanted = ["cell12", "cell0", "cell9", "cell4"]
    pd.testing.assert_frame_equal(sccafm.read_grn(tmp_path / "grn").to_frame(wanted), grn.to_frame(wanted))


def test_folder_that_is_taken_is_refused(grn, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; give a new folder"):
        grn.write(tmp_path)


def test_cells_without_edges_survive_the_disk(infer, tmp_path):
    grn = infer(min_weight=0.999)
    back = sccafm.read_grn(grn.write(tmp_path / "grn"))
    pd.testing.assert_frame_equal(back.to_frame(), grn.to_frame())
