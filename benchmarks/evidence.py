"""What each term of the training evidence is worth on held-out truths: the formula itself, before any model learns it.

    python benchmarks/evidence.py --corpus FOLDER --data DATASETS [--surveys RUN] [--out benchmarks/evidence.md]

FOLDER holds the training cells, DATASETS dev/*.h5ad and networks/*.csv.gz. RUN is the folder of a training run on FOLDER,
whose surveys are used again. Each row takes one term away; the formula sees the average of a set's cells. A model that reads one
cell is not expected to reach what the formula knows: the last rows say where it does not.
"""

import argparse
import copy
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from accuracy import SETS, sampled

import sccafm
from sccafm import evaluate
from sccafm.evaluate.markdown import markdown_table
from sccafm.lexicon import Lexicon
from sccafm.reading import read
from sccafm.train.config import EvidenceWeights, TrainSFM
from sccafm.train.corpus import Corpus
from sccafm.train.evidence import Evidence, ablations

METRICS = ("auroc", "auprc_ratio")
MODEL_CELLS = 300  # of each set


def shown(adata: ad.AnnData, lexicon: Lexicon, corpus: Corpus) -> tuple[pd.Index, dict[str, torch.Tensor]]:
    """Names of a set's genes, and what the formula asks of them: one row, the average of the cells."""
    reading = read(adata, lexicon, regulators="all", n_top_genes=None)
    values = reading.matrix.read(0, adata.n_obs, reading.columns)
    level = np.log1p(np.expm1(values).mean(0))
    usual = corpus.usual[reading.species][reading.gene_ids]
    tokens, acts = torch.from_numpy(reading.gene_ids), torch.from_numpy(reading.is_tf)
    detection, activity = (values > 0).mean(0), level / (level + usual)
    detection, activity = (torch.from_numpy(x.astype(np.float32))[None] for x in (detection, activity))
    arguments = {"regulators": tokens[acts], "genes": tokens, "acts": acts}
    return pd.Index(reading.names), arguments | {"detection": detection, "activity": activity}


def exchanged(formula: pd.DataFrame, model: sccafm.Model, adata: ad.AnnData) -> dict[str, pd.DataFrame]:
    """The model's network, and the two networks that it and the formula make together.

    One ranks the targets of each regulator, the other says how strong the regulators are: the mean of their log scores.
    """
    adata = sampled(adata, MODEL_CELLS)
    grn = sccafm.infer_grn(adata, model, regulators="all", n_top_genes=None, null_cells=0, progress=False)
    own = np.log(grn.matrix().reindex(index=formula.index, columns=formula.columns) + 1e-9)
    level = {"formula": formula.mean(axis=1), "model": own.mean(axis=1)}
    within = {"formula": formula.sub(level["formula"], axis=0), "model": own.sub(level["model"], axis=0)}
    return {
        "the model": own,
        "targets by the model, regulators by the formula": within["model"].add(level["formula"], axis=0),
        "targets by the formula, regulators by the model": within["formula"].add(level["model"], axis=0),
    }


def judge(corpus: Corpus, model: sccafm.Model, data: Path) -> pd.DataFrame:
    """Rows: the whole formula, then each without one term, then the model beside it; columns: truth and metric."""
    lexicon = model.lexicon
    weights = {"everything": EvidenceWeights()} | {
        f"without {name}": left for name, left in ablations(EvidenceWeights()).items()
    }
    formulas = {}
    for name, left in weights.items():
        if name != "everything" and left.affinity:  # affinity, which takes its time to fit, is the same
            formulas[name] = copy.copy(formulas["everything"])
            formulas[name].weights = left
        else:
            formulas[name] = Evidence(left, lexicon, corpus.breadth, corpus.profiles, seed=0)
    columns = {}
    for title, (cells, truth) in SETS.items():
        adata = ad.read_h5ad(data / "dev" / f"{cells}.h5ad")
        names, arguments = shown(adata, lexicon, corpus)
        edges = pd.read_csv(data / "networks" / f"{truth}.csv.gz").iloc[:, :2].set_axis(["source", "target"], axis=1)
        regulators = names[arguments["acts"].numpy()]
        scores = {name: pd.DataFrame(f(**arguments)[0].numpy(), regulators, names) for name, f in formulas.items()}
        first = scores.pop("everything")
        scores |= exchanged(first, model, adata)
        report = evaluate.network(
            first, edges, adata=adata[:, names], baselines=scores, n_bootstrap=2, name="everything"
        ).to_frame()
        found = report.query("subset == 'all'").set_index("method").loc[["everything", *scores], list(METRICS)]
        for metric in METRICS:
            columns[title, metric] = found[metric]
    return pd.DataFrame(columns)


def table(found: pd.DataFrame) -> str:
    """Markdown: AUROC per regulator / pooled AUPRC ratio."""
    mean = {metric: found.xs(metric, axis=1, level=1).mean(axis=1) for metric in METRICS}
    cells = {t: (found[t, "auroc"], found[t, "auprc_ratio"]) for t in SETS} | {"mean": tuple(mean.values())}
    rows = ([m, *(f"{auroc[m]:.3f} / {ratio[m]:.2f}" for auroc, ratio in cells.values())] for m in found.index)
    return markdown_table(["evidence", *cells], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--surveys", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = sccafm.load(device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(TrainSFM(data=options.corpus, run=options.surveys or Path(folder)), model.lexicon)
        try:
            text = table(judge(corpus, model, options.data))
        finally:
            corpus.close()
    head = [
        "# What each term of the training evidence is worth",
        "Written by `python benchmarks/evidence.py`; no figure is typed. AUROC per regulator / pooled AUPRC ratio of the "
        "formula itself (`sccafm.train.evidence`) at its default weights, on the truths of "
        "[docs/benchmarks.md](../docs/benchmarks.md). The last rows are the bundled model on up to "
        f"{MODEL_CELLS} cells of each set, and what comes of one ranking each regulator's targets and the other saying how strong the "
        "regulators are.",
    ]
    options.out.write_text("\n\n".join([*head, text]) + "\n")
    print(text)


if __name__ == "__main__":
    main()
