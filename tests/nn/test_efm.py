"""The embedding module: causal hidden states and its two heads."""

import dataclasses

import pytest
import torch
from making import VOCAB_SIZE, efm_config, random_efm, random_tokens
from torch.nn import functional as F

from sccafm.nn import EFM


@pytest.mark.parametrize("head_hidden_dim", [None, 5])
@torch.no_grad()
def test_heads_equal_their_formula(head_hidden_dim):
    efm = random_efm(head_hidden_dim=head_hidden_dim)
    hidden = efm(random_tokens())
    predicted = efm.predict(hidden)
    for head, found in ((efm.ph_prob, predicted.id_logits), (efm.ph_exp, predicted.expression[..., None])):
        first, _, _, second = head.net
        assert first.out_features == (head_hidden_dim or 16)
        expected = F.silu(hidden @ first.weight.T + first.bias) @ second.weight.T + second.bias
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert predicted.id_logits.shape == (3, 10, VOCAB_SIZE)
    assert predicted.expression.shape == (3, 10)


@torch.no_grad()
def test_hidden_states_see_no_later_gene_identity():
    efm, tokens = random_efm(), random_tokens()
    ids = tokens.gene_ids.clone()
    ids[:, 6:] = (ids[:, 6:] + 1) % 30
    found = efm(dataclasses.replace(tokens, gene_ids=ids)) - efm(tokens)
    assert found[:, :7].abs().max() < 1e-5  # the cell token and six genes
    assert found[:, 7:].abs().max() > 1e-2


@torch.no_grad()
def test_a_padded_batch_gives_the_numbers_of_the_unpadded_cells():
    efm, tokens = random_efm(), random_tokens(padded=True)
    batch = efm(tokens)
    for c, length in enumerate(tokens.is_gene.sum(1).tolist()):
        shorter = {name: getattr(tokens, name)[c : c + 1, :length] for name in ("gene_ids", "expression", "is_tf")}
        alone = efm(dataclasses.replace(tokens[c : c + 1], **shorter, is_padding=None))
        torch.testing.assert_close(batch[c : c + 1, : length + 1], alone, atol=2e-6, rtol=1e-5)
        assert (batch[c, length + 1 :] == 0).all()


def test_the_state_holds_what_the_contract_lists():
    keys = EFM(efm_config(), 30, 6).state_dict().keys()
    heads = {f"{head}.net.{i}.{kind}" for head in ("ph_prob", "ph_exp") for i in (0, 3) for kind in ("weight", "bias")}
    assert {key for key in keys if not key.startswith(("embedding.", "backbone."))} == heads
    assert len(keys) == 28 + 12 * 2 + 1 + 8
