"""Training: the bits of an unbroken run after a stop, refusals of bad input, and the batches against plain loops."""

import dataclasses
import json
import math
import runpy
import shutil
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from making import GENES, random_regulation, random_sfm, random_vgae, sfm_config, write_release
from scipy import sparse

import sccafm
from sccafm._io import file_hash
from sccafm.model.layout import find_files
from sccafm.nn import VGAEConfig
from sccafm.reference.bundle import read_reference_data
from sccafm.train import LossWeights, TrainEFM, TrainSFM
from sccafm.train import sfm as loop
from sccafm.train import train_sfm as train
from sccafm.train.config import RENAMED, EvidenceWeights, read_config
from sccafm.train.corpus import Corpus, draw_genes, smoothed, thin
from sccafm.train.engine import Engine, schedule
from sccafm.train.evidence import Evidence
from sccafm.train.vectors import gene_vectors

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


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed, (species, spelling) in enumerate(SPECIES.items()):
        write_cells(folder / f"{species}.h5ad", spelling, seed)
    return folder


@pytest.fixture(scope="module")
def reference_data():
    return read_reference_data(find_files(loop.find_release(None, None, False), required=loop.TABLES))


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def unbroken(data, begun, tmp_path_factory):
    """Settings of a finished run."""
    config = settings(data, tmp_path_factory.mktemp("unbroken"), init=begun)
    train_sfm(config)
    return config


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


# Settings


def test_the_settings_of_a_run_read_back_as_they_were(unbroken):
    assert read_config(unbroken.run / "config.json") == unbroken


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": "d", "run": "r", "stesp": 3}, "stesp"),
        ({"data": "d", "run": "r", "sfm": {"depth": 3}}, "depth"),
        ({"data": "d", "run": "r", "weights": {"dagg": 3}}, "dagg"),
        ({"data": "d"}, "run"),
    ],
)
def test_an_unknown_or_missing_key_is_named(tmp_path, content, message):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"config.json: .*{message}.*--help"):
        read_config(tmp_path / "config.json")


def test_settings_that_are_no_json_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        read_config(tmp_path / "config.json")


def test_keys_of_older_runs_are_read(tmp_path):
    (tmp_path / "config.json").write_text('{"data": "d", "run": "r", "cells": 7, "batches": 3}')
    config = read_config(tmp_path / "config.json")
    assert (config.batch_size, config.accumulate_grad_batches) == (7, 3)


def test_absent_keys_keep_their_defaults(tmp_path):
    (tmp_path / "config.json").write_text('{"data": "d", "run": "r", "steps": 7}')
    config = read_config(tmp_path / "config.json")
    assert dataclasses.replace(config, steps=20_000) == TrainSFM(data=config.data, run=config.run)


@pytest.mark.parametrize(("card", "kind"), [("README.md", TrainSFM), ("efm_card.md", TrainEFM)])
def test_settings_on_the_cards_of_the_bundled_model_are_read(tmp_path, card, kind):
    """Runs of older versions: every key that they wrote has its place."""
    text = find_files(loop.find_release(None, None, False))["sfm_model"].with_name(card).read_text()
    told = json.loads(text.split("```json\n")[1].split("```")[0])
    (tmp_path / "config.json").write_text(json.dumps(told | {"data": "d", "run": "r"}))
    read = dataclasses.asdict(read_config(tmp_path / "config.json", kind))
    assert {name: read[RENAMED.get(name, name)] for name in told} == told


def test_the_command_tells_its_settings(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["python -m sccafm.train", "sfm", "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("sccafm.train", run_name="__main__")
    assert left.value.code == 0
    told = capsys.readouterr().out
    for word in ("--data", "--run", "--init", "--steps", "--weights.dag", "--sfm.num-layers"):
        assert word in told


# Parts of a step


def test_the_learning_rate_rises_then_falls_along_a_cosine():
    config = SimpleNamespace(steps=100, warmup=10)
    assert schedule(0, config) == pytest.approx(0.1)
    assert schedule(50, config) == pytest.approx(0.05 + 0.95 / 2)
    assert schedule(100, config) == pytest.approx(0.05)
    rates = [schedule(step, config) for step in range(10, 101)]
    assert rates == sorted(rates, reverse=True)


def test_gene_vectors_norms_and_biases_are_not_decayed(unbroken, reference_data):
    for frozen in (True, False):
        sfm = random_sfm(freeze_loaded_gene_embeddings=frozen)
        trainer = loop.Trainer(unbroken, sfm, random_vgae(), evidence_of(reference_data))
        groups = trainer.optimizer().param_groups
        decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        trained = {id(p) for group in groups for p in group["params"]}
        genes = sfm.embedding.gene_embedding.weight
        assert (id(genes) in trained) != frozen
        assert genes.requires_grad != frozen
        expected = {id(p) for p in trainer.parameters() if p.ndim > 1 and p is not genes}
        assert decayed == expected
        assert trained | {id(genes)} == {id(p) for p in trainer.parameters()}


def test_contexts_that_are_not_held_learn_the_programmes(data, begun, tmp_path):
    free = settings(data, tmp_path / "run", init=begun, steps=1, hold_contexts=False)
    held = dataclasses.replace(free, hold_contexts=True, run=tmp_path / "held")
    for config in (free, held):
        train_sfm(config)
    without, kept = (pd.read_csv(config.run / "log.csv")["context"][0] for config in (free, held))
    assert abs(without - kept) > 0.01


def test_a_trained_models_contexts_are_held_where_they_were(unbroken, corpus, reference_data):
    sfm = random_sfm(reference_data.vocabulary.size, reference_data.conditions.size)
    trainer = loop.Trainer(unbroken, sfm, random_vgae(), evidence_of(reference_data)).eval()
    batch = dataclasses.replace(corpus.train_batch(0), programme=None)

    def far() -> float:
        return trainer(batch)[0]["context"].item()

    assert far() == pytest.approx(0, abs=1e-4)
    was = sfm(batch.tokens).context()
    with torch.no_grad():
        sfm.tg_router.mlp[-1].bias[0] += 2
    now = sfm(batch.tokens).context()
    known = was > 0  # 0 log 0 is 0
    apart = torch.where(known, was * (was / (now + 1e-6)).log(), 0).sum(1).mean()
    assert far() == pytest.approx(apart.item(), abs=1e-3)
    assert far() > 0.01
    assert not any("begun" in name for name in trainer.state_dict())
    free = dataclasses.replace(unbroken, weights=LossWeights(context=0))
    assert loop.Trainer(free, sfm, random_vgae(), evidence_of(reference_data))(batch)[0]["context"] == 0


def evidence_of(reference_data, **weights) -> Evidence:
    return Evidence(EvidenceWeights(**weights), reference_data, random_regulation(reference_data.vocabulary.size))


@pytest.fixture(scope="module")
def corpus(data, reference_data, tmp_path_factory):
    config = settings(
        data, tmp_path_factory.mktemp("run"), validation_share=0.2, sfm=sfm_config(num_factors=64, topk=32)
    )
    return Corpus(config, reference_data, progress=False)


def same_batch(one, other):
    tensors = [(batch.activity, batch.programme, *vars(batch.tokens).values()) for batch in (one, other)]
    return all(a is b is None or torch.equal(a, b) for a, b in zip(*tensors, strict=True))


def test_a_batch_depends_on_seed_and_step_alone(corpus):
    batches = [corpus.train_batch(step) for step in (3, 4, 3)]
    assert same_batch(batches[0], batches[2])
    assert not same_batch(batches[0], batches[1])
    validation = [[corpus.validation_batch(i) for i in range(2)] for _ in range(2)]
    assert same_batch(validation[0][1], validation[1][1])
    assert not same_batch(*validation[0])


def test_held_out_cells_are_never_trained_on(corpus):
    for dataset in corpus.source.datasets:
        assert len(dataset.validation) == 12
        assert sorted([*dataset.train, *dataset.validation]) == list(range(60))


def test_both_species_are_read_with_the_tokens_of_their_genes(corpus):
    human, mouse = corpus.source.datasets
    assert (human.species, mouse.species) == ("human", "mouse")
    assert len(human.tokens) > 50
    assert len(np.intersect1d(human.tokens, mouse.tokens)) > 45
    assert human.is_tf.sum() >= 15


def test_validation_batches_hold_log1p_of_counts_per_ten_thousand_of_whole_cells(corpus):
    batch = corpus.validation_batch(0)
    dataset = next(d for d in corpus.source.datasets if d.name == batch.dataset)
    counts = dataset.counts.toarray()
    column = {token: c for token, c in zip(dataset.tokens, dataset.columns, strict=True)}
    columns = [column[token] for token in batch.tokens.gene_ids[0].tolist()]
    expected = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)[:, columns]
    for row in batch.tokens.expression.numpy():
        assert np.abs(expected[dataset.validation] - row).max(1).min() < 1e-4
    assert ((batch.activity >= 0) & (batch.activity < 1)).all()


def test_levels_are_means_over_the_neighbours_and_each_cell_is_its_own(corpus):
    dataset = corpus.source.datasets[0]
    counts = dataset.counts.toarray()
    shares = counts / counts.sum(1, keepdims=True) * 1e4
    level = smoothed(dataset, np.array([4, 9]), dataset.columns[:7])
    for row, cell in enumerate((4, 9)):
        assert dataset.neighbors[cell][0] == cell
        near = dataset.neighbors[cell]
        for g in range(7):
            mean = sum(shares[n, dataset.columns[g]] for n in near) / len(near)
            assert level[row, g] == pytest.approx(math.log1p(mean), rel=1e-5)


def test_drawn_genes_stand_in_file_order_without_repeats(corpus):
    dataset, config = corpus.source.datasets[0], corpus.config
    for seed in range(20):
        chosen = draw_genes(np.random.default_rng(seed), dataset, dataset.is_tf, config)
        assert (np.diff(chosen) > 0).all()
        assert len(chosen) <= config.genes
        assert dataset.is_tf[chosen].sum() == config.regulators


def test_gene_vectors_hold_pairs_profiles_levels_and_functions(corpus, reference_data):
    size, width = reference_data.vocabulary.size, 64
    function = np.random.default_rng(0).normal(size=(size, 40))
    regulation = random_regulation(size)
    vectors = gene_vectors(function, corpus, reference_data, regulation, width)
    assert vectors.dtype == np.float32
    assert vectors.shape == (size, width)
    # 20 columns as regulator, 20 as target: of 8 directions of the edge model, whose products they keep but for one scale
    product = vectors[:50, :8] @ vectors[:60, 8:16].T
    expected = sum(s[:50] @ t[:60].T for s, t in zip(regulation.source, regulation.target, strict=True))
    assert np.corrcoef(product.ravel(), expected.ravel())[0, 1] == pytest.approx(1, abs=1e-4)
    seen = np.unique(np.concatenate([dataset.tokens for dataset in corpus.source.datasets]))
    unseen = np.setdiff1d(np.arange(size), seen)
    assert np.abs(vectors[unseen, 16:28]).max() < 1e-6  # profiles
    assert (np.abs(vectors[seen, 16:28]).sum(1) > 0).all()
    degree = reference_data.prior_tokens["source"].value_counts()
    assert vectors[degree.index[0], 28] == vectors[:, 28].max()
    assert (vectors[np.setdiff1d(np.arange(size), degree.index), 28] == vectors[:, 28].min()).all()
    in_both = np.intersect1d(*[dataset.tokens for dataset in corpus.source.datasets])
    assert (vectors[in_both, 32] == vectors[:, 32].max()).all()  # the share of files that detect it
    rest = vectors[:, 37:]
    scale = np.sqrt((function[:, : rest.shape[1]] ** 2).mean())
    np.testing.assert_allclose(rest, function[:, : rest.shape[1]] / scale, rtol=1e-4)


def test_training_is_taught_by_the_folder_that_is_named(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing holds no regulation.json.*scripts/train_edge_model.py"):
        train_sfm(new_weights(data, tmp_path / "run", regulation=tmp_path / "nothing"))


def test_thinning_keeps_a_share_of_the_molecules(corpus):
    counts = corpus.source.datasets[0].counts
    thinned = thin(np.random.default_rng(0), counts, 0.4)
    assert (thinned.data <= counts.data).all()
    assert (thinned.data == np.round(thinned.data)).all()
    assert thinned.sum() / counts.sum() == pytest.approx(0.4, abs=0.03)
