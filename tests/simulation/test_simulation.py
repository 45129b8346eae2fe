"""The simulator: analytic steady states, SERGIO's data, seeds, validation; its truth on disk and by cell."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from test_readme import ROOT, blocks

import sccafm
from sccafm.reference.tables import bundled, read_prior
from sccafm.simulation import Kinetics, Technical, read_truth, sample_network, true_edges
from sccafm.simulation.programme import find_masters, read_tree

QUIET = Kinetics(noise=0.0, duration=40.0)
CHAIN = {"low": None, "high": "low"}


def network(*rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["source", "target", "sign", "strength"])


def ends(edges, rates, states=CHAIN, **settings) -> pd.DataFrame:
    """Deterministic expression at the end of each state: states x genes."""
    rates = pd.DataFrame(rates, index=list(states)).T
    settings = {"share_switched": 0.0, "kinetics": QUIET, "n_cells": 200} | settings
    adata = sccafm.simulate(edges, states=states, master_rates=rates, progress=False, **settings)
    last = adata.obs.groupby("state", observed=True)["pseudotime"].idxmax()
    return adata[last].to_df("expression").set_axis(last.index)


def hill(x, half):
    return x**2 / (half**2 + x**2)


def test_one_activator_reaches_its_analytic_steady_state():
    found = ends(network(("A", "B", 1, 3.0)), {"A": [0.8, 2.4]})
    a = np.array([1.0, 3.0])  # production over decay; the half response is their mean, 2
    np.testing.assert_allclose(found["A"], a, rtol=1e-4)
    np.testing.assert_allclose(found["B"], 3.0 * hill(a, 2.0) / 0.8, rtol=1e-4)


def test_one_repressor_reaches_its_analytic_steady_state():
    found = ends(network(("A", "B", -1, 3.0)), {"A": [0.8, 2.4]})
    np.testing.assert_allclose(found["B"], 3.0 * (1 - hill(np.array([1.0, 3.0]), 2.0)) / 0.8, rtol=1e-4)


def test_a_cascade_reaches_its_analytic_steady_state():
    found = ends(network(("A", "B", 1, 2.0), ("B", "C", -1, 4.0), ("A", "C", 1, 1.0)), {"A": [0.8, 2.4]})
    a = np.array([1.0, 3.0])
    b = 2.0 * hill(a, 2.0) / 0.8
    c = (4.0 * (1 - hill(b, b.mean())) + hill(a, 2.0)) / 0.8
    np.testing.assert_allclose(found[["B", "C"]], np.stack([b, c], 1), rtol=1e-3)


def test_two_genes_that_repress_each_other_rest_where_their_equations_agree():
    found = ends(network(("A", "B", -1, 3.0), ("B", "A", -1, 3.0)), {"A": [0.8, 0.8], "B": [0.1, 0.1]})
    x = found.loc["low"]
    np.testing.assert_allclose(x["A"], (0.8 + 3.0 * 0.5) / 0.8, rtol=1e-3)  # one level: each is its half response
    np.testing.assert_allclose(x["B"], (0.1 + 3.0 * 0.5) / 0.8, rtol=1e-3)


@pytest.mark.parametrize("off, sign, expected", [(0.0, 1, 0.0), (0.0, -1, 3.0), (0.5, 1, 1.5), (0.5, -1, 1.5)])
def test_an_edge_that_is_off_acts_like_an_absent_regulator_or_a_constant_one(off, sign, expected):
    kinetics = Kinetics(noise=0.0, duration=40.0, off_occupancy=off)
    activity = pd.DataFrame([[True], [False]], index=["low", "high"])
    found = ends(network(("A", "B", sign, 3.0)), {"A": [0.8, 2.4]}, activity=activity, kinetics=kinetics)
    np.testing.assert_allclose(found.loc["high", "B"], expected / 0.8, atol=1e-4)


def test_intrinsic_noise_has_the_mean_and_variance_of_the_langevin_equation():
    rates = pd.DataFrame({"only": {"A": 40.0}})
    settings = {"states": {"only": None}, "master_rates": rates, "n_cells": 4000, "progress": False}
    for step in (0.1, 0.5):
        kinetics = Kinetics(noise=1.5, step=step)
        a = sccafm.simulate(network(("A", "B", 1, 3.0)), kinetics=kinetics, **settings).to_df("expression")["A"]
        np.testing.assert_allclose(a.mean(), 50.0, atol=4 * np.sqrt(1.5**2 * 50 / 4000))
        np.testing.assert_allclose(a.var(), 1.5**2 * 50, rtol=4 * np.sqrt(2 / 4000))


SERGIO = {"DS4": {"T0": None, "T1": "T0", "T2": "T1"}, "DS5": {"T0": None, "T1": "T0", "T2": "T1", "T3": "T1"}}


@pytest.fixture(scope="module", params=SERGIO)
def sergio(request, shared):
    """SERGIO's cells (unspliced, spliced), the rates of its master regulators, and our cells of the same circuit."""
    folder, name = shared / "datasets/networks", f"sim_sergio_{request.param}"
    table = pd.read_csv(folder / f"{name}.csv.gz")
    edges = pd.DataFrame({
        "source": table["Gene1"], "target": table["Gene2"],
        "sign": table["type"].map({"+": 1, "-": -1}), "strength": table["K"].abs(),
    })  # fmt: skip
    rates = pd.read_csv(folder / f"{name}_regs.txt", header=None, index_col=0)
    rates = rates.set_axis([f"G{gene:.0f}" for gene in rates.index]).set_axis(list(SERGIO[request.param]), axis=1)
    theirs = ad.read_h5ad(shared / f"datasets/dev/{name}.h5ad")
    # SERGIO's regulators act through spliced mRNA: four times the unspliced, and less noisy. That noise is taken over.
    regulating = theirs[theirs.obs["cell_type"] == "T0"].to_df()[rates.index] / 4
    noise = float(np.sqrt((regulating.var() / regulating.mean()).median()))
    ours = sccafm.simulate(
        edges,
        states=SERGIO[request.param],
        master_rates=rates,
        share_switched=0.0,
        n_cells=1200,
        kinetics=Kinetics(noise=noise),
        progress=False,
    )
    return theirs, rates, ours


def test_the_root_state_has_sergios_means(sergio):
    """The root of SERGIO's trees is steady: all 100 genes agree within their noise, unspliced and spliced."""
    theirs, _, ours = sergio
    root = (theirs.obs["cell_type"] == "T0").to_numpy()
    u, s = (theirs[root].to_df(layer)[ours.var_names] for layer in ("unspliced", None))
    x = ours[ours.obs["state"] == "T0"].to_df("expression").mean()
    assert ((x - u.mean()).abs() < 0.45 * u.std()).all()
    assert (x - u.mean()).abs().max() < 0.2  # SERGIO's own replicates differ by 0.3 from their mean
    assert (4 * x - s.mean()).abs().max() < 0.6
    assert np.corrcoef(x, u.mean())[0, 1] > 0.9995


def test_cells_that_have_arrived_have_sergios_means(sergio):
    """SERGIO's other states are on their way. Arrived are cells whose master regulators are within a fifth."""
    theirs, rates, ours = sergio
    for state in rates.columns[1:]:
        cells = theirs[theirs.obs["cell_type"] == state]
        there = cells.to_df()[rates.index]
        off = (there - 4 * rates[state] / 0.8).abs() / (4 * rates.max(axis=1) / 0.8)
        u = cells[(off.max(axis=1) < 0.2).to_numpy()].to_df("unspliced")[ours.var_names]
        x = ours[(ours.obs["state"] == state) & (ours.obs["pseudotime"] % 1 > 0.6)].to_df("expression").mean()
        assert ((x - u.mean()).abs() < 0.6 * u.std()).all()
        assert np.corrcoef(x, u.mean())[0, 1] > 0.998


@pytest.fixture(scope="module")
def simulated():
    return sccafm.simulate(60, n_cells=120, progress=False)


def test_a_seed_gives_the_same_bits_and_another_gives_others(simulated):
    again = sccafm.simulate(60, n_cells=120, progress=False)
    other = sccafm.simulate(60, n_cells=120, random_state=1, progress=False)
    assert (again.X != simulated.X).nnz == 0
    assert again.layers["expression"].tobytes() == simulated.layers["expression"].tobytes()
    assert (again.obsm["causal_strength"] != simulated.obsm["causal_strength"]).nnz == 0
    assert list(other.var_names) != list(simulated.var_names)


def test_network_activity_and_rates_do_not_depend_on_the_number_of_cells(simulated):
    more = sccafm.simulate(60, n_cells=300, progress=False).uns["simulation"]
    less = simulated.uns["simulation"]
    pd.testing.assert_frame_equal(more["edges"], less["edges"])
    pd.testing.assert_frame_equal(more["rates"], less["rates"])
    np.testing.assert_array_equal(more["activity"], less["activity"])


def test_branches_share_their_trunk_and_flip_the_share_asked_for(simulated):
    truth = read_truth(simulated)
    n = round(0.3 * len(truth.edges))
    a = truth.activity
    assert (~a.loc["stem"]).sum() == n
    for parent, child in [("stem", "progenitor"), ("progenitor", "left"), ("progenitor", "right")]:
        assert (a.loc[parent] != a.loc[child]).sum() == n
    assert simulated.obs.groupby("state", observed=True)["pseudotime"].agg(lambda t: np.ceil(t.min())).tolist() == [
        1,
        2,
        3,
        3,
    ]


def test_counts_are_whole_and_the_truth_comes_back_from_disk(simulated, tmp_path):
    assert (simulated.X.data % 1 == 0).all() and simulated.X.min() == 0
    simulated.write_h5ad(tmp_path / "simulated.h5ad")
    back = ad.read_h5ad(tmp_path / "simulated.h5ad")
    pd.testing.assert_frame_equal(true_edges(back, "cell7"), true_edges(simulated, "cell7"), check_dtype=False)
    assert (back.obsm["causal_strength"] != simulated.obsm["causal_strength"]).nnz == 0


def test_a_cells_true_edges_are_those_of_its_state_with_the_effect_of_removing_the_regulator(simulated):
    stored = simulated.uns["simulation"]
    chosen = simulated[::7, ::2]  # cells and genes are cut, the truth stays
    for cell in chosen.obs_names:
        found = true_edges(chosen, cell).set_index(["source", "target"])
        state = list(stored["tree"]["state"]).index(simulated.obs.loc[cell, "state"])
        x = simulated[cell].to_df("expression").iloc[0]
        expected = {
            (e.source, e.target): e.sign * e.strength * hill(x[e.source], simulated.var.loc[e.source, "half_response"])
            for e, on in zip(stored["edges"].itertuples(), stored["activity"][state], strict=True)
            if on
        }
        assert set(found.index) == set(expected)
        np.testing.assert_allclose(found["effect"], [expected[edge] for edge in found.index], rtol=1e-4, atol=1e-6)
        assert found["effect"].abs().is_monotonic_decreasing


def test_technical_noise_can_be_turned_off_and_each_part_shows():
    plain = Technical(capture=1.0, capture_sd=0.0, batch_sd=0.0, dropout_percentile=0.0)
    by = {}
    for name, change in {
        "plain": {},
        "depth": {"capture_sd": 0.8},
        "batch": {"batch_sd": 0.8},
        "dropout": {"dropout_percentile": 50},
    }.items():
        technical = Technical(**(vars(plain) | change))
        by[name] = sccafm.simulate(40, n_cells=400, technical=technical, progress=False)
    x = by["plain"].layers["expression"]
    level = {name: np.asarray(adata.X.mean(0)).ravel() for name, adata in by.items()}
    expected = 20 * x.mean(0)
    assert (np.abs(level["plain"] - expected) < 5 * np.sqrt(expected / 400) + 1e-9).all()

    def spread(adata):
        ratio = np.asarray(adata.X.sum(1)).ravel() / adata.layers["expression"].sum(1)
        return np.log(ratio).std()

    assert spread(by["depth"]) > 0.4 > spread(by["plain"])  # capture cannot exceed 1: half of the spread is cut
    assert by["dropout"].X.nnz < 0.8 * by["plain"].X.nnz
    is_first = {name: (adata.obs["batch"] == "batch0").to_numpy() for name, adata in by.items()}
    expressed = x.mean(0) > 0.5

    def shift(name):
        parts = [
            by[name].X[rows].sum(0) / by[name].layers["expression"][rows].sum(0)
            for rows in (is_first[name], ~is_first[name])
        ]
        return np.log(np.asarray(parts[0] / parts[1]).ravel()[expressed]).std()

    assert shift("batch") > 0.5 > 0.05 > shift("plain")


def test_a_sampled_network_is_a_signed_part_of_the_prior_with_all_genes_in_it():
    prior = read_prior(bundled() / "OmniPath.csv")
    known = prior.set_index(["Gene1", "Gene2"])["sign"]
    for n, seed in [(30, 0), (200, 1), (500, 2)]:
        edges = sample_network(n, random_state=seed)
        assert len(set(edges["source"]) | set(edges["target"])) == n
        assert edges["source"].nunique() == max(2, n // 10)
        assert (known.loc[pd.MultiIndex.from_frame(edges[["source", "target"]])].to_numpy() == edges["sign"]).all()
        assert not edges.duplicated(["source", "target"]).any()
    pd.testing.assert_frame_equal(sample_network(30), sample_network(30))


def test_the_smallest_sampled_networks_hold_all_their_genes():
    for seed in range(5):
        edges = sample_network(4, random_state=seed)
        assert len(set(edges["source"]) | set(edges["target"])) == 4 and edges["source"].nunique() == 2


def test_the_page_on_simulation_runs():
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks(ROOT / "docs/simulate.md"):
            exec(compile(block, "simulate.md", "exec"), names)
    assert len(names["report"].to_frame()) == 10 and names["adata"].n_vars == 200


def test_the_bundled_model_knows_the_simulated_genes(simulated):
    find = sccafm.load(device="cpu").reference_data.genes.find
    assert all(find(name, "human")[1] != "lost" for name in simulated.var_names)


def test_masters_are_what_nothing_enters():
    source, target = np.array([0, 1, 2, 3, 3, 4]), np.array([1, 2, 0, 2, 4, 3])  # 0 > 1 > 2 > 0 is entered by 3 <> 4
    np.testing.assert_array_equal(find_masters(6, source, target), [3, 5])


def test_a_tree_may_come_in_any_order():
    assert list(read_tree({"leaf": "trunk", "trunk": "root", "root": None}).index) == ["root", "trunk", "leaf"]


EDGE = network(("A", "B", 1, 3.0))


@pytest.mark.parametrize(
    "edges, settings, error, message",
    [
        (EDGE.drop(columns="sign"), {}, KeyError, "expected columns source, target, sign"),
        (EDGE.iloc[:0], {}, ValueError, "has no edge"),
        (EDGE.assign(sign=0), {}, ValueError, r"isin\(\[-1, 1\]\)"),
        (EDGE.assign(target="A"), {}, ValueError, "self-edges, first 'A'"),
        (pd.concat([EDGE, EDGE]), {}, ValueError, "stand there twice, first A -> B"),
        (EDGE.assign(strength=-1.0), {}, ValueError, "strengths must be positive"),
        (EDGE.assign(strength=np.nan), {}, ValueError, "strengths must be positive"),
        (EDGE, {"states": {"a": None, "b": None}}, ValueError, "expected one root"),
        (EDGE, {"states": {"a": None, "b": "c"}}, ValueError, "are no states"),
        (EDGE, {"states": {"a": None, "b": "c", "c": "b"}}, ValueError, "not reached from the root"),
        (EDGE, {"share_switched": 1.5}, ValueError, "share_switched is a share"),
        (EDGE, {"activity": np.ones((2, 1), bool)}, ValueError, "4 states x 1 edges"),
        (EDGE, {"activity": np.ones((4, 1))}, ValueError, "expected activity as booleans"),
        (EDGE, {"activity": pd.DataFrame([[True]], index=["x"])}, ValueError, r"activity has the states \['x'\]"),
        (EDGE, {"master_rates": pd.DataFrame({"stem": {"A": 1.0}})}, KeyError, "genes of the network x states"),
        (EDGE, {"states": {"a": None}, "master_rates": pd.DataFrame({"a": {"Z": 1.0}})}, KeyError, r"unknown genes \['Z'\]"),
        (EDGE, {"states": {"a": None}, "master_rates": pd.DataFrame({"a": {"A": -1.0}})}, ValueError, "not negative"),
        (EDGE, {"n_cells": 3}, ValueError, "a cell or more per state"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(edges, settings, error, message):
    with pytest.raises(error, match=message):
        sccafm.simulate(edges, progress=False, **settings)


def test_wrong_rates_noise_and_sizes_are_named(simulated):
    with pytest.raises(ValueError, match="decay=0"):
        Kinetics(decay=0)
    with pytest.raises(ValueError, match="off_occupancy=2"):
        Kinetics(off_occupancy=2)
    with pytest.raises(ValueError, match="capture"):
        Technical(capture=0)
    with pytest.raises(ValueError, match="must not be negative"):
        Technical(batch_sd=-1)
    with pytest.raises(ValueError, match="asked for 5000 regulators among 6000 genes"):
        sample_network(6000, n_regulators=5000)
    with pytest.raises(ValueError, match="raise n_regulators=2"):
        sample_network(5000, n_regulators=2)
    with pytest.raises(KeyError, match="cells look like 'cell0'"):
        true_edges(simulated, "nobody")
    with pytest.raises(KeyError, match="expected an AnnData from sccafm.simulate"):
        read_truth(ad.AnnData(np.ones((2, 2))))
