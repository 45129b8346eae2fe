"""Truths side by side by kind: a mean within a kind, none over kinds."""

import numpy as np
import pandas as pd
import pytest

from sccafm.evaluate import by_kind, kinds_markdown, network

GENES = [f"G{i}" for i in range(40)]
OPTIONS = {"min_positives": 3, "min_negatives": 3, "n_bootstrap": 5, "n_permutations": 2}


@pytest.fixture(scope="module")
def reports() -> dict:
    out = {}
    for seed, (name, kind) in enumerate({"one": "binding", "two": "binding", "three": "response"}.items()):
        rng = np.random.default_rng(seed)
        scores = pd.DataFrame(rng.random((6, 40)), GENES[:6], GENES)
        drawn = np.argwhere(rng.random((6, 40)) < 0.4 * scores.to_numpy())
        truth = pd.DataFrame({"source": np.array(GENES)[drawn[:, 0]], "target": np.array(GENES)[drawn[:, 1]]})
        others = {"other": scores.iloc[::-1].set_axis(GENES[:6])} | ({"third": scores} if name == "two" else {})
        out[name] = network(scores, truth, baselines=others, kind=kind, name="model", **OPTIONS)
    return out


def test_means_are_within_kinds(reports):
    table = by_kind(reports)
    assert set(table["kind"]) == {"binding", "response"}
    rows = table.set_index(["kind", "truth", "method"])
    own = {name: report.to_frame().set_index("method") for name, report in reports.items()}
    for metric in ("swap", "auroc", "auprc_ratio"):
        pair = [own[name].loc["model", metric] for name in ("one", "two")]
        assert rows.loc[("binding", "mean", "model"), metric] == pytest.approx(np.mean(pair))
        assert rows.loc[("response", "mean", "model"), metric] == own["three"].loc["model", metric]
        assert rows.loc[("binding", "two", "other"), metric] == own["two"].loc["other", metric]
    assert rows.loc[("binding", "mean", "model"), "n_truths"] == 2
    assert np.isnan(rows.loc[("binding", "mean", "third"), "auroc"])  # not on every truth
    assert len(table[table["truth"] == "mean"]["kind"].unique()) == 2  # none over kinds


def test_tables_by_kind(reports):
    found = kinds_markdown(reports)
    assert list(found) == ["binding", "response"]
    lines = found["binding"].splitlines()
    assert lines[0] == "| method | one | two | mean of 2 |" and lines[2].startswith("| model | 0.")
    assert "| third | - | 0." in found["binding"]


def test_validation(reports):
    bare = network(
        pd.DataFrame(np.eye(6, 40), GENES[:6], GENES), [("G0", "G1"), ("G1", "G5")], baselines=None,
        min_positives=1, min_negatives=1, n_bootstrap=2, n_permutations=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"\['four'\] have no kind; judge them with `network\(..., kind="):
        by_kind(reports | {"four": bare})
    with pytest.raises(KeyError, match="no report has a subset 'new_regulators'"):
        by_kind(reports, subset="new_regulators")
