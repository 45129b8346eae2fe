"""Parts of the benchmark of `sccafm.tl`: its rankings, its lineages, and a quick study of power."""

import importlib

import numpy as np
import pandas as pd
import pytest

from sccafm.reference.genes import normalize_symbol
from sccafm.reference.tables import bundled, read_regulators

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def answers(request, monkeypatch):
    monkeypatch.syspath_prepend(request.config.rootpath / "benchmarks")
    return importlib.import_module("answers")


def test_regulators_without_a_score_share_the_last_places(answers):
    found = answers.ranks(pd.Series({"a": 0.5, "b": np.nan, "c": 2.0, "d": np.nan}))
    assert found.to_dict() == {"a": 2, "b": 3.5, "c": 1, "d": 3.5}


def test_difference_of_scores_is_standardised_within_cell_types(answers):
    rng = np.random.default_rng(0)
    condition, kinds = np.tile(["STIM", "CTRL"], 40), np.repeat(["x", "y"], 40)
    values = rng.normal(size=(80, 1)) * 3 + 6 * (condition == "STIM")[:, None] + 100 * (kinds == "x")[:, None]
    found = answers.standard_difference(pd.DataFrame(values, columns=["r"]), condition, kinds)
    assert found["r"] == pytest.approx(2, abs=0.4)


def test_masters_of_all_fourteen_lineages_are_listed_regulators(answers):
    lineages = [(file, *own) for file, found in answers.LINEAGES.items() for own in found.values()]
    assert len(lineages) == 14
    for file, _, masters in lineages:
        listed = read_regulators(bundled() / ("human_tfs.csv" if file.startswith("kang") else "mouse_tfs.csv")).index
        assert {normalize_symbol(gene) for gene in masters} <= set(listed)


def test_a_quick_study_of_power_has_its_rows(answers, tiny_model):
    text, figures = importlib.import_module("power").power_table(tiny_model, quick=True)
    assert "| 3 | 10 |" in text[-1]
    on, off = figures["records"]
    assert on["switch"] > off["switch"] == 1 and on["place"] >= 1
