"""trajectory: known switches are found again, curves equal plain fits, and every door."""

import builtins

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from making import made_grn

from sccafm.tl import trajectory
from sccafm.tl.smoothing import choose_penalty, curves, make_smoother, switches
from sccafm.tl.trajectories import scores_of


def lineage(n=300, seed=0):
    """r0 rises from 1 to 4 at 0.3, r1 falls at 0.7, r2 and r3 stay; each regulator has targets of its own.

    On a log scale half of the way is 2, which a logistic from 1 to 4 passes log(2) / 30 earlier than 2.5.
    """
    rng = np.random.default_rng(seed)
    time = rng.random(n)
    levels = np.ones((n, 4))
    levels[:, 0] = 1 + 3 / (1 + np.exp(-(time - 0.3) * 30))
    levels[:, 1] = 4 - 3 / (1 + np.exp(-(time - 0.7) * 30))
    levels *= rng.lognormal(0, 0.15, levels.shape)
    weights = np.full((4, 12), 0.02)
    for i in range(4):
        weights[i, 4 + 2 * i : 6 + 2 * i] = 0.5
    obs = pd.DataFrame({"time": time, "is_erythroid": time < 2, "donor": rng.choice(list("abc"), n)})
    return made_grn(levels, weights, obs), time


def test_switches_are_found_where_they_are():
    grn, _ = lineage()
    found = trajectory(grn, "time", n_drivers=2, n_edges=10, n_bootstrap=50)
    assert found.drivers == ["r0", "r1"]
    table = found.regulators.set_index("regulator")
    assert (
        table.loc["r0", "switch"] == pytest.approx(0.3 - np.log(2) / 30, abs=0.015)
        and table.loc["r0", "direction"] == 1
    )
    assert (
        table.loc["r1", "switch"] == pytest.approx(0.7 + np.log(2) / 30, abs=0.015)
        and table.loc["r1", "direction"] == -1
    )
    inside = table["switch_low"].le(table["switch"]) & table["switch"].le(table["switch_high"])
    assert inside[["r0", "r1"]].all()
    assert (table["switch_high"] - table["switch_low"])[["r0", "r1"]].max() < 0.1
    assert table["r2"][["r0", "r1"]].min() > 0.5 and table["r2"][["r2", "r3"]].max() < 0.1
    assert table.loc["r0", "change"] == pytest.approx(2, abs=0.4)  # log2 of 4
    assert "r0 up at 0.2" in repr(found)


def test_edges_of_the_drivers_switch_with_them():
    grn, _ = lineage()
    found = trajectory(grn, "time", n_drivers=2, n_edges=4, n_bootstrap=0)
    edges = found.edges
    assert set(edges["source"] + edges["target"]) == {"r0g0", "r0g1", "r1g2", "r1g3"}
    assert edges.loc[edges["source"] == "r0", "switch"].between(0.25, 0.35).all()
    assert edges["switch_low"].isna().all()
    assert len(found.edge_curves) == 4 * 100
    pd.testing.assert_index_equal(
        found.edge_curves.columns, pd.Index(["pseudotime", "source", "target", "log2_score", "low", "high"])
    )


def test_scores_of_cells_are_their_factors_products():
    grn, _ = lineage(40)
    found = scores_of(grn, np.array([3, 30]), np.array([1, 2]))
    u, v = grn.factors("cell30")
    expected = u.loc["r2"] @ v.T
    expected["r2"] = 0
    np.testing.assert_allclose(found[1, 1], expected, rtol=1e-6)


def test_one_cell_more_moves_no_bin():
    """Nothing is binned: a cell's influence is continuous in its pseudotime."""
    grn, time = lineage()
    moved = time.copy()
    moved[5] += 1e-9
    one, other = (trajectory(grn, list(t), n_edges=0, n_bootstrap=0).curves for t in (time, moved))
    np.testing.assert_allclose(one["log2_strength"], other["log2_strength"], atol=1e-6)


def test_curves_equal_the_normal_equations():
    rng = np.random.default_rng(1)
    smoother = make_smoother(rng.random(80))
    values = rng.normal(size=(80, 2))
    found = curves(smoother, values, np.array([0.1, 10.0]))
    x = smoother.basis - smoother.basis.mean(0)
    for j, penalty in enumerate((0.1, 10.0)):
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (values[:, j] - values[:, j].mean()))
        expected = (smoother.grid_basis - smoother.basis.mean(0)) @ weights + values[:, j].mean()
        np.testing.assert_allclose(found[:, j], expected, atol=1e-8)


def test_r2_is_that_of_left_out_cells():
    rng = np.random.default_rng(2)
    time = rng.random(40)
    smoother = make_smoother(time)
    values = (np.sin(4 * time) + rng.normal(0, 0.2, 40))[:, None]
    penalty, r2 = choose_penalty(smoother, values)
    errors = []
    for out in range(40):
        kept = np.delete(np.arange(40), out)
        x, y = smoother.basis[kept], values[kept, 0]
        center = x.mean(0)
        xc = x - center
        weights = np.linalg.solve(xc.T @ xc + penalty[0] * np.eye(x.shape[1]), xc.T @ (y - y.mean()))
        errors.append((values[out, 0] - y.mean() - (smoother.basis[out] - center) @ weights) ** 2)
    assert r2[0] == pytest.approx(1 - np.mean(errors) / values.var(), abs=0.01)


def test_switch_of_a_line_is_its_middle():
    grid = np.linspace(0, 10, 100)
    curve = np.stack([grid, -grid, np.minimum(grid, 4), np.exp(-((grid - 8) ** 2))], 1)
    switch, direction = switches(grid, curve)
    np.testing.assert_allclose(switch, [5, 5, 2, 8 - np.sqrt(np.log(2))], atol=0.06)
    assert direction.tolist() == [1, -1, 1, 1]


def test_nothing_drives_cells_in_random_order():
    grn, time = lineage()
    found = trajectory(grn, np.random.default_rng(5).permutation(time), n_bootstrap=0)
    assert found.drivers == [] and found.edges is None and "no driver" in repr(found)


def test_a_branch_is_followed_alone():
    grn, time = lineage()
    late = time > 0.5
    found = trajectory(grn, time, branch=late, n_drivers=1, n_edges=0, n_bootstrap=0)
    assert found.drivers == ["r1"] and found.n_cells == late.sum()
    whole = trajectory(grn, "time", branch="is_erythroid", n_edges=0, n_bootstrap=0)
    assert whole.n_cells == 300


def test_donors_are_resampled_where_they_are_named():
    grn, _ = lineage()
    found = trajectory(grn, "time", sample_key="donor", n_drivers=2, n_edges=0, n_bootstrap=20)
    again = trajectory(grn, "time", sample_key="donor", n_drivers=2, n_edges=0, n_bootstrap=20)
    pd.testing.assert_frame_equal(found.regulators, again.regulators)
    with pytest.raises(ValueError, match="sample_key names one donor"):
        trajectory(grn, "time", sample_key=["a"] * 300)


def test_without_factors_regulators_are_followed_and_edges_are_a_note():
    rng = np.random.default_rng(0)
    grn = made_grn(rng.random((50, 2)), rng.random((2, 5)), pd.DataFrame({"t": rng.random(50)}), keep_factors=False)
    found = trajectory(grn, "t", n_bootstrap=2)
    assert found.edges is None and "infer with keep_factors=True" in repr(found)
    assert len(found.regulators) == 2


def test_adata_is_annotated_and_can_be_written(tmp_path):
    grn, _ = lineage(60)
    adata = AnnData(np.zeros((60, 1), np.float32), obs=grn.obs)
    trajectory(grn, "time", adata=adata, n_drivers=2, n_edges=5, n_bootstrap=3)
    assert set(adata.uns["trajectory"]) == {"regulators", "curves", "edges"}
    assert adata.uns["trajectory"]["curves"]["regulator"].nunique() == 2
    adata.write_h5ad(tmp_path / "a.h5ad")


def test_validation(monkeypatch):
    grn, time = lineage(60)
    broken = time.copy()
    broken[[3, 9]] = np.nan, np.inf
    with pytest.raises(
        ValueError, match=r"pseudotime is NaN or infinite in 2 of 60 cells \(first: 'cell3'\); follow the others"
    ):
        trajectory(grn, broken)
    trajectory(grn, broken, branch=np.isfinite(broken), n_edges=0, n_bootstrap=0)
    with pytest.raises(ValueError, match="pseudotime must be numbers, 'labels' holds 'E7.25' and the like"):
        trajectory(grn, ["E7.25"] * 60)
    with pytest.raises(ValueError, match="pseudotime is 1.0 in every cell"):
        trajectory(grn, np.ones(60))
    with pytest.raises(KeyError, match="pseudotime: 'dpt' is no column of obs"):
        trajectory(grn, "dpt")
    with pytest.raises(ValueError, match="expected a label or value for each of 60 cells, got 3"):
        trajectory(grn, [1, 2, 3])
    with pytest.raises(ValueError, match="at least 30 cells, got 2"):
        trajectory(grn, time, branch=time <= np.sort(time)[1])
    with pytest.raises(ValueError, match="branch must say True or False of each cell"):
        trajectory(grn, time, branch="donor")
    with pytest.raises(ValueError, match="these networks are of other cells"):
        trajectory(grn, time, adata=AnnData(np.zeros((2, 1), np.float32)))
    imported = builtins.__import__

    def without(name, *arguments, **settings):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return imported(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "sccafm\[trajectory\]"'):
        trajectory(grn, time)
