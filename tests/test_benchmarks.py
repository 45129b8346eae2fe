"""The accuracy page is written whole from a quick run on real cells, and says where the model loses; parts of the others."""

import importlib
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/accuracy.py"


@pytest.mark.filterwarnings("ignore")
def test_quick_accuracy_page_has_every_method_beside_the_model(shared, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--data", str(shared / "datasets"), "--out", str(page), "--quick"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    text, figures = page.read_text(), json.loads(page.with_suffix(".json").read_text())
    for section in ("## Networks", "## Cells", "## Genes"):
        assert section in text
    rows = [row for row in figures["network: hHep ChIP"] if row["subset"] == "all"]
    methods = {row["method"] for row in rows}
    assert {"sccafm", "|Pearson|", "target mean expression", "prior degrees", "bilinear probe", "random"} <= methods
    assert all(0 < row["auroc"] < 1 for row in rows)
    judged = [rows for name, rows in figures.items() if name.startswith("network")]
    own = [r["auroc"] for rows in judged for r in rows if r["subset"] == "all" and r["method"] == "sccafm"]
    assert len(own) == 2
    assert f"AUROC per regulator: the model's mean is {sum(own) / 2:.3f}, that of the best baseline" in text


def test_overlap_of_the_strongest_edges_equals_a_plain_loop(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    cells = importlib.import_module("cells")
    monkeypatch.setattr(cells, "TOP", 12)
    rng = np.random.default_rng(0)
    names = list("abcdefgh")
    one, two = (pd.DataFrame(rng.random((4, 8)), names[:4], names) for _ in range(2))
    one.loc["a", "a"] = two.loc["b", "b"] = 2.0  # self-edges, which count nowhere

    def plain(scores: pd.DataFrame) -> set:
        pairs = [(scores.loc[i, j], i, j) for i in scores.index for j in scores.columns if i != j]
        return {(i, j) for _, i, j in sorted(pairs, reverse=True)[:12]}

    assert cells.top_edges(one) == plain(one)
    assert cells.overlap(one, two) == len(plain(one) & plain(two)) / len(plain(one) | plain(two))
    assert cells.overlap(one, one * 3) == 1
