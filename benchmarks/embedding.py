"""What the embeddings are worth beside simple ones in the same run: cells, trajectories, stimuli, genes, perturbations.

    python benchmarks/embedding.py --data DATASETS [--model FOLDER] [--parts cells genes ...] [--out docs/embedding.md]
    python benchmarks/embedding.py --data DATASETS --corpus FOLDER --runs FOLDER --parts ablations

DATASETS holds dev/*.h5ad and networks/*.csv.gz: cells and truths that no model of ours is trained on; ../resources beside it
holds gene sets. Each part is written into the page's JSON as it ends, and the page from that: parts can be run again one by
one. Ablations train every design from the same start on the same batches of the corpus.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from inference import repeated
from pages import table
from panel import sampled
from screens import with_perturbed

import sccafm
from sccafm import evaluate, tl
from sccafm.losses.embedding import EFMWeights, Views
from sccafm.model.layout import find_files, find_release
from sccafm.model.weights import module_hash
from sccafm.nn import CausalEFMConfig
from sccafm.reference.bundle import read_reference_data
from sccafm.reference.genes import UNKNOWN_TOKEN

ROOT = Path(__file__).parents[1]
CELLS = {"kang18_8684x2511": "donor", "pancreas_baron_mouse": "donor", "paul15_myeloid": None, "kang18_ifnb_2800": None}
KEYS = ("sccafm", "sccafm_zero_shot", "sccafm, adapted")
BIOLOGY = ("silhouette_label", "graph_connectivity", "transfer_accuracy", "transfer_f1")
TRAJECTORIES = ("beeline_hHep_delay", "beeline_mHSC-L_delay")
STIMULUS = "kang18_ifnb_2800"
SCREEN = "perturbench_devel_norman_mcfaline"
MOUSE_IMMUNE = (
    "tabula_muris_immune1000",
    {"B cell": "B", "T cell": "T", "NK cell": "NK", "Monocyte": "monocyte"},
)
HUMAN_IMMUNE = (
    "kang18_8684x2511",
    {"B cells": "B", "CD4 T cells": "T", "NK cells": "NK", "CD14+ Monocytes": "monocyte"},
)
COSTED, COST_CELLS, COST_GENES = "pancreas_baron_mouse", 200, 2000
MEMORY_GENES = 300
MEMORY_STEP = """
import resource, sys, warnings
warnings.simplefilter("ignore")
import anndata as ad, sccafm
sccafm.embed(ad.read_h5ad(sys.argv[1], backed="r"), genes=sys.argv[2].split(), progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
PAIRS = {
    "beeline_mHSC-L_delay": "delay_mHSC-L_training_refNetwork",
    "beeline_hHep_delay": "delay_hHep_testing_refNetwork",
}
DESIGNS = {
    "causal": {},
    "shuffled graph": {"graph": "shuffled"},
    "plain views": {"kind": "plain"},
    "no gene loss": {"gene": 0.0},
    "no structure module": {"graph": "none"},
}


def read(data: Path, name: str, n: int) -> ad.AnnData:
    return sampled(ad.read_h5ad(data / "dev" / f"{name}.h5ad"), n)


def records(frame: pd.DataFrame) -> list[dict]:
    return json.loads(frame.to_json(orient="records"))


def judge_cells(options, model: sccafm.Model) -> tuple[list[str], dict]:
    """Label transfer and scIB's measures, as the embedding comes and after it was adapted."""
    text, found = [], {}
    for name, batch in CELLS.items():
        adata = read(options.data, name, options.cells)
        sccafm.embed(adata, model, batch_key=batch, key_added="sccafm", progress=False)
        sccafm.embed(adata, model, adapt=options.adapt, batch_key=batch, key_added="sccafm, adapted", progress=False)
        report = evaluate.embedding(
            adata, KEYS, batch_key=batch, label_key="cell_type",
            n_bootstrap=50, baselines="all",
        )  # fmt: skip
        text += [f"### {name}", report.to_markdown()]
        if report.skipped:
            text.append("Not run: " + "; ".join(f"{k} ({why})" for k, why in report.skipped.items()))
        found[name] = report.to_frame().set_index("method")
    mean = sum(frame[list(BIOLOGY)] for frame in found.values()) / len(found)
    shown = mean.reset_index().rename(
        columns=dict(zip(BIOLOGY, ("silhouette", "connectivity", "accuracy", "macro-F1"), strict=True))
    )
    head = [
        f"Mean over {len(found)} sets of up to {options.cells} cells; adapted: {options.adapt}.",
        table(shown),
        *verdicts(mean, found),
    ]
    return head + text, {name: records(frame.reset_index()) for name, frame in found.items()}


def verdicts(mean: pd.DataFrame, found: dict[str, pd.DataFrame]) -> list[str]:
    told = []
    for key in KEYS:
        for rival in [name for name in ("hvg_pca", "scvi") if name in mean.index]:
            gap = mean.loc[key, "transfer_accuracy"] - mean.loc[rival, "transfer_accuracy"]
            each = {name: f["transfer_accuracy"] for name, f in found.items()}
            lost = [name for name, accuracy in each.items() if accuracy[key] < accuracy[rival]]
            behind = f"below it on {', '.join(lost)}." if lost else "below it on no set."
            told.append(f"Label-transfer accuracy of {key}: {gap:+.3f} beside {rival} on the mean; {behind}")
    return told


def judge_species(options, model: sccafm.Model) -> tuple[list[str], dict]:
    """Labels of human blood cells from mouse immune cells, and the other way: do the species share a space?"""
    from sccafm.evaluate.integration import transfer_labels

    files = {
        "mouse": options.corpus / f"{MOUSE_IMMUNE[0]}.h5ad",
        "human": options.data / "dev" / f"{HUMAN_IMMUNE[0]}.h5ad",
    }
    cells = {s: labelled(file, species_labels, options.cells) for (s, file), (_, species_labels) in zip(
        files.items(), (MOUSE_IMMUNE, HUMAN_IMMUNE), strict=True)}  # fmt: skip
    both = joined(cells, model)
    labels, species = (both.obs[key].astype(str).to_numpy() for key in ("label", "species"))
    shared = {name: list(adata.var_names) for name, adata in shared_genes(cells, model).items()}
    spaces = {
        "sccafm_zero_shot": embedded_apart(cells, model, dict.fromkeys(cells)),
        "sccafm_zero_shot on the genes of both": embedded_apart(cells, model, shared),
    }
    spaces |= {f"{name}, centred by species": centred(x, species) for name, x in spaces.items()}
    spaces |= {
        "hvg_pca of both": evaluate.hvg_pca(both),
        "hvg_pca of both, centred by species": evaluate.hvg_pca(both, batch_key="species"),
        "log_expression": evaluate.log_expression(both),
    }
    rows = []
    for name, x in spaces.items():
        predicted, known = transfer_labels(np.asarray(x, dtype=float), labels, species)
        for direction, here in (("mouse to human", species == "human"), ("human to mouse", species == "mouse")):
            right = (predicted == labels)[here & known]
            each = pd.Series(right).groupby(labels[here & known]).mean()
            rows.append(
                {"embedding": name, "direction": direction, "accuracy": right.mean(), "mean over labels": each.mean()}
            )
    text = (
        f"Nearest neighbours in the other species name each cell: {', '.join(sorted(set(labels)))}; up to {options.cells} cells of "
        f"{HUMAN_IMMUNE[0]} (human, judged data) and of {MOUSE_IMMUNE[0]} (mouse, of the training corpus, whose labels no model saw). Each "
        "species is embedded by itself; principal components see both, on the genes that orthologs share."
    )
    return [text, table(pd.DataFrame(rows))], {"rows": rows}


def labelled(file: Path, names: dict[str, str], n: int) -> ad.AnnData:
    adata = ad.read_h5ad(file)
    adata.obs["label"] = adata.obs["cell_type"].astype(str).map(names)
    return sampled(adata[adata.obs["label"].notna().to_numpy()], n)


def embedded_apart(cells: dict[str, ad.AnnData], model: sccafm.Model, genes: dict) -> np.ndarray:
    found = (
        sccafm.embed(adata, model, genes=genes[name], species=name, anchor=False, progress=False)
        for name, adata in cells.items()
    )
    return np.concatenate([embedding.cells.to_numpy() for embedding in found])


def centred(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return x - pd.DataFrame(x).groupby(groups).transform("mean").to_numpy()


def tokens_of(adata: ad.AnnData, species: str, model: sccafm.Model) -> pd.Series:
    """The model's token of each gene that it knows and that has it to itself."""
    token = pd.Series([model.reference_data.genes.find(name, species)[0] for name in adata.var_names], adata.var_names)
    return token[(token != UNKNOWN_TOKEN) & ~token.duplicated(keep=False)]


def shared_genes(cells: dict[str, ad.AnnData], model: sccafm.Model) -> dict[str, ad.AnnData]:
    """The genes that both files have under one name, with the model's tokens in var."""
    token = {species: tokens_of(adata, species, model) for species, adata in cells.items()}
    common = set.intersection(*(set(tokens) for tokens in token.values()))
    parts = {
        species: adata[:, token[species].index[token[species].isin(common)]].copy() for species, adata in cells.items()
    }
    for species, part in parts.items():
        part.var["token"] = token[species]
    return parts


def joined(cells: dict[str, ad.AnnData], model: sccafm.Model) -> ad.AnnData:
    """Cells of both species on the genes that both files have, named by the model's tokens."""
    parts = shared_genes(cells, model)
    for part in parts.values():
        part.var_names = part.var["token"].astype(str).to_numpy()
    return ad.concat(parts, label="species", index_unique="-", join="inner")


def judge_trajectories(options, model: sccafm.Model) -> tuple[list[str], dict]:
    rows = []
    for name in TRAJECTORIES:
        adata = read(options.data, name, options.cells)
        adata.obs["pseudotime"] = pd.to_numeric(adata.obs["pseudotime"])
        sccafm.embed(adata, model, progress=False)
        report = evaluate.embedding(
            adata, ["X_sccafm", "X_sccafm_zero_shot"], batch_key=None, label_key="stage", pseudotime_key="pseudotime", scib=False,
            baselines="fast", n_bootstrap=50,
        )  # fmt: skip
        rows.append(report.to_frame().assign(data=name))
    frame = pd.concat(rows)[["data", "method", "pseudotime", "pseudotime_low", "pseudotime_high", "transfer_accuracy"]]
    return ["Spearman's correlation of pseudotime with that of the nearest cells of other folds.", table(frame)], {
        "rows": records(frame)
    }


def judge_stimulus(options, model: sccafm.Model) -> tuple[list[str], dict]:
    """The same linear head on each embedding: was the cell stimulated? And does it see donors within a cell type?"""
    adata = read(options.data, STIMULUS, options.cells)
    sccafm.embed(adata, model, progress=False)
    spaces = {
        "X_sccafm": None,
        "X_sccafm_zero_shot": None,
        "hvg_pca": evaluate.hvg_pca(adata),
        "log_expression": evaluate.log_expression(adata),
    }
    rows = []
    for key, values in spaces.items():
        if values is not None:
            adata.obsm[key] = values
        for groups in (None, "cell_type"):
            told = "cells at random" if groups is None else "whole cell types"
            head = tl.fit_head(adata, "condition", groups=groups, use_rep=key)
            rows.append({"embedding": key, "held out": told} | scores_of(head, adata))
    head = tl.fit_head(adata, "condition", groups="cell_type", finetune=options.finetune, model=model, progress=False)
    rows.insert(4, {"embedding": "fine-tuned", "held out": "whole cell types"} | scores_of(head, adata))
    donors = read(options.data, "kang18_8684x2511", options.cells)
    sccafm.embed(donors, model, progress=False)
    donors.obsm["hvg_pca"] = evaluate.hvg_pca(donors)
    seen = []
    for key in ("X_sccafm", "X_sccafm_zero_shot", "hvg_pca"):
        for kind, part in donors.obs.groupby("cell_type", observed=True):
            head = tl.fit_head(donors[part.index].copy(), "donor", use_rep=key)
            seen.append(
                {"embedding": key, "cell type": kind, "donor accuracy": float(head.scores.iloc[-1]["accuracy"])}
            )
    seen = pd.DataFrame(seen).groupby("embedding", sort=False)["donor accuracy"].mean().reset_index()
    text = [
        f"{STIMULUS}: a linear head tells stimulated from control cells. The file names no donors, so the harder half holds out "
        f"whole cell types instead. Fine-tuned: the embedding module trained with the head for {options.finetune}, in each "
        "fold anew. Its learning rates and warm-up were chosen on this very set, so that its row flatters. "
        "Cross-entropy is that of the calibrated probabilities, in nats.",
        table(pd.DataFrame(rows)),
        "Within a cell type of kang18_8684x2511, how well the same head tells the five donors apart (lower is better; 0.2 where it "
        "cannot):",
        table(seen),
    ]
    return text, {"stimulus": rows, "donors": records(seen)}


def scores_of(head: tl.Head, adata: ad.AnnData) -> dict[str, float]:
    """What the head is worth over all held-out cells."""
    named = head.held_out.columns.get_indexer(adata.obs["condition"].astype(str))
    chance = head.held_out.to_numpy()[np.arange(len(named)), named]
    scores = {m: float(head.scores.iloc[-1][m]) for m in ("accuracy", "macro_f1", "calibration_error")}
    return scores | {"cross-entropy": float(-np.log(np.maximum(chance, 1e-6)).mean())}  # a head may say 0


def contextual(data: Path, name: str, model: sccafm.Model, n: int) -> tuple[sccafm.Embedding, pd.DataFrame]:
    adata = read(data, name, n)
    found = sccafm.embed(adata, model, n_top_genes=None, progress=False)
    return found, found.genes


def judge_genes(options, model: sccafm.Model) -> tuple[list[str], dict]:
    """Probes of contextual gene vectors on ChIP-seq pairs that the prior does not hold, and on Hallmark sets."""
    text, found = [], {}
    sets = options.data.parent / "resources/genesets/hallmark_v7.0.gmt"
    for name, truth in PAIRS.items():
        found_there, vectors = contextual(options.data, name, model, options.cells)
        regulators = vectors.index[found_there.gene_table["is_tf"]]
        start = starting_vectors(model, vectors.index)
        pairs = unknown_pairs(options.data, truth, model)
        report = evaluate.genes(
            {"sccafm": vectors, "sccafm static": start_static(model, vectors.index)}, terms=sets, pairs=pairs, min_genes=10,
            baselines={"structure module's": start, "random": random_vectors(start)}, n_bootstrap=50, progress=False,
        )  # fmt: skip
        text += [f"### {name}, {truth} without the prior's pairs", report.to_markdown()]
        text.append(direction_line(vectors, pairs, regulators))
        found[name] = records(report.to_frame())
    return text, found


def random_vectors(like: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(0).normal(size=like.shape), like.index)


def starting_vectors(model: sccafm.Model, names: pd.Index) -> pd.DataFrame:
    return vectors_of(model.sfm.embedding.gene_embedding.weight, model, names)


def start_static(model: sccafm.Model, names: pd.Index) -> pd.DataFrame:
    with torch.inference_mode():
        return vectors_of(model.efm.static(torch.arange(model.vocabulary.size)), model, names)


def vectors_of(weight: torch.Tensor, model: sccafm.Model, names: pd.Index) -> pd.DataFrame:
    species = "mouse" if names[0][1:].islower() or names[0].title() == names[0] else "human"
    tokens = [model.reference_data.genes.find(name, species)[0] for name in names]
    return pd.DataFrame(weight.detach().numpy()[tokens], names)


def unknown_pairs(data: Path, truth: str, model: sccafm.Model) -> pd.DataFrame:
    pairs = pd.read_csv(data / "networks" / f"{truth}.csv.gz").iloc[:, :2].set_axis(["source", "target"], axis=1)
    held = set(zip(model.reference_data.prior["Gene1"], model.reference_data.prior["Gene2"], strict=True))
    upper = zip(pairs["source"].str.upper(), pairs["target"].str.upper(), strict=True)
    return pairs[[edge not in held for edge in upper]]


def direction_line(vectors: pd.DataFrame, pairs: pd.DataFrame, regulators: pd.Index) -> str:
    forth, back = directed(vectors, pairs, regulators)
    return (
        f"Without any probe, source(one) . target(other) exceeds the reverse for {(forth > back).mean():.3f} of {len(forth):,} pairs of two "
        "regulators of which one is known to regulate the other and not the reverse (0.5 is chance)."
    )


def directed(vectors: pd.DataFrame, pairs: pd.DataFrame, regulators: pd.Index) -> tuple[np.ndarray, np.ndarray]:
    """Score of each one-way pair of two regulators, and of its reverse, by the heads alone."""
    names = vectors.index.str.upper()
    source, target = (unit(vectors.filter(like=f"{end}_").to_numpy()) for end in ("source", "target"))
    acts = set(regulators.str.upper()) & set(names)
    edges = set(zip(pairs["source"].str.upper(), pairs["target"].str.upper(), strict=True))
    one_way = sorted((i, j) for i, j in edges if i in acts and j in acts and i != j and (j, i) not in edges)
    row, column = (names.get_indexer([pair[end] for pair in one_way]) for end in (0, 1))
    return (source[row] * target[column]).sum(1), (source[column] * target[row]).sum(1)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


def judge_perturbations(options, model: sccafm.Model) -> tuple[list[str], dict]:
    """The mean response of a cell line to a perturbed gene that was held out, from that gene's vector by ridge regression."""
    adata = ad.read_h5ad(options.data / "dev" / f"{SCREEN}.h5ad")
    # Most perturbed genes are not among the 500 that were measured, so their vectors are those that hold in any cell.
    names = pd.Index(sorted({gene for condition in adata.obs["condition"].unique() for gene in condition.split("+")}))
    known = [model.vocabulary.token(name.upper()) != UNKNOWN_TOKEN for name in names]
    vectors = start_static(model, names[known])
    whole = with_perturbed(adata, model)
    control = whole[(whole.obs["condition"] == "control").to_numpy()].copy()
    chosen = {"regulators": [n for n in vectors.index if n in whole.var_names], "groupby": "cell_type"}
    grn = sccafm.infer_grn(control, model, n_top_genes=None, null_cells=0, progress=False, **chosen)
    x = pd.DataFrame(adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X, adata.obs_names, adata.var_names)
    rows = []
    for line, part in adata.obs.groupby("cell_type", observed=True):
        usual = x.loc[part.index[part["condition"] == "control"]].mean()
        singles = {
            c: x.loc[i.index].mean() - usual
            for c, i in part.groupby("condition", observed=True)
            if c in vectors.index and len(i) >= 10
        }
        if len(singles) < 4:
            continue
        shift, own = pd.DataFrame(singles).T, vectors.loc[list(singles)]
        edges = departure(grn.matrix(line), shift.index, shift.columns)
        for left in singles:
            others = shift.drop(index=left)
            guesses = {"no change": np.zeros(shift.shape[1]), "mean of the others": others.mean().to_numpy()}
            guesses["gene vectors"] = ridge(own.drop(index=left), others, own.loc[left])
            guesses["random vectors"] = ridge(
                *(random_vectors(own).loc[i] for i in (others.index,)), others, random_vectors(own).loc[left]
            )
            guesses["graph"] = along_graph(edges, others, left)
            rest = guesses["gene vectors"] - guesses["mean of the others"]
            guesses["gene vectors and graph"] = guesses["graph"] + rest
            for method, guess in guesses.items():
                rows.append(
                    {"line": line, "gene": left, "method": method, **closeness(guess, shift.loc[left].to_numpy())}
                )
        doubles = [c for c in part["condition"].unique() if "+" in c and set(c.split("+")) <= set(singles)]
        for both in doubles:
            cells = part.index[part["condition"] == both]
            true = (x.loc[cells].mean() - usual).to_numpy()
            rows.append(
                {
                    "line": line,
                    "gene": both,
                    "method": "additive (of seen singles)",
                    **closeness(sum(shift.loc[g] for g in both.split("+")).to_numpy(), true),
                }
            )
    frame = pd.DataFrame(rows)
    shown = frame.groupby("method", sort=False)[["pearson", "mse"]].agg("mean").reset_index()
    shown["n"] = frame.groupby("method", sort=False).size().to_numpy()
    text = [
        f"{SCREEN}: mean shift of expression of a held-out perturbation, per cell line, from the perturbed gene's static vector "
        "and from its edges in the line's own network; Pearson over genes and mean squared error.",
        table(shown.assign(mse=shown["mse"].map(lambda v: f"{v:.5f}"))),
    ]
    best = shown.set_index("method")["pearson"].drop("additive (of seen singles)", errors="ignore")
    for method in ("gene vectors", "graph", "gene vectors and graph"):
        gap = best[method] - best["mean of the others"]
        text.append(f"{method.capitalize()}: {gap:+.4f} beside the mean of the other perturbations (Pearson).")
    return text, {"rows": rows}


def departure(scores: pd.DataFrame, perturbed: pd.Index, genes: pd.Index) -> pd.DataFrame:
    """How much stronger than usual each perturbed gene's edges are, by log score; 0 for genes that were not read."""
    log = np.log(scores.reindex(index=perturbed, columns=genes) + 1e-9)
    log = log.sub(log.mean(axis=1), axis=0)
    return log.sub(log.mean(axis=0), axis=1).fillna(0.0)


def along_graph(edges: pd.DataFrame, others: pd.DataFrame, left: str) -> np.ndarray:
    """The mean response, and as much of the perturbed gene's own edges as explains the other perturbations best."""
    mean, seen = others.mean(), edges.loc[others.index].to_numpy()
    weight = (seen * (others - mean).to_numpy()).sum() / max((seen**2).sum(), 1e-9)
    return (mean + weight * edges.loc[left]).to_numpy()


def ridge(x: pd.DataFrame, y: pd.DataFrame, new: pd.Series, penalty: float = 10.0) -> np.ndarray:
    center, level = x.mean(), y.mean()
    z = (x - center).to_numpy(dtype=float)
    weight = np.linalg.solve(z @ z.T + penalty * np.eye(len(z)), (y - level).to_numpy())
    return level.to_numpy() + (new - center).to_numpy(dtype=float) @ z.T @ weight


def closeness(guess: np.ndarray, true: np.ndarray) -> dict[str, float]:
    is_flat = np.ptp(guess) == 0 or np.ptp(true) == 0
    return {
        "pearson": 0.0 if is_flat else float(np.corrcoef(guess, true)[0, 1]),
        "mse": float(((guess - true) ** 2).mean()),
    }


def judge_cost(options, model: sccafm.Model) -> tuple[list[str], dict]:
    """Time of a cell at a stated number of genes, with the structure module's pass and without; memory on disk-backed cells."""
    adata = read(options.data, COSTED, COST_CELLS)
    known = list(np.random.default_rng(0).permutation(tokens_of(adata, "mouse", model).index)[:COST_GENES])
    grn = sccafm.infer_grn(adata.copy(), model, genes=known, keep_factors=True, null_cells=0, progress=False)
    rows = []
    for told, given in (("all", None), ("without the structure module's pass (grn=)", grn)):
        begin, cpu = time.perf_counter(), time.process_time()
        genes = known if given is None else None
        found = sccafm.embed(adata.copy(), model, grn=given, genes=genes, progress=False)
        passed, spent = time.perf_counter() - begin, time.process_time() - cpu
        row = {"what": told, "genes": len(found.gene_table), "cells a second": len(found) / passed}
        rows.append(row | {"CPU ms a cell": 1e3 * spent / len(found)})
    told = f"{len(adata)} cells of {COSTED} on {torch.get_num_threads()} threads, reading included."
    with tempfile.TemporaryDirectory() as folder:
        source = options.data / "dev" / f"{COSTED}.h5ad"
        memory = [memory_step(source, cells, known[:MEMORY_GENES], Path(folder)) for cells in (1000, 4000, 16000)]
    memory_told = f"Memory of `embed` on a file that stays on disk ({MEMORY_GENES} genes; the same cells repeated), in a process of its own:"
    return [told, table(pd.DataFrame(rows), 1), memory_told, table(pd.DataFrame(memory), 0)], {
        "rows": rows,
        "memory": memory,
    }


def memory_step(source: Path, cells: int, genes: list[str], folder: Path) -> dict:
    command = [sys.executable, "-c", MEMORY_STEP, str(repeated(source, cells, folder)), " ".join(genes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"cells": cells, "peak MB": float(done.stdout)}


def judge_ablations(options, model: sccafm.Model) -> tuple[list[str], dict]:
    """Every design, every seed: the same start, the same batches, the same cells to judge by."""
    from sccafm.train import TrainEFM
    from sccafm.train.corpus import Corpus
    from sccafm.train.efm import Draw

    learned = CausalEFMConfig()  # without components, which no design changes
    config = TrainEFM(options.corpus, options.runs, genes=256, batch_size=24, views=Views(genes=160), efm=learned)
    files = find_files(find_release(options.model, None, False))
    corpus = Corpus(config, read_reference_data(files), progress=False, for_edges=False)
    judged = prepared(options, model)
    rows = []
    for seed in range(options.seeds):
        draw = Draw(corpus, dataclasses.replace(config, seed=seed))
        for design, changes in DESIGNS.items():
            efm = short_run(model, corpus, draw, changes, seed, options.steps)
            rows.append({"design": design, "seed": seed, **judge_design(dataclasses.replace(model, efm=efm), judged)})
            print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    measures = [c for c in frame if c not in ("design", "seed")]
    mean, spread = (frame.groupby("design", sort=False)[measures].agg(how) for how in ("mean", "std"))
    shown = pd.DataFrame(
        {m: [f"{a:.3f} ± {s:.3f}" for a, s in zip(mean[m], spread[m], strict=True)] for m in measures}, mean.index
    )
    text = [
        f"{options.seeds} seeds, {options.steps} steps each from new weights (mean ± standard deviation over seeds). That is far fewer "
        "steps than the bundled module has: the figures compare designs, and none of them says what the bundled one is worth.",
        table(shown.reset_index()),
        *ablation_verdicts(frame, measures),
    ]
    return text, {"rows": rows}


def ablation_verdicts(frame: pd.DataFrame, measures: list[str]) -> list[str]:
    """Means beside the spread over seeds; and gaps within a seed, whose designs share start and batches."""
    mean, spread = (frame.groupby("design", sort=False)[measures].agg(how) for how in ("mean", "std"))
    wide = frame.pivot(index="seed", columns="design", values=measures)
    told, rows = [], []
    for measure in measures:
        ahead, tied, behind = [], [], []
        for design in mean.index.drop("causal"):
            gap = mean.loc["causal", measure] - mean.loc[design, measure]
            noise = max(spread.loc["causal", measure], spread.loc[design, measure])
            (ahead if gap > noise else behind if gap < -noise else tied).append(design)
            gaps = wide[measure]["causal"] - wide[measure][design]
            rows.append({"measure": measure, "causal beside": design, "gap": f"{gaps.mean():+.3f} ± {gaps.std():.3f}"})
        parts = [
            f"{word} {', '.join(names)}"
            for word, names in (("ahead of", ahead), ("within the spread of", tied), ("behind", behind))
            if names
        ]
        told.append(f"- {measure}: causal is {'; '.join(parts)}.")
    gaps = pd.DataFrame(rows).pivot(index="causal beside", columns="measure", values="gap")[measures].reset_index()
    within = "The same gaps within a seed (mean ± standard deviation over seeds):"
    return ["\n".join(told), within, table(gaps)]


def prepared(options, model: sccafm.Model) -> dict:
    """Cells to judge designs by, with the networks that all designs share."""
    found = {}
    for name in ("pancreas_baron_mouse", "paul15_myeloid", "beeline_mHSC-L_delay", STIMULUS):
        adata = read(options.data, name, options.ablation_cells)
        found[name] = (
            adata,
            sccafm.infer_grn(adata, model, n_top_genes=800, keep_factors=True, null_cells=0, progress=False),
        )
    found["pairs"] = unknown_pairs(options.data, PAIRS["beeline_mHSC-L_delay"], model)
    screen = ad.read_h5ad(options.data / "dev" / f"{SCREEN}.h5ad")
    screen = screen[(screen.obs["perturbation_type"] == "CRISPRa").to_numpy()].copy()
    some = screen.obs.groupby("condition", observed=True).sample(frac=1, random_state=0)
    first = some.groupby("condition", observed=True).head(options.ablation_cells // 10).index
    screen = with_perturbed(screen[screen.obs_names.isin(first)].copy(), model)
    settings = {"n_top_genes": None, "keep_factors": True, "null_cells": 0, "progress": False}
    found[SCREEN] = screen, sccafm.infer_grn(screen, model, **settings)
    return found


def perturbation_found(vectors: np.ndarray, conditions: np.ndarray, control: str = "control") -> float:
    """Mean reciprocal rank of a perturbation among all by the shift of half its cells, beside the shifts of the other halves.

    A shift is the mean vector of cells less that of the same half of the control cells; shifts are compared by their cosine.
    """
    half = np.zeros(len(conditions), int)
    names = sorted(set(conditions) - {control})
    for name in (control, *names):
        of_it = np.flatnonzero(conditions == name)
        half[of_it[::2]] = 1
    shifts = []
    for side in (0, 1):
        mean = {n: vectors[(conditions == n) & (half == side)].mean(0) for n in (control, *names)}
        shifts.append(unit(np.stack([mean[n] - mean[control] for n in names])))
    close = shifts[0] @ shifts[1].T
    place = (close >= close.diagonal()[:, None]).sum(1)
    return float((1 / place).mean())


def short_run(model: sccafm.Model, corpus, draw, changes: dict, seed: int, steps: int):
    from sccafm.train.efm import EFMTrainer, build

    own = {"graph": changes["graph"]} if "graph" in changes else {}
    config = dataclasses.replace(
        draw.config,
        efm=dataclasses.replace(draw.config.efm, **own),
        weights=EFMWeights(**({"gene": changes["gene"]} if "gene" in changes else {})),
        views=dataclasses.replace(draw.config.views, **({"kind": changes["kind"]} if "kind" in changes else {})),
    )
    sfm, efm = build(config, dict(model.files), model.reference_data, corpus)
    trainer = EFMTrainer(config, sfm, efm).train()
    optimizer = trainer.optimizer()
    for number in range(steps):
        torch.manual_seed(seed * 1_000_003 + number)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (number + 1) / 10) * (1 - 0.9 * number / steps)
        terms, _ = trainer(draw.train_batch(number))
        optimizer.zero_grad()
        trainer.total(terms).backward()
        torch.nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
        optimizer.step()
    return efm.eval()


def judge_design(model: sccafm.Model, judged: dict) -> dict[str, float]:
    from sccafm.evaluate.integration import transfer_labels

    accuracy = []
    for name, batch in (("pancreas_baron_mouse", "donor"), ("paul15_myeloid", None)):
        adata, grn = judged[name]
        cells = sccafm.embed(adata, model, grn=grn, anchor=False, progress=False).cells.to_numpy(dtype=float)
        labels = adata.obs["cell_type"].astype(str).to_numpy()
        folds = adata.obs[batch].astype(str).to_numpy() if batch else np.arange(len(labels)) % 5
        predicted, known = transfer_labels(cells, labels, folds)
        accuracy.append(float((predicted == labels)[known].mean()))
    adata, grn = judged["beeline_mHSC-L_delay"]
    vectors = sccafm.embed(adata, model, grn=grn, progress=False).genes
    report = evaluate.genes(vectors, pairs=judged["pairs"], baselines=None, n_bootstrap=2, progress=False)
    task = report.to_frame().set_index("task")["auroc"]
    adata, grn = judged[STIMULUS]
    sccafm.embed(adata, model, grn=grn, anchor=False, progress=False)
    head = tl.fit_head(adata, "condition", groups="cell_type")
    screen, grn = judged[SCREEN]
    shifted = sccafm.embed(screen, model, grn=grn, anchor=False, progress=False).cells.to_numpy(dtype=float)
    return {
        "label transfer": float(np.mean(accuracy)),
        "regulator-target probe": float(task["regulation"]),
        "which regulator sends": float(task.get("direction", np.nan)),
        "stimulus, cell types held out": float(head.scores.iloc[-1]["accuracy"]),
        "which gene was activated": perturbation_found(shifted, screen.obs["condition"].to_numpy(dtype=str)),
    }


PARTS = {
    "cells": ("Cells", judge_cells),
    "species": ("Human and mouse", judge_species),
    "trajectories": ("Trajectories", judge_trajectories),
    "stimulus": ("Stimulus and donors", judge_stimulus),
    "genes": ("Genes", judge_genes),
    "perturbations": ("Perturbations that were not seen", judge_perturbations),
    "ablations": ("Ablations", judge_ablations),
    "cost": ("Cost", judge_cost),
}
NEED_CORPUS = {"ablations", "species"}
HEAD = """# Embeddings beside simple ones

Written by `benchmarks/embedding.py` and `benchmarks/embedding_panel.py`; no figure is typed, and rows of a table come from one run.
The selection panel is made of the training corpus; everything below it of data that no model of ours was trained on, and nothing
was tuned on those, but for the settings of the fine-tuned head (its row says so)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--corpus", type=Path, help="training files, for ablations and species")
    parser.add_argument("--runs", type=Path, help="folder in which the corpus's surveys are kept, for ablations")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/embedding.md")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=[p for p in PARTS if p not in NEED_CORPUS])
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--adapt", default="5 epochs")
    parser.add_argument("--finetune", default="2 epochs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--ablation-cells", type=int, default=200)
    options = parser.parse_args()
    if options.corpus is None and NEED_CORPUS & set(options.parts):
        parser.error(f"{', '.join(sorted(NEED_CORPUS))} need --corpus FOLDER")
    if options.runs is None and "ablations" in options.parts:
        parser.error("ablations need --runs FOLDER")
    warnings.simplefilter("ignore")
    model = sccafm.load(options.model, device="cpu")
    path = options.out.with_suffix(".json")
    for part in options.parts:
        text, figures = PARTS[part][1](options, model)
        kept = json.loads(path.read_text()) if path.exists() else {}  # another part may have been written meanwhile
        kept[part] = {
            "text": text,
            "figures": figures,
            "sfm": model.weights_hash[:12],
            "efm": module_hash(model.efm)[:12],
            "settings": settings(options, part),
        }
        path.write_text(json.dumps(kept, indent=1) + "\n")
        options.out.write_text(page(kept))
        print(part, *text[:3], sep="\n\n", flush=True)


def settings(options, part: str) -> str:
    further = {"cells": f" --adapt '{options.adapt}'", "stimulus": f" --finetune '{options.finetune}'"}
    shared = f"--cells {options.cells}{further.get(part, '')}"
    return (
        f"--seeds {options.seeds} --steps {options.steps} --ablation-cells {options.ablation_cells}"
        if part == "ablations"
        else shared
    )


def page(kept: dict) -> str:
    text = [HEAD]
    titles = {"panel": "The selection panel"} | {part: title for part, (title, _) in PARTS.items()}
    for part, title in titles.items():
        if part in kept:
            command = "embedding_panel.py" if part == "panel" else f"--parts {part}"
            told = f"`{command} {kept[part]['settings']}`, structure module {kept[part]['sfm']}"
            told += (
                "." if part == "ablations" else f", embedding module {kept[part]['efm']}."
            )  # ablations train their own
            text += [f"## {title}", told, *kept[part]["text"]]
    if absent := [title for part, title in titles.items() if part not in kept]:
        text.append(f"Not measured yet: {', '.join(absent)}.")
    return "\n\n".join(text) + "\n"


if __name__ == "__main__":
    main()
