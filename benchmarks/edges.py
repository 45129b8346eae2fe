"""What confidence, sign, q-value and the out-of-distribution score are worth, on data that fitted none of them.

    python benchmarks/edges.py --data DATASETS [--model FOLDER] [--out benchmarks/edges.md]

DATASETS holds dev/*.h5ad and networks/*.csv.gz. Writes the table and models/reliability.png; no figure is typed.
"""

import argparse
import json
import warnings
from pathlib import Path

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
from accuracy import SETS

import sccafm
from sccafm.confidence.calibration import at_base_rate, calibration_error
from sccafm.confidence.permutation import group_pvalues
from sccafm.evaluate import auroc, read_edges
from sccafm.evaluate.markdown import markdown_table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OOD_SETS = ("paul15_myeloid", "pancreas_baron_mouse", "kang18_ifnb_2800", "embryo_etv2_gong281")
NULL_SETS = ("kang18_ifnb_2800", "paul15_myeloid")
SHUFFLES = ("values over the genes of a cell", "names of the genes", "noise: Poisson counts of one rate")


def dense(adata: ad.AnnData) -> np.ndarray:
    return adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)


# --- confidence


def judged(grn: sccafm.GRN, truth: pd.DataFrame, adata: ad.AnnData) -> pd.DataFrame:
    """Every candidate of a truth: probability, whether it is true, whether the prior holds it."""
    edges = read_edges(truth, adata[:, grn.targets]).edges
    regulators = pd.Index(edges["source"].unique()).intersection(grn.regulators)
    true = set(zip(edges["source"], edges["target"], strict=True))
    confidence = grn.confidence()
    prior = pd.DataFrame(grn.in_prior, grn.regulators, grn.targets)
    pairs = pd.MultiIndex.from_product([regulators, grn.targets], names=["source", "target"]).to_frame(index=False)
    pairs = pairs[pairs["source"] != pairs["target"]]
    rows, columns = grn.regulators.get_indexer(pairs["source"]), grn.targets.get_indexer(pairs["target"])
    return pairs.assign(
        p=confidence.to_numpy()[rows, columns].astype(float),
        in_prior=prior.to_numpy()[rows, columns],
        y=[pair in true for pair in zip(pairs["source"], pairs["target"], strict=True)],
    )


def of_cells(grn: sccafm.GRN, table: pd.DataFrame) -> pd.DataFrame:
    """Kept edges of single cells that are candidates of the truth."""
    known = table.set_index(["source", "target"])["y"]
    kept = grn.to_frame()[["source", "target", "confidence"]].astype({"source": str, "target": str})
    kept["y"] = known.reindex(pd.MultiIndex.from_frame(kept[["source", "target"]])).to_numpy()
    return kept.dropna(subset="y").astype({"y": bool})


def confidence_rows(data: Path, model: sccafm.Model) -> tuple[list[dict], dict[str, pd.DataFrame]]:
    rows, tables, networks = [], {}, {}
    for name, (cells, truth) in SETS.items():
        adata = ad.read_h5ad(data / "dev" / f"{cells}.h5ad")
        if cells not in networks:
            networks[cells] = sccafm.infer_grn(
                adata.copy(), model, regulators="all", n_top_genes=None, null_cells=0, progress=False
            )
        grn = networks[cells]
        network = pd.read_csv(data / "networks" / f"{truth}.csv.gz").iloc[:, :2].set_axis(["source", "target"], axis=1)
        table = tables[name] = judged(grn, network, adata)
        base = grn.params["calibration"]["base_rate"]
        density = table["y"].mean()
        cell = of_cells(grn, table)
        rows.append(
            {
                "truth": name,
                "candidates": f"{len(table):,}",
                "true": f"{density:.3f}",
                "true of those in the prior": f"{table.loc[table['in_prior'], 'y'].mean():.3f}",
                "mean confidence": f"{table['p'].mean():.3f}",
                "calibration error": f"{error(table['p'], table['y']):.3f}",
                "with the truth's share of true edges": f"{error(at_base_rate(table['p'], base, density), table['y']):.3f}",
                "AUROC of confidence": f"{auroc(table['y'].to_numpy(), table['p'].to_numpy()):.3f}",
                "kept edges of cells: mean / true / error": f"{cell['confidence'].mean():.3f} / {cell['y'].mean():.3f} / "
                f"{error(cell['confidence'], cell['y']):.3f}",
            }
        )
    return rows, tables


def error(p, y) -> float:
    return calibration_error(np.asarray(p, dtype=float), np.asarray(y, dtype=bool))


def reliability(tables: dict[str, pd.DataFrame], base: float, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained", sharex=True, sharey=True)
    for name, table in tables.items():
        y = table["y"].to_numpy()
        for axis, p in zip(
            axes, (table["p"].to_numpy(), at_base_rate(table["p"].to_numpy(), base, y.mean())), strict=True
        ):
            parts = np.array_split(np.argsort(p, kind="stable"), 12)
            axis.plot([p[i].mean() for i in parts], [y[i].mean() for i in parts], "o-", ms=3, lw=1, label=name)
    for axis, title in zip(axes, ("as stored", "with the truth's share of true edges"), strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", lw=1)
        axis.set(title=title, xlabel="confidence", ylabel="share that is true")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=80)


def part_rows(model: sccafm.Model) -> list[dict]:
    """What `scripts/train_edge_model.py` found on regulators that its maps did not see."""
    judged = json.loads(model.files["regulation"].read_text())["judged"]
    return [
        {
            "probability": question,
            "base rate": f"{model.regulation.maps[question]['base_rate']:.3f}",
            "calibration error": " / ".join(f"{half['calibration_error']:.3f}" for half in halves),
            "AUROC per regulator": "; ".join(
                f"{name} {' / '.join('-' if half['auroc'][name] is None else format(half['auroc'][name], '.3f') for half in halves)}"
                for name in halves[0]["auroc"]
            ),
        }
        for question, halves in judged.items()
    ]


# --- q-values


def null_rows(data: Path, model: sccafm.Model, n_cells: int) -> list[dict]:
    """Real cells beside the same with every gene's values shuffled over the cells."""
    rows = []
    for name in NULL_SETS:
        adata = ad.read_h5ad(data / "dev" / f"{name}.h5ad")
        rng = np.random.default_rng(0)
        adata = adata[rng.permutation(adata.n_obs)[:n_cells]].copy()
        totals = np.asarray(adata.X.sum(1)).reshape(-1, 1)
        adata.X = np.log1p(dense(adata) / totals * 1e4).astype(np.float32)
        types = adata.obs["cell_type"].astype(str)
        largest = types == types.value_counts().index[0]
        quarter = pd.Series(np.arange(adata.n_obs) < n_cells // 4, adata.obs_names)
        real, permuted = adata.X, rng.permuted(dense(adata), axis=0)
        kinds = {
            "real, a random quarter": (real, quarter),
            f"real, {types[largest].iloc[0]} ({largest.sum()})": (real, largest),
            "permuted, a random quarter": (permuted, quarter),
        }
        for kind, (values, chosen) in kinds.items():
            adata.X = values
            adata.obs["part"] = pd.Categorical(np.where(chosen, "judged", "rest"))
            grn = sccafm.infer_grn(adata, model, groupby="part", n_top_genes=1000, progress=False)
            pairs = grn.pairs
            null = (pairs.null_mean, pairs.null_sd, pairs.n_null, grn.sums["null_tail"])
            row, n = grn.groups.cat.categories.get_loc("judged"), grn.sums["n_tested"]
            p = group_pvalues(grn.sums["tested"][row] / n[row], n[row], *null)
            q = grn.qvalues("judged").to_numpy()
            cell = grn.to_frame()["qvalue"]
            rows.append(
                {
                    "data": name,
                    "values": kind,
                    **{f"p <= {level} (group)": f"{np.mean(p <= level):.3f}" for level in (0.01, 0.05, 0.2, 0.5)},
                    "q <= 0.05, group": f"{np.mean(q[~np.isnan(q)] <= 0.05):.4f}",
                    "q <= 0.2, kept edges of cells": f"{(cell <= 0.2).mean():.4f}",
                }
            )
    return rows


# --- out of distribution


def ood_rows(data: Path, model: sccafm.Model, n_cells: int) -> list[dict]:
    rows = []
    for name in OOD_SETS:
        adata = ad.read_h5ad(data / "dev" / f"{name}.h5ad")
        rng = np.random.default_rng(0)
        adata = adata[np.sort(rng.permutation(adata.n_obs)[:n_cells])].copy()
        real = ood(adata, model)
        row = {"data": name, "median": f"{np.median(real):.2f}", "above 0.95": f"{np.mean(real > 0.95):.2f}"}
        for what in SHUFFLES:
            other = spoilt(adata, what, rng)
            found = ood(other, model)
            y = np.repeat([False, True], [len(real), len(found)])
            row[what] = f"{np.median(found):.2f} ({auroc(y, np.concatenate([real, found])):.2f})"
        rows.append(row)
    return rows


def ood(adata: ad.AnnData, model: sccafm.Model) -> np.ndarray:
    return sccafm.infer_grn(adata, model, top_k=10, null_cells=0, progress=False, n_top_genes=1000).ood.to_numpy()


def spoilt(adata: ad.AnnData, what: str, rng: np.random.Generator) -> ad.AnnData:
    other = adata.copy()
    if what == SHUFFLES[0]:
        other.X = rng.permuted(dense(adata), axis=1)
    elif what == SHUFFLES[1]:
        other.var_names = rng.permutation(adata.var_names)
    else:
        other.X = rng.poisson(max(dense(adata).mean(), 0.05), adata.shape).astype(np.float32)
    return other


def markdown(rows: list[dict]) -> str:
    table = pd.DataFrame(rows)
    return markdown_table(table, table.to_numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = sccafm.load(options.model, device="cpu")
    if model.calibration is None:
        raise SystemExit("the model has no calibration for its weights; fit it first: python scripts/calibrate.py")
    confidence, tables = confidence_rows(options.data, model)
    pooled = pd.concat(tables.values())
    fitted, signs = model.calibration.confidence, model.calibration.signs
    reliability(tables, fitted["base_rate"], model.files["sfm_model"].parent / "reliability.png")
    text = [
        "# Edges: confidence, sign, q-value; cells: out of distribution",
        f"Written by `python benchmarks/edges.py`; no figure is typed. Model {model.source}, weights "
        f"{model.weights_hash[:12]}.",
        "## Confidence",
        f"Fitted to truths of the selection panel, judged on the truths below. It assumes that a share of {fitted['base_rate']:.3f} of all candidates is "
        f"real, the mean of {', '.join(f'{k} {v:.3f}' for k, v in fitted['rates'].items())}. Truths differ in that "
        "share more than in anything else, so no stored number can fit them all: the error with the truth's own share "
        "(`calibration.at_base_rate`) says whether the evidence is weighed rightly. Calibration error: mean gap over 15 "
        "bins of equal size.",
        markdown(confidence),
        f"All candidates of the four together: mean confidence {pooled['p'].mean():.3f}, true {pooled['y'].mean():.3f}, "
        f"calibration error {error(pooled['p'], pooled['y']):.3f}.",
        "![Reliability](../models/reliability.png)",
        "## Binding and response",
        "Calibration error of the two probabilities, over the truths of their kind in the selection panel, which weigh the same; each half of "
        "the regulators is judged by maps that were fitted to the other, under an edge model that saw none of the held-out ones.",
        markdown(part_rows(model)),
        "## Sign",
        f"TRRUST's {signs['held_out']['n_pairs']:,} signed pairs, each hidden (its sign, and what it adds to the "
        f"tendencies of its genes): precision {signs['held_out']['precision']:.3f} at coverage "
        f"{signs['held_out']['coverage']:.3f}; it abstains on the rest. Stated precision {signs['precision']}. Weight of "
        "the data's dependence, the regulator's and the target's tendency: "
        f"{', '.join(f'{c:.2f}' for c in signs['coefficients'])}.",
        "## q-value",
        f"{options.cells} cells. Permuted: every gene's values shuffled over the cells, where p-values should be uniform "
        "and no q-value small.",
        markdown(null_rows(options.data, model, options.cells)),
        "## Out of distribution",
        "Cells that were never trained on, and the same spoilt: median score (AUROC of spoilt beside real cells).",
        markdown(ood_rows(options.data, model, min(options.cells, 60))),
    ]
    options.out.write_text("\n\n".join(text) + "\n")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
