"""What each source and each part of the edge model is worth, on the selection panel.

    python benchmarks/edge_model.py --evidence COMPILED --corpus FOLDER --shared SHARED [--rows NAME ...] [--out benchmarks/edge_model.md]

COMPILED is what scripts/compile_regulation.py wrote, FOLDER the training cells, SHARED the folder with resources/ and datasets/.
Each row is a model of one seed that saw neither the panel's held-out regulators nor its cell lines; its swap test by the products of
the question that a truth asks (both questions added up for curated edges), without the edges that were shown. Rows are added to those
that OUT's JSON already holds. The judged panel is not looked at.
"""

import argparse
import dataclasses
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

import sccafm
from sccafm.evaluate.markdown import markdown_table
from sccafm.model.weights import read_tensors
from sccafm.reference.regulation import OWN_QUESTION, QUESTIONS
from sccafm.train.config import TrainSFM
from sccafm.train.corpus import Corpus
from sccafm.train.edge_evidence import EdgeEvidence
from sccafm.train.edge_model import EdgeModelConfig, train_edge_model

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from selection_panel import curated_training, selection_panel  # noqa: E402
from train_edge_model import panel_split  # noqa: E402

WHOLE = EdgeModelConfig(seeds=(0,))


def without(*sources: str) -> EdgeModelConfig:
    return dataclasses.replace(WHOLE, sources={k: v for k, v in WHOLE.sources.items() if k not in sources})


SETTINGS = {
    "as shipped, one seed": WHOLE,
    "as shipped, three seeds": EdgeModelConfig(),
    "without ENCODE": without("encode"),
    "without ChEA's literature": without("chea"),
    "without any ChIP-seq": without("encode", "chea"),
    "without conserved motifs": without("conserved_motifs"),
    "without curated edges": without("curated"),
    "with regulatory circuits": dataclasses.replace(WHOLE, sources={**WHOLE.sources, "circuits": 0.5}),
    "no vector of a regulator's own": dataclasses.replace(WHOLE, own_dropout=1.0),
    "logistic loss with free levels": dataclasses.replace(WHOLE, loss="levels"),
    "twice as wide": dataclasses.replace(WHOLE, width=64, hidden=256),
}
BLOCKS = {  # features taken away
    "without promoter motifs of targets": ("target.motif", "target.promoter"),
    "without motifs and classes of regulators": ("source.motif", "source.similarity", "source.class"),
}


def judge(vectors, truths: dict, model: sccafm.Model, known: pd.DataFrame, joined: bool = False) -> dict[str, float]:
    """Swap test by the question of each truth's kind, or (`joined`) with the other question's products beside, as releases read them."""
    found = {}
    for name, truth in truths.items():
        lookup = {str(g): model.vocabulary.token_of_symbol(str(g).upper()) for g in {*truth.regulators, *truth.targets}}
        regulators = [r for r in truth.regulators if lookup[r] >= 0]
        targets = [g for g in truth.targets if lookup[g] >= 0]
        ends = (np.array([lookup[x] for x in names]) for names in (regulators, targets))
        rows, columns = ends
        questions = range(len(QUESTIONS)) if truth.kind == "curated" else [QUESTIONS.index(truth.kind)]
        products = [vectors.product(q, rows, columns) for q in (range(len(QUESTIONS)) if joined else questions)]
        own = OWN_QUESTION.get(truth.kind, 1.0)
        weight = [own if name == truth.kind else 1.0 for name in QUESTIONS]
        product = sum(w * p / p.std() for w, p in zip(weight, products, strict=True)) if joined else sum(products)
        scores = pd.DataFrame(product, index=regulators, columns=targets)
        found[name] = truth.swap(scores, known, scale="identity", n_bootstrap=0).value
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("evidence", "corpus", "shared"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rows", nargs="*", choices=[*SETTINGS, *BLOCKS], default=[*SETTINGS, *BLOCKS])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "edge_model.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = sccafm.load(device="cpu")
    evidence = EdgeEvidence.read(options.evidence)
    function = read_tensors(model.files["vocab_tensors"])["embeddings"].numpy()
    profiles = Corpus(TrainSFM(options.corpus, options.evidence / "survey"), model.reference_data).profiles
    split = panel_split(evidence, model, options.shared, 0)
    orthologs = pd.read_csv(options.shared / "resources/homologous.csv.gz")
    truths = {n: t.in_human(orthologs) for n, t in selection_panel(options.shared, options.corpus).items()}
    known = curated_training(options.shared)[["source", "target"]]
    path = options.out.with_suffix(".json")
    rows = json.loads(path.read_text()) if path.is_file() else {}
    for name in options.rows:
        shown = evidence
        if name in BLOCKS:
            blocks = {k: v for k, v in evidence.blocks.items() if k not in BLOCKS[name]}
            shown = dataclasses.replace(evidence, blocks=blocks)
        vectors = train_edge_model(shown, function, profiles, SETTINGS.get(name, WHOLE), split, progress=False)
        rows[name] = judge(vectors, truths, model, known)
        if SETTINGS.get(name) == EdgeModelConfig():
            rows[f"{name}, with the other question"] = judge(vectors, truths, model, known, joined=True)
        print(name, {k: round(v, 3) for k, v in rows[name].items()}, flush=True)
        path.write_text(json.dumps(rows, indent=1) + "\n")
    write(options.out, rows, truths)


def table_of(values: pd.DataFrame) -> str:
    return markdown_table(
        ["model", *values],
        [[name, *(f"{v:.3f}" for v in row)] for name, row in zip(values.index, values.to_numpy(), strict=True)],
    )


def write(path: Path, rows: dict, truths: dict) -> None:
    kinds = {name: truth.kind for name, truth in truths.items()}
    table = pd.DataFrame(rows).T
    means = {
        f"mean, {kind}": table[[n for n in table if kinds[n] == kind]].mean(1) for kind in dict.fromkeys(kinds.values())
    }
    text = [
        "# The edge model: what each part is worth",
        "",
        "Swap test on the selection panel (0.5: two lists; docs/evaluation.md), by `python benchmarks/edge_model.py`. No row saw the "
        "held-out regulators, edges and cell lines; the judged panel was not looked at.",
        "",
        table_of(pd.DataFrame(means)),
        "",
        "## By truth",
        "",
        table_of(table),
        "",
    ]
    path.write_text("\n".join(text))


if __name__ == "__main__":
    main()
