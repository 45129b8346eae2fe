"""Adapting: how long it takes, what is kept of it, and what judges it."""

import dataclasses
import time
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse
from test_embed import QUICK, ours  # noqa: F401 (a fixture)

import sccafm
from sccafm.data.input import read
from sccafm.embedding.adapt import Adapt, Watch, adapt_efm, mutual_nearest_neighbors, read_adapt, told
from sccafm.embedding.held_out import HeldOut, is_better, split

JUDGED = dataclasses.replace(QUICK, held_out=0.3)


@pytest.fixture
def model_input(ours, toy_adata):  # noqa: F811
    return read(toy_adata, ours.reference_data)


def same_state(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_minutes_are_kept(ours, model_input):  # noqa: F811
    adapt_efm(ours, model_input, JUDGED, None, False)  # what is imported and compiled once is no part of it
    begin = time.monotonic()
    _, record = adapt_efm(ours, model_input, dataclasses.replace(JUDGED, epochs=None, minutes=0.05), None, False)
    assert 0.8 * 3 < time.monotonic() - begin < 1.2 * 3
    assert record["steps"] > 1
    assert record["looked_at"][-1] == record["steps"]


def test_epochs_end_after_most_minutes_and_say_so(ours, model_input):  # noqa: F811
    long = dataclasses.replace(JUDGED, epochs=1e6, most_minutes=0.02)
    begin = time.monotonic()
    with pytest.warns(UserWarning, match=r"ended after 0.02 minutes and \S+ of \S+ steps, .*most_minutes=None"):
        adapt_efm(ours, model_input, dataclasses.replace(long, held_out=0), None, False)
    assert time.monotonic() - begin < 10


def test_what_does_not_serve_held_out_cells_is_not_kept(ours, model_input):  # noqa: F811
    ruinous = dataclasses.replace(JUDGED, learning_rate=0.3, epochs=6)
    efm, record = adapt_efm(ours, model_input, ruinous, None, False)
    scores = record["scores"]
    if record["kept_step"] == 0:
        assert same_state(efm, ours.efm)
    assert record["kept_step"] in record["looked_at"]
    assert scores[record["looked_at"].index(record["kept_step"])] >= scores[0]
    unjudged, record = adapt_efm(ours, model_input, dataclasses.replace(ruinous, held_out=0), None, False)
    assert not same_state(unjudged, ours.efm)
    assert record["scores"] == []


def test_training_by_epochs_stops_early(ours, model_input, monkeypatch):  # noqa: F811
    monkeypatch.setattr(HeldOut, "scores", lambda self, efm: np.zeros(9))
    efm, record = adapt_efm(ours, model_input, dataclasses.replace(JUDGED, epochs=40), None, False)
    assert len(record["scores"]) == 4  # the first, and three without a gain
    assert record["steps"] < 40 * 3
    assert same_state(efm, ours.efm)


def test_what_was_kept_stands_in_the_run_card(ours, toy_adata):  # noqa: F811
    found = sccafm.embed(toy_adata, ours, adapt=JUDGED, progress=False)
    assert found.params["adapt"]["epochs"] == 4
    assert found.params["adapt"]["looked_at"][0] == 0
    assert toy_adata.uns["X_sccafm"]["params"]["adapt"]["steps"] == found.params["adapt"]["steps"]


def test_what_was_adapted_comes_back_from_h5ad_and_places_cells_from_its_folder(ours, toy_adata, tmp_path):  # noqa: F811
    adata = toy_adata.copy()
    found = sccafm.embed(adata, ours, adapt=dataclasses.replace(JUDGED, held_out=0), progress=False)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    found.to_adata().write_h5ad(tmp_path / "vectors.h5ad")
    card = ad.read_h5ad(tmp_path / "cells.h5ad").uns["X_sccafm"]["params"]["adapt"]
    assert card["steps"] == found.params["adapt"]["steps"] and bool(card["is_kept"])
    assert "adapted to these cells" in repr(found)
    back = sccafm.read_embedding(found.write(tmp_path / "embedding"))
    assert same_state(back.adapted, found.model.efm)
    placed = back.place(toy_adata.copy(), ours, progress=False)  # the module of the folder, not that of the model
    np.testing.assert_allclose(placed.cells, found.cells, atol=1e-5)


def test_what_came_of_adapting_is_said(ours, model_input, caplog):  # noqa: F811
    with pytest.warns(UserWarning, match="had time for no step"):
        adapt_efm(ours, model_input, Adapt(minutes=1e-6), None, False)
    assert told({"steps": 9, "scores": [0.1, 0.05], "kept_step": 0, "is_kept": False}).startswith(
        "adapting for 9 steps did not serve"
    )
    assert "step 4 of 9 is kept (held-out cells: 0.100 before, 0.300 after)" in told(
        {"steps": 9, "scores": [0.1, 0.3, 0.4], "looked_at": [0, 4, 9], "kept_step": 4, "is_kept": True}
    )
    assert "nothing judged them" in told({"steps": 9, "scores": [], "kept_step": 9, "is_kept": True})


class Given(torch.nn.Module):
    """Hands out vectors that were given, part by part."""

    def __init__(self, vectors):
        super().__init__()
        self.rows = iter(vectors)

    def forward(self, tokens, factors):
        return type(
            "Found", (), {"cells": torch.stack([torch.from_numpy(next(self.rows)) for _ in range(len(tokens))])}
        )


def test_a_module_that_knows_the_state_guesses_the_other_half_better(ours, toy_adata, model_input):  # noqa: F811
    rng = np.random.default_rng(0)
    kind = np.arange(90) % 3
    rate = rng.gamma(0.5, 0.6, (3, len(model_input.names)))[kind] * rng.lognormal(0, 0.8, (90, len(model_input.names)))
    values = np.log1p(rng.poisson(rate) * 10.0).astype(np.float32)
    conditions = np.repeat(model_input.conditions[:1], 90, 0)
    judge = HeldOut(ours, model_input, values, conditions, np.zeros(90, int), 30, np.random.default_rng(1))
    knows = np.eye(3)[kind] + 0.01 * rng.normal(size=(90, 3))
    good, bad = judge.scores(Given(knows)), judge.scores(Given(rng.normal(size=(90, 3))))
    assert len(good) == 30
    assert is_better(good, bad)
    assert not is_better(bad, good)
    assert not is_better(good, good)
    assert not is_better(good + 1e-12, good)  # rounding is no gain


def test_a_gain_must_exceed_two_standard_errors():
    old = np.zeros(100)
    gaps = np.random.default_rng(0).normal(size=100)
    gaps = (gaps - gaps.mean()) / gaps.std(ddof=1)  # a standard error of 0.1
    assert not is_better(gaps + 0.15, old)
    assert is_better(gaps + 0.25, old)


def test_a_score_that_rises_too_little_to_be_kept_is_no_miss():
    """A training by epochs goes on as long as held-out cells gain, sure or not."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(6, 50))
    means = np.array([0.0, 0.01, 0.02, 0.01, 0.015, 0.0])
    looks = iter(noise - noise.mean(1, keepdims=True) + means[:, None])
    judge = SimpleNamespace(scores=lambda efm: next(looks))
    watched = Watch(judge, torch.nn.Linear(1, 1), SimpleNamespace(reserve=0.0, steps=100))
    misses = []
    for _ in range(5):
        watched._look()
        misses.append(watched.misses)
    assert misses == [0, 0, 1, 2, 3] and watched.kept == 0


def test_halves_of_the_molecules_add_up():
    counts = np.random.default_rng(0).poisson(2.0, (50, 40))
    scale = 1e4 / counts.sum(1, keepdims=True)
    one, other = split(np.log1p(counts * scale), np.random.default_rng(1))
    halves = [np.expm1(half) / (2 * scale) for half in (one, other)]
    np.testing.assert_allclose(sum(halves), counts, atol=1e-3)
    assert abs(halves[0].sum() / counts.sum() - 0.5) < 0.03
    assert not np.array_equal(one, other)


def test_validation():
    with pytest.raises(ValueError, match="held_out is a share of the cells, from 0 to below 1; got 1"):
        Adapt(epochs=1, held_out=1)


@pytest.mark.parametrize(
    ("text", "expected"), [("5 epochs", {"epochs": 5}), ("1 epoch", {"epochs": 1}), ("2.5 minutes", {"minutes": 2.5})]
)
def test_words_for_how_long(text, expected):
    assert read_adapt(text) == Adapt(**expected)


def test_equal_states_are_mutual_neighbours_of_other_batches():
    rng = np.random.default_rng(0)
    states = rng.gamma(1.0, 1.0, (4, 50)) * 3
    kind, codes = np.arange(160) % 4, np.arange(160) // 80
    values = sparse.csr_matrix(states[kind] + 2.0 * codes[:, None] + 0.1 * rng.random((160, 50)))
    found = mutual_nearest_neighbors(values, codes, 0)
    for cell, partners in enumerate(found):
        assert (codes[partners] != codes[cell]).all()
        assert all(cell in found[p] for p in partners)
    hits = np.concatenate([kind[partners] == kind[cell] for cell, partners in enumerate(found)])
    assert hits.mean() > 0.95  # twenty neighbours of twenty equals each
    assert sum(map(len, found)) > 160
