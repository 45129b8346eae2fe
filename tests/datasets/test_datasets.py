"""The data sets in the package: real counts with labels, small, and stated sources."""

import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from sccafm import datasets

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from make_datasets import MIN_CELLS, RECIPES, balanced, compact  # noqa: E402


@pytest.mark.parametrize("name", RECIPES)
def test_counts_and_labels(name):
    adata = getattr(datasets, name)()
    assert adata.n_obs == RECIPES[name].n_cells
    assert np.array_equal(adata.X.data, np.round(adata.X.data))
    assert adata.X.data.min() >= 1
    assert not adata.obs.isna().any(axis=None)
    assert adata.obs_names.is_unique
    assert (adata.X.getnnz(axis=0) >= MIN_CELLS).all()
    assert (adata.var["gene_ids"].str.startswith("ENS")).mean() > 0.7


def test_they_are_small_together():
    sizes = [path.stat().st_size for path in datasets.FOLDER.glob("*.h5ad")]
    assert len(sizes) == len(RECIPES)
    assert max(sizes) < 2.1e6
    assert sum(sizes) < 10e6


def test_labels_are_known_biology():
    adata = datasets.pbmc3k()
    level = adata.to_df().groupby(adata.obs["cell_type"], observed=True).mean()
    marks = {"MS4A1": "B", "S100A8": "CD14+ Mono", "FCGR3A": "FCGR3A+ Mono", "GNLY": "NK", "PPBP": "Platelet"}
    assert {gene: level[gene].idxmax() for gene in marks} == marks
    kang = datasets.kang18()
    level = kang.to_df().groupby(kang.obs["condition"], observed=True).mean()
    assert (level.loc["STIM", ["ISG15", "IFI6", "MX1"]] > 5 * level.loc["CTRL", ["ISG15", "IFI6", "MX1"]]).all()


def test_each_call_gives_its_own_copy():
    first = datasets.pbmc3k()
    first.obs["mine"] = 1
    assert "mine" not in datasets.pbmc3k().obs


def test_sources_and_licences_are_stated():
    page = (ROOT / "docs/resources.md").read_text()
    for name in RECIPES:
        assert f"`{name}`" in page
        assert "Notes" in getattr(datasets, name).__doc__


def test_cells_are_balanced_over_labels_and_chosen_anew_alike():
    labels = pd.Series(["a"] * 50 + ["b"] * 6 + [None] * 10 + ["c"] * 40)
    chosen = balanced(labels, 46, np.random.default_rng(0))
    assert np.array_equal(chosen, balanced(labels, 46, np.random.default_rng(0)))
    assert labels.iloc[chosen].value_counts().to_dict() == {"a": 20, "b": 6, "c": 20}


def test_what_is_no_counts_is_refused():
    adata = ad.AnnData(np.full((4, 3), 0.5), obs=pd.DataFrame({"cell_type": list("abab")}, index=list("1234")))
    with pytest.raises(ValueError, match="expected counts in X"):
        compact(adata, RECIPES["pbmc3k"])
