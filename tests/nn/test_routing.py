"""Routers against plain loops: selection with offsets, temperature, load balance."""

import pytest
import torch
from making import shaken

from sccafm.nn.routing import BalancedGating, Router, balanced_beta

FACTORS = 12


def some_logits(tokens=40, factors=FACTORS, seed=0):
    return torch.randn(tokens, factors, generator=torch.Generator().manual_seed(seed)) * 2


def plain_gating(logits, beta, k, temperature):
    """The k best of (logits - beta), weighted by the softmax of the raw logits."""
    out = torch.zeros_like(logits)
    for n, row in enumerate(logits):
        offers = row - beta
        chosen = sorted(range(len(row)), key=lambda m: -float(offers[m]))[:k]
        weights = [torch.exp((row[m] - row[chosen].max()) / temperature) for m in chosen]
        for m, weight in zip(chosen, weights, strict=True):
            out[n, m] = weight / sum(weights)
    return out


def plain_balanced_beta(logits, beta, k):
    """A token's price is its (k+1)-th best offer; a factor's the (target+1)-th best bid above the price."""
    tokens, factors = logits.shape
    target = max(1, round(tokens * k / factors))
    prices = [sorted(row - beta, reverse=True)[min(k, factors - 1)] for row in logits]
    bids = [[row[m] - price for row, price in zip(logits, prices, strict=True)] for m in range(factors)]
    return torch.stack([sorted(column, reverse=True)[min(target, tokens - 1)] for column in bids])


@pytest.mark.parametrize("k", [1, 4, FACTORS - 1])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_gating_equals_the_loop(k, temperature):
    gating = shaken(BalancedGating(FACTORS, k, temperature, 1.0))
    found = gating(some_logits())
    torch.testing.assert_close(found, plain_gating(some_logits(), gating.beta_qb, k, temperature))
    assert ((found > 0).sum(1) == k).all()


def test_offsets_choose_but_do_not_weigh():
    gating = BalancedGating(3, 2, 1.0, 1.0)
    gating.beta_qb.copy_(torch.tensor([5.0, 0.0, 0.0]))
    weights = gating(torch.tensor([[3.0, 2.0, 1.0]]))[0]
    torch.testing.assert_close(weights, torch.cat((torch.zeros(1), torch.softmax(torch.tensor([2.0, 1.0]), 0))))


def test_topk_of_zero_gives_zeros():
    assert (BalancedGating(FACTORS, 0, 1.0, 1.0)(some_logits()) == 0).all()


@pytest.mark.parametrize("topk", [None, FACTORS, FACTORS + 5])
def test_without_a_limit_the_router_is_a_softmax_and_offsets_are_unused(topk):
    router = shaken(Router(6, 5, FACTORS, 0.0, topk, 0.7, 1.0))
    hidden = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(router(hidden), torch.softmax(router.mlp(hidden) / 0.7, 1))
    assert not router.is_balanced()
    assert ("gating.beta_qb" in router.state_dict()) == (topk is not None)


def test_only_a_true_choice_is_balanced():
    assert [k for k in (0, 1, FACTORS - 1, FACTORS) if Router(6, 5, FACTORS, 0.0, k, 1.0, 1.0).is_balanced()] == [1, 11]


@pytest.mark.parametrize(("tokens", "k"), [(40, 4), (40, 11), (3, 2), (1, 1), (200, 1)])
def test_balanced_beta_equals_the_loop(tokens, k):
    beta = some_logits(1)[0] * 0.2
    torch.testing.assert_close(
        balanced_beta(some_logits(tokens), beta, k), plain_balanced_beta(some_logits(tokens), beta, k)
    )


def test_repeated_updates_even_out_the_load():
    logits = some_logits(600) + torch.linspace(-3, 3, FACTORS)
    gating = BalancedGating(FACTORS, 3, 1.0, 1.0)
    before = (gating(logits) > 0).float().sum(0)
    for _ in range(20):
        gating.update(balanced_beta(logits, gating.beta_qb, 3))
    after = (gating(logits) > 0).float().sum(0)
    assert after.sum() == before.sum()
    assert before.std() > 100
    assert after.std() < 10


def test_update_moves_by_the_momentum():
    gating = BalancedGating(3, 1, 1.0, 0.25)
    gating.beta_qb.copy_(torch.tensor([1.0, 2.0, 3.0]))
    gating.update(torch.tensor([5.0, 2.0, -1.0]))
    torch.testing.assert_close(gating.beta_qb, torch.tensor([2.0, 2.0, 2.0]))
