"""Confidence, calibration error and the out-of-distribution score, alone and through infer_grn."""

import dataclasses
import hashlib
import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from making import random_sfm, write_release
from safetensors.numpy import save_file
from scipy.special import expit

import sccafm
from sccafm.confidence.calibration import (
    CONFIDENCE_STEPS,
    at_base_rate,
    calibration_error,
    confidence_of,
    expression_rank,
    features,
    read_calibration,
    row_quantiles,
)
from sccafm.confidence.unusual import distance, empirical_quantile, out_of_distribution, typicality

FITTED = {"intercept": -1.0, "coefficients": [0.5, 0.25, 1.0, 0.75]}


# --- confidence


@given(hnp.arrays(np.float32, (4, 7), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])), st.sets(st.integers(0, 27)))
def test_quantiles_are_shares_of_the_row(scores, chosen):
    edge = np.array(sorted(chosen), dtype=int)
    slow = [(np.sum(scores[e // 7] <= scores[e // 7, e % 7]) - 0.5) / 7 for e in edge]
    np.testing.assert_allclose(row_quantiles(scores, edge), slow)


def test_few_and_many_pairs_have_the_same_quantiles():
    scores = np.random.default_rng(0).random((20, 300)).round(2)
    every = row_quantiles(scores, np.arange(6000))
    few = np.arange(0, 6000, 13)
    np.testing.assert_allclose(row_quantiles(scores, few), every[few])
    assert every.min() > 0
    assert every.max() < 1


def test_quantiles_do_not_depend_on_the_scale_of_scores():
    scores = np.random.default_rng(0).random((3, 50))
    np.testing.assert_array_equal(row_quantiles(scores, np.arange(9)), row_quantiles(scores / 1e3, np.arange(9)))


def test_confidence_is_the_logistic_of_its_features():
    quantile, chance, level = np.array([0.2, 0.99]), np.array([0.1, 0.6]), np.array([0.1, 0.9])
    found = confidence_of(quantile, chance, level, FITTED)
    for q, p, e, value in zip(quantile, chance, level, found, strict=True):
        logit = -1.0 + 0.5 * np.log(q) - 0.25 * np.log(1 - q) + 1.0 * np.log(p / (1 - p)) + 0.75 * (e - 0.5)
        assert value == pytest.approx(expit(logit), abs=0.51 / CONFIDENCE_STEPS)
    assert found.dtype == np.float32
    assert features(quantile, chance, level).shape == (2, 4)


def test_confidence_rises_with_the_score():
    quantile = np.linspace(0.001, 0.999, 200)
    found = confidence_of(quantile, np.full(200, 0.3), np.full(200, 0.5), FITTED)
    assert (np.diff(found) >= 0).all()
    assert ((found > 0) & (found < 1)).all()


def test_without_a_fit_there_is_no_confidence():
    assert np.isnan(confidence_of(np.array([0.5]), np.array([0.3]), np.array([0.5]), None)).all()


def test_levels_are_places_with_ties_in_the_middle():
    np.testing.assert_allclose(expression_rank(np.array([0.0, 3.0, 0.0, 1.0])), [0.25, 0.875, 0.25, 0.625])


def test_base_rate_moves_the_odds_and_no_more():
    p = np.array([0.1, 0.4, 0.9])
    moved = at_base_rate(p, 0.4, 0.1)
    np.testing.assert_allclose(moved / (1 - moved), p / (1 - p) * (0.1 / 0.9) / (0.4 / 0.6))
    np.testing.assert_allclose(at_base_rate(moved, 0.1, 0.4), p)
    table = pd.DataFrame([p], ["R"], list("abc")).astype(np.float32)
    pd.testing.assert_frame_equal(at_base_rate(table, 0.4, 0.1), pd.DataFrame([moved], ["R"], list("abc")), rtol=1e-6)
    assert np.isnan(at_base_rate([np.nan], 0.4, 0.1)).all()


def test_calibration_error_of_true_and_of_inflated_probabilities():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    y = rng.random(20_000) < p
    assert calibration_error(p, y) < 0.02
    assert calibration_error(np.minimum(p + 0.2, 1), y) == pytest.approx(0.18, abs=0.03)
    assert calibration_error(np.array([0.25, 0.25, 0.25, 0.25]), np.array([1, 0, 0, 0]), 1) == 0


@pytest.mark.parametrize("bins", ["full", "wide"])
def test_calibration_error_is_the_sum_of_a_loop_over_bins(bins):
    rng = np.random.default_rng(1)
    p = np.append(rng.beta(1, 4, 98), [0.0, 1.0])  # few are large, so that some wide bins are empty
    y = rng.random(100) < p
    rising = sorted(range(100), key=p.__getitem__)
    if bins == "full":
        parts = [rising[first : first + 5] for first in range(0, 100, 5)]
    else:
        parts = [[i for i in rising if b <= 20 * p[i] < b + 1 or (b == 19 and p[i] == 1)] for b in range(20)]
        assert [] in parts
    expected = sum(abs(sum(y[part]) - sum(p[part])) for part in parts if part) / 100
    assert calibration_error(p, y, 20, bins) == pytest.approx(expected)


# --- out of distribution


def test_distance_is_to_the_nearest_center():
    rng = np.random.default_rng(0)
    x, centers, root = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    precision = root @ root.T + np.eye(3)
    slow = [min(np.sqrt((a - c) @ precision @ (a - c)) for c in centers) for a in x]
    np.testing.assert_allclose(distance(x, centers, precision), slow)


def test_typicality_is_a_correlation():
    rng = np.random.default_rng(0)
    values, usual = rng.random((3, 9)), rng.random(9)
    np.testing.assert_allclose(typicality(values, usual), [np.corrcoef(v, usual)[0, 1] for v in values])
    assert typicality(np.ones((1, 9)), usual).tolist() == [0]


def test_places_are_quantiles():
    assert empirical_quantile(np.array([-5, 0, 1, 2.5, 4]), [0.0, 1.0, 4.0]).tolist() == pytest.approx(
        [1 / 6, 1 / 6, 0.5, 2 / 3, 5 / 6]
    )


def test_what_lies_further_out_places_higher():
    found = empirical_quantile(np.array([4, 5, 9, 20]), [0.0, 1.0, 4.0])
    assert (np.diff(found) > 0).all()
    assert found[-1] < 1


# --- through a model


@pytest.fixture
def model(calibrated_model):
    return calibrated_model


def test_confidence_of_kept_edges_is_that_of_the_cell(model, toy_adata):
    grn = sccafm.infer_grn(toy_adata[:5].copy(), model, progress=False, keep_factors=True, top_k=40)
    frame = grn.to_frame("cell3")
    u, v = grn.factors("cell3")
    scores = u.to_numpy() @ v.to_numpy().T
    edge = grn.regulators.get_indexer(frame["source"]) * 60 + grn.targets.get_indexer(frame["target"])
    counts = toy_adata["cell3"].X.toarray()[0]
    level = expression_rank(np.log1p(counts / counts.sum() * 1e4))[edge % 60]
    proper = scores.copy()
    proper[np.arange(18), grn.targets.get_indexer(grn.regulators)] = 0  # self-edges are no rivals
    expected = confidence_of(
        row_quantiles(proper, edge), grn.pairs.chance.ravel()[edge], level, model.calibration.confidence["cell"]
    )
    np.testing.assert_allclose(frame["confidence"], expected, atol=1.1 / CONFIDENCE_STEPS)
    assert frame["confidence"].nunique() > 3


def test_confidence_of_groups_survives_the_disk(model, toy_adata, tmp_path):
    settings = {"progress": False, "groupby": "cell_type"}
    grn = sccafm.infer_grn(toy_adata, model, store=tmp_path / "run", **settings)
    pooled = grn.pool(50)
    assert pooled["confidence"].between(0, 1).all()
    where = grn.regulators.get_indexer(pooled["source"]), grn.targets.get_indexer(pooled["target"])
    for group in grn.group_sizes.index:
        rows = (pooled["group"] == group).to_numpy()
        matrix = grn.confidence(group).to_numpy()
        np.testing.assert_array_equal(matrix[where[0][rows], where[1][rows]], pooled["confidence"][rows])
    in_memory = sccafm.infer_grn(toy_adata, model, **settings)
    np.testing.assert_array_equal(in_memory.pool(50)["confidence"], pooled["confidence"])
    np.testing.assert_array_equal(in_memory.ood, grn.ood)


def test_results_can_be_written_with_the_data(model, toy_adata, tmp_path):
    grn = sccafm.infer_grn(toy_adata, model, progress=False)
    np.testing.assert_array_equal(toy_adata.obs["sccafm_ood"], grn.ood)
    toy_adata.write_h5ad(tmp_path / "data.h5ad")
    back = ad.read_h5ad(tmp_path / "data.h5ad")
    network = back.uns["sccafm"]["grn"]
    assert {"confidence", "sign", "qvalue", "prior_sources"} <= set(network)
    assert back.obs["sccafm_context"].cat.categories.tolist() == list(model.contexts)


def test_a_model_without_calibration_says_so(tiny_model, toy_adata):
    grn = sccafm.infer_grn(toy_adata, tiny_model, progress=False)
    assert grn.to_frame()["confidence"].isna().all()
    assert grn.pool()["confidence"].isna().all()
    assert "sccafm_ood" not in toy_adata.obs
    with pytest.raises(KeyError, match="has no calibration, so it cannot say how unusual a cell is"):
        _ = grn.ood


def test_unusual_cells_score_higher(model, toy_adata):
    grn = sccafm.infer_grn(toy_adata.copy(), model, progress=False)
    rng = np.random.default_rng(0)
    toy_adata.X = rng.permuted(toy_adata.X.toarray(), axis=1)  # the values of a cell go to other genes
    shuffled = sccafm.infer_grn(toy_adata, model, progress=False)
    assert grn.ood.between(0, 1).all()
    assert (shuffled.ood > grn.ood).mean() > 0.9  # cell by cell: how far apart depends on the made-up weights


def test_ood_of_a_cell_is_its_own(model, toy_adata):
    everything = sccafm.infer_grn(toy_adata.copy(), model, progress=False)
    alone = sccafm.infer_grn(toy_adata[["cell7"]].copy(), model, progress=False, genes=toy_adata.var_names)
    assert alone.ood["cell7"] == everything.ood["cell7"]


def test_calibration_of_other_weights_is_not_used(model, tmp_path):
    (tmp_path / "calibration.json").write_text(json.dumps({"weights_hash": "f" * 64}))
    files = {"calibration": tmp_path / "calibration.json", "calibration_tensors": tmp_path / "none"}
    with pytest.warns(UserWarning, match="fitted to other weights .* fit it again: python scripts/calibrate.py"):
        assert read_calibration(files, "0" * 64) is None
    assert read_calibration({}, "0" * 64) is None


def test_species_have_their_own_levels(model):
    tensors = dict(model.calibration.tensors)
    tensors["usual_mouse"] = tensors["usual_human"][::-1].copy()
    calibration = dataclasses.replace(model.calibration, tensors=tensors)
    genes = np.arange(10, 200)
    values = tensors["usual_human"][genes][None]
    summary = tensors["centers"][:1]
    human, mouse = (out_of_distribution(summary, values, genes, s, calibration)[0] for s in ("human", "mouse"))
    assert human < mouse


# --- beside the weights


@pytest.fixture
def release(calibrated_model, tmp_path):
    """A small model folder with a calibration and names."""
    folder = write_release(tmp_path / "release", random_sfm())
    digest = hashlib.sha256((folder / "models/sfm_model.safetensors").read_bytes()).hexdigest()
    calibration = calibrated_model.calibration
    content = {name: getattr(calibration, name) for name in ("confidence", "signs", "ood")}
    (folder / "models/calibration.json").write_text(json.dumps({"weights_hash": digest} | content))
    save_file(calibration.tensors, folder / "models/calibration.safetensors")
    factors = [{"name": name} for name in calibrated_model.contexts]
    (folder / "models/contexts.json").write_text(json.dumps({"weights_hash": digest, "factors": factors}))
    return folder


def test_calibration_travels_with_the_weights(release, calibrated_model, tmp_path):
    model = sccafm.load(release)
    again = sccafm.load(model.save_pretrained(tmp_path / "saved"))
    for found in (model, again):
        assert found.contexts == calibrated_model.contexts
        assert found.calibration.weights_hash == found.weights_hash
        for name in ("confidence", "signs", "ood"):
            assert getattr(found.calibration, name) == getattr(calibrated_model.calibration, name)
        for name, tensor in calibrated_model.calibration.tensors.items():
            np.testing.assert_array_equal(found.calibration.tensors[name], tensor)


def test_other_weights_do_not_take_it(release):
    with (release / "models/sfm_model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\0")
    with pytest.warns(UserWarning) as caught:
        model = sccafm.load(release)
    assert model.calibration is None
    assert model.contexts is None
    assert ["was fitted to other weights" in str(w.message) for w in caught].count(True) == 1
    assert ["names the factors of other weights" in str(w.message) for w in caught].count(True) == 1
