"""sccafm: who regulates whom, in this very cell."""

from sccafm import pp
from sccafm.grn import GRN, read_grn
from sccafm.inference import infer_grn
from sccafm.pretrained import Model, load
from sccafm.simulation import simulate

__all__ = ["GRN", "Model", "infer_grn", "load", "pp", "read_grn", "simulate"]
