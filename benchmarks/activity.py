"""Is the perturbed regulator found by decoupler's ulm on our networks, beside CollecTRI and |Pearson| on the same signatures?

    python benchmarks/activity.py --shared SHARED --corpus CELLS [--model FOLDER] [--out docs/benchmarks.md] [--quick]

SHARED holds resources/ and datasets/, CELLS the unpacked training cells, from which networks of cells like the perturbed ones are read. The
signatures are those of the selection panel (`resources/regulatory/validation_only`), which train nothing. Minutes on one core.
"""

import argparse
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from pages import renew_section, table
from selection_panel import selection_panel

import sccafm
from sccafm import evaluate
from sccafm.evaluate.baselines import dense_columns
from sccafm.evaluate.baselines import expression as expression_of
from sccafm.tl.activity import decoupled, regulon_table

ROOT = Path(__file__).parents[1]
TITLE = "Perturbed regulators by activity"
N_TARGETS, LEAST_TARGETS, N_CELLS, N_GENES = 100, 5, 60, 3000
SIGNATURES = {  # panel's name: file, columns of ends
    "LINCS over-expression": ("perturb_lincs_oe_signed", "tf", "target"),
    "CD4 CRISPRi": ("perturb_cd4_crispri_signed", "tf", "target"),
    "Th17 knock-out": ("perturb_th17_ko_mouse", "tf_mouse", "target_mouse"),
}
OURS, COLLECTRI = "sccafm", "CollecTRI"


def signatures(shared: Path, name: str) -> pd.DataFrame:
    """Signed responses, perturbed regulators x genes, 0 where a gene is not listed; symbols in upper case."""
    file, source, target = SIGNATURES[name]
    rows = pd.read_csv(shared / f"resources/regulatory/validation_only/{file}.csv.gz")
    rows = rows[rows["is_tf"] == 1] if "is_tf" in rows else rows
    rows = rows.assign(source=rows[source].str.upper(), target=rows[target].str.upper())
    return rows.pivot_table(index="source", columns="target", values="score", fill_value=0.0)


def networks(adata: ad.AnnData, seen: pd.DataFrame, model: sccafm.Model, n_genes: int) -> dict[str, pd.DataFrame]:
    """Edges of each method, source, target, weight (signed where the sign is known), in upper case."""
    listed = {gene for table in model.reference_data.regulators.values() for gene in table.index}
    times = (seen != 0).sum().sort_values(ascending=False, kind="stable")  # genes of the most signatures first
    read = set(times.index[:n_genes]) | set(seen.index) | listed
    genes = [gene for gene in adata.var_names if gene.upper() in read]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grn = sccafm.infer_grn(adata, model, regulators="all", genes=genes, null_cells=0, progress=False)
    x, names = expression_of(adata)
    dense = dense_columns(x, pd.Index(names).get_indexer(grn.targets))
    pearson = evaluate.pearson(pd.DataFrame(dense, columns=grn.targets), list(grn.regulators))
    edges = {OURS: upper(regulon_table(grn, None, N_TARGETS)), "|Pearson|": long(pearson)}
    prior = model.reference_data.prior
    edges[COLLECTRI] = pd.DataFrame(
        {
            "source": prior["Gene1"],
            "target": prior["Gene2"],
            "weight": prior["sign"].replace(0, 1) * prior["confidence"],
        }
    )
    return edges


def upper(edges: pd.DataFrame) -> pd.DataFrame:
    return edges.assign(source=edges["source"].str.upper(), target=edges["target"].str.upper())


def long(values: pd.DataFrame) -> pd.DataFrame:
    return upper(values.rename_axis("source").reset_index().melt("source", var_name="target", value_name="weight"))


def activity(seen: pd.DataFrame, network: pd.DataFrame) -> pd.DataFrame:
    """ulm on the strongest targets of each regulator: signatures x regulators."""
    network = network[(network["source"] != network["target"]) & (network["weight"] != 0)]
    network = network.drop_duplicates(["source", "target"])
    network = network[network["target"].isin(seen.columns)]
    order = network["weight"].abs().sort_values(ascending=False, kind="stable").index
    network = network.loc[order].groupby("source", sort=False).head(N_TARGETS)
    genes = pd.Series(np.arange(seen.shape[1]), index=seen.columns)
    scores, _ = decoupled(seen.to_numpy(), seen.index, genes, network, "ulm", LEAST_TARGETS)
    return scores


def places(scores: pd.DataFrame, perturbed: list[str]) -> pd.Series:
    """Place of each perturbed regulator among all by the size of its activity, as a share: 0 is first, 0.5 is chance."""
    found = {}
    for name in perturbed:
        size = scores.loc[name].dropna().abs()
        found[name] = ((size > size[name]).sum() + ((size == size[name]).sum() - 1) / 2) / (len(size) - 1)
    return pd.Series(found, dtype=float)


def judge(shared: Path, corpus: Path, name: str, model: sccafm.Model, quick: bool) -> list[dict]:
    seen = signatures(shared, name)
    n_cells, n_genes = (8, 200) if quick else (N_CELLS, N_GENES)
    adata = selection_panel(shared, corpus)[name].read_cells(n_cells)
    scores = {method: activity(seen, edges) for method, edges in networks(adata, seen, model, n_genes).items()}
    by_all = set.intersection(*(set(s.columns[s.notna().any()]) for s in scores.values()))
    both = [gene for gene in seen.index if gene in by_all and all(pd.notna(s.loc[gene, gene]) for s in scores.values())]
    rows = []
    for method, found in scores.items():
        place = places(found[sorted(by_all)], both)
        row = {"signatures": name, "method": method, "place": spread(place), "judged": len(both), "among": len(by_all)}
        rows.append(row | {"scored": sum(gene in found for gene in seen.index), "value": place.mean()})
    return rows


def spread(values: pd.Series) -> str:
    return f"{values.mean():.3f} ± {values.std() / np.sqrt(max(len(values), 1)):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks.md")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    model = sccafm.load(options.model, device="cpu")
    found = pd.DataFrame(
        [row for name in SIGNATURES for row in judge(options.shared, options.corpus, name, model, options.quick)]
    )
    mean = found.groupby("method", sort=False)["value"].mean()
    verdict = "met" if mean[OURS] <= mean[COLLECTRI] else "missed"
    text = [
        "Written by `python benchmarks/activity.py`. Signatures of perturbed regulators that train nothing; each regulator's activity in them by "
        f"decoupler's ulm on its {N_TARGETS} strongest targets, in networks of {N_CELLS} training cells like the perturbed ones (at most {N_GENES:,} genes of the "
        "signatures beside the regulators); ours are chosen and signed as `tl.regulator_activity` does it. `place`: of the perturbed regulator by the size "
        "of its activity, among the regulators that every method scores, as a share: 0 is first, 0.5 is chance (mean ± standard error over the "
        "judged ones). `scored`: of the perturbed ones, by this method.",
        table(found.drop(columns="value")),
        f"Mean: {', '.join(f'{name} {value:.3f}' for name, value in mean.items())}. Bar: our network at least equal to "
        f"CollecTRI in one run: {verdict}.",
        f"Weights {model.weights_hash[:12]}.",
    ]
    renew_section(options.out, TITLE, "\n\n".join(text))
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
