"""Signs: conditional dependence against a regression, stated signs, abstention."""

import numpy as np
import pandas as pd
import pytest

from sccafm.confidence.signs import PRIOR_COUNT, conditional_dependence, infer_signs, stated_signs, tendencies
from sccafm.reference.bundle import ReferenceData

FITTED = {"intercept": 0.0, "coefficients": [8.0, 0.0, 0.0], "up": 0.9, "down": 0.9}
NONE = {"intercept": 0.0, "coefficients": [0.0, 0.0, 0.0], "up": 0.9, "down": 0.9}


@pytest.fixture
def driven():
    """Gene 0 raises gene 2 and lowers gene 3; gene 4 shares only the depth of the cells; 20 more follow the depth."""
    rng = np.random.default_rng(0)
    depth = 3 * rng.normal(size=(400, 1))
    values = depth + rng.normal(size=(400, 25))
    values[:, 2] += 1.5 * (values[:, 0] - depth[:, 0])
    values[:, 3] -= 1.5 * (values[:, 0] - depth[:, 0])
    return values, np.arange(25) < 2


def slow_dependence(values, i, j, components):
    """Correlation of what is left of two genes after regression on the components of the standardised matrix."""
    standard = (values - values.mean(0)) / values.std(0)
    basis = np.linalg.svd(standard, full_matrices=False)[0][:, :components]
    rest = [standard[:, k] - basis @ np.linalg.lstsq(basis, standard[:, k], rcond=None)[0] for k in (i, j)]
    return rest[0] @ rest[1] / np.linalg.norm(rest[0]) / np.linalg.norm(rest[1])


@pytest.mark.parametrize("components", [1, 3])
def test_dependence_is_the_slow_plain_one(driven, components):
    values, is_tf = driven
    found = conditional_dependence(values, is_tf, components)
    assert found.dtype == np.float32
    for i, j in ((0, 2), (0, 3), (1, 7)):
        assert found[i, j] == pytest.approx(slow_dependence(values, i, j, components), abs=1e-5)


def test_dependence_sees_through_depth(driven):
    values, is_tf = driven
    found = conditional_dependence(values, is_tf)
    assert np.corrcoef(values[:, 0], values[:, 4])[0, 1] > 0.8
    assert abs(found[0, 4]) < 0.15
    assert found[0, 2] > 0.3
    assert found[0, 3] < -0.3


def test_genes_that_do_not_vary_and_few_cells_say_nothing(driven):
    values, is_tf = driven
    values[:, 5] = 2.0
    assert (conditional_dependence(values, is_tf)[:, 5] == 0).all()
    assert (conditional_dependence(values[:10], is_tf) == 0).all()


def test_defaults_of_the_prior_are_no_evidence(tiny_model):
    prior = tiny_model.reference_data.prior
    stated = stated_signs(tiny_model.reference_data)
    assert set(stated["sign_source"]) == {"TRRUST", "CollecTRI"}
    assert 0 < len(stated) < 0.5 * (prior["sign"] == 1).sum()
    assert stated["sign"].isin([-1, 1]).all()


def test_prior_without_signs_states_none(tiny_model):
    reference_data = tiny_model.reference_data
    bare = ReferenceData(
        reference_data.genes,
        reference_data.conditions,
        reference_data.regulators,
        reference_data.prior[["Gene1", "Gene2"]],
    )
    assert len(stated_signs(bare)) == 0


def test_tendencies_are_means_drawn_towards_zero():
    edges = pd.DataFrame({"source": [3, 3, 3, 8], "sign": [1, 1, -1, -1]})
    found = tendencies(edges, "source", np.array([8, 3, 5]))
    np.testing.assert_allclose(found, [-1 / (1 + PRIOR_COUNT), 1 / (3 + PRIOR_COUNT), 0])


def test_data_decide_where_they_are_sure(driven, tiny_model):
    values, is_tf = driven
    signs = infer_signs(values, -np.arange(1, 26), is_tf, tiny_model.reference_data, FITTED)
    assert (signs.shape, signs.dtype) == ((2, 25), np.int8)
    assert signs[0, 2:5].tolist() == [1, -1, 0]


def test_stated_signs_win_and_the_rest_abstains(driven, tiny_model):
    values, is_tf = driven
    edge = stated_signs(tiny_model.reference_data).query("sign == -1").iloc[0]
    tokens = -np.arange(1, 26)
    tokens[[0, 2]] = edge["source"], edge["target"]
    assert infer_signs(values, tokens, is_tf, tiny_model.reference_data, FITTED)[0, 2] == -1
    for fitted in (NONE, None):
        signs = infer_signs(values, tokens, is_tf, tiny_model.reference_data, fitted)
        assert np.argwhere(signs).tolist() == [[0, 2]]


def test_regulators_that_repress_elsewhere_repress(driven, tiny_model):
    values, is_tf = driven
    stated = stated_signs(tiny_model.reference_data).query("sign_source == 'TRRUST'")
    tendency = stated.groupby("source")["sign"].agg(["mean", "size"]).query("size >= 5")["mean"]
    tokens = -np.arange(1, 26)
    tokens[:2] = tendency.idxmin(), tendency.idxmax()
    signs = infer_signs(values, tokens, is_tf, tiny_model.reference_data, FITTED | {"coefficients": [0.0, 20.0, 0.0]})
    assert (signs[0, 2:] == -1).all()
    assert (signs[1, 2:] == 1).all()
