"""What `response` could read beside what it reads, on responses of the selection panel. Nothing here judges a finished model.

    python benchmarks/response.py --shared SHARED --corpus CELLS [--out benchmarks/response.md]

SHARED holds datasets/ and resources/, CELLS the unpacked training cells. Each design adds one term to the log odds of the bundled
`response`, as large as half of the spread that these have. Minutes on one core; no figure is typed.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
from panel import PanelTruth
from scipy import sparse
from scipy.special import expit, logit
from scipy.stats import rankdata
from selection_panel import selection_panel

import sccafm
from sccafm import evaluate
from sccafm.evaluate.kinds import titles_of
from sccafm.evaluate.truth import gene_keys

CELLS, TARGETS = 300, 6000
SHARE = 0.5  # of the spread of log odds that a further term has
WINDOW = 101  # genes of like level, to whose median a gene's variability is compared
NAME = "response"


def designs(truth: PanelTruth, model: sccafm.Model) -> dict[str, pd.DataFrame]:
    """Probabilities of the truth's regulators by design, and simple methods."""
    adata = truth.read_genes(CELLS, TARGETS)
    grn = sccafm.infer_grn(
        adata[:8].copy(), model, regulators="all", n_top_genes=None, null_cells=0, top_k=10, progress=False
    )  # `response` is the same in every cell
    acts = gene_keys(grn.regulators).isin(gene_keys(truth.regulators))
    as_shipped = grn.matrix(value="response")[acts]
    shown = adata[:, grn.targets].copy()
    level = evaluate.target_mean(shown, list(grn.regulators)).iloc[0]
    known = pd.DataFrame(grn.in_prior, grn.regulators, grn.targets)
    out_degree = np.log1p(known.sum(axis=1))[acts]
    odds = logit(as_shipped.clip(1e-6, 1 - 1e-6))
    spread = SHARE * odds.std(axis=1).mean()
    further = {
        "+ level of the target": standardised(level)[None],
        "+ variability beyond level": standardised(beyond_level(shown, level))[None],
        "+ known targets of the regulator": standardised(out_degree)[:, None],
    }
    found = {NAME: as_shipped} | {name: expit(odds + spread * term) for name, term in further.items()}
    found["binding"], found["weight"] = grn.matrix(value="binding")[acts], grn.matrix()[acts]
    prior = known.stack().loc[lambda held: held].index.to_frame(index=False, name=["source", "target"])
    found["target mean expression"] = evaluate.target_mean(shown, list(as_shipped.index))
    found["prior degrees"] = evaluate.prior_degrees(prior, as_shipped.index, as_shipped.columns)
    found["|Pearson|"] = evaluate.pearson(shown, list(as_shipped.index))
    return found | {"random": evaluate.random_scores(as_shipped.index, as_shipped.columns)}


def beyond_level(adata, level: pd.Series) -> pd.Series:
    """Standard deviation of each gene's log-expression less what genes of like level have."""
    cells = adata.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    values = cells.X.toarray() if sparse.issparse(cells.X) else cells.X
    deviation = pd.Series(values.std(axis=0), level.index)
    usual = deviation[level.sort_values().index].rolling(WINDOW, center=True, min_periods=10).median()
    return deviation - usual.reindex(level.index)


def standardised(values: pd.Series) -> np.ndarray:
    """Places among the values, with mean 0 and standard deviation 1."""
    place = rankdata(values)
    return (place - place.mean()) / place.std()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model, reports = sccafm.load(options.model, device="cpu"), {}
    for name, truth in selection_panel(options.shared, options.corpus).items():
        if truth.kind != "response":
            continue
        found = designs(truth, model)
        scale = dict.fromkeys(found, "logit") | {"weight": "log", "prior degrees": "identity"}
        scale |= dict.fromkeys(("target mean expression", "|Pearson|", "random"), "rank")
        reports[name] = truth.report(
            found.pop(NAME), baselines=found, scale=scale, n_bootstrap=2, n_permutations=1, name=NAME
        )
        print(reports[name], flush=True)
    text = [
        "# What `response` could read beside what it reads",
        f"Written by `python benchmarks/response.py`, weights {model.weights_hash[:12]}; no figure is typed. {titles_of()}. Truths of the "
        f"selection panel, which judge no finished model; {CELLS} cells like those that responded. A further term has {SHARE:g} of the "
        "spread that the log odds of `response` have.",
        *evaluate.kinds_markdown(reports).values(),
    ]
    options.out.write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
