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
from sccafm.embedding.adapt import adapt_efm, read_adapt
from sccafm.embedding.anchor import fit_anchor
from sccafm.embedding.embed import run

ASKED, CELLS = "2 minutes", 300
ADAPTED = ("pbmc_facs", "spleen_sorted")
TEXT = f"""`adapt="{ASKED}"` on {CELLS} cells of two studies. Seconds are those of adapting alone, judging included. Held out: how well the molecules
of held-out cells are guessed, before and after. Where no step is kept, the module stays as it was and so do the vectors."""


def judge_adapting(panel, names: list[str] | None) -> dict:
    """Seconds asked for and taken, and kNN before and after."""
    rows = []
    for name in ADAPTED:
        if names is None or name in names:
            adata = without_rare(named(file_cells(panel.corpus, STUDIES[name].file, CELLS), STUDIES[name].label))
            rows.append({"study": name, "cells": len(adata)} | adapted(adata, panel.model))
            print(rows[-1], flush=True)
    return {"rows": rows}


def adapted(adata: ad.AnnData, model: sccafm.Model) -> dict:
    model_input, labels = read(adata, model.reference_data), adata.obs["label"].to_numpy()

    def accuracy(efm) -> float:
        one = dataclasses.replace(model, efm=efm)
        z = run(one, model_input, find_groups(adata, None), one.sfm, 16, False)[0]
        return within(fit_anchor(model_input, np.asarray(z))[1], labels)["balanced accuracy"]

    asked = read_adapt(ASKED)
    begin = time.monotonic()
    efm, record = adapt_efm(model, model_input, asked, None, False)
    taken = time.monotonic() - begin
    before = accuracy(model.efm)
    scores = [look["score"] for look in record["held_out"]]
    return {
        "seconds asked": 60 * asked.minutes, "seconds": taken, "steps": record["steps"], "kept step": record["kept_step"],
        "held out": scores[0], "held out, best": max(scores), "accuracy": before,
        "accuracy, adapted": accuracy(efm) if record["kept_step"] else before,
    }  # fmt: skip
