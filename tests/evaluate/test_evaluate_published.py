"""The published protocols give the published numbers."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from sccafm.evaluate import chipseq_protocol, perturbseq_protocol


@pytest.mark.parametrize("species", ["human", "mouse"])
@pytest.mark.parametrize("release", ["small", "dense"])
def test_published_chipseq_numbers(release, species, golden):
    meta = json.loads(golden(f"{release}/grn/{species}.meta.json").read_text())
    scores = pd.read_csv(golden(f"{release}/grn/{species}.pooled_all.csv"))
    found = chipseq_protocol(scores, golden(f"{release}/grn/{species}.reference.csv"))
    for name, expected in meta["chipseq"].items():
        assert getattr(found, name) == pytest.approx(expected, abs=1e-9), name
    receipt = meta["chipseq_reference"]
    assert list(found.supported_tfs) == receipt["supported_tfs"]
    reference = found.reference
    assert reference.n_rows == receipt["raw"] and reference.n_mapped == receipt["mapped"]
    assert reference.n_unmapped == receipt["unmapped"] and reference.n_self_loops == receipt["self_loops"]
    assert reference.n_duplicates == receipt["duplicates"]


@pytest.mark.parametrize("species", ["human", "mouse"])
@pytest.mark.parametrize("release", ["small", "dense"])
def test_published_perturbseq_numbers(release, species, golden):
    meta = json.loads(golden(f"{release}/grn/{species}.meta.json").read_text())["perturbseq"]
    scores = pd.read_csv(golden(f"{release}/grn/{species}.pooled_all.csv"), dtype={"score": np.float32})
    cells = anndata.read_h5ad(golden(f"{release}/grn/{species}.perturb.h5ad"))
    found = perturbseq_protocol(scores, cells, top_k_edges=meta["top_k_edges"])
    for name, expected in meta.items():
        assert getattr(found, name) == pytest.approx(expected, abs=1e-9), name
    table = pd.read_csv(golden(f"{release}/grn/{species}.perturbseq.csv"))
    upper = [
        frame.assign(Gene1=frame["Gene1"].str.upper(), Gene2=frame["Gene2"].str.upper())
        for frame in (found.table, table)
    ]
    pd.testing.assert_frame_equal(*upper, check_dtype=False, rtol=1e-9)


def test_chipseq_protocol_looks_at_scored_regulators_only():
    scores = pd.DataFrame(
        np.random.default_rng(0).random((2, 6)), index=["G0", "G1"], columns=[f"G{i}" for i in range(6)]
    )
    truth = pd.DataFrame([("g0", "G1"), ("G0", "G3"), ("G1", "G5"), ("G9", "G1")], columns=["source", "target"])
    found = chipseq_protocol(scores, truth)
    pairs = [(s, t) for s in scores.index for t in scores.columns if s != t]
    labels = [pair in {("G0", "G1"), ("G0", "G3"), ("G1", "G5")} for pair in pairs]
    assert found.n_candidates == 10 and found.supported_tfs == ("G0", "G1")
    assert found.auprc == pytest.approx(average_precision_score(labels, [scores.loc[pair] for pair in pairs]))
    assert found.positive_rate == pytest.approx(0.3)


def test_a_network_without_measured_targets_is_refused():
    adata = anndata.AnnData(
        np.ones((4, 2)), obs=pd.DataFrame({"perturbation": ["non-targeting", "G0"] * 2}, index=list("abcd"))
    )
    adata.var_names = ["G0", "G1"]
    scores = pd.DataFrame([[0.5]], index=["G0"], columns=["elsewhere"])
    with pytest.raises(ValueError, match="no target of the network.*gene_ids"):
        perturbseq_protocol(scores, adata)
