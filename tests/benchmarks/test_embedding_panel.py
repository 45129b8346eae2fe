"""The selection panel of embeddings: what it holds, its measures, and the section it writes."""

import importlib
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def panel():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("embedding_panel")


@pytest.fixture(scope="module")
def tasks(panel):
    return importlib.import_module("embedding_tasks")


@pytest.fixture(scope="module")
def batch_designs(panel):
    return importlib.import_module("embedding_batches")


@pytest.fixture(scope="module")
def measures(panel):
    return importlib.import_module("embedding_spaces")


def test_the_panel_is_wide(tasks):
    studies = tasks.STUDIES.values()
    assert len({study.file for study in studies}) >= 12
    assert {study.species for study in studies} == {"human", "mouse"}
    assert {word for study in studies for word in study.assay.split(", ")} == {"droplet", "plate"}
    assert {meeting.across for meeting in tasks.MEETINGS.values()} == {"donors", "technologies", "studies", "species"}
    for meeting in tasks.MEETINGS.values():
        assert len(meeting.files) > 1 or meeting.batch
        assert meeting.across != "species" or meeting.names


def test_labels_are_matched_by_name_and_rare_ones_left_out(tasks):
    obs = pd.DataFrame({"cell_type": ["B", "CD8 T", "NK ", "unknown", None] * 6}, [f"c{i}" for i in range(30)])
    adata = ad.AnnData(np.zeros((30, 1), np.float32), obs)
    named = tasks.named(adata.copy(), "cell_type", tasks.IMMUNE)
    assert sorted(named.obs["label"].unique()) == ["B", "NK", "T"]
    assert len(tasks.drawn(named, 7)) == 7
    assert list(tasks.drawn(named, 7).obs_names) == list(tasks.drawn(named, 7).obs_names)
    named.obs["label"] = ["B"] * 12 + ["T"] * 6
    assert set(tasks.without_rare(named).obs["label"]) == {"B"}


def test_measures_know_order_from_noise(measures):
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"])[np.arange(150) % 3]
    clear = np.eye(3)[np.arange(150) % 3] * 8 + rng.normal(size=(150, 3))
    noise = rng.normal(size=(150, 3))
    assert measures.within(clear, labels)["balanced accuracy"] == 1
    assert measures.within(noise, labels)["balanced accuracy"] < 0.6
    batches = np.array(["x", "y"])[np.arange(150) // 75]
    assert measures.across(clear, labels, batches) == 1
    moved = clear + 20 * (batches == "y")[:, None]
    assert measures.across(measures.centred(moved, batches), labels, batches) == 1
    assert measures.linear(clear, labels) == 1
    assert measures.linear(noise, labels) < 0.6
    assert np.isnan(measures.named_by(clear[:5], labels[:5], clear[:5], labels[:5]))


def test_balanced_accuracy_is_a_mean_over_labels(measures):
    labels = np.array(["a"] * 8 + ["b"] * 2)
    assert measures.balanced(labels, np.array(["a"] * 10)) == pytest.approx(0.5)


def test_principal_components_are_those_of_a_decomposition(measures):
    x = np.random.default_rng(0).normal(size=(20, 30))
    found = measures.principal(x, None, 5)
    u, s, _ = np.linalg.svd(x - x.mean(0))
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :5] * s[:5]), atol=1e-8)


def test_the_section_tells_means_gaps_and_the_worst(panel):
    rows = [
        {"meeting": m, "across": "donors", "method": k, "balanced accuracy": v}
        for m, values in {"one": (0.9, 0.7, 0.8), "two": (0.5, 0.6, 0.4)}.items()
        for k, v in zip(("anchored", "HVG-PCA, centred", "HVG-PCA, Harmony"), values, strict=True)
    ]
    text = "\n".join(panel.section({"across": {"rows": rows}}))
    assert "| mean |  | 0.700 | 0.650 | 0.600 |" in text
    assert "balanced accuracy, anchored beside HVG-PCA, centred: +0.050 on the mean, -0.100 at worst (two)." in text
    assert "### Within studies" not in text


def test_adapting_is_judged_by_its_worst_study(panel, tasks):
    adapting = importlib.import_module("embedding_adapting")
    names = adapting.one_a_file()
    assert names[:2] == list(tasks.STUDIES)[:2] and len({tasks.STUDIES[name].file for name in names}) == len(names)
    rows = [
        {"study": "one", "seconds asked": 60, "seconds": 57.0, "accuracy": 0.5, "accuracy, adapted": 0.6},
        {"study": "two", "seconds asked": 60, "seconds": 72.0, "accuracy": 0.8, "accuracy, adapted": 0.75},
        {"study": "large", "seconds asked": None, "seconds": 200.0, "accuracy": None, "accuracy, adapted": None},
    ]
    assert adapting.verdict(rows) == (
        "Accuracy, adapted beside not: +0.025 on the mean, -0.050 at worst (two). Time taken over time asked: 1.20 where it departs most (two)."
    )


def test_studies_that_training_did_not_see_have_their_own_table(panel):
    rows = [
        {"kind": kind, "task": "one", "method": method, "balanced accuracy": value}
        for kind, methods in {
            "within": ("zero-shot", "anchored", "HVG-PCA"),
            "across": panel.LEFT_OUT["across"],
        }.items()
        for method, value in zip(methods, (0.7, 0.8, 0.6, 0.5, 0.4, 0.3), strict=False)
    ]
    made_by = [{"efm": "abc", "steps": [1200, 200], "files": 28}]
    text = "\n".join(panel.section({"left out": {"rows": rows, "made_by": made_by}}))
    assert "Modules abc: 1,200 + 200 steps on 28 files." in text
    assert "balanced accuracy, zero-shot beside HVG-PCA: +0.100 on the mean" in text


def test_mixing_is_one_where_batches_do_not_show_and_none_where_they_part(batch_designs):
    rng = np.random.default_rng(0)
    labels, batches = np.array(["a", "b"])[np.arange(200) % 2], np.array(["x", "y"])[np.arange(200) // 100]
    x = 5 * np.eye(2, 4)[np.arange(200) % 2] + rng.normal(size=(200, 4))
    assert batch_designs.mixing(x, labels, batches) > 0.85
    x[:, 3] += 50 * (batches == "y")
    assert batch_designs.mixing(x, labels, batches) == 0


def test_offsets_between_mutual_neighbors_are_the_shift_of_a_batch(batch_designs):
    rng = np.random.default_rng(0)
    x = np.repeat(6 * np.eye(4, 6), 30, axis=0) + rng.normal(0, 0.1, (120, 6))
    codes = np.arange(120) % 2
    shift = np.array([0, 0, 0, 0, 1.0, 0])
    found = batch_designs.offsets(x + codes[:, None] * shift, codes, *batch_designs.mutual_neighbors(x, codes))
    np.testing.assert_allclose(found[1] - found[0], shift, atol=0.1)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-9)


def test_components_of_one_batch_alone_weigh_less(batch_designs):
    rng = np.random.default_rng(0)
    x, codes = rng.normal(size=(400, 2)), np.arange(400) % 2
    x[codes == 0, 1] *= 0.1
    kept = (batch_designs.shared(x, codes) / x).mean(0)
    assert kept[0] > 0.95 > 2 * kept[1]
