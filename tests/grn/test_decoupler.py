"""decoupler reads pooled networks as they are."""

import numpy as np
import pandas as pd
import pytest

import sccafm


def test_columns_are_what_decoupler_documents(tiny_model, toy_adata):
    """A net is a long table with source, target and a numeric weight, each pair once."""
    net = sccafm.infer_grn(toy_adata, tiny_model, progress=False).pool(100)
    assert {"source", "target", "weight"} <= set(net)
    assert pd.api.types.is_numeric_dtype(net["weight"])
    assert not net.duplicated(["source", "target"]).any()
    assert not net[["source", "target", "weight"]].isna().any(axis=None)


@pytest.mark.filterwarnings("ignore")  # of decoupler's own dependencies
def test_decoupler_scores_regulators(tiny_model, toy_adata):
    dc = pytest.importorskip("decoupler", reason="pip install decoupler")
    toy_adata.X = np.log1p(toy_adata.X.toarray())
    grn = sccafm.infer_grn(toy_adata, tiny_model, progress=False, preprocess="none")
    dc.mt.ulm(toy_adata, net=grn.pool(300), tmin=3)
    scores = toy_adata.obsm["score_ulm"]
    assert len(scores) == 30
    assert set(scores.columns) <= set(grn.regulators)
    assert np.isfinite(scores.to_numpy()).all()
