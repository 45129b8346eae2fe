"""Settings of a run, losses and batches of a step against plain loops."""

import dataclasses
import json
import math
import runpy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from making import random_regulation, random_sfm, random_vgae
from training import evidence_of, new_weights, settings, train_sfm

from sccafm.model.layout import find_files
from sccafm.train import LossWeights, TrainEFM, TrainSFM
from sccafm.train import sfm as loop
from sccafm.train.config import RENAMED, read_config
from sccafm.train.corpus import draw_genes, smoothed, thin
from sccafm.train.engine import schedule
from sccafm.train.vectors import gene_vectors

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
