"""Text that reports share: tables as GitHub reads them, of every report and every page of the benchmarks, and a remark."""

from collections.abc import Iterable


def markdown_table(header: Iterable, rows: Iterable[Iterable]) -> str:
    """A table of texts; a bar within a cell (``|Pearson|``) is escaped, for it would begin another."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def unscored(row: dict) -> str:
    """How many regulators a method says nothing of; empty where it scores all."""
    n = row["n_unscored_regulators"]
    return f"({n} regulators without a score)" if n else ""
