"""The built wheel works from any folder: it holds the model and the tables, and needs no checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the wheel unpacked, as pip would."""
    pytest.importorskip("hatchling", reason="the wheel is built with hatchling: pip install '.[test]'")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, code: str, cwd: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_models_and_tables(site):
    release = site / "sccafm/release"
    names = {p.relative_to(release).as_posix() for p in release.rglob("*") if p.is_file()}
    tables = {"human_tfs.csv", "mouse_tfs.csv", "OmniPath.csv", "homologous.csv"}
    models = {
        "sfm_config.json",
        "sfm_model.safetensors",
        "cond_dict.json",
        "vocab.json",
        "vocab.safetensors",
        "aliases.csv",
        "lineages.csv",
    }
    assert tables | {f"models/{m}" for m in models} <= names


def test_wheel_holds_cells_and_the_page(site):
    for name in ("datasets/pbmc3k.h5ad", "pl/page.html", "pl/vendor/cytoscape.min.js", "pl/vendor/cytoscape.LICENSE"):
        assert (site / "sccafm" / name).stat().st_size > 0


def test_wheel_infers_from_any_folder(site, tmp_path):
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import sccafm, scanpy as sc\n"
        "adata = sc.datasets.pbmc68k_reduced()[:3].copy()\n"
        "grn = sccafm.infer_grn(adata, progress=False)\n"
        "print(sccafm.__file__, len(grn), len(grn.edges))"
    )
    file, cells, edges = run(site, code, tmp_path).split()
    assert Path(file).is_relative_to(site)
    assert int(cells) == 3
    assert int(edges) > 0
