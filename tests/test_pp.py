"""The published preparation of counts: its numbers, and what the library does where the reference errs."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sccafm
from sccafm.pp import FLAGS, preprocess

VARIANTS = [
    *("defaults_min20", "pretrain_yaml", "tutorial_chip", "tutorial_perturb", "preserve_without_exclude_flag"),
    *("ensembl_key", "no_hvg_no_log", "no_filters", "nonfinite", "hvg_not_subset", "log1p_false_hvg", "cell_ranger"),
]
FLAGS_DIFFER = {"pretrain_yaml", "tutorial_chip", "tutorial_perturb", "ensembl_key"}  # HBEGF; Ensembl ids unflagged


@pytest.fixture(scope="module")
def release(golden):
    return sccafm.load(golden("small/release_flat"), device="cpu")


@pytest.fixture(scope="module")
def variant(golden):
    index = json.loads(golden("small/preprocess/index.json").read_text())

    def read(name):
        entry = index[name]
        return ad.read_h5ad(golden(f"small/preprocess/{entry['input']}.h5ad")), entry

    return read


def published(name, variant, release, golden, **settings):
    adata, entry = variant(name)
    expected = np.load(golden(f"small/preprocess/{name}.npz"))
    return preprocess(adata, release, progress=False, **entry["kwargs"], **settings), expected, entry


def assert_same_cells_genes_and_values(found, expected):
    assert found.var_names.tolist() == expected["var_names"].tolist()
    assert found.obs_names.tolist() == expected["obs_names"].tolist()
    assert found.X.dtype == np.float32
    np.testing.assert_allclose(found.X, expected["X"], rtol=1e-6, atol=1e-6)


quiet = pytest.mark.filterwarnings("ignore:.*values of X are not finite", "ignore:preserve_gene_names")


@quiet
@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_has_the_published_numbers(name, variant, release, golden):
    found, expected, entry = published(name, variant, release, golden, as_published=True)
    assert_same_cells_genes_and_values(found, expected)
    assert set(found.var.columns) == set(entry["var_columns"])
    assert set(found.obs.columns) == set(entry["obs_columns"])
    for key in (key for key in expected.files if key.startswith(("var__", "obs__"))):
        table = getattr(found, key[:3])
        np.testing.assert_allclose(table[key[5:]].to_numpy(), expected[key], rtol=2e-6, atol=1e-6, err_msg=key)


@quiet
@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in FLAGS_DIFFER])
def test_the_library_has_them_too_where_names_are_read_alike(name, variant, release, golden):
    found, expected, _ = published(name, variant, release, golden)
    assert_same_cells_genes_and_values(found, expected)


def test_ensembl_ids_are_flagged_through_the_vocabulary(variant, release, golden):
    """The reference keeps 154 cells of these, for it sees no mitochondrial gene."""
    adata, _ = variant("ensembl_key")
    found = preprocess(adata, release, gene_key="feature_id", min_genes=20, n_top_genes=40, progress=False)
    by_symbol = preprocess(adata, release, gene_key="gene_name", min_genes=20, n_top_genes=40, progress=False)
    assert found.shape == (134, 40)
    np.testing.assert_array_equal(found.X, by_symbol.X)


@pytest.mark.parametrize(
    ("flag", "yes", "no"),
    [
        ("mt", "MT-ND1 MT-CO1 MT-ATP6", "MTOR MT1X MT2A"),
        ("ribo", "RPS3 RPL5 RPLP0 RPSA RPS27A RPS4X RPS4Y1 RPL36AL RPL22L1 RPS3A1", "RPS6KA1 RPS19BP1 RPN1 RPS6KB2"),
        ("hb", "HBA1 HBA2 HBB HBG2 HBE1 HBQ1 HBZ HBM HBB-BS HBA-A1 HBB-BH1 HBQ1B", "HBEGF HBS1L HBP1 HBO1 HBXIP"),
    ],
)
def test_flags_name_what_they_should(flag, yes, no):
    assert [name for name in yes.split() if not FLAGS[flag].fullmatch(name)] == []
    assert [name for name in no.split() if FLAGS[flag].fullmatch(name)] == []


def counts(genes, cells=40, seed=0):
    values = np.random.default_rng(seed).poisson(1.0, (cells, len(genes))).astype(np.float32)
    return ad.AnnData(sparse.csr_matrix(values), var=pd.DataFrame(index=list(genes)))


LOOSE = {"min_genes": None, "min_cells": None, "max_pct_counts_mt": None, "n_top_genes": None, "progress": False}


def test_mouse_genes_are_kept_and_flagged(tiny_model):
    adata = counts(["Actb", "Trp53", "mt-Nd1", "Rps3", "Rpl5", "Gapdh", "Spi1", "Hbegf"])
    found = preprocess(adata, tiny_model, **LOOSE, remove_mito_genes=False)
    assert set(found.var_names) == set(adata.var_names)
    assert found.var_names[found.var["ribo"]].tolist() == ["Rps3", "Rpl5"]
    assert found.var_names[found.var["mt"]].tolist() == ["mt-Nd1"]
    assert not found.var["hb"].any()
    gone = preprocess(adata, tiny_model, **LOOSE, remove_ribo_genes=True)
    assert gone.var_names.tolist() == ["Actb", "Trp53", "Gapdh", "Spi1", "Hbegf"]


@pytest.mark.parametrize("store", [sparse.csr_matrix, sparse.csc_matrix, np.asarray], ids=["csr", "csc", "dense"])
def test_input_is_left_alone_and_storage_changes_nothing(store, tiny_model):
    adata = counts(["ACTB", "GAPDH", "SPI1", "CD3D", "MT-ND1", "NONSENSE9"])
    expected = preprocess(adata, tiny_model, **LOOSE).X
    adata.X = store(adata.X.toarray())
    before = adata.copy()
    found = preprocess(adata, tiny_model, **LOOSE)
    np.testing.assert_array_equal(found.X, expected)
    assert sparse.issparse(preprocess(adata, tiny_model, **LOOSE, densify=False).X) == sparse.issparse(adata.X)
    assert (adata.X != before.X).sum() == 0
    assert adata.var.equals(before.var)


def test_backed_files_are_read(tiny_model, tmp_path):
    adata = counts(["ACTB", "GAPDH", "SPI1", "CD3D"])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    found = preprocess(backed, tiny_model, **LOOSE)
    np.testing.assert_array_equal(found.X, preprocess(adata, tiny_model, **LOOSE).X)


def test_what_is_left_out_is_told_and_kept(tiny_model, capsys):
    adata = counts(["ACTB", "GAPDH", "SPI1", "MT-ND1", "NONSENSE9"])
    found = preprocess(adata, tiny_model, **LOOSE | {"progress": True})
    assert found.uns["sccafm_pp"]["genes outside the vocabulary"] == 1
    assert found.uns["sccafm_pp"]["mt genes"] == 1
    assert "40 cells x 3 genes; left out: 1 genes outside the vocabulary, 1 mt genes" in capsys.readouterr().out


def test_lists_of_names_without_effect_warn(tiny_model):
    adata = counts(["ACTB", "GAPDH", "SPI1", "CD3D"])
    with pytest.warns(UserWarning, match="have no effect without hvg_exclude_preserved_genes=True"):
        preprocess(adata, tiny_model, **LOOSE, preserve_gene_names=["SPI1"])


def test_values_that_are_not_finite_warn(tiny_model):
    adata = counts(["ACTB", "GAPDH", "SPI1", "CD3D"])
    adata.X[0, 0] = np.nan
    with pytest.warns(UserWarning, match="1 values of X are not finite and are read as 0"):
        assert preprocess(adata, tiny_model, **LOOSE).X[0, 0] == 0


def test_normalised_values_warn(tiny_model):
    adata = counts(["ACTB", "GAPDH", "SPI1", "CD3D"])
    adata.X = adata.X * 0.3
    with pytest.warns(UserWarning, match="X holds no counts"):
        preprocess(adata, tiny_model, **LOOSE)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"hvg_flavor": "seurat_v4"}, ValueError, r"must be one of \['seurat', 'cell_ranger', 'seurat_v3'\], got"),
        ({"n_top_genes": 0}, ValueError, "positive number or None for every gene, got 0"),
        ({"gene_key": "names"}, KeyError, "gene_key='names' is no column of var"),
        ({"min_genes": 200}, ValueError, "nothing is left of 40 cells x 4 genes without cells of fewer than 200 genes"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings, error, message, tiny_model):
    with pytest.raises(error, match=message):
        preprocess(counts(["ACTB", "GAPDH", "SPI1", "CD3D"]), tiny_model, **LOOSE | settings)


def test_scaled_values_and_foreign_names_are_refused(tiny_model):
    adata = counts(["ACTB", "GAPDH", "SPI1", "CD3D"])
    adata.X[0, 0] = -1
    with pytest.raises(ValueError, match="negative values"):
        preprocess(adata, tiny_model, **LOOSE)
    for as_published, message in ((False, "only 0 of 4 genes"), (True, "none of the 4 genes")):
        with pytest.raises(ValueError, match=message):
            preprocess(counts(["qq1", "qq2", "qq3", "qq4"]), tiny_model, **LOOSE, as_published=as_published)
