"""simulate: from a signed network to an AnnData whose regulation is known, cell by cell."""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from tqdm.auto import tqdm

from sccafm.simulation.dynamics import Dynamics, Kinetics
from sccafm.simulation.network import read_network, sample_network
from sccafm.simulation.programme import (
    Programme,
    draw_activity,
    draw_rates,
    find_masters,
    read_activity,
    read_rates,
    read_tree,
)
from sccafm.simulation.technical import Technical, count
from sccafm.simulation.truth import KEY, STRENGTH

TREE = {"stem": None, "progenitor": "stem", "left": "progenitor", "right": "progenitor"}
BLOCK_CELLS = 200  # simulated together: their numbers fit the cache of a processor


def simulate(
    network: pd.DataFrame | int = 200,
    *,
    n_cells: int = 2000,
    states: Mapping[str, str | None] | None = None,
    share_switched: float = 0.3,
    activity: pd.DataFrame | np.ndarray | None = None,
    master_rates: pd.DataFrame | None = None,
    n_batches: int = 2,
    kinetics: Kinetics | None = None,
    technical: Technical | None = None,
    random_state: int = 0,
    progress: bool = True,
) -> AnnData:
    """Simulate cells along a branching trajectory on which edges are switched on and off.

    Expression follows the chemical Langevin equation with Hill regulation (`sccafm.simulation.dynamics`); each cell
    walks alone from the root to its state. Counts add capture, library size, batch and dropout.

    Parameters
    ----------
    network
        Table source, target, sign (+1 or -1) and, if wanted, strength (production at full occupancy; drawn from
        1 to 5 otherwise). A number samples so many genes of the prior (`sccafm.simulation.sample_network`), so that a
        model knows them.
    n_cells
        Cells, spread evenly over the states.
    states
        Tree: each state and its parent, None for the root. None: stem -> progenitor -> left or right.
    share_switched
        Share of the edges that is off in the root and that flips on each branch.
    activity
        Booleans states x edges instead of `share_switched`; an array has the states in the tree's order.
    master_rates
        Production rates, genes x states, instead of drawn ones. Drawn are those of genes that nothing regulates, and of
        one gene in each circle of edges that nothing enters.
    n_batches
        Cells are assigned to batches at random.
    kinetics, technical
        Rates and noise.
    random_state
        The same seed gives the same bits on one machine. Network, activity and rates do not depend on `n_cells`.
    progress
        Show a bar.

    Returns
    -------
    AnnData, cells x genes:

    - X: counts, CSR float32; `layers["expression"]`: expression without technical noise, float32
    - obs: state, batch (categorical), pseudotime (float64: depth in the tree plus the share of the state that is passed)
    - var: is_regulator, is_master (bool), half_response (float64, NaN for other genes)
    - `obsm["causal_strength"]`: cells x edges, CSR float32, the effect of each true edge (`sccafm.simulation.true_edges`)
    - `uns["simulation"]`: edges (source, target, sign, strength), activity (states x edges, bool), tree (state, parent),
      rates (genes x states), kinetics, technical, random_state

    Raises
    ------
    KeyError, ValueError
        A table lacks columns, or holds what cannot be simulated; the message says what mends it.
    """
    kinetics, technical = kinetics or Kinetics(), technical or Technical()
    parent = read_tree(TREE if states is None else states)
    if n_cells < len(parent) or n_batches < 1:
        raise ValueError(f"expected a cell or more per state and a batch or more; got {n_cells=}, {n_batches=}")
    seeds = np.random.SeedSequence(random_state).spawn(3)
    design, technics = (np.random.default_rng(seed) for seed in seeds[:2])
    table = sample_network(network, random_state=random_state) if isinstance(network, int) else network
    edges = read_network(table, design)
    genes = pd.Index(np.unique(edges[["source", "target"]].to_numpy(dtype=str)), dtype=object)
    source, target = genes.get_indexer(edges["source"]), genes.get_indexer(edges["target"])
    if activity is None:
        is_on = draw_activity(parent, len(edges), share_switched, design)
    else:
        is_on = read_activity(activity, parent.index, len(edges))
    if master_rates is None:
        rates = draw_rates(parent, len(genes), find_masters(len(genes), source, target), design)
    else:
        rates = read_rates(master_rates, parent.index, genes)
    programme = Programme(parent, is_on, rates)
    effect = (edges["sign"] * edges["strength"]).to_numpy()
    dynamics = Dynamics.of(kinetics, source, target, effect, is_on, rates)
    expression, state, pseudotime = _walked(dynamics, programme, n_cells, seeds[2], progress)
    batch = technics.integers(n_batches, size=n_cells)
    obs = {
        "state": pd.Categorical.from_codes(state, parent.index),
        "pseudotime": pseudotime,
        "batch": pd.Categorical.from_codes(batch, [f"batch{i}" for i in range(n_batches)]),
    }
    return AnnData(
        sparse.csr_matrix(count(expression, batch, technical, technics)),
        obs=pd.DataFrame(obs, index=[f"cell{i}" for i in range(n_cells)]),
        var=_described(genes, dynamics, programme),
        layers={"expression": expression},
        obsm={STRENGTH: _strengths(dynamics, programme, expression, state, source, effect)},
        uns={KEY: _stored(edges, genes, programme) | {
            "kinetics": asdict(kinetics), "technical": asdict(technical), "random_state": random_state,
        }},
    )  # fmt: skip


def _stored(edges: pd.DataFrame, genes: pd.Index, programme: Programme) -> dict:
    return {
        "edges": edges,
        "activity": programme.activity,
        "tree": pd.DataFrame({"state": programme.states, "parent": programme.parent.to_numpy()}),
        "rates": pd.DataFrame(programme.rates.T, index=genes, columns=programme.states),
    }


def _walked(dynamics: Dynamics, programme: Programme, n_cells: int, seed: np.random.SeedSequence, progress: bool):
    """Expression (C x G), position of the state (C) and pseudotime (C) of all cells, state by state."""
    k, n_states = dynamics.kinetics, len(programme.states)
    steps = max(1, round(k.duration / k.step))
    state = np.sort(np.arange(n_cells) % n_states)
    starts = [i for s in range(n_states) for i in np.flatnonzero(state == s)[::BLOCK_CELLS]]
    expression = np.empty((n_cells, dynamics.constant.shape[1]), dtype=np.float32)
    pseudotime = np.empty(n_cells)
    blocks = zip(starts, [*starts[1:], n_cells], seed.spawn(len(starts)), strict=True)
    for start, stop, child in tqdm(blocks, total=len(starts), desc="simulate", unit="block", disable=not progress):
        rng = np.random.default_rng(child)
        path = programme.path(programme.states[state[start]])
        n_steps = rng.integers(1, steps, size=stop - start, endpoint=True)
        expression[start:stop] = dynamics.run(path, n_steps, rng)
        pseudotime[start:stop] = len(path) - 1 + n_steps / steps
    return expression, state, pseudotime


def _described(genes: pd.Index, dynamics: Dynamics, programme: Programme) -> pd.DataFrame:
    half = np.full(len(genes), np.nan)
    half[dynamics.regulators] = dynamics.half_response
    return pd.DataFrame(
        {"is_regulator": ~np.isnan(half), "is_master": (programme.rates > 0).any(0), "half_response": half}, index=genes
    )


def _strengths(dynamics, programme, expression, state, source, effect) -> sparse.csr_matrix:
    """Effect of each edge in each cell: C x E; 0 where the edge is off."""
    row = np.searchsorted(dynamics.regulators, source)
    parts = []
    for start in range(0, len(expression), BLOCK_CELLS):
        cells = slice(start, start + BLOCK_CELLS)
        occupied = dynamics.occupancy(expression[cells])[:, row]
        parts.append(sparse.csr_matrix(occupied * effect * programme.activity[state[cells]], dtype=np.float32))
    return sparse.vstack(parts, format="csr")
