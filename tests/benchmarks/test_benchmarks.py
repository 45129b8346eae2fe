"""The accuracy page is written whole from a quick run on real cells, and says where the model loses; parts of the others."""

import dataclasses
import importlib
import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from sccafm.confidence.calibration import at_base_rate, calibration_error, features
from sccafm.train import LossWeights, TrainSFM

SCRIPT = Path(__file__).parents[2] / "benchmarks/accuracy.py"


@pytest.mark.filterwarnings("ignore")
def test_quick_accuracy_page_has_every_method_beside_the_model(shared, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("# Old\n\n## Networks\n\nold\n\n## Bars of networks\n\nkept\n")
    monkeypatch.syspath_prepend(SCRIPT.parent)
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
    assert f"AUROC per regulator, binding: the model's mean is {sum(own) / 2:.3f}, that of the best baseline" in text
    assert "| method | hHep ChIP | mHSC-L ChIP | mean of 2 |" in text and "## Bars of networks\n\nkept\n" in text
    alone = [row["swap"] for row in rows if row["method"] == "sccafm (target list alone)"]
    assert alone == [0.5]


def test_overlap_of_the_strongest_edges_equals_a_plain_loop(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    agreement = importlib.import_module("agreement")
    monkeypatch.setattr(agreement, "TOP", 12)
    rng = np.random.default_rng(0)
    names = list("abcdefgh")
    one, two = (pd.DataFrame(rng.random((4, 8)), names[:4], names) for _ in range(2))
    one.loc["a", "a"] = two.loc["b", "b"] = 2.0  # self-edges, which count nowhere

    def plain(scores: pd.DataFrame) -> list:
        pairs = [(scores.loc[i, j], i, j) for i in scores.index for j in scores.columns if i != j]
        return [(i, j) for _, i, j in sorted(pairs, reverse=True)[:12]]

    assert list(map(tuple, agreement.strongest(one, 12).to_numpy())) == plain(one)
    a, b = set(plain(one)), set(plain(two))
    assert agreement.overlap(one, two) == len(a & b) / len(a | b)
    assert agreement.overlap(one, one * 3) == 1


def test_every_loss_term_has_an_ablation(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    designs = importlib.import_module("ablations").designs()
    assert {f"without {f.name}" for f in dataclasses.fields(LossWeights)} < set(designs)
    assert designs["without dag"] == {"weights": {"dag": 0.0}} and designs["everything"] == {}
    named = {f.name for f in dataclasses.fields(TrainSFM)}
    assert all(set(changes) <= named for changes in designs.values())


def test_a_response_along_the_graph_is_found_where_it_is_one(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    embedding = importlib.import_module("embedding")
    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(40)]
    scores = pd.DataFrame(rng.gamma(1.0, 0.01, (6, 40)), list("abcdef"), genes)
    edges = embedding.departure(scores, pd.Index(list("abcdefx")), pd.Index([*genes, "unread"]))
    assert (edges["unread"] == 0).all() and (edges.loc["x"] == 0).all()
    assert abs(edges.drop(columns="unread").drop(index="x").to_numpy().mean()) < 1e-9
    shift = 0.3 * edges.drop(index="x") + rng.normal(size=41)
    guess = embedding.along_graph(edges, shift.drop(index="a"), "a")
    usual = shift.drop(index="a").mean()
    own = (shift.loc["a"] - usual).to_numpy()
    assert np.corrcoef(guess - usual, own)[0, 1] > 0.99
    np.testing.assert_allclose(embedding.along_graph(edges, shift, "x"), shift.mean())


def test_the_card_says_what_was_fitted_to_the_weights_beside_it(tmp_path, monkeypatch):
    """The committed card is what its script writes from the committed files."""
    root = SCRIPT.parents[1]
    monkeypatch.syspath_prepend(root / "scripts")
    write_model_card = importlib.import_module("write_model_card")
    for name in ("README.md", "sfm_model.safetensors", "calibration.json", "contexts.json"):
        shutil.copyfile(root / "models" / name, tmp_path / name)
    write_model_card.renew_fitted(tmp_path / "README.md")
    written = (root / "models/README.md").read_text()
    assert (tmp_path / "README.md").read_text() == written
    compared = "seeds" in json.loads((root / "models/contexts.json").read_text())  # with a model of another seed
    assert ("Factors matched one to one" in written) == compared
    assert "Load of the factors" in written and "base_rate" not in written


def test_the_card_tells_the_anatomy_of_its_own_weights(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parents[1] / "scripts")
    card = importlib.import_module("write_model_card")
    shares = dict.fromkeys(card.TERMS, 0.125) | {"cell x pair": None}
    rows = [{"set": "PBMC", "network": name} | shares for name in ("mean of all cells", "T cell")]
    (tmp_path / "panel.json").write_text(json.dumps({"weights_hash": "ab", "anatomy": rows}))
    text = card.anatomy_lines("ab", tmp_path / "panel.json")
    assert "| PBMC | mean of all cells | 0.125 | 0.125 | 0.125 | 0.125 | 0.125 | - |" in text and "T cell" not in text
    assert len({line.count("|") for line in text.splitlines()[2:5]}) == 1
    assert card.anatomy_lines("cd", tmp_path / "panel.json") == card.anatomy_lines("ab", tmp_path / "absent.json") == ""


def test_confidence_of_regulators_that_were_not_seen_is_calibrated(monkeypatch):
    """Regulators differ in their share of true edges, which a reader does not know: slopes within them would be too sure."""
    monkeypatch.syspath_prepend(SCRIPT.parents[1] / "scripts")
    calibrate = importlib.import_module("calibrate")
    rng = np.random.default_rng(0)

    def truth(name: str):
        regulator = np.repeat([f"{name}{i}" for i in range(60)], 200)
        own = np.repeat(rng.normal(0, 2, 60), 200)
        quantile = rng.uniform(0.001, 0.999, len(own))
        x = features(quantile, np.full(len(own), 0.5), np.full(len(own), 0.5))
        return calibrate.Candidates(x, rng.random(len(own)) < expit(own + 1.0 + np.log(quantile)), regulator, 1.0)

    fitted = calibrate.fit_slopes({name: truth(name) for name in "ab"}, 0.5)
    assert 0.3 < fitted["coefficients"][0] < 0.9  # 1 within a regulator
    new = truth("c")
    probability = expit(fitted["intercept"] + new.x @ np.array(fitted["coefficients"]))
    assert calibration_error(at_base_rate(probability, 0.5, new.y.mean()), new.y) < 0.05
