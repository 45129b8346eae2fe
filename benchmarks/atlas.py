"""Inference at the size of atlases: processes, the plan's error, embeddings, a store of many cells, and pooled networks beside it.

    python benchmarks/atlas.py --data ../shared/datasets/dev [--only PART ...] [--cells N] [--store-cells N] [--arboreto PYTHON] [--work FOLDER]

Writes benchmarks/atlas.md and atlas.json; parts that are not asked for keep what the file holds. Every run is a process of its
own, whose workers' largest memory is read when they have ended. `--arboreto` is a Python that has arboreto
(`arboreto_grnboost2.py` says how); without it that row is left out and said to be.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from answers import KANG, Study, ranks, standard_difference
from inference import matrix_peak
from lineages import STIMULATED
from pages import table, write_page

import sccafm
from sccafm import evaluate
from sccafm.grn.storage import PART_CELLS, array_path, n_parts, part_path, read_header

ROOT = Path(__file__).parents[1]
FILES = (KANG, "paul15_myeloid", "pancreas_baron_mouse")
PARTS = ("workers", "plan", "embed", "store", "networks")
STEP = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
import sccafm, torch
asked = json.loads(sys.argv[1])
torch.set_num_threads(asked.pop("threads"))
what, path, embeds = asked.pop("what"), asked.pop("path"), asked.pop("embeds", False)
model = sccafm.load(device="cpu")
begin = time.perf_counter()
if what == "plan":
    print(json.dumps(sccafm.plan(path, model, **asked).to_dict()))
    sys.exit()
if what == "embed":
    found = sccafm.embed(path, model, progress=False, **asked)
else:
    found = sccafm.infer_grn(path, model, progress=False, **asked)
seconds = time.perf_counter() - begin
from joblib.externals.loky import get_reusable_executor
if asked["n_jobs"] != 1:
    get_reusable_executor().shutdown(wait=True)
own, workers = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"cells": len(found), "seconds": seconds, "own MB": own, "worker MB": workers}))
"""


def step(what: str, path: Path, threads: int = 1, **settings) -> dict:
    """One run in a process of its own."""
    asked = json.dumps({"what": what, "path": str(path), "threads": threads} | settings, default=str)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-c", STEP, asked], capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def subset(data: Path, name: str, cells: int, work: Path) -> Path:
    """A file of so many cells of another, spread over it."""
    adata = ad.read_h5ad(data / f"{name}.h5ad")
    chosen = np.unique(np.linspace(0, adata.n_obs - 1, min(cells, adata.n_obs)).astype(int))
    path = work / f"{name}_{len(chosen)}.h5ad"
    if not path.exists():
        adata[chosen].copy().write_h5ad(path)
    return path


def measure_workers(data: Path, cells: int, work: Path) -> dict:
    """The same cells by threads and by processes, and what a model of scaling says of more."""
    path = subset(data, KANG, cells, work)
    ways = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes of 1 thread": (2, 1)}
    rows = {}
    for name, (n_jobs, threads) in ways.items():
        shutil.rmtree(work / "run", ignore_errors=True)
        rows[name] = step("infer", path, threads, store=work / "run", n_jobs=n_jobs)
    return {"rows": rows, "plan": step("plan", path, 1, store=work / "other", n_jobs=1)}


def told_workers(found: dict) -> list[str]:
    rows = [
        {
            "how": name,
            "cells": r["cells"],
            "seconds": r["seconds"],
            "cells/s": r["cells"] / r["seconds"],
            "largest process MB": max(r["own MB"], r["worker MB"]),
        }
        for name, r in found["rows"].items()
    ]
    one, two = (found["rows"][name] for name in ("1 process, 1 thread", "2 processes of 1 thread"))
    plan = found["plan"]
    once = max(plan["seconds"] - plan["cells"] / plan["cells_per_second"], 0)
    shared = (one["seconds"] - once) / 2 / max(two["seconds"] - once, 1e-9)
    rate = one["cells"] / (one["seconds"] - once)
    more = [
        {
            "processes": p,
            "cells/s without what is done once": p * rate * shared,
            "hours for a million cells": (once + 1e6 / (p * rate * shared)) / 3600,
        }
        for p in (2, 16, 64)
    ]
    return [
        "## Processes and threads",
        table(pd.DataFrame(rows), 1),
        f"What is done once (reading, the null, signs) takes {once:.0f} s of each. Of perfect scaling from one process to two, what is "
        f"computed for each cell reaches {100 * shared:.0f} % with the start of the workers. The model T = once + cells / (processes x rate x {shared:.2f}) then says:",
        table(pd.DataFrame(more), 1),
        "Rows of 16 and 64 processes were not measured: they assume as many cores and that memory bandwidth is shared as between two.",
    ]


def measure_plan(data: Path, cells: int, work: Path) -> dict:
    rows = {}
    for name in FILES:
        path = subset(data, name, cells, work)
        shutil.rmtree(work / "run", ignore_errors=True)
        settings = {"store": work / "run", "n_jobs": 2}
        plan = step("plan", path, 1, **settings)
        run = step("infer", path, 1, **settings)
        disk = sum(f.stat().st_size for f in (work / "run").rglob("*") if f.is_file())
        rows[name] = {
            "plan": {k: plan[k] for k in ("cells", "genes", "regulators", "processes", "seconds", "memory", "disk")},
            "run": run | {"disk": disk},
        }
    return {"rows": rows}


def told_plan(found: dict) -> list[str]:
    rows = []
    for name, r in found["rows"].items():
        plan, run = r["plan"], r["run"]
        real = {
            "s": run["seconds"],
            "MB a process": run["own MB" if plan["processes"] == 1 else "worker MB"],
            "MB on disk": run["disk"] / 2**20,
        }
        said = {"s": plan["seconds"], "MB a process": plan["memory"] / 2**20, "MB on disk": plan["disk"] / 2**20}
        row = {"file": name, "cells": plan["cells"], "genes": plan["genes"], "regulators": plan["regulators"]}
        for key in real:
            row |= {
                f"{key}, plan": said[key],
                f"{key}, run": real[key],
                f"{key}, error %": 100 * (said[key] / real[key] - 1),
            }
        rows.append(row)
    return ["## The plan's error", "Two processes, to disk.", table(pd.DataFrame(rows), 0)]


def measure_embed(data: Path, cells: int, work: Path) -> dict:
    path = subset(data, KANG, cells, work)
    return {"rows": {str(n): step("embed", path, 1, n_jobs=n) for n in (1, 2)}}


def told_embed(found: dict) -> list[str]:
    rows = [
        {"processes": n, "cells": r["cells"], "seconds": r["seconds"], "cells/s": r["cells"] / r["seconds"]}
        for n, r in found["rows"].items()
    ]
    return ["## Embeddings", "One thread each, networks of the cells included.", table(pd.DataFrame(rows), 1)]


def measure_store(data: Path, cells: int, work: Path) -> dict:
    """A store of many cells: parts of a real one over and over, with their cells numbered on."""
    real = work / "real"
    if not (real / "grn.json").exists() or not read_header(real)["complete"]:
        step("infer", subset(data, KANG, 2 * PART_CELLS, work), 1, store=real, n_jobs=1)
    found = {
        "bytes an edge": sum(p.stat().st_size for p in (real / "parts").iterdir()) / len(sccafm.read_grn(real).edges)
    }
    folder = work / "many"
    shutil.rmtree(folder, ignore_errors=True)
    repeat_store(real, folder, cells)
    start = time.perf_counter()
    grn = sccafm.read_grn(folder)
    found |= {"cells": len(grn), "edges": len(grn.edges), "open s": time.perf_counter() - start}
    start = time.perf_counter()
    grn[grn.cells[0]]
    found["first cell s"] = time.perf_counter() - start
    chosen = np.random.default_rng(0).choice(len(grn), 20, replace=False)
    start = time.perf_counter()
    for cell in chosen:
        grn[grn.cells[cell]]
    found["a cell ms"] = 1e3 * (time.perf_counter() - start) / len(chosen)
    counts = pd.Series(
        pq.read_table(part_path(folder, 0, "parquet"), columns=["edge"])["edge"].to_numpy()
    ).value_counts()
    for name, place in (("edge of most cells s", 0), ("edge of few cells s", -1)):
        source, target = divmod(int(counts.index[place]), len(grn.targets))
        start = time.perf_counter()
        rows = len(grn.edge(grn.regulators[source], grn.targets[target]))
        found |= {name: time.perf_counter() - start, name.replace(" s", ", rows"): rows}
    start = time.perf_counter()
    few = [len(piece) for piece, _ in zip(grn.frames(), range(10), strict=False)]
    found["edges/s of frames"] = sum(few) / (time.perf_counter() - start)
    start = time.perf_counter()
    grn.pool(10_000)
    found["pool s"] = time.perf_counter() - start
    found |= by_duckdb(folder)
    shutil.rmtree(folder)
    return found


def by_duckdb(folder: Path) -> dict:
    """The documented query on one edge, where DuckDB is installed."""
    try:
        import duckdb
    except ImportError:
        return {}
    edge = int(pq.read_table(folder / "edges.parquet", columns=["edge"])["edge"][7])
    start = time.perf_counter()
    duckdb.sql(f"SELECT count(*), avg(weight) FROM '{folder}/parts/*.parquet' WHERE edge = {edge}").fetchall()
    return {"DuckDB, one edge s": time.perf_counter() - start}


def repeat_store(real: Path, folder: Path, cells: int) -> None:
    (folder / "parts").mkdir(parents=True)
    (folder / "arrays").mkdir()
    parts = [pq.read_table(part_path(real, i, "parquet")) for i in range(len(list((real / "parts").glob("*.parquet"))))]
    edges = 0
    for number in range(n_parts(cells)):
        part = parts[number % len(parts)]
        old = part["cell"].to_numpy()
        moved = (old - old.min() // PART_CELLS * PART_CELLS + number * PART_CELLS).astype(np.int32)
        packed = ["confidence", "qvalue"]
        encoding = {"cell": "DELTA_BINARY_PACKED", "edge": "DELTA_BINARY_PACKED", "weight": "BYTE_STREAM_SPLIT"}
        pq.write_table(
            part.set_column(0, "cell", [moved]), part_path(folder, number, "parquet"), row_group_size=25_000,
            compression="zstd", compression_level=1, use_dictionary=packed, column_encoding=encoding,
        )  # fmt: skip
        edges += len(part)
    header = json.loads((real / "grn.json").read_text())
    (folder / "grn.json").write_text(json.dumps(header | {"edges": edges}))
    for name in ("genes.parquet", "edges.parquet", "sums.safetensors"):
        shutil.copy(real / name, folder / name)
    names = [f"cell{i}" for i in range(cells)]
    pd.DataFrame({"cell": names, "group": pd.Categorical(["all"] * cells)}).to_parquet(folder / "cells.parquet")
    for path in (real / "arrays").glob("*.npy"):  # as long as they must be; nothing is written into them
        array = np.load(path, mmap_mode="r")
        np.lib.format.open_memmap(array_path(folder, path.stem), "w+", array.dtype, (cells, *array.shape[1:]))


def told_store(found: dict) -> list[str]:
    told = f"{found['cells']:,} cells, {found['edges']:,} edges: the parts of a real run over and over."
    rows = [
        {"what": key, "found": f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"}
        for key, value in found.items()
    ]
    return ["## Reading back", told, table(pd.DataFrame(rows))]


def measure_networks(data: Path, cells: int, work: Path, arboreto: str | None) -> dict:
    """All cells' networks, and pooled networks of the same cells and genes, each with what it finds of interferon."""
    path = subset(data, KANG, cells, work)
    shutil.rmtree(work / "kang", ignore_errors=True)
    run = step("infer", path, 2, store=work / "kang", n_jobs=None, groupby="cell_type")
    study = Study.__new__(Study)
    study.name, study.work, study.model = KANG, work, sccafm.load(device="cpu")
    study.adata, study.grn = ad.read_h5ad(path), sccafm.read_grn(work / "kang")
    whole, _ = study.values()
    regulators = list(study.grn.regulators)
    start = time.perf_counter()
    pearson = evaluate.pearson(whole, regulators)
    rows = {
        "sccafm, a network of every cell": {"seconds": run["seconds"]} | places(study, study.grn.strengths),
        "|Pearson|, one network": {"seconds": time.perf_counter() - start}
        | places(study, study.by_ulm(whole, pearson)),
    }
    if arboreto:
        source, out = work / "cells.npz", work / "grnboost2.csv"
        np.savez(
            source, values=whole.to_numpy(), genes=np.array(whole.columns, str), regulators=np.array(regulators, str)
        )
        start = time.perf_counter()
        subprocess.run([arboreto, str(ROOT / "benchmarks/arboreto_grnboost2.py"), str(source), str(out)], check=True)
        seconds = time.perf_counter() - start
        rows["GRNBoost2, one network"] = {"seconds": seconds} | places(study, study.by_ulm(whole, pd.read_csv(out)))
    return {"cells": len(study.grn), "genes": len(study.grn.targets), "regulators": len(regulators), "rows": rows}


def places(study: Study, scores: pd.DataFrame) -> dict:
    """Where the regulators of the answer to interferon stand."""
    condition, kinds = (study.adata.obs[name].astype(str).to_numpy() for name in ("condition", "cell_type"))
    place = ranks(standard_difference(scores, condition, kinds))
    return {gene: float(place.get(gene, np.nan)) for gene in STIMULATED}


def told_networks(found: dict) -> list[str]:
    rows = [{"method": name, **row} for name, row in found["rows"].items()]
    told = (
        f"{found['cells']:,} cells, {found['genes']:,} genes, {found['regulators']:,} regulators. Accuracy: the place of the regulators of the "
        "answer to interferon among all regulators, by the difference between stimulated and resting cells of strengths (sccafm) or of ulm "
        "on the network's 100 strongest targets of each (the others). GRNBoost2 computes one target after another in one process."
    )
    missing = "" if "GRNBoost2, one network" in found["rows"] else "GRNBoost2 left out: no `--arboreto`."
    return [
        "## Every cell's network beside one pooled network",
        told,
        table(pd.DataFrame(rows), 1),
        *([missing] if missing else []),
    ]


TOLD = {"workers": told_workers, "plan": told_plan, "embed": told_embed, "store": told_store, "networks": told_networks}


def page(result: dict) -> str:
    head = [
        "# Inference at the size of atlases",
        "Written by `python benchmarks/atlas.py`; no figure is typed.",
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, bundled model.",
    ]
    body = []
    for name in (name for name in PARTS if name in result):
        own = result[name]
        told = TOLD[name]({k: v for k, v in own.items() if k not in ("peak", "load", "weights")})
        at = f"Weights {own['weights']}; one thread multiplies matrices at {own['peak']:.0f} GFLOP/s before the runs, with {own['load']:.1f} other processes running."
        body += [*told, at]
    return "\n\n".join([*head, *body]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--cells", type=int, default=2000, help="of the runs of workers; plan and embed take half of them"
    )
    parser.add_argument("--network-cells", type=int, default=2800)
    parser.add_argument("--store-cells", type=int, default=1_000_000)
    parser.add_argument("--arboreto")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    saved = options.out.with_suffix(".json")
    result = json.loads(saved.read_text()) if saved.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        measures = {
            "workers": lambda: measure_workers(options.data, options.cells, work),
            "plan": lambda: measure_plan(options.data, options.cells // 2, work),
            "embed": lambda: measure_embed(options.data, options.cells // 2, work),
            "store": lambda: measure_store(options.data, options.store_cells, work),
            "networks": lambda: measure_networks(options.data, options.network_cells, work, options.arboreto),
        }
        for name in options.only:
            peak, load = matrix_peak(), os.getloadavg()[0]
            result[name] = measures[name]() | {
                "peak": peak,
                "load": load,
                "weights": sccafm.load(device="cpu").weights_hash[:12],
            }
            saved.write_text(json.dumps(result, indent=1) + "\n")
            write_page(options.out, page(result))
            print(json.dumps({name: result[name]}), flush=True)


if __name__ == "__main__":
    main()
