"""What the bundled model is worth beside simple methods in the same run: networks, perturbations, cells, genes.

    python benchmarks/accuracy.py --data DATASETS [--model FOLDER] [--out docs/benchmarks.md] [--quick]

DATASETS holds dev/*.h5ad and networks/*.csv.gz: cells and truths that no model of ours is trained on; ../resources beside it
holds gene sets. The probe is a bilinear map on the model's own gene vectors, fitted here to the same prior edges with
negatives that keep the regulator or the target: what can be had without cells. --quick takes two small sets, for tests.
"""

import argparse
import json
import re
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from judged_panel import TRUTHS, note_look
from pages import section, write_page
from panel import sampled
from screens import with_perturbed
from torch.nn import functional as F

import sccafm
from sccafm import evaluate
from sccafm.evaluate.kinds import MEAN, titles_of
from sccafm.evaluate.report import COLUMNS

SETS = {name: (cells, network) for name, (_, _, cells, network) in TRUTHS.items()}
QUICK = ("hHep ChIP", "mHSC-L ChIP")
SCREEN = "perturbench_devel_norman_mcfaline"
CELLS = {  # file -> batches, trajectory
    "kang18_8684x2511": "donor",
    "pancreas_baron_mouse": "donor",
    "paul15_myeloid": None,
}
JUDGED_CELLS = 500  # of each set, drawn at random: a cell at a time on a CPU takes its time
OWN = ("Networks", "Perturbations", "Cells", "Genes")  # sections of the page; other scripts write the others
ROOT = Path(__file__).parents[1]


def fit_probe(model: sccafm.Model, steps: int = 1500, pairs: int = 2048) -> torch.Tensor:
    """A bilinear map D x D that tells prior edges from pairs with one end exchanged."""
    generator = torch.Generator().manual_seed(0)
    vectors = model.sfm.embedding.gene_embedding.weight.detach()
    edges = model.reference_data.prior_tokens
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


def rivals(
    adata: ad.AnnData, grn: sccafm.GRN, model: sccafm.Model, probe: torch.Tensor | None = None
) -> dict[str, pd.DataFrame]:
    """Networks of the simple methods, regulators x targets; the probe is one of them where it was fitted."""
    tokens = np.array([model.vocabulary.token(gene_id) for gene_id in grn.genes["gene_id"]])
    acts = grn.genes["is_tf"].to_numpy()
    edges = model.reference_data.prior_tokens
    out, into = (np.log1p(np.bincount(edges[end], minlength=model.vocabulary.size)) for end in ("source", "target"))

    def frame(values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, grn.regulators, grn.targets)

    found = {
        "|Pearson|": evaluate.pearson(adata, list(grn.regulators)),
        "|Spearman|": evaluate.spearman(adata, list(grn.regulators)),
        "target mean expression": evaluate.target_mean(adata, list(grn.regulators)),
        "prior edges": frame(grn.in_prior.astype(float)),
        "prior degrees": frame(out[tokens[acts]][:, None] + into[tokens][None]),
        "random": evaluate.random_scores(grn.regulators, grn.targets),
    }
    if probe is not None:
        vectors = model.sfm.embedding.gene_embedding.weight.detach()
        found["bilinear probe"] = frame((vectors[tokens[acts]] @ probe @ vectors[tokens].T).numpy())
    return found


def trees(adata: ad.AnnData, regulators: pd.Index) -> dict[str, pd.DataFrame]:
    """The tree ensembles, which take minutes."""
    names = list(regulators)
    return {
        "GENIE3-like": evaluate.genie3(adata, names, n_jobs=2),
        "GRNBoost2-like": evaluate.grnboost2(adata, names, n_jobs=2),
    }


def judge_networks(data: Path, model: sccafm.Model, quick: bool) -> dict[str, evaluate.Report]:
    probe = fit_probe(model)
    reports, networks = {}, {}
    for name, (cells, truth) in SETS.items():
        if quick and name not in QUICK:
            continue
        adata = ad.read_h5ad(data / "dev" / f"{cells}.h5ad")
        if cells not in networks:
            chosen = sampled(adata, 100) if quick else adata
            grn = sccafm.infer_grn(chosen, model, regulators="all", n_top_genes=None, null_cells=0, progress=False)
            shown = adata[:, grn.targets].copy()
            others = rivals(shown, grn, model, probe) | ({} if quick else trees(shown, grn.regulators))
            networks[cells] = grn, others
        grn, others = networks[cells]
        adata = adata[:, grn.targets]  # genes that every method can score: an unscored one would rank last for some
        table = pd.read_csv(data / "networks" / f"{truth}.csv.gz").iloc[:, :2].set_axis(["source", "target"], axis=1)
        held = np.argwhere(grn.in_prior)
        prior = pd.DataFrame({"source": grn.regulators[held[:, 0]], "target": grn.targets[held[:, 1]]})
        reports[name] = evaluate.network(
            grn.matrix(),
            table,
            adata=adata,
            prior=prior,
            baselines=others,
            kind=TRUTHS[name][0],
            scale={"sccafm": "log", "prior degrees": "identity"},
            n_bootstrap=20 if quick else 200,
            name="sccafm",
        )
    return reports


def judge_perturbations(data: Path, model: sccafm.Model) -> evaluate.PerturbationReport:
    adata = with_perturbed(ad.read_h5ad(data / "dev" / f"{SCREEN}.h5ad"), model)
    control = adata[(adata.obs["condition"] == "control").to_numpy()].copy()
    grn = sccafm.infer_grn(control, model, regulators="all", n_top_genes=None, null_cells=0, progress=False)
    keys = {"perturbation_key": "condition", "control": "control", "groupby": "cell_type"}
    return evaluate.perturbation(grn.matrix(), adata, prior=model.reference_data.prior, name="sccafm", **keys)


def judge_cells(data: Path, model: sccafm.Model, quick: bool) -> dict[str, evaluate.EmbeddingReport]:
    reports = {}
    for name, batch in CELLS.items():
        if quick and name != "pancreas_baron_mouse":
            continue
        adata = sampled(ad.read_h5ad(data / "dev" / f"{name}.h5ad"), 150 if quick else JUDGED_CELLS)
        genes = 300 if quick else 2000
        sccafm.infer_grn(adata, model, n_top_genes=genes, null_cells=0, progress=False)
        reports[name] = evaluate.embedding(
            adata, "X_sccafm_sfm", batch_key=batch, label_key="cell_type", scib=False, n_bootstrap=20 if quick else 200
        )
    return reports


def judge_genes(data: Path, model: sccafm.Model, quick: bool) -> evaluate.GeneReport:
    """The model's gene vectors on Hallmark sets, which are in none of what they were made from, and on prior pairs."""
    vocabulary = model.vocabulary
    vectors = pd.DataFrame(
        model.sfm.embedding.gene_embedding.weight.detach().numpy()[vocabulary.tokens],
        index=[vocabulary.symbol(token) for token in vocabulary.tokens],
    )
    vectors = vectors[~vectors.index.str.upper().duplicated()]
    sets = data.parent / "resources/genesets/hallmark_v7.0.gmt"
    sizes = {"max_sets": 5, "max_pairs": 300, "n_bootstrap": 20} if quick else {}
    pairs = model.reference_data.prior[["Gene1", "Gene2"]]
    return evaluate.genes({"sccafm": vectors}, terms=sets, pairs=pairs, progress=False, **sizes)


def summary(reports: dict[str, evaluate.Report], subset: str) -> list[str]:
    """For each kind of truth: methods in rows, truths and their mean in columns."""
    return [
        part
        for kind, table in evaluate.kinds_markdown(reports, subset=subset).items()
        for part in (f"{kind.capitalize()} truths.", table)
    ]


def sections(data: Path, model: sccafm.Model, quick: bool) -> tuple[list[str], dict[str, pd.DataFrame]]:
    """The page's parts, and the tables behind them."""
    networks = judge_networks(data, model, quick)
    text = [
        "## Networks",
        f"{titles_of()}. Kinds of truth ask different questions, so no mean is over kinds; the network's own lists are what it would know "
        "without a single pair. Candidates are the truth's regulators times "
        "the genes that the model knows. Regulators that its lists do not hold stand last for every method: where few of their edges are "
        "true, random numbers have a ratio above 1. Truths of a few dozen regulators are noisy: see the intervals below.",
        "### All candidates",
        *summary(networks, "all"),
        "### Edges that the prior does not hold",
        *summary(networks, "not_in_prior"),
        *verdicts(networks),
    ]
    for name, report in networks.items():
        text += [f"### {name}", report.to_markdown()]
    frames = {f"network: {name}": report.to_frame() for name, report in networks.items()}
    if not quick:
        screen = judge_perturbations(data, model)
        text += [
            "## Perturbations",
            f"{SCREEN}, networks of its control cells. The file's 500 genes do not hold the perturbed regulators, which are "
            "shown as genes without a count: what is asked of the model is what it knows of them. What needs their expression ranks "
            "nothing.",
            screen.to_markdown(),
        ]
        frames["perturbation"] = screen.to_frame()
    text += [
        "## Cells",
        f"The structure module's summary of each cell, as it comes; up to {JUDGED_CELLS:,} cells of each set. It was not trained to "
        "embed cells.",
    ]
    for name, report in judge_cells(data, model, quick).items():
        text += [f"### {name}", report.to_markdown()]
        frames[f"cells: {name}"] = report.to_frame()
    genes = judge_genes(data, model, quick)
    text += [
        "## Genes",
        "The model's gene vectors, which stand still in training: members of Hallmark sets, and prior edges of held-out "
        "regulators. The prior's degrees are among their columns, and the prior is what the pairs come from.",
        genes.to_markdown(),
    ]
    return text, frames | {"genes": genes.to_frame()}


def verdicts(reports: dict[str, evaluate.Report]) -> list[str]:
    """Kind by kind, where the model loses to a baseline, in words."""
    table, told = evaluate.by_kind(reports), []
    for kind, rows in table.groupby("kind", sort=False):
        for metric in ("swap", "auroc", "auprc_ratio"):
            mean = rows[rows["truth"] == MEAN].set_index("method")[metric]
            best = mean.drop("sccafm").idxmax()
            found = rows[rows["truth"] != MEAN].pivot(index="method", columns="truth", values=metric)
            above = {truth: list(values.index[values > values["sccafm"]]) for truth, values in found.items()}
            lost = [f"{truth} (to {', '.join(methods)})" for truth, methods in above.items() if methods]
            told.append(
                f"{COLUMNS[metric]}, {kind}: the model's mean is {mean['sccafm']:.3f}, that of the best baseline ({best}) "
                f"{mean[best]:.3f}. "
                + (f"The model loses on {'; '.join(lost)}." if lost else "The model loses on no set.")
            )
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks.md")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = sccafm.load(options.model, device="cpu")
    if not options.quick:
        note_look(Path(__file__).name, model.weights_hash)
    text, frames = sections(options.data, model, options.quick)
    head = [
        "# Benchmarks",
        "Written by `python benchmarks/accuracy.py`; no figure is typed. All rows of a table come from one run, on data that the "
        "model was never trained on.",
        f"Model {model.source}, weights {model.weights_hash[:12]}. The evidence that it was taught (`sccafm.train.evidence`) was first weighed "
        "while looking at these truths, and since then on the selection panel alone: read the figures as optimistic.",
    ]
    page = options.out.read_text() if options.out.exists() else ""
    others = [title for title in re.findall(r"^## (.+)$", page, re.MULTILINE) if title not in OWN]
    write_page(options.out, "\n\n".join([*head, *text, *(section(page, title) for title in others)]) + "\n")
    records = {name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()}
    options.out.with_suffix(".json").write_text(json.dumps(records, indent=1) + "\n")
    print("\n\n".join(text[:14]))


if __name__ == "__main__":
    main()
