"""Training of the embedding module on the engine: bits after a stop, what is written, what stands still, refusals."""

import dataclasses
import json
import shutil
from functools import partial

import pandas as pd
import pytest
import torch
from making import causal_config, random_causal_efm, random_efm, random_sfm, random_vgae, write_release
from training import killed_at, write_cells

import sccafm
from sccafm.losses.embedding import WATCHED, EFMWeights, Views
from sccafm.nn import CausalEFM
from sccafm.train import TrainEFM
from sccafm.train import train_efm as train
from sccafm.train.card import written_step
from sccafm.train.config import read_config

train_efm = partial(train, progress=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed, (species, spelling) in enumerate({"human": str.upper, "mouse": str.title}.items()):
        write_cells(folder / f"{species}.h5ad", spelling, seed)
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("release") / "release", random_sfm(), random_vgae())


def settings(data, run, release, **changes) -> TrainEFM:
    small = {"steps": 4, "batch_size": 6, "genes": 48, "regulators": 12, "warmup": 2}
    often = {"validate_every": 2, "validation_batches": 2, "checkpoint_every": 2, "log_every": 1}
    parts = {"efm": causal_config(), "views": Views(genes=24, anchors=10, matched=3, knocked_out=2)}
    return TrainEFM(**{"data": data, "run": run, "sfm": release, "device": "cpu"} | small | often | parts | changes)


def weights_of(folder) -> bytes:
    return (folder / "models/efm_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def unbroken(data, release, tmp_path_factory):
    config = settings(data, tmp_path_factory.mktemp("unbroken"), release)
    train_efm(config)
    return config


def test_a_run_that_was_stopped_ends_with_the_bits_of_an_unbroken_one(unbroken, tmp_path):
    config = dataclasses.replace(unbroken, run=tmp_path / "run")
    with killed_at(3):
        train_efm(config)
    train_efm(config)
    for file in ("model/models/efm_model.safetensors", "log.csv"):
        assert (config.run / file).read_bytes() == (unbroken.run / file).read_bytes()


def test_the_structure_module_stands_still_and_the_model_loads(unbroken, release):
    model = sccafm.load(unbroken.run / "model", device="cpu")
    assert isinstance(model.efm, CausalEFM)
    before = (release / "models/sfm_model.safetensors").read_bytes()
    assert (unbroken.run / "model/models/sfm_model.safetensors").read_bytes() == before
    own = model.efm.config
    assert (own.gene_dim, own.species) == (16, tuple(model.conditions.index(s) for s in ("human", "mouse")))
    assert torch.equal(model.efm.gene_vectors, model.sfm.embedding.gene_embedding.weight)
    assert model.efm.gene_shift.weight.abs().max() > 0
    section = json.loads((unbroken.run / "model/models/efm_config.json").read_text())
    assert list(section) == ["causal_efm"]


def test_the_card_tells_of_the_weights_that_were_written_and_of_files_left_out(data, release, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    (folder / "short.h5ad").write_bytes(b"no")
    config = settings(folder, tmp_path / "run", release, patience=9, steps=6, on_bad_file="skip")
    with pytest.warns(UserWarning, match="short.h5ad"):
        card = (train_efm(config) / "models/efm_card.md").read_text()
    held_out = pd.read_csv(config.run / "log.csv").query("part == 'validation'")
    best = held_out.loc[held_out["total"].idxmin()]
    assert f"{best['step']:,} steps of" in card and f"cell {best['cell']:.3f}" in card
    assert "- short.h5ad: " in card


def test_a_card_tells_of_the_best_step_where_a_run_may_stop_early():
    log = pd.DataFrame(
        {"step": [1, 2, 3, 4, 6], "part": ["train", *["validation"] * 4], "total": [0.1, 3.0, 2.5, 2.0, 2.4]}
    )
    assert written_step(log, patience=2)["step"] == 4
    assert written_step(log, patience=0)["step"] == 6


def test_the_log_watches_for_collapse(unbroken):
    log = pd.read_csv(unbroken.run / "log.csv")
    assert list(log) == ["step", "part", "cell", "gene", "reconstruction", *WATCHED, "total"]
    assert log.query("part == 'train'")["step"].tolist() == [1, 2, 3, 4]
    weights = EFMWeights()
    expected = weights.cell * log["cell"] + weights.gene * log["gene"] + weights.reconstruction * log["reconstruction"]
    assert log["total"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-4)
    assert (log.query("part == 'train'")["effective_rank"] > 1).all()
    assert log.notna().all(axis=None)  # a held-out batch of one cell too
    card = (unbroken.run / "model/models/efm_card.md").read_text()
    last = log[log["part"] == "validation"].iloc[-1]
    assert f"effective_rank {last['effective_rank']:.3f}" in card
    assert "| human.h5ad | human | 60 |" in card


def test_training_lowers_the_loss(data, release, tmp_path):
    config = settings(data, tmp_path / "run", release, steps=40, validate_every=40, learning_rate=1e-2)
    train_efm(config)
    log = pd.read_csv(config.run / "log.csv").query("part == 'train'")
    for term in ("cell", "reconstruction"):
        assert log[term].tail(10).mean() < 0.95 * log[term].head(10).mean()


def test_a_learning_structure_module_changes_and_loses_its_calibration(data, release, tmp_path):
    config = settings(data, tmp_path / "run", release, steps=2, sfm_learning_rate=1e-3)
    model = sccafm.load(train_efm(config), device="cpu")
    before = sccafm.load(release, device="cpu")
    changed = [not torch.equal(a, b) for a, b in zip(model.sfm.parameters(), before.sfm.parameters(), strict=True)]
    assert any(changed)


def test_a_run_goes_on_from_a_trained_module(unbroken, data, release, tmp_path):
    config = settings(data, tmp_path / "run", release, init=unbroken.run / "model", steps=1, learning_rate=1e-9)
    found = sccafm.load(train_efm(config), device="cpu").efm.state_dict()
    for name, tensor in sccafm.load(unbroken.run / "model", device="cpu").efm.state_dict().items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)


def test_the_published_kind_is_not_trained(data, release, tmp_path):
    published = write_release(tmp_path / "published", random_sfm(), None, random_efm())
    with pytest.raises(ValueError, match="holds a published .autoregressive. embedding module"):
        train_efm(settings(data, tmp_path / "run", release, init=published))


def test_another_configuration_of_a_run_is_refused(unbroken):
    with pytest.raises(ValueError, match=r"belongs to another configuration \(it differs in \['weights'\]\)"):
        train_efm(dataclasses.replace(unbroken, weights=EFMWeights(gene=0.0)))


def test_a_configuration_is_read_back(unbroken, tmp_path):
    assert read_config(unbroken.run / "config.json", TrainEFM) == unbroken
    (tmp_path / "config.json").write_text('{"data": "a", "run": "b", "viewz": {}}')
    with pytest.raises(ValueError, match="viewz.*`python -m sccafm.train efm --help` lists the keys"):
        read_config(tmp_path / "config.json", TrainEFM)


def test_both_kinds_are_saved_and_loaded(tmp_path):
    for name, efm in (("ours", random_causal_efm()), ("published", random_efm())):
        model = sccafm.load(write_release(tmp_path / name, random_sfm(), None, efm), device="cpu")
        again = sccafm.load(model.save_pretrained(tmp_path / f"{name}-again"), device="cpu")
        assert type(again.efm) is type(efm)
        assert again.efm.config == efm.config
        for key, tensor in efm.state_dict().items():
            assert torch.equal(again.efm.state_dict()[key], tensor)


def test_components_are_fitted_once_and_stay(data, release, tmp_path):
    """Beside what is learned, whose weights they do not change; a model that has them keeps its own."""
    config = settings(data, tmp_path / "with", release, efm=causal_config(components=4))
    with_them = sccafm.load(train_efm(config), device="cpu").efm
    without = sccafm.load(train_efm(settings(data, tmp_path / "without", release)), device="cpu").efm
    assert with_them.components.loadings.dtype == torch.float16 and with_them.components.loadings.abs().max() > 0
    learned = without.state_dict()
    assert all(torch.equal(with_them.state_dict()[name], tensor) for name, tensor in learned.items())
    added = settings(
        data, tmp_path / "added", release, init=tmp_path / "without/model", efm=causal_config(components=4)
    )
    added = sccafm.load(train_efm(added), device="cpu").efm
    assert torch.equal(added.components.loadings, with_them.components.loadings)
    kept = settings(
        data, tmp_path / "kept", release, init=tmp_path / "with/model", efm=causal_config(components=4), seed=5
    )
    kept = sccafm.load(train_efm(kept), device="cpu").efm
    assert torch.equal(kept.components.loadings, with_them.components.loadings)
    assert "beside 4 components" in (tmp_path / "with/model/models/efm_card.md").read_text()
