"""Numbers of the reference implementation (shared/golden), within the tolerances that its README records."""

import dataclasses
import json
from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import sccafm
from sccafm.data.published import tokenize_as_published
from sccafm.losses import published
from sccafm.losses import structure as losses
from sccafm.nn.efm import NextGene
from sccafm.nn.ordering import GeneOrder, gene_order, regulatory_order, reordered
from sccafm.nn.routing import BalancedGating, balanced_beta
from sccafm.nn.vgae import Likelihood, Posterior, VGAEOutput
from sccafm.reference.genes import normalize_symbol
from sccafm.types import CONDITIONS, Factors

TOKEN_CASES = [
    *("human_symbol", "human_ensembl", "human_mixed_ids", "human_nopad", "human_nokeys", "human_missing_column"),
    *("mouse_symbol", "mouse_ensembl", "mixed_species", "integer_counts"),
]
SMALL = ("human_symbol", "mouse_symbol", "human_nopad", "mixed_species", "ragged")
CASES = [("small", case) for case in SMALL] + [("dense", "human_symbol"), ("dense", "ragged")]
EFM_CASES = [
    (config, case) for config, case in CASES if case != "mixed_species" and (config, case) != ("dense", "ragged")
]
PRIOR_CASES = [(config, case) for config, case in CASES if case != "mixed_species"]
TOTAL_CASES = [(config, case) for config, case in PRIOR_CASES if case != "ragged"]
GRADIENT_CASES = [("small", "human_symbol"), ("small", "mouse_symbol"), ("dense", "human_symbol")]
PRIORS = {"prior_topk64_pos5_neg0p1": 64, "prior_all_pos5_neg0p1": 10**9}


@pytest.fixture(scope="module")
def release(golden):
    return cache(lambda config, layout="flat": sccafm.load(golden(f"{config}/release_{layout}"), device="cpu"))


@pytest.fixture(scope="module")
def tokens_of(golden, release):
    """The published tokens of a case; "ragged" is human_symbol with another padding mask."""

    def tokens(config, case):
        source = "human_symbol" if case == "ragged" else case
        arguments = json.loads(golden(f"{config}/tokens/index.json").read_text())[source]
        settings = dict(arguments["tokenizer"])
        reference_data = release(config).reference_data
        found = tokenize_as_published(
            ad.read_h5ad(golden(f"{config}/tokens/{source}.input.h5ad")),
            reference_data.vocabulary,
            reference_data.conditions,
            {species: set(table.index) for species, table in reference_data.regulators.items()},
            max_length=settings.pop("max_length"),
            gene_key=arguments["gene_key"],
            keys={name: settings[f"{name}_key"] for name in CONDITIONS if f"{name}_key" in settings},
        )
        if case == "ragged":
            mask = load_file(golden(f"{config}/tokens/ragged.padding_mask.safetensors"))["padding_mask"]
            found = dataclasses.replace(found, is_padding=mask)
        return found

    return cache(tokens)


@pytest.fixture(scope="module")
def recorded(golden):
    return cache(lambda config, case, part: load_file(golden(f"{config}/model/{case}.{part}.safetensors")))


@pytest.fixture(scope="module")
def values_of(golden):
    return lambda config, case: json.loads(golden(f"{config}/model/{case}.losses.json").read_text())


def close(found, expected, atol):
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def factors_of(numbers) -> Factors:
    return Factors(numbers["u"], numbers["v"], numbers["hidden_states"][:, 0])


@pytest.mark.parametrize("config", ["small", "dense"])
@pytest.mark.parametrize("case", TOKEN_CASES)
def test_tokens_are_exact(config, case, golden, tokens_of):
    expected = np.load(golden(f"{config}/tokens/{case}.npz"))
    tokens = tokens_of(config, case)
    np.testing.assert_array_equal(tokens.gene_ids, expected["input_ids"])
    np.testing.assert_array_equal(tokens.expression, expected["expression_values"])
    np.testing.assert_array_equal(tokens.conditions, expected["condition_ids"])
    np.testing.assert_array_equal(~tokens.is_tf, expected["non_tf_mask"])
    assert (tokens.is_padding is None) == bool(expected["padding_mask_is_none"])
    if tokens.is_padding is not None:
        np.testing.assert_array_equal(tokens.is_padding, expected["padding_mask"])


@pytest.mark.parametrize("config", ["small", "dense"])
def test_both_layouts_hold_the_same_model(config, golden, release):
    flat, structured = release(config), release(config, "structured")
    for name in ("sfm", "vgae", "efm"):
        ours, theirs = getattr(flat, name).state_dict(), getattr(structured, name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert getattr(flat, name).config == getattr(structured, name).config
    assert flat.weights_hash == structured.weights_hash


@pytest.mark.parametrize("config", ["small", "dense"])
def test_state_dicts_hold_the_published_keys_and_shapes(config, golden, release):
    listed = json.loads(golden(f"{config}/state_keys.json").read_text())
    model = release(config)
    wrapped = {"foundation_modules.sfm.": model.sfm, "head_modules.vgae.": model.vgae}
    found = {prefix + k: list(t.shape) for prefix, net in wrapped.items() for k, t in net.state_dict().items()}
    assert found == listed["sfm_model"]
    assert {k: list(t.shape) for k, t in model.efm.state_dict().items()} == listed["efm_model"]


@pytest.mark.parametrize(("config", "case"), CASES)
@torch.no_grad()
def test_structure_module_gives_the_published_numbers(config, case, release, tokens_of, recorded):
    sfm, tokens, expected = release(config).sfm, tokens_of(config, case), recorded(config, case, "sfm")
    parts = sfm.embedding
    close(parts.expr_embedding(tokens.expression), expected["expr_embedding"], 1.6e-5)
    close(parts.batch_embedding(tokens.expression, tokens.is_padding), expected["batch_embedding"], 1.6e-5)
    close(parts.condition_embedding(tokens.conditions), expected["condition_embedding"][:, 0], 1.6e-5)
    embedded, is_padding = parts(tokens)
    close(embedded, expected["embeddings"], 1.6e-5)
    if is_padding is not None:
        assert torch.equal(is_padding, expected["key_padding_mask"])
    close(sfm.encode(tokens), expected["hidden_states"], 2.2e-5)
    factors, tf_logits, tg_logits = sfm.route(tokens)
    close(tf_logits, expected["tf_logits"][tokens.is_tf & tokens.is_gene], 2.2e-5)
    close(tg_logits, expected["tg_logits"][tokens.is_gene], 2.2e-5)
    close(factors.u, expected["u"], 1.2e-5)
    close(factors.v, expected["v"], 1.2e-5)
    close(factors.scores(), expected["grn"], 3e-6)
    assert torch.equal(factors.u > 0, expected["u"] > 0)
    assert torch.equal(factors.v > 0, expected["v"] > 0)


@pytest.mark.parametrize(("config", "case"), CASES)
@torch.no_grad()
def test_autoencoder_gives_the_published_numbers(config, case, release, tokens_of, recorded):
    vgae, tokens, expected = release(config).vgae, tokens_of(config, case), recorded(config, case, "vgae")
    factors = factors_of(recorded(config, case, "sfm"))
    for name, z in (("mu", expected["mu_z"]), ("fixed", expected["z_fixed"])):
        posterior, likelihood, _ = vgae(tokens.expression, factors, tokens.is_padding, z)
        close(posterior.mean, expected["mu_z"], 7e-7)
        close(posterior.scale, expected["sigma_z"], 7e-7)
        close(likelihood.mean, expected[f"mu_h_at_{name}"], 7e-7)
        close(likelihood.scale, expected[f"sigma_h_at_{name}"], 7e-7)
        close(likelihood.dropout, expected[f"p_drop_at_{name}"], 7e-7)


def published_order(numbers) -> GeneOrder:
    return GeneOrder(*(numbers[f"order_{part}"] for part in ("positions", "active_lengths", "cycle_breaks")))


@pytest.mark.parametrize(("config", "case"), CASES)
def test_genes_stand_in_the_published_order(config, case, tokens_of, recorded):
    numbers = recorded(config, case, "sfm")
    found = regulatory_order(factors_of(numbers), tokens_of(config, case))
    for name, expected in published_order(numbers)._asdict().items():
        assert torch.equal(getattr(found, name), expected), name


@pytest.mark.parametrize("masked", [False, True])
def test_hand_made_graphs_are_ordered_as_published(masked, golden):
    numbers = load_file(golden("small/gene_ordering.safetensors"))
    prefix = "mask" if masked else "nomask"
    for number, name in enumerate(json.loads(golden("small/gene_ordering.json").read_text())):
        is_gene = ~numbers["padding_mask"][number] if masked else torch.ones(12, dtype=torch.bool)
        positions, breaks = gene_order(numbers["grn"][number], torch.arange(12), is_gene)
        assert positions.tolist() == numbers[f"{prefix}.positions"][number].tolist(), name
        assert breaks == numbers[f"{prefix}.cycle_breaks"][number], name
        assert is_gene.sum() == numbers[f"{prefix}.active_lengths"][number], name


@pytest.mark.parametrize(("config", "case"), EFM_CASES)
def test_next_gene_has_the_published_targets_and_losses(config, case, release, tokens_of, recorded, values_of):
    numbers, expected = recorded(config, case, "efm"), values_of(config, case)
    ordered = reordered(tokens_of(config, case), published_order(recorded(config, case, "sfm")))
    targets = published.next_gene_targets(ordered, release(config).vocabulary.special("<eos>"))
    valid = numbers["target_valid"]
    assert torch.equal(targets.is_valid, valid)
    assert torch.equal(targets.gene_ids[valid], numbers["target_ids"][valid])
    assert torch.equal(targets.expression[valid], numbers["target_expression"][valid])
    total, identity, expression = published.next_gene_loss(
        NextGene(numbers["id_logits"], numbers["expression_pred"]), targets, 0.7
    )
    for found, name in ((total, "efm_total_lambda_exp_0p7"), (identity, "efm_id"), (expression, "efm_exp")):
        assert found.item() == pytest.approx(expected[name], rel=3e-7)


@pytest.mark.parametrize(("config", "case"), EFM_CASES)
@torch.no_grad()
def test_embedding_module_gives_the_published_numbers(config, case, release, tokens_of, recorded):
    efm, tokens, expected = release(config).efm, tokens_of(config, case), recorded(config, case, "efm")
    ordered = reordered(tokens, published_order(recorded(config, case, "sfm")))
    assert torch.equal(ordered.gene_ids, expected["reordered_input_ids"])
    assert torch.equal(ordered.expression, expected["reordered_expression"])
    assert torch.equal(ordered.is_tf, ~expected["reordered_non_tf"])
    hidden = efm(ordered)
    close(hidden, expected["hidden_states"], 2.1e-5)
    close(hidden[:, :6], expected["incremental_hidden_6"], 2.1e-5)
    predicted = efm.predict(hidden)
    close(predicted.id_logits, expected["id_logits"], 2.1e-5)
    close(predicted.expression, expected["expression_pred"], 2.1e-5)
    close(efm(tokens), expected["unordered_hidden_states"], 2.1e-5)


@pytest.mark.parametrize(("config", "case"), CASES)
def test_elbo_has_the_published_value(config, case, tokens_of, recorded, values_of):
    tokens, numbers, expected = tokens_of(config, case), recorded(config, case, "vgae"), values_of(config, case)
    for name, z in (("mu", numbers["mu_z"]), ("fixed", numbers["z_fixed"])):
        likelihood = Likelihood(*(numbers[f"{part}_at_{name}"] for part in ("mu_h", "sigma_h", "p_drop")))
        output = VGAEOutput(Posterior(numbers["mu_z"], numbers["sigma_z"]), likelihood, z)
        found = losses.elbo(tokens.expression, output, tokens.is_gene).item()
        assert found == pytest.approx(expected[f"elbo_z_{name}"], rel=3e-7)


def terms_of(factors, tokens, prior) -> dict[str, torch.Tensor]:
    """The published terms under the names of the records."""
    is_pair = (tokens.is_tf & tokens.is_gene)[:, :, None] & tokens.is_gene[:, None]
    held = prior[tokens.gene_ids[:, :, None], tokens.gene_ids[:, None]]
    found = {name: losses.prior_loss(factors.scores(), held, is_pair, k, 5.0, 0.1) for name, k in PRIORS.items()}
    found["dag_lambda1"] = losses.dag_penalty(factors)
    found["sparsity_lambda0p001"] = 0.001 * losses.sparsity(factors, tokens.is_tf, tokens.is_gene)
    return found


def prior_matrix(model) -> torch.Tensor:
    """Which pairs of tokens the release's OmniPath.csv holds, self-edges among them: V V bool."""
    vocabulary = model.vocabulary
    edges = pd.read_csv(model.files["omnipath"])
    source, target = (
        edges[column].map(normalize_symbol).map(vocabulary.token).to_numpy() for column in ("Gene1", "Gene2")
    )
    known = (source >= 0) & (target >= 0)
    held = torch.zeros(vocabulary.size, vocabulary.size, dtype=torch.bool)
    held[source[known], target[known]] = True
    return held


@pytest.mark.parametrize("config", ["small", "dense"])
def test_the_lexicon_holds_the_published_prior_without_self_edges(config, release):
    edges = release(config).reference_data.prior_tokens
    held = prior_matrix(release(config)).fill_diagonal_(False)
    assert sorted(zip(edges["source"], edges["target"], strict=True)) == [
        tuple(pair) for pair in held.nonzero().tolist()
    ]


@pytest.mark.parametrize(("config", "case"), PRIOR_CASES)
def test_prior_dag_and_sparsity_have_the_published_values(config, case, release, tokens_of, recorded, values_of):
    expected = values_of(config, case)
    prior = prior_matrix(release(config))
    assert int(prior.sum()) == expected["prior_pair_keys"]
    terms = terms_of(factors_of(recorded(config, case, "sfm")), tokens_of(config, case), prior)
    for name, term in terms.items():
        assert term.item() == pytest.approx(expected[name], rel=3e-7), name


TOTALS = [(0, 0), (0, 100), (2, 100), (4, 100)]  # epoch of 4, step of 1000; 3 % of the steps are warm-up


@pytest.mark.parametrize(("config", "case"), TOTAL_CASES)
@pytest.mark.parametrize(("epoch", "step"), TOTALS)
def test_terms_combine_to_the_published_total(config, case, epoch, step, release, tokens_of, recorded, values_of):
    expected = values_of(config, case)
    key = f"epoch{epoch}of4_step{step}of1000"
    terms = terms_of(factors_of(recorded(config, case, "sfm")), tokens_of(config, case), prior_matrix(release(config)))
    values = {
        "elbo": expected["elbo_z_mu"],
        "prior": terms["prior_topk64_pos5_neg0p1"].item(),
        "dag": terms["dag_lambda1"].item(),
        "sparsity": 1000 * terms["sparsity_lambda0p001"].item(),
    }
    weights = published.published_weights(epoch, 4, step, 30, prior=(20.0, 10.0), dag=1.0, sparsity=0.001)
    for name, value in expected[f"manager_metrics_{key}"].items():
        scale = 1000 if name == "sparsity" else 1  # recorded without its weight
        assert scale * weights[name] * values[name] == pytest.approx(value, rel=1e-6), name
    total = sum(weights[name] * values[name] for name in values)
    assert total == pytest.approx(expected[f"manager_total_{key}"], rel=1e-6)


@pytest.mark.parametrize(("config", "case"), GRADIENT_CASES)
def test_gradients_of_the_losses_are_the_published_ones(config, case, release, tokens_of, recorded):
    numbers, expected = recorded(config, case, "sfm"), recorded(config, case, "loss_grads")
    prior = prior_matrix(release(config))
    for name in (*PRIORS, "dag_lambda1", "sparsity_lambda0p001"):
        u, v = (numbers[leaf].clone().requires_grad_() for leaf in ("u", "v"))
        terms_of(Factors(u, v, numbers["hidden_states"][:, 0]), tokens_of(config, case), prior)[name].backward()
        for leaf, found in (("du", u.grad), ("dv", v.grad)):
            recorded_gradient = expected[f"{name}.{leaf}"]
            close(found, recorded_gradient, 1e-6 * float(recorded_gradient.abs().max()))


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_balanced_gating_moves_as_published(case, golden):
    """Each micro-batch asks for an offset; their mean, weighted by tokens, is what the step moves towards."""
    settings = json.loads(golden("small/qb_gating_training.json").read_text())
    numbers = {
        name.removeprefix(f"{case}."): tensor
        for name, tensor in load_file(golden("small/qb_gating_training.safetensors")).items()
        if name.startswith(f"{case}.")
    }
    k, momentum = settings[case]["k"], settings[case]["momentum"]
    gating = BalancedGating(len(numbers["beta_before"]), k, settings["temperature"], momentum)
    gating.beta_qb.copy_(numbers["beta_before"])
    batches = [numbers["logits0"], numbers["logits1"]]
    for number, logits in enumerate(batches):
        close(gating(logits), numbers[f"probs{number}"], 3e-7)
    asked = [balanced_beta(logits, gating.beta_qb, k) for logits in batches]
    tokens = [len(logits) for logits in batches]
    gating.update(sum(n * beta for n, beta in zip(tokens, asked, strict=True)) / sum(tokens))
    close(gating.beta_qb, numbers["beta_after"], 1e-6)
