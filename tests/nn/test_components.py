"""Components of the corpus against a loop over genes, and what must not change a cell's place on them."""

import dataclasses

import pytest
import torch
from making import VOCAB_SIZE, random_causal_efm, random_sfm, random_tokens

from sccafm.nn.components import Components


def random_components(size=5, vocab_size=30) -> Components:
    generator = torch.Generator().manual_seed(3)
    components = Components(size, vocab_size)
    components.level.copy_(torch.rand(2, vocab_size, generator=generator))
    components.weight.copy_(torch.rand(vocab_size, generator=generator) * (torch.arange(vocab_size) % 4 > 0))
    components.mean.copy_(0.1 * torch.randn(vocab_size, generator=generator))
    components.loadings.copy_(torch.randn(vocab_size, size, generator=generator))
    return components


def plain(components, values, ids, share):
    """One cell, gene by gene."""
    departures = []
    for value, gene in zip(values.tolist(), ids.tolist(), strict=True):
        level = share[0] * components.level[0, gene] + share[1] * components.level[1, gene]
        departures.append(float(components.weight[gene] * (value - level)))
    length = sum(d**2 for d in departures) ** 0.5
    place = torch.zeros(components.loadings.shape[1])
    for departure, gene in zip(departures, ids.tolist(), strict=True):
        place += (departure / length - components.mean[gene]) * components.loadings[gene].float()
    return place / place.norm()


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_cells_stand_where_the_loop_puts_them(padded):
    components, tokens = random_components(), random_tokens(padded=padded)
    share = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    found = components(tokens.expression, tokens.gene_ids, share, tokens.is_padding)
    for c in range(3):
        here = tokens.is_gene[c]
        expected = plain(components, tokens.expression[c, here], tokens.gene_ids[c, here], share[c].tolist())
        torch.testing.assert_close(found[c], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_cells_that_share_their_genes_stand_where_the_loop_puts_them():
    components, tokens = random_components(), random_tokens()
    ids = tokens.gene_ids[:1].expand(3, -1)
    share = torch.full((3, 2), 0.5)
    found = components(tokens.expression, ids, share, None)
    for c in range(3):
        torch.testing.assert_close(
            found[c], plain(components, tokens.expression[c], ids[c], [0.5, 0.5]), atol=1e-5, rtol=1e-4
        )
    # beside a cell whose genes stand in another order, they are read the other way
    more = [torch.cat((x, x[:1].flip(1))) for x in (tokens.expression, ids)]
    torch.testing.assert_close(components(*more, share[[0, 1, 2, 0]], None), found[[0, 1, 2, 0]], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_genes_of_which_the_corpus_says_nothing_change_nothing():
    components, tokens = random_components(), random_tokens()
    components.mean[components.weight == 0] = 0
    unknown = components.weight[tokens.gene_ids] == 0
    assert unknown.any()
    share = torch.full((3, 2), 0.5)
    other = torch.where(unknown, tokens.expression + 2, tokens.expression)
    found = [components(values, tokens.gene_ids, share, None) for values in (tokens.expression, other)]
    torch.testing.assert_close(*found)


@torch.no_grad()
def test_a_cell_has_both_parts_at_the_lengths_that_the_config_names():
    tokens = random_tokens()
    factors = random_sfm()(tokens)
    efm = random_causal_efm(components=5, component_weight=0.5)
    efm.components.load_state_dict(random_components(vocab_size=VOCAB_SIZE).state_dict())
    found = efm(tokens, factors)
    learned, placed = found.cells.split([12, 5], 1)
    torch.testing.assert_close(placed.norm(dim=1) / learned.norm(dim=1), torch.full((3,), 0.5))
    torch.testing.assert_close(found.cells.square().mean(1), torch.ones(3), atol=1e-5, rtol=1e-4)
    alike = torch.nn.functional.cosine_similarity(learned, found.learned)
    torch.testing.assert_close(alike, torch.ones(3))


@torch.no_grad()
def test_without_components_a_cell_is_what_was_learned():
    tokens = random_tokens()
    efm = random_causal_efm()
    found = efm(tokens, random_sfm()(tokens))
    assert efm.components is None and torch.equal(found.cells, found.learned)
    assert not any(name.startswith("components") for name in efm.state_dict())


@torch.no_grad()
def test_padding_changes_nothing():
    components, tokens = random_components(), random_tokens(padded=True)
    share = torch.full((3, 2), 0.5)
    other = dataclasses.replace(tokens, expression=torch.where(tokens.is_gene, tokens.expression, 7.0))
    found = [components(t.expression, t.gene_ids, share, t.is_padding) for t in (tokens, other)]
    assert torch.equal(*found)
