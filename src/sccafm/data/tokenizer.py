"""Cells become tokens: values, gene tokens, conditions, regulator flags. No randomness, no growing vocabulary."""

import numpy as np
import torch

from sccafm.types import Tokens


def tokenize(expression: np.ndarray, gene_ids: np.ndarray, is_tf: np.ndarray, conditions: np.ndarray) -> Tokens:
    """Tokens of cells that share their genes; nothing is padded.

    Parameters
    ----------
    expression
        C G values, as the model reads them (see `preprocess.Matrix`).
    gene_ids
        G tokens of the vocabulary.
    is_tf
        G bool.
    conditions
        C 4 ids.
    """
    cells = len(expression)
    return Tokens(
        gene_ids=torch.from_numpy(gene_ids).expand(cells, -1),
        expression=torch.from_numpy(np.ascontiguousarray(expression, dtype=np.float32)),
        conditions=torch.from_numpy(conditions),
        is_tf=torch.from_numpy(is_tf).expand(cells, -1),
    )
