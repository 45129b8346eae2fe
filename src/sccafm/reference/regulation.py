"""What is known of a regulator and a gene before any cell is read: would it bind there, and would the gene respond?

Vectors of the edge model (`sccafm.train.edge_model`) and the popularity of genes, by question, with the logistic maps that turn
them into probabilities. `scripts/train_edge_model.py` writes regulation.safetensors and regulation.json; they belong to genes, not
to the weights of a structure module, so every release can use them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import expit

from sccafm._io import write_json, write_whole

QUESTIONS = ("binding", "response")
POPULARITY = {  # what counts, beside the pair, for each question; columns of `Regulation.popularity`
    "binding": ("chip_breadth", "corpus_breadth"),
    "response": ("variability", "in_degree"),
}
OWN_QUESTION = {"binding": 2.0, "response": 1.0}  # what the question's own products count beside the other's
TABLES = ("source", "target", "popularity", "regulators")


@dataclass(frozen=True, eq=False)
class Regulation:
    """Tables by token of one vocabulary; genes that they do not know have zeros."""

    source: np.ndarray  # 2 V K float32, regulators as senders; 0 for other genes
    target: np.ndarray  # 2 V K float32
    popularity: Mapping[str, np.ndarray]  # name -> V float32, in standard deviations over the genes
    maps: Mapping[str, Mapping]  # question -> intercept, slopes: pair, known, then POPULARITY

    def pair(self, question: str, regulators: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """How well a target fits a regulator, whatever the popularity of either: T G float32, standard deviations.

        The products of the other question are read too: what curated edges and what ChIP-seq teach of a regulator's own targets add up
        (benchmarks/edge_model.md).

        Parameters
        ----------
        question
            "binding" or "response".
        regulators, targets
            T and G tokens.
        """
        weight = np.where(np.array(QUESTIONS) == question, OWN_QUESTION[question], 1.0) / np.hypot(
            OWN_QUESTION[question], 1
        )
        ends = zip(weight.astype(np.float32), self.source, self.target, strict=True)
        return reduce(add, (w * (source[regulators] @ target[targets].T) for w, source, target in ends))

    def features(
        self, question: str, regulators: np.ndarray, targets: np.ndarray, known: np.ndarray
    ) -> list[np.ndarray]:
        """What the probability is read from, in the order of the slopes: T G or 1 G each."""
        popular = [self.popularity[name][targets][None] for name in POPULARITY[question]]
        return [self.pair(question, regulators, targets), known.astype(np.float32), *popular]

    def probability(self, question: str, regulators: np.ndarray, targets: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Calibrated probability that the regulator binds near the gene, or that the gene responds to its loss.

        Parameters
        ----------
        question
            "binding" or "response".
        regulators, targets
            T and G tokens.
        known
            T G bool, edges that the prior network holds.

        Returns
        -------
        T G float32 in (0, 1), under the base rate that the map was fitted to (``maps[question]["base_rate"]``).
        """
        fitted = self.maps[question]
        terms = self.features(question, regulators, targets, known)
        logit = sum(slope * term for slope, term in zip(fitted["slopes"], terms, strict=True))
        return expit(logit + fitted["intercept"]).astype(np.float32)


def write_regulation(folder: Path, regulation: Regulation, gene_ids: list[str], **said: object) -> None:
    """Write regulation.safetensors (float16) and regulation.json into a folder, for `read_regulation`.

    Parameters
    ----------
    gene_ids
        Ensembl id of each token, V; "" for a row without a gene.
    said
        What else the JSON holds, for its readers.
    """
    regulators = np.flatnonzero(np.abs(regulation.source).sum((0, 2))).astype(np.int32)
    names = sorted(regulation.popularity)
    tables = {"source": regulation.source[:, regulators], "target": regulation.target}
    tables["popularity"] = np.stack([regulation.popularity[name] for name in names])
    packed = {name: np.ascontiguousarray(table.astype(np.float16)) for name, table in tables.items()} | {
        "regulators": regulators
    }
    content = {"maps": dict(regulation.maps), "popularity": names, **said, "genes": gene_ids}
    write_whole(folder / "regulation.safetensors", lambda path: save_file(packed, path))
    write_json(folder / "regulation.json", content)


def read_regulation(files: Mapping[str, Path], gene_ids: list[str]) -> Regulation | None:
    """Tables of a release for its vocabulary; None where it has none.

    Parameters
    ----------
    files
        Logical name -> path.
    gene_ids
        Ensembl id of each token, V.

    Raises
    ------
    ValueError
        A file is damaged, or the two do not belong together.
    """
    if not {"regulation", "regulation_tensors"} <= set(files):
        return None
    path = files["regulation_tensors"]
    try:
        tensors, content = load_file(path), json.loads(files["regulation"].read_text())
        genes = content["genes"]
        rows = {gene_id: row for row, gene_id in enumerate(genes) if gene_id}
        senders, target, popularity, regulators = (tensors[name] for name in TABLES)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} and {files['regulation'].name} are no complete tables ({error}); download them again"
        ) from error
    if not (target.shape[1] == popularity.shape[1] == len(genes) and senders.shape[1] == len(regulators)):
        raise ValueError(
            f"{path} has rows for {target.shape[1]:,} genes, {files['regulation'].name} names {len(genes):,}; they come from "
            "two releases: download both again"
        )
    source = np.zeros_like(target)
    source[:, regulators] = senders  # other genes send nothing
    row = np.array([rows.get(gene_id, -1) for gene_id in gene_ids])
    held = (row >= 0).astype(np.float32)
    source, target, popularity = (table.astype(np.float32)[:, row] for table in (source, target, popularity))
    popular = {name: values * held for name, values in zip(content["popularity"], popularity, strict=True)}
    return Regulation(source * held[:, None], target * held[:, None], popular, content["maps"])
