"""The page of bars: what each number is, when a bar is met, and that a run writes its section and no other."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sccafm.evaluate import network

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("edges_panel")


def test_a_bar_is_met_missed_or_not_measured(script):
    verdicts = {
        value: script.Bar("what", bar, value).verdict
        for bar, value in [(">= 0.58", 0.58), ("> 0.5", 0.5), ("< 0.6", 0.59)]
    }
    assert list(verdicts.values()) == ["met", "missed", "met"]
    assert script.Bar("what", "< 0.6", np.nan).verdict == "not measured"


@pytest.fixture
def reports() -> dict:
    """Two kinds; the column of the kind ranks better than the weight, which ranks better than a baseline."""
    genes, out = [f"G{i}" for i in range(40)], {}
    for seed, (name, kind) in enumerate({"one": "binding", "two": "binding", "three": "response"}.items()):
        rng = np.random.default_rng(seed)
        is_true = rng.random((6, 40)) < 0.3
        noise = {method: rng.normal(size=is_true.shape) for method in ("sccafm", f"sccafm {kind}", "base")}
        gain = {"sccafm": 0.7, f"sccafm {kind}": 2.0, "base": 0.3}
        frames = {m: pd.DataFrame(gain[m] * is_true + noise[m], genes[:6], genes) for m in noise}
        pairs = [(genes[i], genes[j]) for i, j in np.argwhere(is_true) if i != j]
        prior = pd.DataFrame(pairs[::4], columns=["source", "target"])
        out[name] = network(
            frames.pop("sccafm"), pairs, baselines=frames, prior=prior, kind=kind, name="sccafm", scale="identity",
            min_positives=3, min_negatives=3, n_bootstrap=2, n_permutations=1,
        )  # fmt: skip
    return out


def test_bars_of_truths_are_what_they_say(script, reports):
    elsewhere = pd.DataFrame({
        "kind": ["response", "response", "binding"], "method": "sccafm response", "known edges": ["with", "without", "with"],
        "swap": [0.6, 0.9, 0.9],
    })  # fmt: skip
    simulated = pd.DataFrame({"method": ["sccafm", "sccafm", "|Pearson|"], "swap": [0.5, 0.7, 0.9]})
    bars = {bar.what: bar for bar in script.truth_bars(reports, elsewhere, simulated)}
    of = {name: report.to_frame().set_index(["subset", "method"]) for name, report in reports.items()}
    found = bars["swap test, judged binding truths, mean without known edges, by binding"]
    expected = np.mean([of[name].loc[("not_in_prior", "sccafm binding"), "swap"] for name in ("one", "two")])
    assert found.value == pytest.approx(expected) and found.verdict == "met"
    responses = bars["swap test, response truths, mean, by response"]
    assert responses.value == pytest.approx((of["three"].loc[("all", "sccafm response"), "swap"] + 0.6) / 2)
    assert responses.where == "2 truths"
    assert bars["swap test, simulations, by weight"].value == pytest.approx(0.6)
    least = bars["AUROC per regulator, by weight, least of the judged truths"]
    assert least.value == min(frame.loc[("all", "sccafm"), "auroc"] for frame in of.values())
    gap = bars["AUROC per regulator, by binding: mean over binding truths minus the best baseline's"]
    rivals = ["base", "sccafm (target list alone)", "sccafm (regulator list alone)"]
    means = {
        m: np.mean([of[name].loc[("all", m), "auroc"] for name in ("one", "two")]) for m in [*rivals, "sccafm binding"]
    }
    assert gap.value == pytest.approx(means["sccafm binding"] - max(means[m] for m in rivals))
    assert gap.where.startswith(f"best baseline {max(rivals, key=means.get)}, ")


def test_a_column_that_is_absent_is_not_measured(script, reports):
    without = {"three": reports["three"]}
    for report in without.values():
        report.table.drop(report.table.index[report.table["method"] == "sccafm response"], inplace=True)
    bars = script.truth_bars(
        without | {"one": reports["one"]}, pd.DataFrame(), pd.DataFrame({"method": ["sccafm"], "swap": [0.6]})
    )
    verdicts = {bar.what: bar.verdict for bar in bars}
    assert verdicts["swap test, response truths, mean, by response"] == "not measured"
    assert verdicts["AUROC per regulator, by the column of the kind, least of the judged truths"] == "not measured"


def test_bars_of_types_take_the_worst(script):
    rows = pd.DataFrame(
        [
            ("blood", "B, T", "types", 0.3), ("blood", "B, NK", "types", 0.2), ("blood", "NK, T", "types", 0.5),
            ("blood", "B", "halves", 0.9), ("blood", "T", "halves", 0.7), ("blood", "NK", "halves", 0.85),
            ("blood", "B", "regulators", 20), ("blood", "T", "regulators", 16), ("blood", "NK", "regulators", 15),
            ("PBMC", "all", "factors", 5), ("PBMC", "all", "NMI", 0.6), ("blood", "all", "NMI", 0.1),
        ],
        columns=["set", "of", "what", "value"],
    )  # fmt: skip
    shares = pd.DataFrame(
        {"set": "blood", "network": ["B", "T", "cell by cell"], "regulator": [0.3, 0.4, 0.5], "target": 0.15}
    )
    bars = {bar.what: bar for bar in script.type_bars(rows, shares)}
    lists = bars["two lists' share of the variance, blood, largest"]
    assert (lists.value, lists.where, lists.verdict) == (pytest.approx(0.55), "T", "met")
    closest, halves = (
        bars["the same, blood, closest pair"],
        bars["Jaccard of the top 1,000 between halves of a type, blood, least"],
    )
    assert (closest.value, closest.where, closest.verdict) == (0.5, "NK, T", "missed")
    assert (halves.where, halves.verdict) == ("T", "missed")
    assert bars["regulators among the 50 strongest edges, blood, least"].verdict == "met"
    assert bars["factors that lead 5% of the cells or more, PBMC"].verdict == "missed"
    assert bars["mutual information of leading factor and type, normalised, PBMC"].verdict == "met"
    line = script.by_type(rows).set_index("type").loc["T"]
    assert (line["closest type"], line["with it"], line["two halves"]) == ("NK", 0.5, 0.7)


def test_sections_of_a_page(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    pages, path = importlib.import_module("pages"), tmp_path / "page.md"
    path.write_text("# Page\n\n## One\n\nold\n\n### Part\n\nold\n\n## Two\n\nstays\n")
    pages.renew_section(path, "One", "new")
    assert path.read_text() == "# Page\n\n## One\n\nnew\n\n## Two\n\nstays\n"
    pages.renew_section(path, "Three", "more")
    assert path.read_text().endswith("## Two\n\nstays\n\n## Three\n\nmore\n")
    assert pages.section(path.read_text(), "Two") == "## Two\n\nstays" and not pages.section(path.read_text(), "Four")


@pytest.mark.filterwarnings("ignore")
def test_a_quick_run_writes_its_section(script, shared, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n## Networks\n\nstays\n")
    monkeypatch.setattr(sys, "argv", ["edges_panel.py", "--shared", str(shared), "--out", str(page), "--quick"])
    truths, sets = script.judged_panel(shared), script.cell_types(shared, 4)
    monkeypatch.setattr(
        script,
        "judged_panel",
        lambda _: {"mHSC-L ChIP": truths["mHSC-L ChIP"], "mDC knock-down": truths["mDC knock-down"]},
    )
    monkeypatch.setattr(script, "cell_types", lambda *_: {"paul15": sets["paul15"]})
    monkeypatch.setattr(script, "swap_simulated", lambda _: pd.DataFrame({"method": ["sccafm"], "swap": [0.6]}))
    script.main()
    text = page.read_text()
    assert text.startswith("# Page\n\n## Networks\n\nstays\n\n## Bars of networks\n\nWritten by")
    assert "### Response truths, without edges that the prior holds" in text and "| paul15 | cell by cell |" in text
    figures = json.loads(page.with_name("edges_panel.json").read_text())
    compare = {">=": float.__ge__, ">": float.__gt__, "<": float.__lt__}
    for bar in figures["bars"]:
        relation, number = bar["bar"].split()
        holds = compare[relation](float(bar["value"]), float(number))
        assert bar["verdict"] == ("met" if holds else "missed"), bar["what"]  # every column is there to be measured
    assert len(figures["bars"]) > 10
    lists = [row for row in figures["judged"] if row["method"].endswith("alone)")]
    assert len(lists) == 8 and all(row["swap"] == 0.5 for row in lists)
