"""What methods that know no pair, or only the prior's, score on the selection panel: the floor for whatever is chosen by it.

    python benchmarks/selection_baselines.py --shared SHARED [--corpus CELLS] [--fold 0] [--out benchmarks/selection_baselines.md]

SHARED holds datasets/ and resources/, CELLS the unpacked training cells, from which the correlations and levels of some truths come.
The prior is the part of OmniPath.csv that may train beside the fold. Minutes on one core; no figure is typed.
"""

import argparse
import warnings
from pathlib import Path

import pandas as pd
from panel import PanelTruth
from selection_panel import curated_training, selection_panel

from sccafm import evaluate
from sccafm.evaluate.kinds import titles_of
from sccafm.evaluate.truth import gene_keys

CELLS = 300  # of each file


def breadth_of(shared: Path, truth: PanelTruth) -> pd.DataFrame:
    """Share of ChIP experiments that bind the target, the same for every regulator: popularity and nothing else."""
    table = pd.read_csv(shared / "resources/regulatory/gene_chip_breadth_noleak.csv.gz")
    breadth = pd.Series(table.iloc[:, 1].to_numpy(float), gene_keys(table.iloc[:, 0]))
    breadth = breadth[~breadth.index.duplicated()].reindex(gene_keys(truth.targets)).fillna(0.0)
    return pd.DataFrame([breadth.to_numpy()] * len(truth.regulators), truth.regulators, truth.targets)


def methods(truth: PanelTruth, shared: Path, prior: pd.DataFrame) -> dict[str, pd.DataFrame]:
    ends = truth.regulators, truth.targets
    found = {
        "prior edges": evaluate.prior_edges(prior, *ends),
        "prior degrees": evaluate.prior_degrees(prior, *ends),
        "breadth of binding": breadth_of(shared, truth),
        "random": evaluate.random_scores(*ends),
    }
    if truth.cells is not None:
        adata = truth.read_genes(CELLS, len(truth.targets))
        acts = adata.var_names[gene_keys(adata.var_names).isin(gene_keys(truth.regulators))]
        found["|Pearson|"] = evaluate.pearson(adata, list(acts))
        found["target mean expression"] = evaluate.target_mean(adata, truth.regulators)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    prior, reports = curated_training(options.shared, options.fold), {}
    for name, truth in selection_panel(options.shared, options.corpus, options.fold).items():
        found = methods(truth, options.shared, prior)
        reports[name] = truth.report(
            found.pop("prior edges"), baselines=found, scale={"prior degrees": "identity"}, n_bootstrap=2,
            n_permutations=1, name="prior edges",
        )  # fmt: skip
        print(reports[name], flush=True)
    text = [
        "# What simple methods score on the selection panel",
        f"Written by `python benchmarks/selection_baselines.py`; no figure is typed. Fold {options.fold} of the regulators. {titles_of()}. "
        "Breadth of binding counts held-out experiments too.",
    ]
    for kind, table in evaluate.kinds_markdown(reports).items():
        text += [f"## {kind.capitalize()} truths", table]
    options.out.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
