"""The command line: help, mistakes without a traceback, and inference from file to folder."""

import dataclasses
import inspect
import subprocess
import sys

import anndata as ad
import pytest

import sccafm
from sccafm.cli import Infer, main


def test_help_lists_the_commands(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        main(arguments)
        text = capsys.readouterr().out
        assert all(f"sccafm {command}" in text for command in ("demo", "infer", "train sfm"))


def test_options_of_inference_have_the_defaults_of_the_call():
    of_call = {name: p.default for name, p in inspect.signature(sccafm.infer_grn).parameters.items()}
    shared = {f.name: f.default for f in dataclasses.fields(Infer) if f.name in of_call}
    assert {"null_cells", "top_k", "n_top_genes", "regulators"} <= set(shared)
    assert shared == {name: of_call[name] for name in shared}


def test_command_tells_its_options(capsys):
    with pytest.raises(SystemExit) as end:
        main(["infer", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "--groupby" in text
    assert "--n-top-genes" in text


@pytest.mark.parametrize("arguments", [["infre"], ["train"], ["train", "cells"]])
def test_unknown_command_is_said_with_those_there_are(arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert str(end.value.code).startswith(f"sccafm: no command {' '.join(arguments)!r}\nusage:")


def test_missing_option_is_said(capsys):
    with pytest.raises(SystemExit) as end:
        main(["infer"])
    assert end.value.code == 2
    assert "--input" in capsys.readouterr().err


@pytest.fixture
def files(tmp_path, toy_adata, tiny_model):
    """An h5ad file, a model folder and a folder for the networks."""
    toy_adata.write_h5ad(tmp_path / "cells.h5ad")
    tiny_model.save_pretrained(tmp_path / "model")
    return [f"--input={tmp_path / 'cells.h5ad'}", f"--model={tmp_path / 'model'}", f"--out={tmp_path / 'grn'}"]


def test_inference_from_file_to_folder(files, tmp_path, capfd):
    before = (tmp_path / "cells.h5ad").read_bytes()
    main(["infer", *files, "--groupby=cell_type", "--top-k=20", "--regulators=all"])
    out = capfd.readouterr().out
    assert "genes 60 of 60 known" in out
    assert "GRN of 30 cells" in out
    assert "sccafm.read_grn(" in out
    grn = sccafm.read_grn(tmp_path / "grn")
    assert len(grn["cell0"]) == 20
    assert grn.group_sizes.to_dict() == {"B cell": 10, "T cell": 10, "monocyte": 10}
    assert (tmp_path / "cells.h5ad").read_bytes() == before
    main(["infer", *files, "--groupby=cell_type", "--top-k=20", "--regulators=all"])  # the finished run again
    with pytest.raises(SystemExit, match="belongs to another run .*top_k: there 20, here 1000"):
        main(["infer", *files, "--groupby=cell_type", "--regulators=all"])


def test_command_line_and_python_give_the_same(files, tmp_path, toy_adata, tiny_model):
    main(["infer", *files, "--n-top-genes=None", "--min-weight=0.1"])
    expected = sccafm.infer_grn(toy_adata, tiny_model, n_top_genes=None, min_weight=0.1, progress=False)
    assert sccafm.read_grn(tmp_path / "grn").to_frame().equals(expected.to_frame())


def test_genes_conditions_and_preparation_can_be_said(files, tmp_path, toy_adata, tiny_model):
    (tmp_path / "genes.txt").write_text("SPI1\nGATA1 LYZ\nCD3D\n")
    toy_adata.obs["organ"] = toy_adata.obs.pop("tissue")
    toy_adata.write_h5ad(tmp_path / "cells.h5ad")
    main(["infer", *files, f"--genes={tmp_path / 'genes.txt'}", "--tissue-key=organ", "--preprocess=none"])
    settings = {"genes": ["SPI1", "GATA1", "LYZ", "CD3D"], "condition_keys": {"tissue": "organ"}, "preprocess": "none"}
    expected = sccafm.infer_grn(toy_adata, tiny_model, progress=False, **settings)
    found = sccafm.read_grn(tmp_path / "grn")
    assert found.to_frame().equals(expected.to_frame())
    assert found.params["receipt"]["conditions"]["tissue"] == "obs['organ'] blood"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--disease-key": "illness"}, "sccafm: condition_keys names disease='illness', adata.obs has"),
        ({"--genes": "nowhere.txt"}, "sccafm: .*nowhere.txt"),
        ({"--preprocess": "log"}, 'sccafm: preprocess must be "auto" or "none"'),
        ({"--input": "nowhere.h5ad"}, "sccafm: no file nowhere.h5ad; give an .h5ad file"),
        ({"--model": "nowhere/at/all"}, "sccafm: .*nowhere/at/all"),
        ({"--groupby": "leiden"}, "sccafm: groupby='leiden' is no column of obs; there are"),
        ({"--layer": "counts"}, "sccafm: no layer 'counts'; adata.layers holds"),
        ({"--species": "rat"}, "sccafm: species= says 'rat', which is neither human nor mouse"),
        ({"--regulators": "tfs"}, 'sccafm: regulators must be "dna_binding", "all"'),
    ],
)
def test_mistakes_are_told_without_a_traceback(files, tmp_path, changes, message):
    options = dict(file.split("=") for file in files) | changes
    with pytest.raises(SystemExit, match=message):
        main(["infer", *(f"{name}={value}" for name, value in options.items())])
    assert not (tmp_path / "grn").exists()


def test_a_file_that_is_no_h5ad_is_named(files, tmp_path):
    (tmp_path / "cells.h5ad").write_text("gene,cell\n")
    with pytest.raises(SystemExit, match=r"cells\.h5ad is no readable h5ad file"):
        main(["infer", *files])


def test_a_mistake_ends_the_process_with_code_one(tmp_path):
    code = f"from sccafm.cli import main; main(['infer', '--input={tmp_path}/no.h5ad', '--out={tmp_path}/grn'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("sccafm: no file")
    assert "Traceback" not in done.stderr


def test_counts_in_a_file_on_disk_are_read(files, tmp_path, toy_adata):
    toy_adata.raw = toy_adata.copy()
    toy_adata.X = toy_adata.X.toarray() - 0.5
    toy_adata.write_h5ad(tmp_path / "cells.h5ad")
    main(["infer", *files])
    assert sccafm.read_grn(tmp_path / "grn").params["receipt"]["matrix"] == "raw.X"
    assert ad.read_h5ad(tmp_path / "cells.h5ad").n_obs == 30
