"""The evidence for an edge against a plain loop, what each weight takes away, and programmes."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from training import evidence_of

from sccafm.train.config import EvidenceWeights
from sccafm.train.evidence import standardised
from sccafm.train.files import DataSet
from sccafm.train.programmes import fit_programmes


def plain_standard(values):
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return [min(max((v - mean) / spread, -2.5), 2.5) for v in values]


def case(reference_data):  # noqa: F811
    edges = reference_data.prior_tokens
    regulators = torch.tensor(edges["source"].unique()[:3])
    genes = torch.cat([regulators, torch.tensor(edges["target"].unique()[5:12])])
    regulator_mask = torch.zeros(len(genes), dtype=torch.bool)
    regulator_mask[:3] = True
    generator = torch.Generator().manual_seed(0)
    return regulators, genes, regulator_mask, 0.9 * torch.rand(2, len(genes), generator=generator)


def test_the_prior_of_a_batch_equals_a_lookup_in_the_table(reference_data):  # noqa: F811
    edges = reference_data.prior_tokens
    known = {(s, t): c for s, t, c in zip(edges["source"], edges["target"], edges["confidence"], strict=True)}
    regulators, targets = edges["source"].unique()[:40], edges["target"].unique()[:50]
    found = evidence_of(reference_data).known(torch.tensor(regulators), torch.tensor(targets))
    expected = [[min(known.get((s, t), 0.0), 0.99) for t in targets] for s in regulators]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert 0 < (found > 0).sum() < found.numel()


def plain_fit(evidence, regulators, genes):
    """Products less the means of rows and columns, over the spread of each row."""
    product = [[float(evidence.sends[i] @ evidence.receives[j]) for j in genes] for i in regulators]
    rows = [sum(row) / len(row) for row in product]
    columns = [sum(column) / len(column) for column in zip(*product, strict=True)]
    mean = sum(rows) / len(rows)
    left = [[x - rows[i] - columns[j] + mean for j, x in enumerate(row)] for i, row in enumerate(product)]
    return [[x / math.sqrt(sum(y * y for y in row) / len(row)) for x in row] for row in left]


def test_evidence_equals_the_loop(reference_data):  # noqa: F811
    evidence = evidence_of(reference_data)
    regulators, genes, regulator_mask, activity = case(reference_data)
    found = evidence(regulators, genes, regulator_mask, activity)
    assert found.shape == (2, 3, 10)
    w = evidence.weights
    bound, responds = (plain_standard(table[genes].tolist()) for table in (evidence.bound, evidence.responds))
    fit = plain_fit(evidence, regulators, genes)
    for c in range(2):
        lively, acting = plain_standard(activity[c].tolist()), plain_standard(activity[c, :3].tolist())
        for i in range(3):
            for j in range(10):
                known = float(evidence.known(regulators[i : i + 1], genes[j : j + 1]))
                target = w.activity * lively[j] + w.bound * bound[j] + w.responds * responds[j]
                regulator = w.regulator_activity * acting[i]
                pair = w.pair * fit[i][j] + w.known * known * math.sqrt(float(activity[c, i] * activity[c, j]))
                pair += w.coactivity * lively[i] * lively[j]
                assert float(found[c, i, j]) == pytest.approx(target + regulator + pair, abs=1e-4)


def test_the_fit_of_pairs_has_no_levels_and_ignores_popular_ends(reference_data):  # noqa: F811
    evidence = evidence_of(reference_data)
    regulators, genes, _, _ = case(reference_data)
    fit = evidence.fit(regulators, genes)
    assert fit.mean(1).abs().max() < 1e-5 and fit.mean(0).square().mean() < 0.02
    assert torch.allclose(
        fit.std(1, correction=0), torch.ones(3), atol=1e-5
    )  # no regulator leads because more is known of it
    shift = torch.randn(evidence.sends.shape[1], generator=torch.Generator().manual_seed(1))
    evidence.sends = evidence.sends + shift  # moves every product of a target alike: its popularity
    assert torch.allclose(evidence.fit(regulators, genes), fit, atol=1e-4)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(EvidenceWeights)])
def test_each_weight_takes_its_term_away(name, reference_data):  # noqa: F811
    args = case(reference_data)
    full = evidence_of(reference_data)(*args)
    assert not torch.allclose(full, evidence_of(reference_data, **{name: 0.0})(*args))
    nothing = EvidenceWeights(**{f.name: 0.0 for f in dataclasses.fields(EvidenceWeights)})
    alone = evidence_of(reference_data, **dataclasses.asdict(dataclasses.replace(nothing, **{name: 1.0})))(*args)
    assert alone.abs().max() > 0


def test_standardised_rows_have_mean_0_and_spread_1_and_a_limit():
    rows = standardised(torch.rand(3, 50, generator=torch.Generator().manual_seed(0)) * 7 + 2)
    assert torch.allclose(rows.mean(1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(rows.std(1, correction=0), torch.ones(3), atol=1e-5)
    assert standardised(torch.tensor([[0.0] * 50 + [9.0]])).max() == 2.5
    assert (standardised(torch.ones(1, 5)) == 0).all()


def cells_of_kinds(kinds: int = 3, each: int = 20) -> DataSet:
    from scipy import sparse

    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(kinds), each)
    genes = 4 * kinds
    rate = np.where(np.arange(genes) // 4 == kind[:, None], 20.0, 1.0)
    cells = np.arange(len(kind))
    same = [np.flatnonzero(kind == k) for k in kind]
    nothing = np.zeros(genes)
    return DataSet(
        "kinds", "human", sparse.csr_matrix(rng.poisson(rate).astype(np.float32)), np.arange(genes), np.arange(genes),
        nothing > 1, nothing > 1, nothing, np.zeros((len(kind), 4), int),
        np.stack([same[c][:5] for c in cells]).astype(np.int32), nothing, cells, cells[:0],
    )  # fmt: skip


def test_programmes_tell_kinds_of_cells_apart_and_their_shares_sum_to_one():
    dataset = cells_of_kinds()
    profiles = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 6)))[0]
    usual = {"human": np.full(12, 6.0)}
    programmes = fit_programmes([dataset], profiles, usual, 3, seed=0)
    share = programmes.assign(dataset, np.arange(60))
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-5)
    led = share.argmax(1).reshape(3, 20)
    assert all(len(set(row)) == 1 for row in led)
    assert len(set(led[:, 0])) == 3


def test_fewer_cells_than_programmes_are_refused():
    with pytest.raises(ValueError, match="too few for 300 programmes.*--weights.context 0"):
        fit_programmes([cells_of_kinds()], np.eye(12)[:, :6], {"human": np.zeros(12)}, 300, seed=0)
