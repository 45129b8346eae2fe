"""Which matrix is read and how: storages, normalisation, gene choice, and values that cannot be read."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from sccafm.data.matrix import dispersion, find_matrix, kind_of, variable_genes

CELLS, GENES = 40, 25
STORAGES = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray, "coordinates": sparse.csr_array}
BACKED_CSC = "ignore:.*stored by columns:UserWarning"


def counts(seed=0, cells=CELLS, genes=GENES):
    rng = np.random.default_rng(seed)
    values = rng.poisson(rng.gamma(0.4, 3.0, genes) * rng.gamma(2.0, 1.0, (cells, 1)))
    values[:, 3] = 0  # a gene that nobody expresses
    values[7] = 0  # a cell without counts
    return values


def data(values, **more):
    adata = ad.AnnData(values)
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    adata.var_names = [f"gene{j}" for j in range(adata.n_vars)]
    for name, value in more.items():
        adata.layers[name] = value
    return adata


def normalised(values):
    """Slow and plain: log1p of counts per 10,000."""
    out = np.zeros(values.shape)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if row.sum() > 0:
                out[i, j] = np.log(1 + value / row.sum() * 1e4)
    return out


def read(adata, layer=None, preprocess="auto", columns=None):
    matrix = find_matrix(adata, layer, preprocess)
    return matrix.read(0, adata.n_obs, np.arange(len(matrix.var)) if columns is None else columns)


def variants():
    for storage, store in STORAGES.items():
        for dtype in ("float32", "float64", "int64", "uint16"):
            yield pytest.param(store, dtype, id=f"{storage}-{dtype}")


@pytest.mark.parametrize(("store", "dtype"), variants())
@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
@pytest.mark.filterwarnings(BACKED_CSC)
def test_every_storage_gives_the_same_bits(tmp_path, store, dtype, backed):
    adata = data(store(counts().astype(dtype)))
    if backed:
        adata.write_h5ad(tmp_path / "data.h5ad")
        adata = ad.read_h5ad(tmp_path / "data.h5ad", backed="r")
    plain = data(counts())
    np.testing.assert_array_equal(read(adata), read(plain))
    found, expected = (find_matrix(a, None, "auto").survey() for a in (adata, plain))
    for name in ("detected", "mean", "variance", "empty"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_columns_and_rows_may_be_read_apart():
    matrix = find_matrix(data(counts()), None, "auto")
    whole = matrix.read(0, CELLS, np.arange(GENES))
    np.testing.assert_array_equal(matrix.read(5, 9, np.array([8, 2, 20])), whole[5:9][:, [8, 2, 20]])
    assert whole.dtype == np.float32


def test_unsorted_and_split_entries_are_added_up():
    values = sparse.csr_matrix(([2.0, 1.0, 4.0, 0.0], [2, 0, 2, 1], [0, 4]), shape=(1, 3))
    np.testing.assert_array_equal(read(data(values)), read(data(np.array([[1, 0, 6]]))))


def test_backed_columns_warn_that_they_are_read_whole(tmp_path):
    data(sparse.csc_matrix(counts())).write_h5ad(tmp_path / "data.h5ad")
    with pytest.warns(UserWarning, match=r"adata.X = adata.X.tocsr\(\)"):
        find_matrix(ad.read_h5ad(tmp_path / "data.h5ad", backed="r"), None, "auto")


def test_counts_are_normalised_as_the_slow_plain_version_does():
    np.testing.assert_allclose(read(data(counts())), normalised(counts()), rtol=1e-6)


def test_counts_are_normalised_as_scanpy_does():
    values = np.delete(counts(), 7, axis=0).astype(np.float32)  # scanpy warns of cells without counts
    expected = data(values.copy())
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    np.testing.assert_allclose(read(data(values)), expected.X, rtol=2e-6)


def test_log_values_are_read_as_they_are():
    values = normalised(counts()).astype(np.float32)
    matrix = find_matrix(data(values), None, "auto")
    assert matrix.kind == "log"
    np.testing.assert_array_equal(matrix.read(0, CELLS, np.arange(GENES)), values)


def test_values_per_million_are_read_as_logarithms_of_shares():
    values = counts() / np.maximum(counts().sum(1, keepdims=True), 1) * 1e6
    assert find_matrix(data(values), None, "auto").kind == "linear"
    np.testing.assert_allclose(read(data(values)), normalised(counts()), rtol=1e-6)


@pytest.mark.parametrize("top", [5, 2000], ids=["small", "large"])
def test_nothing_is_changed_on_request(top):
    values = counts().astype(np.float32)
    values[0, 0] = top
    np.testing.assert_array_equal(read(data(values), preprocess="none"), values)


def test_large_values_on_request_do_not_spoil_the_survey():
    values = counts().astype(np.float32)
    values[0, 0] = 2000
    survey = find_matrix(data(values), None, "none").survey()
    assert np.isfinite(survey.mean).all()
    assert np.isfinite(survey.variance).all()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (counts(), "counts"),
        (counts().astype(np.float32), "counts"),
        (np.zeros((3, 4)), "counts"),
        (np.log1p(counts()), "log"),
        (counts() * 50.5, "linear"),
        (counts() - 1.5, "scaled"),
        (np.where(counts() > 3, np.nan, counts()), "counts"),
    ],
)
def test_kind_is_told_from_the_values(values, kind):
    assert kind_of(values, len(values)) == kind


def test_kind_is_told_from_cells_all_over_a_large_matrix():
    values = np.ones((2500, 2))
    values[-1] = 0.5
    assert kind_of(values, 2500) == "log"


def test_counts_are_taken_from_where_they_are():
    log = np.log1p(counts())
    adata = data(log, counts=counts())
    assert find_matrix(adata, None, "auto").origin == "layers['counts']"
    assert find_matrix(data(counts(), counts=log), None, "auto").origin == "X"
    raw = data(counts())
    raw.raw = raw.copy()
    raw = raw[:, :5].copy()
    raw.X = raw.X - 0.5
    found = find_matrix(raw, None, "auto")
    assert (found.origin, found.kind, found.shape) == ("raw.X", "counts", (CELLS, GENES))


@pytest.mark.filterwarnings(BACKED_CSC)
@pytest.mark.parametrize("store", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_raw_of_a_backed_file_is_read(tmp_path, store):
    adata = data(store(counts()))
    adata.raw = adata.copy()
    adata.X = np.log1p(counts())
    adata.write_h5ad(tmp_path / "data.h5ad")
    found = find_matrix(ad.read_h5ad(tmp_path / "data.h5ad", backed="r"), None, "auto")
    assert found.origin == "raw.X"
    np.testing.assert_array_equal(found.read(0, CELLS, np.arange(GENES)), read(data(counts())))


def test_log_values_are_preferred_to_other_normalised_ones():
    adata = data(counts() * 50.5)
    adata.raw = data(np.log1p(counts()))
    assert find_matrix(adata, None, "auto").origin == "raw.X"


def test_the_layer_that_was_asked_for_is_read():
    adata = data(counts(), spliced=2 * counts(1))
    matrix = find_matrix(adata, "spliced", "auto")
    assert matrix.origin == "layers['spliced']"
    np.testing.assert_array_equal(read(adata, layer="spliced"), read(data(2 * counts(1))))


def test_missing_layer_lists_what_there_is():
    with pytest.raises(KeyError, match=r"no layer 'count'; adata.layers holds \['counts', 'spliced'\]"):
        find_matrix(data(counts(), counts=counts(), spliced=counts()), "count", "auto")


def test_unknown_preprocessing_is_refused():
    with pytest.raises(ValueError, match='must be "auto" or "none", got \'log\''):
        find_matrix(data(counts()), None, "log")


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_nothing_to_read_is_said(shape):
    with pytest.raises(ValueError, match=f"adata has {shape[0]} cells and {shape[1]} genes"):
        find_matrix(data(np.zeros(shape)), None, "auto")


def test_absent_values_are_said():
    adata = ad.AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["b"]))
    with pytest.raises(ValueError, match=r"adata.X is None; pass layer"):
        find_matrix(adata, None, "auto")


@pytest.mark.parametrize("store", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "not finite"), (np.inf, "not finite"), (-np.inf, "not finite"), (-1.5, "holds negative values")],
)
@pytest.mark.parametrize("preprocess", ["auto", "none"])
def test_unreadable_values_name_their_cell_and_gene(store, value, message, preprocess):
    values = counts(cells=700).astype(float)
    values[600, 4] = value
    with pytest.raises(ValueError, match=rf"^X holds .*{message}|{message}") as error:
        find_matrix(data(store(values)), None, preprocess).survey()
    assert "'gene4'" in str(error.value)
    assert "'cell600'" in str(error.value)


def test_a_stored_zero_is_no_value():
    values = sparse.csr_matrix(counts().astype(float))
    values.data[values.data == 1] = 0
    survey = find_matrix(data(values), None, "auto").survey()
    np.testing.assert_array_equal(survey.detected, (counts() > 1).sum(0))


def test_survey_counts_as_plain_numpy_does():
    survey = find_matrix(data(counts(cells=1100)), None, "auto").survey()
    linear = np.expm1(normalised(counts(cells=1100)))
    np.testing.assert_array_equal(survey.detected, (counts(cells=1100) > 0).sum(0))
    np.testing.assert_allclose(survey.mean, linear.mean(0), rtol=1e-9)
    np.testing.assert_allclose(survey.variance, linear.var(0, ddof=1), rtol=1e-6, atol=1e-9)
    assert survey.empty.tolist() == np.flatnonzero(counts(cells=1100).sum(1) == 0).tolist()
    assert survey.n_cells == 1100


@pytest.fixture(scope="module")
def wide():
    """300 genes: enough for scanpy's twenty bins, and its own answer."""
    rng = np.random.default_rng(3)
    values = rng.negative_binomial(rng.gamma(1.0, 1.0, 300) + 0.05, 0.2, (80, 300)).astype(np.float64)
    adata = data(values)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, flavor="seurat", n_top_genes=50)
    return find_matrix(data(values), None, "auto").survey(), adata.var


def test_dispersion_is_scanpys(wide):
    survey, var = wide
    expected = var["dispersions_norm"].to_numpy()
    found = dispersion(survey, np.arange(300))
    np.testing.assert_allclose(found[np.isfinite(expected)], expected[np.isfinite(expected)], atol=1e-4)


def test_variable_genes_are_scanpys(wide):
    survey, var = wide
    assert variable_genes(survey, np.arange(300), 50).tolist() == np.flatnonzero(var["highly_variable"]).tolist()


def test_variable_genes_are_chosen_among_the_columns_alone(wide):
    survey, _ = wide
    columns = np.arange(10, 90, 2)
    chosen = variable_genes(survey, columns, 12)
    assert len(chosen) == 12
    assert set(chosen) <= set(columns)
    assert variable_genes(survey, columns, 40).tolist() == columns.tolist()


def test_gene_that_does_not_vary_comes_last():
    survey = find_matrix(data(counts()), None, "auto").survey()
    assert dispersion(survey, np.arange(GENES))[3] == -np.inf
    assert 3 not in variable_genes(survey, np.arange(9), 8)
