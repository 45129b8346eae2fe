"""Speed of training, stage by stage, from memory and streamed from disk, in one process and in two.

    python benchmarks/training.py [--data FOLDER] [--steps 20] [--files 2 6] [--out FILE.md]

Without `--data` it writes files of random counts for genes that the bundled model knows, as many as `--files` says (memory
must not grow with their number). The network has the default size and random weights. Each row is a process of its own.
Waiting is the time in which the model stood still because no batch was ready.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from inference import table
from scipy import sparse

from sccafm.model.layout import find_files, find_release
from sccafm.nn import SFM, VGAE
from sccafm.reference.bundle import read_reference_data
from sccafm.train import TrainSFM
from sccafm.train.config import Machine, StreamConfig
from sccafm.train.corpus import Corpus
from sccafm.train.engine import Engine, Objective, Reader
from sccafm.train.evidence import Evidence
from sccafm.train.files import corpus_files, load, survey_file
from sccafm.train.machine import connect, disconnect
from sccafm.train.sfm import TABLES, Trainer

WARM_UP = 5  # steps that are not counted
CELLS, GENES, SHARE = 4000, 8000, 0.15  # of a written file; the share of counts that are not zero


def write_files(folder: Path, number: int, symbols: list[str]) -> Path:
    folder.mkdir()
    for seed in range(number):
        rng = np.random.default_rng(seed)
        counts = sparse.random(CELLS, GENES, SHARE, "csr", np.float32, rng)
        counts.data = rng.geometric(0.5, counts.nnz).astype(np.float32)
        names = rng.permutation(symbols)[:GENES]
        obs = pd.DataFrame(index=[f"cell{i}" for i in range(CELLS)])
        ad.AnnData(counts, obs, pd.DataFrame(index=names)).write_h5ad(folder / f"{seed}.h5ad")
    return folder


@contextmanager
def timed(owner: object, method: str, times: dict[str, list[float]], name: str):
    """Add up the seconds of a method under a name."""
    plain = getattr(owner, method)

    def measured(*args, **kwargs):
        start = time.perf_counter()
        result = plain(*args, **kwargs)
        times[name].append(time.perf_counter() - start)
        return result

    setattr(owner, method, measured)
    yield
    setattr(owner, method, plain)


def tables():
    return read_reference_data(find_files(find_release(None, None, False), required=TABLES))


def train(options: argparse.Namespace) -> dict | None:
    """Some steps; what they took per step, in this process if it is the first."""
    torch.set_num_threads(options.threads)
    stream = StreamConfig(above=0 if options.streamed else 1e9)
    machine = Machine(devices=options.devices)
    config = TrainSFM(
        data=options.data, run=options.run, steps=WARM_UP + options.steps, accumulate_grad_batches=2, device="cpu", machine=machine,
        stream=stream, validation_accumulate_grad_batches=2, validate_every=10**9, checkpoint_every=10**9,
    )  # fmt: skip
    fabric = connect(machine, "cpu", config.accumulate_grad_batches, lambda objective: objective.task.parts())
    options.run.mkdir(exist_ok=True)
    reference_data = tables()
    ranks = {"rank": fabric.global_rank, "world": fabric.world_size, "barrier": fabric.barrier}
    corpus = Corpus(config, reference_data, progress=False, **ranks)
    sizes = (reference_data.vocabulary.size, reference_data.conditions.size)
    torch.manual_seed(0)
    evidence = Evidence(config.evidence, reference_data, corpus.breadth, corpus.profiles, config.seed)
    trainer = Trainer(config, SFM(config.sfm, *sizes), VGAE(config.vgae), evidence)
    engine = Engine(fabric, config, trainer, corpus, options.run, False)
    times: dict[str, list[float]] = defaultdict(list)
    with (
        timed(corpus, "train_batch", times, "draw"),
        timed(Reader, "__next__", times, "wait"),
        timed(Objective, "forward", times, "forward"),
        timed(engine.fabric, "backward", times, "backward"),
        timed(engine.optimizer, "step", times, "optimiser"),
    ):
        reader = Reader(corpus, engine._numbers(0), config.machine.readers)
        for step in range(WARM_UP + options.steps):
            if step == WARM_UP:
                times.clear()
                start = time.perf_counter()
            engine.step(reader, step)
        seconds = time.perf_counter() - start
        reader.close()
    corpus.close()
    engine.close()
    ms = {f"{name} ms": 1e3 * sum(values) / options.steps for name, values in times.items()}
    whole = 1e3 * seconds / options.steps
    parts = sum(ms[f"{name} ms"] for name in ("wait", "forward", "backward", "optimiser"))
    fabric.barrier()
    disconnect()
    if fabric.global_rank:
        return None
    return {
        "processes": options.devices,
        "threads each": options.threads,
        "files": len(corpus.files),
        "from": "disk" if corpus.is_streamed else "memory",
        "wait ms": ms["wait ms"],
        "forward ms": ms["forward ms"],
        "backward ms": ms["backward ms"],
        "optimiser ms": ms["optimiser ms"],
        "rest ms": whole - parts,
        "step ms": whole,
        "waiting": ms["wait ms"] / whole,
        "draw ms": ms["draw ms"],
        "cells/s": config.accumulate_grad_batches * config.batch_size * options.steps / seconds,
        "peak memory MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def reading(folder: Path, run: Path) -> dict:
    """Cells a second of the pass before training, and of windows."""
    config, reference_data = TrainSFM(data=folder, run=run), tables()
    start = time.perf_counter()
    file = survey_file(corpus_files(folder)[0], config, reference_data)
    surveyed = time.perf_counter()
    runs = np.array_split(
        np.arange(min(len(file.cells), config.stream.window)), config.stream.window // config.stream.block
    )
    window = load(file, config, runs)
    loaded = time.perf_counter() - surveyed
    cells = window.counts.shape[0]
    return {
        "survey cells/s": len(file.cells) / (surveyed - start),
        "window cells": cells,
        "window s": loaded,
        "window cells/s": cells / loaded,
    }


def process(folder: Path, run: Path, steps: int, **changes) -> dict:
    """One row, in processes of its own."""
    out = run.with_suffix(".json")
    options = {"data": folder, "run": run, "measure": out, "steps": steps} | changes
    given = [f"--{name}={value}" for name, value in options.items()]
    subprocess.run([sys.executable, __file__, *given], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--files", type=int, nargs=2, default=[2, 6])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    for name in ("run", "measure"):
        parser.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    for name, value in (("devices", 1), ("threads", 1), ("streamed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        row = train(options)
        if row:
            options.measure.write_text(json.dumps(row))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = [options.data]
        if options.data is None:
            names = tables().vocabulary
            symbols = [s for s in (names.symbol(t) for t in range(4, names.size)) if s]
            given = [write_files(folder / f"files{n}", n, symbols) for n in options.files]
        read = reading(given[0], folder / "run")
        alone = process(given[0], folder / "memory", options.steps)
        streamed = [process(data, folder / f"disk{i}", options.steps, streamed=1) for i, data in enumerate(given)]
        both = process(given[0], folder / "two", options.steps, devices=2)
    rows, scaling = [alone, *streamed, both], both["cells/s"] / alone["cells/s"]
    text = [
        "# Training: speed and memory",
        "Written by `python benchmarks/training.py`; no figure is typed.",
        f"{platform.machine()}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} at the end: other work shares the machine), "
        f"torch {torch.__version__}; {rows[0]['files']} files"
        + (f" of {CELLS:,} cells and {GENES:,} genes" if options.data is None else "")
        + f", two micro-batches of {TrainSFM.cells} cells and up to {TrainSFM.genes:,} genes a step, {options.steps} steps.",
        "## A step",
        table(rows),
        "`wait`: the model stands still because no batch is ready; `draw`: making the batches, in reader threads beside the "
        f"model. Times are of one process; cells/s are of all. Two processes of one thread make {scaling:.2f} times the "
        "cells of one process of one thread.",
        "## Reading",
        table([read]),
        "A survey is made once for each file and kept in the run folder. A window includes the search for neighbours.",
    ]
    result = {"steps": rows, "reading": read, "scaling 1 to 2": scaling, "load": os.getloadavg()[0]}
    options.out.write_text("\n\n".join(text) + "\n")
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
