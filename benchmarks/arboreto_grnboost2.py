"""GRNBoost2 by its own package, in an environment of its own (pip install arboreto "dask<2024.3" "numpy<2" "pandas<2.2").

    PYTHON benchmarks/arboreto_grnboost2.py EXPRESSION.npz NETWORK.csv

EXPRESSION.npz holds values (cells x genes), genes and regulators. dask is left aside: one target after another, with arboreto's
own settings of the regressor and its early stopping.
"""

import sys

import numpy as np
import pandas as pd
from arboreto.core import EARLY_STOP_WINDOW_LENGTH, SGBM_KWARGS, infer_partial_network, to_tf_matrix


def main(source: str, out: str) -> None:
    held = np.load(source)
    values, genes, regulators = held["values"], held["genes"].tolist(), held["regulators"].tolist()
    matrix, names = to_tf_matrix(values, genes, regulators)
    parts = []
    for place, gene in enumerate(genes):
        found = infer_partial_network(
            "GBM",
            SGBM_KWARGS,
            matrix,
            names,
            gene,
            values[:, place],
            include_meta=False,
            early_stop_window_length=EARLY_STOP_WINDOW_LENGTH,
            seed=0,
        )
        parts.append(found)
    table = pd.concat([p for p in parts if p is not None]).rename(columns={"TF": "source", "importance": "weight"})
    table.to_csv(out, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
