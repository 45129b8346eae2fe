"""Kept edges of a GRN as tables: of a cell, of a group, of one pair in all cells; a chunk at a time where there are many."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sccafm.grn.pairs import Pairs
from sccafm.grn.storage import CellEdges, StoredEdges

FRAME_CELLS = 500  # of one table of `EdgeViews.frames`


class EdgeViews:
    """`GRN` has these methods."""

    if TYPE_CHECKING:  # what `GRN` has
        edges: CellEdges | StoredEdges
        pairs: Pairs
        cells: pd.Index
        groups: pd.Series
        regulators: pd.Index
        targets: pd.Index
        _code: Callable
        _regulator_positions: Any

        def __len__(self) -> int: ...

    def __getitem__(self, cell: str) -> pd.DataFrame:
        return self.to_frame([cell]).drop(columns="cell").reset_index(drop=True)

    def to_frame(self, cells: str | Iterable[str] | None = None, *, group: object = None) -> pd.DataFrame:
        """Kept edges as a long table, the strongest of a cell first.

        Parameters
        ----------
        cells
            One cell's name or several; None: all of them.
        group
            A group of `groupby`, in place of `cells`.

        Returns
        -------
        DataFrame with the columns

        - cell, source, target: categorical, unique together;
        - weight: float32, 0 to 1, the score in 14 significant bits (6e-5 of it);
        - confidence: float32, calibrated probability that the edge is real; NaN for a model without calibration;
        - sign: int8, +1 activates, -1 represses, 0 abstains; of the pair in this data set, not of the cell;
        - qvalue: float32, false discovery rate at which the cell's score exceeds those in permuted cells of the data
          set; NaN where ``null_cells=0``;
        - binding, response: float32, calibrated probabilities that the regulator binds near the gene, and that the gene
          responds to a change of the regulator; of the pair, whatever the cell (`sccafm.reference.regulation`);
        - in_prior: bool, the prior network holds the edge; prior_sources: categorical, the collections that name it.

        Raises
        ------
        KeyError
            A cell or the group is not in this GRN.
        ValueError
            Both `cells` and `group` are given.
        """
        return self._frame(self._chosen(cells, group))

    def frames(
        self, cells: Iterable[str] | None = None, *, group: object = None, n_cells: int = FRAME_CELLS
    ) -> Iterator[pd.DataFrame]:
        """The same in tables of `n_cells` cells each, so that memory stays flat whatever their number.

        Parameters
        ----------
        cells, group
            As in `to_frame`.
        n_cells
            Cells of one table.

        Yields
        ------
        DataFrame
            As from `to_frame`.
        """
        positions = self._chosen(cells, group)
        for start in range(0, len(positions), n_cells):
            yield self._frame(positions[start : start + n_cells])

    def edge(self, source: str, target: str) -> pd.DataFrame:
        """One edge in all cells that keep it.

        Of a stored run a small piece of each part is read.

        Parameters
        ----------
        source, target
            Names of a regulator and of a gene.

        Returns
        -------
        DataFrame with a row for each cell that keeps the edge, in the order of the cells: cell, group (categorical), weight,
        confidence, qvalue (float32), as in `to_frame`.

        Raises
        ------
        KeyError
            `source` is no regulator of these networks, or `target` was not read.
        """
        if source not in self.regulators:
            raise KeyError(
                f"{source!r} is no regulator of these networks; regulators are {list(self.regulators[:3])}, ..."
            )
        if target not in self.targets:
            raise KeyError(f"{target!r} was not read; genes look like {self.targets[0]!r}")
        number = self.regulators.get_loc(source) * len(self.targets) + self.targets.get_loc(target)
        found = self.edges.of_pair(number)
        return pd.DataFrame(
            {
                "cell": pd.Categorical.from_codes(found.cell, self.cells),
                "group": self.groups.array[found.cell],
                "weight": found.weight,
                "confidence": found.confidence,
                "qvalue": found.qvalue,
            }
        )

    def _chosen(self, cells: str | Iterable[str] | None, group: object) -> np.ndarray:
        """Positions of cells."""
        if group is not None:
            if cells is not None:
                raise ValueError("cells= and group= both name cells; pass one of them")
            return np.flatnonzero(self.groups.cat.codes.to_numpy() == self._code(group))
        if cells is None:
            return np.arange(len(self))
        return self._positions([cells] if isinstance(cells, str) else cells)

    def _frame(self, positions: np.ndarray) -> pd.DataFrame:
        found = self.edges.of(positions)
        order = np.lexsort((found.edge, -found.weight, np.repeat(*self._ranks(found))))
        source, target = np.divmod(found.edge[order], len(self.targets))
        return pd.DataFrame(
            {
                "cell": pd.Categorical.from_codes(found.cell[order], self.cells),
                "source": pd.Categorical.from_codes(self._regulator_positions[source], self.targets),
                "target": pd.Categorical.from_codes(target, self.targets),
                "weight": found.weight[order],
                "confidence": found.confidence[order],
                "sign": self.pairs.sign.ravel()[found.edge[order]],
                "qvalue": found.qvalue[order],
            }
            | self.pairs.columns(found.edge[order])
        )

    @staticmethod
    def _ranks(found: CellEdges) -> tuple[np.ndarray, np.ndarray]:
        """Rank of each run of one cell, and the run's length: cells stay in the order they were asked for."""
        starts = np.flatnonzero(np.append(True, np.diff(found.cell) != 0)) if len(found) else np.zeros(0, int)
        return np.arange(len(starts)), np.diff(np.append(starts, len(found)))

    def _positions(self, names: Iterable[str]) -> np.ndarray:
        names = list(names)
        positions = self.cells.get_indexer(names)
        if (positions < 0).any():
            missing = [name for name, p in zip(names, positions, strict=True) if p < 0]
            raise KeyError(
                f"{len(missing)} cells are not in this GRN, first {missing[0]!r}; cells look like {self.cells[0]!r}"
            )
        return positions
