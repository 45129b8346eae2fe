"""Cells read as means of their nearest cells: which cells these are, and what is read."""

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import sccafm
from sccafm.data.matrix import find_matrix
from sccafm.data.neighbors import smoothed


@pytest.fixture
def cells() -> ad.AnnData:
    """Two kinds of 20 cells that express different genes."""
    rng = np.random.default_rng(0)
    rate = np.where((np.arange(40) % 2)[:, None] == np.arange(30) % 2, 9.0, 0.5)
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata.obs_names = [f"c{i}" for i in range(40)]
    return adata


def test_a_cell_is_the_mean_of_itself_and_its_nearest_cells(cells):
    matrix = find_matrix(cells, None, "auto")
    columns = np.array([2, 5, 7, 28])
    near = smoothed(matrix, np.arange(30), 4)
    assert (near.nearest[:, 0] == np.arange(40)).all()
    assert (near.nearest % 2 == np.arange(40)[:, None] % 2).all()  # of its own kind
    shares = cells.X.toarray() / cells.X.toarray().sum(1, keepdims=True) * 1e4
    expected = [np.log1p(shares[rows].mean(0)[columns]) for rows in near.nearest[3:9]]
    np.testing.assert_allclose(near.read(3, 9, columns), expected, rtol=1e-5)
    assert near.obs_names.equals(matrix.obs_names)


def test_storage_changes_nothing(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    found = [
        smoothed(find_matrix(a, None, "auto"), np.arange(30), 5).read(0, 40, np.arange(30)) for a in (cells, backed)
    ]
    np.testing.assert_array_equal(*found)


def test_equal_cells_are_their_own_first_neighbours(cells):
    doubled = ad.AnnData(sparse.vstack([cells.X[:5]] * 4).tocsr())
    near = smoothed(find_matrix(doubled, None, "auto"), np.arange(30), 3)
    assert (near.nearest[:, 0] == np.arange(20)).all()
    assert (near.nearest % 5 == np.arange(20)[:, None] % 5).all()


@pytest.mark.parametrize("k", [1, 41])
def test_more_neighbours_than_cells_are_refused(cells, k):
    with pytest.raises(ValueError, match=rf"neighbors must be 0, or from 2 to the number of cells \(40\), got {k}"):
        smoothed(find_matrix(cells, None, "auto"), np.arange(30), k)


def test_networks_of_means_of_cells_say_so_and_differ(tiny_model, toy_adata):
    grns = [sccafm.infer_grn(toy_adata, tiny_model, neighbors=k, null_cells=0, progress=False) for k in (0, 4)]
    assert [grn.params["run"]["neighbors"] for grn in grns] == [0, 4]
    cell = toy_adata.obs_names[0]
    assert not grns[0][cell].equals(grns[1][cell])
    with pytest.raises(ValueError, match="neighbors must be 0, or from 2"):
        sccafm.infer_grn(toy_adata, tiny_model, neighbors=1, progress=False)
