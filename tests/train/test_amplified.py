"""Amplified scores: the formula against loops over pairs, and what training on them does."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from making import random_sfm, random_tokens, random_vgae, write_release
from training import begun, data, killed_at, settings, train_sfm, weights_of  # noqa: F401

from sccafm.data.neighbors import itself_first
from sccafm.train.amplified import FLOOR, amplified, wanted
from sccafm.train.config import EvidenceWeights, Gains
from sccafm.train.corpus import Batch


def plain(log, usual, gains, i, j):
    """One pair of one cell."""
    d = [[log[a][b] - usual[a][b] for b in range(len(log[0]))] for a in range(len(log))]

    def parts(x):
        cells = [value for row in x for value in row]
        mean = sum(cells) / len(cells)
        row = sum(x[i]) / len(x[i]) - mean
        column = sum(line[j] for line in x) / len(x) - mean
        return row, column, x[i][j] - mean - row - column

    row, column, rest = parts(d)
    usual_row, usual_column, usual_rest = parts(usual)
    kept = gains.usual * (usual_row + usual_column) + usual_rest + sum(map(sum, log)) / (len(log) * len(log[0]))
    return kept + gains.regulator * row + gains.target * column + gains.pair * rest


def test_the_formula_pair_by_pair():
    torch.manual_seed(0)
    log, usual = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    gains = Gains(regulator=1.3, target=2.0, pair=1.7, usual=0.8)
    found = amplified(log, usual, gains)
    for c in range(3):
        for i in range(4):
            for j in range(5):
                expected = plain(log[c].tolist(), usual[c].tolist(), gains, i, j)
                assert found[c, i, j].item() == pytest.approx(expected, abs=1e-12)


def test_with_gains_of_one_a_cell_keeps_its_scores():
    log, usual = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(amplified(log, usual, Gains()), log)


def test_a_pair_gain_changes_no_level():
    log, usual = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    one, other = (amplified(log, usual, Gains(pair=pair)) for pair in (1.0, 3.0))
    for axis in (1, 2):
        assert torch.allclose(one.mean(axis), other.mean(axis))
    assert not torch.allclose(one, other)


def test_gains_are_off_by_default_and_refuse_no_cell():
    assert not Gains().is_on
    assert all(dataclasses.replace(Gains(), **{f.name: 2}).is_on for f in dataclasses.fields(Gains))
    with pytest.raises(ValueError, match="gains.cells must be at least 1, got 0"):
        Gains(cells=0)


def plain_log(sfm, tokens, is_tf):
    return (sfm(tokens).scores()[:, is_tf] + FLOOR).log()


@torch.no_grad()
def test_every_cell_departs_from_the_usual_cell_of_its_own_conditions():
    """Cells of one batch share their genes, not their conditions; the departure is a mean over nearest cells."""
    sfm, tokens = random_sfm(), random_tokens(cells=4)
    tokens = dataclasses.replace(tokens, gene_ids=tokens.gene_ids[:1].expand(4, -1))
    tokens = dataclasses.replace(tokens, conditions=tokens.conditions[[0, 1, 0, 1]])
    generator = torch.Generator().manual_seed(4)
    whole, usual = 2 * torch.rand(4, 2, 9, generator=generator), torch.rand(9, generator=generator)
    batch = Batch(tokens, torch.zeros(4, 9), None, "one", whole, usual)
    gains, is_tf = Gains(target=2.0, pair=1.5), tokens.is_tf[0]
    found = wanted(sfm, batch, is_tf, gains)
    for c in range(4):
        one = tokens[c : c + 1]
        log = torch.stack(
            [plain_log(sfm, dataclasses.replace(one, expression=whole[c, n : n + 1]), is_tf) for n in (0, 1)]
        ).mean(0)
        at_usual = plain_log(sfm, dataclasses.replace(one, expression=usual[None]), is_tf)
        torch.testing.assert_close(found[c : c + 1], amplified(log, at_usual, gains), atol=1e-4, rtol=1e-4)


def test_a_cell_stands_before_its_neighbors():
    near = np.array([[4, 7, 1], [2, 5, 9]])
    assert itself_first(near, np.array([[7], [2]])).tolist() == [[7, 4, 1], [2, 5, 9]]


@pytest.fixture(scope="module")
def taught(data, begun, tmp_path_factory):  # noqa: F811
    """A run with gains, unbroken."""
    gains = Gains(regulator=1.2, target=2.0, pair=1.5, cells=2)
    config = settings(data, tmp_path_factory.mktemp("taught"), init=begun, gains=gains)
    train_sfm(config)
    return config


def test_gains_teach_instead_of_the_evidence(taught, tmp_path):
    """Where hardly more than its own scores is asked of a model, it has nothing to learn; the evidence asks for much."""
    still = random_sfm(num_layers=1, out_dropout=0.0, cond_dropout=0.0, backbone_mlp_dropout=0.0, router_dropout=0.0)
    init = write_release(tmp_path / "still", still, random_vgae())
    found = {}
    for name, gains in {"own": Gains(pair=1.0001), "evidence": Gains()}.items():
        config = dataclasses.replace(taught, run=tmp_path / name, gains=gains, thin=0.0, init=init)
        train_sfm(config)
        found[name] = pd.read_csv(config.run / "log.csv").iloc[0]  # before anything was learned
    terms = ["cell", "regulator", "pair", "state"]
    assert (found["own"][terms].astype(float) < 1e-3).all() and (found["evidence"][terms].astype(float) > 0.1).all()
    assert found["own"]["prior"] == found["evidence"]["prior"]


def test_a_run_with_gains_that_was_stopped_ends_with_the_same_bits(taught, tmp_path):
    config = dataclasses.replace(taught, run=tmp_path / "run")
    with killed_at(3):
        train_sfm(config)
    train_sfm(config)
    assert weights_of(config.run / "model") == weights_of(taught.run / "model")


def test_gains_need_a_model_enough_neighbors_and_no_weights_of_the_evidence(taught, data, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match="gains are for a trained model .* name it: --init MODEL_FOLDER"):
        train_sfm(settings(data, tmp_path / "none", gains=Gains(pair=2.0)))
    with pytest.raises(ValueError, match="gains.cells=9 asks for more cells than neighbors=5 finds; raise neighbors"):
        dataclasses.replace(taught, gains=Gains(cells=9))
    with pytest.warns(UserWarning, match="with gains the model to start from teaches"):
        train_sfm(dataclasses.replace(taught, run=tmp_path / "run", evidence=EvidenceWeights(activity=0.0)))
