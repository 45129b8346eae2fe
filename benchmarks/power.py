"""How often a switched regulator is found, by donors and cells: simulated donors whose networks the model infers."""

import numpy as np
import pandas as pd
from anndata import concat

import sccafm
from sccafm.evaluate.markdown import markdown_table
from sccafm.simulation import sample_network

GENES = 60
DONOR_SPREAD = 0.3  # standard deviation of a donor's log production rates
SWITCH = 4.0  # times the regulator's rate in stimulated cells
DONORS, CELLS = (3, 5, 8), (10, 25, 50)


def power_table(model: sccafm.Model, quick: bool) -> tuple[list[str], dict]:
    """Share of simulated studies in which the switched regulator is called, and what is called without a switch."""
    repeats, donors, cells = (1, (3,), (10,)) if quick else (8, DONORS, CELLS)
    rows, records = [], []
    for seed in range(repeats):
        for switch in (SWITCH, 1.0):
            grn, regulator = study(model, max(donors), max(cells), switch, seed)
            records += [
                {"switch": switch, "donors": n, "cells": m, **called(grn, n, m, regulator)}
                for n in donors
                for m in cells
            ]
    table = pd.DataFrame(records)
    for n in donors:
        for m in cells:
            own = table[(table["donors"] == n) & (table["cells"] == m)]
            on, off = own[own["switch"] > 1], own[own["switch"] == 1]
            rows.append([n, m, f"{on['found'].mean():.0%}", f"{on['place'].median():.0f}", f"{on['called'].mean():.1%}",
                         f"{off['called'].mean():.1%}"])  # fmt: skip
    spread = f"{DONOR_SPREAD:g}"
    told = [
        "### Power",
        f"Simulated studies ({repeats} for each row; `sccafm.simulate`, {GENES} genes of the prior): the same donors with and without a stimulus that "
        f"multiplies one regulator's production by {SWITCH:g}; rates of donors differ (standard deviation {spread} of the logarithm). Networks are "
        "inferred from the counts. How often `tl.compare` calls that regulator at an FDR of 5 %, its median place, the share of regulators that it "
        "calls (those downstream change too), and the share where there was no stimulus:",
        markdown_table(
            ["donors", "cells of each and condition", "found", "median place", "called", "called without stimulus"],
            rows,
        ),
    ]
    return told, {"records": records}


def study(model: sccafm.Model, n_donors: int, n_cells: int, switch: float, seed: int) -> tuple[sccafm.GRN, str]:
    """Networks of simulated donors under both conditions, and the regulator that the stimulus switches."""
    network = sample_network(GENES, random_state=seed)
    rng = np.random.default_rng(seed)
    first = sccafm.simulate(
        network, n_cells=4, states={"rest": None}, share_switched=0.0, random_state=seed, progress=False
    )
    rates = first.uns["simulation"]["rates"]["rest"]
    masters = rates.index[rates > 0]
    sources = network["source"].value_counts().reindex(masters, fill_value=0)
    regulator = str(sources.idxmax())
    parts = []
    for donor in range(n_donors):
        own = rates * np.exp(rng.normal(0, DONOR_SPREAD, len(rates)))
        for condition in ("stim", "ctrl"):
            moved = own.copy()
            moved[regulator] *= switch if condition == "stim" else 1.0
            cells = sccafm.simulate(
                network, n_cells=n_cells, states={"rest": None}, share_switched=0.0, master_rates=moved.to_frame("rest"), n_batches=1,
                random_state=1000 * seed + 2 * donor + (condition == "stim"), progress=False,
            )  # fmt: skip
            cells.obs = cells.obs[[]].assign(donor=f"d{donor}", condition=condition)
            cells.obs_names = [f"d{donor}_{condition}_{i}" for i in range(n_cells)]
            parts.append(cells)
    adata = concat(parts)
    adata.layers.clear()
    return sccafm.infer_grn(adata, model, n_top_genes=None, regulators="all", null_cells=0, progress=False), regulator


def called(grn: sccafm.GRN, n_donors: int, n_cells: int, regulator: str) -> dict:
    """Compare the first cells of the first donors."""
    donor = grn.obs["donor"].astype(str)
    number = pd.Series(grn.cells.str.rsplit("_", n=1).str[1].astype(int), grn.cells)
    kept = donor.isin([f"d{i}" for i in range(n_donors)]) & (number < n_cells)
    found = sccafm.tl.compare(
        grn, ("stim", "ctrl"), condition_key=grn.obs["condition"].astype(str).where(kept, "left out"), sample_key="donor",
        n_edges=0, min_cells=min(10, n_cells),
    )  # fmt: skip
    table = found.regulators
    place = np.flatnonzero(table["regulator"] == regulator)
    hit = bool(len(place)) and bool(table["qvalue"].iloc[place[0]] <= 0.05)
    return {
        "found": hit,
        "place": int(place[0]) + 1 if len(place) else len(table),
        "called": float((table["qvalue"] <= 0.05).mean()),
    }
