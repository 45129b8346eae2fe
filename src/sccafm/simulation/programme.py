"""What differs between states: the tree, the edges that are on, the rates of master regulators."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

LOW, HIGH = (0.2, 1.0), (2.5, 4.0)  # production rates of a master regulator that is down, or up
REDRAWN = 0.5  # chance that a master regulator changes its rate on the way to a child state


@dataclass(frozen=True, eq=False)
class Programme:
    """S states of a tree, and in each of them E edges on or off and G basal production rates."""

    parent: pd.Series  # S, index state, "" for the root; parents stand before children
    activity: np.ndarray  # S x E bool
    rates: np.ndarray  # S x G, 0 for genes without a rate of their own

    @property
    def states(self) -> pd.Index:
        return self.parent.index

    def path(self, state: str) -> list[int]:
        """Positions of the states from the root to `state`."""
        above = self.parent[state]
        return (self.path(above) if above else []) + [self.states.get_loc(state)]


def read_tree(states: Mapping[str, str | None]) -> pd.Series:
    """Check a mapping from state to parent (None: the root) and put parents before children.

    Raises
    ------
    ValueError
        Not exactly one root, an unknown parent, or a circle.
    """
    roots = [state for state, parent in states.items() if parent is None]
    if len(roots) != 1:
        raise ValueError(f"expected one root in states, got {roots}; give one state the parent None: {{'stem': None}}")
    unknown = sorted({str(p) for p in states.values() if p is not None and p not in states})
    if unknown:
        raise ValueError(f"parents {unknown} are no states; the states are {list(states)}")
    order = roots
    while grown := [s for s, parent in states.items() if parent in order and s not in order]:
        order = order + grown
    if len(order) < len(states):
        raise ValueError(f"states {sorted(set(states) - set(order))} are not reached from the root {roots[0]!r}")
    return pd.Series({str(state): str(states[state] or "") for state in order})


def draw_activity(parent: pd.Series, n_edges: int, share_switched: float, rng: np.random.Generator) -> np.ndarray:
    """S x E: a share of the edges is off in the root, and each child flips that share of its parent's edges.

    Exactly `round(share_switched * n_edges)` edges are off in the root and flip on each branch.
    """
    if not 0 <= share_switched <= 1:
        raise ValueError(f"share_switched is a share of the edges, 0 to 1; got {share_switched}")
    flips = np.arange(n_edges) < round(share_switched * n_edges)
    active = {"": np.ones(n_edges, dtype=bool)}
    for state, above in parent.items():
        active[state] = active[above] ^ rng.permutation(flips)
    return np.stack([active[state] for state in parent.index])


def read_activity(activity, states: pd.Index, n_edges: int) -> np.ndarray:
    """Check a table states x edges of booleans, edges in the order of the network."""
    if isinstance(activity, pd.DataFrame):
        if set(activity.index) != set(states):
            raise ValueError(f"activity has the states {list(activity.index)}, the tree has {list(states)}")
        activity = activity.loc[states].to_numpy()
    activity = np.asarray(activity)
    if activity.shape != (len(states), n_edges) or activity.dtype != bool:
        raise ValueError(
            f"expected activity as booleans, {len(states)} states x {n_edges} edges in the order of the network, "
            f"got {activity.dtype} {activity.shape}"
        )
    return activity


def find_masters(n_genes: int, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Positions of the genes that need a rate of their own: one in each circle, or single gene, that nothing enters.

    Of a circle (a strongly connected component) it is the gene with most targets.
    """
    links = csr_array((np.ones(len(source)), (source, target)), shape=(n_genes, n_genes))
    n, circle = connected_components(links, connection="strong")
    is_entered = np.zeros(n, dtype=bool)
    is_entered[circle[target[circle[source] != circle[target]]]] = True
    by_degree = np.argsort(-np.bincount(source, minlength=n_genes), kind="stable")
    first = pd.Series(by_degree).groupby(circle[by_degree]).first()  # of each circle
    return np.sort(first[~is_entered].to_numpy())


def draw_rates(parent: pd.Series, n_genes: int, masters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """S x G: each master is up or down in the root, and keeps its rate or draws another on the way to a child."""
    rates = {"": np.zeros(n_genes)}
    for state, above in parent.items():
        is_up = rng.random(len(masters)) < 0.5
        drawn = np.where(is_up, rng.uniform(*HIGH, len(masters)), rng.uniform(*LOW, len(masters)))
        is_redrawn = (rng.random(len(masters)) < REDRAWN) | (above == "")
        rates[state] = rates[above].copy()
        rates[state][masters] = np.where(is_redrawn, drawn, rates[above][masters])
    return np.stack([rates[state] for state in parent.index])


def read_rates(rates: pd.DataFrame, states: pd.Index, genes: pd.Index) -> np.ndarray:
    """Check a table genes x states of production rates; genes that it leaves out have none.

    Raises
    ------
    KeyError
        A gene or state is unknown, or a state is missing.
    ValueError
        A rate is negative or not finite.
    """
    unknown = rates.index.difference(genes).tolist()
    if unknown or set(rates.columns) != set(states):
        raise KeyError(
            f"expected master_rates as genes of the network x states {list(states)}; got states {list(rates.columns)}, "
            f"unknown genes {unknown[:5]}"
        )
    full = rates.reindex(index=genes, fill_value=0.0)[list(states)].to_numpy(dtype=float)
    if not (np.isfinite(full) & (full >= 0)).all():
        raise ValueError("master_rates must be finite and not negative: `rates.clip(lower=0)`")
    return full.T
