"""knockout: the stated equations, what stands beside them, when it abstains, and every door."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from making import made_grn

import sccafm
from sccafm.tl import knockout
from sccafm.tl.perturbed import judge
from sccafm.tl.propagation import propagate, signed_shares


def chain():
    """r0 activates r1, r1 represses g0 and activates g1; r2 activates g2."""
    weights = np.full((3, 6), 0.01)
    weights[0, 1] = weights[1, 3] = weights[1, 4] = weights[2, 5] = 0.5
    signs = np.zeros((3, 6), np.int8)
    signs[0, 1], signs[1, 3], signs[1, 4] = 1, -1, 1
    grn = made_grn(np.ones((20, 3)), weights, signs=signs)
    values = np.random.default_rng(0).random((20, 6)).astype(np.float32) + 1.1
    return grn, AnnData(values, obs=pd.DataFrame(index=grn.cells), var=pd.DataFrame(index=grn.targets))


def test_a_loss_travels_along_the_signs():
    grn, adata = chain()
    table = knockout(adata, "r0", grn).expression.set_index("gene")
    assert table.loc["r0", "relative"] == -1 and table.loc["r1", "relative"] < -0.5
    assert table.loc["g0", "relative"] > 0.2 and table.loc["g1", "relative"] < -0.2  # repressed, activated
    assert table.loc["g0", "direct"] == 0 and abs(table.loc["g2", "relative"]) < 0.2
    means = pd.Series(adata.X.mean(0), grn.targets)
    np.testing.assert_allclose(table["change"], table["relative"] * means[table.index], rtol=1e-5)
    assert table["change"].abs().is_monotonic_decreasing
    gain = knockout(adata, "r0", grn, direction="gain").expression.set_index("gene")
    np.testing.assert_allclose(gain["relative"], -table["relative"][gain.index])
    one = knockout(adata, "r0", grn, n_steps=1).expression.set_index("gene")
    np.testing.assert_allclose(one["relative"][table.index].drop("r0"), table["direct"].drop("r0"))


def test_steps_equal_a_plain_loop():
    rng = np.random.default_rng(1)
    shares = rng.uniform(-1, 1, (3, 7))
    shares /= np.abs(shares).sum(0)
    regulators = [2, 4, 6]
    found = propagate(shares, np.array(regulators), np.array([4]), -1.0, 3)
    state = [0.0] * 7
    state[4] = -1.0
    for step in range(3):
        new = [sum(state[regulators[i]] * shares[i, j] for i in range(3)) for j in range(7)]
        new[4] = -1.0
        state = new
        np.testing.assert_allclose(found[step], state)
    assert np.abs(found).max() <= 1


def test_shares_equal_plain_ones():
    grn, _ = chain()
    shares, known = signed_shares(grn, None, "activates")
    scores = grn.matrix().to_numpy(copy=True)
    np.fill_diagonal(scores, 0)
    for i in range(3):
        for j in range(6):
            excess = scores[i, j] - scores[i].sum() * scores[:, j].sum() / scores.sum()
            sign = -1 if (i, j) == (1, 3) else 1
            expected = 0 if i == j else sign * max(excess, 0) / scores[:, j].sum()
            assert shares[i, j] == pytest.approx(expected)
    assert (np.abs(shares).sum(0) < 1).all()
    assert known[3] == 1 and known[5] == 0
    ignored, _ = signed_shares(grn, None, "ignore")
    assert ignored[2, 5] == 0 < shares[2, 5]


def test_several_genes_are_lost_together():
    grn, adata = chain()
    table = knockout(adata, ["r0", "r2"], grn).expression.set_index("gene")
    assert table.loc[["r0", "r2"], "relative"].eq(-1).all() and table.loc["g2", "relative"] < -0.4


# --- beside other perturbations


def screen(effects, n=30, seed=0, shared=0.0):
    """Cells of perturbations whose genes shift by `effects`, of controls, and what all perturbations share."""
    rng = np.random.default_rng(seed)
    names = ["r0", "r1", "r2", "g0", "g1", "g2"]
    parts, labels = [rng.normal(3, 0.1, (n, 6))], ["control"] * n
    for label, effect in effects.items():
        move = np.array([effect.get(gene, 0.0) for gene in names]) + shared * np.array([0, 0, 0, 1, -1, 2])
        parts.append(rng.normal(3, 0.1, (n, 6)) + move)
        labels += [label] * n
    obs = pd.DataFrame({"condition": labels, "line": "a"}, index=[f"p{i}" for i in range(len(labels))])
    return AnnData(np.concatenate(parts).astype(np.float32), obs=obs, var=pd.DataFrame(index=names))


RIGHT = {
    "r0": {"r1": -1, "g0": 1, "g1": -1},
    "r1": {"g0": 1, "g1": -1},
    "r2": {"g2": -1},
    "r0+r2": {"r1": -1, "g0": 1, "g1": -1, "g2": -1},
    "unread": {"r1": 3, "g0": -3, "g1": 3, "g2": 3},  # the mean of the others leads astray
    "unread+too": {"r1": 3, "g0": -3, "g1": 3, "g2": 3},
    "r1+r2": {"g0": 1, "g1": -1, "g2": -1},
}


def test_where_the_network_is_right_it_says_so():
    grn, adata = chain()
    found = knockout(adata, "r0", grn, perturbations=screen(RIGHT))
    table = found.judged.table.set_index("perturbation")
    assert table.index.tolist() == ["r0", "r0+r2", "r1", "r1+r2", "r2"]
    assert (table["network"] > 0.8).all() and (table["n_cells"] == 30).all()
    assert found.judged.is_above and found.verdict.startswith(
        "Above the mean of other perturbations: on 5 perturbations"
    )
    shown = found.expression.set_index("gene")
    assert shown.loc["r1", "observed"] == pytest.approx(-1, abs=0.1)
    assert "others" in repr(found) and found.verdict in repr(found)


def test_where_it_is_not_above_the_mean_of_others_it_abstains():
    grn, adata = chain()
    same = {label: {"g0": 1, "g1": -2, "g2": 1} for label in ("r0", "r1", "r2", "other")}
    found = knockout(adata, "r0", grn, perturbations=screen(same))
    assert not found.judged.is_above
    assert found.verdict.startswith("Abstains: on 3 perturbations") and "Do not read these values" in found.verdict
    few = knockout(adata, "r0", grn, perturbations=screen({"r0": {"g0": 1}, "other": {}}))
    assert "fewer than 3 perturbations tell nothing" in few.verdict


def test_without_a_screen_it_says_that_nothing_was_judged():
    grn, adata = chain()
    found = knockout(adata, "r0", grn)
    assert found.judged is None and found.verdict.startswith("Not judged") and "mean_of_others" not in found.expression


def test_observed_changes_and_correlations_equal_plain_ones():
    grn, _ = chain()
    data = screen(RIGHT, shared=0.5)
    data.obs["line"] = np.where(np.arange(len(data)) % 3 == 0, "a", "b")
    found = judge(lambda lost: np.arange(6.0), grn.regulators, grn.targets, data, "condition", "control", None, None)
    x, labels = data.X, data.obs["condition"].to_numpy()
    shift = {k: x[labels == k].mean(0) - x[labels == "control"].mean(0) for k in RIGHT}
    np.testing.assert_allclose(found.observed.loc["r2"], shift["r2"], rtol=1e-4, atol=1e-5)
    row = found.table.set_index("perturbation").loc["r0"]
    others = np.mean(
        [shift[k] for k in ("r1", "r2", "unread", "unread+too", "r1+r2")], axis=0
    )  # not r0+r2, which shares the gene
    assert row["mean_of_others"] == pytest.approx(np.corrcoef(others[1:], shift["r0"][1:])[0, 1], abs=1e-5)
    assert row["network"] == pytest.approx(np.corrcoef(np.arange(1, 6.0), shift["r0"][1:])[0, 1], abs=1e-5)


def test_cells_are_compared_within_strata():
    grn, _ = chain()
    data = screen(RIGHT, n=60)
    line = np.arange(len(data)) % 2
    data.obs["line"] = line.astype(str)
    data = data[~((line == 1) & (data.obs["condition"] == "r0").to_numpy() & (np.arange(len(data)) % 4 == 1))].copy()
    data.X = data.X + 5 * (data.obs["line"] == "1").to_numpy()[:, None].astype(np.float32)
    found = judge(lambda lost: np.arange(6.0), grn.regulators, grn.targets, data, "condition", "control", "line", None)
    assert found.observed.loc["r0", "g2"] == pytest.approx(0, abs=0.1)  # not the difference of the lines


# --- vectors and validation


def test_vectors_of_cells_move(toy_adata):
    grn = sccafm.infer_grn(toy_adata, null_cells=0, progress=False)
    found = knockout(toy_adata, "SPI1", grn, n_vectors=3)
    assert found.vector.index.tolist() == ["cell0", "cell1", "cell2"]
    assert np.isfinite(found.vector).all(axis=None) and (found.vector != 0).any(axis=None)


def test_adata_is_annotated_and_can_be_written(tmp_path):
    grn, adata = chain()
    knockout(adata, "r0", grn, perturbations=screen(RIGHT))
    assert adata.uns["knockout"]["verdict"].startswith("Above")
    adata.write_h5ad(tmp_path / "a.h5ad")
    del adata.uns["knockout"]
    knockout(adata, "r0", grn, copy=True)
    assert "knockout" not in adata.uns


def test_validation():
    grn, adata = chain()
    with pytest.raises(KeyError, match="'r9' is no gene of these networks; did you mean r2, r1, r0"):
        knockout(adata, "r9", grn)
    with pytest.raises(KeyError, match=r"did you mean r0\? If the data .* infer with always=\['R0'\] to read it"):
        knockout(adata, "R0", grn)
    with pytest.raises(ValueError, match="genes= is empty; name a regulator"):
        knockout(adata, [], grn)
    with pytest.raises(ValueError, match="'g0' is no regulator of these networks, so nothing would change"):
        knockout(adata, "g0", grn)
    with pytest.raises(ValueError, match="direction must be one of"):
        knockout(adata, "r0", grn, direction="down")
    with pytest.raises(ValueError, match="n_steps must be 1 or more"):
        knockout(adata, "r0", grn, n_steps=0)
    with pytest.raises(KeyError, match="no group 'x'"):
        knockout(adata, "r0", grn, group="x")
    with pytest.raises(ValueError, match="these networks are of other cells"):
        knockout(adata[:5].copy(), "r0", grn)
    with pytest.raises(KeyError, match="no perturbed cell is control='ctrl'"):
        knockout(adata, "r0", grn, perturbations=screen(RIGHT), control="ctrl")
    with pytest.raises(KeyError, match="perturbation_key='gene' is no column"):
        knockout(adata, "r0", grn, perturbations=screen(RIGHT), perturbation_key="gene")
    with pytest.raises(ValueError, match="none of 1 perturbations with at least 20 cells beside controls"):
        knockout(adata, "r0", grn, perturbations=screen({"x": {}}))
    adata.X[:, 0] = 0
    with pytest.warns(UserWarning, match="r0: not detected in these cells"):
        knockout(adata, "r0", grn)
