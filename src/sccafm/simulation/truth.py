"""The truth of a simulation, as it lies in an AnnData: who regulates whom in which cell."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

KEY, STRENGTH = "simulation", "causal_strength"


@dataclass(frozen=True, eq=False)
class CellTruth:
    """True edges by state, and the state of every cell."""

    edges: pd.DataFrame  # E rows: source, target, ...
    activity: pd.DataFrame  # states x E bool: the edge regulates in that state
    states: pd.Series  # state of each cell, index cell

    @classmethod
    def of(cls, table: pd.DataFrame, states: pd.Series) -> "CellTruth":
        """From a table state, source, target of the edges that are on, and the state of each cell (index cell).

        Raises
        ------
        KeyError
            A column is missing, or cells are in a state that the table lacks.
        ValueError
            Self-edges, or an edge that stands twice in a state.
        """
        columns = ["state", "source", "target"]
        if not set(columns) <= set(table.columns):
            raise KeyError(
                f"expected columns {columns}, got {list(table.columns[:8])}; rename them: `table.rename(...)`"
            )
        absent = sorted(set(states.astype(str)) - set(table["state"].astype(str)))
        if absent:
            raise KeyError(
                f"states {absent[:5]} of the cells have no edge; the table has {sorted(set(table['state']))[:20]}"
            )
        table = table[columns].astype(str)
        n_self, n_twice = int((table["source"] == table["target"]).sum()), int(table.duplicated().sum())
        if n_self or n_twice:
            raise ValueError(
                f"{n_self} self-edges and {n_twice} edges that stand twice in a state; drop them: "
                "`table[table['source'] != table['target']].drop_duplicates(['state', 'source', 'target'])`"
            )
        is_on = table.assign(is_on=True).pivot(index="state", columns=["source", "target"], values="is_on").notna()
        edges = is_on.columns.to_frame(index=False)
        return cls(edges, is_on.set_axis(range(len(edges)), axis=1), states.astype(str))

    def __repr__(self) -> str:
        switched = (self.activity.any() & ~self.activity.all()).sum()
        return (
            f"CellTruth: {len(self.edges):,} edges of {self.edges['source'].nunique():,} regulators, {switched:,} of them "
            f"switched between {len(self.activity)} states; {len(self.states):,} cells"
        )


def read_truth(adata: AnnData, state_key: str = "state") -> CellTruth:
    """The truth that `simulate` left in an AnnData.

    Raises
    ------
    KeyError
        The AnnData is not simulated, or lacks the column of states.
    """
    if KEY not in adata.uns or state_key not in adata.obs:
        raise KeyError(
            f"expected an AnnData from sccafm.simulate, with uns[{KEY!r}] and obs[{state_key!r}]; it has uns "
            f"{list(adata.uns)}, obs {list(adata.obs)}"
        )
    stored = adata.uns[KEY]
    activity = pd.DataFrame(np.asarray(stored["activity"], dtype=bool), index=list(stored["tree"]["state"]))
    return CellTruth(stored["edges"], activity, adata.obs[state_key].astype(str))


def true_edges(adata: AnnData, cell: str) -> pd.DataFrame:
    """True edges of one cell of a simulation, the strongest effect first.

    Returns
    -------
    DataFrame with the columns source, target, sign (int8) and effect (float32): what the target's production would
    lose (negative: gain) per unit of time, at this moment, if the regulator were taken away.

    Raises
    ------
    KeyError
        The AnnData is not simulated, or the cell is absent.
    """
    truth = read_truth(adata)
    if cell not in truth.states.index:
        raise KeyError(f"no cell {cell!r} in this simulation; cells look like {truth.states.index[0]!r}")
    position = adata.obs_names.get_loc(cell)
    is_on = truth.activity.loc[truth.states.iloc[position]].to_numpy()
    effect = adata.obsm[STRENGTH][[position]].toarray().ravel()
    table = truth.edges[["source", "target", "sign"]].assign(effect=effect)[is_on]
    return table.sort_values("effect", key=np.abs, ascending=False, kind="stable", ignore_index=True)
