"""The two panels: what each holds, that folds hold out what they say, and that who selects cannot see who judges."""

import ast
import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
JUDGES = {"judged_panel", "accuracy", "cells", "edges", "edges_panel"}  # of finished models


@pytest.fixture
def panels(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("selection_panel"), importlib.import_module("judged_panel")


def imports(path: Path) -> set[str]:
    """Top names of what a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


def reached(path: Path) -> set[str]:
    """Files beside `path` that it imports, directly or through others."""
    found, waiting = set(), [path]
    while waiting:
        for name in imports(waiting.pop()) - found:
            if (beside := path.parent / f"{name}.py").exists():
                found.add(name)
                waiting.append(beside)
    return found


def test_no_code_that_selects_can_see_the_judged_panel():
    """Scripts that judge a finished model may; whatever else stands in benchmarks may not, nor what trains and calibrates."""
    root = BENCHMARKS.parent
    selecting = [path for path in BENCHMARKS.glob("*.py") if path.stem not in JUDGES]
    assert {"selection_panel", "panel", "ablations", "evidence", "agreement", "states"} <= {
        path.stem for path in selecting
    }
    assert not [path.name for path in selecting if "judged_panel" in reached(path)]
    assert all("judged_panel" in reached(BENCHMARKS / f"{name}.py") for name in JUDGES - {"judged_panel"})
    trains = [*(root / "src").rglob("*.py"), *(root / "scripts").glob("*.py")]
    assert len(trains) > 50 and not [path.name for path in trains if "judged_panel" in path.read_text()]


def test_a_look_through_another_file_is_found(tmp_path):
    for name, text in {"a": "def f():\n    import b", "b": "from c import d", "c": "", "d": ""}.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert reached(tmp_path / "a.py") == {"b", "c"}


def test_the_panels_share_no_truth(panels, shared):
    selection, judged = panels
    ours, theirs = selection.selection_panel(shared), judged.judged_panel(shared)
    assert set(map(len, (ours, theirs))) == {13, 4} and not ours.keys() & theirs.keys()
    assert {truth.kind for truth in ours.values()} == {"binding", "response", "curated"}
    assert {name: truth.kind for name, truth in theirs.items()}["mDC knock-down"] == "response"
    for truth in (ours | theirs).values():
        assert len(truth.edges) > 1000 and not truth.edges.duplicated().any()
        assert not (truth.edges["source"] == truth.edges["target"]).any()
        assert not len(truth.edges.merge(truth.unclear))  # true or unclear, not both
        assert len(truth.targets) == 0 or truth.edges["target"].isin(truth.targets).all()
    assert all(truth.cells.exists() for truth in theirs.values())


def test_what_is_held_out_does_not_train(panels, shared):
    selection, _ = panels
    fold = 3
    truths = selection.selection_panel(shared, fold=fold)
    known, experiments = selection.curated_training(shared, fold), selection.encode_training(shared, fold)
    edges, regulators = truths["curated edges held out"], truths["curated regulators held out"]
    assert not len(known.merge(edges.edges)) and not (known["chip_only"] == 1).any()
    assert len(known.merge(edges.unclear)) > 30_000  # of the same regulators: known, so neither true nor false
    assert not known["source"].isin(regulators.regulators).any()
    assert selection.held_out(regulators.regulators, fold).all()
    assert not experiments["tf"].isin(truths["ENCODE, regulators held out"].regulators).any()
    assert not experiments["cell"].isin(selection.HELD_OUT_CELLS).any()
    cells = truths["ENCODE, A549 held out"].regulators
    assert not selection.held_out(cells, fold).any() and cells.isin(experiments["tf"]).mean() > 0.5
    folds = np.array([selection.held_out(known["source"], fold) for fold in range(selection.N_FOLDS)])
    assert (folds.sum(0) == 1).all()  # each regulator is in one fold


def test_folds_know_names_alone(panels):
    selection, _ = panels
    names = ["SPI1", "GATA1", "Spi1", "TP53"]
    one, two = selection.held_out(names, 2), selection.held_out(names[::-1], 2)
    assert (one == two[::-1]).all() and one[0] == one[2]


def test_a_mouse_truth_in_human_symbols(panels, shared):
    selection, _ = panels
    orthologs = pd.read_csv(shared / "resources/homologous.csv.gz")
    mouse = {truth.name: truth for truth in selection._responses(shared)}["Th17 knock-out"]
    human = mouse.in_human(orthologs)
    assert human.species == "human" and human.in_human(orthologs) is human
    assert {"Zfp36l2", "Prkrir"} <= set(mouse.regulators) and "ZFP36L2" in human.regulators
    assert 0.8 * len(mouse.edges) < len(human.edges) < len(mouse.edges)


def test_swap_of_a_panel_truth_leaves_unclear_and_known_edges_out(panels):
    panel = importlib.import_module("panel")
    rng = np.random.default_rng(0)
    genes = pd.Index([f"G{i}" for i in range(30)])
    drawn = np.argwhere(rng.random((5, 30)) < 0.4)
    edges = panel.as_edges(pd.DataFrame({"a": genes[drawn[:, 0]], "b": genes[drawn[:, 1]]}), "a", "b")
    truth = panel.PanelTruth("made", "curated", "human", edges, genes, panel.no_edges())
    scores = pd.DataFrame(rng.random((5, 30)), genes[:5], genes)
    whole, half = truth.swap(scores), truth.swap(scores, known=edges.iloc[::2])
    assert half.n_true == len(edges.iloc[1::2]) and half.n_swaps < whole.n_swaps
    unclear = dataclasses.replace(truth, unclear=edges.iloc[:9])
    row = unclear.report(scores, baselines=None, min_positives=1, n_bootstrap=2, n_permutations=1).to_frame().iloc[0]
    assert (row["n_true"], row["n_candidates"], row["kind"]) == (len(edges) - 9, 5 * 29 - 9, "curated")
    with pytest.raises(ValueError, match="kind 'chip' is none of"):
        panel.PanelTruth("made", "chip", "human", edges, genes, panel.no_edges())


def test_looks_are_counted(panels, tmp_path):
    _, judged = panels
    page = tmp_path / "decisions.md"
    page.write_text("# Decisions\n\n- One.\n")
    counted = [judged.note_look("some.py", "0123456789abcdef" * 4, page)]
    page.write_text(page.read_text() + "\n## Later\n\n- Two.\n")
    counted += [judged.note_look("some.py", "0123456789abcdef" * 4, page) for _ in range(2)]
    assert counted == [1, 2, 3]
    text = page.read_text()
    assert text.startswith("# Decisions\n\n- One.\n") and text.count(judged.LOOKS) == 1
    table = text[text.index("|---") : text.index("\n\n## Later")].splitlines()[1:]
    assert [line.split(" | ")[0] for line in table] == ["| 1", "| 2", "| 3"]
    assert table[-1].endswith("| some.py | 0123456789ab |") and text.endswith("\n\n## Later\n\n- Two.\n")
