"""Anchored vectors: the formula against a plain one, what they depend on, placing other cells, labels, and validation."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from test_embed import ours  # noqa: F401 (a fixture)

import sccafm
from sccafm.data.input import read
from sccafm.embedding import anchor as anchors
from sccafm.embedding.anchor import MODEL_WEIGHT, fit_anchor
from sccafm.embedding.batches import correct


@pytest.fixture
def embed(ours):  # noqa: F811
    return lambda adata, **settings: sccafm.embed(adata, ours, **({"progress": False} | settings))


@pytest.fixture
def states(toy_adata):
    """120 cells of three types whose rates differ in every gene, in two batches that differ in the depth of each gene."""
    rng = np.random.default_rng(0)
    kind, batch = np.arange(120) % 3, np.arange(120) // 60
    rate = rng.gamma(2.0, 4.0, (3, 60))[kind] * rng.lognormal(0, 1.0, (2, 60))[batch]
    obs = pd.DataFrame(
        {"kind": pd.Categorical(np.array(["T", "B", "NK"])[kind]), "donor": np.array(["a", "b"])[batch]},
        [f"cell{i}" for i in range(120)],
    )
    return ad.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)), obs, toy_adata.var)


def plain(x, z, codes):
    """The module's docstring, a cell at a time."""

    def axes(rows, most, power):
        u, s, vt = np.linalg.svd(np.array(rows), full_matrices=False)
        kept = s[:most] > 1e-4 * s[0]
        return vt[:most][kept].T / (s[:most][kept] / np.sqrt(len(rows))) ** power

    spread = np.sqrt(np.mean([(row - x[codes == c].mean(0)) ** 2 for row, c in zip(x, codes, strict=True)], 0))
    d = [(row - x.mean(0)) / spread**anchors.GENE_POWER for row in x]
    d = [row / np.sqrt(sum(row**2)) for row in d]
    d = [row - np.mean(d, 0) for row in d]
    e = np.array(d) @ axes(d, 50, anchors.POWER)
    f = [row - z.mean(0) for row in z]
    f = np.array(f) @ axes(f, anchors.MODEL_COMPONENTS, anchors.MODEL_POWER)
    rows = [np.append(a / np.sqrt(sum(a**2)), MODEL_WEIGHT * b / np.sqrt(sum(b**2))) for a, b in zip(e, f, strict=True)]
    return np.array(rows) / np.sqrt(1 + MODEL_WEIGHT**2)


@pytest.mark.parametrize("batch_key", [None, "donor"])
def test_the_formula(ours, states, batch_key):  # noqa: F811
    codes = np.zeros(120, int) if batch_key is None else (states.obs["donor"] == "b").to_numpy().astype(int)
    z = np.random.default_rng(1).normal(size=(120, 40)).astype(np.float32)  # wider than what is kept of it
    batches = None if batch_key is None else states.obs[batch_key].to_numpy()
    found = fit_anchor(read(states, ours.reference_data), z, batches, corrects=False)[1]
    x = np.log1p(states.X.toarray() / states.X.toarray().sum(1, keepdims=True) * 1e4)
    expected = plain(x, z.astype(float), codes)
    # Axes have no sign: compare what distances are made of.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    if batches is not None:
        corrected = fit_anchor(read(states, ours.reference_data), z, batches)[1]
        np.testing.assert_allclose(corrected, correct(found, codes, np.arange(120))[0], atol=1e-4)


def test_storage_and_order_do_not_matter(embed, states, tmp_path):
    expected = embed(states.copy())
    states.write_h5ad(tmp_path / "cells.h5ad")
    backed = embed(ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"), batch_size=7)
    pd.testing.assert_frame_equal(backed.cells, expected.cells, check_exact=True)
    order = np.random.default_rng(1).permutation(120)
    shuffled = embed(states[order].copy())
    np.testing.assert_allclose(shuffled.cells, expected.cells.iloc[order], atol=1e-4)


def test_batches_of_a_type_meet(embed, states):
    is_b = (states.obs["donor"] == "b").to_numpy()

    def found(batch_key):
        x = embed(states.copy(), batch_key=batch_key).cells.to_numpy()
        other = np.where(is_b[:, None] == is_b, -2, x @ x.T).argmax(1)  # the nearest cell of the other batch
        right = (states.obs["kind"].to_numpy()[other] == states.obs["kind"]).mean()
        return np.linalg.norm(x[is_b].mean(0) - x[~is_b].mean(0)), right

    apart, right = found("donor")
    assert right > 0.95
    assert apart < 0.5 * found(None)[0]


def test_components_are_fitted_on_a_draw_of_many_cells(embed, states, monkeypatch):
    whole = embed(states.copy())
    monkeypatch.setattr(anchors, "POOL", 80)
    one, two = embed(states.copy()), embed(states.copy())
    pd.testing.assert_frame_equal(one.cells, two.cells, check_exact=True)
    assert not np.allclose(one.cells @ one.cells.T, whole.cells @ whole.cells.T, atol=1e-3)
    same = (states.obs["kind"].to_numpy()[:, None] == states.obs["kind"].to_numpy()) & (
        states.obs["donor"].to_numpy()[:, None] == states.obs["donor"].to_numpy()
    )
    near = (one.cells @ one.cells.T).to_numpy()
    assert near[same].mean() > near[~same].mean() + 0.5


def test_cells_are_placed_where_they_were(embed, states, tmp_path):
    reference = embed(states.copy())
    again = reference.place(states.copy(), progress=False)
    np.testing.assert_allclose(again.cells, reference.cells, atol=1e-5)
    assert again.params["space"] == reference.params["space"]
    back = sccafm.read_embedding(reference.write(tmp_path / "reference"))
    pd.testing.assert_frame_equal(back.cells, reference.cells, check_exact=True)
    some = states[20:50].copy()
    placed = back.place(some, reference.model, progress=False)
    np.testing.assert_allclose(placed.cells, reference.cells.iloc[20:50], atol=1e-5)
    np.testing.assert_array_equal(some.obsm["X_sccafm"], placed.cells)
    assert some.uns["X_sccafm"]["params"]["space"] == reference.params["space"]


def test_placing_reads_genes_whatever_they_are_called(embed, states):
    reference = embed(states.copy(), species="human")
    mouse = states[:30].copy()
    mouse.var_names = [name.title() for name in mouse.var_names]
    placed = reference.place(mouse, species="mouse", progress=False)
    own = reference.anchor.loadings.shape[1]
    np.testing.assert_allclose(placed.cells.iloc[:, :own], reference.cells.iloc[:30, :own], atol=1e-5)


def test_genes_that_new_cells_lack_are_at_their_mean(embed, states):
    reference = embed(states.copy())
    with pytest.warns(UserWarning, match="10 of the 60 genes that the embedding was fitted on are not in the data"):
        placed = reference.place(states[:30, 10:].copy(), progress=False)
    x, y = placed.cells.to_numpy(), reference.cells.to_numpy()
    kind = states.obs["kind"].to_numpy()
    assert (kind[(x @ y.T).argmax(1)] == kind[:30]).mean() > 0.9
    with pytest.raises(ValueError, match="the embedding was fitted on 60 genes, .*here are 20"):
        reference.place(states[:, :20].copy(), progress=False)


def test_own_mean_takes_a_shift_of_the_whole_away(embed, states):
    one, other = (states[(states.obs["donor"] == d).to_numpy()].copy() for d in "ab")
    reference = embed(one)
    kind = one.obs["kind"].to_numpy()

    def found(own_mean):
        placed = reference.place(other.copy(), own_mean=own_mean, progress=False).cells.to_numpy()
        near = (placed @ reference.cells.to_numpy().T).argmax(1)
        shift = np.linalg.norm(placed.mean(0) - reference.cells.to_numpy().mean(0))
        return (kind[near] == other.obs["kind"]).mean(), shift

    right, shift = found(True)
    assert right > 0.95
    assert shift < 0.5 * found(False)[1]


def test_labels_are_carried_to_new_cells(embed, states, tmp_path):
    reference = embed(states[:90].copy(), groupby="kind")
    new = states[90:].copy()
    shares = sccafm.tl.annotate(new, reference, progress=False, own_mean=True)
    assert (new.obs["sccafm_label"].astype(str) == new.obs["kind"].astype(str)).mean() > 0.9
    np.testing.assert_allclose(shares.sum(1), 1)
    assert list(shares.columns) == ["B", "NK", "T"]
    np.testing.assert_allclose(new.obs["sccafm_label_share"], shares.max(1), atol=1e-6)
    half = states.obs["kind"].astype(str).where(np.arange(120) % 2 == 0)[:90]
    named = sccafm.tl.annotate(new, reference, half.sample(frac=1, random_state=0), label_added="half", progress=False)
    assert set(named.columns) == {"B", "NK", "T"}
    folder = reference.write(tmp_path / "reference")
    placed = sccafm.tl.map_to(new, folder, model=reference.model, own_mean=True, progress=False)
    np.testing.assert_allclose(placed.cells, new.obsm["X_sccafm"])


@pytest.mark.filterwarnings("ignore:.*share the model's token")
def test_cells_of_no_known_kind_stand_out(monkeypatch):
    """A kind that the reference lacks is named by its neighbours all the same, but lies farther from all that the reference knows."""
    monkeypatch.setattr(
        "sccafm.tl.mapping.FAR", 0.8
    )  # with more genes and cells than a test reads, new kinds reach 0.95
    cells = sccafm.datasets.kang18()
    kind = cells.obs["cell_type"].astype(str)
    known = cells[kind.isin(["B", "CD4 Naive T", "NK"]).to_numpy()]
    known = known[np.random.default_rng(0).permutation(len(known))]
    small = {"progress": False}
    reference = sccafm.embed(known[:110].copy(), groupby="cell_type", n_top_genes=500, **small)
    same, other = known[150:].copy(), cells[(kind == "CD14 Mono").to_numpy()][:15].copy()
    sccafm.tl.annotate(same, reference, **small)
    with pytest.warns(
        UserWarning, match=r"\d+ of 15 cells are farther from the reference .*obs\['sccafm_label_ood'\] and max_ood="
    ):
        sccafm.tl.annotate(other, reference, max_ood=0.8, **small)
    assert same.obs["sccafm_label_ood"].mean() < 0.55
    assert other.obs["sccafm_label_ood"].mean() > 0.8
    np.testing.assert_array_equal(other.obs["sccafm_label"].isna(), other.obs["sccafm_label_ood"] > 0.8)
    assert same.obs["sccafm_label"].notna().all()


def test_cells_without_a_group_do_not_vote(embed, states):
    reference = states[:90].copy()
    reference.obs["kind"] = reference.obs["kind"].astype(str).where(np.arange(90) % 3 > 0)
    with pytest.warns(UserWarning, match="30 cells have no 'kind'"):
        found = embed(reference, groupby="kind")
    assert "unassigned" not in sccafm.tl.annotate(states[90:].copy(), found, progress=False)


def test_batches_that_are_unclear_are_said(embed, states):
    states.obs["donor"] = states.obs["donor"].where(np.arange(120) % 20 > 0)
    with pytest.warns(UserWarning, match="6 cells have no 'donor'; they are corrected as one batch, 'unassigned'"):
        embed(states.copy(), batch_key="donor")
    states.obs["plate"] = ["x"] + ["y", "z"] * 59 + ["y"]
    with pytest.warns(UserWarning, match="1 batches of 'plate' hold a single cell each"):
        embed(states.copy(), batch_key="plate")
    states.obs["cell"] = states.obs_names
    with pytest.raises(ValueError, match="names a batch for every cell"):
        embed(states.copy(), batch_key="cell")


def test_heads_tell_one_space_from_another(embed, states):
    one, two = states[:60].copy(), states[60:].copy()
    reference = embed(one)
    head = sccafm.tl.fit_head(one, "kind", use_rep="X_sccafm")
    embed(two)
    with pytest.raises(ValueError, match=r"another space .*Embedding.place.*X_sccafm_zero_shot"):
        sccafm.tl.predict(two, head)
    reference.place(two, progress=False)
    assert len(sccafm.tl.predict(two, head)) == 60
    zero_shot = sccafm.tl.fit_head(one, "kind")
    assert len(sccafm.tl.predict(two, zero_shot)) == 60


def test_harmony_is_an_option(embed, states):
    pytest.importorskip("harmonypy")
    found = embed(states.copy(), batch_key="donor", harmony=True)
    assert found.cells.shape == embed(states.copy(), batch_key="donor").cells.shape
    assert found.params["harmony"] is True
    with pytest.raises(ValueError, match="was corrected by Harmony: embed without harmony="):
        found.place(states.copy(), progress=False)


def test_without_harmonypy_the_extra_is_named(embed, states, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'sccafm\[harmony\]'"):
        embed(states, batch_key="donor", harmony=True)


def test_validation(embed, ours, states):  # noqa: F811
    with pytest.raises(ValueError, match="fitted to 3 cells at least, got 2: pass anchor=False"):
        embed(states[:2].copy(), genes=list(states.var_names))
    flat = ad.AnnData(np.ones((5, 60), np.float32), var=states.var)
    with pytest.raises(ValueError, match="none of 60 genes varies between the cells"):
        embed(flat)
    with pytest.raises(ValueError, match="pass batch_key=, and leave anchor= at True"):
        embed(states.copy(), harmony=True)
    with pytest.raises(ValueError, match="this embedding has none: embed with anchor=True"):
        embed(states.copy(), anchor=False).place(states.copy())
    reference = embed(states.copy())
    with pytest.raises(ValueError, match="own_mean=True needs 3 cells at least, got 2"):
        reference.place(states[:2].copy(), own_mean=True)
    with pytest.raises(ValueError, match="the reference has no groups to name cells by; pass labels="):
        sccafm.tl.annotate(states.copy(), reference)
    with pytest.raises(ValueError, match="labels must name each of the reference's 120 cells in order, got 3"):
        sccafm.tl.annotate(states.copy(), reference, ["a", "b", "c"])
    with pytest.raises(ValueError, match="labels name 0 kind of the reference's cells, expected two"):
        sccafm.tl.annotate(states.copy(), reference, pd.Series(["a", "b"], ["x", "y"]))
    with pytest.raises(ValueError, match="labels='kind' is a text; pass the labels themselves"):
        sccafm.tl.annotate(states.copy(), reference, "kind")
    with pytest.raises(ValueError, match="n_neighbors is 1 or more"):
        sccafm.tl.annotate(states.copy(), reference, list(states.obs["kind"]), n_neighbors=0)
    with pytest.raises(TypeError, match="expected an AnnData with the new cells, got str"):
        sccafm.tl.annotate("cells.h5ad", reference)
    with pytest.warns(UserWarning, match="120 cells of the reference have a label: all cells get the same shares"):
        sccafm.tl.annotate(states.copy(), reference, list(states.obs["kind"]), n_neighbors=500, progress=False)
    apart = states.copy()
    apart.obs["alone"] = apart.obs_names  # every cell is a batch of its own
    model_input = read(apart, ours.reference_data)
    with pytest.raises(ValueError, match="none of 60 genes varies within a batch; leave batch_key= out"):
        fit_anchor(model_input, np.zeros((120, 4), np.float32), apart.obs["alone"].to_numpy())
