"""Random releases of every shape the contract allows, against a plain reading of the contract (`plain.py`)."""

import json
import random
import shutil

import numpy as np
import plain
import pytest
import torch
from making import write_json, write_tables
from safetensors.numpy import load_file, save_file

import sccafm
from sccafm.model.layout import CANDIDATES
from sccafm.types import Tokens

SEEDS = range(16)
DEFAULTS = {  # of the keys that a config may leave out, as the contract lists them
    "expr_tau": 1.0, "batch_tau": 1.0, "norm_eps": 1e-6, "use_rotary": False, "rotary_base": 10000,
    "rotary_interleaved": False, "router_temperature": 1.0, "topk": 32,
}  # fmt: skip


def random_sections(rng) -> dict:
    """Configs whose keys are now and then left out."""
    heads, head_dim = rng.choice([1, 2, 3]), rng.choice([2, 4])
    shared = {
        "embed_dim": heads * head_dim, "num_heads": heads, "num_layers": rng.choice([1, 2]),
        "expr_num_bins": rng.choice([2, 5]), "expr_hidden_dim": rng.choice([1, 4]), "expr_tau": rng.choice([0.3, 2.0]),
        "batch_num_bins": rng.choice([1, 3]), "batch_hidden_dim": rng.choice([2, 3]), "batch_tau": rng.choice([0.5, 3]),
        "backbone_mlp_hidden_dim": rng.choice([None, 5]), "norm_eps": rng.choice([1e-6, 1e-3]),
        "use_rotary": rng.random() < 0.5, "rotary_interleaved": rng.random() < 0.5, "rotary_base": rng.choice([100, 5e3]),
        "qkv_bias": rng.random() < 0.5, "out_bias": rng.random() < 0.5, "backbone_mlp_bias": rng.random() < 0.5,
    }  # fmt: skip
    factors = rng.choice([1, 6])
    router = {
        "num_factors": factors, "router_hidden_dim": rng.choice([1, 5]), "router_temperature": rng.choice([0.4, 1, 2.5]),
        "topk": rng.choice([None, 0, 1, 3, factors, 64]), "beta_momentum": rng.choice([0.2, 1]),
    }  # fmt: skip
    optional = [key for key in DEFAULTS if rng.random() < 0.3]
    sfm = {key: value for key, value in {**shared, **router}.items() if key not in optional}
    extra = (
        {"attention_backend": "fa2", "cond_vocab_size": 77, "gene_embedding_ckpt": "/x.pt"}
        if rng.random() < 0.5
        else {}
    )
    vgae = {"hidden_dim": rng.choice([1, 4]), "fp_steps": rng.choice([-1, 0, 1, 4]), "fp_damping": rng.choice([0.3, 1])}
    efm = {**shared, "head_hidden_dim": rng.choice([None, 3])}
    return {"sfm": sfm | extra, "vgae": vgae, "efm": efm}


def shapes(config: dict, rows: int, conditions: int) -> dict[str, tuple]:
    """Keys and shapes of embedding and backbone, written from the contract's table."""
    d, inner = config["embed_dim"], config.get("backbone_mlp_hidden_dim") or 4 * config["embed_dim"]
    found = {f"embedding.{kind}_type_embedding": (1, 1, d) for kind in ("prefix", "gene")}
    found["embedding.gene_embedding.weight"] = (rows, d)
    for kind, taken in (("expr", 1), ("batch", 0)):
        name, h = f"embedding.{kind}_embedding", config[f"{kind}_hidden_dim"]
        found |= {f"{name}.bin_embeddings": (config[f"{kind}_num_bins"], d)}
        found |= {f"{name}.bin_prototypes": (config[f"{kind}_num_bins"] - taken, h)}
        found |= {f"{name}.value_encoder.0.weight": (h, 1), f"{name}.value_encoder.0.bias": (h,)}
        found |= {f"{name}.value_encoder.2.weight": (h,)}
        found |= {f"{name}.value_encoder.3.weight": (h, h), f"{name}.value_encoder.3.bias": (h,)}
    h = config["batch_hidden_dim"]
    found |= {f"embedding.batch_embedding.attention_score.{k}": s for k, s in (("weight", (1, h)), ("bias", (1,)))}
    name = "embedding.condition_embedding"
    found |= {f"{name}.cond_embedding.weight": (conditions, d), f"{name}.cond_position_embedding.weight": (4, d)}
    found |= {f"{name}.cond_encoder.0.weight": (d, 4 * d), f"{name}.cond_encoder.0.bias": (d,)}
    found |= {f"{name}.cond_encoder.2.weight": (d,)}
    found |= {f"{name}.cond_encoder.3.weight": (d, d), f"{name}.cond_encoder.3.bias": (d,)}
    found |= {"embedding.tf_type_embedding.weight": (2, d), "embedding.final_norm.weight": (d,)}
    found |= {"backbone.final_norm.weight": (d,)}
    for i in range(config["num_layers"]):
        layer = f"backbone.layers.{i}"
        found |= {f"{layer}.attn_norm.weight": (d,), f"{layer}.mlp_norm.weight": (d,)}
        sizes = {"attn.qkv_proj": (3 * d, d), "attn.out_proj": (d, d)}
        sizes |= {"mlp.gate_proj": (inner, d), "mlp.up_proj": (inner, d), "mlp.down_proj": (d, inner)}
        for leaf, shape in sizes.items():
            switch = {"attn.qkv_proj": "qkv_bias", "attn.out_proj": "out_bias"}.get(leaf, "backbone_mlp_bias")
            found[f"{layer}.{leaf}.weight"] = shape
            if config[switch]:
                found[f"{layer}.{leaf}.bias"] = shape[:1]
    return found


def two_layers(name: str, inputs: int, hidden: int, outputs: int) -> dict[str, tuple]:
    return {
        f"{name}.0.weight": (hidden, inputs), f"{name}.0.bias": (hidden,),
        f"{name}.3.weight": (outputs, hidden), f"{name}.3.bias": (outputs,),
    }  # fmt: skip


def all_shapes(sections: dict, rows: int, conditions: int) -> dict[str, dict[str, tuple]]:
    sfm = shapes(sections["sfm"], rows, conditions)
    config, h = sections["sfm"], sections["vgae"]["hidden_dim"]
    for router in ("tf_router", "tg_router"):
        sfm |= two_layers(f"{router}.mlp", config["embed_dim"], config["router_hidden_dim"], config["num_factors"])
        if config.get("topk", DEFAULTS["topk"]) is not None:
            sfm[f"{router}.gating.beta_qb"] = (config["num_factors"],)
    vgae = two_layers("encoder.expr_proj.proj", 1, h, h) | two_layers("encoder.posterior_proj", 3 * h, h, 2)
    vgae |= two_layers("decoder.z_proj.proj", 1, h, h) | two_layers("decoder.out_proj", 2 * h, h, 3)
    efm = shapes(sections["efm"], rows, conditions)
    width = sections["efm"]["head_hidden_dim"] or sections["efm"]["embed_dim"]
    for head, outputs in (("ph_prob", rows), ("ph_exp", 1)):
        efm |= two_layers(f"{head}.net", sections["efm"]["embed_dim"], width, outputs)
    return {"sfm": sfm, "vgae": vgae, "efm": efm}


def random_weights(shape_of: dict, rng) -> dict[str, np.ndarray]:
    return {
        key: ((1.0 if "norm" in key else 0.0) + 0.5 * rng.standard_normal(shape)).astype(np.float32)
        for key, shape in shape_of.items()
    }


def random_release(folder, seed: int):
    """A release with gaps and doubles in its vocabulary, files left out, and layouts mixed; and what is in it."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    write_tables(folder)
    sections = random_sections(rng)
    words = json.loads((folder / "models/vocab.json").read_text())
    for record in words:  # gaps: token t stands at 2 t in half of the releases
        record["token_index"] *= 1 + seed % 2
    words[3]["gene_symbol"] = words[4]["gene_symbol"]
    write_json(folder / "models/vocab.json", words)
    rows, conditions = max(r["token_index"] for r in words) + 1, 6
    weights = {name: random_weights(s, numbers) for name, s in all_shapes(sections, rows, conditions).items()}
    is_bare = rng.random() < 0.25
    prefixes = (
        {"sfm": "", "vgae": None} if is_bare else {"sfm": "foundation_modules.sfm.", "vgae": "head_modules.vgae."}
    )
    stored = {p + k: w for name, p in prefixes.items() if p is not None for k, w in weights[name].items()}
    save_file(stored, folder / "models/sfm_model.safetensors")
    write_json(folder / "models/sfm_config.json", {name: sections[name] for name in ("sfm", "vgae")})
    save_file(weights["efm"], folder / "models/efm_model.safetensors")
    write_json(folder / "models/efm_config.json", {"efm": sections["efm"]})
    for name in ("OmniPath.csv", "homologous.csv", "mouse_tfs.csv"):
        if rng.random() < 0.5:
            (folder / name).unlink()
    for name in ("sfm_config", "sfm_model", "efm_config", "efm_model", "vocab", "cond_dict"):
        where = rng.choice(CANDIDATES[name])
        (folder / where).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / CANDIDATES[name][1], folder / where)
    weights["vgae"] = None if is_bare else weights["vgae"]
    return DEFAULTS | {"num_heads": 8}, sections, weights, rows


def random_cells(rows: int, seed: int):
    """Tokens with holes of padding, and each cell as the plain version reads it."""
    rng = np.random.default_rng(seed)
    shape = (3, 7)
    values = rng.gamma(1.0, 1.0, shape) * (rng.random(shape) < 0.6)
    padding = (rng.random(shape) < 0.25) & (np.arange(3)[:, None] > 0)  # the first cell is whole
    arrays = {
        "gene_ids": rng.integers(rows, size=shape),
        "expression": values.astype(np.float32),
        "conditions": rng.integers(6, size=(3, 4)),
        "is_tf": rng.random(shape) < 0.5,
    }
    tokens = Tokens(**{name: torch.from_numpy(a) for name, a in arrays.items()}, is_padding=torch.from_numpy(padding))
    cells = []
    for c in range(3):
        there = np.flatnonzero(~padding[c])
        cell = {name: arrays[name][c, there] for name in ("gene_ids", "expression", "is_tf")}
        cells.append(cell | {"positions": there, "conditions": arrays["conditions"][c]})
    return tokens, cells


@pytest.fixture(scope="module", params=SEEDS)
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract") / "release"
    defaults, sections, weights, rows = random_release(folder, request.param)
    model = sccafm.load(folder, device="cpu")
    tokens, cells = random_cells(rows, request.param)
    wide = {name: w and {k: a.astype(np.float64) for k, a in w.items()} for name, w in weights.items()}
    return model, {name: defaults | section for name, section in sections.items()}, wide, tokens, cells


@torch.no_grad()
def test_a_release_of_any_shape_gives_the_numbers_of_the_plain_reading(case):
    model, configs, weights, tokens, cells = case
    routed, hidden = model.sfm(tokens), model.sfm.encode(tokens)
    narrow = 0
    for c, cell in enumerate(cells):
        there = cell["positions"]
        rows = plain.hidden_states(weights["sfm"], configs["sfm"], cell)
        np.testing.assert_allclose(hidden[c, [0, *(1 + there)]], rows, atol=5e-5, rtol=1e-3)
        np.testing.assert_allclose(routed.summary[c], rows[0], atol=5e-5, rtol=1e-3)
        u, v, gap = plain.factors(weights["sfm"], configs["sfm"], cell)
        padding = np.setdiff1d(np.arange(7), there)
        assert not routed.u[c, padding].any()
        assert not routed.v[c, padding].any()
        if gap < 1e-4:  # a choice between equals may fall either way
            narrow += 1
            continue
        np.testing.assert_allclose(routed.u[c, there], u, atol=5e-5)
        np.testing.assert_allclose(routed.v[c, there], v, atol=5e-5)
        np.testing.assert_allclose(routed.scores()[c][there][:, there], u @ v.T, atol=5e-5)
    assert narrow < len(cells)


@torch.no_grad()
def test_the_autoencoder_of_any_shape_gives_the_numbers_of_the_plain_reading(case):
    model, configs, weights, tokens, cells = case
    if weights["vgae"] is None:
        assert model.vgae is None
        return
    factors = model.sfm(tokens)
    z = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    posterior, likelihood, _ = model.vgae(tokens.expression, factors, tokens.is_padding, z)
    found = dict(zip(("mu_z", "sigma_z", "mu_h", "sigma_h", "p_drop"), (*posterior, *likelihood), strict=True))
    for c, cell in enumerate(cells):
        there = cell["positions"]
        u, v = (f[c, there].double().numpy() for f in (factors.u, factors.v))
        expected = plain.vgae(weights["vgae"], configs["vgae"], cell["expression"], u, v, z[c, there].numpy())
        for name, values in expected.items():
            np.testing.assert_allclose(found[name][c, there], values, atol=5e-5, rtol=1e-4, err_msg=name)
        padding = np.setdiff1d(np.arange(7), there)
        for name, value in {"mu_z": 0, "sigma_z": 1, "mu_h": 0, "sigma_h": 1, "p_drop": 0}.items():
            assert (found[name][c, padding] == value).all()


@torch.no_grad()
def test_the_embedding_module_of_any_shape_gives_the_numbers_of_the_plain_reading(case):
    model, configs, weights, tokens, cells = case
    hidden = model.efm(tokens)
    predicted = model.efm.predict(hidden)
    for c, cell in enumerate(cells):
        where = [0, *(1 + cell["positions"])]
        rows = plain.hidden_states(weights["efm"], configs["efm"], cell, is_causal=True)
        logits, expression = plain.next_gene(weights["efm"], rows)
        np.testing.assert_allclose(hidden[c, where], rows, atol=5e-5, rtol=1e-3)
        np.testing.assert_allclose(predicted.id_logits[c, where], logits, atol=2e-4, rtol=1e-3)
        np.testing.assert_allclose(predicted.expression[c, where], expression, atol=2e-4, rtol=1e-3)


def test_saving_keeps_every_weight(case, tmp_path):
    model, _, weights, _, _ = case
    again = sccafm.load(model.save_pretrained(tmp_path / "again"), device="cpu")
    for name in ("sfm", "vgae", "efm"):
        if weights[name] is not None:
            found = getattr(again, name).state_dict()
            assert found.keys() == weights[name].keys()
            assert all(np.array_equal(found[key], array) for key, array in weights[name].items())
    files = load_file(tmp_path / "again/models/sfm_model.safetensors")
    assert all(array.dtype == np.float32 for array in files.values())
