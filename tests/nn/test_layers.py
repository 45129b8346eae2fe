"""The transformer against plain loops: attention, rotary positions, gated MLP, norms, padding."""

import math

import pytest
import torch
from making import backbone_sizes, shaken
from torch.nn import functional as F

from sccafm.nn.layers import Attention, Backbone, Block, GatedMLP, Rotary

CELLS, LENGTH, WIDTH = 2, 6, 16
IS_PADDING = torch.tensor([[False] * 6, [False, False, True, False, True, True]])  # a hole, and a tail


def hidden_states(seed=0):
    return torch.randn(CELLS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(seed))


def plain_norm(x, weight, eps):
    return x / math.sqrt(sum(float(value) ** 2 for value in x) / len(x) + eps) * weight


def plain_rotation(x, position, base, interleaved):
    """Each pair of coordinates is turned by an angle of its own."""
    half = len(x) // 2
    turned = x.clone()
    for j in range(half):
        a, b = (2 * j, 2 * j + 1) if interleaved else (j, j + half)
        angle = position * base ** (-2 * j / len(x))
        turned[a] = x[a] * math.cos(angle) - x[b] * math.sin(angle)
        turned[b] = x[a] * math.sin(angle) + x[b] * math.cos(angle)
    return turned


def plain_attention(layer, config, hidden, is_padding):
    """One cell, one head and one query at a time; queries on padding give zeros before the output projection."""
    head_dim = WIDTH // config.num_heads
    out = torch.zeros(CELLS, LENGTH, WIDTH)
    for c in range(CELLS):
        qkv = layer.qkv_proj(hidden[c])
        for h in range(config.num_heads):
            columns = slice(h * head_dim, (h + 1) * head_dim)
            q, k, v = (qkv[:, part * WIDTH : (part + 1) * WIDTH][:, columns] for part in range(3))
            if config.use_rotary:
                turn = (config.rotary_base, config.rotary_interleaved)
                q, k = (torch.stack([plain_rotation(x[p], p, *turn) for p in range(LENGTH)]) for x in (q, k))
            for i in range(LENGTH):
                if is_padding[c, i]:
                    continue
                keys = [j for j in range(LENGTH) if not is_padding[c, j] and not (config.is_causal and j > i)]
                weights = torch.softmax(torch.stack([q[i] @ k[j] for j in keys]) / math.sqrt(head_dim), 0)
                out[c, i, columns] = sum(w * v[j] for w, j in zip(weights, keys, strict=True))
    return layer.out_proj(out)


def plain_mlp(layer, x):
    gate, up = layer.gate_proj(x), layer.up_proj(x)
    return layer.down_proj(gate / (1 + torch.exp(-gate)) * up)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("rotary", [None, "halves", "interleaved"])
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_attention_equals_a_loop_over_heads_queries_and_keys(is_causal, rotary, padded):
    config = backbone_sizes(
        is_causal, use_rotary=rotary is not None, rotary_interleaved=rotary == "interleaved", rotary_base=50.0
    )
    layer = shaken(Attention(config))
    is_padding = IS_PADDING if padded else torch.zeros_like(IS_PADDING)
    expected = plain_attention(layer, config, hidden_states(), is_padding)
    found = layer(hidden_states(), IS_PADDING if padded else None)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_rotary_scores_depend_on_the_distance_alone():
    for interleaved in (False, True):
        rotary = Rotary(8, 100.0, interleaved)
        same = rotary(torch.ones(1, 1, 7, 8))[0, 0]
        assert same[2] @ same[4] == pytest.approx(float(same[4] @ same[6]), abs=1e-5)
        assert same[2] @ same[4] != pytest.approx(float(same[2] @ same[5]), abs=1e-2)


def test_rotary_needs_an_even_head_width():
    with pytest.raises(ValueError, match="even head width, got 5"):
        Backbone(backbone_sizes(embed_dim=10, use_rotary=True))


def test_odd_head_width_is_fine_without_rotary():
    assert Backbone(backbone_sizes(embed_dim=10))(torch.randn(1, 3, 10)).shape == (1, 3, 10)


def test_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(ValueError, match="multiple of num_heads, got 16 and 3"):
        backbone_sizes(num_heads=3)


@torch.no_grad()
def test_gated_mlp_equals_its_formula():
    layer = shaken(GatedMLP(backbone_sizes(backbone_mlp_hidden_dim=9)))
    x = hidden_states()
    torch.testing.assert_close(layer(x), plain_mlp(layer, x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
@torch.no_grad()
def test_block_is_pre_norm_with_two_residuals(eps):
    config = backbone_sizes(norm_eps=eps)
    block = shaken(Block(config))
    hidden = hidden_states()

    def norm(x, layer):
        return torch.stack([torch.stack([plain_norm(row, layer.weight, eps) for row in cell]) for cell in x])

    middle = hidden + plain_attention(block.attn, config, norm(hidden, block.attn_norm), torch.zeros_like(IS_PADDING))
    expected = middle + plain_mlp(block.mlp, norm(middle, block.mlp_norm))
    torch.testing.assert_close(block(hidden, None), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_is_zero_after_a_block_although_biases_are_not():
    block = shaken(Block(backbone_sizes()))
    assert (block(hidden_states(), IS_PADDING)[IS_PADDING] == 0).all()
    assert (block(hidden_states(), None)[IS_PADDING] != 0).all()


@pytest.mark.parametrize("is_causal", [False, True])
@torch.no_grad()
def test_what_stands_on_padding_changes_nothing(is_causal):
    backbone = shaken(Backbone(backbone_sizes(is_causal)))
    hidden, other = hidden_states(), hidden_states()
    other[IS_PADDING] = 7.0
    assert torch.equal(backbone(hidden, IS_PADDING), backbone(other, IS_PADDING))


@pytest.mark.parametrize("changes", [{}, {"use_rotary": True}, {"is_causal": True}])
@torch.no_grad()
def test_a_padded_tail_gives_the_numbers_of_the_shorter_cell(changes):
    backbone = shaken(Backbone(backbone_sizes(**changes)))
    hidden = hidden_states()
    is_padding = torch.arange(LENGTH) >= torch.tensor([[LENGTH], [4]])
    padded = backbone(hidden, is_padding)
    torch.testing.assert_close(padded[:1], backbone(hidden[:1]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(padded[1:, :4], backbone(hidden[1:, :4]), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_order_of_positions_matters_only_with_rotary_or_causal_attention():
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    hidden = hidden_states()
    for changes, equivariant in (({}, True), ({"use_rotary": True}, False), ({"is_causal": True}, False)):
        backbone = shaken(Backbone(backbone_sizes(**changes)))
        difference = (backbone(hidden[:, order]) - backbone(hidden)[:, order]).abs().max()
        assert (difference < 1e-5) == equivariant


@torch.no_grad()
def test_causal_attention_sees_no_later_position():
    backbone = shaken(Backbone(backbone_sizes(is_causal=True)))
    hidden = hidden_states()
    later = hidden.clone()
    later[:, 4:] = 0
    torch.testing.assert_close(backbone(hidden)[:, :4], backbone(later)[:, :4], atol=1e-6, rtol=1e-5)
    assert (backbone(hidden)[:, 4:] - backbone(later)[:, 4:]).abs().max() > 0.1


def test_bias_switches_leave_out_the_parameters():
    layer = Block(backbone_sizes(qkv_bias=False, out_bias=False, backbone_mlp_bias=False))
    assert not [name for name in layer.state_dict() if name.endswith("bias")]


def test_dropout_acts_in_training_alone():
    mlp = GatedMLP(backbone_sizes(backbone_mlp_dropout=0.5))
    x = hidden_states()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert (mlp.train()(x) == 0).float().mean() == pytest.approx(0.5, abs=0.15)
    assert torch.equal(mlp.eval()(x), mlp.down_proj(F.silu(mlp.gate_proj(x)) * mlp.up_proj(x)))
