"""infer_grn at its edges: what it writes, prints, refuses and leaves alone."""

import dataclasses
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from anndata.tests.helpers import assert_equal
from conftest import GENES

import sccafm


@pytest.fixture
def infer(tiny_model):
    def run(adata, **settings):
        return sccafm.infer_grn(adata, tiny_model, **{"top_k": 20, "progress": False} | settings)

    return run


# --- what is written


def test_slots_are_as_documented(infer, toy_adata):
    grn = infer(toy_adata, groupby="cell_type")
    assert set(toy_adata.obsm) == {"X_sccafm_sfm", "sccafm_context"}
    np.testing.assert_array_equal(toy_adata.obsm["X_sccafm_sfm"], grn.summary, strict=True)
    pd.testing.assert_frame_equal(toy_adata.obsm["sccafm_context"], grn.context)
    assert toy_adata.obsm["sccafm_context"].to_numpy().dtype == np.float32
    assert toy_adata.obs["sccafm_context"].dtype == "category"
    assert toy_adata.obs["sccafm_context"].tolist() == grn.context_label.tolist()
    assert toy_adata.obs["sccafm_context"].cat.categories.tolist() == grn.context.columns.tolist()
    np.testing.assert_array_equal(toy_adata.obs["sccafm_context_entropy"], grn.context_entropy)
    assert toy_adata.var_names[toy_adata.var["is_tf"]].tolist() == grn.regulators.tolist()
    assert toy_adata.var["sccafm_in_vocab"].all()
    assert [str(toy_adata.var[name].dtype) for name in ("is_tf", "sccafm_in_vocab")] == ["bool", "bool"]
    assert set(toy_adata.uns["sccafm"]) == {"grn", "params"}


def test_population_network_is_pooled(infer, toy_adata):
    grn = infer(toy_adata, groupby="cell_type")
    network = toy_adata.uns["sccafm"]["grn"]
    rest = ["confidence", "sign", "qvalue", "n_cells", "binding", "response", "in_prior", "prior_sources"]
    assert network.columns.tolist() == ["source", "target", "weight", "group", *rest]
    text = ("source", "target", "group", "prior_sources")
    expected = grn.pool()[network.columns].astype({name: object for name in text})
    pd.testing.assert_frame_equal(network, expected)
    infer(toy_adata)
    assert toy_adata.uns["sccafm"]["grn"].columns.tolist() == ["source", "target", "weight", *rest]
    assert not toy_adata.uns["sccafm"]["grn"].duplicated(["source", "target"]).any()


def test_run_card_says_what_was_run(infer, toy_adata):
    params = infer(toy_adata).params
    assert params["model"] == "tiny"
    assert params["device"] == "cpu"
    assert params["receipt"]["n_used"] == 60
    assert params["run"]["top_k"] == 20
    assert toy_adata.uns["sccafm"]["params"]["weights_hash"] == "0" * 64


def test_genes_outside_the_vocabulary_are_flagged(infer, toy_adata):
    toy_adata.var_names = ["Foo1", *toy_adata.var_names[1:]]
    infer(toy_adata)
    assert toy_adata.var_names[~toy_adata.var["sccafm_in_vocab"]].tolist() == ["Foo1"]
    assert not toy_adata.var["is_tf"].iloc[0]


def test_flags_fit_x_where_raw_was_read(infer, toy_adata):
    toy_adata.raw = toy_adata.copy()
    part = toy_adata[:, 10:30].copy()
    part.X = part.X.toarray() - 0.5
    grn = infer(part)
    assert len(grn.targets) == 60
    assert part.var["is_tf"].sum() == 8
    assert part.var["sccafm_in_vocab"].all()


@pytest.mark.parametrize("settings", [{}, {"groupby": "cell_type", "min_weight": 0.1, "keep_factors": True}])
def test_annotated_data_can_be_written_and_read(infer, toy_adata, tmp_path, settings):
    toy_adata.var_names = ["Foo1", *toy_adata.var_names[1:]]
    infer(toy_adata, **settings)
    toy_adata.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(back.obsm["sccafm_context"], toy_adata.obsm["sccafm_context"])
    pd.testing.assert_frame_equal(back.obs, toy_adata.obs)
    pd.testing.assert_frame_equal(
        back.uns["sccafm"]["grn"], toy_adata.uns["sccafm"]["grn"], check_dtype=False, check_categorical=False
    )
    assert back.uns["sccafm"]["params"]["receipt"]["lost"].tolist() == ["Foo1"]
    assert back.uns["sccafm"]["params"]["run"]["top_k"] == 20


def test_key_added_renames_everything(infer, toy_adata):
    before = {slot: set(getattr(toy_adata, slot)) for slot in ("obs", "obsm", "var", "uns")}
    infer(toy_adata, key_added="mine")
    added = {slot: set(getattr(toy_adata, slot)) - names for slot, names in before.items()}
    assert added == {
        "obs": {"mine_context", "mine_context_entropy"},
        "obsm": {"X_mine_sfm", "mine_context"},
        "var": {"is_tf", "mine_in_vocab"},
        "uns": {"mine"},
    }


def test_later_changes_of_the_data_do_not_reach_the_grn(infer, toy_adata):
    grn = infer(toy_adata)
    summary, context = grn.summary.copy(), grn.context.copy()
    toy_adata.obsm["X_sccafm_sfm"][:] = 0
    toy_adata.obsm["sccafm_context"].iloc[:] = 0
    toy_adata.obs_names = [f"new{i}" for i in range(30)]
    np.testing.assert_array_equal(grn.summary, summary)
    pd.testing.assert_frame_equal(grn.context, context)


def test_a_second_run_replaces_the_first(infer, toy_adata):
    infer(toy_adata, genes=toy_adata.var_names[:40])
    grn = infer(toy_adata)
    np.testing.assert_array_equal(toy_adata.obsm["X_sccafm_sfm"], grn.summary)


# --- what is left alone


def test_copy_leaves_the_original_alone(infer, toy_adata):
    toy_adata.raw = toy_adata.copy()
    toy_adata.layers["counts"] = toy_adata.X.copy()
    toy_adata.uns["colors"] = ["red"]
    before = toy_adata.copy()
    grn = infer(toy_adata, copy=True)
    assert_equal(toy_adata, before, exact=True)
    assert "sccafm_context" in grn.adata.obs
    assert grn.adata.raw is not None
    assert infer(toy_adata).adata is None


@pytest.mark.parametrize("layer", [None, "counts"])
def test_values_are_never_changed(infer, toy_adata, layer):
    toy_adata.layers["counts"] = toy_adata.X.toarray()
    toy_adata.raw = toy_adata.copy()
    before = toy_adata.copy()
    infer(toy_adata, layer=layer)
    assert_equal(toy_adata.X, before.X, exact=True)
    assert_equal(toy_adata.layers["counts"], before.layers["counts"], exact=True)
    assert_equal(toy_adata.raw.X, before.raw.X, exact=True)


def test_random_states_are_left_alone(infer, toy_adata):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()
    infer(toy_adata)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_before, strict=True))


def test_the_model_is_left_alone(infer, toy_adata, tiny_model):
    before = {key: tensor.clone() for key, tensor in tiny_model.sfm.state_dict().items()}
    infer(toy_adata)
    assert all(torch.equal(tensor, before[key]) for key, tensor in tiny_model.sfm.state_dict().items())
    assert not tiny_model.sfm.training


def test_a_file_that_is_read_from_disk_is_left_alone(infer, toy_adata, tmp_path):
    toy_adata.write_h5ad(tmp_path / "in.h5ad")
    before = (tmp_path / "in.h5ad").read_bytes()
    backed = ad.read_h5ad(tmp_path / "in.h5ad", backed="r")
    grn = infer(backed, copy=True)
    assert "sccafm_context" not in backed.obs
    assert not grn.adata.isbacked
    infer(backed)
    assert "sccafm_context" in backed.obs
    backed.file.close()
    assert (tmp_path / "in.h5ad").read_bytes() == before


# --- what is printed


def test_silence_is_kept_on_request(infer, toy_adata, capfd):
    infer(toy_adata)
    assert capfd.readouterr() == ("", "")


def test_receipt_is_printed_once(infer, toy_adata, capfd):
    infer(toy_adata, progress=True)
    out, err = capfd.readouterr()
    assert out.count("genes 60 of 60 known: 60 by symbol") == 1
    assert out.startswith("sccafm: read X: counts, read as log1p of counts per 10,000\n")
    assert "30/30" in err


# --- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, "top_k must be a positive whole number or None for no limit, got 0"),
        ({"top_k": 2.5}, "top_k must be a positive whole number"),
        ({"top_k": True}, "top_k must be a positive whole number"),
        ({"min_weight": 1.5}, "min_weight must lie between 0 and 1, got 1.5"),
        ({"min_weight": float("nan")}, "min_weight must lie between 0 and 1"),
        ({"min_weight": "a"}, "min_weight must lie between 0 and 1, got 'a'"),
        ({"n_top_genes": "all"}, "n_top_genes must be a whole number or None for every gene, got 'all'"),
        ({"batch_size": 0}, 'batch_size must be "auto" or a positive whole number, got 0'),
        ({"batch_size": "large"}, 'batch_size must be "auto" or a positive whole number'),
        ({"batch_size": 2.5}, 'batch_size must be "auto" or a positive whole number'),
        ({"preprocess": "log"}, 'preprocess must be "auto" or "none"'),
        ({"regulators": "tfs"}, 'regulators must be "dna_binding", "all" or a list'),
    ],
)
def test_settings_that_make_no_sense_are_refused(infer, toy_adata, settings, message):
    with pytest.raises(ValueError, match=message):
        infer(toy_adata, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"genes": GENES.split()[:30], "n_top_genes": 50}, "n_top_genes has no effect where genes="),
        ({"device": "meta"}, "device='meta' has no effect: the loaded model is on cpu"),
        ({"species": "human", "condition_keys": {"species": "cell_type"}}, "has no effect where species= is given"),
    ],
)
def test_settings_without_effect_warn(infer, toy_adata, settings, message):
    with pytest.warns(UserWarning, match=message):
        assert len(infer(toy_adata, **settings)) == 30


@pytest.mark.parametrize("settings", [{"top_k": np.int64(5)}, {"min_weight": np.float32(0.125)}])
def test_numbers_of_numpy_are_numbers(infer, toy_adata, tmp_path, settings):
    grn = infer(toy_adata, **settings)
    assert sccafm.read_grn(grn.write(tmp_path / "grn")).params == grn.params


def test_least_weight_is_a_lower_bound(infer, toy_adata):
    grn = infer(toy_adata, top_k=None, min_weight=0.2)
    assert 0 < len(grn.edges) < 30 * 18 * 59
    assert grn.to_frame()["weight"].min() >= 0.2


def test_top_k_beyond_all_pairs_keeps_all(infer, toy_adata):
    assert len(infer(toy_adata, top_k=10**6).edges) == len(infer(toy_adata, top_k=None).edges)


def test_a_model_folder_may_be_named(tiny_model, toy_adata, infer, tmp_path):
    folder = tiny_model.save_pretrained(tmp_path / "model")
    grn = sccafm.infer_grn(toy_adata, folder, top_k=20, progress=False)
    pd.testing.assert_frame_equal(grn.to_frame(), infer(toy_adata).to_frame())
    assert grn.params["model"] == str(folder)


def test_a_view_becomes_a_copy_as_in_scanpy(infer, toy_adata):
    view = toy_adata[5:15]
    with pytest.warns(ad.ImplicitModificationWarning):
        grn = infer(view)
    assert not view.is_view
    assert view.obs["sccafm_context"].tolist() == grn.context_label.tolist()
    assert "sccafm_context" not in toy_adata.obs
    pd.testing.assert_frame_equal(grn.to_frame(), infer(toy_adata[5:15].copy()).to_frame())


def test_a_view_is_read_without_a_word_into_a_copy(infer, toy_adata):
    grn = infer(toy_adata[::-2, 10:], copy=True, regulators="all")
    assert grn.cells.tolist() == toy_adata.obs_names[::-2].tolist()


@pytest.mark.parametrize("genes", [["SPI1", "LYZ"], ["SPI1"]])
@pytest.mark.filterwarnings("ignore:.*cells have no count in the genes that were read")
def test_very_few_genes_are_enough(infer, toy_adata, genes):
    grn = infer(toy_adata, genes=genes)
    assert grn.targets.tolist() == genes
    told = (toy_adata[:, genes].X.toarray() > 0).any(1)
    assert 0 < told.sum() < 30
    assert len(grn.edges) == (len(genes) - 1) * told.sum()


def test_one_cell_is_enough(infer, toy_adata):
    grn = infer(toy_adata[:1].copy())
    assert len(grn) == 1
    assert len(grn["cell0"]) == 20


def test_a_cell_without_counts_has_finite_numbers(infer, toy_adata):
    toy_adata.X = toy_adata.X.toarray() * (np.arange(30) != 3)[:, None]
    with pytest.warns(UserWarning, match="1 cells have no counts"):
        grn = infer(toy_adata)
    assert np.isfinite(grn.summary).all()
    assert len(grn["cell3"]) == 0


def test_scanpys_own_data_are_read(infer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = sc.datasets.pbmc68k_reduced()[:6].copy()
    with pytest.warns(UserWarning, match="raw.X is normalised"):
        grn = infer(adata, groupby="bulk_labels", regulators="all")
    assert len(grn) == 6
    assert grn.params["receipt"]["matrix"] == "raw.X"
    assert grn.params["receipt"]["n_lost"] < 0.05 * grn.params["receipt"]["n_genes"]


def test_results_are_frozen(infer, toy_adata):
    with pytest.raises(dataclasses.FrozenInstanceError):
        infer(toy_adata).cells = None
