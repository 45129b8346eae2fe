"""How well the bundled model ranks known edges, beside simple methods in the same run.

    python benchmarks/accuracy.py --data DATASETS [--model FOLDER] [--out benchmarks/accuracy.md] [--quick]

DATASETS holds dev/*.h5ad and networks/*.csv.gz: cells and truths that no model of ours is trained on. The probe is a
bilinear map on the model's own gene vectors, fitted here to the same prior edges with negatives that keep the regulator
or the target: what can be had without cells.
"""

import argparse
import json
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

import sccafm
from sccafm import evaluate

SETS = {
    "hHep ChIP": ("beeline_hHep_delay", "delay_hHep_testing_refNetwork"),
    "mHSC-L ChIP": ("beeline_mHSC-L_delay", "delay_mHSC-L_training_refNetwork"),
    "mDC ChIP": ("beeline_mDC_TFs500", "mccalla_mDC_chipunion"),
    "mDC knock-down": ("beeline_mDC_TFs500", "mccalla_mDC_KDUnion"),
}
METRICS = ("auroc", "auprc_ratio")


def fit_probe(model: sccafm.Model, steps: int = 1500, pairs: int = 2048) -> torch.Tensor:
    """A bilinear map D x D that tells prior edges from pairs with one end exchanged."""
    generator = torch.Generator().manual_seed(0)
    vectors = model.sfm.embedding.gene_embedding.weight.detach()
    edges = model.lexicon.prior_tokens
    source, target = (torch.tensor(edges[end].to_numpy()) for end in ("source", "target"))
    weight = torch.zeros(vectors.shape[1], vectors.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=3e-3, weight_decay=0.1)
    for _ in range(steps):
        true, other = (torch.randint(len(source), (pairs,), generator=generator) for _ in range(2))
        keeps_source = torch.rand(pairs, generator=generator) < 0.5
        i = torch.where(keeps_source, source[true], source[other])
        j = torch.where(keeps_source, target[other], target[true])
        scale = vectors.shape[1] ** 0.5
        positive = ((vectors[source[true]] @ weight) * vectors[target[true]]).sum(1) / scale
        negative = ((vectors[i] @ weight) * vectors[j]).sum(1) / scale
        loss = F.softplus(-positive).mean() + F.softplus(negative).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weight.detach()


def rivals(adata: ad.AnnData, grn: sccafm.GRN, model: sccafm.Model, probe: torch.Tensor) -> dict[str, pd.DataFrame]:
    """Networks of the simple methods, regulators x targets."""
    tokens = np.array([model.vocabulary.token(gene_id) for gene_id in grn.genes["gene_id"]])
    acts = grn.genes["is_tf"].to_numpy()
    edges = model.lexicon.prior_tokens
    out, into = (np.log1p(np.bincount(edges[end], minlength=model.vocabulary.size)) for end in ("source", "target"))
    vectors = model.sfm.embedding.gene_embedding.weight.detach()

    def frame(values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, grn.regulators, grn.targets)

    return {
        "|Pearson|": evaluate.pearson(adata, list(grn.regulators)),
        "|Spearman|": evaluate.spearman(adata, list(grn.regulators)),
        "target mean expression": evaluate.target_mean(adata, list(grn.regulators)),
        "prior edges": frame(grn.in_prior.astype(float)),
        "prior degrees": frame(out[tokens[acts]][:, None] + into[tokens][None]),
        "bilinear probe": frame((vectors[tokens[acts]] @ probe @ vectors[tokens].T).numpy()),
        "random": evaluate.random_scores(grn.regulators, grn.targets),
    }


def judge(data: Path, model: sccafm.Model, probe: torch.Tensor, n_bootstrap: int) -> dict[str, evaluate.Report]:
    reports, networks = {}, {}
    for name, (cells, truth) in SETS.items():
        adata = ad.read_h5ad(data / "dev" / f"{cells}.h5ad")
        if cells not in networks:
            grn = sccafm.infer_grn(adata.copy(), model, regulators="all", n_top_genes=None, progress=False)
            networks[cells] = grn, rivals(adata[:, grn.targets].copy(), grn, model, probe)
        grn, others = networks[cells]
        adata = adata[:, grn.targets]  # genes that every method can score: an unscored one would rank last for some
        table = pd.read_csv(data / "networks" / f"{truth}.csv.gz").iloc[:, :2].set_axis(["source", "target"], axis=1)
        held = np.argwhere(grn.in_prior)
        prior = pd.DataFrame({"source": grn.regulators[held[:, 0]], "target": grn.targets[held[:, 1]]})
        reports[name] = evaluate.network(
            grn.matrix(), table, adata=adata, prior=prior, baselines=others, n_bootstrap=n_bootstrap, name="sccafm"
        )
    return reports


def summary(reports: dict[str, evaluate.Report], subset: str) -> str:
    """Methods in rows, truths in columns: per-regulator AUROC / pooled AUPRC ratio, and the mean over truths."""
    columns = {}
    for name, report in reports.items():
        rows = report.to_frame().query("subset == @subset").set_index("method")
        columns[name] = rows[list(METRICS)]
    mean = sum(columns.values()) / len(columns)
    shown = pd.DataFrame(
        {name: [f"{a:.3f} / {p:.2f}" for a, p in c.to_numpy()] for name, c in (columns | {"mean": mean}).items()},
        index=mean.index,
    )
    lines = ["| method | " + " | ".join(shown) + " |", "|" + " --- |" * (shown.shape[1] + 1)]
    return "\n".join(lines + [f"| {method} | " + " | ".join(row) + " |" for method, row in shown.iterrows()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = sccafm.load(options.model, device="cpu")
    probe = fit_probe(model)
    reports = judge(options.data, model, probe, 20 if options.quick else 200)
    text = [
        "# Accuracy: known edges",
        "Written by `python benchmarks/accuracy.py`; no figure is typed. Per-regulator AUROC / pooled AUPRC ratio (average "
        "precision over density), all in one run; candidates are the truth's regulators times the genes that the model knows. Truths of a few dozen regulators are noisy: see the intervals below.",
        f"Model {model.source}, weights {model.weights_hash[:12]}. Settings of its training were chosen while looking at "
        "these truths, though it was never trained on them or these cells: read the figures as optimistic.",
        "## All candidates",
        summary(reports, "all"),
        "## Edges that the prior does not hold",
        summary(reports, "not_in_prior"),
        "## With intervals",
    ]
    for name, report in reports.items():
        text += [f"### {name}", report.to_markdown()]
    options.out.write_text("\n\n".join(text) + "\n")
    frames = {name: json.loads(r.to_frame().to_json(orient="records")) for name, r in reports.items()}
    options.out.with_suffix(".json").write_text(json.dumps(frames, indent=1) + "\n")
    print("\n\n".join(text[3:7]))


if __name__ == "__main__":
    main()
