"""What judging a network gives: tables, verdicts and a figure, method by method."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from sccafm.evaluate.baselines import ORACLE
from sccafm.evaluate.comparison import ComparisonReport, Panel, verdict
from sccafm.evaluate.lists import REGULATORS_ALONE, TARGETS_ALONE
from sccafm.evaluate.markdown import markdown_table, unscored
from sccafm.evaluate.metrics import METRICS
from sccafm.evaluate.truth import Truth

COLUMNS = {"swap": "swap test", **METRICS}


@dataclass(frozen=True, eq=False)
class Report(ComparisonReport):
    """What `network` found. `to_frame`, `to_markdown` and `plot` show it."""

    name: str  # row of the network that was judged
    table: pd.DataFrame  # one row per subset and method
    differences: pd.DataFrame  # judged network minus baseline, paired over bootstrap draws
    per_regulator: pd.DataFrame  # one row per subset, method and regulator
    subsets: pd.DataFrame  # counts and density of each subset
    truth: Truth = field(repr=False)
    skipped: dict[str, str]  # baseline or subset -> why it is absent
    min_positives: int
    min_negatives: int

    def to_frame(self) -> pd.DataFrame:
        """One row per subset and method.

        For each metric a column of its name, `_low` and `_high` (95 % bootstrap interval over regulators), `_null` (mean
        over permutations of the targets within each regulator) and `_p` (one-sided, against that null). The null of the
        swap test is 0.5 by design, and its p is the share of bootstrap draws that do not exceed it. Then swap_scale
        and n_swaps, the kind of the truth, and the counts of the subset: n_regulators, n_scored_regulators (enough
        positives and negatives), n_candidates, n_true, density, share_in_prior (of the true edges),
        n_unscored_regulators (the method holds none of their edges).
        """
        return self.table.copy()

    @property
    def kind(self) -> str | None:
        """What the truth tells: "binding", "response", "curated", or None where it was not said."""
        return self.truth.kind

    def to_markdown(self, subset: str = "all") -> str:
        """GitHub table of one subset: value [low, high] of each metric, and the null of the AUROC."""
        rows = (
            [row["method"], *(_with_interval(row, metric) for metric in COLUMNS), _number(row["auroc_null"])]
            for row in self._rows(subset).to_dict("records")
        )
        return markdown_table(["method", *COLUMNS.values(), "null AUROC"], rows) + "\n\n" + self._counts(subset)

    def plot(self, subset: str = "all"):
        """A matplotlib Figure: a dot with its interval per method, a panel per metric, the null as a tick."""
        rows = self._rows(subset)
        panels = [Panel(t, rows, m, f"{m}_low", f"{m}_high", null=f"{m}_null") for m, t in COLUMNS.items()]
        return self._figure(panels, self._counts(subset), 3.2)

    def _is_judged(self, rows: pd.DataFrame) -> np.ndarray:
        return (rows["method"] == self.name).to_numpy()

    def __repr__(self) -> str:
        rows = self._rows("all")
        width = max(rows["method"].str.len())
        lines = [
            self._counts("all"),
            f"  {self.truth!r}",
            f"  {'':{width}}  " + "  ".join(f"{t:26}" for t in COLUMNS.values()),
        ]
        for row in rows.to_dict("records"):
            cells = "  ".join(f"{_with_interval(row, metric):26}" for metric in COLUMNS)
            lines.append(f"  {row['method']:{width}}  {cells}{unscored(row)}")
        lines += [f"  {self._verdict(metric)}" for metric in ("swap", "auroc", "auprc_ratio")]
        lines.append(f"  {self._against(f'{self.name} ({TARGETS_ALONE})', 'auroc', 'all', 'its own list, ')}")
        lines += [f"  {subset}: {self._verdict('auroc', subset)}" for subset in self.subsets.index[1:]]
        lines += [f"  not run: {name} ({why})" for name, why in self.skipped.items()]
        return "\n".join(line for line in lines if line.strip())

    def _rows(self, subset: str) -> pd.DataFrame:
        if subset not in self.subsets.index:
            raise KeyError(f"subset {subset!r} is absent; there are {list(self.subsets.index)}")
        return self.table[self.table["subset"] == subset]

    def _counts(self, subset: str) -> str:
        row = self.subsets.loc[subset]
        known = "" if np.isnan(row["share_in_prior"]) else f"; the prior holds {row['share_in_prior']:.0%} of them"
        return (
            f"{self.name}, {subset}: {row['n_candidates']:,.0f} candidates of {row['n_regulators']:.0f} regulators "
            f"({row['n_scored_regulators']:.0f} with >= {self.min_positives} true and >= {self.min_negatives} false edges), "
            f"{row['n_true']:,.0f} true, density {row['density']:.3g}{known}"
        )

    def _verdict(self, metric: str, subset: str = "all") -> str:
        """One sentence: the network against the strongest baseline that has not seen the truth."""
        own = [f"{self.name} ({alone})" for alone in (TARGETS_ALONE, REGULATORS_ALONE)]
        rows = self._rows(subset).set_index("method")[metric]
        rivals = rows.drop([self.name, ORACLE, *own], errors="ignore").dropna()
        return "" if rivals.empty else self._against(rivals.idxmax(), metric, subset, "the strongest baseline, ")

    def _against(self, rival: str, metric: str, subset: str, what: str) -> str:
        """One sentence: the network against one other method, where both have a number."""
        gap = self.differences.query("subset == @subset and baseline == @rival and metric == @metric")
        if gap.empty or np.isnan(gap["difference"].iloc[0]):
            return ""
        return f"{COLUMNS[metric]}: {verdict(self.name, f'{what}{rival}', gap.iloc[0])}"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _with_interval(row: dict, metric: str) -> str:
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    interval = "" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"
    return _number(row[metric]) + interval
