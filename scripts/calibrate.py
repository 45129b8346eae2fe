"""Fit everything that is fitted to a trained model's outputs, and write it beside the weights.

    python scripts/calibrate.py --corpus FOLDER --shared SHARED [--model FOLDER]

Writes calibration.json, calibration.safetensors and contexts.json into models/ (or FOLDER/models). FOLDER of --corpus
holds the training cells (h5ad); where obs has a column tissue, tissues are held out in turn to fit how unusual a cell is, else
files are. Confidence is fitted to those truths of the selection panel (SHARED, see benchmarks/selection_panel.py) that trained
no model: ChIP-seq of mHSC-E and mHSC-GM on bone-marrow progenitors, where the corpus holds them, and responses to perturbed regulators
on every third data set.

Each regulator of each truth has an intercept of its own, for shares of true edges differ; the slopes are shared. A pair counts
once, in however many data sets and cells it is seen.
Signs are fitted to TRRUST's signed pairs, each told without itself. Every number is printed as it is fitted.
"""

import argparse
import dataclasses
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from contexts import name_contexts
from safetensors.numpy import save_file
from scipy import sparse
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from tqdm.auto import tqdm

import sccafm
from sccafm._io import write_json
from sccafm.confidence import calibration as fit
from sccafm.confidence import unusual
from sccafm.confidence.permutation import sample_cells
from sccafm.confidence.signs import PRIOR_COUNT, conditional_dependence, stated_signs
from sccafm.data.input import ModelInput, read
from sccafm.data.options import InputOptions
from sccafm.evaluate import auroc
from sccafm.model.layout import FITTED, find_release, flat_name
from sccafm.train.corpus import LEAST_LEVEL

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from selection_panel import CELLS as CELLS_OF_TRUTHS  # noqa: E402
from selection_panel import selection_panel  # noqa: E402

CELLS = 24  # of each data set
SINGLE = 6  # of them also looked at one by one, for the confidence of a cell's edges
SIGN_CELLS = 500  # of each data set, for signs
EVERY = 3  # responses are looked at in every third data set
MOST = 300_000  # candidates of a truth that are fitted to
KNOTS = 201  # quantiles that are stored
PRECISION = 0.8  # of signs, where the model does not abstain
UNSEEN = ("binding", "response")  # kinds of truths; of binding, those that the edge model never saw


@dataclasses.dataclass
class Seen:
    """What one data set of the corpus shows."""

    name: str
    species: str
    tissue: str
    cell_types: np.ndarray
    tokens: np.ndarray  # G, of the genes read
    is_tf: np.ndarray  # G bool
    chance: np.ndarray  # T G float32, mean of binding and response
    scores: np.ndarray | None  # (SINGLE + 1) T G float32: the first cells one by one, and the sum over all
    values: np.ndarray  # C G log-expression
    u: np.ndarray  # T M, mean over cells
    v: np.ndarray  # G M
    context: np.ndarray  # C M
    summary: np.ndarray  # C D
    usual: pd.Series  # mean log-expression of all known genes, by token
    dependence: pd.DataFrame  # TRRUST's pairs: source, target, sign, dependence


def look(path: Path, model: sccafm.Model, with_scores: bool) -> Seen:
    adata = ad.read_h5ad(path)
    every = read(adata, model.reference_data, InputOptions(regulators="all", n_top_genes=None))
    usual = pd.Series(np.log1p(every.survey.mean[every.columns]), every.gene_ids)
    dependence = pair_dependence(every, model)
    adata = adata[sample_cells(adata.obs_names, CELLS)].copy()
    adata.obs["each"] = [f"{i:02d}" for i in range(adata.n_obs)]
    grn = sccafm.infer_grn(adata, model, groupby="each", null_cells=0, progress=False)
    types = adata.obs["cell_type"].astype(str).to_numpy() if "cell_type" in adata.obs else np.repeat("", adata.n_obs)
    scores = grn.sums["scores"]
    kept = np.concatenate([scores[:SINGLE], scores.sum(0, keepdims=True)]).astype(np.float32) if with_scores else None
    return Seen(
        name=path.stem,
        species=every.species,
        tissue=str(adata.obs["tissue"].iloc[0]) if "tissue" in adata.obs else path.stem,
        cell_types=types,
        tokens=np.array([model.vocabulary.token(gene_id) for gene_id in grn.genes["gene_id"]]),
        is_tf=grn.genes["is_tf"].to_numpy(),
        chance=grn.pairs.chance,
        scores=kept,
        values=grn.sums["expression"],  # groups are cells
        u=grn.sums["u"] / len(grn),
        v=grn.sums["v"] / len(grn),
        context=grn.arrays["context"],
        summary=grn.summary,
        usual=usual,
        dependence=dependence,
    )


# --- signs


def pair_dependence(model_input: ModelInput, model: sccafm.Model) -> pd.DataFrame:
    """Dependence of TRRUST's signed pairs over a sample of cells, given the first component of all their genes."""
    pairs = trrust(model)
    used = np.isin(model_input.gene_ids, pairs[["source", "target"]].to_numpy())
    cells = sample_cells(model_input.matrix.obs_names, SIGN_CELLS)
    values = np.concatenate([model_input.matrix.read(c, c + 1, model_input.columns[used]) for c in cells])
    tokens = pd.Index(model_input.gene_ids[used])
    is_tf = np.isin(tokens, pairs["source"])
    rows, columns = tokens[is_tf].get_indexer(pairs["source"]), tokens.get_indexer(pairs["target"])
    found = (rows >= 0) & (columns >= 0)
    return pairs[found].assign(dependence=conditional_dependence(values, is_tf)[rows[found], columns[found]])


def trrust(model: sccafm.Model) -> pd.DataFrame:
    stated = stated_signs(model.reference_data)
    return stated.loc[stated["sign_source"] == "TRRUST", ["source", "target", "sign"]]


def without_itself(pairs: pd.DataFrame, end: str) -> pd.Series:
    """Tendency of a gene, from its other pairs alone."""
    grouped = pairs.groupby(end)["sign"]
    return (grouped.transform("sum") - pairs["sign"]) / (grouped.transform("size") - 1 + PRIOR_COUNT)


def fit_signs(seen: list[Seen], model: sccafm.Model) -> dict:
    pairs = trrust(model)
    pairs = pairs.assign(up=without_itself(pairs, "source"), into=without_itself(pairs, "target"))
    table = pd.concat([s.dependence for s in seen]).merge(pairs, on=["source", "target", "sign"])
    x, y = table[["dependence", "up", "into"]].to_numpy(), table["sign"].to_numpy() > 0
    pair = table.groupby(["source", "target"]).ngroup()
    probability = cross_val_predict(
        LogisticRegression(C=10), x, y, groups=pair, cv=GroupKFold(5), method="predict_proba"
    )[:, 1]
    up, down = least_probability(probability, y), least_probability(1 - probability, ~y)
    judged = (probability >= up) | (1 - probability >= down)
    right = np.where(probability >= up, y, ~y)[judged].mean()
    whole = LogisticRegression(C=10).fit(x, y)
    print(
        f"signs: {len(pairs):,} pairs of TRRUST, {len(table):,} times seen in {len(seen)} data sets, "
        f"{y.mean():.2f} of them activating; hidden pairs: precision {right:.3f} at coverage {judged.mean():.3f}"
    )
    return {
        "intercept": float(whole.intercept_[0]),
        "coefficients": [float(c) for c in whole.coef_[0]],
        "up": up,
        "down": down,
        "precision": PRECISION,
        "held_out": {"precision": float(right), "coverage": float(judged.mean()), "n_pairs": len(pairs)},
    }


def least_probability(probability: np.ndarray, is_right: np.ndarray) -> float:
    """Least probability at and above which PRECISION of the calls are right; above 1 where none is."""
    order = np.argsort(-probability)
    precision = np.cumsum(is_right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero((precision >= PRECISION) & (np.arange(len(order)) >= 100))
    return float(probability[order[enough[-1]]]) if len(enough) else 1.01


# --- confidence


def candidates(seen: Seen, model: sccafm.Model, edges: pd.DataFrame, targets: set[str] | None) -> dict:
    """Features and truth of the regulators of `edges` times the genes read (or `targets`), for a group and for cells.

    Parameters
    ----------
    edges
        Columns source and target, upper-case human symbols.
    targets
        Genes that could have been found; None: all.
    """
    symbols = np.array([model.vocabulary.symbol(token).upper() for token in seen.tokens])
    rows = np.flatnonzero(np.isin(symbols[seen.is_tf], edges["source"].unique()))
    columns = np.arange(len(symbols)) if targets is None else np.flatnonzero(np.isin(symbols, list(targets)))
    row, column = (m.ravel() for m in np.meshgrid(rows, columns, indexing="ij"))
    proper = symbols[seen.is_tf][row] != symbols[column]
    edge = (row * len(symbols) + column)[proper]
    true = set(zip(edges["source"], edges["target"], strict=True))
    ends = zip(symbols[seen.is_tf][row[proper]], symbols[column[proper]], strict=True)
    y = np.array([pair in true for pair in ends], dtype=bool)

    def x(scores: np.ndarray, expression: np.ndarray) -> np.ndarray:
        level = fit.expression_rank(expression)[edge % len(symbols)]
        return fit.features(fit.row_quantiles(scores, edge), seen.chance.ravel()[edge], level)

    regulator = symbols[seen.is_tf][edge // len(symbols)]
    single = [x(scores, values) for scores, values in zip(seen.scores[:-1], seen.values, strict=False)]
    group = x(seen.scores[-1], seen.values.sum(0))
    cells = (np.concatenate(single), np.tile(y, len(single)), np.tile(regulator, len(single)))
    return {"group": (group, y, regulator), "cell": cells}


def read_truths(seen: list[Seen], model: sccafm.Model, shared: Path, corpus: Path) -> dict[str, list[dict]]:
    """Candidates of each truth, over the data sets that it is looked at in; truths without one are absent."""
    orthologs = pd.read_csv(shared / "resources/homologous.csv.gz")
    truths = {}
    for name, truth in selection_panel(shared, corpus).items():
        if truth.kind not in UNSEEN or name.startswith("ENCODE"):
            continue
        here = [s for s in seen if s.scores is not None and (truth.kind == "response" or s.name == truth.cells.stem)]
        human = truth.in_human(orthologs)
        edges = human.edges.apply(lambda column: column.str.upper())
        targets = {str(gene).upper() for gene in human.targets}
        found = [candidates(s, model, edges, targets) for s in here]
        if found := [table for table in found if table["group"][1].any()]:
            truths[f"{truth.kind}: {name}"] = found
        else:
            print(f"confidence: {name} is left out; the corpus shows none of its edges")
    return truths


def fit_confidence(truths: dict[str, list[dict]], model: sccafm.Model) -> dict:
    """Slopes of both levels, and the base rate: the mean of the rates of binding and of response."""
    rates = {question: fitted["base_rate"] for question, fitted in model.regulation.maps.items()}
    base_rate = float(np.mean(list(rates.values())))
    fitted = {}
    for level in ("group", "cell"):
        cells = SINGLE if level == "cell" else 1
        joined = {
            truth: joined_candidates([found[level] for found in many], len(many) * cells)
            for truth, many in truths.items()
        }
        for truth, table in joined.items():
            print(
                f"confidence, {level}: {truth}: {len(table.y):,} candidates of {len(set(table.regulator))} regulators, "
                f"share of true ones {table.y.mean():.4f}; AUROC of the score per regulator {table.auroc():.3f}"
            )
        fitted[level] = fit_slopes(joined, base_rate)
        shown = dict(zip(fit.FEATURES, np.round(fitted[level]["coefficients"], 3).tolist(), strict=True))
        print(f"confidence, {level}: {shown}")
    print(f"confidence: base rate {base_rate:.3f}, the mean of { ({k: round(v, 3) for k, v in rates.items()}) }")
    return fitted | {"base_rate": base_rate, "rates": rates}


@dataclasses.dataclass
class Candidates:
    """Candidates of one truth."""

    x: np.ndarray  # N 4, FEATURES
    y: np.ndarray  # N bool
    regulator: np.ndarray  # N symbols
    weight: float  # of each: a pair counts once

    def auroc(self) -> float:
        """Mean over regulators with ten edges of either kind: does a higher score mean a truer edge at all?"""
        parts = pd.Series(range(len(self.y))).groupby(self.regulator).indices.values()
        judged = [i for i in parts if 10 <= self.y[i].sum() <= len(i) - 10]
        return float(np.mean([auroc(self.y[i], self.x[i, 1]) for i in judged])) if judged else float("nan")


def joined_candidates(many: list[tuple[np.ndarray, np.ndarray, np.ndarray]], repeats: int) -> Candidates:
    """Candidates of all data sets, at most MOST of them, drawn at random; each pair stands there about `repeats` times."""
    x, y, regulator = (np.concatenate(part) for part in zip(*many, strict=True))
    chosen = np.random.default_rng(0).permutation(len(y))[:MOST]
    return Candidates(x[chosen], y[chosen], regulator[chosen], len(y) / repeats / len(chosen))


def fit_slopes(truths: dict[str, Candidates], base_rate: float) -> dict:
    """Logistic regression with an intercept for each regulator of each truth.

    A slope of the score that would be negative is left out, as beta calibration does (Kull et al. 2017): confidence never
    falls with the score. Then all slopes are made smaller together, by what the evidence is worth where regulators have no
    intercept of their own: whoever reads a confidence does not know the regulator's. The one intercept that is kept makes the
    mean probability, over truths, the base rate.
    """
    x = np.concatenate([t.x for t in truths.values()])
    y = np.concatenate([t.y for t in truths.values()])
    weight = np.concatenate([np.full(len(t.y), t.weight) for t in truths.values()])
    owner = pd.factorize(np.concatenate([name + " " + t.regulator.astype(object) for name, t in truths.items()]))[0]
    own = sparse.csr_matrix((np.full(len(y), 10.0), (np.arange(len(y)), owner)))  # 10: hardly shrunk
    kept = list(range(x.shape[1]))
    while True:
        design = sparse.hstack([sparse.csr_matrix(x[:, kept]), own]).tocsr()
        model = LogisticRegression(C=1.0, fit_intercept=False, max_iter=2000).fit(design, y, weight)
        slopes = dict(zip(kept, model.coef_[0], strict=False))
        negative = [k for k in (0, 1) if slopes.get(k, 0) < 0]
        if not negative:
            break
        kept.remove(min(negative, key=slopes.get))
    coefficients = np.array([slopes.get(k, 0.0) for k in range(x.shape[1])])
    of_truth = np.repeat(np.arange(len(truths)), [len(t.y) for t in truths.values()])
    shared = np.column_stack([x @ coefficients, 10.0 * (of_truth[:, None] == np.arange(len(truths)))])
    scale = LogisticRegression(C=1.0, fit_intercept=False, max_iter=2000).fit(shared, y, weight).coef_[0, 0]
    scale = max(scale, 0.0)  # confidence never falls with the score
    print(f"confidence: without intercepts of regulators the evidence is worth {scale:.2f} of what it is with them")
    coefficients = coefficients * scale
    evidence = [t.x @ coefficients for t in truths.values()]

    def excess(intercept: float) -> float:
        return float(np.mean([expit(intercept + e).mean() for e in evidence])) - base_rate

    return {"intercept": brentq(excess, -20, 20), "coefficients": [float(c) for c in coefficients]}


# --- out of distribution


def usual_levels(seen: list[Seen], species: str, size: int) -> np.ndarray:
    """Mean log-expression of each gene over the data sets of a species that measure it, by token."""
    levels = pd.concat([s.usual for s in seen if s.species == species] or [pd.Series(dtype=float)])
    return levels.groupby(level=0).mean().reindex(range(size), fill_value=0.0).clip(lower=LEAST_LEVEL).to_numpy()


def references(seen: list[Seen], size: int) -> dict[str, np.ndarray]:
    """What a cell is compared with, from some data sets."""
    centers = np.stack([s.summary.mean(0) for s in seen])
    within = np.concatenate([s.summary - s.summary.mean(0) for s in seen]).astype(np.float64)
    covariance = within.T @ within / len(within)
    covariance += 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    usual = {f"usual_{k}": usual_levels(seen, k, size).astype(np.float32) for k in ("human", "mouse")}
    return {"centers": centers, "precision": np.linalg.inv(covariance).astype(np.float32)} | usual


def distances(s: Seen, tensors: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    usual = tensors[f"usual_{s.species}"][s.tokens].astype(np.float64)
    far = unusual.distance(s.summary, tensors["centers"], tensors["precision"])
    return far, -unusual.typicality(s.values, usual)


def fit_ood(seen: list[Seen], size: int) -> tuple[dict, dict[str, np.ndarray]]:
    """Quantiles of both distances of cells whose whole tissue was held out, every data set weighing the same."""
    held, tissues = {}, sorted({s.tissue for s in seen})
    if len(tissues) < 2:
        raise ValueError(
            f"the corpus holds cells of {tissues} alone; to hold one out it takes two tissues, or two files"
        )
    for tissue in tissues:
        tensors = references([s for s in seen if s.tissue != tissue], size)
        held |= {s.name: distances(s, tensors) for s in seen if s.tissue == tissue}
    far, strange = (np.concatenate([h[i] for h in held.values()]) for i in (0, 1))
    weight = np.concatenate([np.full(len(h[0]), 1 / len(h[0])) for h in held.values()])
    ood = {"distance": quantiles(far, weight), "strangeness": quantiles(strange, weight)}
    worse = np.maximum(
        unusual.empirical_quantile(far, ood["distance"]), unusual.empirical_quantile(strange, ood["strangeness"])
    )
    print(f"ood: {len(held)} data sets of {len(tissues)} tissues held out in turn, {len(far):,} cells")
    return ood | {"larger": quantiles(worse, weight)}, references(seen, size)


def quantiles(x: np.ndarray, weight: np.ndarray) -> list[float]:
    order = np.argsort(x)
    share = (np.cumsum(weight[order]) - 0.5 * weight[order]) / weight.sum()
    knots = np.interp(np.linspace(0, 1, KNOTS), share, x[order])
    return [float(v) for v in np.maximum.accumulate(knots + 1e-9 * np.arange(KNOTS))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = dataclasses.replace(sccafm.load(options.model, device="cpu"), calibration=None, contexts=None)
    paths = sorted(options.corpus.glob("*.h5ad"))
    if not paths:
        raise FileNotFoundError(f"{options.corpus} holds no .h5ad file")
    with_scores = {path.stem for path in paths[::EVERY]} | {Path(name).stem for name, _ in CELLS_OF_TRUTHS.values()}
    bar = tqdm(paths, desc="looking", unit="file")
    seen = [look(path, model, path.stem in with_scores) for path in bar]
    paths_to = {name: find_release(options.model, None, False) / flat_name(name) for name in FITTED}
    paths_to["contexts"].parent.mkdir(exist_ok=True)
    ood, tensors = fit_ood(seen, model.vocabulary.size)
    content = {
        "weights_hash": model.weights_hash,
        "confidence": fit_confidence(read_truths(seen, model, options.shared, options.corpus), model),
        "signs": fit_signs(seen, model),
        "ood": ood,
    }
    save_file(
        {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in tensors.items()}, paths_to["calibration_tensors"]
    )
    write_json(paths_to["calibration"], content)
    write_json(paths_to["contexts"], {"weights_hash": model.weights_hash} | name_contexts(seen, model))
    print(f"wrote calibration.json, calibration.safetensors and contexts.json into {paths_to['contexts'].parent}")


if __name__ == "__main__":
    main()
