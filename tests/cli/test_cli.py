"""The command line: help, mistakes without a traceback, and inference from file to folder."""

import dataclasses
import inspect
import io
import re
import shlex
import subprocess
import sys

import anndata as ad
import matplotlib.pyplot as plt
import pandas as pd
import pytest

import sccafm
import sccafm.evaluate
from sccafm.cli import COMMANDS, Compare, Embed, Evaluate, Infer, Plot, Rank, Report, as_options, main

FUNCTIONS = {
    Infer: sccafm.infer_grn,
    Embed: sccafm.embed,
    Rank: sccafm.tl.rank_regulators,
    Compare: sccafm.tl.compare,
    Plot: sccafm.pl.network,
    Report: sccafm.pl.report,
    Evaluate: sccafm.evaluate.network,
}


def test_help_lists_the_commands(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        main(arguments)
        text = capsys.readouterr().out
        assert all(f"sccafm {command}" in text for command in ("demo", "infer", "train sfm"))


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_options_have_the_names_and_defaults_of_the_function(kind):
    of_call = {name: p.default for name, p in inspect.signature(FUNCTIONS[kind]).parameters.items()}
    shared = {f.name: f.default for f in dataclasses.fields(kind) if f.name in of_call}
    # these say something else in a shell, where a baseline that takes minutes is asked for
    for name in (
        "adata",
        "truth",
        "prior",
        "baselines",
        "genes",
        "groups",
        "contrast",
        *(["n_edges"] if kind is Plot else []),
    ):
        shared.pop(name, None)
    assert len(shared) >= 2
    assert shared == {name: of_call[name] for name in shared}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_help_fits_on_a_screen_and_shows_an_example_that_is_understood(kind, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    name = kind.__name__.lower()
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 46
    (example,) = re.findall(r"Example: sccafm (.+)", kind.__doc__)
    assert f"Example: sccafm {name}" in " ".join(text.split())
    with pytest.raises(SystemExit, match="sccafm: no (file|folder)"):  # read, and then the file is missed
        main(shlex.split(example))


def test_command_tells_its_options(capsys):
    with pytest.raises(SystemExit) as end:
        main(["infer", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "--groupby" in text
    assert "--n-top-genes" in text


@pytest.mark.parametrize("arguments", [["infre"], ["train"], ["train", "cells"]])
def test_unknown_command_is_said_with_those_there_are(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"sccafm: no command {' '.join(arguments)!r}\nusage:")


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
    out, err = capfd.readouterr()
    assert "genes 60 of 60 known" in err
    assert "genes 60" not in out
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


@pytest.mark.filterwarnings("ignore:.*cells have no count in the genes that were read")
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
        ({"--groupby": "leiden"}, "sccafm: --groupby 'leiden' is no column of obs; there are"),
        ({"--layer": "counts"}, "sccafm: no layer 'counts'; adata.layers holds"),
        ({"--species": "rat"}, "sccafm: --species says 'rat', which is neither human nor mouse"),
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


# --- from networks to answers


@pytest.fixture(autouse=True)
def closed():
    """No picture is left to other tests."""
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def networks(tmp_path_factory, calibrated_model):
    from conftest import toy_data

    adata = toy_data()
    adata.obs["condition"] = ["stim", "ctrl"] * 15
    folder = tmp_path_factory.mktemp("networks") / "grn"
    grn = sccafm.infer_grn(adata, calibrated_model, groupby="cell_type", keep_factors=True, progress=False)
    grn.write(folder)
    return folder


def test_rank_gives_the_functions_table(networks, tmp_path, capsys):
    expected = sccafm.tl.rank_regulators(sccafm.read_grn(networks), n_targets=2)
    main(["rank", str(networks), "--n-targets=2"])
    found = pd.read_csv(io.StringIO(capsys.readouterr().out), sep="\t")
    assert list(found["regulator"]) == list(expected["regulator"])
    main(["rank", str(networks), "--out", str(tmp_path / "new/rank.csv")])
    assert list(pd.read_csv(tmp_path / "new/rank.csv")["group"]) == list(expected["group"])
    assert "54 rows written to" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:descriptive")
def test_compare_writes_its_tables(networks, tmp_path, capsys):
    main(["compare", str(networks), "--contrast", "stim", "ctrl", "--min-cells=2", "--out", str(tmp_path / "diff")])
    out = capsys.readouterr().out
    assert "stim beside ctrl" in out
    expected = sccafm.tl.compare(sccafm.read_grn(networks), ("stim", "ctrl"), min_cells=2)
    found = pd.read_csv(tmp_path / "diff/regulators.csv")
    assert list(found["regulator"]) == list(expected.regulators["regulator"])
    assert {p.name for p in (tmp_path / "diff").iterdir()} == {
        f"{n}.csv" for n in ("regulators", "contexts", "edges", "design")
    }
    with pytest.raises(SystemExit, match="diff is not empty; give a new folder"):
        main(["compare", str(networks), "--contrast", "stim", "ctrl", "--out", str(tmp_path / "diff")])


@pytest.mark.parametrize("kind", ["network", "html", "regulators", "contexts", "receipt"])
def test_plot_writes_a_picture(networks, tmp_path, capsys, kind):
    path = tmp_path / f"picture.{'html' if kind == 'html' else 'svg'}"
    group = ["--group=B cell"] if kind in ("network", "html", "regulators") else []
    main(["plot", str(networks), f"--kind={kind}", f"--out={path}", *group])
    assert path.read_text().lstrip()[:5] in ("<?xml", "<!doc")
    assert f"written to {path}" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_plot_draws_another_tools_table(tmp_path):
    table = pd.DataFrame({"TF": ["A", "A"], "target": ["X", "Y"], "importance": [1, 2]})
    table.to_csv(tmp_path / "edges.tsv", sep="\t", index=False)
    main(["plot", str(tmp_path / "edges.tsv"), f"--out={tmp_path / 'net.pdf'}"])
    assert (tmp_path / "net.pdf").read_bytes().startswith(b"%PDF")


def test_evaluate_judges_a_network(networks, tmp_path, toy_adata, capsys):
    grn = sccafm.read_grn(networks)
    truth = grn.network(None, 600).iloc[::2][["source", "target"]].astype(str)
    truth.to_csv(tmp_path / "truth.csv", index=False)
    main(["evaluate", str(networks), "--truth", str(tmp_path / "truth.csv"), "--n-bootstrap=5", "--baselines=none"])
    assert "| network |" in capsys.readouterr().out
    toy_adata.write_h5ad(tmp_path / "cells.h5ad")
    options = ["--adata", str(tmp_path / "cells.h5ad"), "--baselines=pearson", "--n-bootstrap=5"]
    main(["evaluate", str(networks), "--truth", str(tmp_path / "truth.csv"), *options, f"--out={tmp_path / 'r.md'}"])
    assert "earson" in (tmp_path / "r.md").read_text()


def test_report_is_written(networks, tmp_path, capsys):
    main(["report", str(networks), f"--out={tmp_path / 'report.html'}", "--groups", "B cell", "--n-edges=8"])
    text = (tmp_path / "report.html").read_text()
    assert "network of B cell" in text
    assert "network of T cell" not in text


@pytest.mark.parametrize("command", ["rank", "plot", "report", "evaluate", "compare"])
def test_what_holds_no_networks_is_said(tmp_path, command):
    (tmp_path / "truth.csv").write_text("source,target\nA,B\n")
    options = {
        "rank": [],
        "compare": ["--contrast", "a", "b"],
        "evaluate": ["--truth", str(tmp_path / "truth.csv")],
    }.get(command, ["--out", str(tmp_path / "x.svg")])
    with pytest.raises(SystemExit, match="holds no networks: it has no grn.json"):
        main([command, str(tmp_path), *options])
    with pytest.raises(SystemExit, match="no folder .*nowhere; give one that `sccafm infer --out` wrote"):
        main([command, str(tmp_path / "nowhere"), *options])


def test_interruption_has_its_own_code(monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sccafm, "read_grn", stop)
    monkeypatch.setattr("pathlib.Path.is_dir", lambda _: True)
    with pytest.raises(SystemExit) as end:
        main(["rank", "networks"])
    assert end.value.code == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--tyro-print-completion", shell])
    assert end.value.code in (0, None)
    text = capsys.readouterr().out
    assert all(name in text for name in ("infer", "embed", "rank", "compare", "evaluate", "train-sfm", "groupby"))


def test_a_reader_that_stops_early_is_no_mistake():
    code = "import sccafm.cli as c; c.guarded(c.Command('', lambda a: [print('x' * 100) for _ in range(20_000)], c.Infer), [])"
    done = subprocess.run(
        f'{shlex.quote(sys.executable)} -c "{code}" | head -c 5', shell=True, capture_output=True, text=True
    )
    assert done.stdout == "xxxxx" and done.stderr == ""


def test_warnings_are_one_line_without_a_place():
    code = (
        "import sys, warnings, sccafm.cli as c; sys.argv = ['sccafm']; c.usage = lambda: warnings.warn('two genes are lost') or ''; "
        "c.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "sccafm: two genes are lost\n"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("read fewer genes, n_top_genes= or genes=, for less", "read fewer genes, --n-top-genes or --genes, for less"),
        ('pass layer="counts"; keep_factors=True', 'pass --layer "counts"; --keep-factors'),
        ("pass anchor=False", "pass anchor=False"),  # which is no option of this command
        ("Adapt(epochs=..., most_minutes=None)", "Adapt(epochs=..., most_minutes=None)"),
    ],
)
def test_advice_is_in_words_of_the_command_line(message, told):
    assert as_options(message, COMMANDS[("infer",)]) == told


@pytest.mark.filterwarnings("ignore::UserWarning")  # of genes that share a token
def test_embedding_from_file_to_folder_checks_the_folder_first(tmp_path, capsys, monkeypatch):
    cells = sccafm.datasets.pbmc3k()[:12].copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="cells.h5ad/out cannot be made"):
        patch.setattr(sccafm, "embed", None)
        main(["embed", f"--input={tmp_path}/cells.h5ad", f"--out={tmp_path}/cells.h5ad/out"])
    main(["embed", f"--input={tmp_path}/cells.h5ad", f"--out={tmp_path}/out", "--adapt", "0.01 minutes"])
    assert "written to" in capsys.readouterr().out
    assert len(sccafm.read_embedding(tmp_path / "out")) == 12
