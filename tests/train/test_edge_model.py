"""The edge model: what it is taught by, that popularity can't win, and what is held out of it."""

import numpy as np
import pytest
import torch

from sccafm.train.edge_evidence import EdgeEvidence, Split, scaled
from sccafm.train.edge_model import EdgeModelConfig, swap_loss, train_edge_model

SIZE, REGULATORS = 120, 24


@pytest.fixture(scope="module")
def evidence() -> EdgeEvidence:
    """Regulators and targets of two kinds; edges within a kind, and two targets that everyone binds."""
    rng = np.random.default_rng(0)
    regulator, target = np.meshgrid(np.arange(REGULATORS), np.arange(REGULATORS, SIZE), indexing="ij")
    same = (regulator % 2 == target % 2) & (rng.random(regulator.shape) < 0.5)
    same[:, :2] = True
    edges = np.stack([regulator[same], target[same]], 1).astype(np.int32)
    experiments = tuple({"regulator": i, "cell": f"line{i % 3}", "name": f"e{i}"} for i in range(REGULATORS))
    kind = np.where(np.arange(SIZE) % 2, 1.0, -1.0)[:, None] + 0.3 * rng.normal(size=(SIZE, 4))
    blocks = {"source.similarity": kind.astype(np.float32), "target.motif": kind.astype(np.float32)}
    return EdgeEvidence(SIZE, {"curated": edges}, edges.copy(), experiments, blocks)


def config(**changes) -> EdgeModelConfig:
    small = {"width": 4, "hidden": 8, "steps": 60, "genes": 80, "pairs": 512, "seeds": (0,)}
    return EdgeModelConfig(**small | {"sources": {"curated": 1.0, "encode": 1.0}} | changes)


def features(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(SIZE, 3)).astype(np.float32), rng.normal(size=(SIZE, 3)).astype(np.float32)


def train(evidence, split=None, **changes):
    return train_edge_model(evidence, *features(), config(**changes), split, progress=False)


def is_own(regulators, targets):
    return regulators[:, None] % 2 == targets % 2


@pytest.mark.parametrize("loss", ["swap", "levels"])
@pytest.mark.parametrize("question", [0, 1])
def test_regulators_that_were_held_out_find_their_targets_through_their_relatives(evidence, question, loss):
    held = np.arange(4)
    split = Split(chip_regulators=frozenset(held.tolist()), curated_regulators=frozenset(held.tolist()))
    targets = np.arange(REGULATORS + 2, SIZE)
    product = train(evidence, split, loss=loss).product(question, held, targets)
    product = product - product.mean(0)
    assert product[is_own(held, targets)].mean() > 0.3 + product[~is_own(held, targets)].mean()


def test_held_out_regulators_cells_and_edges_are_taken_out_everywhere(evidence):
    hidden = np.arange(len(evidence.edges["curated"])) % 5 == 0
    split = Split(frozenset({0}), frozenset({"line1"}), frozenset({2}), hidden)
    left = evidence.training_edges(split)
    assert set(left["encode"][:, 0]) == {i for i in range(1, REGULATORS) if i % 3 != 1}
    assert set(left["curated"][:, 0]) == set(range(REGULATORS)) - {2}
    kept = set(map(tuple, evidence.edges["curated"][~hidden]))
    assert set(map(tuple, left["curated"])) == {edge for edge in kept if edge[0] != 2}
    with_all, without = evidence.chip_vectors(Split()), evidence.chip_vectors(split)
    assert with_all[0].shape[1] > without[0].shape[1] == REGULATORS - 1 - 8 - 1  # a column less than experiments


def test_a_regulators_own_experiments_do_not_describe_it(evidence):
    _, borrowed = evidence.chip_vectors(Split())
    alone = EdgeEvidence(SIZE, {}, evidence.memberships, evidence.experiments, evidence.blocks)
    changed = alone.memberships.copy()
    own = changed[:, 0] == 5
    changed[own, 1] = REGULATORS + (changed[own, 1] + 31) % (SIZE - REGULATORS)
    # loadings of the others move a little with the common directions; the sign-free length of what 5 borrows hardly does
    other = EdgeEvidence(SIZE, {}, changed, evidence.experiments, evidence.blocks).chip_vectors(Split())[1]
    assert np.linalg.norm(other[5]) == pytest.approx(np.linalg.norm(borrowed[5]), rel=0.25)


def test_no_level_of_regulators_or_targets_moves_the_swap_loss():
    generator = torch.Generator().manual_seed(0)
    product, levels = torch.randn(12, 40, generator=generator), torch.randn(52, generator=generator)
    is_edge = torch.rand(12, 40, generator=generator) < 0.3
    losses = []
    for scores in (product, product + 3 * levels[:12, None] + 3 * levels[12:]):
        torch.manual_seed(1)
        losses.append(float(swap_loss(scores, is_edge, 400)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    torch.manual_seed(1)
    assert float(swap_loss(4.0 * is_edge, is_edge, 400)) < 0.01 < losses[0]


def test_the_same_seed_gives_the_same_vectors_and_leaves_the_random_state_alone(evidence):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = train(evidence, steps=3)
    assert torch.equal(torch.rand(2), expected)
    np.testing.assert_array_equal(first.source, train(evidence, steps=3).source)


def test_seeds_stand_side_by_side_and_products_are_their_mean(evidence):
    one, two = (train(evidence, steps=3, seeds=(seed,)) for seed in (0, 1))
    both = train(evidence, steps=3, seeds=(0, 1))
    ends = np.arange(3), np.arange(50, 60)
    mean = (one.product(1, *ends) + two.product(1, *ends)) / 2
    np.testing.assert_allclose(both.product(1, *ends), mean, atol=1e-5)


def test_blocks_have_root_mean_square_1_over_the_genes_they_know():
    block = np.zeros((10, 3))
    block[:6] = np.random.default_rng(0).normal(size=(6, 3)) * 9
    assert np.mean(scaled(block)[:6] ** 2) == pytest.approx(1, rel=1e-5)
    assert not scaled(block)[6:].any()


def test_evidence_that_was_not_compiled_says_how(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="evidence.safetensors is missing; make it: python scripts/compile_regulation.py"
    ):
        EdgeEvidence.read(tmp_path)
