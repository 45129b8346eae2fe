"""Every contrast against a plain loop, and the gradient of each where it matters."""

import math

import numpy as np
import pytest
import torch

from sccafm.losses.contrastive import (
    alignment,
    cell_contrast,
    edge_confidence,
    effective_rank,
    gene_contrast,
    matched_negatives,
    reconstruction,
    uniformity,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


def plain_cell_contrast(one, other, t, hard=None, is_negative=None):
    terms = []
    for c in range(len(one)):
        for a, b, extra in ((one, other, hard), (other, one, None)):
            own = math.exp(cosine(a[c], b[c]) / t)
            rest = sum(
                math.exp(cosine(a[c], b[d]) / t)
                for d in range(len(one))
                if d != c and (is_negative is None or (is_negative[c, d] if a is one else is_negative[d, c]))
            )
            rest += 0 if extra is None else sum(math.exp(cosine(a[c], h) / t) for h in extra[c])
            terms.append(-math.log(own / (own + rest)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("with_hard", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
def test_cell_contrast_equals_the_loop(with_hard, with_mask):
    one, other = random(5, 4), random(5, 4, seed=1)
    hard = random(5, 2, 4, seed=2) if with_hard else None
    mask = torch.rand(5, 5, generator=torch.Generator().manual_seed(3)) < 0.5 if with_mask else None
    expected = plain_cell_contrast(one, other, 0.3, hard, mask)
    assert float(cell_contrast(one, other, 0.3, hard, mask)) == pytest.approx(expected, rel=1e-5)


def test_a_hard_negative_pushes_the_cell_from_what_it_would_be_without_a_cause():
    one = random(3, 4).requires_grad_()
    hard = one.detach()[:, None] + 0.3 * random(3, 1, 4, seed=4)
    cell_contrast(one, one.detach(), 0.2, hard).backward()
    stepped = one.detach() - 0.1 * one.grad
    for c in range(3):
        assert cosine(stepped[c], hard[c, 0]) < cosine(one.detach()[c], hard[c, 0])


def test_confidence_equals_the_loop_and_hubs_win_nothing():
    scores = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    found = edge_confidence(scores, 0.5)
    log = np.log(scores.numpy() + 1e-6)
    excess = [[log[i, j] - log[i].mean() - log[:, j].mean() + log.mean() for j in range(6)] for i in range(4)]
    flat = sorted(value for row in excess for value in row)
    for i in range(4):
        for j in range(6):
            below = min(range(24), key=lambda k: abs(flat[k] - excess[i][j]))
            assert float(found[i, j]) == pytest.approx(max(0.0, (below / 24 - 0.5) / 0.5), abs=1e-6)
    hub = scores * torch.tensor([100.0, 1, 1, 1])[:, None] * torch.tensor([1.0, 1, 50, 1, 1, 1])
    torch.testing.assert_close(
        edge_confidence(hub, 0.5), found, atol=0.09, rtol=0
    )  # the added 1e-6 may swap neighbours


def plain_matched(x, confidence, j, k):
    x, confidence = x.numpy(), confidence.numpy()
    mean, genes = x.mean(0), range(x.shape[1])
    regulated = [sum(confidence[i, j] * confidence[i, n] for i in range(len(confidence))) for n in genes]
    usual = sorted(regulated)[(len(regulated) - 1) // 2]
    cost = {}
    for n in genes:
        if n != j and regulated[n] <= usual:
            cost[n] = abs(mean[n] - mean[j]) / mean.std() - np.corrcoef(x[:, n], x[:, j])[0, 1]
    return sorted(cost, key=cost.get)[:k]


def test_matched_negatives_equal_the_loop():
    x = random(12, 9).abs()
    confidence = torch.rand(3, 9, generator=torch.Generator().manual_seed(1))
    anchors = torch.tensor([0, 4, 8])
    found = matched_negatives(x, confidence, anchors, 3)
    for row, j in zip(found.tolist(), anchors.tolist(), strict=True):
        assert row == plain_matched(x, confidence, j, 3)


def plain_gene_contrast(source, target, confidence, regulator_index, anchors, negatives, t):
    total, weights = 0.0, 0.0
    for n, j in enumerate(anchors.tolist()):
        sure = {i: float(confidence[r, j]) for r, i in enumerate(regulator_index.tolist()) if i != j}
        message = sum(c * source[i] / source[i].norm() for i, c in sure.items())
        back = sum(c * target[i] / target[i].norm() for i, c in sure.items())
        own = math.exp(cosine(message, target[j]) / t)
        rest = sum(math.exp(cosine(message, target[g]) / t) for g in negatives[n].tolist())
        rest += math.exp(cosine(back, source[j]) / t)
        weight = sum(sure.values())
        total += weight * -math.log(own / (own + rest))
        weights += weight
    return total / weights


def test_gene_contrast_equals_the_loop():
    source, target = random(8, 5), random(8, 5, seed=1)
    confidence = torch.rand(3, 8, generator=torch.Generator().manual_seed(2))
    regulator_index, anchors = torch.tensor([1, 4, 6]), torch.tensor([0, 4, 7])
    negatives = torch.tensor([[2, 3], [5, 7], [0, 1]])
    arguments = (source, target, confidence, regulator_index, anchors, negatives, 0.4)
    assert float(gene_contrast(*arguments)) == pytest.approx(plain_gene_contrast(*arguments), rel=1e-5)


def test_gene_contrast_learns_a_direction():
    """After some steps a regulator's source vector is nearer to its target than the other way round."""
    source, target = random(6, 4).requires_grad_(), random(6, 4, seed=1).requires_grad_()
    confidence = torch.zeros(2, 6)
    confidence[0, 2] = confidence[1, 3] = 1.0
    regulator_index, anchors = torch.tensor([0, 1]), torch.tensor([2, 3])
    optimizer = torch.optim.Adam([source, target], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        gene_contrast(
            source, target, confidence, regulator_index, anchors, torch.tensor([[4, 5], [4, 5]]), 0.2
        ).backward()
        optimizer.step()
    for i, j in ((0, 2), (1, 3)):
        assert cosine(source[i], target[j]) > cosine(source[j], target[i]) + 0.5
        assert cosine(source[i], target[j]) > cosine(source[i], target[4]) + 0.5


def test_reconstruction_counts_silent_and_expressed_genes_alike():
    predicted, x = random(2, 5), torch.tensor([[0.0, 0, 0, 2, 1], [0, 3, 0, 0, 0]])
    hidden = torch.tensor([[True, True, False, True, False], [True, True, True, False, False]])
    silent, loud = [], []
    for c in range(2):
        for g in range(5):
            if hidden[c, g]:
                (loud if x[c, g] > 0 else silent).append(float(predicted[c, g] - x[c, g]) ** 2)
    expected = 0.5 * sum(silent) / len(silent) + 0.5 * sum(loud) / len(loud)
    assert float(reconstruction(predicted, x, hidden)) == pytest.approx(expected, rel=1e-5)
    assert float(reconstruction(predicted, x, torch.zeros_like(hidden))) == 0.0


def test_effective_rank_counts_directions():
    line = random(40, 1) @ random(1, 6, seed=1)
    assert float(effective_rank(line)) == pytest.approx(1.0, abs=1e-3)
    assert float(effective_rank(torch.cat((torch.eye(6), -torch.eye(6))))) == pytest.approx(6.0, rel=1e-4)
    x = random(9, 4)
    share = np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True))
    share = share / share.sum()
    assert float(effective_rank(x)) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-3)


def test_uniformity_and_alignment_equal_the_loop():
    one, other = random(5, 3), random(5, 3, seed=1)
    pairs = [(a, b) for a in range(5) for b in range(a)]
    mean = sum(math.exp(-2 * (2 - 2 * cosine(one[a], one[b]))) for a, b in pairs) / len(pairs)
    assert float(uniformity(one)) == pytest.approx(math.log(mean), rel=1e-4)
    expected = sum(2 - 2 * cosine(a, b) for a, b in zip(one, other, strict=True)) / 5
    assert float(alignment(one, other)) == pytest.approx(expected, rel=1e-5)
