"""What embeddings are used for: heads that read a label or a number from a cell's vector."""

from sccafm.tl.fitting import fit_head
from sccafm.tl.heads import Head, Tuned, read_head
from sccafm.tl.prediction import predict
from sccafm.tl.tuning import Unfreeze

__all__ = ["Head", "Tuned", "Unfreeze", "fit_head", "predict", "read_head"]
