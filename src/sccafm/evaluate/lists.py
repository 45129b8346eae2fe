"""What a network knows without a single pair: its own list of targets, and its own list of regulators."""

import numpy as np
import pandas as pd

from sccafm.evaluate.swap import on_scale

TARGETS_ALONE, REGULATORS_ALONE = "target list alone", "regulator list alone"


def own_lists(matrix: pd.DataFrame, scale: str, name: str, regulators: pd.Index) -> dict[str, pd.DataFrame]:
    """Two networks by row name: the mean over regulators of the scores of a target, and over targets of a regulator.

    Means are taken on the scale on which levels add (`swap_test`), so they are geometric means of weights; missing edges
    count as the lowest score. The target list ranks the targets of the `regulators` that the network does not score, too.
    """
    values = on_scale(matrix.to_numpy(), scale, np.ones(matrix.shape, dtype=bool), name)
    finite = values[np.isfinite(values)]
    values = np.clip(values, *((finite.min(), finite.max()) if len(finite) else (0.0, 0.0)))
    rows = matrix.index.append(regulators.difference(matrix.index))
    targets = np.tile(values.mean(axis=0), (len(rows), 1))
    strengths = np.tile(values.mean(axis=1)[:, None], (1, matrix.shape[1]))
    return {
        f"{name} ({TARGETS_ALONE})": pd.DataFrame(targets, rows, matrix.columns),
        f"{name} ({REGULATORS_ALONE})": pd.DataFrame(strengths, matrix.index, matrix.columns),
    }
