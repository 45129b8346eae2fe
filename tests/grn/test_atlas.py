"""Networks of many cells: the bill before the run, tables a chunk at a time, one edge in all cells, and stores joined."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import GENES
from hypothesis import given, settings
from hypothesis import strategies as st

import sccafm
from sccafm._machine import read_bytes, show_bytes
from sccafm.cli import main
from sccafm.grn.edges import WEIGHT_BITS, rounded_weights, select_edges


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Parts of six cells in five row groups or so."""
    for module in ("storage", "grn"):
        monkeypatch.setattr(f"sccafm.grn.{module}.PART_CELLS", 6)
    monkeypatch.setattr("sccafm.grn.storage.ROW_GROUP_ROWS", 25)


@pytest.fixture
def infer(calibrated_model, toy_adata):
    def run(adata=None, **settings):
        adata = toy_adata.copy() if adata is None else adata
        settings = {"groupby": "cell_type", "top_k": 20, "null_cells": 8, "n_jobs": 1} | settings
        return sccafm.infer_grn(adata, calibrated_model, progress=False, **settings)

    return run


# --- which edges are kept


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(2, 200), st.integers(1, 60), st.integers(0, 5), st.sampled_from([None, 0.05]))
def test_the_strongest_are_kept_and_ties_go_to_the_lowest_position(regulators, genes, top_k, digits, least):
    rng = np.random.default_rng(genes)
    scores = np.round(rng.random((regulators, genes)) ** 4, digits).astype(np.float32)
    excluded = np.arange(min(regulators, genes)) * (genes + 1)
    edge, weight = select_edges(scores.copy(), top_k, least, excluded)
    flat = scores.ravel()
    flat[excluded] = 0
    order = np.lexsort((np.arange(len(flat)), -flat))
    best = order[flat[order] >= np.float32(least or np.finfo(np.float32).tiny)][:top_k]
    np.testing.assert_array_equal(edge, np.sort(best))
    np.testing.assert_allclose(weight, flat[edge], rtol=2.0**-WEIGHT_BITS)


def test_weights_are_rounded_to_the_nearest_of_their_bits():
    values = np.random.default_rng(0).random(1000).astype(np.float32)
    mantissa, exponent = np.frexp(values.astype(np.float64))
    expected = np.ldexp(np.rint(mantissa * 2**WEIGHT_BITS) / 2**WEIGHT_BITS, exponent)
    np.testing.assert_array_equal(rounded_weights(values), expected.astype(np.float32))
    assert rounded_weights(np.array([1.0, 0.0], np.float32)).tolist() == [1.0, 0.0]


# --- reading back


@pytest.fixture(params=["memory", "disk"])
def grn(request, infer, tmp_path):
    return infer(store=tmp_path / "run" if request.param == "disk" else None)


def test_one_edge_in_all_cells_is_what_their_tables_say(grn):
    whole = grn.to_frame().astype({name: str for name in ("cell", "source", "target")})
    for source, target in (("SPI1", "LYZ"), ("STAT1", "ISG15"), tuple(whole.loc[7, ["source", "target"]])):
        expected = whole[(whole["source"] == source) & (whole["target"] == target)]
        expected = expected.assign(group=grn.groups[expected["cell"]].to_numpy())
        found = grn.edge(source, target)
        columns = ["cell", "group", "weight", "confidence", "qvalue"]
        assert found.columns.tolist() == columns
        pd.testing.assert_frame_equal(
            found.astype({"cell": str, "group": str}),
            expected[columns].astype({"group": str}).reset_index(drop=True),
        )


def test_an_edge_of_unknown_ends_is_said(grn):
    with pytest.raises(KeyError, match="'LYZ' is no regulator of these networks"):
        grn.edge("LYZ", "SPI1")
    with pytest.raises(KeyError, match="'Foo' was not read"):
        grn.edge("SPI1", "Foo")


def test_tables_come_in_chunks_of_cells(grn):
    pieces = list(grn.frames(n_cells=4))
    assert [piece["cell"].nunique() for piece in pieces] == [4] * 7 + [2]
    pd.testing.assert_frame_equal(pd.concat(pieces, ignore_index=True), grn.to_frame())
    some = pd.concat(list(grn.frames(group="B cell", n_cells=3)), ignore_index=True)
    pd.testing.assert_frame_equal(some, grn.to_frame(group="B cell"))
    assert set(some["cell"].astype(str)) == set(grn.cells[(grn.groups == "B cell").to_numpy()])


def test_cells_and_a_group_are_not_asked_for_together(grn):
    with pytest.raises(ValueError, match="cells= and group= both name cells"):
        grn.to_frame(["cell0"], group="B cell")
    with pytest.raises(KeyError, match="no group 'Foo'"):
        grn.to_frame(group="Foo")


# --- joined


@pytest.fixture
def halves(infer, toy_adata):
    genes = toy_adata.var_names.tolist()
    parts = toy_adata[:13].copy(), toy_adata[13:].copy()
    return [infer(part, genes=genes, regulators=genes[:18]) for part in parts]


@pytest.mark.parametrize("store", [False, True])
def test_joined_networks_are_those_of_one_run(infer, halves, toy_adata, tmp_path, store):
    genes = toy_adata.var_names.tolist()
    whole = infer(genes=genes, regulators=genes[:18])
    folders = [half.write(tmp_path / f"half{i}") for i, half in enumerate(halves)]
    joined = sccafm.concat(folders if store else halves, tmp_path / "joined" if store else None)
    assert joined.cells.tolist() == whole.cells.tolist()
    of_a_cell = ["cell", "source", "target", "weight", "confidence", "binding", "response", "in_prior"]
    pd.testing.assert_frame_equal(joined.to_frame()[of_a_cell], whole.to_frame()[of_a_cell])
    for group in (None, "T cell"):
        np.testing.assert_allclose(joined.matrix(group), whole.matrix(group), rtol=1e-12)
        assert joined.qvalues(group).notna().sum().sum() == 18 * 59
    pd.testing.assert_frame_equal(joined.strengths, whole.strengths)
    pd.testing.assert_frame_equal(joined.obs, whole.obs)
    pd.testing.assert_series_equal(joined.groups, whole.groups)
    assert joined.params["receipt"]["n_cells"] == 30
    if store:
        back = sccafm.read_grn(tmp_path / "joined")
        pd.testing.assert_frame_equal(back.to_frame(), joined.to_frame())
        pd.testing.assert_frame_equal(back.pool(50), joined.pool(50))


def test_joined_nulls_have_the_moments_of_all_permuted_cells(halves):
    joined = sccafm.concat(halves).pairs
    first, second = (half.pairs for half in halves)
    assert joined.n_null == 16
    np.testing.assert_allclose(joined.null_mean, (first.null_mean + second.null_mean) / 2, atol=1e-6)
    apart = 8 * ((first.null_mean - joined.null_mean) ** 2 + (second.null_mean - joined.null_mean) ** 2)
    np.testing.assert_allclose(
        joined.null_sd**2, (7 * first.null_sd**2 + 7 * second.null_sd**2 + apart) / 15, atol=1e-6
    )
    both = np.stack([first.sign, second.sign])
    agree = (both >= 0).all(0) | (both <= 0).all(0)
    np.testing.assert_array_equal(joined.sign, np.where(agree, np.sign(both.sum(0)), 0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 10}, "network 2 was inferred with another top_k .10. than the first .20."),
        ({"genes": GENES.split()[:40]}, "another genes .* infer all of them with the same list"),
        ({}, "13 cells stand in two networks: cell0"),
    ],
)
def test_networks_that_do_not_join_are_refused(infer, halves, toy_adata, settings, message):
    genes = toy_adata.var_names.tolist()
    other = infer(toy_adata[:13].copy(), **{"genes": genes, "regulators": genes[:18]} | settings)
    with pytest.raises(ValueError, match=message):
        sccafm.concat([halves[0], other])
    with pytest.raises(ValueError, match="some networks have q-values and some none"):
        sccafm.concat([halves[0], infer(toy_adata[13:].copy(), genes=genes, regulators=genes[:18], null_cells=0)])
    with pytest.raises(ValueError, match="concat joins at least two networks, got 1"):
        sccafm.concat(halves[:1])


# --- the bill


def test_a_plan_reads_what_the_run_reads(infer, calibrated_model, toy_adata, tmp_path):
    settings = {"groupby": "cell_type", "regulators": "all", "top_k": 20}
    plan = sccafm.plan(toy_adata, calibrated_model, store=tmp_path / "run", n_jobs=2, **settings)
    grn = infer(**settings)
    assert (plan.cells, plan.genes, plan.regulators, plan.groups) == (30, 60, len(grn.regulators), 3)
    assert (plan.parts, plan.processes, plan.results_memory) == (5, 2, 0)
    assert plan.seconds > plan.cells / plan.cells_per_second > 0
    assert "genes 60 of 60 known" in plan.receipt
    assert not (tmp_path / "run").exists()
    assert "sccafm" not in toy_adata.uns
    for line in ("30 cells x 60 genes", "2 processes of one thread", "memory: about", "disk: about"):
        assert line in str(plan)
    assert json.loads(json.dumps(plan.to_dict()))["cells"] == 30


def test_memory_bounds_the_processes(calibrated_model, toy_adata, tmp_path):
    one = sccafm.plan(toy_adata, calibrated_model, n_jobs=2).memory
    plan = sccafm.plan(toy_adata, calibrated_model, n_jobs=4, memory_limit=int(2.5 * one))
    assert plan.processes == 2
    with pytest.warns(UserWarning, match="memory_limit='10MB' is less than one process needs"):
        assert sccafm.plan(toy_adata, calibrated_model, n_jobs=4, memory_limit="10MB").processes == 1


def test_a_disk_or_memory_that_will_not_do_is_said_before_the_run(
    infer, calibrated_model, toy_adata, tmp_path, monkeypatch
):
    monkeypatch.setattr("sccafm.grn.estimate.free_disk", lambda folder: 1000)
    monkeypatch.setattr("sccafm.grn.plan.free_disk", lambda folder: 1000)
    with pytest.warns(UserWarning, match="run will take about .* and 1000 B are free on its disk"):
        infer(store=tmp_path / "run")
    told = str(sccafm.plan(toy_adata, calibrated_model, store=tmp_path / "other"))
    assert "warning: about" in told and "of disk are needed" in told
    monkeypatch.setattr("sccafm.grn.estimate.available_memory", lambda: 1000)
    with pytest.warns(UserWarning, match='of memory, and 1000 B are free; pass store="folder"'):
        infer()


def test_a_setting_that_inference_does_not_have_is_refused(calibrated_model, toy_adata):
    with pytest.raises(TypeError, match="infer_grn has no 'topk'; plan takes"):
        sccafm.plan(toy_adata, calibrated_model, topk=5)
    with pytest.raises(ValueError, match="n_jobs must be a number of processes"):
        sccafm.plan(toy_adata, calibrated_model, n_jobs=0)


def test_the_shell_shows_a_plan_and_computes_nothing(toy_adata, tiny_model, tmp_path, capsys):
    toy_adata.write_h5ad(tmp_path / "cells.h5ad")
    tiny_model.save_pretrained(tmp_path / "model")
    main(
        [
            "infer",
            f"--input={tmp_path / 'cells.h5ad'}",
            f"--model={tmp_path / 'model'}",
            f"--out={tmp_path / 'out'}",
            "--plan",
        ]
    )
    assert "30 cells x 60 genes" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_sizes_are_read_and_shown():
    assert [read_bytes(size) for size in ("8GB", "512 mb", "1.5 GiB", 100)] == [2**33, 2**29, 3 * 2**29, 100]
    assert [show_bytes(n) for n in (5, 3 * 2**20, 2.5 * 2**30)] == ["5 B", "3 MB", "2.5 GB"]
    for odd in ("much", "0", -1, True):
        with pytest.raises(ValueError, match="memory_limit must be a size"):
            read_bytes(odd)
