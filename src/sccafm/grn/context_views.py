"""Latent factors of a GRN: contexts of cells, what each factor is made of, and which factors made an edge."""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sccafm._io import BLOCK, blocks
from sccafm.data.groups import ALL
from sccafm.grn.anatomy import CELL_TERMS, PAIR_TERMS, anatomy
from sccafm.grn.contexts import Explanation, explain, top_names, top_terms, upper_sets, where_active
from sccafm.grn.factors import FACTOR_ARRAYS, factor_names, unpack_factors
from sccafm.grn.storage import CellEdges, StoredEdges, map_array

ANATOMY_CELLS = 200  # that are taken apart one by one unless others are asked for


class ContextViews:
    """Base of `GRN`: what it says of contexts and factors, and what its scores are made of."""

    if TYPE_CHECKING:  # what `GRN` has
        arrays: Mapping[str, np.ndarray]
        sums: Mapping[str, np.ndarray]
        params: Mapping[str, Any]
        cells: pd.Index
        genes: pd.DataFrame
        groups: pd.Series
        group_sizes: pd.Series
        edges: CellEdges | StoredEdges
        regulators: pd.Index
        targets: pd.Index
        _positions: Callable
        matrix: Callable

        def __len__(self) -> int: ...

    @cached_property
    def context(self) -> pd.DataFrame:
        """Share of each cell's regulation that flows through each factor: cells x factors, rows sum to 1."""
        values = self.arrays["context"]
        return pd.DataFrame(values, index=self.cells, columns=factor_names(values.shape[1]), copy=False)

    @cached_property
    def context_label(self) -> pd.Series:
        """The factor that carries most of a cell's regulation, by name: categorical over all factors."""
        codes = self._by_blocks(lambda share: share.argmax(1), np.int64)
        labels = pd.Categorical.from_codes(codes, self.params["factors"])
        return pd.Series(labels, index=self.cells, name="context")

    @cached_property
    def context_entropy(self) -> pd.Series:
        """Entropy of a cell's context in nats: 0 if one factor carries all, log M if all carry the same."""

        def entropy(share: np.ndarray) -> np.ndarray:
            return -np.sum(share * np.log(np.where(share > 0, share, 1)), 1)

        return pd.Series(self._by_blocks(entropy, np.float64), index=self.cells, name="context_entropy")

    def _by_blocks(self, function: Callable[[np.ndarray], np.ndarray], dtype: type) -> np.ndarray:
        """A number per cell from its context in float64; of a stored run no more than a block is in memory."""
        found = np.empty(len(self), dtype)
        for start, stop in blocks(len(self), BLOCK):
            edges = self.edges
            context = map_array(edges.folder, "context") if isinstance(edges, StoredEdges) else self.arrays["context"]
            found[start:stop] = function(context[start:stop].astype(np.float64))
        return found

    @property
    def summary(self) -> np.ndarray:
        """The encoder's cell token: cells x width, float32."""
        return self.arrays["summary"]

    @property
    def ood(self) -> pd.Series:
        """How unusual each cell is beside the cells that the model was trained on: float32, 0 to 1.

        The share of cells in tissues held out of the fit that are less unusual (`confidence.unusual.out_of_distribution`).

        Raises
        ------
        KeyError
            The model has no calibration.
        """
        if "ood" not in self.arrays:
            raise KeyError("the model of this GRN has no calibration, so it cannot say how unusual a cell is")
        return pd.Series(self.arrays["ood"], index=self.cells, name="ood")

    def factors_table(self, n_top: int = 5, sets: Mapping[str, Iterable[str]] | None = None) -> pd.DataFrame:
        """What each factor is made of.

        Parameters
        ----------
        n_top
            How many regulators and targets are listed.
        sets
            Gene sets, name -> symbols, e.g. ``sccafm.reference.tables.read_gene_sets()`` for those of GO and Reactome that
            ship, or what `sccafm.evaluate.read_gene_sets` made of a GMT file or a table. Case does not matter.

        Returns
        -------
        DataFrame, one row per factor: its name in the model, share of cells that it leads, mean share of a cell's
        regulation, and the regulators and targets that give it most of their weight (mean over cells, strongest first).
        With groups also active_in: the groups in whose cells it carries most. With sets also term, fdr and overlap: the
        set that its 100 strongest targets are most enriched in (`grn.contexts.enrichment`), None where no set shares three.
        """
        led = self.context_label.value_counts(sort=False, normalize=True)
        table = pd.DataFrame(
            {
                "name": self.params["factors"],
                "share_of_cells": led.to_numpy(),
                "mean_context": self.arrays["context"].mean(0),
                "top_regulators": top_names(self.sums["u"], self.regulators, n_top),
                "top_targets": top_names(self.sums["v"], self.targets, n_top),
            },
            index=self.context.columns,
        )
        if self.groups.name != ALL:
            active = where_active(self.arrays["context"], self.groups)
            table["active_in"] = [", ".join(f"{group} ({share:.1%})" for group, share in best) for best in active]
        if sets is not None:
            symbols = pd.Index(self.genes["symbol"].str.upper())
            for column, values in top_terms(self.sums["v"], symbols, upper_sets(sets)).items():
                table[column] = values
        return table

    def explain(self, source: str, target: str, cell: str) -> Explanation:
        """Which factors made an edge of a cell, and how the cell differs from the average; needs ``keep_factors=True``.

        Parameters
        ----------
        source, target
            A regulator and a gene, by name.
        cell
            Name of the cell.

        Returns
        -------
        Explanation
            The edge's weight in the cell, its mean over all cells, and a table with what each factor gives to both.

        Raises
        ------
        KeyError
            The GRN keeps no factors, or does not know a name.
        """
        for name, index, kind in ((source, self.regulators, "regulator"), (target, self.targets, "gene")):
            if name not in index:
                raise KeyError(f"{name!r} is no {kind} of this GRN; they look like {index[0]!r}")
        (position,) = self._positions([cell])
        rows = {"u": self.regulators.get_loc(source), "v": self.targets.get_loc(target)}
        u, v = (self._factor_rows(name, row) for name, row in rows.items())
        return explain(u, v, int(position), self.params["factors"], self.context.columns, (source, target, cell))

    def _factor_rows(self, name: str, row: int) -> np.ndarray:
        """One gene's factors in every cell: C M."""
        self._check_factors()
        index, value = (self.arrays[f"{name}_{kind}"][:, row] for kind in ("index", "value"))
        return unpack_factors(index, value, self.context.shape[1])

    def _check_factors(self) -> None:
        if not self.params["run"]["keep_factors"]:
            raise KeyError("this GRN keeps no factors; infer with keep_factors=True")

    def factors(self, cell: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """One cell's factors, for runs with ``keep_factors=True``.

        Returns
        -------
        u: regulators x factors, v: targets x factors; ``u @ v.T`` are the cell's scores.

        Raises
        ------
        KeyError
            No factors were kept, or the cell is not in this GRN.
        """
        self._check_factors()
        (position,) = self._positions([cell])
        size = self.context.shape[1]
        kept = {name: self.arrays[name][position] for name in FACTOR_ARRAYS}
        dense = [unpack_factors(kept[f"{name}_index"], kept[f"{name}_value"], size) for name in "uv"]
        rows = (self.regulators, self.targets)
        return tuple(
            pd.DataFrame(d, index=index, columns=self.context.columns) for d, index in zip(dense, rows, strict=True)
        )

    def anatomy(self, cells: int | Iterable[str] | None = None) -> pd.DataFrame:
        """What the scores are made of: shares of the variance of their logarithms (`sccafm.grn.anatomy`).

        Parameters
        ----------
        cells
            Cells that are taken apart one by one, which needs ``keep_factors=True``: names, or a number of cells spread
            evenly over the data set. None takes up to 200 where factors were kept, and none elsewhere.

        Returns
        -------
        DataFrame with the columns n_cells, regulator, target, pair, cell x regulator, cell x target, cell x pair; the
        shares of a row sum to 1. Rows are the mean networks "mean of all cells" and, with groups, "mean of GROUP", which
        have no terms of cells (NaN), and "cell by cell".

        Raises
        ------
        KeyError
            `cells` are asked for and no factors were kept, or a cell is not in this GRN.
        ValueError
            `cells` is a number below 1, or no cell.
        """
        sizes = self.group_sizes if self.groups.name != ALL else self.group_sizes.iloc[:0]
        means = {"mean of all cells": (len(self), None)}
        means |= {f"mean of {group}": (n, group) for group, n in sizes.items() if n}
        rows = {name: {"n_cells": n, **anatomy(self.matrix(group))} for name, (n, group) in means.items()}
        if cells is not None:
            self._check_factors()
        elif self.params["run"]["keep_factors"]:
            cells = ANATOMY_CELLS
        if cells is not None:
            names = self._spread(cells) if isinstance(cells, int) else list(cells)
            scores = (u.to_numpy() @ v.to_numpy().T for u, v in map(self.factors, names))
            rows["cell by cell"] = {"n_cells": len(names), **anatomy(scores)}
        columns = ["n_cells", *PAIR_TERMS, *CELL_TERMS]
        return pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns).rename_axis("network")

    def _spread(self, n: int) -> pd.Index:
        """Up to n cells, evenly spaced in the order of the data set."""
        if n < 1:
            raise ValueError(f"cells must be a number of at least 1, names of cells, or None, got {n}")
        return self.cells[np.unique(np.linspace(0, len(self) - 1, min(n, len(self))).round().astype(int))]
