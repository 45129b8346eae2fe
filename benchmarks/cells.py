"""Do networks follow the cell where they should, and stand still where they should?

    python benchmarks/cells.py --data DATASETS [--model FOLDER] [--out benchmarks/cells.md]
        [--names FILE]                  write regulators to hold out, and end
        [--held-out FOLDER FILE]        a model that was trained with --hold-out FILE: judge it on those regulators

DATASETS holds dev/*.h5ad and networks/*.csv.gz, which no model of ours is trained on. Writes the tables; no figure is typed.
"""

import argparse
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from accuracy import SETS
from agreement import TOP, agreement, overlap
from pages import table
from panel import sampled
from scipy import sparse
from scipy.stats import rankdata
from tqdm.auto import tqdm

import sccafm
from sccafm import evaluate

CELLS = 1000  # of each set
TRUTH_CELLS = 300  # of each set that a truth is known of
PAIRED_CELLS = 300  # compared with each other
STABLE_GENES = 500  # beside the regulators
TREES_ON = "kang18_ifnb_2800"  # a set of its own takes tree ensembles minutes for each of four networks

# Regulators that a review of each lineage names as its masters; a type of cells counts as the lineage it is mapped to.
HEMATOPOIESIS = "Rothenberg et al. 2008 (T), Nutt & Kee 2007 (B), Friedman 2007 (monocytes), Reizis 2019 (pDC)"
ISLETS = "Pan & Wright 2011 (pancreas), De Val & Black 2009 (endothelium), Friedman 2007 (macrophages)"
ERYTHROID = "Orkin & Zon 2008 (erythroid, megakaryocytes), Friedman 2007 (monocytes, neutrophils)"
MONOCYTE = ("SPI1", "CEBPB", "CEBPD", "KLF4", "MAFB", "IRF8")
LINEAGES = {
    "kang18_ifnb_2800": (
        HEMATOPOIESIS,
        {
            "T cell": (
                ("TCF7", "LEF1", "GATA3", "BCL11B", "RUNX3", "ETS1"),
                ("CD4 Naive T", "CD4 Memory T", "CD8 T", "T activated"),
            ),
            "B cell": (("PAX5", "EBF1", "TCF3", "POU2AF1", "POU2F2", "BCL11A", "IRF8", "SPIB"), ("B", "B Activated")),
            "monocyte": (MONOCYTE, ("CD14 Mono", "CD16 Mono")),
            "plasmacytoid dendritic": (("TCF4", "IRF7", "IRF8", "SPIB", "BCL11A"), ("pDC",)),
        },
    ),
    "pancreas_baron_mouse": (
        ISLETS,
        {
            "beta": (("PDX1", "NKX6-1", "MAFA", "NEUROD1", "NKX2-2", "ISL1", "PAX6", "FOXA2"), ("beta",)),
            "alpha": (("ARX", "MAFB", "IRX2", "NEUROD1", "PAX6", "ISL1", "FOXA2"), ("alpha",)),
            "delta": (("HHEX", "PDX1", "ISL1", "PAX6", "NEUROD1"), ("delta",)),
            "ductal": (("SOX9", "HNF1B", "ONECUT1", "HES1", "GLIS3"), ("ductal",)),
            "endothelial": (("ERG", "FLI1", "ETS1", "SOX17", "SOX18", "TAL1", "GATA2"), ("endothelial",)),
            "macrophage": (MONOCYTE, ("macrophage",)),
        },
    ),
    "paul15_myeloid": (
        ERYTHROID,
        {
            "erythroid": (
                ("GATA1", "KLF1", "TAL1", "NFE2", "ZFPM1", "GFI1B"),
                ("1Ery", "2Ery", "3Ery", "4Ery", "5Ery", "6Ery"),
            ),
            "megakaryocyte": (("GATA1", "FLI1", "NFE2", "RUNX1", "GATA2", "GFI1B"), ("8Mk",)),
            "monocyte": (MONOCYTE, ("14Mo", "15Mo")),
            "neutrophil": (("CEBPA", "CEBPE", "GFI1", "SPI1"), ("16Neu", "17Neu")),
        },
    ),
}


def spelled(names: pd.Index) -> pd.Index:
    return names.astype(str).str.upper()


# --- masters


def judge_masters(name: str, data: Path, model: sccafm.Model) -> list[dict]:
    """For each lineage: do its masters rank higher among the regulators of its own network than in any other's?

    A regulator's strength in a network is the sum of its scores; its place the share of regulators that are weaker.
    """
    _, lineages = LINEAGES[name]
    adata = ad.read_h5ad(data / "dev" / f"{name}.h5ad")
    lineage_of = {label: lineage for lineage, (_, labels) in lineages.items() for label in labels}
    adata.obs["lineage"] = adata.obs["cell_type"].astype(str).map(lineage_of).astype("category")
    adata = sampled(adata[adata.obs["lineage"].notna().to_numpy()], CELLS)
    grn = sccafm.infer_grn(adata, model, groupby="lineage", null_cells=0, progress=False)
    strength = {lineage: grn.matrix(lineage).sum(1).to_numpy() for lineage in lineages}
    place = {lineage: rankdata(s) / len(s) for lineage, s in strength.items()}
    rows = []
    for lineage, (masters, _) in lineages.items():
        found = spelled(grn.regulators).get_indexer(list(masters))
        read = found[found >= 0]
        own = place[lineage][read].mean()
        others = {other: place[other][read].mean() for other in lineages if other != lineage}
        best = max(others, key=others.get)
        row = {"set": name, "lineage": lineage, "cells": int((adata.obs["lineage"] == lineage).sum())}
        row |= {"masters read": ", ".join(grn.regulators[read]), "own network": own, "best other network": others[best]}
        rows.append(row | {"which": best, "own is best": "yes" if own > others[best] else "no"})
    return rows


# --- agreement


def judge_agreement(name: str, data: Path, model: sccafm.Model) -> list[dict]:
    """Each cell as it is, and as the mean of its nearest cells."""
    adata = sampled(ad.read_h5ad(data / "dev" / f"{name}.h5ad"), PAIRED_CELLS)
    return [{"set": name, "neighbors": n} | agreement(adata.copy(), model, n) for n in (0, 15)]


# --- stability


def thinned(adata: ad.AnnData) -> ad.AnnData:
    """Every molecule kept with a probability of one half."""
    adata = adata.copy()
    counts = sparse.csr_matrix(adata.X)
    counts.data = np.random.default_rng(0).binomial(counts.data.astype(np.int64), 0.5).astype(np.float32)
    adata.X = counts
    return adata


def judge_stability(name: str, data: Path, model: sccafm.Model) -> list[dict]:
    """Pooled networks of two random halves of the cells, and of all cells with half of their counts."""
    adata = sampled(ad.read_h5ad(data / "dev" / f"{name}.h5ad"), CELLS)
    first = sccafm.infer_grn(adata.copy(), model, n_top_genes=STABLE_GENES, null_cells=0, progress=False)
    genes, regulators = list(first.targets), list(first.regulators)
    adata = adata[:, genes].copy()
    order = np.random.default_rng(0).permutation(adata.n_obs)
    halves = [adata[np.sort(part)].copy() for part in np.array_split(order, 2)]
    versions = {"half": halves[0], "other half": halves[1], "whole": adata, "thinned": thinned(adata)}

    def by_model(version: ad.AnnData) -> pd.DataFrame:
        grn = sccafm.infer_grn(version.copy(), model, genes=genes, regulators=regulators, null_cells=0, progress=False)
        return grn.matrix().reindex(index=regulators, columns=genes)

    methods = {
        "sccafm": by_model,
        "GRNBoost2-like": lambda version: evaluate.grnboost2(version, regulators, n_jobs=2),
        "|Pearson|": lambda version: evaluate.pearson(version, regulators),
    }
    rows = []
    for method, infer in methods.items():
        if method == "GRNBoost2-like" and name != TREES_ON:
            continue
        found = {key: infer(version) for key, version in versions.items()}
        row = {"set": name, "method": method, "two halves of the cells": overlap(found["half"], found["other half"])}
        rows.append(row | {"half of the counts": overlap(found["whole"], found["thinned"])})
    return rows


# --- species


def judge_species(data: Path, model: sccafm.Model) -> pd.DataFrame:
    """The same measure on human and on mouse truths: AUROC per regulator, means over truths."""
    rows = []
    for title, (cells, truth) in SETS.items():
        adata = sampled(ad.read_h5ad(data / "dev" / f"{cells}.h5ad"), TRUTH_CELLS)
        grn = sccafm.infer_grn(adata, model, regulators="all", n_top_genes=None, null_cells=0, progress=False)
        report = evaluate.network(grn.matrix(), truth_of(data, truth), adata=adata[:, grn.targets], n_bootstrap=2)
        found = report.to_frame().query("subset == 'all'").iloc[0]
        rows.append({"species": grn.params["receipt"]["species"], "truth": title, "AUROC": float(found["auroc"])})
    frame = pd.DataFrame(rows)
    return frame.groupby("species").agg(truths=("truth", ", ".join), AUROC=("AUROC", "mean")).reset_index()


def species_line(found: pd.DataFrame) -> str:
    gap = float(found["AUROC"].max() - found["AUROC"].min())
    return f"{gap:.3f} apart; the truths differ too: other cells, other assays."


# --- held-out regulators


def truth_of(data: Path, truth: str) -> pd.DataFrame:
    return pd.read_csv(data / "networks" / f"{truth}.csv.gz").iloc[:, :2].set_axis(["source", "target"], axis=1)


def names_to_hold_out(data: Path, model: sccafm.Model) -> list[str]:
    """Every other regulator of the truths that the prior knows, in alphabetical order."""
    sources = {str(s).upper() for _, truth in SETS.values() for s in truth_of(data, truth)["source"]}
    return sorted(sources & set(model.reference_data.prior["Gene1"]))[::2]


def judge_held_out(data: Path, models: dict[str, sccafm.Model], names: list[str]) -> list[dict]:
    """AUROC of held-out regulators alone, of a model that saw none of their prior edges, beside methods without a prior."""
    rows = []
    for title, (cells, truth) in SETS.items():
        adata = sampled(ad.read_h5ad(data / "dev" / f"{cells}.h5ad"), TRUTH_CELLS)
        edges = truth_of(data, truth)
        edges = edges[edges["source"].str.upper().isin(names)]
        grns = {
            name: sccafm.infer_grn(adata.copy(), m, regulators="all", n_top_genes=None, null_cells=0, progress=False)
            for name, m in models.items()
        }
        networks = {name: grn.matrix() for name, grn in grns.items()}
        first, *others = networks
        shown = adata[:, networks[first].columns].copy()
        regulators = list(networks[first].index)
        rivals = {name: networks[name] for name in others} | {
            "|Pearson|": evaluate.pearson(shown, regulators),
            "target mean expression": evaluate.target_mean(shown, regulators),
        }
        report = evaluate.network(networks[first], edges, adata=shown, baselines=rivals, n_bootstrap=200, name=first)
        found = report.to_frame().query("subset == 'all'").set_index("method")
        row = {"truth": title, "regulators": int(found["n_scored_regulators"].iloc[0])}
        rows.append(row | found["auroc"].to_dict())
    numbers = pd.DataFrame(rows).drop(columns=["truth", "regulators"])
    return [*rows, {"truth": "mean", "regulators": ""} | numbers.mean().to_dict()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--names", type=Path)
    parser.add_argument("--held-out", nargs=2, metavar=("FOLDER", "FILE"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = sccafm.load(options.model, device="cpu")
    if options.names:
        options.names.write_text("\n".join(names_to_hold_out(options.data, model)) + "\n")
        return
    masters = [row for name in tqdm(LINEAGES, "masters") for row in judge_masters(name, options.data, model)]
    sources = "; ".join(f"{name}: {source}" for name, (source, _) in LINEAGES.items())
    text = [
        "# Networks of cells",
        "Written by `python benchmarks/cells.py`; no figure is typed.",
        f"Model {model.source}, weights {model.weights_hash[:12]}.",
        "## Known masters",
        "Mean place of a lineage's known masters among the regulators of a network (by the sum of their scores; 1 is the strongest), "
        f"in the lineage's own network and in the best of the others. Masters after {sources}.",
        table(pd.DataFrame(masters)),
        "## Cells of one type",
        f"Jaccard index of the {TOP:,} strongest edges of two cells, read as they are and, with `neighbors=15`, as means of like cells.",
        table(
            pd.DataFrame(
                row for name in tqdm(LINEAGES, "agreement") for row in judge_agreement(name, options.data, model)
            )
        ),
        "## Stability",
        f"Jaccard index of the {TOP:,} strongest edges of two pooled networks, from other cells or fewer counts; the regulators and "
        f"{STABLE_GENES} other genes. Tree ensembles on {TREES_ON} alone: they take minutes for each network.",
        table(
            pd.DataFrame(
                row for name in tqdm(LINEAGES, "stability") for row in judge_stability(name, options.data, model)
            )
        ),
    ]
    species = judge_species(options.data, model)
    text += ["## Human and mouse", "AUROC per regulator, mean over truths.", table(species), species_line(species)]
    if options.held_out:
        folder, names = options.held_out
        names = Path(names).read_text().split()
        models = {"trained without them": sccafm.load(folder, device="cpu"), "bundled": model}
        text += [
            "## Regulators held out of the prior",
            f"AUROC of {len(names)} regulators whose prior edges one model never saw in training, beside the bundled model, which saw "
            "them, and methods without a prior.",
            table(pd.DataFrame(judge_held_out(options.data, models, names))),
        ]
    options.out.write_text("\n\n".join(text) + "\n")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
