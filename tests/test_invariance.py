"""The same cell gives the same answer: whatever the batch, its neighbours, the order, the storage."""

import dataclasses

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import sccafm
from sccafm.data.input import prepare
from sccafm.data.tokenizer import tokenize
from sccafm.types import Tokens

# Columns that a cell has whatever the data set; sign and qvalue are statements about it within its data set.
OF_THE_CELL = ["source", "target", "weight", "confidence", "in_prior", "prior_sources"]


@pytest.fixture
def infer(tiny_model):
    def run(adata, **settings):
        settings = {"groupby": "cell_type", "keep_factors": True, "top_k": 40} | settings
        return sccafm.infer_grn(adata.copy() if not adata.isbacked else adata, tiny_model, progress=False, **settings)

    return run


def assert_same(found, expected):
    """Every number of two runs has the same bits."""
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame())
    for one, other in ((found.arrays, expected.arrays), (found.sums, expected.sums)):
        assert one.keys() == other.keys()
        for name in other:
            np.testing.assert_array_equal(one[name], other[name], strict=True)


def assert_same_cells(found, expected):
    """Cells that both runs hold have the same bits."""
    where = expected.cells.get_indexer(found.cells)
    for name in expected.arrays:
        np.testing.assert_array_equal(found.arrays[name], expected.arrays[name][where])
    for cell in found.cells:
        pd.testing.assert_frame_equal(found[cell][OF_THE_CELL], expected[cell][OF_THE_CELL])


@pytest.fixture
def expected(infer, toy_adata):
    return infer(toy_adata)


def test_repeated_run(infer, toy_adata, expected):
    assert_same(infer(toy_adata), expected)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size(infer, toy_adata, expected, batch_size):
    assert_same(infer(toy_adata, batch_size=batch_size), expected)


@pytest.mark.parametrize("cells", [7, 16])
def test_size_of_parts(infer, toy_adata, expected, monkeypatch, cells):
    monkeypatch.setattr("sccafm.grn.storage.PART_CELLS", cells)
    assert_same(infer(toy_adata), expected)


def test_order_of_cells(infer, toy_adata, expected):
    shuffled = toy_adata[np.random.default_rng(0).permutation(30)]
    found = infer(shuffled)
    assert_same_cells(found, expected)
    pd.testing.assert_frame_equal(found["cell3"], expected["cell3"])  # sign and qvalue too
    np.testing.assert_allclose(found.sums["scores"], expected.sums["scores"], rtol=1e-12)


def test_cell_alone(infer, toy_adata, expected):
    for cell in ("cell0", "cell11", "cell29"):
        assert_same_cells(infer(toy_adata[[cell]], genes=toy_adata.var_names), expected)


def test_cells_beside_it(infer, toy_adata, expected):
    toy_adata.X = sparse.vstack([toy_adata.X[:5], toy_adata.X[5:][:, ::-1]]).tocsr()
    assert_same_cells(infer(toy_adata[:5]), expected)
    found = infer(toy_adata)
    np.testing.assert_array_equal(found.summary[:5], expected.summary[:5])
    first = list(toy_adata.obs_names[:5])
    pd.testing.assert_frame_equal(found.to_frame(first)[OF_THE_CELL], expected.to_frame(first)[OF_THE_CELL])


STORAGES = [
    (sparse.csr_matrix, "float64"),
    (sparse.csr_array, "int32"),
    (sparse.csc_matrix, "float32"),
    (sparse.csc_array, "uint16"),
    (np.asarray, "float32"),
    (np.asarray, "int64"),
]


@pytest.mark.parametrize(("store", "dtype"), STORAGES)
def test_storage_and_type(infer, toy_adata, expected, store, dtype):
    toy_adata.X = store(toy_adata.X.toarray().astype(dtype))
    assert_same(infer(toy_adata), expected)


@pytest.mark.parametrize("store", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.filterwarnings("ignore:.*stored by columns:UserWarning")
def test_backed(infer, toy_adata, expected, tmp_path, store):
    toy_adata.X = store(toy_adata.X.toarray())
    toy_adata.write_h5ad(tmp_path / "data.h5ad")
    assert_same(infer(ad.read_h5ad(tmp_path / "data.h5ad", backed="r")), expected)


def test_place_of_the_counts(infer, toy_adata, expected):
    log = np.log1p(toy_adata.X.toarray())
    layered = toy_adata.copy()
    layered.layers["counts"], layered.X = layered.X.copy(), log
    raw = toy_adata.copy()
    raw.raw, raw.X = raw.copy(), log - log.mean(0)
    for adata in (layered, raw):
        assert_same(infer(adata), expected)


def test_memory_or_disk(infer, toy_adata, expected, tmp_path):
    stored = infer(toy_adata, store=tmp_path / "store")
    for cell in expected.cells[:3]:
        for found, wanted in zip(stored.factors(cell), expected.factors(cell), strict=True):
            pd.testing.assert_frame_equal(found, wanted, check_exact=True)
    arrays = {name: expected.arrays[name] for name in stored.arrays}
    assert_same(stored, dataclasses.replace(expected, arrays=arrays))


def test_names_of_genes(infer, toy_adata, expected, tiny_model):
    book = tiny_model.reference_data.genes
    ids = [tiny_model.vocabulary.gene_id(book.find(name, "human")[0]) for name in toy_adata.var_names]
    toy_adata.var["feature_name"] = toy_adata.var_names.to_numpy()
    toy_adata.var_names = [f"{gene_id}.{i}" for i, gene_id in enumerate(ids)]
    found = infer(toy_adata)
    for name in expected.arrays:
        np.testing.assert_array_equal(found.arrays[name], expected.arrays[name])
    assert found.genes["symbol"].tolist() == expected.genes["symbol"].tolist()


def test_genes_beside_it_do_not_matter_where_genes_are_named(infer, toy_adata):
    toy_adata.layers["log"] = np.log1p(toy_adata.X.toarray())  # counts would be shared among other genes
    genes = toy_adata.var_names[:40].tolist()
    settings = {"layer": "log", "preprocess": "none", "genes": genes}
    assert_same_cells(infer(toy_adata[:, ::-1][:, 20:], **settings), infer(toy_adata[:, 39::-1], **settings))


def test_padding(tiny_model, toy_adata):
    model_input = prepare(toy_adata, tiny_model)
    values = model_input.matrix.read(0, 4, model_input.columns)
    plain = tokenize(values, model_input.gene_ids, model_input.is_tf, model_input.conditions[:4])
    tail = torch.zeros(4, 9)
    padded = Tokens(
        torch.cat([plain.gene_ids, tail.long() + 7], 1),
        torch.cat([plain.expression, tail + 5], 1),
        plain.conditions,
        torch.cat([plain.is_tf, tail.bool() | True], 1),
        torch.cat([torch.zeros_like(plain.is_tf), tail.bool() | True], 1),
    )
    with torch.inference_mode():
        expected, found = tiny_model.sfm(plain), tiny_model.sfm(padded)
    for name in ("u", "v"):
        torch.testing.assert_close(getattr(found, name)[:, :60], getattr(expected, name), atol=1e-5, rtol=0)
        assert (getattr(found, name)[:, 60:] == 0).all()
    torch.testing.assert_close(found.summary, expected.summary, atol=1e-5, rtol=0)


def test_cells_passed_together_on_a_device(tiny_model, toy_adata):
    model_input = prepare(toy_adata, tiny_model)
    values = model_input.matrix.read(0, 8, model_input.columns)
    tokens = tokenize(values, model_input.gene_ids, model_input.is_tf, model_input.conditions[:8])
    with torch.inference_mode():
        together = tiny_model.sfm(tokens)
        alone = torch.cat([tiny_model.sfm(tokens[i : i + 1]).scores() for i in range(8)])
    torch.testing.assert_close(together.scores(), alone, atol=1e-5, rtol=0)


def test_self_edges_are_never_kept(infer, toy_adata):
    for settings in ({"top_k": None}, {"min_weight": 0.01}, {"regulators": toy_adata.var_names.tolist()}):
        frame = infer(toy_adata, **settings).to_frame()
        assert len(frame)
        assert (frame["source"].astype(str) != frame["target"].astype(str)).all()
