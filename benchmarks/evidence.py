"""What each term of the training evidence is worth on the selection panel: the formula itself, before any model learns it.

    python benchmarks/evidence.py --corpus FOLDER --data DATASETS [--surveys RUN] [--out benchmarks/evidence.md]

FOLDER holds the training cells, DATASETS networks/*.csv.gz. RUN is the folder of a training run on FOLDER,
whose surveys are used again. Each row takes one term away; the formula sees the average of a set's cells. A model that reads one
cell is not expected to reach what the formula knows: the last row says how far it comes.
"""

import argparse
import dataclasses
import json
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from panel import PanelTruth, sampled
from selection_panel import selection_panel

import sccafm
from sccafm import evaluate
from sccafm.data.input import read
from sccafm.data.options import InputOptions
from sccafm.evaluate.markdown import markdown_table
from sccafm.reference.bundle import ReferenceData
from sccafm.train.config import EvidenceWeights, TrainSFM
from sccafm.train.corpus import Corpus
from sccafm.train.evidence import Evidence, ablations

METRICS = ("swap", "auroc", "auprc_ratio")
TRUTH_CELLS, MODEL_CELLS = 7000, 300  # of each set: for the formula, and for the model
TRUTHS = ("mHSC-E ChIP", "mHSC-GM ChIP")  # of the selection panel


def shown(adata: ad.AnnData, reference_data: ReferenceData, corpus: Corpus) -> tuple[pd.Index, dict[str, torch.Tensor]]:
    """Names of a set's genes, and what the formula asks of them: one row, the average of the cells."""
    model_input = read(adata, reference_data, InputOptions(regulators="all", n_top_genes=None))
    values = model_input.matrix.read(0, adata.n_obs, model_input.columns)
    level = np.log1p(np.expm1(values).mean(0))
    usual = corpus.usual[model_input.species][model_input.gene_ids]
    tokens, regulator_mask = torch.from_numpy(model_input.gene_ids), torch.from_numpy(model_input.is_tf)
    activity = torch.from_numpy((level / (level + usual)).astype(np.float32))[None]
    return pd.Index(model_input.names), {
        "regulators": tokens[regulator_mask],
        "genes": tokens,
        "regulator_mask": regulator_mask,
        "activity": activity,
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """Cells, a truth, and what the model says of them."""

    adata: ad.AnnData
    edges: pd.DataFrame  # source, target
    names: pd.Index
    arguments: dict[str, torch.Tensor]  # of the formula
    own: pd.DataFrame  # log scores, regulators x names

    @property
    def regulators(self) -> pd.Index:
        return self.own.index


def case(truth: PanelTruth, corpus: Corpus, model: sccafm.Model) -> Case:
    adata = truth.read_genes(TRUTH_CELLS, len(truth.targets))
    edges = evaluate.read_edges(truth.edges, adata).edges
    names, arguments = shown(adata, model.reference_data, corpus)
    grn = sccafm.infer_grn(
        sampled(adata, MODEL_CELLS), model, regulators="all", n_top_genes=None, null_cells=0, progress=False
    )
    own = np.log(grn.matrix().reindex(index=names[arguments["regulator_mask"].numpy()], columns=names) + 1e-9)
    return Case(adata, edges, names, arguments, own)


def read_cases(corpus: Corpus, model: sccafm.Model, options: argparse.Namespace) -> dict[str, Case]:
    panel = selection_panel(options.data.parent, options.corpus)
    return {name: case(panel[name], corpus, model) for name in TRUTHS}


def taught(model: sccafm.Model) -> EvidenceWeights:
    """The weights of the model's last training run, which its card tells."""
    card = model.files["model_card"].read_text()
    return EvidenceWeights(**json.loads(card.split("```json\n")[1].split("```")[0])["evidence"])


def judge(model: sccafm.Model, corpus: Corpus, options: argparse.Namespace) -> pd.DataFrame:
    """Rows: the whole formula, then each without one term, then the model; columns: truth and metric."""
    weights = {"everything": EvidenceWeights()} | {
        f"without {name}": left for name, left in ablations(EvidenceWeights()).items()
    }
    if taught(model) != EvidenceWeights():
        weights["everything, as the model was last taught"] = taught(model)
    formulas = {name: Evidence(left, model.reference_data, model.regulation) for name, left in weights.items()}
    columns = {}
    for title, one in read_cases(corpus, model, options).items():
        ends = one.regulators, one.names
        scores = {name: pd.DataFrame(f(**one.arguments)[0].numpy(), *ends) for name, f in formulas.items()}
        first = scores.pop("everything")
        scores["the model"] = one.own
        report = evaluate.network(
            first, one.edges, adata=one.adata[:, one.names], baselines=scores, n_bootstrap=2, name="everything"
        ).to_frame()
        found = report.query("subset == 'all'").set_index("method").loc[["everything", *scores], list(METRICS)]
        for metric in METRICS:
            columns[title, metric] = found[metric]
    return pd.DataFrame(columns)


def table(found: pd.DataFrame) -> str:
    """Markdown: swap test / AUROC per regulator / pooled AUPRC ratio."""
    cells = {title: [found[title, metric] for metric in METRICS] for title in TRUTHS}
    rows = ([m, *(" / ".join(f"{values[m]:.3f}" for values in three) for three in cells.values())] for m in found.index)
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
        corpus = Corpus(TrainSFM(data=options.corpus, run=options.surveys or Path(folder)), model.reference_data)
        try:
            text = table(judge(model, corpus, options))
        finally:
            corpus.close()
    head = [
        "# What each term of the training evidence is worth",
        "Written by `python benchmarks/evidence.py`; no figure is typed. Swap test / AUROC per regulator / pooled AUPRC ratio of the "
        "formula itself (`sccafm.train.evidence`) at its default weights, on truths of the selection panel, which judge no finished "
        f"model. The last row is the bundled model on up to {MODEL_CELLS} cells of each set.",
    ]
    options.out.write_text("\n\n".join([*head, text]) + "\n")
    print(text)


if __name__ == "__main__":
    main()
