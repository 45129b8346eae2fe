"""Runs of training: the bits of an unbroken run after a stop, what is written, and refusals of bad input."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from making import random_sfm, random_vgae, sfm_config, write_release
from training import killed_at, new_weights, settings, train_sfm, weights_of, write_cells

import sccafm
from sccafm._io import file_hash
from sccafm.train import LossWeights
from sccafm.train import sfm as loop
from sccafm.train.config import EvidenceWeights
from sccafm.train.evidence import Evidence


@pytest.mark.parametrize("stop", [0, 3, 5])
def test_a_run_that_was_stopped_ends_with_the_bits_of_an_unbroken_one(unbroken, stop, tmp_path):
    config = dataclasses.replace(unbroken, run=tmp_path / "run")
    with killed_at(stop):
        train_sfm(config)
    assert not (config.run / "model").exists()
    train_sfm(config)
    for file in ("model/models/sfm_model.safetensors", "checkpoint.safetensors", "log.csv"):
        assert (config.run / file).read_bytes() == (unbroken.run / file).read_bytes()


def test_new_weights_depend_on_data_and_seed_alone(data, tmp_path):
    one, two = (new_weights(data, tmp_path / name) for name in ("one", "two"))
    with killed_at(1):
        train_sfm(two)
    assert weights_of(train_sfm(one)) == weights_of(train_sfm(two))
    assert (one.run / "log.csv").read_text() == (two.run / "log.csv").read_text()
    assert weights_of(train_sfm(new_weights(data, tmp_path / "three", seed=1))) != weights_of(one.run / "model")
    model = sccafm.load(one.run / "model", device="cpu")
    assert (model.sfm.config, model.vgae.config) == (one.sfm, one.vgae)


def test_the_weights_of_the_evidence_change_what_is_taught(unbroken, tmp_path):
    config = dataclasses.replace(unbroken, run=tmp_path / "run", evidence=EvidenceWeights(activity=0.0))
    train_sfm(config)
    without, whole = (pd.read_csv(run.run / "log.csv")["cell"][0] for run in (config, unbroken))
    assert without != whole


def test_held_out_regulators_have_no_prior_in_training(data, tmp_path, reference_data, monkeypatch):
    (tmp_path / "held_out.txt").write_text("Gata3\nSPI1\n")
    seen = []
    monkeypatch.setattr(
        loop,
        "Evidence",
        lambda w, reference_data, *rest: seen.append(reference_data) or Evidence(w, reference_data, *rest),
    )
    frozen = sfm_config(embed_dim=128, num_layers=1, freeze_loaded_gene_embeddings=True)
    config = new_weights(data, tmp_path / "run", steps=1, hold_out=tmp_path / "held_out.txt", sfm=frozen)
    folder = train_sfm(config)
    assert set(reference_data.prior["Gene1"]) - set(seen[0].prior["Gene1"]) == {"GATA3", "SPI1"}
    vectors = sccafm.load(folder, device="cpu").sfm.embedding.gene_embedding.weight
    out_degree = vectors[[reference_data.vocabulary.token(gene) for gene in ("SPI1", "GATA3", "STAT1")], 104]
    assert out_degree[0] == out_degree[1] == vectors[:, 104].min() < out_degree[2]
    with pytest.raises(ValueError, match="the prior has no edges of NOTHING; name regulators that it holds"):
        reference_data.without(["nothing"])


def test_a_trained_model_has_seen_what_would_be_held_out(data, begun, tmp_path):
    config = settings(data, tmp_path / "run", init=begun, hold_out=tmp_path / "held_out.txt")
    with pytest.raises(ValueError, match="hold_out is for new weights.*leave init out"):
        train_sfm(config)


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_names_of_factors_go_on_where_contexts_are_held(data, begun, tmp_path, weight):
    folder = shutil.copytree(begun, tmp_path / "named")
    digest = file_hash(folder / "models/sfm_model.safetensors")
    names = [f"factor {m}" for m in range(sfm_config().num_factors)]
    named = {"weights_hash": digest, "factors": [{"name": name} for name in names]}
    (folder / "models/contexts.json").write_text(json.dumps(named))
    config = settings(data, tmp_path / "run", steps=1, init=folder, weights=LossWeights(context=weight))
    model = sccafm.load(train_sfm(config), device="cpu")
    assert model.weights_hash != digest
    assert model.contexts == (tuple(names) if weight else None)
    if weight:
        assert json.loads(model.files["contexts"].read_text())["named_for"] == digest


def test_a_finished_run_called_again_leaves_its_bits(unbroken):
    before = weights_of(unbroken.run / "model")
    assert train_sfm(unbroken) == unbroken.run / "model"
    assert weights_of(unbroken.run / "model") == before


def test_the_log_holds_every_term_of_every_step(unbroken):
    log = pd.read_csv(unbroken.run / "log.csv")
    assert list(log) == ["step", "part", *dataclasses.asdict(unbroken.weights), "total"]
    assert log.query("part == 'train'")["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert log.query("part == 'validation'")["step"].tolist() == [3, 6]
    weights = dataclasses.asdict(unbroken.weights)
    expected = sum(weights[name] * log[name] for name in weights)
    np.testing.assert_allclose(log["total"], expected, rtol=1e-4)
    assert np.isfinite(log.drop(columns="part")).all(axis=None)


def test_the_written_model_loads_and_infers(unbroken, toy_adata):
    model = sccafm.load(unbroken.run / "model", device="cpu")
    assert len(model.vocabulary) == 60
    grn = sccafm.infer_grn(toy_adata, model, progress=False)
    assert len(grn) == 30
    assert (grn[grn.cells[0]]["weight"] > 0).all()


def test_training_starts_from_the_model_folder_and_moves_all_but_frozen_gene_vectors(unbroken, begun, tmp_path):
    start, end = (sccafm.load(folder, device="cpu") for folder in (begun, unbroken.run / "model"))
    no_change = {"learning_rate": 0.0, "weight_decay": 0.0, "steps": 1, "run": tmp_path / "still"}
    still = sccafm.load(train_sfm(dataclasses.replace(unbroken, **no_change)), device="cpu")
    for name in ("sfm", "vgae"):
        parameters = dict(getattr(start, name).named_parameters())
        trained, untrained = (getattr(model, name).state_dict() for model in (end, still))
        assert all(torch.equal(untrained[key], parameter) for key, parameter in parameters.items())
        same = {key for key, parameter in parameters.items() if torch.equal(trained[key], parameter)}
        shift = "embedding.batch_embedding.attention_score.bias"  # a softmax does not feel it
        assert same - {shift} == ({"embedding.gene_embedding.weight"} if name == "sfm" else set())
    assert end.sfm.config == start.sfm.config


def test_gene_vectors_learn_where_the_model_says_so(data, tmp_path):
    release = write_release(tmp_path / "free", random_sfm(num_layers=1), random_vgae())
    trained = sccafm.load(train_sfm(settings(data, tmp_path / "run", init=release, steps=1)), device="cpu")
    before = random_sfm(num_layers=1).embedding.gene_embedding.weight
    moved = (trained.sfm.embedding.gene_embedding.weight != before).any(1)
    assert moved[6:].sum() > 20  # the genes of a batch
    assert not moved[:6].any()  # special tokens and the gap


def test_another_configuration_in_the_same_folder_is_refused(unbroken):
    changes = {"seed": 7, "weights": LossWeights(dag=0.5), "sfm": dataclasses.replace(unbroken.sfm, num_layers=9)}
    for name, value in changes.items():
        with pytest.raises(ValueError, match=rf"belongs to another configuration \(it differs in \['{name}'\]\)"):
            train_sfm(dataclasses.replace(unbroken, **{name: value}))


def test_settings_that_the_model_folder_overrules_warn(unbroken, tmp_path):
    config = dataclasses.replace(
        unbroken, run=tmp_path / "run", steps=1, sfm=dataclasses.replace(unbroken.sfm, num_layers=9)
    )
    with pytest.warns(UserWarning, match=r"without effect: sfm.num_layers=9 \(the model has 1\)"):
        train_sfm(config)


def test_another_length_of_a_run_that_was_begun_warns(unbroken, tmp_path):
    config = dataclasses.replace(unbroken, run=tmp_path / "run")
    with killed_at(4):
        train_sfm(config)
    with pytest.warns(UserWarning, match="begun for 6 steps and goes on to 5: the learning rate follows the new"):
        train_sfm(dataclasses.replace(config, steps=5))


def test_a_folder_without_cells_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing holds no .h5ad file"):
        train_sfm(settings(tmp_path / "nothing", tmp_path / "run"))


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda counts: (counts * 0.37).log1p(), "bad.h5ad: it holds log values; training needs counts"),
        (lambda counts: counts * -1.5, "bad.h5ad: X holds negative values"),
    ],
)
def test_a_file_without_counts_is_refused_by_name(begun, tmp_path, transform, message):
    write_cells(tmp_path / "data/good.h5ad")
    write_cells(tmp_path / "data/bad.h5ad", transform=transform)
    with pytest.raises(ValueError, match=message):
        train_sfm(settings(tmp_path / "data", tmp_path / "run", init=begun))


def test_a_run_that_never_trained_takes_mended_settings(data, begun, tmp_path):
    with pytest.raises(FileNotFoundError):
        train_sfm(settings(tmp_path / "mistyped", tmp_path / "run", init=begun))
    assert train_sfm(settings(data, tmp_path / "run", init=begun, steps=1)).is_dir()


def test_a_loss_that_is_not_finite_stops_the_run_with_step_term_and_data_set(unbroken, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.losses, "dag_penalty", lambda factors: factors.u.sum() * math.nan)
    with pytest.raises(FloatingPointError, match=r"step 0: dag is nan on a batch of (human|mouse).h5ad; the run stops"):
        train_sfm(dataclasses.replace(unbroken, run=tmp_path / "run"))


def test_a_gradient_that_is_not_finite_stops_the_run(unbroken, tmp_path, monkeypatch):
    # The square root of zero has an infinite slope, the value is finite.
    monkeypatch.setattr(loop.losses, "dag_penalty", lambda factors: (factors.u * 0).sum().sqrt())
    with pytest.raises(FloatingPointError, match="step 0: gradient is (nan|inf)"):
        train_sfm(dataclasses.replace(unbroken, run=tmp_path / "run"))


def test_gene_vectors_of_chance_know_nothing_of_the_genes(data, begun, tmp_path):
    found = {}
    for kind in ("known", "random"):
        config = new_weights(data, tmp_path / kind, steps=1, gene_vectors=kind)
        found[kind] = sccafm.load(train_sfm(config), device="cpu").sfm.embedding.gene_embedding.weight.detach()
    with pytest.raises(ValueError, match='gene_vectors="random" is for new weights, and init brings weights'):
        train_sfm(settings(data, tmp_path / "both", init=begun, gene_vectors="random"))
    known, random = ((w - w.mean(0)) / w.std(0) for w in found.values())
    assert abs(float((known * random).mean())) < 0.02
    assert float(found["random"].std(0).min()) > 0.7 > 0.5 > float(found["known"].std(0).min())
