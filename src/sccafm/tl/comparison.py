"""compare: which regulators, contexts and edges differ between two conditions, with donors as the replicates."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from sccafm._text import warn
from sccafm.data.groups import ALL
from sccafm.grn.grn import GRN
from sccafm.model.validation import check_key
from sccafm.tl.designs import Design, find_condition, find_design
from sccafm.tl.group_statistics import group_auroc
from sccafm.tl.mean_networks import mean_networks
from sccafm.tl.shared import check_grn, column, donors_of, log_strength, obs_of

FDR = 0.05  # of the counts that a comparison prints
SHARE_OFFSET = 1e-3  # added to a context's share before the logarithm
EDGE_OFFSET = 0.1  # of the median mean score of the tested edges, likewise
DESCRIPTIVE = "descriptive: no donors were named (sample_key=), and cells are not replicates, so that nothing is tested"


@dataclass(frozen=True, eq=False)
class Comparison:
    """What differs between two conditions. Made by `sccafm.tl.compare`."""

    contrast: tuple[str, str]
    regulators: pd.DataFrame  # a row per group and regulator
    contexts: pd.DataFrame  # a row per group and context
    edges: pd.DataFrame | None  # a row per group and tested edge; None where the mean networks are not available
    design: pd.DataFrame  # a row per group: donors and cells of each side, paired or not
    notes: tuple[str, ...] = field(default=())  # what was not done, and why

    def __repr__(self) -> str:
        lines = [f"{self.contrast[0]} beside {self.contrast[1]}, {len(self.design)} groups of cells"]
        for name in ("regulators", "contexts", "edges"):
            table = getattr(self, name)
            if table is None:
                continue
            if table["pvalue"].notna().any():
                found = int((table["qvalue"] <= FDR).sum())
                tested = int(table["pvalue"].notna().sum())
                lines.append(f"  {name}: {found:,} of {tested:,} at an FDR of {FDR:.0%}")
            else:
                lines.append(f"  {name}: {len(table):,}, not tested")
            ends = ["source", "target"] if name == "edges" else [name.removesuffix("s")]
            for row in table.head(3).to_dict("records"):
                what = " -> ".join(str(row[end]) for end in ends)
                lines.append(f"    {row['group']}: {what} {row['effect']:+.2f}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def compare(
    grn: GRN,
    contrast: tuple[str, str],
    *,
    condition_key: str | pd.Series | None = None,
    sample_key: str | pd.Series | None = None,
    groupby: str | pd.Series | Iterable | None = None,
    test: str = "moderated",
    n_edges: int = 2000,
    min_cells: int = 10,
    adata: AnnData | None = None,
    key_added: str = "compare",
    copy: bool = False,
    random_state: int = 0,
) -> Comparison:
    """Compare regulation between two conditions, within each group of cells.

    Donors are the replicates: cells are averaged within donor, condition and group, and donors are compared. Donors on both
    sides are paired. With donors on one side each, the two sides are compared; where some donors are on both sides and
    some on one, at least three on both are paired and the others left out, with a warning.

    Parameters
    ----------
    grn
        Networks of `sccafm.infer_grn` or `sccafm.read_grn`.
    contrast
        Two labels, the first beside the second: effects are positive where the first is stronger.
    condition_key
        A column of obs or a Series that holds them. None: the only column of obs that holds both.
    sample_key
        A column or Series of donors. None: nothing is tested, for cells of one donor are not replicates; effects are
        descriptive.
    groupby
        A column, Series or labels of cell types, within which conditions are compared. None: all cells together.
    test
        "moderated": moderated t on donor means (Smyth 2004). Its prior counts for no more degrees of freedom than the
        donors give, because regulators of one donor are correlated. "permutation": share of the permutations of donors
        (swaps of condition within donors where they are paired) whose moderated t is as large; it assumes less, and n
        donors a side give p-values no smaller than 2 / C(2n, n), or 2 / 2^n of n pairs.
    n_edges
        Edges to test in each group: those with the highest mean over all its donors. 0: none.
    min_cells
        Cells that a donor needs on a side of a group to count there; without donors, that each side of a group needs.
    adata
        Whose obs is read (None: obs as it was at inference), and which is annotated.
    key_added
        Key of uns.
    copy
        Leave `adata` alone.
    random_state
        Of permutations, where there are more than 2,000.

    Returns
    -------
    Comparison
        `regulators`, `contexts` and `edges`: tables with group, regulator (or context; or source, target, sign), then

        - test_mean, reference_mean: mean strength (share of regulation; score) over the cells of each side;
        - effect: difference of log2 of it, donors counting alike; low, high: its 95 % interval; t; pvalue (two-sided);
          qvalue (Benjamini and Hochberg over the whole table). The last five are NaN where nothing was tested;
        - of regulators also auroc (a cell of the first side beside one of the second), test_detection and
          reference_detection (share of the cells in which the regulator itself was detected).

        The surest come first; without a test, regulators by how far `auroc` is from 0.5, contexts and edges by effect. Edges
        need mean networks of donors, exact with
        ``keep_factors=True`` or where they join groups of the inference (`GRN.regroup`); elsewhere `edges` is None and
        `notes` say so. In `adata`: ``uns["compare"]`` with the tables.

    Raises
    ------
    KeyError, ValueError
        No such column or label, fewer than two donors a side in every group, or networks of other cells.
    """
    check_key(key_added)
    check_grn(grn)
    if test not in ("moderated", "permutation"):
        raise ValueError(f'test must be "moderated" or "permutation", got {test!r}')
    obs = obs_of(grn, adata)
    condition = find_condition(contrast, condition_key, obs, grn.cells, column)
    side = condition.map({str(contrast[0]): 0, str(contrast[1]): 1}).astype(float).to_numpy()
    groups = pd.Series(ALL, grn.cells) if groupby is None else column(groupby, obs, grn.cells, "groupby")
    samples = None if sample_key is None else donors_of(sample_key, obs, grn.cells)
    cells = pd.DataFrame({"group": groups.astype("category"), "side": side}, index=grn.cells)
    cells["sample"] = "all cells" if samples is None else samples
    lost = int((cells["group"].isna() & cells["side"].notna()).sum())
    if lost:
        warn(f"left out {lost:,} cells of the contrast without a group in {groups.name!r}")
    units, unit_of = find_units(cells, min_cells, samples is not None)
    designs = find_designs(units, cells["group"].cat.categories, samples is not None, min_cells)
    notes = [] if samples is not None else [DESCRIPTIVE]
    if samples is None:
        warn(DESCRIPTIVE)
    run = Run(grn, units, unit_of, side, designs, test, random_state)
    edges = None
    if n_edges:
        try:
            edges = run.edges(n_edges)
        except KeyError as error:
            notes.append(f"edges are not compared: {error.args[0]}")
    found = Comparison(
        (str(contrast[0]), str(contrast[1])),
        run.regulators(),
        run.contexts(),
        edges,
        described(units, designs),
        tuple(notes),
    )
    if adata is not None and not copy:
        tables = {n: getattr(found, n) for n in ("regulators", "contexts", "edges", "design")}
        plain = {"group": str, "source": str, "target": str}
        adata.uns[key_added] = {
            n: t.astype({c: kind for c, kind in plain.items() if c in t}) for n, t in tables.items() if t is not None
        } | {"contrast": list(found.contrast), "notes": list(notes)}
    return found


def find_units(cells: pd.DataFrame, min_cells: int, has_samples: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """Donors on a side of a group with enough cells (group, side, sample, n_cells), and the unit of each cell, -1 for none."""
    inside = cells.dropna()
    units = inside.groupby(["group", "side", "sample"], observed=True, sort=True).size().rename("n_cells").reset_index()
    units["sample"] = units["sample"].astype(str)
    small = units["n_cells"] < min_cells
    if small.any():
        examples = ", ".join(
            f"{u.sample} in {u.group}" if has_samples else f"{u.group} ({u.n_cells} cells)"
            for u in units[small].head(3).itertuples()
        )
        what = "donors of a group" if has_samples else "sides of a group"
        warn(f"left out {int(small.sum())} {what} with fewer than min_cells={min_cells} cells: {examples}")
    units = units[~small].reset_index(drop=True)
    place = {key: i for i, key in enumerate(zip(units["group"], units["side"], units["sample"], strict=True))}
    keys = zip(cells["group"], cells["side"], cells["sample"].astype(str), strict=True)
    return units, np.array([place.get(key, -1) for key in keys])


def find_designs(units: pd.DataFrame, groups: pd.Index, has_samples: bool, min_cells: int) -> dict[str, Design | None]:
    """The design of each group that has cells on both sides; None where nothing can be tested.

    Raises
    ------
    ValueError
        No group has both sides, or donors were named and no group has two a side.
    """
    rows = {group: units[units["group"] == group] for group in groups}
    rows = {group: own for group, own in rows.items() if own["side"].nunique() == 2}
    lost = [str(group) for group in groups if group not in rows]
    if not rows:
        raise ValueError(
            f"no group of cells has both sides of the contrast with at least {min_cells} cells; lower min_cells= or choose "
            "another groupby="
        )
    if lost:
        warn(f"left out {len(lost)} groups without cells on both sides: {', '.join(lost[:5])}")
    if not has_samples:
        return dict.fromkeys(rows)
    designs = {group: find_design(own[["sample", "side"]]) for group, own in rows.items()}
    if all(design is None for design in designs.values()):
        counts = units.groupby(["group", "side"], observed=True)["sample"].nunique().unstack().max()
        raise ValueError(
            f"donors are the replicates, and no group has two on each side (at most {int(counts.iloc[0])} and "
            f"{int(counts.iloc[1])}): with one donor a side nothing can be tested. Leave sample_key= out for descriptive effects"
        )
    untested = [str(group) for group, design in designs.items() if design is None]
    if untested:
        warn(f"not tested, with fewer than two donors a side: {', '.join(untested[:5])}")
    return designs


def described(units: pd.DataFrame, designs: dict) -> pd.DataFrame:
    rows = []
    for group, design in designs.items():
        own = units[units["group"] == group]
        sides = [own[own["side"] == side] for side in (0, 1)]
        kind = "not tested" if design is None else "paired donors" if design.is_paired else "donors on one side each"
        names = ("test", "reference")
        counts = {f"{n}_samples": len(s) for n, s in zip(names, sides, strict=True)}
        rows.append({"group": group, "design": kind} | counts
                    | {f"{n}_cells": int(s["n_cells"].sum()) for n, s in zip(names, sides, strict=True)})  # fmt: skip
    return pd.DataFrame(rows)


class Run:
    """One comparison: the same units, three kinds of features."""

    def __init__(self, grn: GRN, units: pd.DataFrame, unit_of, side, designs: dict, test: str, random_state: int):
        self.grn, self.units, self.unit_of, self.side, self.designs = grn, units, unit_of, side, designs
        self.test, self.random_state = test, random_state

    def _means(self, values: np.ndarray) -> np.ndarray:
        """Mean of the cells of each unit: units F."""
        return np.stack([values[self.unit_of == unit].mean(0) for unit in range(len(self.units))])

    def _cells_of(self, group: str) -> tuple[np.ndarray, np.ndarray]:
        """Which cells of a group are on the first side, and on the second: booleans."""
        own = np.isin(self.unit_of, self.units.index[self.units["group"] == group])
        return own & (self.side == 0), own & (self.side == 1)

    def _tested(self, group: str, values: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of a group's features; `values` are units F on the log2 scale."""
        design, own = self.designs[group], self.units["group"] == group
        if design is None:
            sides = [values[(own & (self.units["side"] == side)).to_numpy()].mean(0) for side in (0, 1)]
            nothing = np.full(values.shape[1], np.nan)
            return {"effect": sides[0] - sides[1]} | dict.fromkeys(("low", "high", "t", "pvalue"), nothing)
        found = design.test(values, self.test, np.random.default_rng(self.random_state))
        return {name: getattr(found, name) for name in ("effect", "low", "high", "t", "pvalue")}

    def regulators(self) -> pd.DataFrame:
        strength = self.grn.strengths.to_numpy()
        values, seen = log_strength(strength), self.grn.regulator_expression.to_numpy() > 0
        means, tables = self._means(values), []
        for group in self.designs:
            test, reference = self._cells_of(group)
            sides = np.where(test, 0, np.where(reference, 1, -1))
            tables.append(
                {"group": group, "regulator": self.grn.regulators.to_numpy(),
                 "test_mean": strength[test].mean(0), "reference_mean": strength[reference].mean(0)}
                | self._tested(group, means)
                | {"auroc": group_auroc(values, sides, 2)[0],
                   "test_detection": seen[test].mean(0), "reference_detection": seen[reference].mean(0)}
            )  # fmt: skip
        return joined(tables)

    def contexts(self) -> pd.DataFrame:
        shares = self.grn.context.to_numpy()
        means, tables = np.log2(self._means(shares) + SHARE_OFFSET), []
        for group in self.designs:
            test, reference = self._cells_of(group)
            ends = {"test_mean": shares[test].mean(0), "reference_mean": shares[reference].mean(0)}
            names = {"group": group, "context": list(self.grn.params["factors"])}
            tables.append(names | ends | self._tested(group, means))
        return joined(tables)

    def edges(self, n_edges: int) -> pd.DataFrame:
        tables = []
        for group in self.designs:
            own = np.flatnonzero(self.units["group"] == group)
            place = np.full(len(self.units) + 1, -1)  # the last one: cells of no unit
            place[own] = np.arange(len(own))
            labels = pd.Series(
                pd.Categorical.from_codes(place[self.unit_of], own.astype(str)), self.grn.cells, name="donor"
            )
            networks = mean_networks(self.grn, labels).reshape(len(own), -1)
            mean = networks.mean(0)
            edge = np.sort(np.argsort(-mean, kind="stable")[: min(n_edges, int((mean > 0).sum()))])
            kept = networks[:, edge]
            values = np.zeros((len(self.units), len(edge)))
            values[own] = np.log2(kept + EDGE_OFFSET * np.median(mean[edge]))
            weight = self.units["n_cells"].to_numpy()[own]
            sides = [np.average(kept[s], axis=0, weights=weight[s])
                     for s in (self.units["side"].to_numpy()[own] == side for side in (0, 1))]  # fmt: skip
            source, target = np.divmod(edge, len(self.grn.targets))
            names = {
                "group": group,
                "source": self.grn.regulators.to_numpy()[source],
                "target": self.grn.targets.to_numpy()[target],
                "sign": self.grn.pairs.sign.ravel()[edge],
            }
            tables.append(names | {"test_mean": sides[0], "reference_mean": sides[1]} | self._tested(group, values))
        return joined(tables)


def joined(tables: list[dict]) -> pd.DataFrame:
    """One table with q-values, the surest first.

    Without a test those come first whose values tell the sides apart best (regulators) or whose effects are the largest: a ratio of means is
    large by chance where a regulator is weak or a group small.
    """
    table = pd.concat([pd.DataFrame(t) for t in tables], ignore_index=True)
    known = table["pvalue"].notna()
    q = np.full(len(table), np.nan)
    if known.any():
        q[known] = stats.false_discovery_control(table.loc[known, "pvalue"])
    table.insert(table.columns.get_loc("pvalue") + 1, "qvalue", q)
    effect = -table["effect"].abs()
    size = -(table["auroc"] - 0.5).abs() if "auroc" in table and not known.any() else effect
    order = np.lexsort((effect, size, table["pvalue"].fillna(2)))
    table["group"] = table["group"].astype("category")
    return table.iloc[order].reset_index(drop=True)
