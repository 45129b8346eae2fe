"""Per-cell networks of the bundled model on simulated cells, beside per-cell baselines; and how long a simulation takes.

    python benchmarks/per_cell.py [--model FOLDER] [--out benchmarks/per_cell.md] [--quick]

Networks are signed sub-networks of the bundled prior, so that the model knows the genes, and all judged edges are ones
that its prior holds: what is asked is not whether an edge exists but in which cells it is on.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import pandas as pd

import sccafm
from sccafm.evaluate import per_cell
from sccafm.evaluate._per_cell import CHANCE, METRICS
from sccafm.evaluate.markdown import markdown_table
from sccafm.simulation import Kinetics

TRUTHS = {
    "An edge that is off acts as if its regulator were absent": 0.0,
    "An edge that is off keeps its target's level (occupancy 0.5)": 0.5,
}
SMOOTHED = "sccafm, neighbors=15"


def timing(n_cells: int, n_genes: int) -> dict:
    """Seconds of one simulation: by the clock, and of processor time."""
    network = sccafm.simulation.sample_network(n_genes)
    clock, processor = time.perf_counter(), time.process_time()
    sccafm.simulate(network, n_cells=n_cells, progress=False)
    seconds = {"clock s": time.perf_counter() - clock, "processor s": time.process_time() - processor}
    return {"cells": n_cells, "genes": n_genes, "edges": len(network)} | seconds


def judged(model, seed: int, off: float, n_cells: int, n_genes: int) -> pd.DataFrame:
    adata = sccafm.simulate(
        n_genes, n_cells=n_cells, kinetics=Kinetics(off_occupancy=off), random_state=seed, progress=False
    )
    frames = []
    for name, neighbors in (("sccafm", 0), (SMOOTHED, 15)):
        grn = sccafm.infer_grn(adata, model, keep_factors=True, neighbors=neighbors, progress=False)
        report = per_cell(grn, adata, name=name, n_bootstrap=100)
        print(report, flush=True)
        frame = report.to_frame().assign(seed=seed, **report.counts)
        frames.append(frame if neighbors == 0 else frame[frame["method"].str.startswith(name)])
    return pd.concat(frames, ignore_index=True)


def spread(values: pd.Series) -> str:
    return f"{values.mean():z.3f} ({values.min():z.3f} to {values.max():z.3f})"


def table(runs: pd.DataFrame) -> str:
    rows = [[method, *(spread(run[m]) for m in METRICS)] for method, run in runs.groupby("method", sort=False)]
    return markdown_table(["method", *METRICS.values()], [*rows, ["chance", *(f"{CHANCE[m]:.1f}" for m in METRICS)]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    n_seeds, n_cells, n_genes = (1, 120, 60) if options.quick else (3, 600, 200)
    time_of = timing(500, 500) if options.quick else timing(5000, 500)
    model = sccafm.load(options.model)
    runs = {
        title: pd.concat([judged(model, seed, off, n_cells, n_genes) for seed in range(n_seeds)], ignore_index=True)
        for title, off in TRUTHS.items()
    }
    text = [
        "# Per-cell networks on simulated cells",
        "Written by `python benchmarks/per_cell.py`; no figure is typed.",
        f"{n_seeds} networks of {n_genes} genes, {n_cells} cells in 4 states each; mean over networks (smallest to largest). "
        "One network copied to all cells has exactly 0.5 in the first column and 0 in the second. `state_pearson` and "
        "`state_target_expression` are told the states, and the latter says what the level of the target would be worth without "
        "the noise of single cells; `sccafm, pooled` is the model's mean network copied to all cells. `neighbors=15` reads each "
        "cell as the mean of its nearest cells.",
        *[part for title, frame in runs.items() for part in (f"## {title}", table(frame))],
        "## Time of a simulation",
        f"{time_of['cells']:,} cells x {time_of['genes']} genes, {time_of['edges']} edges: {time_of['clock s']:.0f} s by the "
        f"clock, {time_of['processor s']:.0f} s of processor time ({platform.machine()}; the machine "
        "may have been busy).",
    ]
    options.out.write_text("\n\n".join(text) + "\n")
    figures = {"time": time_of} | {title: frame.to_dict("records") for title, frame in runs.items()}
    options.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
