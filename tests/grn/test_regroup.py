"""Strengths of regulators in cells, and mean networks of groups that were chosen after the inference."""

import numpy as np
import pandas as pd
import pytest

import sccafm


@pytest.fixture
def infer(tiny_model, toy_adata):
    def run(**settings):
        toy_adata.obs["batch"] = list("aabbbccccc" * 3)
        toy_adata.obs["fine"] = toy_adata.obs["cell_type"].astype(str) + "/" + toy_adata.obs["batch"]
        return sccafm.infer_grn(toy_adata, tiny_model, progress=False, null_cells=8, **settings)

    return run


def test_strength_is_the_sum_of_a_cells_scores_over_other_genes(infer):
    grn = infer(keep_factors=True)
    for cell in ("cell0", "cell17"):
        u, v = grn.factors(cell)
        for regulator in grn.regulators[:4]:
            expected = sum(u.loc[regulator] @ v.loc[gene] for gene in grn.targets if gene != regulator)
            assert grn.strengths.loc[cell, regulator] == pytest.approx(expected, rel=1e-5)
    assert grn.strengths.shape == (30, 18) and (grn.strengths.dtypes == np.float32).all()


def test_expression_of_regulators_is_what_the_model_read(infer, toy_adata):
    grn = infer()
    counts = toy_adata.X.toarray()
    expected = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)[:, toy_adata.var_names.get_indexer(grn.regulators)]
    np.testing.assert_allclose(grn.regulator_expression, expected, rtol=1e-5)


@pytest.mark.parametrize("settings", [{"keep_factors": True}, {"groupby": "fine"}])
def test_regrouped_means_are_those_of_an_inference_with_these_groups(infer, settings):
    found, expected = infer(**settings).regroup("cell_type"), infer(groupby="cell_type")
    pd.testing.assert_series_equal(found.groups, expected.groups)
    for group in ("B cell", "monocyte", None):
        pd.testing.assert_frame_equal(found.matrix(group), expected.matrix(group), rtol=1e-5, atol=1e-7)
    columns = ["group", "source", "target", "weight", "sign", "n_cells"]
    pd.testing.assert_frame_equal(
        found.pool(20)[columns].sort_values(columns, ignore_index=True),
        expected.pool(20)[columns].sort_values(columns, ignore_index=True),
        rtol=1e-5,
    )


def test_joined_groups_keep_their_confidence(infer, calibrated_model, toy_adata):
    toy_adata.obs["fine"] = toy_adata.obs["cell_type"].astype(str) + list("ab" * 15)
    settings = {"progress": False, "null_cells": 0}
    fine = sccafm.infer_grn(toy_adata, calibrated_model, groupby="fine", **settings)
    expected = sccafm.infer_grn(toy_adata, calibrated_model, groupby="cell_type", **settings)
    found = fine.regroup(toy_adata.obs["cell_type"])
    pd.testing.assert_frame_equal(found.confidence("B cell"), expected.confidence("B cell"), atol=1e-4)
    kept = sccafm.infer_grn(toy_adata, calibrated_model, keep_factors=True, **settings).regroup("cell_type")
    assert kept.confidence("B cell").isna().all(axis=None) and kept.confidence().notna().all(axis=None)


def test_what_is_not_there_is_said(infer):
    grn = infer().regroup("cell_type")
    with pytest.raises(KeyError, match="groups of 'cell_type' have no mean networks: infer with keep_factors=True"):
        grn.matrix("B cell")
    with pytest.raises(KeyError, match="have no mean networks"):
        grn.pool()
    assert grn.matrix().shape == (18, 60)
    again = grn.regroup("batch")
    pd.testing.assert_frame_equal(again.matrix(), grn.matrix())


def test_labels_come_as_a_column_a_series_or_values(infer, toy_adata):
    grn = infer(keep_factors=True)
    column = toy_adata.obs["cell_type"]
    for labels in ("cell_type", column, column[::-1], list(column)):
        assert grn.regroup(labels).groups.tolist() == column.tolist()
    with pytest.raises(KeyError, match="'tissu' is no column of obs as it was at inference; there are"):
        grn.regroup("tissu")
    with pytest.raises(KeyError, match="labels lack 29 of 30 cells"):
        grn.regroup(column[:1])
    with pytest.raises(ValueError, match="a label or value for each of 30 cells, got 2"):
        grn.regroup(["a", "b"])
    with pytest.warns(UserWarning, match="1 cells have no 'labels'"):
        assert "unassigned" in grn.regroup([None, *column[1:]]).groups.cat.categories


def test_obs_and_new_groups_survive_the_disk(infer, toy_adata, tmp_path):
    toy_adata.obs["stage"] = pd.Categorical(["late", "early"] * 15, ["early", "late"], ordered=True)
    toy_adata.obs["age"] = np.arange(30)
    toy_adata.obs["mixed"] = [1, "one", None] * 10
    grn = infer(keep_factors=True).regroup("stage")
    back = sccafm.read_grn(grn.write(tmp_path / "grn"))
    pd.testing.assert_frame_equal(back.obs, grn.obs)
    assert back.obs["age"].tolist() == list(range(30)) and back.obs["mixed"].isna().sum() == 10
    assert back.obs["stage"].cat.categories.tolist() == ["early", "late"]
    pd.testing.assert_series_equal(back.groups, grn.groups)
    pd.testing.assert_frame_equal(back.strengths, grn.strengths)
    pd.testing.assert_frame_equal(back.matrix("late"), grn.matrix("late"))


def test_cells_without_annotation_survive_the_disk(tiny_model, toy_adata, tmp_path):
    toy_adata.obs = toy_adata.obs[[]]
    grn = sccafm.infer_grn(toy_adata, tiny_model, progress=False, store=tmp_path / "grn", null_cells=0)
    back = sccafm.read_grn(tmp_path / "grn")
    assert back.obs.shape == grn.obs.shape == (30, 0)
