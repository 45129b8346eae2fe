"""Factors of cells: their names, and how they are packed, for most entries are zero."""

import numpy as np
import pandas as pd

FACTOR_ARRAYS = ("u_index", "u_value", "v_index", "v_value")


def factor_names(size: int) -> pd.Index:
    return pd.Index([f"factor_{m:03d}" for m in range(size)])


def pack_factors(dense: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep the `width` entries of each row that are not zero: ... M -> ... width (index uint16), ... width (value)."""
    index = np.sort(np.argpartition(-dense, width - 1, axis=-1)[..., :width], axis=-1)
    return index.astype(np.uint16), np.take_along_axis(dense, index, -1)


def unpack_factors(index: np.ndarray, value: np.ndarray, size: int) -> np.ndarray:
    dense = np.zeros((*index.shape[:-1], size), dtype=value.dtype)
    np.put_along_axis(dense, index.astype(np.int64), value, -1)
    return dense
