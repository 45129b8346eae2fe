"""Tables as GitHub reads them, of every report and every page of the benchmarks."""

from collections.abc import Iterable


def markdown_table(header: Iterable, rows: Iterable[Iterable]) -> str:
    """A table of texts; a bar within a cell (|Pearson|) is escaped, for it would begin another."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
