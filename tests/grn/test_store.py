"""Networks on disk: parts, killed and resumed runs, and folders that belong to something else."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

import sccafm
from sccafm import _io
from sccafm.grn import storage
from sccafm.grn.storage import EDGE_TYPES, CellEdges, Store, read_edges, read_header, write_edges


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of four cells, so that 12 cells make three."""
    for module in ("storage", "grn"):
        monkeypatch.setattr(f"sccafm.grn.{module}.PART_CELLS", 4)
    monkeypatch.setattr("sccafm.grn.storage.ROW_GROUP_ROWS", 6)


@pytest.fixture
def infer(tiny_model, toy_adata, small_parts):
    def run(store=None, **settings):
        return sccafm.infer_grn(
            toy_adata[:12].copy(), tiny_model, store=store, progress=False, **{"top_k": 20} | settings
        )

    return run


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def kill(monkeypatch, name, call):
    """Let a function of the store fail at its `call`-th call, as a killed process would."""
    module, attribute = name.rsplit(".", 1)
    places = [Store] if module == "Store" else [storage, _io]
    owners = [place for place in places if hasattr(place, attribute)]
    original, calls = getattr(owners[0], attribute), []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments)

    for owner in owners:
        monkeypatch.setattr(owner, attribute, failing)


# --- edges


def edges_of(counts):
    """counts[i] edges of cell i, with numbers that tell them apart."""
    cell = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    edge = np.concatenate([np.arange(n) * 3 for n in counts] or [[]]).astype(np.int32)
    numbers = np.random.default_rng(0).random((3, len(cell))).astype(np.float32)
    return CellEdges(cell, edge, *numbers)


def assert_equal(found, expected):
    for name in EDGE_TYPES:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=12), st.lists(st.integers(0, 11), unique=True))
@example([1, 0, 0, 0, 1], [4, 0])
def test_edges_of_chosen_cells_come_back_in_the_order_asked_for(tmp_path_factory, counts, wanted):
    edges, wanted = edges_of(counts), np.array(wanted, dtype=int)
    path = tmp_path_factory.mktemp("edges") / "part.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sccafm.grn.storage.ROW_GROUP_ROWS", 6)
        write_edges(edges, path)
        found = read_edges(path, wanted)
    rows = [row for cell in wanted for row in np.flatnonzero(edges.cell == cell)]
    assert_equal(found, CellEdges(*(getattr(edges, name)[rows] for name in EDGE_TYPES)))
    assert_equal(edges.of(wanted), found)


def test_confidence_and_qvalue_take_about_a_byte_an_edge(calibrated_model, toy_adata, tmp_path):
    sccafm.infer_grn(toy_adata, calibrated_model, store=tmp_path / "run", top_k=1000, progress=False)
    file = pq.ParquetFile(tmp_path / "run/parts/00000.parquet").metadata
    columns = [file.row_group(0).column(i) for i in range(file.num_columns)]
    sizes = {column.path_in_schema: column.total_compressed_size / column.num_values for column in columns}
    assert sizes["confidence"] < 1.2
    assert sizes["qvalue"] < 1.2


def test_joined_edges_keep_their_types():
    assert_equal(CellEdges.join([]), edges_of([]))
    assert_equal(CellEdges.join([edges_of([2, 1]), edges_of([])]), edges_of([2, 1]))


def test_files_read_with_plain_pandas_and_join(infer, tmp_path):
    grn = infer(tmp_path / "run")
    parts = [pd.read_parquet(path) for path in sorted((tmp_path / "run/parts").glob("*.parquet"))]
    edges = pq.read_table(tmp_path / "run/edges.parquet").to_pandas()
    cells = pd.read_parquet(tmp_path / "run/cells.parquet")
    joined = pd.concat(parts, ignore_index=True).merge(edges, on="edge")
    joined["cell"] = cells["cell"].to_numpy()[joined["cell"]]
    columns = ["cell", "source", "target", "prior_sources"]
    expected = grn.to_frame().astype({name: str for name in columns}).sort_values(columns, ignore_index=True)
    found = joined.astype({name: str for name in columns}).sort_values(columns, ignore_index=True)
    pd.testing.assert_frame_equal(found[expected.columns], expected)


# --- killed and resumed


@pytest.mark.parametrize(
    ("name", "call"),
    [("Store.add", 1), ("Store.add", 2), ("store.save_file", 2), ("store.write_edges", 3), ("store.write_whole", 12)],
)
def test_killed_run_ends_with_the_bytes_of_an_unbroken_one(infer, tmp_path, monkeypatch, name, call):
    settings = {"groupby": "cell_type", "keep_factors": True}
    infer(tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        kill(patch, name, call)
        with pytest.raises(KeyboardInterrupt):
            infer(tmp_path / "killed", **settings)
    with pytest.raises(ValueError, match="unfinished run; call infer_grn with the same arguments again"):
        sccafm.read_grn(tmp_path / "killed")
    infer(tmp_path / "killed", **settings)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def write_sums_every_second_part(monkeypatch, folder):
    """And after the last one: the sums of the run in `folder` are a little less than twice what is written a part."""
    size = sum(array.nbytes for array in load_file(folder / "sums.safetensors").values())
    monkeypatch.setattr("sccafm.grn.storage.SUMS_BYTES", size // 2 + 1)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_large_sums_are_written_every_few_parts_and_a_killed_run_has_the_same_bytes(infer, tmp_path, monkeypatch, call):
    infer(tmp_path / "whole", groupby="cell_type")
    write_sums_every_second_part(monkeypatch, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill(patch, "Store.add", call)
        with pytest.raises(KeyboardInterrupt):
            infer(tmp_path / "killed", groupby="cell_type")
    infer(tmp_path / "killed", groupby="cell_type")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_large_sums_count_the_parts_before_them(infer, tmp_path, monkeypatch):
    infer(tmp_path / "whole", groupby="cell_type")
    write_sums_every_second_part(monkeypatch, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill(patch, "Store.add", 2)
        with pytest.raises(KeyboardInterrupt):
            infer(tmp_path / "run", groupby="cell_type")
    assert not (tmp_path / "run/sums.safetensors").exists()
    with monkeypatch.context() as patch:
        kill(patch, "Store.add", 3)
        with pytest.raises(KeyboardInterrupt):
            infer(tmp_path / "run", groupby="cell_type")
    with safe_open(tmp_path / "run/sums.safetensors", "np") as file:
        assert file.metadata()["parts"] == "2"


@pytest.mark.parametrize("call", [1, 2, 4])
def test_run_killed_while_its_folder_was_made_is_taken_up(infer, tmp_path, monkeypatch, call):
    with monkeypatch.context() as patch:
        kill(patch, "store.write_whole", call)
        with pytest.raises(KeyboardInterrupt):
            infer(tmp_path / "killed")
    infer(tmp_path / "killed")
    infer(tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_folder_with_no_more_than_a_torn_header_is_taken_up(infer, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/grn.json.partial").write_text("{")
    infer(tmp_path / "run")
    assert not (tmp_path / "run/grn.json.partial").exists()


def test_a_resumed_run_reads_no_finished_part_again(infer, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill(patch, "Store.add", 3)
        with pytest.raises(KeyboardInterrupt):
            infer(tmp_path / "run")
    added, original = [], Store.add

    def add(self, number, part, sums):
        added.append(number)
        original(self, number, part, sums)

    monkeypatch.setattr(Store, "add", add)
    infer(tmp_path / "run")
    assert added == [2]


def test_a_finished_store_is_not_computed_again(infer, tmp_path, monkeypatch):
    first = infer(tmp_path / "run")
    before = contents(tmp_path / "run")
    monkeypatch.setattr("sccafm.grn.parts.EdgeInference.part", None)
    again = infer(tmp_path / "run")
    assert contents(tmp_path / "run") == before
    pd.testing.assert_frame_equal(again.to_frame(), first.to_frame())


def test_nothing_unfinished_is_left(infer, tmp_path):
    infer(tmp_path / "run")
    names = contents(tmp_path / "run")
    assert not [name for name in names if name.endswith(".partial")]
    assert len([name for name in names if name.startswith("parts")]) == 3


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"top_k": 21}, "top_k: there 20, here 21"),
        ({"min_weight": 0.1}, "min_weight: there None, here 0.1"),
        ({"groupby": "cell_type"}, "groupby: there None, here cell_type"),
        ({"genes": ["SPI1", "LYZ"]}, "genes: there"),
        ({"regulators": "all"}, "genes: there"),
        ({"keep_factors": True}, "keep_factors: there False, here True"),
        ({"species": "mouse"}, "conditions: there"),
    ],
)
def test_store_of_another_run_names_the_setting(infer, tmp_path, settings, named):
    infer(tmp_path / "run", regulators=["SPI1", "GATA1"])
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match=f"belongs to another run .*{named}"):
        infer(tmp_path / "run", **{"regulators": ["SPI1", "GATA1"]} | settings)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("change", ["value", "cell", "model"])
def test_store_of_other_data_or_weights_is_refused(tiny_model, toy_adata, tmp_path, change):
    sccafm.infer_grn(toy_adata.copy(), tiny_model, store=tmp_path / "run", progress=False)
    if change == "value":
        toy_adata.X[0, 0] += 1
    elif change == "cell":
        toy_adata.obs_names = ["other", *toy_adata.obs_names[1:]]
    else:
        tiny_model = dataclasses.replace(tiny_model, weights_hash="1" * 64)
    named = {"value": "values", "cell": "cells", "model": "weights"}[change]
    with pytest.raises(ValueError, match=f"belongs to another run .*{named}: there"):
        sccafm.infer_grn(toy_adata, tiny_model, store=tmp_path / "run", progress=False)


def test_folder_with_other_things_is_refused(infer, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no networks; give a new folder"):
        infer(tmp_path)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_file_in_place_of_a_folder_is_refused(infer, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        infer(tmp_path / "run")


def test_folder_without_networks_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no networks: it has no grn.json"):
        sccafm.read_grn(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"format"', "is damaged"), (json.dumps({"format": 99}), "has the layout .*99.*, this version reads")],
)
def test_header_of_another_kind_is_refused(tmp_path, text, message):
    (tmp_path / "grn.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_header(tmp_path)
