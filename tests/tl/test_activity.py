"""regulator_activity: through decoupler and from strengths; what is written, said and refused."""

import builtins

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from making import made_grn
from scipy import sparse

from sccafm.tl import regulator_activity
from sccafm.tl.activity import regulon_table

pytestmark = pytest.mark.filterwarnings("ignore")  # of decoupler's own dependencies


def networks(n=40):
    """Two regulators of ten targets each; the first half of the cells has the first one's targets up."""
    rng = np.random.default_rng(0)
    weights = np.full((2, 22), 0.01)
    weights[0, 2:12] = weights[1, 12:22] = 0.5
    levels = np.ones((n, 2))
    levels[: n // 2, 0] = 3
    signs = np.zeros((2, 22), np.int8)
    signs[1, 12:15] = -1
    grn = made_grn(levels, weights, signs=signs)
    values = rng.random((n, 22)).astype(np.float32) + 0.1
    values[: n // 2, 2:12] += 2
    values[:, 1] = 0  # r1 is never detected
    return grn, AnnData(values, obs=pd.DataFrame(index=grn.cells), var=pd.DataFrame(index=grn.targets))


@pytest.mark.parametrize("method", ["ulm", "strength"])
def test_the_regulator_is_active_where_its_targets_are(method):
    grn, adata = networks()
    table = regulator_activity(adata, grn, method, n_targets=10)
    scores, padj = adata.obsm["score_sccafm"], adata.obsm["padj_sccafm"]
    assert scores.index.equals(adata.obs_names) and scores.columns.tolist() == ["r0", "r1"]
    assert scores["r0"][:20].min() > scores["r0"][20:].max()
    assert padj.shape == scores.shape
    assert padj.isna().all(axis=None) if method == "strength" else padj["r0"][:20].max() < 0.05
    pd.testing.assert_frame_equal(adata.uns["sccafm"]["activity"], table)


def test_weighted_means_are_asked_of_decoupler(monkeypatch):
    """Compiling the real one takes half a minute."""
    import decoupler

    grn, adata = networks()
    asked = {}

    def waggr(data, net, tmin, empty):
        asked.update(net=net, tmin=tmin, genes=data.var_names)
        for kind in ("score", "padj"):
            data.obsm[f"{kind}_waggr"] = pd.DataFrame(0.5, data.obs_names, ["r0", "r1"])

    monkeypatch.setattr(decoupler.mt, "waggr", waggr)
    table = regulator_activity(adata, grn, "waggr", n_targets=10)
    assert asked["tmin"] == 5 and set(asked["net"]["target"]) <= set(asked["genes"])
    assert table["n_targets"].tolist() == [10, 10] and (adata.obsm["score_sccafm"] == 0.5).all(axis=None)


def test_sparse_counts_and_empty_cells_are_scored():
    grn, adata = networks()
    counts = np.round(adata.X * 3)
    counts[5] = 0
    adata.X = sparse.csr_matrix(counts)
    regulator_activity(adata, grn, n_targets=10)
    scores = adata.obsm["score_sccafm"]
    assert len(scores) == 40 and scores.loc["cell5"].isna().all()
    assert scores.drop(index="cell5").notna().all(axis=None)


def test_a_regulator_that_no_cell_shows_is_said():
    grn, adata = networks()
    with pytest.warns(UserWarning, match=r"1 of 2 regulators were inferred although no cell shows their RNA \(r1\)"):
        table = regulator_activity(adata, grn, n_targets=10).set_index("regulator")
    assert table["is_inferred_only"].to_dict() == {"r0": False, "r1": True}
    assert table.loc["r0", "detection"] == 1 and table.loc["r1", "n_repressed"] == 3
    left = adata[:, adata.var_names != "r1"].copy()
    table = regulator_activity(left, grn, n_targets=10).set_index("regulator")
    assert np.isnan(table.loc["r1", "detection"]) and not table.loc["r1", "is_inferred_only"]  # nothing is known of it


def test_cells_that_lack_many_genes_of_the_networks_are_said():
    grn, adata = networks()
    few = adata[:, [*adata.var_names[: adata.n_vars // 2], "r1"]].copy()
    few = few[:, ~few.var_names.duplicated()].copy()
    with pytest.warns(UserWarning, match=r"adata lacks \d+% of the networks' \d+ genes"):
        regulator_activity(few, grn, n_targets=10, min_targets=2)
    regulator_activity(few, grn, "strength")  # a cell's own network asks for no gene


def test_regulons_are_what_exceeds_both_levels():
    """A target that every regulator scores highly is in no regulon for that."""
    weights = np.full((3, 9), 0.1)
    weights[:, 8] = 0.9  # everybody's
    weights[0, 4] = 0.3
    grn = made_grn(np.ones((4, 3)), weights)
    net = regulon_table(grn, None, 2)
    assert net[net["source"] == "r0"]["target"].iloc[0] == "g1"
    assert net.groupby("source")["weight"].max().eq(1).all() and not net.duplicated(["source", "target"]).any()
    scores = grn.matrix().to_numpy(copy=True)
    np.fill_diagonal(scores, 0)
    expected = scores[0].sum() * scores[:, 4].sum() / scores.sum()
    best = (scores[0, 4] - expected) / np.sqrt(expected)
    other = net[net["source"] == "r0"].iloc[1]
    j = grn.targets.get_loc(other["target"])
    level = scores[0].sum() * scores[:, j].sum() / scores.sum()
    assert other["weight"] == pytest.approx((scores[0, j] - level) / np.sqrt(level) / best)


def test_genes_are_found_by_the_column_that_holds_them():
    grn, adata = networks()
    adata.var["symbol"] = adata.var_names.to_numpy()
    adata.var_names = [f"ENSG{i}" for i in range(22)]
    table = regulator_activity(adata, grn, n_targets=10)
    assert table["n_targets"].tolist() == [10, 10]


def test_copy_leaves_the_adata_alone(tmp_path):
    grn, adata = networks()
    adata.uns["sccafm"] = {"params": {"model": "x"}}
    copied = regulator_activity(adata, grn, "strength", copy=True)
    assert "score_sccafm" in copied.obsm and "score_sccafm" not in adata.obsm and "activity" not in adata.uns["sccafm"]
    assert copied.uns["sccafm"]["params"] == {"model": "x"}
    copied.write_h5ad(tmp_path / "a.h5ad")


def test_validation(monkeypatch):
    grn, adata = networks()
    with pytest.raises(ValueError, match="method must be one of"):
        regulator_activity(adata, grn, "mlm")
    with pytest.raises(KeyError, match="no group 'x'"):
        regulator_activity(adata, grn, group="x")
    with pytest.raises(ValueError, match="no regulator has 50 targets among the genes of adata"):
        regulator_activity(adata, grn, min_targets=50)
    other = AnnData(np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match="adata holds none of the networks' 22 genes"):
        regulator_activity(other, grn)
    with pytest.raises(ValueError, match="these networks are of other cells"):
        regulator_activity(adata[:10].copy(), grn, "strength")
    imported = builtins.__import__

    def without(name, *arguments, **settings):
        if name == "decoupler":
            raise ImportError(name)
        return imported(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "sccafm\[activity\]"'):
        regulator_activity(adata, grn)
