"""Every objective against a plain loop over cells and pairs, in numbers and in gradients."""

import math

import pytest
import torch
from making import random_sfm, random_tokens, random_vgae

from sccafm.losses.structure import dag_penalty, divergence, elbo, pair_gap, prior_loss, sparsity, state_gap
from sccafm.nn.vgae import Likelihood, Posterior, VGAEOutput
from sccafm.types import Factors


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def some_factors():
    tokens = random_tokens(padded=True)
    with torch.no_grad():
        return tokens, random_sfm()(tokens)


def log_normal(x, mean, scale):
    return -0.5 * ((x - mean) / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi))


def plain_elbo(expression, output, is_gene):
    cells = []
    for c in range(len(expression)):
        total = 0.0
        for g in range(expression.shape[1]):
            if not is_gene[c, g]:
                continue
            x, mean, scale, p = (float(t[c, g]) for t in (expression, *output.likelihood))
            scale, p = max(scale, 1e-5), min(max(p, 1e-5), 1 - 1e-5)
            log_density = log_normal(x, mean, scale)
            is_zero = math.log(p + (1 - p) * math.exp(log_density) + 1e-8)
            fit = is_zero if x == 0 else math.log(1 - p + 1e-8) + log_density
            mu, sigma = (float(t[c, g]) for t in output.posterior)
            total += 0.5 * (mu**2 + sigma**2 - 1 - math.log(sigma**2)) - fit
        cells.append(total)
    return sum(cells) / len(cells)


def test_elbo_equals_the_loop_and_padding_counts_nothing():
    tokens, factors = some_factors()
    with torch.no_grad():
        output = random_vgae()(tokens.expression, factors, tokens.is_padding, z=uniform(3, 9))
    found = float(elbo(tokens.expression, output, tokens.is_gene))
    assert found == pytest.approx(plain_elbo(tokens.expression, output, tokens.is_gene), rel=1e-5)


def test_elbo_is_finite_with_finite_gradients_at_its_limits():
    expression = torch.tensor([[0.0, 0.0, 5.0, 5.0]])
    scale = torch.tensor([[1e-9, 1.0, 1.0, 1e-4]], requires_grad=True)
    dropout = torch.tensor([[0.0, 1.0, 1.0, 0.0]], requires_grad=True)
    mean = torch.tensor([[5.0, 0.0, 5.0, 4.999]], requires_grad=True)
    output = VGAEOutput(
        Posterior(torch.zeros(1, 4), torch.full((1, 4), 1e-6)), Likelihood(mean, scale, dropout), torch.zeros(1, 4)
    )
    value = elbo(expression, output, torch.ones(1, 4, dtype=torch.bool))
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(leaf.grad).all() for leaf in (scale, dropout, mean))


def plain_prior(scores, in_prior, is_pair, topk, pos_weight, neg_weight):
    entropy = weights = 0.0
    eps = 1.1920928955078125e-07
    for c in range(len(scores)):
        pairs = [(float(scores[c, i, j]), i, j) for i in range(9) for j in range(9) if is_pair[c, i, j]]
        for score, i, j in sorted(pairs, key=lambda pair: -pair[0])[:topk]:
            p = score * (1 - 2 * eps) + eps
            weight = pos_weight if in_prior[c, i, j] else neg_weight
            entropy += -weight * math.log(p if in_prior[c, i, j] else 1 - p)
            weights += weight
    return entropy / weights


@pytest.mark.parametrize("topk", [1, 5, 20, 1000])
def test_prior_loss_equals_the_loop(topk):
    scores, in_prior = uniform(3, 9, 9), uniform(3, 9, 9, seed=1) < 0.3
    tokens = random_tokens(padded=True)
    is_pair = (tokens.is_tf & tokens.is_gene)[:, :, None] & tokens.is_gene[:, None]
    found = float(prior_loss(scores, in_prior, is_pair, topk, 5.0, 0.1))
    assert found == pytest.approx(plain_prior(scores, in_prior, is_pair, topk, 5.0, 0.1), rel=1e-5)


def test_prior_loss_reaches_the_chosen_edges_alone():
    scores = torch.tensor([[[0.9, 0.1], [0.5, 0.2]]], requires_grad=True)
    everything = torch.ones(1, 2, 2, dtype=torch.bool)
    prior_loss(scores, everything, everything, 2, 1.0, 1.0).backward()
    torch.testing.assert_close(scores.grad, torch.tensor([[[-1 / 0.9, 0], [-1 / 0.5, 0]]]) / 2, rtol=1e-5, atol=0)


def test_prior_loss_of_scores_at_the_ends_is_finite():
    scores = torch.tensor([[[0.0, 1.0]]])
    for held in (True, False):
        value = prior_loss(scores, torch.tensor([[[held, held]]]), torch.ones(1, 1, 2, dtype=torch.bool), 2, 1.0, 1.0)
        assert torch.isfinite(value)


def test_dag_penalty_equals_repeated_multiplication():
    _, factors = some_factors()
    expected = 0.0
    for c in range(3):
        graph = sum(torch.outer(factors.v[c, g], factors.u[c, g]) for g in range(9))  # M M
        step = torch.eye(12) + graph / 12
        power = torch.eye(12)
        for _ in range(12):
            power = power @ step
        expected += (sum(float(power[m, m]) for m in range(12)) - 12) / 3
    assert float(dag_penalty(factors)) == pytest.approx(expected, rel=1e-5)


def test_dag_penalty_is_zero_without_cycles_and_positive_with_one():
    u, v = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    u[0, 0, 0] = v[0, 1, 0] = 1.0  # gene 0 regulates gene 1 through factor 0
    acyclic = float(dag_penalty(Factors(u, v, torch.zeros(1, 1))))
    u[0, 1, 1] = v[0, 0, 1] = 1.0  # and back through factor 1
    assert acyclic == 0
    assert float(dag_penalty(Factors(u, v, torch.zeros(1, 1)))) > 0.1


def test_sparsity_is_the_mean_score_of_all_valid_pairs():
    tokens, factors = some_factors()
    scores, pairs = factors.scores(), []
    for c in range(3):
        for i in range(9):
            for j in range(9):
                if tokens.is_tf[c, i] and tokens.is_gene[c, i] and tokens.is_gene[c, j]:
                    pairs.append(float(scores[c, i, j]))
    assert float(sparsity(factors, tokens.is_tf, tokens.is_gene)) == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)


def test_sparsity_without_regulators_is_zero():
    tokens, factors = some_factors()
    nobody = torch.zeros_like(tokens.is_tf)
    assert float(sparsity(Factors(factors.u * 0, factors.v, factors.summary), nobody, tokens.is_gene)) == 0


def plain_divergence(evidence, scores, is_pair, floor):
    total = 0.0
    for row in range(len(scores)):
        kept = [j for j in range(scores.shape[1]) if is_pair[row, j]]
        asked = [math.exp(float(evidence[row, j])) for j in kept]
        given = [float(scores[row, j]) + floor for j in kept]
        for q, p in zip(asked, given, strict=True):
            q, p = q / sum(asked), p / sum(given)
            total += q * math.log(q / p)
    return total / len(scores)


def pairs_of(regulators, genes):
    return torch.arange(regulators)[:, None] != torch.arange(genes)


@pytest.mark.parametrize("floor", [1e-6, 1e-2])
def test_divergence_equals_the_loop(floor):
    evidence, scores, is_pair = 4 * uniform(4, 6) - 2, uniform(4, 6, seed=1), pairs_of(4, 6)
    scores[0, 1] = 0.0
    found = float(divergence(evidence, scores, is_pair, floor))
    assert found == pytest.approx(plain_divergence(evidence, scores, is_pair, floor), rel=1e-4)


def test_divergence_is_zero_where_scores_are_proportional_to_the_odds_and_blind_to_their_scale():
    evidence, is_pair = 4 * uniform(2, 4, 6) - 2, pairs_of(4, 6)
    for scale in (0.1, 0.001):
        assert float(divergence(evidence, scale * evidence.exp(), is_pair, 0.0)) == pytest.approx(0, abs=1e-5)
    assert float(divergence(evidence, torch.ones(2, 4, 6), is_pair)) > 0.1


def test_divergence_lifts_what_evidence_speaks_for_and_no_self_pair():
    scores = torch.full((1, 2, 5), 0.1, requires_grad=True)
    evidence, is_pair = torch.zeros(1, 2, 5), pairs_of(2, 5)
    evidence[0, 1, 3] = 3.0
    divergence(evidence, scores, is_pair).backward()
    assert scores.grad[0, 1, 3] < 0
    assert (scores.grad[0, 1, [0, 2, 4]] > 0).all()
    assert (scores.grad[0, [0, 1], [0, 1]] == 0).all()
    assert scores.grad[0, 0].abs().max() < 1e-6  # the other regulator's row has no preference, and keeps it


def test_divergence_of_all_pairs_lets_regulators_differ_and_of_rows_does_not():
    evidence = torch.zeros(1, 2, 5)
    evidence[0, 1] = 2.0  # one regulator has more evidence than the other
    scores, is_pair = torch.full((1, 2, 5), 0.1), pairs_of(2, 5)
    assert float(divergence(evidence, scores, is_pair)) == pytest.approx(0, abs=1e-6)
    assert float(divergence(evidence.flatten(1), scores.flatten(1), is_pair.flatten())) > 0.1


def test_divergence_has_a_finite_gradient_where_scores_are_zero():
    scores = torch.zeros(2, 4, 6, requires_grad=True)
    divergence(4 * uniform(2, 4, 6), scores, pairs_of(4, 6)).backward()
    assert torch.isfinite(scores.grad).all()


def test_gap_of_pairs_equals_a_loop_and_no_level_lowers_it():
    evidence, scores = 4 * uniform(2, 4, 6) - 2, uniform(2, 4, 6, seed=1)
    gaps = []
    for c in range(2):
        gap = [[float(evidence[c, i, j]) - math.log(float(scores[c, i, j]) + 1e-6) for j in range(6)] for i in range(4)]
        rows, columns = [sum(row) / 6 for row in gap], [sum(column) / 4 for column in zip(*gap, strict=True)]
        mean = sum(rows) / 4
        gaps += [(gap[i][j] - rows[i] - columns[j] + mean) ** 2 for i in range(4) for j in range(6)]
    assert float(pair_gap(evidence, scores)) == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)
    levels = scores * (5 * uniform(2, 4, 1, seed=2)).exp() * (5 * uniform(2, 1, 6, seed=3)).exp()
    assert float(pair_gap(evidence, levels, 0.0)) == pytest.approx(float(pair_gap(evidence, scores, 0.0)), rel=1e-4)
    assert float(pair_gap(evidence, evidence.exp(), 0.0)) == pytest.approx(0, abs=1e-6)


def test_gap_of_states_sees_only_what_differs_between_cells():
    evidence, scores = 4 * uniform(3, 4, 6) - 2, uniform(3, 4, 6, seed=1)
    mean = [
        [
            sum(float(evidence[c, i, j]) - math.log(float(scores[c, i, j]) + 1e-7) for c in range(3)) / 3
            for j in range(6)
        ]
        for i in range(4)
    ]
    gaps = [
        (float(evidence[c, i, j]) - math.log(float(scores[c, i, j]) + 1e-7) - mean[i][j]) ** 2
        for c in range(3) for i in range(4) for j in range(6)
    ]  # fmt: skip
    assert float(state_gap(evidence, scores)) == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)
    shared = scores * (3 * uniform(1, 4, 6, seed=2)).exp()  # the same for all cells
    assert float(state_gap(evidence, shared, 0.0)) == pytest.approx(float(state_gap(evidence, scores, 0.0)), rel=1e-4)
    assert float(state_gap(evidence[:1], scores[:1])) == 0  # one cell differs from nothing


def test_gap_of_states_reaches_scores_of_the_usual_size():
    evidence = 4 * uniform(3, 4, 6) - 2
    usual = 1e-5 * evidence.exp()  # a cell has about 100,000 pairs
    assert float(state_gap(evidence, usual)) < 0.01 * float(state_gap(evidence, torch.full_like(usual, 1e-5)))
