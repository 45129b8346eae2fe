"""GRN: every cell's directed network, its contexts and its summary, with names on everything.

Rows are ``source -> target`` throughout: regulators in rows, targets in columns.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from sccafm._io import new_folder
from sccafm.confidence.calibration import confidence_of, expression_rank, row_quantiles
from sccafm.confidence.permutation import benjamini_hochberg, group_pvalues
from sccafm.data.groups import ALL, group_cells, labels_of
from sccafm.grn.context_views import ContextViews
from sccafm.grn.edge_views import EdgeViews
from sccafm.grn.exports import Exports
from sccafm.grn.methods import methods_text
from sccafm.grn.networks import Network, from_edges, from_pyscenic
from sccafm.grn.pairs import Pairs
from sccafm.grn.regrouping import NOT_KEPT, regrouped_sums
from sccafm.grn.storage import PART_CELLS, CellEdges, Part, Store, StoredEdges, map_array, n_parts

VALUES = ("weight", "confidence", "binding", "response")  # of `GRN.matrix`


@dataclass(frozen=True, eq=False)
class GRN(EdgeViews, ContextViews, Exports):
    """Per-cell gene regulatory networks of one data set.

    Made by `sccafm.infer_grn` and `sccafm.read_grn`. ``len(grn)`` is the number of cells; ``grn["cell name"]`` is the
    table of one cell's edges.
    """

    cells: pd.Index
    genes: pd.DataFrame  # targets: index name; columns symbol, gene_id, is_tf
    groups: pd.Series  # group of each cell, categorical; "all" without groupby
    edges: CellEdges | StoredEdges  # kept edges, in memory or on disk
    pairs: Pairs = field(repr=False)  # what is known of a regulator-target pair whatever the cell
    sums: dict[str, np.ndarray] = field(
        repr=False
    )  # scores: groups T G; expression: groups G; u: T M; v: G M; null_tail; tested: groups + 1 (of all cells) T G, n_tested
    arrays: dict[str, np.ndarray] = field(
        repr=False
    )  # context: C M; summary: C D; strengths, regulator_expression: C T; ood: C; kept factors
    params: dict = field(repr=False)  # run card
    obs: pd.DataFrame | None = field(default=None, repr=False)  # the cells' annotation at inference
    adata: object = field(default=None, repr=False)  # the annotated copy, with copy=True

    @staticmethod
    def from_edges(edges: pd.DataFrame | str | Path) -> Network:
        """A network of another tool, for pictures, exports and judging beside ours: see `sccafm.grn.networks.from_edges`."""
        return from_edges(edges)

    @staticmethod
    def from_pyscenic(path: str | Path) -> Network:
        """The adjacencies or regulons that pySCENIC wrote: see `sccafm.grn.networks.from_pyscenic`."""
        return from_pyscenic(path)

    def __len__(self) -> int:
        return len(self.cells)

    def __repr__(self) -> str:
        source, target = self._strongest()
        groups = f"\n  groups of {self.groups.name}: {self._listing()}" if self.groups.name != ALL else ""
        return (
            f"GRN of {len(self):,} cells: {len(self.regulators):,} regulators x {len(self.targets):,} targets, "
            f"{len(self.edges):,} edges kept ({len(self.edges) / max(len(self), 1):,.0f} a cell, "
            f"{'on disk' if isinstance(self.edges, StoredEdges) else 'in memory'}){groups}\n"
            f"  contexts: {self.context_label.nunique()} of {self.context.shape[1]} factors lead in some cell\n"
            f"  strongest on average: {source} -> {target}\n"
            f"  model {self.params.get('model', '?')}, weights {str(self.params.get('weights_hash', '?'))[:12]}"
        )

    def _listing(self) -> str:
        counts = self.groups.value_counts(sort=False)
        return ", ".join(f"{group} ({n})" for group, n in counts.items())

    def _strongest(self) -> tuple[str, str]:
        scores = self._without_self_edges()
        row, column = np.unravel_index(np.argmax(scores), scores.shape)
        return self.regulators[row], self.targets[column]

    def _without_self_edges(self, group: object = None) -> np.ndarray:
        scores = self.matrix(group).to_numpy(copy=True)
        scores[np.arange(len(self.regulators)), self.targets.get_indexer(self.regulators)] = 0
        return scores

    @property
    def targets(self) -> pd.Index:
        """All genes that were read, regulators among them."""
        return self.genes.index

    @property
    def in_prior(self) -> np.ndarray:
        """Whether the prior network holds each edge: regulators x targets, bool."""
        return self.pairs.in_prior

    @cached_property
    def _regulator_positions(self) -> np.ndarray:
        """Of the regulators among the targets: both ends of an edge have the same categories, and can be compared."""
        return np.flatnonzero(self.genes["is_tf"].to_numpy())

    @cached_property
    def regulators(self) -> pd.Index:
        """The genes that were read as regulators."""
        return self.genes.index[self.genes["is_tf"].to_numpy()]

    def __contains__(self, cell: object) -> bool:
        return cell in self.cells

    def __iter__(self) -> Iterator[str]:
        """Names of the cells."""
        return iter(self.cells)

    def matrix(
        self, group: object = None, value: Literal["weight", "confidence", "binding", "response"] = "weight"
    ) -> pd.DataFrame:
        """One value of every regulator-target pair of a group: exact, not only over kept edges.

        Parameters
        ----------
        group
            A group of `groupby`; None: all cells. Groups are kept as text: 1 finds "1".
        value
            "weight": mean score over the group's cells. "confidence": probability that the edge is real, from that mean
            (`confidence`). "binding", "response": its two parts, which are the same in every group.

        Returns
        -------
        DataFrame regulators x targets in [0, 1], self-edges included; float64 weights, float32 probabilities.

        Raises
        ------
        KeyError
            No such group; here and in what follows.
        ValueError
            No such value.
        """
        if value not in VALUES:
            raise ValueError(f"value must be one of {list(VALUES)}, got {value!r}")
        if value == "confidence":
            return self.confidence(group)
        if value != "weight":
            if group is not None:
                self._code(group)
            return pd.DataFrame(getattr(self.pairs, value), index=self.regulators, columns=self.targets)
        cells = len(self) if group is None else self.group_sizes.iloc[self._code(group)]
        total = self._total("scores", group)
        return pd.DataFrame(total / max(cells, 1), index=self.regulators, columns=self.targets)

    def _total(self, name: str, group: object) -> np.ndarray:
        """Running sum of a group, or of all cells."""
        if name not in self.sums and group is not None:
            raise KeyError(f"the groups of {self.groups.name!r} have no {NOT_KEPT[name]}")
        found = self.sums[name] if name in self.sums else self.sums[f"all_{name}"]
        return (
            found.sum(0)
            if group is None and name in self.sums
            else found
            if group is None
            else found[self._code(group)]
        )

    @property
    def group_sizes(self) -> pd.Series:
        """Cells of each group."""
        return self.groups.value_counts(sort=False)

    @property
    def group_names(self) -> list[str]:
        """Groups that have cells, as `Network.group_names`."""
        sizes = self.group_sizes
        return [str(group) for group in sizes.index[sizes > 0]]

    def _code(self, group: object) -> int:
        categories = self.groups.cat.categories
        group = group if isinstance(group, str) else str(group)
        if group not in categories:
            hint = "infer with groupby= to have groups" if self.groups.name == ALL else f"of {self.groups.name!r}"
            raise KeyError(f"no group {group!r}; there are {list(categories)} ({hint})")
        return categories.get_loc(group)

    def network(self, group: object = None, top_k: int | None = None) -> pd.DataFrame:
        """Mean network of one group as a long table, the strongest edges first.

        Parameters
        ----------
        group
            As in `matrix`.
        top_k
            Edges to keep; None: all pairs with a score above 0. Self-edges are never kept.

        Returns
        -------
        DataFrame with the columns source, target, weight (float64), confidence, sign, qvalue, n_cells, binding,
        response, in_prior, prior_sources, as in `to_frame`. The pairs are unique, so it is a network for decoupler. qvalue (float64) tests
        the group's mean score against permuted cells of the whole data set, over all pairs of the group (Benjamini and
        Hochberg).

        Raises
        ------
        ValueError
            `top_k` is no positive number.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be a positive number or None for all pairs, got {top_k}")
        flat = self._without_self_edges(group).ravel()
        least = np.partition(flat, -top_k)[-top_k] if top_k is not None and top_k < len(flat) else 0.0
        among = np.flatnonzero((flat >= least) & (flat > 0))
        order = among[np.argsort(-flat[among], kind="stable")][:top_k]
        source, target = np.divmod(order, len(self.targets))
        table = {
            "source": pd.Categorical.from_codes(self._regulator_positions[source], self.targets),
            "target": pd.Categorical.from_codes(target, self.targets),
            "weight": flat[order],
            "confidence": self._confidence(group, order),
            "sign": self.pairs.sign.ravel()[order],
            "qvalue": self.qvalues(group).to_numpy().ravel()[order],
            "n_cells": len(self) if group is None else self.group_sizes.iloc[self._code(group)],
        }
        return pd.DataFrame(table | self.pairs.columns(order))

    def pool(self, top_k: int | None = None) -> pd.DataFrame:
        """Mean networks of all groups as one long table: `network` of each, under a first column group.

        Parameters
        ----------
        top_k
            Edges to keep of each group, as in `network`, and its errors.

        Returns
        -------
        DataFrame with the column group, then those of `network`. Groups without cells have no rows.
        """
        present = [group for group, size in self.group_sizes.items() if size]
        tables = [self.network(group, top_k).assign(group=group) for group in present]
        pooled = pd.concat(tables, ignore_index=True)
        return pooled[["group", *pooled.columns.drop("group")]].astype({"group": self.groups.dtype})

    def confidence(self, group: object = None) -> pd.DataFrame:
        """Calibrated probability that each pair of a group is a real edge, from its mean score.

        See `sccafm.confidence.calibration`: the probability assumes that a share ``params["calibration"]["base_rate"]`` of all
        pairs is real; `confidence.calibration.at_base_rate` moves it to another.

        Parameters
        ----------
        group
            As in `matrix`.

        Returns
        -------
        DataFrame regulators x targets, float32 in [0, 1]; NaN for a model without calibration, and for groups of which
        the expression is not known (`regroup`).
        """
        values = self._confidence(group, np.arange(self.in_prior.size)).reshape(self.in_prior.shape)
        return pd.DataFrame(values, index=self.regulators, columns=self.targets)

    def _confidence(self, group: object, edge: np.ndarray) -> np.ndarray:
        if group is not None and "expression" not in self.sums:
            return np.full(len(edge), np.nan, np.float32)
        level = expression_rank(self._total("expression", group))
        quantile = row_quantiles(self.matrix(group).to_numpy(), edge)
        fitted = self.params["calibration"].get("group")
        return confidence_of(quantile, self.pairs.chance.ravel()[edge], level[edge % len(self.targets)], fitted)

    def qvalues(self, group: object = None) -> pd.DataFrame:
        """False discovery rate of every pair of a group: is its mean score above what permuted cells give?

        Ten cells of the group are tested, chosen by their names, or all that it has: q-values of rare and of frequent cell types
        can then be compared. See `sccafm.confidence.permutation`. Self-edges are no tests and are NaN, as all pairs are where ``null_cells=0``.

        Parameters
        ----------
        group
            As in `matrix`.

        Returns
        -------
        DataFrame regulators x targets, float64 in [0, 1].
        """
        row = -1 if group is None else self._code(group)
        values = np.full(self.in_prior.shape, np.nan)
        if self.pairs.n_null:
            if len(self.sums["tested"]) == 1 and row >= 0:
                raise KeyError(f"the groups of {self.groups.name!r} have no {NOT_KEPT['scores']}")
            n = max(self.sums["n_tested"][row], 1)
            null = (self.pairs.null_mean, self.pairs.null_sd, self.pairs.n_null, self.sums["null_tail"])
            p = group_pvalues(self.sums["tested"][row] / n, n, *null)
            tested = self.targets.get_indexer(self.regulators)[:, None] != np.arange(len(self.targets))
            values[tested] = benjamini_hochberg(p[tested])
        return pd.DataFrame(values, index=self.regulators, columns=self.targets)

    @cached_property
    def strengths(self) -> pd.DataFrame:
        """Strength of each regulator in each cell, the sum of its scores over all targets but itself.

        Returns
        -------
        DataFrame cells x regulators, float32, 0 to the number of targets; of a stored run it stays on disk.

        Raises
        ------
        KeyError
            The networks come from elsewhere, so that no strengths are known.
        """
        return self._per_regulator("strengths")

    @cached_property
    def regulator_expression(self) -> pd.DataFrame:
        """Expression of each regulator in each cell, as the model read it: cells x regulators, float32."""
        return self._per_regulator("regulator_expression")

    def _per_regulator(self, name: str) -> pd.DataFrame:
        if name not in self.arrays:
            raise KeyError(f"this GRN has no {name}: infer it with sccafm.infer_grn")
        return pd.DataFrame(self.arrays[name], self.cells, self.regulators, copy=False)

    def regroup(self, labels: str | pd.Series | Iterable) -> "GRN":
        """The same networks in other groups of cells.

        Mean networks of the new groups are exact where ``keep_factors=True`` was set, or where each new group joins
        groups of the inference. Elsewhere `matrix`, `pool`, `confidence` and `qvalues` of a group raise a KeyError;
        strengths, contexts and edges of cells are there in any case. Confidence needs the expression of a group, which
        is known where groups are joined; `pool` gives NaN elsewhere.

        Parameters
        ----------
        labels
            A column of `obs` by name, a Series whose index names the cells, or a label of each cell in order. Cells
            without a label form the group "unassigned", with a warning.

        Returns
        -------
        GRN

        Raises
        ------
        KeyError
            No such column, or cells without an entry in the Series.
        ValueError
            Not one label for each cell.
        """
        groups = group_cells(labels_of(labels, self.obs, self.cells))
        sums = regrouped_sums(self.sums, self.groups, groups, self.arrays, self.context.shape[1])
        run = self.params["run"] | {"groupby": str(groups.name)}
        return replace(self, groups=groups, sums=sums, params=self.params | {"run": run})

    def own_arrays(self) -> dict[str, np.ndarray]:
        """Context and summary that may be changed without changing this GRN's; of a stored run they stay on disk."""
        names = ("context", "summary")
        if isinstance(self.edges, StoredEdges):
            return {name: map_array(self.edges.folder, name) for name in names}
        return {name: self.arrays[name].copy() for name in names}

    def methods(self) -> str:
        """A paragraph for a paper's methods section: what was read and done, with numbered references under it."""
        groups = None if self.groups.name == ALL else {str(g): int(n) for g, n in self.group_sizes.items() if n}
        return methods_text(self.params, groups)

    def write(self, folder: str | Path) -> Path:
        """Write everything to a new folder; `sccafm.read_grn` reads it back.

        Raises
        ------
        ValueError
            The folder is not empty.
        """
        folder = new_folder(folder)
        store = Store(folder, {"run": self.params["run"], "params": self.params}, self.tables())
        for number in range(n_parts(len(self))):
            cells = np.arange(number * PART_CELLS, min((number + 1) * PART_CELLS, len(self)))
            rows = {name: array[cells[0] : cells[-1] + 1] for name, array in self.arrays.items()}
            store.add(number, Part(self.edges.of(cells), rows), self.sums)
        store.complete()
        return folder

    def tables(self) -> dict[str, pd.DataFrame]:
        """What the numbers in the parts mean."""
        cells = pd.DataFrame({"cell": self.cells.astype(str), "group": self.groups.array})
        edges = self.pairs.table(self.regulators, self.targets)
        genes = self.genes.rename_axis("name").reset_index()
        return {"genes": genes, "cells": cells, "edges": edges} | ({} if self.obs is None else {"obs": self.obs})
