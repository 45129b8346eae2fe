"""What the sizes and settings of a network may be; the one place that knows."""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import NamedTuple


class Rule(NamedTuple):
    holds: Callable[[object], bool]
    told: str


def _is_whole(value: object, least: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


SIZE = Rule(lambda v: _is_whole(v, 1), "a whole number of at least 1")
OPTIONAL_SIZE = Rule(lambda v: v is None or _is_whole(v, 1), "null or a whole number of at least 1")
POSITIVE = Rule(lambda v: _is_number(v) and v > 0, "a number above 0")
NUMBER = Rule(_is_number, "a number")
SHARE = Rule(lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1")
SWITCH = Rule(lambda v: isinstance(v, bool), "true or false")
TEXT = Rule(lambda v: v is None or isinstance(v, str), "a text or null")

RULES = {
    **dict.fromkeys(("embed_dim", "num_heads", "num_factors", "router_hidden_dim", "hidden_dim"), SIZE),
    **dict.fromkeys(("gene_dim", "pool_heads", "cell_dim", "head_dim"), SIZE),
    **dict.fromkeys(("expr_hidden_dim", "batch_hidden_dim", "batch_num_bins", "cond_vocab_size"), SIZE),
    **dict.fromkeys(("backbone_mlp_hidden_dim", "head_hidden_dim"), OPTIONAL_SIZE),
    **dict.fromkeys(("expr_tau", "batch_tau", "router_temperature", "rotary_base"), POSITIVE),
    "norm_eps": Rule(lambda v: _is_number(v) and v >= 0, "a number of at least 0"),
    **dict.fromkeys(("cond_dropout", "out_dropout", "backbone_mlp_dropout", "router_dropout"), SHARE),
    **dict.fromkeys(("head_dropout", "dropout"), SHARE),
    **dict.fromkeys(("use_rotary", "rotary_interleaved", "qkv_bias", "out_bias", "backbone_mlp_bias"), SWITCH),
    "freeze_loaded_gene_embeddings": SWITCH,
    **dict.fromkeys(("attention_backend", "gene_embedding_ckpt"), TEXT),
    "expr_num_bins": Rule(lambda v: _is_whole(v, 2), "a whole number of at least 2, the zero bin among them"),
    "num_layers": Rule(lambda v: _is_whole(v, 0), "a whole number of at least 0"),
    "components": Rule(lambda v: _is_whole(v, 0), "a whole number of at least 0"),
    "component_weight": POSITIVE,
    "topk": Rule(lambda v: v is None or _is_whole(v, 0), "null or a whole number of at least 0"),
    "beta_momentum": Rule(lambda v: _is_number(v) and 0 < v <= 1, "a number above 0 and at most 1"),
    "fp_steps": Rule(lambda v: _is_whole(v, -math.inf), "a whole number"),
    "fp_damping": NUMBER,
    "graph": Rule(lambda v: v in ("sfm", "shuffled", "none"), '"sfm", "shuffled" or "none"'),
    "species": Rule(lambda v: len(v) == 2 and all(_is_whole(i, 0) for i in v), "the condition ids of human and mouse"),
}


def check_config(config) -> None:
    """Refuse a setting that no network can have; the message names it, what was expected and what came."""
    for field in fields(config):
        rule, value = RULES[field.name], getattr(config, field.name)
        if not rule.holds(value):
            raise ValueError(f"{field.name} must be {rule.told}, got {value!r}")
    if not hasattr(config, "num_heads"):
        return
    width, rest = divmod(config.embed_dim, config.num_heads)
    if rest:
        raise ValueError(f"embed_dim must be a multiple of num_heads, got {config.embed_dim} and {config.num_heads}")
    if config.use_rotary and width % 2:
        raise ValueError(
            f"rotary positions need an even head width, got {width}; change embed_dim or num_heads, or use_rotary"
        )
