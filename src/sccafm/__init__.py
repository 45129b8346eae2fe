"""sccafm: who regulates whom, in this very cell."""

from sccafm import datasets, pl, pp, tl
from sccafm.adaptation import Adapt
from sccafm.embedding import Embedding, embed, read_embedding
from sccafm.grn import GRN, read_grn
from sccafm.inference import infer_grn
from sccafm.pretrained import Model, load
from sccafm.simulation import simulate

__all__ = [
    "GRN",
    "Adapt",
    "Embedding",
    "Model",
    "datasets",
    "embed",
    "infer_grn",
    "load",
    "pl",
    "pp",
    "read_embedding",
    "read_grn",
    "simulate",
    "tl",
]
