"""Small runs of training: cells on disk, settings, and fixtures that several test modules share."""

from contextlib import contextmanager
from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from making import GENES, random_regulation, random_sfm, random_vgae, sfm_config, write_release
from scipy import sparse

from sccafm.model.layout import find_files
from sccafm.nn import VGAEConfig
from sccafm.reference.bundle import read_reference_data
from sccafm.train import TrainSFM
from sccafm.train import sfm as loop
from sccafm.train import train_sfm as train
from sccafm.train.config import EvidenceWeights
from sccafm.train.corpus import Corpus
from sccafm.train.engine import Engine
from sccafm.train.evidence import Evidence

SPECIES = {"human": str.upper, "mouse": str.title}
train_sfm = partial(train, progress=False)


def write_cells(path, spelling=str.upper, seed=0, transform=None):
    """60 cells of two kinds with the test's genes."""
    rng = np.random.default_rng(seed)
    genes = [spelling(gene) for gene in GENES.split()]
    rate = rng.gamma(0.6, 2.0, (2, len(genes)))[np.arange(60) % 2] * rng.gamma(4.0, 0.25, (60, 1)) + 0.05
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    obs = pd.DataFrame({"tissue": "blood", "disease": "normal"}, index=[f"cell{i}" for i in range(60)])
    cells = ad.AnnData(counts if transform is None else transform(counts), obs, pd.DataFrame(index=genes))
    path.parent.mkdir(exist_ok=True)
    cells.write_h5ad(path)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with a human and a mouse file."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (species, spelling) in enumerate(SPECIES.items()):
        write_cells(folder / f"{species}.h5ad", spelling, seed)
    return folder


@pytest.fixture(scope="session")
def reference_data():
    """Of the bundled release."""
    return read_reference_data(find_files(loop.find_release(None, None, False), required=loop.TABLES))


@pytest.fixture(scope="session")
def begun(tmp_path_factory):
    """A small model to start from, on a vocabulary of 60 genes."""
    sfm = random_sfm(num_layers=1, freeze_loaded_gene_embeddings=True, beta_momentum=0.05)
    return write_release(tmp_path_factory.mktemp("begun") / "release", sfm, random_vgae())


def settings(data, run, **changes) -> TrainSFM:
    """Six small steps."""
    small = {"steps": 6, "batch_size": 3, "genes": 48, "regulators": 12, "neighbors": 5, "warmup": 2}
    often = {"validate_every": 3, "validation_batches": 2, "checkpoint_every": 2, "log_every": 1}
    return TrainSFM(**{"data": data, "run": run, "device": "cpu"} | small | often | changes)


def new_weights(data, run, **changes) -> TrainSFM:
    """Two steps of new weights on the bundled vocabulary, whose vectors are 128 wide."""
    networks = {"sfm": sfm_config(embed_dim=128, num_layers=1), "vgae": VGAEConfig(hidden_dim=8)}
    return settings(data, run, **{"steps": 2, "checkpoint_every": 1} | networks | changes)


def weights_of(folder) -> bytes:
    return (folder / "models/sfm_model.safetensors").read_bytes()


@contextmanager
def killed_at(stop):
    """The run is killed before step `stop` is taken."""
    step = Engine.step

    def stopping(engine, reader, number):
        if number == stop:
            raise KeyboardInterrupt
        return step(engine, reader, number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Engine, "step", stopping)
        yield


@pytest.fixture(scope="session")
def unbroken(data, begun, tmp_path_factory):
    """Settings of a finished run."""
    config = settings(data, tmp_path_factory.mktemp("unbroken"), init=begun)
    train_sfm(config)
    return config


def evidence_of(reference_data, **weights) -> Evidence:
    return Evidence(EvidenceWeights(**weights), reference_data, random_regulation(reference_data.vocabulary.size))


@pytest.fixture(scope="session")
def corpus(data, reference_data, tmp_path_factory):
    config = settings(
        data, tmp_path_factory.mktemp("run"), validation_share=0.2, sfm=sfm_config(num_factors=64, topk=32)
    )
    return Corpus(config, reference_data, progress=False)
