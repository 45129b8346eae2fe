"""Harmony (Korsunsky et al., Nature Methods 2019) on anchored vectors, by harmonypy."""

import importlib.util

import numpy as np
import pandas as pd

from sccafm.embedding.anchor import unit


def check_harmony(batch_key: str | None, anchor: bool) -> None:
    """What harmony=True needs: batches, anchored vectors and the package."""
    if batch_key is None or not anchor:
        raise ValueError(
            "harmony=True corrects anchored vectors for batches: pass batch_key=, and leave anchor= at True"
        )
    if importlib.util.find_spec("harmonypy") is None:
        raise ImportError("harmony=True needs harmonypy: pip install 'sccafm[harmony]'")


def corrected(cells: np.ndarray, batches: np.ndarray, seed: int = 0) -> np.ndarray:
    """Vectors without what sets batches apart within clusters: C W float32, rows of length 1."""
    import harmonypy

    table = pd.DataFrame({"batch": batches})
    found = np.asarray(harmonypy.run_harmony(cells, table, "batch", verbose=False, random_state=seed).Z_corr)
    return unit(found if found.shape == cells.shape else found.T).astype(np.float32)
