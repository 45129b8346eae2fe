"""The structure module: what its parts give together, and what must not change its answer."""

import dataclasses

import pytest
import torch
from making import random_sfm, random_tokens, sfm_config

from sccafm.nn import SFM
from sccafm.types import Factors

CLOSE = {"atol": 2e-6, "rtol": 1e-5}


def same(found: Factors, expected: Factors):
    for name in ("u", "v", "summary"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), **CLOSE)


def permuted(tokens, order):
    genes = ("gene_ids", "expression", "is_tf")
    return dataclasses.replace(tokens, **{name: getattr(tokens, name)[:, order] for name in genes})


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_factors_are_the_routers_of_the_hidden_states_at_their_positions(padded):
    sfm, tokens = random_sfm(), random_tokens(padded=padded)
    hidden, factors = sfm.encode(tokens), sfm(tokens)
    for c in range(len(tokens)):
        for g in range(9):
            state = hidden[c, 1 + g][None]
            is_gene = bool(tokens.is_gene[c, g])
            acts = is_gene and bool(tokens.is_tf[c, g])
            u = sfm.tf_router(state)[0] if acts else torch.zeros(12)
            v = sfm.tg_router(state)[0] if is_gene else torch.zeros(12)
            torch.testing.assert_close(factors.u[c, g], u, **CLOSE)
            torch.testing.assert_close(factors.v[c, g], v, **CLOSE)
    assert torch.equal(factors.summary, hidden[:, 0])


@torch.no_grad()
def test_scores_and_context_equal_their_loops():
    factors = random_sfm()(random_tokens(padded=True))
    scores, context = factors.scores(), factors.context()
    for c in range(len(factors)):
        flow = [float(sum(factors.u[c, :, m]) * sum(factors.v[c, :, m])) for m in range(12)]
        assert context[c].tolist() == pytest.approx([f / sum(flow) for f in flow], abs=1e-6)
        for i in range(9):
            for j in range(9):
                expected = sum(float(factors.u[c, i, m]) * float(factors.v[c, j, m]) for m in range(12))
                assert float(scores[c, i, j]) == pytest.approx(expected, abs=1e-6)
    assert 0 < scores.max() <= 1


@torch.no_grad()
def test_context_of_a_cell_without_regulators_is_zero_not_nan():
    factors = random_sfm()(dataclasses.replace(random_tokens(), is_tf=torch.zeros(3, 9, dtype=torch.bool)))
    assert (factors.context() == 0).all()


@torch.no_grad()
def test_route_gives_the_logits_of_the_positions_that_are_routed():
    tokens = random_tokens(padded=True)
    routing = random_sfm().route(tokens)
    assert routing.tf_logits.shape == (int((tokens.is_tf & tokens.is_gene).sum()), 12)
    assert routing.tg_logits.shape == (int(tokens.is_gene.sum()), 12)


@pytest.mark.parametrize("changes", [{}, {"use_rotary": True}, {"topk": None}, {"topk": 0}, {"topk": 99}])
@torch.no_grad()
def test_a_padded_batch_gives_the_numbers_of_the_unpadded_cells(changes):
    sfm, tokens = random_sfm(**changes), random_tokens(padded=True)
    batch = sfm(tokens)
    for c, length in enumerate(tokens.is_gene.sum(1).tolist()):
        shorter = {name: getattr(tokens, name)[c : c + 1, :length] for name in ("gene_ids", "expression", "is_tf")}
        alone = sfm(dataclasses.replace(tokens[c : c + 1], **shorter, is_padding=None))
        found = Factors(batch.u[c : c + 1, :length], batch.v[c : c + 1, :length], batch.summary[c : c + 1])
        same(found, alone)
        assert (batch.u[c, length:] == 0).all()
        assert (batch.v[c, length:] == 0).all()


@torch.no_grad()
def test_a_cell_has_the_same_factors_in_any_batch_and_order():
    sfm, tokens = random_sfm(), random_tokens()
    batch = sfm(tokens)
    same(sfm(tokens[torch.tensor([2, 0, 1])]), batch[torch.tensor([2, 0, 1])])
    for c in range(len(tokens)):
        same(sfm(tokens[c : c + 1]), batch[c : c + 1])


@torch.no_grad()
def test_order_of_genes_does_not_matter_without_rotary():
    order = torch.tensor([4, 8, 0, 2, 6, 1, 3, 7, 5])
    tokens = random_tokens()
    sfm = random_sfm()
    factors = sfm(tokens)
    same(sfm(permuted(tokens, order)), Factors(factors.u[:, order], factors.v[:, order], factors.summary))
    sfm = random_sfm(use_rotary=True)
    assert (sfm(permuted(tokens, order)).v - sfm(tokens).v[:, order]).abs().max() > 1e-3


@torch.no_grad()
def test_conditions_and_expression_move_the_factors():
    sfm, tokens = random_sfm(), random_tokens()
    other = dataclasses.replace(tokens, conditions=(tokens.conditions + 1) % 6)
    assert (sfm(other).v - sfm(tokens).v).abs().max() > 1e-3
    louder = dataclasses.replace(tokens, expression=tokens.expression * 2)
    assert (sfm(louder).v - sfm(tokens).v).abs().max() > 1e-3


def test_gradients_reach_every_parameter():
    sfm = random_sfm()
    factors = sfm.route(random_tokens(genes=25)).factors
    weights = torch.randn(factors.u.shape, generator=torch.Generator().manual_seed(1))
    ((factors.u + factors.v) * weights).sum().backward()
    unmoved = {name for name, p in sfm.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-6}
    assert unmoved <= {"embedding.batch_embedding.attention_score.bias"}  # a softmax does not feel a shift


def test_the_state_holds_what_the_contract_lists():
    keys = SFM(sfm_config(), 30, 6).state_dict().keys()
    assert len(keys) == 28 + 12 * 2 + 1 + 2 * 5
    without = SFM(sfm_config(topk=None, use_rotary=True, qkv_bias=False), 30, 6).state_dict().keys()
    assert keys - without == {
        "backbone.layers.0.attn.qkv_proj.bias",
        "backbone.layers.1.attn.qkv_proj.bias",
        "tf_router.gating.beta_qb",
        "tg_router.gating.beta_qb",
    }
    assert not without - keys
