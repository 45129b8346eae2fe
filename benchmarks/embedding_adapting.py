"""Whether adapting keeps its minutes and does no harm: `embedding_panel.py --parts adapting`."""

import dataclasses
import time

import anndata as ad
import numpy as np
from embedding_spaces import within
from embedding_tasks import STUDIES, file_cells, named, without_rare

import sccafm
from sccafm.data.groups import find_groups
from sccafm.data.input import read
from sccafm.data.options import InputOptions
from sccafm.embedding.adapt import adapt_efm, read_adapt
from sccafm.embedding.anchor import fit_anchor
from sccafm.embedding.embed import run

ASKED, CELLS = "1 minutes", 300
LARGE, LARGE_ASKED, LARGE_CELLS, LARGE_GENES = "motor_cortex", "5 epochs", 10_000, 2000
TEXT = f"""`adapt="{ASKED}"` on {CELLS} cells of each study, on one thread. Seconds are those of adapting alone, judging included. Held out: how well
the molecules of held-out cells are guessed, before and after. Accuracy: kNN, as above. Where no step is kept, the module stays as it was and so
do the vectors. The last row has `adapt="{LARGE_ASKED}"` on up to {LARGE_CELLS:,} cells, which has five minutes at most."""


def judge_adapting(panel, names: list[str] | None) -> dict:
    """Seconds asked for and taken, and kNN before and after."""
    rows = []
    asked = {name: (ASKED, CELLS) for name in one_a_file()} | {f"{LARGE}, large": (LARGE_ASKED, LARGE_CELLS)}
    for name, (how_long, n_cells) in asked.items():
        if names is None or name in names:
            study = STUDIES[name.removesuffix(", large")]
            adata = without_rare(named(file_cells(panel.corpus, study.file, n_cells), study.label))
            rows.append({"study": name, "cells": len(adata)} | adapted(adata, panel.model, how_long, n_cells == CELLS))
            print(rows[-1], flush=True)
    return {"rows": rows}


def one_a_file() -> list[str]:
    """Studies, each file once."""
    return list({study.file: name for name, study in reversed(STUDIES.items())}.values())[::-1]


def verdict(rows: list[dict]) -> str:
    """The worst of the bars: never worse than not adapting, and in time."""
    judged = [row for row in rows if row["accuracy, adapted"] is not None]
    worst = min(judged, key=lambda row: row["accuracy, adapted"] - row["accuracy"])
    timed = [row for row in rows if row["seconds asked"] is not None]
    late = max(timed, key=lambda row: abs(row["seconds"] / row["seconds asked"] - 1))
    mean = np.mean([row["accuracy, adapted"] - row["accuracy"] for row in judged])
    return (
        f"Accuracy, adapted beside not: {mean:+.3f} on the mean, {worst['accuracy, adapted'] - worst['accuracy']:+.3f} at worst "
        f"({worst['study']}). Time taken over time asked: {late['seconds'] / late['seconds asked']:.2f} where it departs most ({late['study']})."
    )


def adapted(adata: ad.AnnData, model: sccafm.Model, how_long: str, is_judged: bool) -> dict:
    model_input, labels = (
        read(adata, model.reference_data, InputOptions(n_top_genes=LARGE_GENES)),
        adata.obs["label"].to_numpy(),
    )

    def accuracy(efm) -> float:
        one = dataclasses.replace(model, efm=efm)
        z = run(one, model_input, find_groups(adata, None), None, 16, False)[0]
        return within(fit_anchor(model_input, np.asarray(z))[1], labels)["balanced accuracy"]

    asked = read_adapt(how_long)
    begin = time.monotonic()
    efm, record = adapt_efm(model, model_input, asked, None, False)
    taken = time.monotonic() - begin
    scores = record["scores"]
    told = {
        "seconds asked": None if asked.minutes is None else 60 * asked.minutes, "seconds": taken, "steps": record["steps"],
        "kept step": record["kept_step"], "held out": scores[0], "held out, best": max(scores),
    }  # fmt: skip
    if not is_judged:
        return told | {"accuracy": None, "accuracy, adapted": None}
    before = accuracy(model.efm)
    return told | {"accuracy": before, "accuracy, adapted": accuracy(efm) if record["kept_step"] else before}
