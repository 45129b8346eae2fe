"""sccafm rank, compare, plot, report, evaluate: from networks to answers."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

TABLES = ("regulators", "contexts", "edges", "design")


@dataclass(frozen=True)
class Rank:
    """Rank the regulators of each group of cells.

    Example: sccafm rank networks --groupby cell_type --out regulators.csv
    """

    networks: Positional[Path]
    """Folder that sccafm infer wrote."""
    groupby: str | None = None
    """Column of obs; absent: the groups of the inference."""
    sample_key: str | None = None
    """Column of obs with donors, the replicates."""
    top_k: int = 1000
    """Edges of a group among which targets are counted."""
    n_targets: int = 5
    """Targets to name."""
    out: Path | None = None
    """CSV file; absent: tab-separated to stdout."""


@dataclass(frozen=True)
class Compare:
    """Compare regulation between two conditions, with donors as the replicates.

    Example: sccafm compare networks --contrast stim ctrl --sample-key donor --groupby cell_type --out differences
    """

    networks: Positional[Path]
    """Folder that sccafm infer wrote."""
    contrast: tuple[str, str]
    """Two labels: the first beside the second."""
    condition_key: str | None = None
    """Column of obs that holds them; absent: the only one that does."""
    sample_key: str | None = None
    """Column of obs with donors; absent: effects are descriptive."""
    groupby: str | None = None
    """Column of cell types within which conditions are compared."""
    test: Literal["moderated", "permutation"] = "moderated"
    n_edges: int = 2000
    """Edges to test in each group."""
    min_cells: int = 10
    """Cells that a donor needs on a side of a group."""
    random_state: int = 0
    out: Path | None = None
    """New folder for the tables (CSV); a summary goes to stdout."""


@dataclass(frozen=True)
class Plot:
    """Draw networks: a figure of a group, an interactive page, regulators, contexts or the receipt.

    Example: sccafm plot networks --kind network --group "B cell" --out B.svg
    """

    networks: Positional[Path]
    """Folder that sccafm infer wrote, or a table of edges."""
    out: Path
    """SVG, PDF or PNG; HTML for kind html."""
    kind: Literal["network", "html", "regulators", "contexts", "receipt"] = "network"
    group: str | None = None
    """Group to draw; absent: all cells."""
    n_edges: int | None = None
    """Edges of a network; absent: 50, or 200 on a page."""
    rank: Literal["specific", "weight"] = "specific"
    """Edges stronger than in other groups, or strongest."""
    beside: tuple[str, ...] | None = None
    """Groups that specific edges are compared with; absent: all others."""
    genes: tuple[str, ...] | None = None
    """Only edges that begin or end at these."""
    min_confidence: float | None = None
    """Least confidence of an edge."""


@dataclass(frozen=True)
class Report:
    """Write one page about a run: receipt, regulators, contexts, networks, quality, run card, methods.

    Example: sccafm report networks --out report.html
    """

    networks: Positional[Path]
    """Folder that sccafm infer wrote."""
    out: Path
    """HTML file."""
    groups: tuple[str, ...] | None = None
    """Groups whose networks are drawn; absent: all."""
    n_edges: int = 40
    """Edges of each network."""
    title: str | None = None


@dataclass(frozen=True)
class Evaluate:
    """Judge a network against true edges, beside baselines.

    Example: sccafm evaluate networks --truth chip.csv --adata cells.h5ad --baselines fast
    """

    networks: Positional[Path]
    """Folder that sccafm infer wrote, or another tool's table of edges."""
    truth: Path
    """Table of true edges: source, target or Gene1, Gene2 or TF, target."""
    adata: Path | None = None
    """h5ad file of the cells, for baselines from expression."""
    prior: Path | None = None
    """Table of prior edges, to judge without them too."""
    group: str | None = None
    """Group to judge; absent: all cells."""
    baselines: str = "fast"
    """"all", "fast", "none", or a name."""
    n_bootstrap: int = 200
    """Draws of regulators for the intervals."""
    random_state: int = 0
    out: Path | None = None
    """Markdown file; absent: stdout."""


def read_networks(path: Path):
    """A folder of networks, or a table of edges."""
    import sccafm

    if path.is_file():
        return sccafm.GRN.from_edges(path)
    return read_folder(path)


def read_folder(path: Path):
    import sccafm

    if not path.is_dir():
        raise FileNotFoundError(f"no folder {path}; give one that `sccafm infer --out` wrote")
    return sccafm.read_grn(path)


def run_rank(options: Rank) -> None:
    from sccafm._io import write_file
    from sccafm.tl import rank_regulators

    names = ("sample_key", "top_k", "n_targets")
    table = rank_regulators(
        read_folder(options.networks), options.groupby, **{name: getattr(options, name) for name in names}
    )
    if options.out is None:
        table.to_csv(sys.stdout, sep="\t", index=False)
        return
    write_file(options.out, lambda p: table.to_csv(p, index=False))
    print(f"{len(table):,} rows written to {options.out}")


def run_compare(options: Compare) -> None:
    from sccafm._io import new_folder, write_file
    from sccafm.tl import compare

    names = ("condition_key", "sample_key", "groupby", "test", "n_edges", "min_cells", "random_state")
    grn = read_folder(options.networks)
    folder = None if options.out is None else new_folder(options.out)
    found = compare(grn, options.contrast, **{name: getattr(options, name) for name in names})
    print(found)
    if folder is not None:
        tables = {name: getattr(found, name) for name in TABLES if getattr(found, name) is not None}
        for name, table in tables.items():
            write_file(folder / f"{name}.csv", lambda p, table=table: table.to_csv(p, index=False))
        print(f"written to {folder}: {', '.join(f'{name}.csv' for name in tables)}")


def run_plot(options: Plot) -> None:
    import matplotlib

    from sccafm import pl
    from sccafm.tl import rank_regulators

    matplotlib.use("Agg")  # a file is written: no display is needed
    if options.kind in ("network", "html"):
        network = read_networks(options.networks)
        names = ("rank", "beside", "genes", "min_confidence")
        settings = {name: getattr(options, name) for name in names}
        if options.n_edges is not None:
            settings["n_edges"] = options.n_edges
        if options.kind == "html":
            pl.network_html(network, options.out, options.group, **settings)
        else:
            pl.network(network, options.group, save=options.out, **settings)
    else:
        grn = read_folder(options.networks)
        if options.kind == "regulators":
            groups = None if options.group is None else [options.group]
            pl.regulators(rank_regulators(grn), groups=groups, save=options.out)
        elif options.kind == "contexts":
            pl.contexts(grn, save=options.out)
        else:
            pl.receipt(grn, save=options.out)
    print(f"written to {options.out}")


def run_report(options: Report) -> None:
    import matplotlib

    from sccafm import pl

    matplotlib.use("Agg")
    grn = read_folder(options.networks)
    pl.report(grn, options.out, groups=options.groups, n_edges=options.n_edges, title=options.title)
    print(f"written to {options.out}")


def run_evaluate(options: Evaluate) -> None:
    import pandas as pd

    from sccafm import evaluate
    from sccafm._io import write_file
    from sccafm.cli.inference import read_cells

    for path in (options.truth, options.prior):
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"no file {path}; give a table of edges")
    report = evaluate.network(
        read_networks(options.networks),
        options.truth,
        adata=None if options.adata is None else read_cells(options.adata),
        prior=None if options.prior is None else pd.read_csv(options.prior, sep=None, engine="python"),
        group=options.group,
        baselines=None if options.baselines == "none" else baselines_of(options.baselines),
        n_bootstrap=options.n_bootstrap,
        random_state=options.random_state,
        name="network",
    )
    text = f"{report.truth}\n\n{report.to_markdown()}\n"
    if options.out is None:
        print(text)
        return
    write_file(options.out, lambda p: p.write_text(text, encoding="utf-8"))
    print(f"written to {options.out}")


def baselines_of(words: str) -> str | list[str]:
    return words if words in ("all", "fast") else words.split(",")
