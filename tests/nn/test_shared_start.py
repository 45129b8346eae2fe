"""Work that cells share in the first layer: the same hidden states as without, whatever the counts and weights."""

import copy
import dataclasses

import pytest
import torch
from making import random_sfm

from sccafm.nn import shared_start
from sccafm.types import Tokens

CLOSE = {"atol": 3e-6, "rtol": 1e-5}
COARSE = {"atol": 5e-5, "rtol": 1e-4}  # large logits round coarsely
GENES = 40


def cells(n: int = 3, share: float = 0.15, seed: int = 0) -> Tokens:
    """Cells that show the same genes, a share of them with a count."""
    generator = torch.Generator().manual_seed(seed)
    expressed = torch.rand(n, GENES, generator=generator) < share
    return Tokens(
        torch.randperm(60, generator=generator)[:GENES].expand(n, -1).clone(),
        3 * torch.rand(n, GENES, generator=generator) * expressed,
        torch.randint(0, 6, (n, 4), generator=generator),
        (torch.rand(GENES, generator=generator) < 0.3).expand(n, -1).clone(),
    )


def plainly(sfm, tokens: Tokens) -> torch.Tensor:
    return sfm.backbone(*sfm.embedding(tokens))


def passes(sfm, monkeypatch) -> list:
    """Grows with every pass through the encoder as it is."""
    seen = []
    forward = sfm.backbone.forward
    monkeypatch.setattr(sfm.backbone, "forward", lambda *given: seen.append(given) or forward(*given))
    return seen


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
@torch.no_grad()
def test_hidden_states_are_those_of_the_encoder(layers, share, monkeypatch):
    sfm, tokens = random_sfm(num_layers=layers), cells(share=share)
    expected = plainly(sfm, tokens)
    seen = passes(sfm, monkeypatch)
    torch.testing.assert_close(sfm.encode(tokens), expected, **CLOSE)
    assert not seen


@torch.no_grad()
def test_a_gene_that_drew_all_attention_may_get_a_count(monkeypatch):
    """Then the constant sum less its part is a difference of like numbers, and attention is computed as it is.

    Logits of several hundred round coarsely in either way, and differently on each processor: both are judged by double precision.
    """
    sfm, tokens = random_sfm(num_layers=1), cells()
    sfm.backbone.layers[0].attn.qkv_proj.weight.mul_(12)
    exact = copy.deepcopy(sfm).double()
    errors = []
    torch.testing.assert_close(sfm.encode(tokens), plainly(sfm, tokens), **COARSE)
    asked, attend = [], shared_start.attend
    monkeypatch.setattr(shared_start, "attend", lambda q, k, v: asked.append(q) or attend(q, k, v))
    expression = torch.zeros_like(tokens.expression)
    for gene in range(GENES):
        one = dataclasses.replace(tokens, expression=expression.index_fill(1, torch.tensor([gene]), 4.0))
        wanted = plainly(exact, dataclasses.replace(one, expression=one.expression.double()))
        errors.append([float((found - wanted).abs().max()) for found in (sfm.encode(one), plainly(sfm, one))])
    shared, plain = torch.tensor(errors).amax(0)
    assert shared < 2 * plain + 1e-5
    assert len(asked) > GENES * len(tokens)  # more than the one for expressed genes of each cell


@torch.no_grad()
def test_an_infinite_exponential_is_not_met():
    sfm, tokens = random_sfm(num_layers=1), cells()
    sfm.embedding.expr_embedding.bin_embeddings[0].zero_()
    sfm.backbone.layers[0].attn.qkv_proj.weight.mul_(200)
    found = sfm.encode(tokens)
    assert found.isfinite().all()
    torch.testing.assert_close(
        found, plainly(sfm, tokens), atol=2e-3, rtol=1e-3
    )  # logits in the hundreds round coarsely


@torch.no_grad()
def test_a_cell_has_the_same_bits_whatever_was_read_before_it():
    sfm, tokens = random_sfm(), cells(5)
    together = sfm.encode(tokens)
    other = random_sfm()
    other.encode(cells(2, seed=1))  # other genes
    for i in (4, 0, 2):
        assert torch.equal(other.encode(tokens[i : i + 1])[0], together[i])


@torch.no_grad()
def test_changed_weights_are_not_answered_with_old_constants():
    sfm, tokens = random_sfm(), cells()
    before = sfm.encode(tokens)
    sfm.backbone.layers[0].attn.qkv_proj.bias.add_(0.5)
    after = sfm.encode(tokens)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, plainly(sfm, tokens), **CLOSE)
    sfm.load_state_dict(random_sfm(seed=3).state_dict())
    torch.testing.assert_close(sfm.encode(tokens), plainly(sfm, tokens), **CLOSE)


def test_training_and_gradients_go_through_the_encoder_as_it_is(monkeypatch):
    sfm, tokens = random_sfm(), cells()
    seen = passes(sfm, monkeypatch)
    sfm.encode(tokens).sum().backward()
    assert len(seen) == 1 and sfm.embedding.gene_embedding.weight.grad is not None
    with torch.no_grad():
        sfm.train().encode(tokens)
    assert len(seen) == 2


@torch.no_grad()
def test_cells_of_unlike_genes_or_with_padding_go_through_the_encoder_as_it_is(monkeypatch):
    sfm, tokens = random_sfm(), cells()
    seen = passes(sfm, monkeypatch)
    sfm.encode(
        dataclasses.replace(tokens, gene_ids=torch.stack([row.roll(i) for i, row in enumerate(tokens.gene_ids)]))
    )
    padding = torch.zeros_like(tokens.is_tf)
    padding[:, -1] = True
    sfm.encode(dataclasses.replace(tokens, is_padding=padding))
    assert len(seen) == 2


@torch.no_grad()
def test_most_cells_do_not_fall_back(monkeypatch):
    """Else nothing is gained: of usual counts no query is computed as it is."""
    sfm, tokens = random_sfm(num_layers=1), cells(share=0.1)
    rows = []
    attend = shared_start.attend
    monkeypatch.setattr(shared_start, "attend", lambda q, k, v: rows.append(q.shape[1]) or attend(q, k, v))
    sfm.encode(tokens)
    assert rows == [1 + int((row != 0).sum()) for row in tokens.expression]
