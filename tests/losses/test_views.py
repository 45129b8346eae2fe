"""Views of a cell: what they keep, what they lose, and the knock-out against a loop over genes."""

import dataclasses

import pytest
import torch
from making import random_causal_efm, random_sfm, random_tokens

from sccafm.losses import views
from sccafm.losses.embedding import WATCHED, EFMWeights, Views, objective, total


def some_cells(cells=3, genes=12, padded=False):
    tokens = random_tokens(cells, genes, padded=padded)
    with torch.no_grad():
        return tokens, random_sfm()(tokens)


def counted_cells(genes=400):
    """A cell of counts per 10,000 with a molecule or more of half its genes."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.full((2, genes), 0.8), generator=generator)
    counts[:, :3] = torch.tensor([1.0, 2.0, 9.0])
    tokens = random_tokens(2, genes, vocab_size=genes)
    expression = (counts * 1e4 / counts.sum(1, keepdim=True) / 2).log1p()  # half of the molecules are of other genes
    return dataclasses.replace(tokens, expression=expression), counts


def test_thinning_keeps_the_depth_and_loses_molecules():
    tokens, counts = counted_cells()
    torch.manual_seed(0)
    found = views.thinned(tokens, torch.tensor([1.0, 0.4])).expression
    torch.testing.assert_close(found[0], tokens.expression[0], atol=1e-4, rtol=1e-4)
    one = tokens.expression[1, 0].expm1()
    kept = found[1].expm1() / one * 0.4
    torch.testing.assert_close(kept, kept.round(), atol=1e-3, rtol=0)
    assert (kept.round() <= counts[1]).all()
    assert float(kept.sum() / counts[1].sum()) == pytest.approx(0.4, abs=0.08)
    assert float(found[1].expm1().sum() / tokens.expression[1].expm1().sum()) == pytest.approx(1.0, abs=0.2)


def test_an_empty_cell_can_be_thinned():
    tokens = dataclasses.replace(random_tokens(), expression=torch.zeros(3, 9))
    assert (views.thinned(tokens, torch.full((3,), 0.5)).expression == 0).all()


def test_activity_equals_the_loop():
    tokens, factors = some_cells()
    sent, received = views.activity(tokens, factors)
    scores, x = factors.scores(), tokens.expression
    for c in range(3):
        for g in range(12):
            assert float(sent[c, g]) == pytest.approx(
                float(x[c, g] * sum(scores[c, g, j] * x[c, j] for j in range(12))), abs=1e-5
            )
            assert float(received[c, g]) == pytest.approx(
                float(x[c, g] * sum(scores[c, i, g] * x[c, i] for i in range(12))), abs=1e-5
            )


def test_what_regulates_most_is_kept_in_every_view():
    tokens, factors = some_cells(genes=20)
    flows = views.activity(tokens, factors)
    seen = torch.zeros(3, 20)
    for seed in range(40):
        torch.manual_seed(seed)
        positions = views.kept_genes(tokens, factors, 10, 0.4)
        assert (positions.diff(dim=1) > 0).all()
        seen.scatter_add_(1, positions, torch.ones_like(positions, dtype=torch.float))
    for flow in flows:
        for c in range(3):
            best = [g for g in flow[c].topk(2).indices.tolist() if flow[c, g] > 0]
            assert all(seen[c, g] == 40 for g in best)
    assert (seen < 40).sum() > 20
    assert (seen > 0).all()
    torch.manual_seed(0)
    plain = views.kept_genes(tokens, None, 10, 0.4)
    assert plain.shape == (3, 10)


def test_padding_is_kept_last():
    tokens, factors = some_cells(padded=True)
    positions = views.kept_genes(tokens, factors, 8, 0.5)
    for c, length in enumerate(tokens.is_gene.sum(1).tolist()):
        assert (positions[c] < length).sum() == min(8, length)


def test_taken_cells_hold_the_chosen_genes():
    tokens, factors = some_cells()
    positions = torch.tensor([[0, 5], [1, 2], [4, 11]])
    shown, graph = views.taken(tokens, factors, positions)
    for c in range(3):
        for k, g in enumerate(positions[c].tolist()):
            assert shown.gene_ids[c, k] == tokens.gene_ids[c, g]
            assert torch.equal(graph.v[c, k], factors.v[c, g])
    torch.testing.assert_close(graph.scores()[0], factors.scores()[0][[0, 5]][:, [0, 5]])


def test_a_knock_out_spreads_along_the_graph():
    tokens, factors = some_cells()
    lost = torch.tensor([[0], [3], [6]])
    found = views.knocked_out(tokens, factors, lost, steps=2).expression
    scores, x = factors.scores(), tokens.expression
    for c in range(3):
        out = int(lost[c])
        loss = [1.0 if g == out else 0.0 for g in range(12)]
        for _ in range(2):
            now = []
            for j in range(12):
                whole = sum(float(scores[c, i, j] * x[c, i]) for i in range(12))
                gone = sum(float(scores[c, i, j] * x[c, i]) * loss[i] for i in range(12))
                now.append(1.0 if j == out else gone / max(whole, 1e-9))
            loss = now
        expected = [float(x[c, g]) * (1 - min(max(loss[g], 0), 1)) for g in range(12)]
        assert found[c].tolist() == pytest.approx(expected, abs=1e-5)
        assert found[c, out] == 0
    assert (found <= x + 1e-6).all()


def test_regulators_to_be_lost_are_among_the_most_active():
    tokens, factors = some_cells(genes=20)
    sent = views.activity(tokens, factors).sent
    for seed in range(10):
        torch.manual_seed(seed)
        drawn = views.active_regulators(tokens, factors, 2, 3)
        for c in range(3):
            assert set(drawn[c].tolist()) <= set(sent[c].topk(3).indices.tolist())
            assert len(set(drawn[c].tolist())) == 2


def shared_cells(genes=40):
    """Cells that share their genes, as a batch of training has them."""
    tokens = random_tokens(6, genes, vocab_size=60)
    return dataclasses.replace(tokens, gene_ids=tokens.gene_ids[:1].expand(6, -1))


SMALL = Views(genes=24, anchors=10, matched=3, knocked_out=2, knocked_out_among=4)


@pytest.mark.parametrize("graph", ["sfm", "shuffled", "none"])
@pytest.mark.parametrize("kind", ["causal", "plain"])
def test_every_design_gives_finite_terms_and_gradients(graph, kind):
    sfm, efm = random_sfm(), random_causal_efm(graph=graph)
    sfm.requires_grad_(False)
    torch.manual_seed(0)
    settings, weights = dataclasses.replace(SMALL, kind=kind), EFMWeights()
    terms = objective(sfm, efm, shared_cells(), settings, weights)
    assert list(terms) == ["cell", "gene", "reconstruction", *WATCHED]
    total(terms, weights).backward()
    learns = {name for name, p in efm.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {"gene_shift.weight", "pool.mix.weight", "value_head.2.weight", "usual_level"} <= learns
    assert ("source_head.weight" in learns) == (graph != "none")
    assert all(torch.isfinite(p.grad).all() for p in efm.parameters() if p.grad is not None)


def test_terms_of_weight_zero_are_left_out():
    sfm, efm, weights = random_sfm(), random_causal_efm(), EFMWeights(gene=0, reconstruction=0)
    terms = objective(sfm, efm, shared_cells(), SMALL, weights)
    assert list(terms) == ["cell", *WATCHED]
    assert total(terms, weights) is not None
    assert total(terms, EFMWeights(cell=2.0)).item() == pytest.approx(2 * terms["cell"].item())


def test_an_unknown_kind_of_view_is_refused():
    with pytest.raises(ValueError, match='views.kind must be "causal" or "plain", got \'random\''):
        Views(kind="random")
