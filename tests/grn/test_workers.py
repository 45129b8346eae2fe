"""Parts computed by several processes: the same bytes for any number, and nothing lost with a killed one."""

import dataclasses
import errno
import os
import signal
import warnings

import anndata as ad
import joblib
import numpy as np
import pandas as pd
import pytest
from making import random_causal_efm

import sccafm
from sccafm.data.files import prepare_cells
from sccafm.data.input import prepare
from sccafm.data.joined import open_files
from sccafm.embedding.parts import VectorInference
from sccafm.grn.parts import EdgeInference, PartTask
from sccafm.grn.storage import write_edges

PARTS = 5  # of 6 cells


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    for module in ("storage", "grn"):
        monkeypatch.setattr(f"sccafm.grn.{module}.PART_CELLS", 6)


@pytest.fixture
def infer(calibrated_model, toy_adata):
    def run(store=None, adata=None, **settings):
        adata = toy_adata.copy() if adata is None else adata
        settings = {"groupby": "cell_type", "top_k": 20, "null_cells": 8, "keep_factors": True} | settings
        return sccafm.infer_grn(adata, calibrated_model, store=store, progress=False, **settings)

    return run


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_zarr(adata, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata announces the format of its next release
        adata.write_zarr(path)


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame())
    for one, other in ((found.arrays, expected.arrays), (found.sums, expected.sums)):
        assert one.keys() == other.keys()
        for name in other:
            np.testing.assert_array_equal(one[name], other[name], strict=True)


@pytest.mark.parametrize("n_jobs", [3, 2])
def test_any_number_of_workers_leaves_the_same_bytes(infer, tmp_path, n_jobs):
    infer(tmp_path / "one", n_jobs=1)
    infer(tmp_path / "many", n_jobs=n_jobs)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_workers_leave_the_same_in_memory(infer):
    assert_same(infer(n_jobs=2), infer(n_jobs=1))


@pytest.mark.parametrize("storage", ["csr", "dense", "h5ad", "zarr", "csc", "layer", "neighbors"])
def test_workers_open_whatever_was_passed(infer, toy_adata, tmp_path, storage):
    settings, data = {}, toy_adata.copy()
    if storage in ("dense", "csc"):
        data.X = data.X.toarray() if storage == "dense" else data.X.tocsc()
    if storage == "layer":
        data.layers["counts"], data.X = data.X.copy(), None
    if storage == "neighbors":
        settings = {"neighbors": 4}
    if storage == "h5ad":
        data.write_h5ad(tmp_path / "cells.h5ad")
        data = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    if storage == "zarr":
        write_zarr(data, tmp_path / "cells.zarr")
        data = tmp_path / "cells.zarr"
    expected = infer(adata=toy_adata.copy(), n_jobs=1, **settings)
    assert_same(infer(adata=data, n_jobs=2, **settings), expected)


# --- files


@pytest.fixture
def two_files(toy_adata, tmp_path):
    """Cells in two files: one lacks five genes, the other ten and two of the cells' columns."""
    folder = tmp_path / "cells"
    folder.mkdir()
    first, second = toy_adata[:17, 5:].copy(), toy_adata[17:, :50].copy()
    del second.obs["disease"]
    first.write_h5ad(folder / "a.h5ad")
    write_zarr(second, folder / "b.zarr")
    return folder


@pytest.mark.filterwarnings("ignore:45 genes are in all files")
def test_files_of_different_genes_give_one_result_for_any_number_of_workers(infer, two_files, tmp_path):
    infer(tmp_path / "one", two_files, n_jobs=1)
    infer(tmp_path / "many", two_files, n_jobs=2)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_each_cell_of_several_files_is_read_as_from_its_own(infer, two_files, toy_adata):
    with pytest.warns(UserWarning, match="45 genes are in all files .* a.h5ad 10 of 55, b.zarr 5 of 50"):
        found = infer(adata=two_files)
    assert found.cells.tolist() == toy_adata.obs_names.tolist()
    assert found.targets.tolist() == toy_adata.var_names[5:50].tolist()
    assert found.obs["file"].tolist() == ["a"] * 17 + ["b"] * 13
    for name, cells in (("a.h5ad", slice(0, 17)), ("b.zarr", slice(17, 30))):
        alone = infer(adata=two_files / name, genes=found.targets)
        np.testing.assert_array_equal(alone.summary, found.summary[cells])
        np.testing.assert_array_equal(alone.strengths, found.strengths[cells])
    pd.testing.assert_index_equal(found.genes.index, alone.genes.index)


def test_moments_of_several_files_are_those_of_all_cells(two_files, toy_adata, tiny_model):
    with pytest.warns(UserWarning, match="are in all files"):
        joined = prepare_cells(open_files(two_files), tiny_model)
    parts = [
        prepare(ad.read_h5ad(two_files / "a.h5ad"), tiny_model),
        prepare(open_files(two_files / "b.zarr"), tiny_model),
    ]
    values = [np.expm1(p.matrix.read(0, 99, p.columns[p.names.isin(joined.names)]).astype(float)) for p in parts]
    values = np.concatenate(values)
    np.testing.assert_allclose(joined.survey.mean, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(joined.survey.variance, values.var(0, ddof=1), rtol=1e-5)
    np.testing.assert_array_equal(joined.survey.detected, (values > 0).sum(0))


def test_cells_of_one_name_carry_their_file(infer, two_files):
    write_zarr(ad.read_h5ad(two_files / "a.h5ad"), two_files / "b.zarr")
    with pytest.warns(UserWarning, match="cell names stand in several files: .* a:cell0"):
        found = infer(adata=sorted(two_files.iterdir()))
    assert found.cells[:2].tolist() == ["a:cell0", "a:cell1"]
    assert found.cells[17] == "b:cell0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("species", "files are of two species .a.h5ad is human, c.h5ad is mouse"),
        ("genes", "the files share 0 genes that the model knows .of a.h5ad 55, c.h5ad 5"),
        ("values", "c.h5ad: X holds negative values"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*genes are in all files", "ignore:cell names stand in several files")
def test_files_that_disagree_are_refused(infer, two_files, toy_adata, change, message):
    other = toy_adata[:, :5].copy() if change == "genes" else toy_adata.copy()
    if change == "species":
        other.var_names = [name.title() for name in other.var_names]
    if change == "values":
        other.X = other.X.toarray() - 1
    other.write_h5ad(two_files / "c.h5ad")
    with pytest.raises(ValueError, match=message):
        infer(adata=[two_files / "a.h5ad", two_files / "c.h5ad"])


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("nothing.h5ad", FileNotFoundError, "no file .*nothing.h5ad"),
        ("empty", FileNotFoundError, "holds no .h5ad file and no .zarr folder"),
        ("notes.txt", ValueError, "is no .h5ad file and no .zarr folder"),
        ("torn.h5ad", ValueError, "torn.h5ad is no readable h5ad file"),
    ],
)
def test_paths_that_hold_no_cells_are_said(infer, tmp_path, path, error, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "torn.h5ad").write_text("torn")
    with pytest.raises(error, match=message):
        infer(adata=tmp_path / path)


def test_a_path_is_not_annotated(infer, two_files):
    with pytest.raises(ValueError, match="copy=True annotates a copy of an AnnData"):
        infer(adata=two_files / "a.h5ad", copy=True)


# --- disks


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_full_disk_is_said_and_nothing_finished_is_lost(infer, tmp_path, monkeypatch, n_jobs):
    infer(tmp_path / "whole", n_jobs=1)
    with monkeypatch.context() as patch:
        if n_jobs == 1:
            calls = []

            def full(edges, path):
                calls.append(path)
                if len(calls) == 3:
                    path.write_bytes(b"half")
                    raise OSError(errno.ENOSPC, "No space left on device")
                write_edges(edges, path)

            patch.setattr("sccafm.grn.storage.write_edges", full)
        else:
            patch.setattr("sccafm.grn.run.PartTask", filling())
        with pytest.raises(OSError, match=r"the disk of .*run is full\. What is finished is whole and kept"):
            infer(tmp_path / "run", n_jobs=n_jobs)
    assert not list((tmp_path / "run/parts").glob("*.partial"))
    infer(tmp_path / "run", n_jobs=1)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def filling():
    class Filling:
        def __init__(self, folder, mark):
            self.task = PartTask(folder, mark)

        def __call__(self, number):
            if number == 3:
                raise OSError(28, "No space left on device")
            self.task(number)

    return Filling


def test_a_folder_that_cannot_be_written_is_said(infer, tmp_path, monkeypatch):
    def denied(self, *arguments, **settings):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", denied)
    with pytest.raises(PermissionError, match="run cannot be written .Permission denied.; name a folder"):
        infer(tmp_path / "run")


# --- killed


def killing(flag, always=False):
    """A task that kills its own process when it meets part 2, once or always."""

    class Killing:
        def __init__(self, folder, mark):
            self.task = PartTask(folder, mark)

        def __call__(self, number):
            if number == 2 and (always or not flag.exists()):
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            self.task(number)

    return Killing


def test_a_killed_worker_costs_its_part_alone_and_the_run_goes_on(infer, tmp_path, monkeypatch):
    infer(tmp_path / "whole", n_jobs=1)
    monkeypatch.setattr("sccafm.grn.run.PartTask", killing(tmp_path / "flag"))
    infer(tmp_path / "killed", n_jobs=2)
    assert (tmp_path / "flag").exists()
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_workers_that_are_always_killed_are_said_and_the_run_resumes(infer, tmp_path, monkeypatch):
    infer(tmp_path / "whole", n_jobs=1)
    monkeypatch.setattr("sccafm._parallel.MOST_RESTARTS", 1)
    with monkeypatch.context() as patch:
        patch.setattr("sccafm.grn.run.PartTask", killing(tmp_path / "flag", always=True))
        with pytest.raises(sccafm.WorkerError, match="killed before they finish a part .* fewer workers"):
            infer(tmp_path / "killed", n_jobs=2)
    with pytest.raises(ValueError, match="unfinished run"):
        sccafm.read_grn(tmp_path / "killed")
    computed = []
    original = EdgeInference.part
    monkeypatch.setattr(EdgeInference, "part", lambda self, n, *rest: (computed.append(n), original(self, n, *rest))[1])
    infer(tmp_path / "killed", n_jobs=1)
    assert 2 in computed
    assert len(computed) < PARTS
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_what_a_task_says_reaches_the_caller(infer, tmp_path, monkeypatch):
    class Failing:
        def __init__(self, folder, mark):
            pass

        def __call__(self, number):
            raise ValueError(f"part {number} is odd")

    monkeypatch.setattr("sccafm.grn.run.PartTask", Failing)
    with pytest.raises(ValueError, match="part . is odd"):
        infer(tmp_path / "run", n_jobs=2)


# --- schedulers


def test_dask_computes_the_parts(infer, tmp_path):
    distributed = pytest.importorskip("distributed")
    infer(tmp_path / "one", n_jobs=1)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        infer(tmp_path / "dask")
    assert contents(tmp_path / "dask") == contents(tmp_path / "one")


# --- embeddings


@pytest.fixture
def embed(calibrated_model, toy_adata, monkeypatch):
    monkeypatch.setattr("sccafm.embedding.embed.PART_CELLS", 6)
    model = dataclasses.replace(calibrated_model, efm=random_causal_efm(calibrated_model.vocabulary.size))

    def run(adata=None, **settings):
        adata = toy_adata.copy() if adata is None else adata
        return sccafm.embed(adata, model, progress=False, **{"groupby": "cell_type"} | settings)

    return run


def assert_same_vectors(found, expected):
    pd.testing.assert_frame_equal(found.cells, expected.cells)
    pd.testing.assert_frame_equal(found.zero_shot, expected.zero_shot)
    np.testing.assert_array_equal(found.sums, expected.sums, strict=True)


def test_embeddings_have_the_same_bits_for_any_number_of_workers(embed, infer, toy_adata, tmp_path):
    expected = embed(n_jobs=1)
    assert_same_vectors(embed(n_jobs=2), expected)
    assert_same_vectors(embed(n_jobs=2, store=tmp_path / "vectors"), expected)
    toy_adata.write_h5ad(tmp_path / "cells.h5ad")
    assert_same_vectors(embed(tmp_path / "cells.h5ad", n_jobs=2), expected)
    grn = infer(n_jobs=1)
    assert_same_vectors(embed(grn=grn, n_jobs=2), embed(grn=grn, n_jobs=1))


def test_an_embedding_that_was_stopped_resumes_and_a_finished_one_is_read(embed, toy_adata, tmp_path, monkeypatch):
    expected = embed(store=tmp_path / "whole")
    computed, original = [], VectorInference.part

    def part(self, number, *rest):
        computed.append(number)
        if len(computed) == 3:
            raise KeyboardInterrupt
        return original(self, number, *rest)

    monkeypatch.setattr(VectorInference, "part", part)
    with pytest.raises(KeyboardInterrupt):
        embed(store=tmp_path / "run")
    assert_same_vectors(embed(store=tmp_path / "run"), expected)
    assert computed == [0, 1, 2, 2, 3, 4]
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    data = toy_adata.copy()
    assert_same_vectors(embed(data, store=tmp_path / "run"), expected)
    assert len(computed) == 6
    assert "X_sccafm" in data.obsm
    with pytest.raises(ValueError, match="holds another embedding; give a new folder"):
        embed(store=tmp_path / "run", anchor=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no embedding"):
        embed(store=tmp_path / "other")


def test_a_path_is_neither_adapted_to_nor_copied(embed, toy_adata, tmp_path):
    toy_adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match="copy= and adapt= need an AnnData, not a path"):
        embed(tmp_path / "cells.h5ad", copy=True)


def test_vectors_go_to_zarr_and_back(embed, tmp_path):
    found = embed()
    write_zarr(found.to_adata(), tmp_path / "vectors.zarr")
    back = ad.read_zarr(tmp_path / "vectors.zarr")
    np.testing.assert_array_equal(back.obsm["X_sccafm"], found.cells)
    np.testing.assert_array_equal(back.obsm["X_sccafm_zero_shot"], found.zero_shot)
    np.testing.assert_array_equal(back.varm["X_sccafm"], found.genes)
    assert back.obs["group"].tolist() == found.groups.tolist()
    assert back.uns["X_sccafm"]["params"]["weights_hash"] == found.params["weights_hash"]


# --- a scheduler that is gone


def test_a_dead_scheduler_is_said_and_nothing_finished_is_lost(infer, tmp_path, monkeypatch):
    class CommClosedError(OSError):
        """As distributed calls it."""

    def results(task, numbers, n_jobs):
        task(numbers[0])
        yield numbers[0]
        raise CommClosedError("in <TCP>: Stream is closed")

    infer(tmp_path / "whole", n_jobs=1)
    with monkeypatch.context() as patch:
        patch.setattr("sccafm._parallel._results", results)
        with pytest.raises(
            sccafm.WorkerError, match="scheduler cannot be reached any more .CommClosedError.* 4 parts are left"
        ):
            infer(tmp_path / "run", n_jobs=2)
    infer(tmp_path / "run", n_jobs=1)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_files_that_this_process_does_not_see_are_said(infer, monkeypatch):
    monkeypatch.setattr("sccafm._parallel._results", lambda task, numbers, n_jobs: iter(numbers))
    with pytest.raises(sccafm.WorkerError, match='its files are not seen here: .*store="..."'):
        infer(n_jobs=2)
