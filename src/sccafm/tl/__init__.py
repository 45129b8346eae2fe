"""What embeddings are used for: heads that read a label or a number from a cell's vector."""

from sccafm.tl.heads import Head, fit_head, predict, read_head

__all__ = ["Head", "fit_head", "predict", "read_head"]
