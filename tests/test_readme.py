"""The README and docs say what is so: their code runs, CI runs their commands."""

import re
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

from sccafm.cli import main

ROOT = Path(__file__).parents[1]


def blocks(page: Path) -> list[str]:
    """Python code of a page, without blocks that are marked as not to be run."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def run(page: Path) -> dict:
    """Run the code of a page from top to bottom; the names it leaves."""
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the example data are normalised, which is said
        for block in blocks(page):
            exec(compile(block, page.name, "exec"), names)
    return names


def test_readme_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(ROOT / "README.md")
    assert len(names["grn"]) == 700
    assert "X_sccafm_sfm" in names["adata"].obsm
    assert names["cells"].obsm["X_sccafm"].shape[0] == 60


def test_embedding_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(ROOT / "docs/embed.md")
    # Between the two scanpy's neighbours may have changed the number of threads, and with it the rounding.
    np.testing.assert_allclose(names["again"].cells, names["emb"].cells, atol=1e-5)
    assert names["score"].shape == (names["emb"].gene_table["is_tf"].sum(), len(names["emb"].genes))
    assert (names["back"].cells == names["emb"].cells).all(axis=None)


def test_the_page_of_networks_runs():
    names = run(ROOT / "docs/infer.md")
    grn, cell = names["grn"], names["cell"]
    assert set(grn.regulators) == {"SPI1", "IRF8", "GATA3", "CD74"}
    kept = grn[cell]
    found = [names["scores"].loc[e.source, e.target] for e in kept.itertuples()]
    np.testing.assert_allclose(found, kept["weight"], rtol=1e-4)  # stored weights are rounded
    assert names["why"].weight == pytest.approx(kept["weight"].max(), rel=1e-4)


def test_the_page_of_answers_runs():
    names = run(ROOT / "docs/answers.md")
    assert names["found"].design["design"].tolist() == ["paired donors"]
    assert "score_sccafm" in names["adata"].obsm and len(names["path"].drivers) == 10
    assert names["ko"].vector.shape[0] == 5 and names["ko"].verdict.startswith("Not judged")


def test_evaluation_code_runs():
    names = run(ROOT / "docs/evaluation.md")
    assert names["report"].keys == ("X_mine",)


def test_ci_finds_both_commands_in_the_readme():
    script = (ROOT / ".ci/run").read_text()
    finder = re.search(r"^command_of\(\).*$", script, re.MULTILINE).group()
    for name, expected in (("setup", "sccafm demo"), ("test", "-m pytest")):
        found = subprocess.run(
            ["bash", "-c", f"{finder}; command_of {name}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert found.stdout.strip().endswith(expected)


def test_code_names_no_machine():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    text = [f for f in files if f.endswith((".py", ".md", ".toml")) or f == ".ci/run"]
    paths = re.compile(r"(?<![\w.])/(work|tmp|root|home)/[a-zA-Z.]")
    assert [f for f in text if paths.search((ROOT / f).read_text())] == []


def test_the_shell_line_is_understood(tmp_path, monkeypatch):
    """It gets as far as looking for its file."""
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"`sccafm (infer [^`]+)`", (ROOT / "README.md").read_text())
    with pytest.raises(SystemExit, match="sccafm: no file cells.h5ad; give an .h5ad file"):
        main(line.split())
