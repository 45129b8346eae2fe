"""embed: the same cell gives the same vector, what is written where, round trips, validation, and adapting."""

import dataclasses

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from making import random_causal_efm, random_efm
from scipy import sparse

import sccafm
from sccafm._io import blocks
from sccafm.data.matrix import Matrix
from sccafm.embedding.adapt import Adapt
from sccafm.losses.embedding import Views


@pytest.fixture(scope="session")
def ours(tiny_model):
    efm = random_causal_efm(tiny_model.vocabulary.size)
    efm.config = dataclasses.replace(efm.config, species=tuple(map(tiny_model.conditions.index, ("human", "mouse"))))
    return dataclasses.replace(tiny_model, efm=efm)


@pytest.fixture(scope="session")
def published(tiny_model):
    efm = random_efm(tiny_model.vocabulary.size, tiny_model.conditions.size, use_rotary=True)
    return dataclasses.replace(tiny_model, efm=efm)


@pytest.fixture
def embed(ours):
    def run(adata, model=ours, **settings):
        settings = {"groupby": "cell_type"} | settings
        return sccafm.embed(adata.copy() if not adata.isbacked else adata, model, progress=False, **settings)

    return run


@pytest.fixture
def expected(embed, toy_adata):
    return embed(toy_adata)


def assert_same(found, expected):
    """Every number of two runs has the same bits."""
    pd.testing.assert_frame_equal(found.cells, expected.cells, check_exact=True)
    pd.testing.assert_frame_equal(found.zero_shot, expected.zero_shot, check_exact=True)
    np.testing.assert_array_equal(found.sums, expected.sums, strict=True)
    pd.testing.assert_frame_equal(found.static_genes, expected.static_genes, check_exact=True)
    pd.testing.assert_frame_equal(found.gene_table, expected.gene_table)
    pd.testing.assert_series_equal(found.groups, expected.groups)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_and_repeats(embed, toy_adata, expected, batch_size):
    assert_same(embed(toy_adata, batch_size=batch_size), expected)


def test_cells_beside_it_and_their_order(embed, toy_adata, expected):
    order = np.random.default_rng(0).permutation(30)[:17]
    found = embed(toy_adata[order], genes=list(toy_adata.var_names))
    pd.testing.assert_frame_equal(found.zero_shot, expected.zero_shot.iloc[order], check_exact=True)
    same = embed(toy_adata[order], genes=list(toy_adata.var_names), anchor=False)
    pd.testing.assert_frame_equal(same.cells, expected.zero_shot.iloc[order], check_exact=True)


def test_order_of_genes(embed, toy_adata, expected):
    found = embed(toy_adata[:, ::-1])
    np.testing.assert_allclose(found.zero_shot, expected.zero_shot, atol=2e-5, rtol=0)
    np.testing.assert_allclose(found.genes.loc[expected.genes.index], expected.genes, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("store", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.filterwarnings("ignore:.*stored by columns:UserWarning")
def test_storage(embed, toy_adata, expected, tmp_path, store):
    toy_adata.X = store(toy_adata.X.toarray().astype("float64"))
    assert_same(embed(toy_adata), expected)
    toy_adata.write_h5ad(tmp_path / "data.h5ad")
    assert_same(embed(ad.read_h5ad(tmp_path / "data.h5ad", backed="r")), expected)


def test_orthologs_share_their_vectors(embed, toy_adata, expected):
    """What differs between equal counts of orthologs are the species' usual levels and the graph, not the genes."""
    toy_adata.obs["organism"] = "human"
    mouse = toy_adata.copy()
    mouse.obs["organism"] = "mouse"
    mouse.var_names = [name.title() for name in mouse.var_names]
    found = embed(mouse)
    np.testing.assert_array_equal(found.static_genes, expected.static_genes)
    assert not np.allclose(found.cells, expected.cells)


@pytest.mark.parametrize("kind", ["ours", "published"])
def test_factors_that_were_inferred_before_give_the_same_bits(embed, toy_adata, kind, request, tmp_path):
    model = request.getfixturevalue(kind)
    grn = sccafm.infer_grn(
        toy_adata.copy(), model, keep_factors=True, null_cells=0, progress=False, store=tmp_path / "s"
    )
    assert_same(embed(toy_adata, model, grn=grn), embed(toy_adata, model))
    assert_same(embed(toy_adata, model, grn=sccafm.read_grn(tmp_path / "s")), embed(toy_adata, model))


def test_what_is_written_to_the_data(ours, toy_adata):
    wide = ad.concat(
        [toy_adata, ad.AnnData(np.ones((30, 1)), toy_adata.obs, pd.DataFrame(index=["NO-SUCH-GENE"]))], axis=1
    )
    wide.obs = toy_adata.obs
    found = sccafm.embed(wide, ours, progress=False)
    assert wide.obsm["X_sccafm"].dtype == np.float32
    np.testing.assert_array_equal(wide.obsm["X_sccafm"], found.cells)
    np.testing.assert_array_equal(wide.obsm["X_sccafm_zero_shot"], found.zero_shot)
    np.testing.assert_array_equal(wide.varm["X_sccafm"][:60], found.genes.loc[wide.var_names[:60]])
    assert np.isnan(wide.varm["X_sccafm"][60]).all()
    assert wide.uns["X_sccafm"]["params"]["receipt"]["lost"] == ["NO-SUCH-GENE"]
    other = sccafm.embed(toy_adata, ours, key_added="X_mine", copy=True, progress=False)
    assert "X_mine" not in toy_adata.obsm
    assert "X_mine" in other.adata.obsm
    assert "Embedding of 30 cells (41 wide, anchored) and 60 genes (20 wide)" in repr(other)


def test_annotated_data_can_be_written_and_neighbours_found(ours, toy_adata, tmp_path):
    import scanpy as sc

    sccafm.embed(toy_adata, ours, progress=False)
    sc.pp.neighbors(toy_adata, use_rep="X_sccafm", n_neighbors=5)
    toy_adata.write_h5ad(tmp_path / "out.h5ad")
    assert ad.read_h5ad(tmp_path / "out.h5ad").obsm["X_sccafm_zero_shot"].shape == (30, 12)


def test_groups_average_to_the_whole(expected, toy_adata):
    counts = toy_adata.obs["cell_type"].value_counts()
    mean = sum(expected.genes_by_group[name] * n for name, n in counts.items()) / 30
    np.testing.assert_allclose(mean, expected.genes, atol=1e-5)
    assert list(expected.genes_by_group) == list(expected.groups.cat.categories)
    assert expected.genes.columns[[0, 8, 14]].tolist() == ["state_000", "source_000", "target_000"]


def test_vectors_come_back_from_a_folder(expected, tmp_path):
    found = sccafm.read_embedding(expected.write(tmp_path / "e"))
    assert_same(found, expected)
    assert found.params == expected.params
    pd.testing.assert_frame_equal(found.genes, expected.genes, check_exact=True)
    with pytest.raises(
        NotADirectoryError, match="cells.h5ad/out cannot be made .*name a folder below one that is there"
    ):
        (tmp_path / "cells.h5ad").touch()
        found.write(tmp_path / "cells.h5ad/out")
    with pytest.raises(ValueError, match="is not empty; give a new folder"):
        expected.write(tmp_path / "e")
    with pytest.raises(FileNotFoundError, match="holds no embedding: it has no embedding.json"):
        sccafm.read_embedding(tmp_path)
    header = tmp_path / "e/embedding.json"
    header.write_text(header.read_text().replace('"format": 3', '"format": 0'))
    with pytest.raises(ValueError, match="has the format 0, this version reads 3; embed again"):
        sccafm.read_embedding(tmp_path / "e")


@torch.no_grad()
def test_the_published_module_is_pooled_over_what_is_expressed(published, toy_adata, embed):
    found = embed(toy_adata, published)
    first = embed(toy_adata[:1], published, genes=list(toy_adata.var_names), anchor=False)
    expressed = toy_adata[:1].to_df().iloc[0] > 0
    mean = first.genes.loc[expressed.index[expressed]].mean()
    np.testing.assert_allclose(found.zero_shot.iloc[0], mean, atol=1e-5)
    shuffled = toy_adata.copy()
    shuffled.X = toy_adata.X[:, np.random.default_rng(0).permutation(60)]
    assert np.abs(embed(shuffled, published).zero_shot - found.zero_shot).to_numpy().max() > 0.05


def test_memory_does_not_grow_with_cells(ours, toy_adata, tmp_path, monkeypatch):
    """The matrix is read a few cells at a time, whatever their number."""
    many = ad.concat([toy_adata] * 3, index_unique="-")
    many.write_h5ad(tmp_path / "many.h5ad")
    read, seen = Matrix.read, []

    def watched(matrix, start, stop, columns):
        seen.append(stop - start)
        return read(matrix, start, stop, columns)

    monkeypatch.setattr(Matrix, "read", watched)
    found = sccafm.embed(ad.read_h5ad(tmp_path / "many.h5ad", backed="r"), ours, batch_size=16, progress=False)
    assert seen[: len(list(blocks(90, 16)))] == [16] * 5 + [10]  # for the model
    assert len(seen) == 6 + 3  # and three times for the anchor, in blocks of its own
    assert found.sums.shape == (1, 60, 20)


DOORS = [
    ({"grn": 3}, TypeError, "grn must be what sccafm.infer_grn or sccafm.read_grn returned, got int"),
    (
        {"adapt": "soon"},
        ValueError,
        'adapt must be a text such as "5 epochs" or "3 minutes", or an Adapt; got \'soon\'',
    ),
    ({"adapt": 5}, ValueError, "adapt must be a text such as"),
    ({"adapt": "0 epochs"}, ValueError, "Adapt needs either epochs or minutes, above 0: got epochs=0.0"),
    ({"batch_key": "donor"}, KeyError, "batch_key='donor' is no column of obs; there are"),
    (
        {"batch_key": "tissue", "adapt": "1 epoch"},
        ValueError,
        "batch_key='tissue' names a single batch, 'blood'; leave",
    ),
    ({"groupby": "kind"}, KeyError, "groupby='kind' is no column of obs"),
    ({"batch_size": 0}, ValueError, 'batch_size must be "auto" or a positive whole number, got 0'),
    ({"genes": "SPI1"}, ValueError, r"write genes=\['SPI1'\]"),
    ({"layer": "raw"}, KeyError, "no layer 'raw'"),
]


@pytest.mark.parametrize(("settings", "error", "told"), DOORS)
def test_validation(embed, toy_adata, settings, error, told):
    with pytest.raises(error, match=told):
        embed(toy_adata, **settings)


def test_doors_of_models_and_networks(embed, toy_adata, tiny_model, ours):
    with pytest.raises(ValueError, match="the model from tiny has no embedding module .*model=None, or train one"):
        embed(toy_adata, tiny_model)
    settings = {"null_cells": 0, "progress": False}
    plain = sccafm.infer_grn(toy_adata.copy(), ours, **settings)
    with pytest.raises(ValueError, match="holds no factors; infer it with keep_factors=True"):
        embed(toy_adata, grn=plain)
    grn = sccafm.infer_grn(toy_adata.copy(), ours, keep_factors=True, **settings)
    with pytest.raises(ValueError, match="of other cells: 30 there, 12 here, 12 in common"):
        embed(toy_adata[:12], grn=grn)
    with pytest.raises(ValueError, match="was inferred by other weights"):
        embed(toy_adata, dataclasses.replace(ours, weights_hash="1" * 64), grn=grn)
    other = toy_adata.copy()
    other.X = other.X * 2
    other.X[0, 0] = 9
    with pytest.raises(ValueError, match="was inferred from other values or genes"):
        embed(other, grn=grn)
    with pytest.warns(UserWarning, match="genes= has no effect beside grn="):
        embed(toy_adata, grn=grn, genes=["SPI1"])
    with pytest.warns(UserWarning, match="batch_key has no effect with anchor=False and without adapt=; leave"):
        embed(toy_adata, batch_key="cell_type", anchor=False)


QUICK = Adapt(
    epochs=4, batch_size=10, genes=40, learning_rate=5e-3, held_out=0, views=Views(genes=24, anchors=8, matched=3)
)


def test_adapting_is_seeded_and_leaves_the_model_alone(embed, toy_adata, ours, expected):
    before = {name: tensor.clone() for name, tensor in ours.efm.state_dict().items()}
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    one = embed(toy_adata, adapt=QUICK)
    assert torch.equal(torch.rand(1), drawn)  # the user's own random numbers are not used up
    assert_same(embed(toy_adata, adapt=QUICK), one)
    other = embed(toy_adata, adapt=dataclasses.replace(QUICK, seed=1))
    assert not np.array_equal(other.cells, one.cells)
    assert not np.allclose(one.zero_shot, expected.zero_shot, atol=1e-3)
    for name, tensor in ours.efm.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert_same(embed(toy_adata, one.model), one)  # the adapted model embeds further data


def test_adapting_forgets_a_mark_of_batches(embed, toy_adata):
    """Ten genes are four times as high in one batch: with batch_key they say less of where a cell is than without."""
    rng = np.random.default_rng(0)
    toy_adata.obs["donor"] = np.where(rng.random(30) < 0.5, "a", "b")
    marked = toy_adata.X.toarray()
    marked[np.ix_(toy_adata.obs["donor"] == "b", range(20, 30))] = (
        4 * marked[np.ix_(toy_adata.obs["donor"] == "b", range(20, 30))] + 6
    )
    toy_adata.X = sparse.csr_matrix(marked)

    def apart(embedding):
        x, is_b = embedding.zero_shot.to_numpy(), (toy_adata.obs["donor"] == "b").to_numpy()
        return np.linalg.norm(x[is_b].mean(0) - x[~is_b].mean(0)) / x.std()

    long = dataclasses.replace(QUICK, epochs=12, partners=0.8)
    assert apart(embed(toy_adata, adapt=long, batch_key="donor")) < 0.8 * apart(embed(toy_adata, adapt=long))


def test_adapting_needs_cells_and_this_librarys_module(embed, toy_adata, published):
    with pytest.raises(ValueError, match="needs 10 of them, got 4; leave it out"):
        embed(toy_adata[:4], adapt="1 epoch")
    with pytest.raises(ValueError, match="the published embedding module cannot be adapted"):
        embed(toy_adata, published, adapt="1 epoch")
