"""How tables of edges are written by the tools of the field: the only place that knows their columns."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

SOURCE_TARGET = (
    ("source", "target"),
    ("Gene1", "Gene2"),
    ("TF", "target"),
    ("TF", "gene"),
    ("regulator", "target"),
    ("source_genesymbol", "target_genesymbol"),
)
WEIGHTS = ("weight", "score", "importance", "EdgeWeight", "confidence")
NETWORK_LABELS = ("group", "cell", "cell_id")


def edge_columns(table: pd.DataFrame) -> tuple[str, str]:
    """Names of the source and target columns of a long table; KeyError if there is no known pair."""
    names = {str(column).lower(): column for column in table.columns}
    for source, target in SOURCE_TARGET:
        if source.lower() in names and target.lower() in names:
            return names[source.lower()], names[target.lower()]
    raise KeyError(
        f"expected columns source, target (or Gene1, Gene2; TF, target; regulator, target), got "
        f"{list(table.columns[:8])}; rename them: `table.rename(columns={{'my_tf': 'source', 'my_gene': 'target'}})`"
    )


def read_delimited(table: pd.DataFrame | str | Path) -> pd.DataFrame:
    """A table as it is, or as text from a file with commas or tabs."""
    if isinstance(table, pd.DataFrame):
        return table
    is_tabbed = len(pd.read_csv(table, sep="\t", nrows=0).columns) > 1
    return pd.read_csv(table, sep="\t" if is_tabbed else ",", dtype=str, keep_default_na=False)


def find_column(table: pd.DataFrame, wanted: Sequence[str], mend: str) -> str:
    names = {str(column).lower(): column for column in table.columns}
    for name in wanted:
        if name.lower() in names:
            return names[name.lower()]
    raise KeyError(f"expected a column {' or '.join(wanted)}, got {list(table.columns[:8])}; {mend}")
