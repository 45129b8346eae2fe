"""Fixtures that several test modules share."""

import dataclasses
import os
from pathlib import Path

# Before torch is imported: small products gain nothing from threads, which wait for each other where cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"  # no display

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from making import GENES, random_sfm, random_vgae
from scipy import sparse
from training import begun, corpus, data, reference_data, unbroken  # noqa: F401 (fixtures)

from sccafm.confidence.calibration import Calibration
from sccafm.model.layout import find_files, find_release
from sccafm.model.model import Model
from sccafm.reference.bundle import read_reference_data
from sccafm.reference.regulation import read_regulation

ROOT = Path(__file__).parents[1]


def is_required() -> bool:
    """Whether tests that need ../shared must run: in .ci/run and other CI, but for public workflows, which have no such folder."""
    public = os.environ.get("GITHUB_ACTIONS") == "true"
    return bool(os.environ.get("SCCAFM_REQUIRE_SHARED") or (os.environ.get("CI") and not public))


@pytest.fixture(autouse=True)
def one_thread():
    """Whatever a test before this one has set."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material beside a checkout; continuous integration must have it."""
    folder = (ROOT / "../shared").resolve()
    if not folder.is_dir():
        reason = f"{folder} is absent: reference numbers and data sets stand there"
        pytest.fail(reason) if is_required() else pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def golden(shared):
    """golden("small/model/human_symbol.losses.json") is the path of a reference file."""

    def path(name: str) -> Path:
        return shared / "golden" / name

    return path


@pytest.fixture(scope="session")
def tiny_model() -> Model:
    """A small random model on the bundled vocabulary; its numbers mean nothing, but they differ. Do not change it."""
    files = find_files(find_release(None, None, False), required=("vocab", "cond_dict"))
    tables = read_reference_data(files)
    sfm = random_sfm(tables.vocabulary.size, tables.conditions.size)
    regulation = read_regulation(files, tables.vocabulary.gene_ids())
    parts = {"source": "tiny", "revision": None, "weights_hash": "0" * 64, "files": files, "regulation": regulation}
    return Model(sfm, random_vgae(), None, tables, **parts)


@pytest.fixture(scope="session")
def calibrated_model(tiny_model) -> Model:
    """The same with a made-up calibration and names for its factors. Do not change it."""
    size, width = tiny_model.vocabulary.size, tiny_model.sfm.config.embed_dim
    rng = np.random.default_rng(0)
    usual = np.zeros(size, dtype=np.float32)
    known = [tiny_model.vocabulary.token(gene) for gene in GENES.split()]
    usual[known] = toy_levels()
    fitted = {"intercept": -1.0, "coefficients": [0.5, 0.3, 1.0, 0.8]}
    calibration = Calibration(
        weights_hash=tiny_model.weights_hash,
        confidence={"cell": fitted, "group": fitted | {"intercept": -0.5}, "base_rate": 0.4},
        signs={"intercept": 0.5, "coefficients": [2.0, 3.0, 2.0], "up": 0.8, "down": 0.8},
        ood={"distance": [0.0, 30.0, 60.0], "strangeness": [-1.0, -0.5, 0.0], "larger": [0.0, 0.5, 1.0]},
        tensors={
            "centers": rng.normal(size=(3, width)).astype(np.float32),
            "precision": np.eye(width, dtype=np.float32),
            "usual_human": usual,
            "usual_mouse": usual,
        },
    )
    names = tuple(f"factor_{m:03d}: programme {m}" for m in range(tiny_model.sfm.config.num_factors))
    return dataclasses.replace(tiny_model, calibration=calibration, contexts=names)


def toy_rates(rng: np.random.Generator) -> np.ndarray:
    """Expression of the toy data set: cells x genes."""
    return rng.gamma(0.6, 2.0, len(GENES.split())) * rng.gamma(4.0, 0.25, (30, 1)) + 0.05


def toy_levels() -> np.ndarray:
    rates = toy_rates(np.random.default_rng(0))
    return np.log1p(rates / rates.sum(1, keepdims=True) * 1e4).mean(0)


@pytest.fixture
def toy_adata() -> ad.AnnData:
    return toy_data()


def toy_data() -> ad.AnnData:
    """30 cells x 60 human genes, 18 of them regulators: integer counts as CSR float32, CELLxGENE's columns in obs."""
    genes = GENES.split()
    rng = np.random.default_rng(0)
    rate = toy_rates(rng)
    obs = pd.DataFrame(
        {
            "assay": "10x 3' v3",
            "tissue": "blood",
            "disease": "normal",
            "cell_type": pd.Categorical(["T cell", "B cell", "monocyte"] * 10),
        },
        index=[f"cell{i}" for i in range(30)],
    )
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))
