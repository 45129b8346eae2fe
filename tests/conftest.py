"""Fixtures that several test modules share."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from making import GENES, random_sfm, random_vgae
from scipy import sparse

from sccafm.lexicon import read_lexicon
from sccafm.pretrained import Model, find_files, find_release

ROOT = Path(__file__).parents[1]
os.environ["MPLBACKEND"] = "Agg"  # no display


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material beside a checkout; continuous integration must have it."""
    folder = (ROOT / "../shared").resolve()
    if not folder.is_dir():
        reason = f"{folder} is absent: reference numbers and data sets stand there"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
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
    lexicon = read_lexicon(files)
    sfm = random_sfm(lexicon.vocabulary.size, lexicon.conditions.size)
    return Model(sfm, random_vgae(), None, lexicon, source="tiny", revision=None, weights_hash="0" * 64, files=files)


@pytest.fixture
def toy_adata() -> ad.AnnData:
    """30 cells x 60 human genes, 18 of them regulators: integer counts as CSR float32, CELLxGENE's columns in obs."""
    genes = GENES.split()
    rng = np.random.default_rng(0)
    rate = rng.gamma(0.6, 2.0, len(genes)) * rng.gamma(4.0, 0.25, (30, 1)) + 0.05
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
