"""The embedding benchmark's own sums, and the page it writes from what was measured."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/embedding.py"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        return runpy.run_path(str(SCRIPT))


def test_ridge_equals_its_normal_equations(script):
    rng = np.random.default_rng(0)
    x, y = pd.DataFrame(rng.normal(size=(7, 4))), pd.DataFrame(rng.normal(size=(7, 3)))
    new = pd.Series(rng.normal(size=4))
    z, level = x - x.mean(), y.mean()
    weight = np.linalg.inv(z.T.to_numpy() @ z.to_numpy() + 2.0 * np.eye(4)) @ z.T.to_numpy() @ (y - level).to_numpy()
    expected = level.to_numpy() + (new - x.mean()).to_numpy() @ weight
    np.testing.assert_allclose(script["ridge"](x, y, new, penalty=2.0), expected)


def test_direction_is_judged_on_one_way_pairs_of_two_regulators(script):
    names = ["GATA1", "HBB", "SPI1", "TAL1"]
    vectors = pd.DataFrame(np.eye(4), names, [f"source_{i}" for i in range(4)])
    vectors[[f"target_{i}" for i in range(4)]] = np.eye(4)[
        [2, 0, 0, 2]
    ]  # SPI1's target vector is GATA1's source vector
    pairs = pd.DataFrame(
        {"source": ["Gata1", "Gata1", "NOSUCH", "Gata1", "TAL1"], "target": ["Spi1", "Hbb", "SPI1", "TAL1", "GATA1"]}
    )
    regulators = pd.Index(["Gata1", "SPI1", "TAL1"])
    forth, back = script["directed"](vectors, pairs, regulators)
    assert (forth.tolist(), back.tolist()) == ([1.0], [1.0])
    assert script["directed"](vectors, pairs.assign(target="HBB"), regulators)[0].size == 0
    vectors.loc["GATA1", [f"target_{i}" for i in range(4)]] = 0.0
    assert [x.tolist() for x in script["directed"](vectors, pairs, regulators)] == [[1.0], [0.0]]


def test_verdicts_name_what_is_behind_ahead_and_neither(script):
    mean = {"causal": 0.5, "a": 0.3, "b": 0.52, "c": 0.9}
    rows = [{"design": d, "seed": seed, "m": m + (seed - 1) * 0.05} for d, m in mean.items() for seed in range(3)]
    told, _, gaps = script["ablation_verdicts"](pd.DataFrame(rows), ["m"])
    assert told == "- m: causal is ahead of a; within the spread of b; behind c."
    assert "| a | +0.200 ± 0.000 |" in gaps  # all designs of a seed move together: nothing is left of the spread
    assert "| c | -0.400 ± 0.000 |" in gaps


def test_the_page_shows_every_part_that_was_run_and_no_other(script):
    kept = {"cells": {"text": ["| a |"], "figures": {}, "sfm": "abc", "efm": "def", "settings": "--cells 3"}}
    page = script["page"](kept)
    assert "## Cells\n\n`--parts cells --cells 3`, structure module abc, embedding module def.\n\n| a |" in page
    assert "## Ablations" not in page
    assert (
        page.rstrip()
        .splitlines()[-1]
        .startswith("Not measured yet: The selection panel, Human and mouse, Trajectories,")
    )


def test_parts_of_other_weights_are_named_before_a_release():
    """Ablations train modules of their own; all else on a page belongs to the weights beside it, or is named."""
    stale = runpy.run_path(str(SCRIPT.parents[1] / "scripts/check_release.py"))["stale"]
    stamp = {"sfm": "abc", "efm": "def"}
    content = {
        "cells": dict(stamp),
        "genes": stamp | {"efm": "old"},
        "cost": {"sfm": "abc"},
        "ablations": {"sfm": "old"},
    }
    assert stale(content, stamp) == ["genes", "cost"]
    assert stale({}, stamp) == []


def test_half_the_cells_of_a_perturbation_find_the_other_half(script):
    found = script["perturbation_found"]
    rng = np.random.default_rng(0)
    conditions = np.repeat(["control", *(f"p{i}" for i in range(8))], 20)
    shift = np.concatenate([np.zeros((1, 30)), 3 * rng.normal(size=(8, 30))])
    cells = np.repeat(shift, 20, axis=0) + rng.normal(size=(180, 30))
    assert found(cells, conditions) == 1.0
    assert found(rng.normal(size=(180, 30)), conditions) < 0.7
