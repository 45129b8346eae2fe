"""What networks of types share on training files: which cells are drawn, and the page."""

import importlib
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def states(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("states")


def test_frequent_types_are_dealt_to_halves(states, tmp_path):
    names = ["B"] * 50 + ["T"] * 61 + ["rare"] * 5
    obs = pd.DataFrame({"cell_type": names}, index=[f"c{i}" for i in range(len(names))])
    ad.AnnData(sparse.csr_matrix(np.ones((len(names), 3), np.float32)), obs).write_h5ad(tmp_path / "pbmc3k.h5ad")
    found = states.halves(tmp_path, "pbmc3k", 55)
    assert found.obs.groupby("half").size().to_dict() == {"B 0": 25, "B 1": 25, "T 0": 28, "T 1": 27}
    assert found.obs_names.is_unique and (found.obs["cell_type"] == found.obs["type"]).all()
    again = states.halves(tmp_path, "pbmc3k", 55)
    assert (found.obs_names == again.obs_names).all()


def test_the_figures_are_those_of_judge_types(states, monkeypatch):
    rows = [
        {"what": "types", "value": 0.2}, {"what": "types", "value": 0.6}, {"what": "halves", "value": 0.9},
        {"what": "halves", "value": 0.7}, {"what": "regulators", "value": 12}, {"what": "regulators", "value": 30},
        {"what": "factors", "value": 5.0}, {"what": "NMI", "value": 0.5},
    ]  # fmt: skip
    shares = pd.DataFrame(
        {"network": ["B", "T", "cell by cell"], "regulator": [0.1, 0.2, 0.9], "target": [0.2, 0.3, 0.9]}
    )
    monkeypatch.setattr(states, "judge_types", lambda *given: (rows, shares))
    adata = ad.AnnData(np.zeros((2, 1), np.float32), pd.DataFrame({"type": ["B", "T"]}, index=["a", "b"]))
    found = states.measured("one", adata, None)
    assert found == {
        "file": "one", "types, mean": pytest.approx(0.4), "types, closest": 0.6, "halves, mean": pytest.approx(0.8),
        "halves, least": 0.7, "two lists, most": 0.5, "regulators, least": 12, "factors": 5, "NMI": 0.5,
    }  # fmt: skip
