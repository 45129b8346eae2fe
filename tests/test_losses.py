"""Every objective against a plain loop over cells and pairs, in numbers and in gradients."""

import math

import pytest
import torch
from making import random_sfm, random_tokens, random_vgae

from sccafm.batch import Factors
from sccafm.losses import context_contrast, dag_penalty, edge_contrast, elbo, prior_loss, sparsity
from sccafm.nn.vgae import Likelihood, Posterior, VGAEOutput


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


def softplus(x):
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def log_sum(terms):
    return math.log(sum(terms)) if terms else -math.inf


def plain_contrast(scores, active, is_pair, safety, sharpness, floor):
    cells, regulators, genes = scores.shape
    total = weight = 0.0
    for c in range(cells):
        strength = [[(float(scores[c, i, j]) + floor) ** sharpness for j in range(genes)] for i in range(regulators)]

        def negative(i, j, c=c, strength=strength):
            return (1 - float(active[c, i, j])) * strength[i][j]

        for i in range(regulators):
            row = log_sum([negative(i, j) * float(safety[c, j]) for j in range(genes) if is_pair[i, j]])
            for j in range(genes):
                if not is_pair[i, j]:
                    continue
                column = log_sum([negative(r, j) for r in range(regulators) if is_pair[r, j]])
                own = math.log(strength[i][j])
                pull = softplus(row - own - math.log(float(safety[c, j]))) + softplus(column - own)
                total += float(active[c, i, j]) * pull
                weight += 2 * float(active[c, i, j])
    return total / weight


def contrast_case():
    scores = uniform(2, 4, 6)
    active = uniform(2, 4, 6, seed=1) * (uniform(2, 4, 6, seed=2) < 0.3)
    is_pair = torch.arange(4)[:, None] != torch.arange(6)
    return scores, active, is_pair, uniform(2, 6, seed=3) + 0.2


@pytest.mark.parametrize("sharpness", [0.5, 2.0])
@pytest.mark.parametrize("floor", [1e-4, 1e-2])
def test_edge_contrast_equals_the_loop(sharpness, floor):
    scores, active, is_pair, safety = contrast_case()
    scores[0, 0, 1] = 0.0
    found = float(edge_contrast(scores, active, is_pair, safety, sharpness, floor))
    assert found == pytest.approx(plain_contrast(scores, active, is_pair, safety, sharpness, floor), rel=1e-5)


def test_edge_contrast_lifts_active_edges_above_their_row_and_column():
    scores, _, is_pair, safety = contrast_case()
    active = torch.zeros(2, 4, 6)
    active[:, 1, 3] = 0.9
    leaf = scores.clone().requires_grad_()
    edge_contrast(leaf, active, is_pair, safety, 2.0).backward()
    assert (leaf.grad[:, 1, 3] < 0).all()
    rivals = torch.zeros(4, 6, dtype=torch.bool)
    rivals[1], rivals[:, 3] = True, True
    rivals[1, 3] = False
    assert (leaf.grad[:, rivals & is_pair] > 0).all()
    untouched = ~rivals
    untouched[1, 3] = False
    assert (leaf.grad[:, untouched] == 0).all()


def test_edge_contrast_gradient_is_finite_where_scores_are_zero_or_no_edge_is_active():
    scores, active, is_pair, safety = contrast_case()
    leaf = torch.zeros_like(scores).requires_grad_()
    edge_contrast(leaf, active, is_pair, safety, 2.0).backward()
    assert torch.isfinite(leaf.grad).all()
    leaf = scores.clone().requires_grad_()
    value = edge_contrast(leaf, torch.zeros_like(active), is_pair, safety, 2.0)
    value.backward()
    assert value.item() == 0
    assert (leaf.grad == 0).all()


def test_edge_contrast_of_a_column_without_any_pair_stays_finite():
    scores, active, is_pair, safety = contrast_case()
    active[:, :, 5] = 0
    is_pair[:, 5] = False
    leaf = scores.clone().requires_grad_()
    value = edge_contrast(leaf, active, is_pair, safety, 2.0)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(leaf.grad).all()


def test_context_contrast_is_minus_the_mutual_information_of_cell_and_factor():
    rows = [[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]
    context = torch.tensor(rows, requires_grad=True)
    mean = [sum(column) / 2 for column in zip(*rows, strict=True)]
    information = sum(c * math.log(c / m) for row in rows for c, m in zip(row, mean, strict=True) if c) / 2
    value = context_contrast(context)
    value.backward()
    assert value.item() == pytest.approx(-information, rel=1e-5)
    assert torch.isfinite(context.grad).all()
    assert context_contrast(torch.eye(4)).item() == pytest.approx(-math.log(4), rel=1e-5)
    assert context_contrast(torch.full((3, 5), 0.2)).item() == pytest.approx(0, abs=1e-6)
