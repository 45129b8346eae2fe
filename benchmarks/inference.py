"""Speed and memory of inference, stage by stage.

    python benchmarks/inference.py [--data FILE.h5ad] [--cells 1000 5000] [--genes 500] [--out FILE.md] [--quick]

The stages are timed beside the machine's own matrix-product peak, so that ratios can be compared across machines. The
steps that measure memory run in processes of their own. `--data` is kang18_ifnb_2800.h5ad, or any file of counts; without
it the memory and file steps are left out and said to be. `--files-only` measures these alone and keeps the stages that the
table beside `--out` holds.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy import sparse

import sccafm
from sccafm.evaluate.markdown import markdown_table
from sccafm.grn.edges import select_edges
from sccafm.nn import SFM, SFMConfig
from sccafm.types import Tokens

MEMORY_STEP = """
import resource, sys, time, warnings
warnings.simplefilter("ignore")
start = time.perf_counter()
import anndata as ad, sccafm
adata = ad.read_h5ad(sys.argv[1], backed="r" if sys.argv[2] == "store" else None)
begin = time.perf_counter()
find = sccafm.load().reference_data.genes.find
known = [name for name in adata.var_names if find(name, "human")[1] != "lost"]
genes = None if sys.argv[4] == "default" else known[: int(sys.argv[4])]
grn = sccafm.infer_grn(adata, genes=genes, store=sys.argv[3] if sys.argv[2] == "store" else None, progress=False)
end = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(len(grn), len(grn.regulators), len(grn.targets), len(grn.edges), begin - start, end - begin, peak)
"""


def best(function, repeats: int) -> float:
    """Shortest of several runs, in seconds, after one that warms up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def matrix_peak() -> float:
    """The machine's float32 matrix-product rate, in GFLOP/s."""
    a = torch.randn(2048, 2048)
    return 2 * 2048**3 / best(lambda: a @ a, 7) / 1e9


def encoder_flops(config: SFMConfig, genes: int) -> float:
    """Multiply-adds times two of one cell's pass through the transformer."""
    length, width = genes + 1, config.embed_dim
    hidden = config.backbone_mlp_hidden_dim or 4 * width
    linear = 2 * length * (4 * width**2 + 3 * width * hidden)
    attention = 4 * length**2 * width
    return config.num_layers * (linear + attention)


def random_tokens(vocab_size: int, genes: int, regulators: int) -> Tokens:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(1, genes, generator=generator) * 4
    values[torch.rand(1, genes, generator=generator) < 0.8] = 0
    ids = torch.randperm(vocab_size - 4, generator=generator)[:genes][None] + 4
    return Tokens(ids, values, torch.zeros(1, 4, dtype=torch.long), (torch.arange(genes) < regulators)[None])


@torch.inference_mode()
def stages(sfm: SFM, vocab_size: int, genes: int, regulators: int, peak: float, repeats: int) -> dict:
    """Milliseconds a cell of each stage, and the encoder's share of the peak."""
    tokens = random_tokens(vocab_size, genes, regulators)
    embedded = sfm.embedding(tokens)
    factors = sfm(tokens)
    u, v = factors.u[0, :regulators], factors.v[0]
    scores = (u @ v.T).numpy()
    excluded = np.arange(regulators) * (genes + 1)
    seconds = {
        "embed": best(lambda: sfm.embedding(tokens), repeats),
        "encode": best(lambda: sfm.backbone(*embedded), repeats),
        "whole model": best(lambda: sfm(tokens), repeats),
        "score": best(lambda: u @ v.T, repeats),
        "select": best(lambda: select_edges(scores.copy(), 1000, None, excluded), repeats),
    }
    total = seconds["whole model"] + seconds["score"] + seconds["select"]
    row = {"genes": genes, "regulators": regulators} | {f"{k} ms": 1e3 * s for k, s in seconds.items()}
    rate = encoder_flops(sfm.config, genes) / seconds["encode"] / 1e9
    return row | {"cells/s": 1 / total, "encoder GFLOP/s": rate, "share of peak": rate / peak}


def memory_step(file: Path, how: str, genes: str) -> dict:
    """Infer from a file in a process of its own: time and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", MEMORY_STEP, str(file), how, f"{folder}/store", genes],
            capture_output=True,
            text=True,
            check=True,
        )
    cells, regulators, targets, edges, opening, seconds, peak = map(float, done.stdout.split())
    return {
        "cells": int(cells),
        "genes": int(targets),
        "regulators": int(regulators),
        "edges": int(edges),
        "input and output": "on disk" if how == "store" else "in memory",
        "import and open s": opening,
        "infer s": seconds,
        "cells/s": cells / seconds,
        "peak memory MB": peak,
    }


def repeated(source: Path, cells: int, folder: Path) -> Path:
    """A file of `cells` cells, those of the source over and over."""
    adata = ad.read_h5ad(source)
    rows = np.arange(cells) % adata.n_obs
    names = [f"cell{i}" for i in range(cells)]
    many = ad.AnnData(sparse.csr_matrix(adata.X)[rows], obs=pd.DataFrame(index=names), var=adata.var[[]])
    many.write_h5ad(folder / f"{cells}.h5ad")
    return folder / f"{cells}.h5ad"


def table(rows: list[dict]) -> str:
    def cell(value: object) -> str:
        return f"{value:,.2f}" if isinstance(value, float) else str(value)

    return markdown_table(rows[0], (map(cell, row.values()) for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--cells", type=int, nargs="*", default=[1_000, 5_000, 10_000, 50_000])
    parser.add_argument("--genes", type=int, default=500, help="genes of the steps that repeat cells")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--files-only", action="store_true")
    options = parser.parse_args()
    saved = options.out.with_suffix(".json")
    result = json.loads(saved.read_text()) if options.files_only else measure_stages(options.quick)
    result["files"] = measure_files(options) if options.data else None
    text = report(result, options.data)
    options.out.write_text(text + "\n")
    saved.write_text(json.dumps(result, indent=1) + "\n")
    print(text)


def measure_stages(quick: bool) -> dict:
    """Stages of the bundled model by number of genes, and of a model of the published size."""
    repeats = 3 if quick else 7
    peak = matrix_peak()
    model = sccafm.load(device="cpu")
    vocab_size = model.vocabulary.size
    sizes = (500, 1000) if quick else (500, 1000, 2000, 4000)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    default = [stages(model.sfm, vocab_size, genes, genes // 6, peak, repeats) for genes in sizes]
    result = {"machine": machine, "peak GFLOP/s": peak, "default": default}
    if not quick:
        config = SFMConfig(embed_dim=768, num_layers=12, num_heads=12, backbone_mlp_hidden_dim=3072)
        published = SFM(config, vocab_size, model.conditions.size).eval()
        result["published size"] = [stages(published, vocab_size, 2000, 333, peak, 2)]
    return result


def measure_files(options: argparse.Namespace) -> list[dict]:
    """From file to per-cell edges: the file as it is, then its cells over and over."""
    rows = [memory_step(options.data, "memory", "default")]
    with tempfile.TemporaryDirectory() as folder:
        for cells in options.cells:
            rows.append(memory_step(repeated(options.data, cells, Path(folder)), "store", str(options.genes)))
            print(rows[-1], flush=True)
    return rows


def report(result: dict, data: Path | None) -> str:
    text = [
        "# Inference: speed and memory",
        "Written by `python benchmarks/inference.py`; no figure is typed.",
        f"{result['machine']}; float32 matrix-product peak {result['peak GFLOP/s']:.0f} GFLOP/s, measured with the stages.",
        "## The bundled model, a cell at a time",
        table(result["default"]),
    ]
    if "published size" in result:
        text += [
            "## A model of the published size (width 768, 12 layers, random weights)",
            table(result["published size"]),
        ]
    if result["files"] is None:
        return "\n\n".join([*text, "File and memory steps left out: no `--data`."])
    title = f"## From file to per-cell edges ({data.name}; more cells: the same repeated)"
    return "\n\n".join([*text, title, table(result["files"])])


if __name__ == "__main__":
    main()
