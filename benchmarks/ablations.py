"""What each part of the structure module's training is worth: short runs that differ in one part alone.

    python benchmarks/ablations.py --corpus FOLDER --data DATASETS --runs FOLDER [--steps 600] [--designs NAME ...]

FOLDER of --corpus holds the training cells, DATASETS dev/*.h5ad and networks/*.csv.gz, which nothing is trained on. Every design is
trained from the same seed on the same batches into a folder of its own under --runs; one that is finished there is not trained
again. Writes benchmarks/ablations.md; no figure is typed.
"""

import argparse
import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from agreement import agreement
from pages import table
from panel import sampled
from selection_panel import selection_panel

import sccafm
from sccafm import evaluate
from sccafm.grn.contexts import load_entropy
from sccafm.train import LossWeights, TrainSFM, train_sfm
from sccafm.train.config import default_sfm

CELLS = 200  # of each truth's set
TARGETS = 1500  # of each truth
LOAD_CELLS = 16  # of each corpus file
TRUTHS = (
    "mHSC-E ChIP",
    "mHSC-GM ChIP",
    "CD4 CRISPRi",
    "Th17 knock-out",
)  # of the selection panel, by which a design is chosen
TYPED = "pbmc_facs_zheng"  # of the corpus, for the agreement of cells of one type
PUBLISHED = {"cell": 0.0, "regulator": 0.0, "context": 0.0, "prior": 1.0, "elbo": 1.0, "dag": 0.01, "sparsity": 0.001}


def designs() -> dict[str, dict]:
    """Settings that differ from the default, by name."""
    found = {"everything": {}}
    found |= {f"without {f.name}": {"weights": {f.name: 0.0}} for f in dataclasses.fields(LossWeights)}
    return found | {
        "published terms alone": {"weights": PUBLISHED},
        "without load balance": {"sfm": dataclasses.replace(default_sfm(), beta_momentum=1e-9)},
        "without thinning": {"thin": 0.0},
        "without hidden conditions": {"mask_conditions": 0.0},
        "random gene vectors": {"gene_vectors": "random"},
    }


def train(name: str, changes: dict, options) -> Path:
    """The run folder of a design; the survey of the corpus is made once for all."""
    run = options.runs / f"{name.replace(' ', '_')}_{options.steps}"
    if (run / "model").is_dir():
        return run
    first = options.runs / f"everything_{options.steps}/survey"
    if first.is_dir() and not (run / "survey").is_dir():
        shutil.copytree(first, run / "survey")
    given = {k: v for k, v in changes.items() if k != "weights"}
    weights = dataclasses.replace(LossWeights(), **changes.get("weights", {}))
    config = TrainSFM(
        options.corpus,
        run,
        steps=options.steps,
        validate_every=options.steps,
        weights=weights,
        **given,
    )
    train_sfm(config, progress=False)
    return run


def judge(run: Path, options) -> dict[str, float]:
    """How well edges are ranked, how evenly factors are used, and whether cells of one type agree."""
    model = sccafm.load(run / "model", device="cpu")
    panel = selection_panel(options.data.parent, options.corpus)
    reports = {}
    for name in TRUTHS:
        truth = panel[name]
        adata = truth.read_genes(CELLS, TARGETS)
        grn = sccafm.infer_grn(adata, model, regulators="all", n_top_genes=None, null_cells=0, progress=False)
        held = np.argwhere(grn.in_prior)
        prior = pd.DataFrame({"source": grn.regulators[held[:, 0]], "target": grn.targets[held[:, 1]]})
        reports[name] = evaluate.network(
            grn, truth.edges, kind=truth.kind, adata=adata[:, grn.targets], prior=prior, baselines={}, n_bootstrap=2,
            n_permutations=2, name="model",
        )  # fmt: skip
    row = {}
    for subset, title in {"all": "", "not_in_prior": ", not in prior"}.items():
        means = evaluate.by_kind(reports, subset=subset).query("truth == 'mean' and method == 'model'")
        for kind, swap, auroc, ratio in means[["kind", "swap", "auroc", "auprc_ratio"]].itertuples(index=False):
            row |= {f"swap, {kind}{title}": swap, f"AUROC, {kind}{title}": auroc, f"AUPRC ratio, {kind}{title}": ratio}
    row["load entropy"] = load(model, options.corpus)
    typed = sampled(ad.read_h5ad(options.corpus / f"{TYPED}.h5ad"), CELLS)
    row["type agreement"] = agreement(typed, model)["AUROC within over between"]
    log = pd.read_csv(run / "log.csv").query("part == 'validation'").iloc[-1]
    return {k: float(v) for k, v in (row | {f"{term} term": log[term] for term in ("dag", "elbo")}).items()}


def load(model: sccafm.Model, corpus: Path) -> float:
    """Entropy of the factors' load over cells of every third file, as a share of the maximum."""
    contexts = []
    for path in sorted(corpus.glob("*.h5ad"))[::3]:
        adata = sampled(ad.read_h5ad(path), LOAD_CELLS)
        contexts.append(sccafm.infer_grn(adata, model, null_cells=0, progress=False).context.to_numpy().mean(0))
    return load_entropy(np.mean(contexts, axis=0))


def page(rows: dict[str, dict], steps: int) -> str:
    frame = pd.DataFrame(rows).T.rename_axis("design").reset_index()
    absent = [name for name in designs() if name not in rows]
    return "\n\n".join(
        [
            "# What each part of training is worth",
            "Written by `python benchmarks/ablations.py`; no figure is typed.",
            f"One seed, {steps:,} steps each from new weights: far fewer than the bundled model has. The figures compare designs, and "
            "none of them says what the bundled model is worth. Swap test, AUROC per regulator and pooled AUPRC ratio are means over truths of "
            f"a kind ({', '.join(TRUTHS)}), which judge no finished model, on {CELLS} cells of each set; load entropy is a share of the maximum; "
            f"type agreement is how often two cells of a type of {TYPED} share more of their strongest edges than two cells of different "
            "types; the last columns are two loss terms on held-out cells of the corpus. The terms of the evidence have rows of their own in "
            "[evidence.md](evidence.md).",
            table(frame),
            *([f"Not run: {', '.join(absent)}."] if absent else []),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--designs", nargs="+", choices=list(designs()), default=list(designs()))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    kept = options.runs / f"ablations_{options.steps}.json"
    rows = json.loads(kept.read_text()) if kept.exists() else {}
    for name in options.designs:
        if name not in rows:
            rows[name] = judge(train(name, designs()[name], options), options)
            kept.write_text(json.dumps(rows, indent=1) + "\n")
            print(name, rows[name], flush=True)
    options.out.write_text(page({name: rows[name] for name in designs() if name in rows}, options.steps) + "\n")


if __name__ == "__main__":
    main()
