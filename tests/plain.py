"""A slow plain reading of the published contract: numpy, one cell, one gene and one number at a time; no torch, no sccafm."""

import math

import numpy as np

EMBEDDING_EPS = 1.1920929e-07


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - max(x))
    return e / sum(e)


def softplus(x):
    return np.log1p(np.exp(x))


def linear(weights, name, x):
    bias = weights.get(f"{name}.bias")
    y = np.array([sum(row * x) for row in weights[f"{name}.weight"]])
    return y if bias is None else y + bias


def norm(x, weight, eps):
    return x / math.sqrt(sum(x * x) / len(x) + eps) * weight


def value_encoder(w, name, value):
    hidden = silu(linear(w, f"{name}.0", np.array([value])))
    return linear(w, f"{name}.3", norm(hidden, w[f"{name}.2.weight"], EMBEDDING_EPS))


def bins(latent, prototypes, tau):
    return softmax(np.array([-sum((latent - p) ** 2) / tau for p in prototypes]))


def expression_vector(w, value, tau):
    table = w["expr_embedding.bin_embeddings"]
    if value == 0:
        return table[0]
    encoded = value_encoder(w, "expr_embedding.value_encoder", value)
    return sum(
        s * row for s, row in zip(bins(encoded, w["expr_embedding.bin_prototypes"], tau), table[1:], strict=True)
    )


def batch_vector(w, values, tau):
    encoded = [value_encoder(w, "batch_embedding.value_encoder", value) for value in values]
    latent = np.zeros(w["batch_embedding.bin_prototypes"].shape[1])
    if encoded:
        share = softmax(np.array([linear(w, "batch_embedding.attention_score", e)[0] for e in encoded]))
        latent = sum(s * e for s, e in zip(share, encoded, strict=True))
    share = bins(latent, w["batch_embedding.bin_prototypes"], tau)
    return sum(s * row for s, row in zip(share, w["batch_embedding.bin_embeddings"], strict=True))


def condition_vector(w, ids):
    name = "condition_embedding."
    slots = [w[f"{name}cond_embedding.weight"][i] for i in ids]
    parts = [s + p for s, p in zip(slots, w[f"{name}cond_position_embedding.weight"], strict=True)]
    hidden = silu(linear(w, f"{name}cond_encoder.0", np.concatenate(parts)))
    return linear(w, f"{name}cond_encoder.3", norm(hidden, w[f"{name}cond_encoder.2.weight"], EMBEDDING_EPS))


def within(weights, prefix):
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def embed(w, config, cell):
    """The sequence of one cell, padding left out: 1 + G vectors."""
    rows = [condition_vector(w, cell["conditions"]) + batch_vector(w, cell["expression"], config["batch_tau"])]
    rows[0] = rows[0] + w["prefix_type_embedding"][0, 0]
    for gene, value, is_tf in zip(cell["gene_ids"], cell["expression"], cell["is_tf"], strict=True):
        token = w["gene_embedding.weight"][gene] + expression_vector(w, value, config["expr_tau"])
        rows.append(token + w["tf_type_embedding.weight"][0 if is_tf else 1] + w["gene_type_embedding"][0, 0])
    return [norm(row, w["final_norm.weight"], EMBEDDING_EPS) for row in rows]


def rotate(x, position, base, interleaved):
    turned, half = np.array(x), len(x) // 2
    for j in range(half):
        a, b = (2 * j, 2 * j + 1) if interleaved else (j, j + half)
        angle = position * base ** (-2 * j / len(x))
        turned[a] = x[a] * math.cos(angle) - x[b] * math.sin(angle)
        turned[b] = x[a] * math.sin(angle) + x[b] * math.cos(angle)
    return turned


def attention(w, config, rows, positions, is_causal):
    width = len(rows[0])
    size = width // config["num_heads"]
    qkv = [linear(w, "attn.qkv_proj", row) for row in rows]
    mixed = [np.zeros(width) for _ in rows]
    for head in range(config["num_heads"]):
        start = head * size
        q, k, v = ([row[part * width + start : part * width + start + size] for row in qkv] for part in range(3))
        if config["use_rotary"]:
            turn = (config["rotary_base"], config["rotary_interleaved"])
            q, k = ([rotate(x, p, *turn) for x, p in zip(many, positions, strict=True)] for many in (q, k))
        for i in range(len(rows)):
            seen = range(i + 1) if is_causal else range(len(rows))
            share = softmax(np.array([sum(q[i] * k[j]) / math.sqrt(size) for j in seen]))
            mixed[i][start : start + size] = sum(s * v[j] for s, j in zip(share, seen, strict=True))
    return [linear(w, "attn.out_proj", row) for row in mixed]


def backbone(w, config, rows, positions, is_causal):
    eps = config["norm_eps"]
    for number in range(config["num_layers"]):
        layer = within(w, f"layers.{number}.")
        normed = [norm(row, layer["attn_norm.weight"], eps) for row in rows]
        heard = attention(layer, config, normed, positions, is_causal)
        rows = [row + h for row, h in zip(rows, heard, strict=True)]
        normed = [norm(row, layer["mlp_norm.weight"], eps) for row in rows]
        gated = [silu(linear(layer, "mlp.gate_proj", n)) * linear(layer, "mlp.up_proj", n) for n in normed]
        rows = [row + linear(layer, "mlp.down_proj", g) for row, g in zip(rows, gated, strict=True)]
    return [norm(row, w["final_norm.weight"], eps) for row in rows]


def route(w, config, hidden):
    """Distribution over factors, and how far the choice is from another one."""
    logits = linear(w, "mlp.3", silu(linear(w, "mlp.0", hidden)))
    k, size = config["topk"], len(logits)
    if k == 0:
        return np.zeros(size), math.inf
    if k is None or k >= size:
        return softmax(logits / config["router_temperature"]), math.inf
    ranked = sorted(range(size), key=lambda m: -(logits - w["gating.beta_qb"])[m])
    offers = (logits - w["gating.beta_qb"])[ranked]
    out = np.zeros(size)
    out[ranked[:k]] = softmax(logits[ranked[:k]] / config["router_temperature"])
    return out, offers[k - 1] - offers[k]


def hidden_states(weights, config, cell, is_causal=False):
    """Encoder output of one cell; `cell` holds the genes that are no padding, and their positions in the row."""
    positions = [0, *(1 + p for p in cell["positions"])]
    rows = embed(within(weights, "embedding."), config, cell)
    return backbone(within(weights, "backbone."), config, rows, positions, is_causal)


def factors(weights, config, cell):
    """u (zero where a gene is no regulator), v and the narrowest choice of one cell."""
    hidden = hidden_states(weights, config, cell)[1:]
    targets = [route(within(weights, "tg_router."), config, row) for row in hidden]
    acting = [
        route(within(weights, "tf_router."), config, row) if is_tf else (np.zeros(config["num_factors"]), math.inf)
        for row, is_tf in zip(hidden, cell["is_tf"], strict=True)
    ]
    gap = min(gap for _, gap in (*targets, *acting))
    return np.array([u for u, _ in acting]), np.array([v for v, _ in targets]), gap


def vgae(w, config, expression, u, v, z):
    """Posterior, and likelihood of the sample z, of one cell."""

    def mlp(name, x):
        return linear(w, f"{name}.3", silu(linear(w, f"{name}.0", x)))

    def propagate(rows):
        flow = sum(np.outer(a, row) for a, row in zip(u, rows, strict=True))
        return [sum(share * f for share, f in zip(target, flow, strict=True)) for target in v]

    own = [mlp("encoder.expr_proj.proj", np.array([x])) for x in expression]
    heard = propagate(own)
    posterior = [mlp("encoder.posterior_proj", np.concatenate([f, p, f - p])) for f, p in zip(own, heard, strict=True)]
    decoded = [mlp("decoder.z_proj.proj", np.array([x])) for x in z]
    state = decoded
    for _ in range(max(1, config["fp_steps"])):
        state = [f + config["fp_damping"] * p for f, p in zip(decoded, propagate(state), strict=True)]
    out = [mlp("decoder.out_proj", np.concatenate([f, h])) for f, h in zip(decoded, state, strict=True)]
    return {
        "mu_z": [m for m, _ in posterior],
        "sigma_z": [softplus(s) + 1e-6 for _, s in posterior],
        "mu_h": [m for m, _, _ in out],
        "sigma_h": [softplus(s) + 1e-6 for _, s, _ in out],
        "p_drop": [1 / (1 + math.exp(-p)) for _, _, p in out],
    }


def next_gene(weights, hidden):
    """Logits of the gene and its expression at every position."""

    def head(name, row):
        return linear(weights, f"{name}.net.3", silu(linear(weights, f"{name}.net.0", row)))

    return np.array([head("ph_prob", row) for row in hidden]), np.array([head("ph_exp", row)[0] for row in hidden])
