"""Tables of the edge model: what a probability is, what comes back from disk, and files that do not belong together."""

import json

import numpy as np
import pytest
from making import random_regulation
from scipy.special import expit, logit

from sccafm.reference.regulation import POPULARITY, QUESTIONS, read_regulation, write_regulation

IDS = ["", "", *(f"ENSG{i:011}" for i in range(18))]


@pytest.fixture
def files(tmp_path):
    write_regulation(tmp_path, random_regulation(20), IDS)
    return {"regulation": tmp_path / "regulation.json", "regulation_tensors": tmp_path / "regulation.safetensors"}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_probability_is_the_logistic_of_pair_prior_and_popularity(question):
    regulation = random_regulation(20)
    regulators, targets, known = np.array([3, 7]), np.array([4, 7, 12]), np.array([[1, 0, 0], [0, 0, 1]], bool)
    found = regulation.probability(question, regulators, targets, known)
    fitted = regulation.maps[question]
    for a, i in enumerate(regulators):
        for b, j in enumerate(targets):
            own = {"binding": 2.0, "response": 1.0}[question]
            product = sum(
                (own if name == question else 1.0) / (own**2 + 1) ** 0.5 * float(x) * float(y)
                for q, name in enumerate(QUESTIONS)
                for x, y in zip(regulation.source[q, i], regulation.target[q, j], strict=True)
            )
            terms = [
                product,
                float(known[a, b]),
                *(float(regulation.popularity[name][j]) for name in POPULARITY[question]),
            ]
            whole = fitted["intercept"] + sum(s * t for s, t in zip(fitted["slopes"], terms, strict=True))
            assert found[a, b] == pytest.approx(expit(whole), rel=1e-4)


def test_the_pair_term_alone_separates_regulators():
    """Two regulators differ on a target by their vectors alone: popularity and the intercept cancel."""
    regulation = random_regulation(20)
    p = regulation.probability("binding", np.array([3, 7]), np.arange(8, 16), np.zeros((2, 8), bool)).astype(float)
    pair = regulation.pair("binding", np.array([3, 7]), np.arange(8, 16))
    np.testing.assert_allclose(logit(p[0]) - logit(p[1]), 0.5 * (pair[0] - pair[1]), atol=1e-4)


def test_tables_come_back_by_gene_id_whatever_the_order(files):
    regulation, order = random_regulation(20), [*range(19, 1, -1)]
    back = read_regulation(files, [*[IDS[i] for i in order], "ENSG99999999999"])
    np.testing.assert_allclose(back.target[:, :-1], regulation.target[:, order], rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(back.source[:, :-1], regulation.source[:, order], rtol=1e-2, atol=1e-3)
    assert not back.target[:, -1].any() and not back.source[:, -1].any()  # a gene that the tables do not know
    assert back.popularity["in_degree"][-1] == 0
    assert back.maps == regulation.maps


def test_a_release_without_tables_has_none():
    assert read_regulation({}, IDS) is None


def test_files_of_two_releases_are_told(files):
    content = json.loads(files["regulation"].read_text())
    files["regulation"].write_text(json.dumps(content | {"genes": content["genes"][:-3]}))
    with pytest.raises(ValueError, match="rows for 20 genes, regulation.json names 17; they come from two releases"):
        read_regulation(files, IDS)


def test_a_damaged_file_is_named(files):
    files["regulation_tensors"].write_bytes(files["regulation_tensors"].read_bytes()[:100])
    with pytest.raises(ValueError, match="regulation.safetensors.*download them again"):
        read_regulation(files, IDS)
