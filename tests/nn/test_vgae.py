"""The variational graph autoencoder against loops over genes."""

import pytest
import torch
from making import random_sfm, random_tokens, random_vgae
from torch.nn import functional as F

from sccafm.types import Factors


def some_factors(padded=True):
    tokens = random_tokens(padded=padded)
    with torch.no_grad():
        return tokens, random_sfm()(tokens)


def plain_two_layers(layers, x):
    return layers[3].weight @ F.silu(layers[0].weight @ x + layers[0].bias) + layers[3].bias


def heard_by(factors, c, features):
    """What each gene hears: the sum over regulators of their score on it times their features."""
    scores = factors.scores()[c]
    return [sum(scores[i, j] * features[i] for i in range(len(features))) for j in range(len(features))]


@torch.no_grad()
def test_posterior_equals_the_loop():
    vgae = random_vgae()
    tokens, factors = some_factors()
    posterior = vgae.encoder(tokens.expression, factors, tokens.is_padding)
    for c in range(len(tokens)):
        own = [plain_two_layers(vgae.encoder.expr_proj.proj, x[None]) for x in tokens.expression[c]]
        for j, heard in enumerate(heard_by(factors, c, own)):
            mean, raw = plain_two_layers(vgae.encoder.posterior_proj, torch.cat((own[j], heard, own[j] - heard)))
            padded = tokens.is_padding[c, j]
            expected = (0.0, 1.0) if padded else (float(mean), float(F.softplus(raw)) + 1e-6)
            assert (float(posterior.mean[c, j]), float(posterior.scale[c, j])) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("steps", "taken"), [(0, 1), (1, 1), (3, 3)])
@torch.no_grad()
def test_likelihood_equals_the_loop_and_zero_steps_act_as_one(steps, taken):
    vgae = random_vgae(fp_steps=steps, fp_damping=0.3)
    tokens, factors = some_factors()
    z = torch.randn(tokens.expression.shape, generator=torch.Generator().manual_seed(3))
    likelihood = vgae.decoder(z, factors, tokens.is_padding)
    for c in range(len(tokens)):
        own = [plain_two_layers(vgae.decoder.z_proj.proj, x[None]) for x in z[c]]
        hidden = own
        for _ in range(taken):
            hidden = [o + 0.3 * heard for o, heard in zip(own, heard_by(factors, c, hidden), strict=True)]
        for j in range(9):
            mean, raw, dropout = plain_two_layers(vgae.decoder.out_proj, torch.cat((own[j], hidden[j])))
            expected = [float(mean), float(F.softplus(raw)) + 1e-6, float(torch.sigmoid(dropout))]
            expected = [0.0, 1.0, 0.0] if tokens.is_padding[c, j] else expected
            assert [float(part[c, j]) for part in likelihood] == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_the_sample_is_mean_plus_scale_times_noise_unless_it_is_given():
    vgae = random_vgae()
    tokens, factors = some_factors(padded=False)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        output = vgae(tokens.expression, factors)
        torch.manual_seed(5)
        noise = torch.randn_like(tokens.expression)
    assert torch.equal(output.z, output.posterior.mean + output.posterior.scale * noise)
    z = torch.ones_like(noise)
    again = vgae(tokens.expression, factors, z=z)
    assert torch.equal(again.z, z)
    assert torch.equal(again.likelihood.mean, vgae.decoder(z, factors, None).mean)


@torch.no_grad()
def test_padding_changes_nothing_elsewhere():
    vgae = random_vgae()
    tokens, factors = some_factors()
    z = torch.ones_like(tokens.expression)
    padded = vgae(tokens.expression, factors, tokens.is_padding, z)
    length = int(tokens.is_gene[2].sum())
    shorter = Factors(factors.u[2:, :length], factors.v[2:, :length], factors.summary[2:])
    alone = vgae(tokens.expression[2:, :length], shorter, None, z[2:, :length])
    for found, expected in zip(
        (*padded.posterior, *padded.likelihood), (*alone.posterior, *alone.likelihood), strict=True
    ):
        torch.testing.assert_close(found[2:, :length], expected, atol=1e-6, rtol=1e-5)
