"""Odd input at the entry: each kind is read rightly, or refused in words that mend it, before the first cell is read."""

import dataclasses
import inspect
import os

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from making import random_causal_efm

import sccafm
from sccafm import tl
from sccafm._io import read_names
from sccafm.data.input import prepare
from sccafm.data.options import InputOptions
from sccafm.evaluate import read_edges
from sccafm.evaluate.truth import score_matrix
from sccafm.reference.genes import guess_species, normalize_symbol

CALLS = ["infer", "embed"]


@pytest.fixture(scope="module")
def ours(tiny_model):
    return dataclasses.replace(tiny_model, efm=random_causal_efm(tiny_model.vocabulary.size))


@pytest.fixture
def call(tiny_model, ours):
    """Both public calls by name, with a small model."""

    def run(name, adata, **settings):
        if name == "infer":
            return sccafm.infer_grn(adata, tiny_model, progress=False, **{"null_cells": 0, "top_k": 20} | settings)
        return sccafm.embed(adata, ours, progress=False, **settings)

    return run


# --- species and genomes


@pytest.mark.parametrize("prefix", ["GRCh38_", "GRCh38_____", "hg19_", "HG19_", "grch38_", "GRCh38-2020-A_"])
def test_human_genome_prefixes_tell_the_species_and_are_no_part_of_a_name(prefix):
    assert guess_species([f"{prefix}SPI1", f"{prefix}GATA1"]) == "human"
    assert normalize_symbol(f"{prefix}Spi1") == "SPI1"


@pytest.mark.parametrize("prefix", ["GRCm38_", "GRCm39_", "mm10_", "mm10___", "MM10_", "mm39_"])
@pytest.mark.parametrize("names", [["Spi1", "Gata1"], ["SPI1", "GATA1"], ["ENSMUSG00000002111"]])
def test_mouse_genome_prefixes_tell_the_species(prefix, names):
    assert guess_species([prefix + name for name in names]) == "mouse"


def test_prefixed_mouse_data_are_read_as_plain_ones(tiny_model, toy_adata):
    plain = toy_adata.copy()
    plain.var_names = [name.title() for name in plain.var_names]
    plain.obs = plain.obs.drop(columns="organism", errors="ignore")
    prefixed = plain.copy()
    prefixed.var_names = "mm10___" + prefixed.var_names
    one, other = (prepare(data, tiny_model) for data in (plain, prefixed))
    assert one.species == other.species == "mouse"
    np.testing.assert_array_equal(one.gene_ids, other.gene_ids)
    assert one.symbols.tolist() == other.symbols.tolist()


@pytest.mark.parametrize("species", [None, "human"])
@pytest.mark.parametrize(("human", "mouse"), [("GRCh38_{}", "mm10___{}"), ("ENSG{:011d}", "ENSMUSG{:011d}")])
def test_two_species_in_one_object_are_refused(tiny_model, toy_adata, human, mouse, species):
    names = toy_adata.var_names
    fill = [int(i) if ":" in human else name for i, name in enumerate(names)]
    toy_adata.var_names = [(human if i < 40 else mouse).format(x) for i, x in enumerate(fill)]
    with pytest.raises(ValueError, match="two species, 40 human and 20 mouse.*Split cells and genes"):
        prepare(toy_adata, tiny_model, InputOptions(species=species))


# --- names of cells


def test_cell_names_that_are_no_text_are_refused_with_the_line_that_mends_it(call, toy_adata):
    for name in CALLS:
        numbered = toy_adata.copy()
        numbered.obs.index = pd.RangeIndex(30)
        with pytest.raises(ValueError, match=r"one in adata.obs_names is 0, a int.*obs_names.astype\(str\)"):
            call(name, numbered)
        nested = toy_adata.copy()
        nested.obs.index = pd.MultiIndex.from_product([["a", "b"], range(15)], names=["donor", "cell"])
        with pytest.raises(ValueError, match="MultiIndex of .*join its levels"):
            call(name, nested)
        unnamed = toy_adata.copy()
        unnamed.obs.index = ["", *unnamed.obs_names[1:]]
        with pytest.raises(ValueError, match="a cell name is empty"):
            call(name, unnamed)


def test_membership_is_the_same_before_writing_and_after_reading(call, toy_adata, tmp_path):
    grn = call("infer", toy_adata)
    again = sccafm.read_grn(grn.write(tmp_path / "grn"))
    for name in ("cell0", 0, "0", None):
        assert (name in grn) == (name in again) == (name == "cell0")


# --- backed files


@pytest.mark.parametrize("name", CALLS)
def test_subset_of_a_backed_file(call, toy_adata, tmp_path, name):
    toy_adata.write_h5ad(tmp_path / "cells.h5ad")
    part = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")[::2]
    expected = call(name, toy_adata[::2].copy())
    with pytest.warns(UserWarning, match="subset of a backed file cannot be annotated.*copy=True"):
        found = call(name, part)
    copied = call(name, part, copy=True)
    for one in (found, copied):
        if name == "infer":
            pd.testing.assert_frame_equal(one.to_frame(), expected.to_frame())
        else:
            pd.testing.assert_frame_equal(one.cells, expected.cells)
    assert copied.adata.n_obs == 15
    assert len(copied.adata.obsm)


@pytest.mark.parametrize("name", CALLS)
def test_gene_key_that_raw_alone_has(call, toy_adata, name):
    symbols = toy_adata.var_names.to_numpy()
    toy_adata.var_names = [f"g{i}" for i in range(60)]
    toy_adata.raw = toy_adata.copy()
    toy_adata.raw.var["symbols_here"] = symbols
    log = np.log1p(toy_adata.X.toarray())
    toy_adata.X = log - log.mean(0)
    call(name, toy_adata, gene_key="symbols_here")
    if name == "infer":
        assert toy_adata.var["is_tf"].sum() == 18
        assert toy_adata.var["sccafm_in_vocab"].all()
    else:
        assert not np.isnan(toy_adata.varm["X_sccafm"]).any()


# --- paths


def test_a_folder_is_the_same_however_it_is_written(call, toy_adata, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    stored = call("infer", toy_adata.copy(), store="~/my networks")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my networks"]
    relative = sccafm.read_grn("my networks")
    expected = stored.to_frame()
    call("embed", toy_adata).write("~/vectors")
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    pd.testing.assert_frame_equal(relative.to_frame(), expected)
    pd.testing.assert_frame_equal(sccafm.read_grn(tmp_path / "my networks").to_frame(), expected)
    pd.testing.assert_frame_equal(sccafm.read_grn("~/my networks").to_frame(), expected)
    assert len(sccafm.read_embedding("~/vectors")) == 30
    assert not list(tmp_path.rglob("~"))


# --- truths and score matrices


@pytest.mark.parametrize("column", ["label", "weight", "Score"])
@pytest.mark.parametrize("dtype", [int, float, bool])
def test_zeros_of_a_truth_are_no_edges(column, dtype):
    table = pd.DataFrame({"source": ["A", "A", "B"], "target": ["B", "C", "C"], column: np.array([1, 0, 1], dtype)})
    truth = read_edges(table)
    assert truth.edges.to_numpy().tolist() == [["A", "B"], ["B", "C"]]
    assert truth.n_filtered == 1


def test_transposed_scores_are_refused():
    scores = pd.DataFrame(np.ones((2, 6)), index=["A", "B"], columns=list("ABCDEF"))
    assert score_matrix(scores).shape == (2, 6)
    with pytest.raises(ValueError, match=r"6 rows that hold all 2 columns.*pass scores.T"):
        score_matrix(scores.T)


# --- keys and columns


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("key", ["a/b", "", " ", 3, None, ".."])
def test_keys_that_h5ad_cannot_hold_are_refused_at_once(call, toy_adata, name, key):
    with pytest.raises(ValueError, match="key_added must be a name that h5ad can hold"):
        call(name, toy_adata, key_added=key)
    assert not len(toy_adata.obsm)


@pytest.mark.parametrize("name", CALLS)
def test_columns_of_obs_that_cannot_be_groups(call, toy_adata, name):
    toy_adata.obs["all"] = "x"
    with pytest.raises(ValueError, match="groupby=\"?'?all.*rename the column"):
        call(name, toy_adata, groupby="all")
    with pytest.raises(TypeError, match="must be the name of one column of obs; join several"):
        call(name, toy_adata, groupby=["cell_type", "tissue"])
    toy_adata.obs = pd.concat([toy_adata.obs, toy_adata.obs[["cell_type"]]], axis=1)
    with pytest.raises(ValueError, match="obs has 2 columns 'cell_type'; keep one"):
        call(name, toy_adata, groupby="cell_type")


# --- what the caller has set in torch


def ambient(kind):
    return {
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        "device": lambda: torch.device("meta"),
        "dtype": DefaultDtype,
    }[kind]()


class DefaultDtype:
    def __enter__(self):
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *error):
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", ["no_grad", "inference_mode", "autocast", "device", "dtype"])
def test_ambient_torch_state_changes_nothing(call, toy_adata, kind):
    grn, vectors = call("infer", toy_adata.copy()), call("embed", toy_adata.copy(), adapt="1 epochs")
    with ambient(kind):
        found, adapted = call("infer", toy_adata.copy()), call("embed", toy_adata.copy(), adapt="1 epochs")
        sccafm.load(device="cpu")
        tl.fit_head(toy_adata_with(vectors, toy_adata), "cell_type", use_rep="X_sccafm")
    pd.testing.assert_frame_equal(found.to_frame(), grn.to_frame())
    pd.testing.assert_frame_equal(adapted.cells, vectors.cells)


def toy_adata_with(vectors, adata):
    adata = adata.copy()
    adata.obsm["X_sccafm"] = vectors.cells.to_numpy()
    return adata


# --- genes by name


def test_unknown_genes_are_said_and_the_others_are_read(call, toy_adata):
    wanted = ["NO-SUCH-GENE", *toy_adata.var_names[:50]]
    with pytest.warns(UserWarning, match="1 of the 51 genes asked for are not in the data.*NO-SUCH-GENE.*other 50"):
        grn = call("infer", toy_adata, genes=wanted)
    assert list(grn.targets) == list(toy_adata.var_names[:50])
    assert grn.params["receipt"]["not_found"] == ["NO-SUCH-GENE"]
    with pytest.raises(KeyError, match="2 of the 2 genes asked for"):
        call("infer", toy_adata, genes=["X1", "X2"])
    with pytest.raises(ValueError, match="genes= is an empty list"):
        call("infer", toy_adata, genes=[])


@pytest.mark.parametrize(
    "content",
    [
        "SPI1\nGATA1\n", "\ufeffSPI1\r\nGATA1\r\n", "SPI1\rGATA1", '"x"\n"SPI1"\n"GATA1"\n', "gene\nSPI1\nGATA1",
        "SPI1,GATA1", "\n SPI1\t\n\nGATA1 \n", "'SPI1'; 'GATA1'",
    ],
)  # fmt: skip
def test_files_of_names(tmp_path, content):
    (tmp_path / "genes.txt").write_bytes(content.encode())
    assert read_names(tmp_path / "genes.txt") == ["SPI1", "GATA1"]


# --- cells about which nothing is known


def test_a_cell_without_counts_in_the_genes_that_are_read(toy_adata, calibrated_model):
    genes = toy_adata.var_names[:40].tolist()
    values = toy_adata.X.toarray()
    values[3, :40] = 0
    values[3, 40:] = 5
    toy_adata.X = values
    with pytest.warns(UserWarning, match="1 cells have no count in the genes that were read, and no edges: cell3"):
        grn = sccafm.infer_grn(
            toy_adata, calibrated_model, genes=genes, keep_factors=True, progress=False, null_cells=0, top_k=None
        )
    assert len(grn["cell3"]) == 0
    assert grn.ood["cell3"] == 1
    assert (grn.ood.drop("cell3") < 1).all()
    u, v = grn.factors("cell3")
    assert (u.to_numpy() @ v.to_numpy().T == 0).all()
    assert grn.strengths.loc["cell3"].eq(0).all()
    assert len(grn["cell4"])


# --- tables


def test_both_ends_of_an_edge_can_be_compared(call, toy_adata):
    grn = call("infer", toy_adata, groupby="cell_type")
    for frame in (grn.to_frame(), grn.pool(50)):
        assert (frame["source"].dtype == frame["target"].dtype) and len(frame)
        assert len(frame[frame["source"] != frame["target"]]) == len(frame)
        assert len(frame.groupby("source", observed=True)) <= 18


# --- damage

TABLES = ("parts/00000.parquet", "genes.parquet", "edges.parquet", "sums.safetensors")
LISTED = ("arrays/context.npy", "gone")  # which arrays there are is what the folder tells


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (name, damage)
        for name in (*TABLES, "arrays/context.npy")
        for damage in ("cut", "gone")
        if (name, damage) != LISTED
    ],
)
def test_a_damaged_part_names_its_file(call, toy_adata, tmp_path, name, damage):
    call("infer", toy_adata, store=tmp_path / "grn")
    path = tmp_path / "grn" / name
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{path.name} is damaged .*infer the networks again"):
        grn = sccafm.read_grn(tmp_path / "grn")
        grn.to_frame()
        len(grn.context)


@pytest.mark.parametrize("kind", ["infer", "embed"])
def test_a_cell_without_a_count_in_the_genes_that_are_read_is_named(call, toy_adata, kind):
    genes = list(toy_adata.var_names[:12])
    toy_adata.X = toy_adata.X.toarray()
    toy_adata.X[3, :12] = 0
    assert toy_adata.X[3].any()
    with pytest.warns(
        UserWarning, match=f"1 cells have no count in the genes that were read, .*{toy_adata.obs_names[3]}"
    ):
        call(kind, toy_adata, genes=genes)


@pytest.mark.parametrize("kind", ["infer", "embed"])
def test_what_cannot_be_written_is_said_before_the_first_cell_is_read(call, toy_adata, tmp_path, kind, monkeypatch):
    toy_adata.write_h5ad(tmp_path / "cells.h5ad")
    some = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")[::2]
    monkeypatch.setattr("sccafm.data.matrix.Matrix.read", lambda *_: pytest.fail("a cell was read"))
    with (
        pytest.warns(UserWarning, match="a subset of a backed file cannot be annotated"),
        pytest.raises(BaseException, match="a cell"),
    ):
        call(kind, some)


@pytest.mark.parametrize(
    "tool", ["rank_regulators", "compare", "regulator_activity", "knockout", "trajectory", "predict"]
)
def test_a_tool_refuses_a_key_that_h5ad_cannot_hold(tool):
    call = getattr(sccafm.tl, tool)
    needed = [
        p for p in inspect.signature(call).parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    with pytest.raises(ValueError, match="key_added must be a name that h5ad can hold"):
        call(**{p.name: None for p in needed}, key_added="a/b")


def test_booleans_are_said(call, toy_adata):
    toy_adata.X = toy_adata.X.toarray() > 0
    with pytest.warns(UserWarning, match="X holds booleans: they are read as counts of 0 and 1"):
        call("infer", toy_adata)


def test_warnings_point_at_the_line_of_the_caller(tiny_model, toy_adata):
    toy_adata.X = toy_adata.X.toarray() > 0
    with pytest.warns(UserWarning, match="booleans") as caught:
        sccafm.infer_grn(toy_adata, tiny_model, progress=False, null_cells=0)
    assert {warning.filename for warning in caught} == {__file__}


def test_a_column_of_missing_values_alone_is_kept(toy_adata, tiny_model):
    toy_adata.obs["nothing"] = pd.Categorical([None] * toy_adata.n_obs)
    toy_adata.obs["some"] = pd.Categorical(["a", None] * (toy_adata.n_obs // 2) + [None] * (toy_adata.n_obs % 2))
    grn = sccafm.infer_grn(toy_adata, tiny_model, null_cells=0, progress=False)
    assert grn.obs["nothing"].isna().all()
    assert grn.obs["some"].tolist()[0] == "a" and grn.obs["some"].isna().sum() == toy_adata.obs["some"].isna().sum()
