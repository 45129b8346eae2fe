"""What networks of cell types share, on cells of the training corpus: by this a way to read states may be chosen.

    python benchmarks/states.py --corpus CELLS [--models NAME=FOLDER ...] [--cells 80] [--out benchmarks/states.md]

CELLS holds the unpacked training files. Without --models the bundled model alone is measured. Minutes for each model on one core.
"""

import argparse
import itertools
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from agreement import LEADS, STRONGEST, TOP, judge_types
from embedding_tasks import file_label, named
from pages import table, write_page

import sccafm

FILES = ("pbmc_facs_zheng", "mca_fetallivere14_1", "mca_spleen", "mca_placentae14_1", "brain_darmanis")
TYPES = 6  # the most frequent ones of a file
LEAST_CELLS = 40  # of a type


def halves(corpus: Path, file: str, n_cells: int) -> ad.AnnData:
    """Up to `n_cells` of each frequent type (obs `type`), dealt to two halves (obs `half`)."""
    adata, rng = named(ad.read_h5ad(corpus / f"{file}.h5ad"), file_label(file)), np.random.default_rng(0)
    counts = adata.obs["label"].value_counts()
    types = [name for name in counts.index if counts[name] >= LEAST_CELLS][:TYPES]
    drawn = [rng.permutation(np.flatnonzero(adata.obs["label"] == name))[:n_cells] for name in types]
    half = np.concatenate([np.arange(len(rows)) % 2 for rows in drawn])
    part = adata[np.concatenate(drawn)].copy()
    part.obs["type"] = part.obs["label"].astype(str)
    part.obs["half"] = [f"{name} {h}" for name, h in zip(part.obs["type"], half, strict=True)]
    return part


def measured(title: str, adata: ad.AnnData, model: sccafm.Model) -> dict:
    rows, shares = judge_types(title, adata, model)
    found = pd.DataFrame(rows).groupby("what")["value"]
    means, least, most = found.mean(), found.min(), found.max()
    lists = (shares["regulator"] + shares["target"])[shares["network"].isin(adata.obs["type"].unique())]
    return {
        "file": title, "types, mean": means["types"], "types, closest": most["types"], "halves, mean": means["halves"],
        "halves, least": least["halves"], "two lists, most": lists.max(), "regulators, least": int(least["regulators"]),
        "factors": int(means["factors"]), "NMI": means["NMI"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["bundled="], metavar="NAME=FOLDER")
    parser.add_argument("--cells", type=int, default=80, help="of a type")
    parser.add_argument("--note", default="", help="what the models are")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    models = {
        name: sccafm.load(folder or None, device="cpu") for name, folder in (m.split("=") for m in options.models)
    }
    rows = []
    for file, (name, model) in itertools.product(FILES, models.items()):
        rows.append({"model": name} | measured(file, halves(options.corpus, file, options.cells), model))
        print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    means = frame.drop(columns="file").groupby("model", sort=False).mean().reset_index()
    told = ", ".join(f"{name} {model.weights_hash[:12]}" for name, model in models.items())
    text = [
        "# What networks of cell types share",
        f"Written by `python benchmarks/states.py --cells {options.cells}`; no figure is typed. Weights: {told}. Up to {TYPES} frequent types of five "
        "files of the training corpus, which judge no finished model.",
        f"types, halves: Jaccard index of the {TOP:,} strongest edges of two types, and of two halves of one. two lists: share of the variance of log "
        f"scores that a level of each regulator and of each target explains. regulators: among the {STRONGEST} strongest edges of a type. factors: that "
        f"lead {LEADS:.0%} of the cells. NMI: of leading factor and type.",
        options.note,
        table(means),
        "## By file",
        table(frame),
    ]
    write_page(options.out, "\n\n".join(filter(None, text)) + "\n")


if __name__ == "__main__":
    main()
