"""Parts of the benchmark of perturbed regulators: places, and activity of known networks."""

import importlib

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def script(request, monkeypatch):
    monkeypatch.syspath_prepend(request.config.rootpath / "benchmarks")
    return importlib.import_module("activity")


def test_a_place_is_the_share_of_the_others_that_stand_before(script):
    scores = pd.DataFrame([[3.0, -5.0, 1.0, np.nan, 3.0]], index=["b"], columns=list("abcde"))
    assert script.places(scores, ["b"]).to_dict() == {"b": 0.0}
    scores.index = ["a"]
    assert script.places(scores, ["a"]).to_dict() == {"a": 0.5}


def test_a_regulator_whose_targets_move_is_first_and_one_with_few_targets_has_no_score(script):
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(80)]
    edges = [(f"R{k}", gene, 1.0) for k in range(6) for gene in rng.choice(genes, 12, replace=False)]
    network = pd.DataFrame(
        [*edges, *(("FEW", gene, 1.0) for gene in genes[:4])], columns=["source", "target", "weight"]
    )
    moved = network.loc[network["source"] == "R2", "target"]
    seen = pd.DataFrame([[-2.0 * (gene in set(moved)) for gene in genes]], index=["R2"], columns=genes)
    scores = script.activity(seen + rng.normal(0, 0.1, (1, 80)), network)
    assert "FEW" not in scores.columns
    assert script.places(scores, ["R2"]).to_dict() == {"R2": 0.0}
