"""What a sequencer makes of expression: capture, library size, batch, dropout."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Technical:
    """Technical noise; `Technical(capture=1, capture_sd=0, batch_sd=0, dropout_percentile=0)` is mild sampling alone."""

    molecules: float = 20.0  # mRNA molecules per unit of expression
    capture: float = 0.1  # chance that a molecule is counted, median over cells
    capture_sd: float = 0.3  # of its logarithm over cells: the spread of library sizes
    batch_sd: float = 0.1  # of the log factor that a batch puts on each gene
    dropout_percentile: float = 20.0  # of log1p expected counts: there half of the values are lost; 0: none are
    dropout_steepness: float = 6.5  # of the logistic curve

    def __post_init__(self):
        if not (self.molecules > 0 and 0 < self.capture <= 1 and 0 <= self.dropout_percentile <= 100):
            raise ValueError(
                f"expected molecules > 0, 0 < capture <= 1, 0 <= dropout_percentile <= 100; got {self.molecules}, "
                f"{self.capture}, {self.dropout_percentile}"
            )
        if min(self.capture_sd, self.batch_sd, self.dropout_steepness) < 0:
            raise ValueError("capture_sd, batch_sd and dropout_steepness must not be negative")


def count(expression: np.ndarray, batch: np.ndarray, technical: Technical, rng: np.random.Generator) -> np.ndarray:
    """Counts of C cells x G genes, float32.

    A Poisson number of molecules, each captured by chance, is a Poisson number of counts. Dropout is a logistic
    function of log1p expected counts, as in SERGIO.
    """
    n_cells, n_genes = expression.shape
    capture = technical.capture * np.exp(technical.capture_sd * rng.standard_normal(n_cells))
    factor = np.exp(technical.batch_sd * rng.standard_normal((batch.max(initial=0) + 1, n_genes)))
    expected = expression * technical.molecules * np.minimum(capture, 1)[:, None] * factor[batch]  # C G
    counts = rng.poisson(expected).astype(np.float32)
    if technical.dropout_percentile > 0:
        log = np.log1p(expected)
        midpoint = np.percentile(log, technical.dropout_percentile)
        kept = 1 / (1 + np.exp(-technical.dropout_steepness * (log - midpoint)))
        counts[rng.random(counts.shape) > kept] = 0
    return counts
