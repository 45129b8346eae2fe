"""Amplified scores: the formula against loops over pairs, and what training on them does."""

import dataclasses

import pytest
import torch

from sccafm.train.amplified import amplified
from sccafm.train.config import Gains


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
    kept = gains.usual * (usual_row + usual_column) + usual_rest
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


def test_with_gains_of_one_a_cell_keeps_its_scores_up_to_a_constant():
    log, usual = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    gap = amplified(log, usual, Gains()) - log
    assert torch.allclose(gap, gap[:, :1, :1].expand_as(gap))


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
