"""Reports of several truths side by side, by the kind of truth.

Truths of different kinds disagree on what is popular, so that a mean over kinds can be pleased by any list. There is a mean
within each kind, and none over kinds.
"""

from collections.abc import Mapping

import pandas as pd

from sccafm.evaluate.markdown import markdown_table
from sccafm.evaluate.report import COLUMNS, Report

SHOWN = ("swap", "auroc", "auprc_ratio")
MEAN = "mean"


def by_kind(reports: Mapping[str, Report], metrics=SHOWN, subset: str = "all") -> pd.DataFrame:
    """Numbers of several reports, truths grouped by kind, with a mean within each kind.

    Parameters
    ----------
    reports
        Reports of `network` by the name of the truth; each with a kind.
    metrics
        Columns of `Report.to_frame`.
    subset
        Subset of each report; truths without it are left out, as their reports' `skipped` say.

    Returns
    -------
    DataFrame with the columns kind, truth (or "mean"), n_truths, method and the metrics. A mean is NaN for a method that
    lacks a number on some truth of the kind.

    Raises
    ------
    ValueError
        A report without a kind.
    KeyError
        No report has the subset.
    """
    if without := [name for name, report in reports.items() if report.kind is None]:
        raise ValueError(
            f"the truths {without} have no kind; judge them with `network(..., kind='binding')` or another"
        )
    parts = {}
    for name, report in reports.items():
        table = report.to_frame()
        parts[name] = table.loc[table["subset"] == subset, ["kind", "method", *metrics]].assign(truth=name, n_truths=1)
    rows = pd.concat(parts.values(), ignore_index=True) if parts else pd.DataFrame()
    if rows.empty:
        raise KeyError(f"no report has a subset {subset!r}")
    tables = []
    for kind, table in rows.groupby("kind", sort=False):
        n, numbers = table["truth"].nunique(), table.groupby("method", sort=False)[list(metrics)]
        means = numbers.mean().where(numbers.count() == n).reset_index().assign(kind=kind, truth=MEAN, n_truths=n)
        tables += [table, means]
    return pd.concat(tables, ignore_index=True)[["kind", "truth", "n_truths", "method", *metrics]]


def kinds_markdown(reports: Mapping[str, Report], metrics=SHOWN, subset: str = "all") -> dict[str, str]:
    """For each kind a GitHub table: methods in rows, truths and their mean in columns, metrics in each cell."""
    tables = {}
    for kind, rows in by_kind(reports, metrics, subset).groupby("kind", sort=False):
        titles = {MEAN: f"mean of {int(rows['n_truths'].max())}"}
        truths = [*dict.fromkeys(rows.loc[rows["truth"] != MEAN, "truth"]), MEAN]
        shown = rows.set_index(["method", "truth"])[list(metrics)]
        lines = [
            [method, *(_cell(shown, method, truth) for truth in truths)] for method in dict.fromkeys(rows["method"])
        ]
        tables[kind] = markdown_table(["method", *(titles.get(truth, truth) for truth in truths)], lines)
    return tables


def titles_of(metrics=SHOWN) -> str:
    """What stands in each cell of `kinds_markdown`."""
    return " / ".join(COLUMNS[metric] for metric in metrics)


def _cell(shown: pd.DataFrame, method: str, truth: str) -> str:
    if (method, truth) not in shown.index:
        return "-"
    return " / ".join("-" if pd.isna(value) else f"{value:.3f}" for value in shown.loc[(method, truth)])
