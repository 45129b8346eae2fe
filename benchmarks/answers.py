"""What `sccafm.tl` answers on cells whose answers are known, beside simple methods, and what each call takes.

    python benchmarks/answers.py --data ../shared/datasets [--arboreto PYTHON] [--work FOLDER] [--only PART ...] [--cells N] [--quick]

Writes the section "Answers" of docs/benchmarks.md and benchmarks/answers.json. Networks are kept in the folder `--work` (a
temporary one by default) and used again. `--cells` takes so many cells of each file, drawn at random. `--arboreto` is a Python that has arboreto (`arboreto_grnboost2.py` says how); without it
that row is left out and said to be.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from lineages import LINEAGES, STIMULATED
from pages import renew_section
from power import power_table
from scipy import sparse

import sccafm
from sccafm import evaluate
from sccafm.evaluate.baselines import dense_columns
from sccafm.evaluate.baselines import expression as expression_of
from sccafm.evaluate.markdown import markdown_table
from sccafm.tl.activity import decoupled, shared_genes
from sccafm.tl.group_statistics import beside_others, group_moments

ROOT = Path(__file__).parents[1]
KANG, DONORS, SCREEN = "kang18_ifnb_2800", "kang18_8684x2511", "perturbench_devel_norman_mcfaline"
N_TARGETS = 100  # of each regulator, in networks that are scored by ulm
TREE_CELLS = 600  # that GRNBoost2 learns from
DONOR_CELLS = 60  # at most, of each donor and cell type
QUICK = " A quick run, of at most 400 cells and one simulated study."
PARTS = ("stimulus", "masters", "screen", "donors", "power", "time")


class Study:
    """A file, its networks, and scores of every method: cells x regulators."""

    def __init__(self, data: Path, name: str, model: sccafm.Model, work: Path, quick: bool, cells: int | None):
        self.name, self.work, self.model = name, work, model
        adata = ad.read_h5ad(data / "dev" / f"{name}.h5ad")
        if name == DONORS:
            some = adata.obs.groupby(["donor", "cell_type"], observed=True).sample(frac=1, random_state=0)
            first = some.groupby(["donor", "cell_type"], observed=True).head(DONOR_CELLS).index
            adata = adata[adata.obs_names.isin(first)].copy()
        most = 400 if quick else cells or adata.n_obs
        if adata.n_obs > most:
            rng = np.random.default_rng(0)
            adata = adata[np.sort(rng.choice(adata.n_obs, most, replace=False))].copy()
        self.adata = adata
        folder = work / f"{name}_{adata.n_obs}_{model.weights_hash[:8]}"
        try:
            self.grn = sccafm.read_grn(folder)
        except (FileNotFoundError, ValueError):  # absent, or unfinished
            settings = {"groupby": "cell_type", "keep_factors": True, "null_cells": 0, "progress": False}
            self.grn = sccafm.infer_grn(adata, model, store=folder, n_top_genes=300 if quick else 2000, **settings)

    def values(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Log expression of the networks' genes, and of their regulators: cells x genes."""
        x, names = expression_of(self.adata)
        places = shared_genes(self.adata, self.grn, names)
        whole = pd.DataFrame(dense_columns(x, places.to_numpy()), self.adata.obs_names, places.index)
        return whole, whole.reindex(columns=self.grn.regulators, fill_value=0.0)

    def scores(self, arboreto: str | None) -> dict[str, pd.DataFrame]:
        """Of each method; those of a network by ulm on its targets."""
        whole, regulators = self.values()
        copied = self.adata.copy()
        found = {}
        for method in ("strength", "ulm"):
            sccafm.tl.regulator_activity(copied, self.grn, method)
            found[f"sccafm, {method}"] = copied.obsm["score_sccafm"].reindex(columns=self.grn.regulators)
        found["expression of the regulator"] = regulators
        found["|Pearson| + ulm"] = self.by_ulm(whole, evaluate.pearson(whole, list(self.grn.regulators)))
        prior = self.model.reference_data.prior
        signs = prior.assign(weight=prior["sign"].replace(0, 1) if "sign" in prior else 1.0)
        signs = self.respelled(signs)
        found["CollecTRI + ulm"] = self.by_ulm(whole, signs)
        if arboreto:
            found["GRNBoost2 + ulm"] = self.by_ulm(whole, self.trees(whole, arboreto))
        return found

    def respelled(self, table: pd.DataFrame) -> pd.DataFrame:
        """The prior's human symbols as this study's genes; mouse genes by their symbol in upper case."""
        names = pd.Series(self.grn.targets, index=self.grn.genes["symbol"].str.upper()).groupby(level=0).first()
        ends = {"source": table["Gene1"].str.upper().map(names), "target": table["Gene2"].str.upper().map(names)}
        return pd.DataFrame(ends | {"weight": table["weight"]}).dropna().drop_duplicates(["source", "target"])

    def trees(self, whole: pd.DataFrame, arboreto: str) -> pd.DataFrame:
        out = self.work / f"{self.name}_{len(whole)}_grnboost2.csv"
        if not out.exists():
            chosen = np.random.default_rng(0).choice(len(whole), min(TREE_CELLS, len(whole)), replace=False)
            genes = {"genes": np.array(whole.columns, str), "regulators": np.array(self.grn.regulators, str)}
            source = out.with_suffix(".npz")
            np.savez(source, values=whole.to_numpy()[np.sort(chosen)], **genes)
            subprocess.run(
                [arboreto, str(ROOT / "benchmarks/arboreto_grnboost2.py"), str(source), str(out)], check=True
            )
        return pd.read_csv(out)

    def by_ulm(self, whole: pd.DataFrame, network: pd.DataFrame) -> pd.DataFrame:
        """decoupler's ulm with the strongest targets of each regulator; NaN for a regulator with fewer than five."""
        if "source" not in network:
            network = network.rename_axis("source").reset_index().melt("source", var_name="target", value_name="weight")
        network = network[(network["source"] != network["target"]) & (network["weight"] != 0)]
        order = network["weight"].abs().sort_values(ascending=False, kind="stable").index
        network = network.loc[order].groupby("source", sort=False).head(N_TARGETS)
        network = network[network["target"].isin(whole.columns)]
        genes = pd.Series(np.arange(whole.shape[1]), index=whole.columns)
        scores, _ = decoupled(whole.to_numpy(), whole.index, genes, network, "ulm", 5)
        return scores.reindex(columns=self.grn.regulators)


def ranks(values: pd.Series) -> pd.Series:
    """1 for the largest; regulators without a score share the last places."""
    return values.fillna(-np.inf).rank(ascending=False, method="average")


def stimulus(study: Study, arboreto: str | None) -> tuple[list[str], dict]:
    """Which regulators interferon raises: standardised difference of scores, mean over cell types."""
    condition = study.adata.obs["condition"].astype(str).to_numpy()
    kinds = study.adata.obs["cell_type"].astype(str).to_numpy()
    rows, firsts = [], {}
    own = stimulated(study)
    methods = {"sccafm, compare": own["auroc"], "sccafm, compare, by effect": own["effect"]}
    for name, scores in study.scores(arboreto).items():
        if name != "sccafm, strength":  # what compare reads
            methods[name] = standard_difference(scores, condition, kinds)
    for name, effect in methods.items():
        place = ranks(effect)
        rows.append([name, *(f"{place.get(gene, np.nan):.0f}" for gene in STIMULATED), f"{effect.notna().sum()}"])
        firsts[name] = place.sort_values(kind="stable").index[:10].tolist()
    told = [
        "### What interferon changes",
        f"{KANG}: {len(study.adata):,} cells with and without interferon beta. Its copy names no donors, so nothing is tested: regulators "
        "are ranked by the mean over cell types of auroc, as `tl.compare` orders them, of its effect (a ratio of means), or, for the other "
        "rows, of the difference of scores in standard deviations. The order by auroc was chosen after these cells had been seen by effect; "
        f"both stand here. Place of {', '.join(STIMULATED)}, and how many regulators have a score:",
        markdown_table(["method", *STIMULATED, "regulators"], rows),
        "The first ten of each: " + "; ".join(f"**{name}** {', '.join(genes)}" for name, genes in firsts.items()) + ".",
    ]
    return told, {"places": rows, "first": firsts}


def stimulated(study: Study) -> pd.DataFrame:
    """Means over cell types of what `tl.compare` says of each regulator: effect, and auroc less one half."""
    found = sccafm.tl.compare(study.grn, ("STIM", "CTRL"), condition_key="condition", groupby="cell_type", n_edges=0)
    sizes = found.design.set_index("group")[["test_cells", "reference_cells"]].min(axis=1)
    table = found.regulators[found.regulators["group"].astype(str).isin(sizes.index[sizes >= 10])]
    return table.assign(auroc=table["auroc"] - 0.5).groupby("regulator")[["auroc", "effect"]].mean()


def standard_difference(scores: pd.DataFrame, condition: np.ndarray, kinds: np.ndarray) -> pd.Series:
    found = []
    for kind in np.unique(kinds):
        sides = [scores[(kinds == kind) & (condition == side)] for side in ("STIM", "CTRL")]
        if min(map(len, sides)) >= 10:
            spread = np.sqrt((sides[0].var() + sides[1].var()) / 2)
            found.append((sides[0].mean() - sides[1].mean()) / spread.replace(0, np.nan))
    return pd.concat(found, axis=1).mean(axis=1)


def masters(studies: dict[str, Study], arboreto: str | None) -> tuple[list[str], dict]:
    """Place of each lineage's masters among all regulators by specificity."""
    rows, places = [], {}
    for name, lineages in LINEAGES.items():
        study = studies[name]
        kinds = study.adata.obs["cell_type"].astype(str)
        for method, scores in study.scores(arboreto if name == KANG else None).items():
            scored = scores.loc[:, scores.notna().all()]
            for lineage, (groups, known) in lineages.items():
                joined = kinds.where(~kinds.isin(groups), lineage)
                sizes = joined.value_counts()
                labels = pd.Categorical(joined.where(joined.isin(sizes.index[sizes >= 3])))
                if lineage not in labels.categories:  # a quick run has too few cells of it
                    continue
                effect, *_ = beside_others(*group_moments(scored.to_numpy(), labels.codes, len(labels.categories)))
                specific = pd.Series(effect[labels.categories.get_loc(lineage)], scored.columns)
                place = ranks(specific.reindex(study.grn.regulators))
                there = [gene for gene in known if gene in place.index]
                if there:
                    best = place[there].min()
                    share = (place[there] / len(place)).mean()
                    places.setdefault(method, {})[lineage] = (best, share, len(place), len(there))
    lineages = [lineage for own in LINEAGES.values() for lineage in own]
    for method, found in places.items():
        shares = [found[lineage][1] for lineage in lineages if lineage in found]
        best = [found[lineage][0] for lineage in lineages if lineage in found]
        row = [method, f"{np.mean(shares):.3f}", f"{np.mean([b <= 5 for b in best]):.0%}", len(shares)]
        rows.append([*row, *(f"{found[x][0]:.0f} / {found[x][2]}" if x in found else "" for x in lineages)])
    trees = (
        f"GRNBoost2 learned from {TREE_CELLS} of Kang's cells and was run there alone."
        if arboreto
        else "GRNBoost2 was not run."
    )
    cells = "Cells: " + ", ".join(f"{name} {len(study.adata):,}" for name, study in studies.items()) + "."
    empty = "Empty: none of its masters was read, because fewer than 2 % of the cells show them."
    told = [
        "### Masters of fourteen lineages",
        "Regulators ranked by specificity, as `tl.rank_regulators` computes it (for other rows of their own scores). `mean place` is the place of the "
        "known masters among all regulators, as a share, mean over lineages: 0.5 is chance. Then how often a master is among the first five, and the "
        "place of the best master of each lineage. `benchmarks/lineages.py` lists the masters. A regulator's own expression tells masters well because "
        "that is how many of them were found. "
        f"{trees} {empty} {cells}",
        markdown_table(["method", "mean place", "in first 5", "lineages", *lineages], rows),
    ]
    return told, {m: {x: list(map(float, v)) for x, v in f.items()} for m, f in places.items()}


def screen(data: Path, model: sccafm.Model, quick: bool) -> tuple[list[str], dict]:
    """The perturbed regulator by activity, and the knock-out beside the mean of other perturbations."""
    adata = with_perturbed(ad.read_h5ad(data / "dev" / f"{SCREEN}.h5ad"))
    listed = {gene for table in model.reference_data.regulators.values() for gene in table.index}
    perturbed = {gene for label in adata.obs["condition"].astype(str) for gene in label.split("+")}
    known = [g for g in adata.var_names if model.reference_data.genes.find(g, "human")[1] != "lost"]
    names = [g for g in known if g in listed or g in perturbed]
    settings = {"regulators": names, "n_top_genes": None, "null_cells": 0, "progress": False}
    rows, kept = [], {}
    told = ["### A screen"]
    for kind, direction in (("CRISPRa", "gain"), ("CRISPRi", "loss")):
        own = adata[
            (adata.obs["perturbation_type"] == kind).to_numpy() | (adata.obs["condition"] == "control").to_numpy()
        ].copy()
        lines = own.obs.loc[own.obs["condition"] != "control", "cell_type"].unique()
        own = own[own.obs["cell_type"].isin(lines)].copy()
        control = own[(own.obs["condition"] == "control").to_numpy()].copy()
        if quick:
            control = control[:40].copy()
        grn = sccafm.infer_grn(control, model, **settings)
        rows += found_by_activity(own, grn, model, kind, direction, listed)
        names = [g for c in own.obs["condition"].astype(str).unique() for g in c.split("+") if g in grn.regulators]
        if not names:
            told.append(f"{kind}: none of the perturbed genes is a regulator of the networks.")
            continue
        keys = {"perturbation_key": "condition", "control": "control", "strata_key": "cell_type"}
        try:
            found = sccafm.tl.knockout(control, names[0], grn, direction=direction, perturbations=own, **keys)
        except ValueError as error:
            told.append(f"Knock-out, {kind}: {error}.")
            continue
        kept[kind] = found.judged.table.to_dict("records")
        told.append(f"Knock-out, {kind}. {found.verdict}")
    frame = pd.DataFrame(rows)
    head = [
        f"{SCREEN}: 500 genes that do not hold most of the perturbed ones, which the networks read as genes without a count; every perturbed gene was asked for as a regulator. Activity of the perturbed "
        "regulator (`tl.regulator_activity`, ulm), perturbed less control cells of its line, ranked among all regulators in the direction of the "
        "perturbation: mean place as a share, 0.5 is chance. Perturbed genes that the lists of regulators do not hold are not asked for here; a method "
        "without a row has five targets among the 500 genes for none."
    ]
    if len(frame):
        frame = frame.assign(method=frame["method"] + ", " + frame["kind"])
        by = frame.groupby("method")["place"].agg(["mean", "sem", "count"]).reset_index()
        head.append(
            markdown_table(
                ["method", "mean place", "standard error", "perturbed regulators"],
                [[r.method, f"{r.mean:.3f}", f"{r.sem:.3f}", r.count] for r in by.itertuples(index=False)],
            )
        )
    return [told[0], *head, *told[1:]], {"activity": rows, "knockout": kept}


def with_perturbed(adata: ad.AnnData) -> ad.AnnData:
    """Perturbed genes that the file does not hold are added as genes without a count."""
    genes = {gene for label in adata.obs["condition"].astype(str) for gene in label.split("+")} - {"control"}
    missing = sorted(genes - set(adata.var_names))
    silent = ad.AnnData(sparse.csr_matrix((adata.n_obs, len(missing)), dtype=np.float32), adata.obs[[]])
    silent.var_names = missing
    whole = ad.concat([adata, silent], axis=1)
    whole.obs = adata.obs
    return whole


def found_by_activity(adata: ad.AnnData, grn: sccafm.GRN, model, kind: str, direction: str, listed: set) -> list[dict]:
    """Place, 0 to 1, of each perturbed regulator of the lists among all, by the change of its activity."""
    scored = adata.copy()
    sccafm.tl.regulator_activity(scored, grn, "ulm", min_targets=5)
    scores = {"sccafm, ulm": scored.obsm["score_sccafm"]}
    prior = model.reference_data.prior
    net = pd.DataFrame(
        {"source": prior["Gene1"], "target": prior["Gene2"], "weight": prior["sign"].replace(0, 1).astype(float)}
    )
    net = net[net["target"].isin(adata.var_names)].drop_duplicates(["source", "target"])
    x, names = expression_of(adata)
    genes = pd.Series(np.arange(len(names)), index=pd.Index(names))
    scores["CollecTRI, ulm"] = decoupled(x, adata.obs_names, genes, net, "ulm", 5)[0]
    rows, labels = [], adata.obs["condition"].astype(str)
    for label in sorted(set(labels) - {"control"}):
        line = adata.obs.loc[labels == label, "cell_type"]
        for method, table in scores.items():
            change = sum(
                (table[((labels == label) & (adata.obs["cell_type"] == c)).to_numpy()].mean()
                 - table[((labels == "control") & (adata.obs["cell_type"] == c)).to_numpy()].mean()) * share
                for c, share in line.value_counts(normalize=True).items() if share > 0
            )  # fmt: skip
            change = change if direction == "gain" else -change
            place = ranks(change) / len(change)
            for gene in label.split("+"):
                if gene in listed and gene in place.index and np.isfinite(change[gene]):
                    rows.append(
                        {"method": method, "kind": kind, "perturbation": label, "regulator": gene, "place": place[gene]}
                    )
    return rows


def donors(study: Study) -> tuple[list[str], dict]:
    """Random halves of real donors differ nowhere."""
    names = sorted(study.adata.obs["donor"].astype(str).unique())
    rows = []
    for test in ("moderated", "permutation"):
        shares = []
        for half in itertools.combinations(names, len(names) // 2):
            side = study.adata.obs["donor"].astype(str).isin(half).map({True: "one", False: "other"})
            keys = {"condition_key": side, "sample_key": "donor", "groupby": "cell_type", "test": test}
            found = sccafm.tl.compare(study.grn, ("one", "other"), **keys)
            tables = (found.regulators, found.contexts, found.edges)
            shares.append([float((t["qvalue"] <= 0.05).mean()) for t in tables])
        mean, most = np.mean(shares, axis=0), np.max(shares, axis=0)
        rows.append([test, len(shares), *(f"{m:.2%} ({w:.2%})" for m, w in zip(mean, most, strict=True))])
    told = [
        "### Donors that differ in nothing",
        f"{DONORS}: {len(names)} donors, one condition, {len(study.adata):,} cells (up to {DONOR_CELLS} of each donor and type) of {study.adata.obs['cell_type'].nunique()} types. Every split of "
        "the donors into two sides is compared within cell types; nothing should differ. Share called at an FDR of 5 %, mean over splits (most in "
        "one split):",
        markdown_table(["test", "splits", "regulators", "contexts", "edges"], rows),
    ]
    return told, {"rows": rows}


def times(study: Study, arboreto: str | None) -> tuple[list[str], dict]:
    """Seconds of each call on one study."""
    grn, adata = study.grn, study.adata.copy()
    rng = np.random.default_rng(0)
    donor = pd.Series(rng.integers(0, 8, len(grn)).astype(str), grn.cells, name="donor")
    time_of = pd.Series(rng.random(len(grn)), grn.cells, name="pseudotime")
    calls: dict[str, Callable] = {
        "rank_regulators": lambda: sccafm.tl.rank_regulators(grn, "cell_type"),
        "compare, no edges": lambda: sccafm.tl.compare(grn, ("STIM", "CTRL"), sample_key=donor, n_edges=0),
        "compare, with edges": lambda: sccafm.tl.compare(grn, ("STIM", "CTRL"), sample_key=donor),
        "regroup": lambda: grn.regroup("condition"),
        "regulator_activity, strength": lambda: sccafm.tl.regulator_activity(adata, grn, "strength"),
        "regulator_activity, ulm": lambda: sccafm.tl.regulator_activity(adata, grn, "ulm"),
        "trajectory, no edges": lambda: sccafm.tl.trajectory(grn, time_of, n_edges=0),
        "trajectory, with edges": lambda: sccafm.tl.trajectory(grn, time_of),
        "knockout": lambda: sccafm.tl.knockout(adata, grn.regulators[0], grn),
    }
    rows = []
    for name, call in calls.items():
        start = time.perf_counter()
        call()
        rows.append([name, f"{time.perf_counter() - start:.1f}"])
    told = [
        "### What a call takes",
        f"{KANG}: {len(grn):,} cells, {len(grn.regulators)} regulators, {len(grn.targets):,} genes, factors kept on disk; one thread, on a machine "
        "that does other work as well.",
        markdown_table(["call", "seconds"], rows),
    ]
    return told, {"rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--arboreto")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks.md")
    parser.add_argument("--figures", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--cells", type=int)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = sccafm.load(options.model, device="cpu")
    with tempfile.TemporaryDirectory() as temporary:
        parts = measured(options, model, options.work or Path(temporary))
    kept = json.loads(options.figures.read_text()) if options.figures.exists() else {}
    kept = {name: parts.get(name) or kept[name] for name in PARTS if name in parts or name in kept}
    options.figures.write_text(json.dumps(kept, indent=1) + "\n")
    renew_section(
        options.out, "Answers", "\n\n".join([head(), *(line for part in kept.values() for line in part["text"])])
    )
    print("\n\n".join(line for part in parts.values() for line in part["text"]))


def head() -> str:
    return (
        "What `sccafm.tl` ([answers.md](answers.md)) says of cells whose answers are known, by `python benchmarks/answers.py`. `+ ulm`: activity "
        f"from the {N_TARGETS} strongest targets of each regulator in that network, by decoupler. CollecTRI is curated, and the model's prior. "
        "Each part names the weights that it was measured with."
    )


def measured(options: argparse.Namespace, model: sccafm.Model, work: Path) -> dict[str, dict]:
    work.mkdir(parents=True, exist_ok=True)
    studies: dict[str, Study] = {}

    def study(name: str) -> Study:
        if name not in studies:
            studies[name] = Study(options.data, name, model, work, options.quick, options.cells)
        return studies[name]

    run = {
        "stimulus": lambda: stimulus(study(KANG), options.arboreto),
        "masters": lambda: masters({name: study(name) for name in LINEAGES}, options.arboreto),
        "screen": lambda: screen(options.data, model, options.quick),
        "donors": lambda: donors(study(DONORS)),
        "power": lambda: power_table(model, options.quick),
        "time": lambda: times(study(KANG), options.arboreto),
    }
    found = {}
    for name in options.only:
        text, figures = run[name]()
        weights = f"Weights {model.weights_hash[:12]}." + (QUICK if options.quick else "")
        found[name] = {"text": [text[0], *text[1:], weights], "figures": figures, "weights": model.weights_hash[:12]}
        print(f"{name} done", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
