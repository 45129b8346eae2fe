"""What all reports share: methods beside baselines, as a table, a figure and sentences."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Panel:
    """One measure of the figure: a dot with its interval for each method."""

    title: str
    rows: pd.DataFrame  # a row per method, from the top; column method, and the next four
    value: str
    low: str | None = None  # and high: columns of the interval
    high: str | None = None
    chance: float | None = None  # a line there
    null: str | None = None  # column of a value under permutation, a tick


class ComparisonReport:
    """Base of the reports of `sccafm.evaluate`."""

    if TYPE_CHECKING:  # what a report has
        table: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """The table of the report: one row per method."""
        return self.table.copy()

    def _is_judged(self, rows: pd.DataFrame) -> np.ndarray:
        return rows["is_judged"].to_numpy()

    def _figure(self, panels: list[Panel], story: str, width: float):
        """A matplotlib Figure with a panel per measure, `width` inches each; judged methods are red."""
        import matplotlib.pyplot as plt

        height = 1.3 + 0.3 * max(len(panel.rows) for panel in panels)
        figure, axes = plt.subplots(
            1,
            len(panels),
            figsize=(width * len(panels) + 0.5, height),
            sharey=True,
            layout="constrained",
            squeeze=False,
        )
        for axis, panel in zip(axes[0], panels, strict=True):
            rows = panel.rows.iloc[::-1]
            colours = np.where(self._is_judged(rows), "tab:red", "tab:gray")
            if panel.chance is not None:
                axis.axvline(panel.chance, color="black", linewidth=0.8)
            if panel.low is not None:
                axis.hlines(rows["method"], rows[panel.low], rows[panel.high], color=colours)
            axis.scatter(rows[panel.value], rows["method"], color=colours, zorder=3)
            if panel.null is not None:
                axis.scatter(rows[panel.null], rows["method"], marker="|", color="black", label="permuted targets")
            axis.set_title(panel.title, fontsize="small")
        if any(panel.null is not None for panel in panels):
            axes[0, -1].legend(fontsize="small")
        figure.suptitle(story, fontsize="small")
        return figure


def verdict(name: str, rival: str, gap: pd.Series, sign: str = "") -> str:
    """One sentence: the difference (low, high: its interval) of a judged method and a rival, and what it says."""
    word = "beats" if gap["low"] > 0 else "loses to" if gap["high"] < 0 else "is not told apart from"
    span = "" if np.isnan(gap["low"]) else f" [{gap['low']:{sign}.3f}, {gap['high']:{sign}.3f}]"
    return f"{name} {word} {rival}: {gap['difference']:+.3f}{span}"
