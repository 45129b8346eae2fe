"""Train the edge model, fit its probabilities, and write regulation.safetensors and regulation.json into a folder.

    python scripts/train_edge_model.py --evidence COMPILED --corpus FOLDER --shared SHARED --out models [--fold 0]

COMPILED is what scripts/compile_regulation.py wrote, FOLDER the training cells, SHARED the folder with resources/ and datasets/.
The maps from products and popularity to probabilities are fitted on the selection panel, to a model that saw nothing of the fold:
on half of the regulators of each truth, and judged on the other half. Then the model that ships is trained on everything.
--fold N writes the model that did not see fold N, for measuring on the selection panel.
"""

import argparse
import dataclasses
import json
import sys
import warnings
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

import sccafm
from sccafm.confidence.calibration import calibration_error
from sccafm.evaluate.metrics import auroc
from sccafm.model.weights import read_tensors
from sccafm.reference.regulation import QUESTIONS, Regulation, write_regulation
from sccafm.train.config import TrainSFM
from sccafm.train.corpus import Corpus, cluster_profiles
from sccafm.train.edge_evidence import EdgeEvidence, Split
from sccafm.train.edge_model import EdgeModelConfig, EdgeVectors, train_edge_model

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from selection_panel import HELD_OUT_CELLS, held_out, read_curated, selection_panel  # noqa: E402

WIDTH = 64  # of the vectors of one question that ship, after the seeds are joined
MOST = 200_000  # candidates of a truth that a map is fitted to


def panel_split(evidence: EdgeEvidence, model: sccafm.Model, shared: Path, fold: int) -> Split:
    """What the selection panel judges, taken out of training."""
    symbols = np.full(evidence.size, "", dtype=object)
    symbols[model.vocabulary.tokens] = [model.vocabulary.symbol(token) for token in model.vocabulary.tokens]
    regulators = frozenset(np.flatnonzero(held_out(symbols, fold) & (symbols != "")).tolist())
    table = read_curated(shared, fold)
    hidden = table[table["part"] != "training"]
    token = {symbol: i for i, symbol in enumerate(symbols) if symbol}
    keys = {(token.get(s), token.get(t)) for s, t in hidden[["source", "target"]].to_numpy()}
    edges = np.array([(int(i), int(j)) in keys for i, j in evidence.edges["curated"]])
    return Split(regulators, frozenset(HELD_OUT_CELLS), regulators, edges)


def popularity(evidence: EdgeEvidence, split: Split, corpus: Corpus) -> dict[str, np.ndarray]:
    """How popular genes are, V each, in standard deviations over the genes that the corpus shows."""
    columns, _ = evidence.experiment_columns(split)
    curated = evidence.training_edges(split)["curated"]
    profiles = cluster_profiles(corpus.samples(), evidence.size, 40, 0)
    tables = {
        "chip_breadth": np.sqrt(columns.mean(1)),
        "corpus_breadth": corpus.breadth,
        "variability": np.log1p(np.abs(profiles).max(1)),  # over cell states of the corpus
        "in_degree": np.log1p(np.bincount(curated[:, 1], minlength=evidence.size)),
    }
    seen = corpus.breadth > 0
    return {name: ((x - x[seen].mean()) / x[seen].std() * seen).astype(np.float32) for name, x in tables.items()}


def shipped(
    vectors: EdgeVectors, regulators: np.ndarray, genes: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of `width` whose products are those of all seeds as nearly as can be: centered, standard deviation 1."""
    source, target = np.zeros((2, *vectors.source.shape[1:2], width), np.float32), None
    target = np.zeros_like(source)
    for q in range(len(QUESTIONS)):
        s = vectors.source[q, regulators] - vectors.source[q, regulators].mean(0)
        t = vectors.target[q] - vectors.target[q, genes].mean(0)
        q1, r1 = np.linalg.qr(s)
        q2, r2 = np.linalg.qr(t[genes])
        left, scale, right = np.linalg.svd(r1 @ r2.T)
        size = min(width, len(scale))
        spread = np.sqrt(np.square(scale).sum() / (len(regulators) * len(genes)))
        root = np.sqrt(scale[:size] / spread)
        source[q][regulators, :size] = q1 @ left[:, :size] * root
        target[q][:, :size] = t @ np.linalg.pinv(r2) @ right[:size].T * root
        kept = np.square(scale[:size]).sum() / np.square(scale).sum()
        print(f"{QUESTIONS[q]}: {size} columns keep {kept:.3f} of the variance of the products")
    return source, target


# --- probabilities


def candidates(truth, model: sccafm.Model, regulation: Regulation, question: str, prior: set) -> dict | None:
    """Features and labels of a truth's candidates; None where the vocabulary holds too little of it."""
    lookup = model.vocabulary.token_of_symbol
    known = {name: lookup(name.upper()) for name in {*truth.regulators, *truth.targets}}
    regulators = sorted({known[r] for r in truth.regulators} - {-1})
    genes = np.array(sorted({known[g] for g in truth.targets} - {-1}))
    if len(regulators) < 4:
        return None
    regulators = np.array(regulators)
    row, column = ({token: i for i, token in enumerate(tokens)} for tokens in (regulators, genes))
    y, shown = np.zeros((len(regulators), len(genes)), bool), regulators[:, None] != genes
    for edges, table in ((truth.edges, y), (truth.unclear, None)):
        for source, target in edges[["source", "target"]].to_numpy():
            i, j = row.get(known.get(source)), column.get(known.get(target))
            if i is not None and j is not None:
                if table is None:
                    shown[i, j] = False
                else:
                    table[i, j] = True
    held = np.array([[(i, j) in prior for j in genes] for i in regulators])
    terms = regulation.features(question, regulators, genes, held)
    x = np.stack([np.broadcast_to(term, y.shape)[shown] for term in terms], 1)
    owner = np.repeat(regulators, shown.sum(1))
    half = np.array([crc32(str(r).encode()) % 2 for r in regulators])
    return {"name": truth.name, "x": x, "y": y[shown], "owner": owner, "half": np.repeat(half, shown.sum(1))}


def fit_map(tables: list[dict], parts: list[int]) -> dict:
    """Shared slopes under an intercept for each truth, then one scale and intercept over all truths, which weigh the same."""
    rng = np.random.default_rng(0)
    x, y, truth, weight = [], [], [], []
    for number, table in enumerate(tables):
        rows = np.flatnonzero(np.isin(table["half"], parts))
        rows = rng.permutation(rows)[:MOST]
        x.append(table["x"][rows])
        y.append(table["y"][rows])
        truth.append(np.full(len(rows), number))
        weight.append(np.full(len(rows), 1e4 / len(rows)))
    x, y, truth, weight = (np.concatenate(part) for part in (x, y, truth, weight))
    own = 10.0 * (truth[:, None] == np.arange(len(tables)))
    kept = np.arange(x.shape[1])
    while True:  # a slope is never negative: no sign of regulation speaks against it
        fitted = LogisticRegression(C=1.0, fit_intercept=False, max_iter=500).fit(
            np.hstack([x[:, kept], own]), y, weight
        )
        slopes = fitted.coef_[0, : len(kept)]
        if (slopes >= 0).all():
            break
        kept = kept[slopes >= 0]
    whole = np.zeros(x.shape[1])
    whole[kept] = slopes
    platt = LogisticRegression(C=1e6, max_iter=500).fit((x @ whole)[:, None], y, weight)
    rate = float(np.mean([y[truth == n].mean() for n in range(len(tables))]))
    slopes = whole * max(float(platt.coef_[0, 0]), 0.0)
    intercept = brentq(lambda c: np.average(expit(x @ slopes + c), weights=weight) - rate, -20, 20)
    return {"intercept": float(intercept), "slopes": [float(s) for s in slopes], "base_rate": rate}


def judge_map(fitted: dict, tables: list[dict], part: int) -> dict:
    """Calibration error over all truths, which weigh the same, and AUROC per regulator, on regulators the map did not see."""
    p, y, areas = [], [], {}
    rng = np.random.default_rng(1)
    for table in tables:
        rows = np.flatnonzero(table["half"] == part)
        chance = expit(table["x"] @ np.array(fitted["slopes"]) + fitted["intercept"])
        some = rng.choice(rows, 20_000)
        p.append(chance[some])
        y.append(table["y"][some])
        found = []
        for regulator in np.unique(table["owner"][rows]):
            own = table["owner"] == regulator
            if 10 <= table["y"][own].sum() <= own.sum() - 10:
                found.append(auroc(table["y"][own], chance[own]))
        areas[table["name"]] = round(float(np.mean(found)), 3) if found else None
    error = calibration_error(np.concatenate(p), np.concatenate(y))
    return {"calibration_error": round(error, 4), "auroc": areas}


def fit_maps(model: sccafm.Model, regulation: Regulation, shared: Path, corpus: Path, fold: int) -> tuple[dict, dict]:
    orthologs = pd.read_csv(shared / "resources/homologous.csv.gz")
    edges = model.reference_data.prior_tokens
    curated = read_curated(shared, fold)
    shown = set(map(tuple, curated.loc[curated["part"] == "training", ["source", "target"]].to_numpy()))
    symbol = model.vocabulary.symbol
    prior = {(int(i), int(j)) for i, j in edges[["source", "target"]].to_numpy() if (symbol(i), symbol(j)) in shown}
    maps, report = {}, {}
    for question in QUESTIONS:
        truths = [t.in_human(orthologs) for t in selection_panel(shared, corpus, fold).values() if t.kind == question]
        tables = [t for t in (candidates(t, model, regulation, question, prior) for t in truths) if t is not None]
        judged = [judge_map(fit_map(tables, [1 - part]), tables, part) for part in (0, 1)]
        maps[question] = fit_map(tables, [0, 1])
        report[question] = judged
        print(question, maps[question], judged, sep="\n  ")
    return maps, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("evidence", "corpus", "shared", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--fold", type=int)
    parser.add_argument(
        "--maps", type=Path, help="regulation.json whose fitted maps are used, instead of fitting them again"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = sccafm.load(device="cpu")
    evidence = EdgeEvidence.read(options.evidence)
    function = read_tensors(model.files["vocab_tensors"])["embeddings"].numpy()
    corpus = Corpus(TrainSFM(options.corpus, options.evidence / "survey"), model.reference_data)
    regulators = np.unique(
        [model.vocabulary.token_of_symbol(s) for s in model.reference_data.regulators["human"].index]
    )
    regulators = regulators[regulators >= 0]
    genes = np.flatnonzero(corpus.breadth > 0.1)

    def trained(split: Split) -> Regulation:
        vectors = train_edge_model(evidence, function, corpus.profiles, EdgeModelConfig(), split)
        return Regulation(*shipped(vectors, regulators, genes, WIDTH), popularity(evidence, split, corpus), {})

    report = {}
    if options.maps is None:
        fold = options.fold or 0
        regulation = trained(panel_split(evidence, model, options.shared, fold))
        maps, report = fit_maps(model, regulation, options.shared, options.corpus, fold)
    else:
        found = json.loads(options.maps.read_text())
        maps, report = found["maps"], found["judged"]
    if options.fold is None or options.maps is not None:
        regulation = trained(
            Split() if options.fold is None else panel_split(evidence, model, options.shared, options.fold)
        )
    options.out.mkdir(parents=True, exist_ok=True)
    left_out = json.loads((options.evidence / "evidence.json").read_text())["left_out"]
    regulation = dataclasses.replace(regulation, maps=maps)
    write_regulation(options.out, regulation, model.vocabulary.gene_ids(), judged=report, left_out=left_out)


if __name__ == "__main__":
    main()
