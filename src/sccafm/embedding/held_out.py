"""How well an embedding module serves cells that it does not learn from, without labels: adapting is kept where this rises.

The molecules of each cell are split in two halves. One is embedded and anchored; the other is what has to be guessed, from the
nearest cells of the training in that space. A space whose neighbours are alike guesses it better (molecular cross-validation,
Batson et al. 2019, by neighbours).
"""

import numpy as np
import torch

from sccafm.data.input import ModelInput
from sccafm.data.tokenizer import tokenize
from sccafm.embedding.anchor import COMPONENTS, GENE_POWER, MODEL_COMPONENTS, MODEL_POWER, POWER, axes, join, unit
from sccafm.model.model import Model
from sccafm.nn import CausalEFM

HELD, SEEN, GENES = 100, 200, 512  # cells that are held out and that guess, at most; genes
N_NEIGHBORS, PASS = 10, 16
SURE = 2.0  # standard errors that a gain must exceed
LEAST_GAIN = 1e-6  # of a score between -1 and 1
PRIOR_CELLS = 5.0  # a batch's mean is drawn to that of all cells as if so many of them were its own


class HeldOut:
    """Cells to judge a module by.

    Parameters
    ----------
    model
        Its structure module is asked once.
    model_input
        Genes.
    values
        C G log-expression: held-out cells first.
    conditions
        C 4.
    codes
        C, batch of each cell.
    n_held
        How many are held out.
    rng
        Of genes and molecules.
    """

    def __init__(
        self,
        model: Model,
        model_input: ModelInput,
        values: np.ndarray,
        conditions: np.ndarray,
        codes: np.ndarray,
        n_held: int,
        rng: np.random.Generator,
    ):
        genes = chosen_genes(model_input.is_tf, GENES, rng)
        seen, rest = split(values[:, genes], rng)
        self.n_held, self.codes = n_held, codes
        tokens = tokenize(seen, model_input.gene_ids[genes], model_input.is_tf[genes], conditions)
        self.parts = [tokens[i : i + PASS].to(model.device) for i in range(0, len(tokens), PASS)]
        with torch.inference_mode():
            self.factors = [model.sfm(part) for part in self.parts]
        d = deviations(seen, codes)
        self.own = d @ axes(d, COMPONENTS, POWER)
        self.rest = unit(deviations(rest, codes))

    @torch.inference_mode()
    def scores(self, efm: CausalEFM) -> np.ndarray:
        """Cosine of what is guessed of each held-out cell and what it is, in [-1, 1]."""
        was_training = efm.training
        efm.eval()
        found = [efm(part, factors).cells.float().cpu() for part, factors in zip(self.parts, self.factors, strict=True)]
        efm.train(was_training)
        z = torch.cat(found).numpy().astype(np.float64)
        z -= batch_means(z, self.codes)[self.codes]
        x = join(self.own, z @ axes(z, MODEL_COMPONENTS, MODEL_POWER))
        held, seen = x[: self.n_held], x[self.n_held :]
        near = np.argsort(-held @ seen.T, axis=1, kind="stable")[:, :N_NEIGHBORS]
        guess = unit(self.rest[self.n_held :][near].mean(1))
        return (guess * self.rest[: self.n_held]).sum(1)


def is_better(new: np.ndarray, old: np.ndarray) -> bool:
    """Whether paired scores rose by more than `SURE` standard errors, for several looks are compared, and by more than rounding."""
    gap = new - old
    return bool(gap.mean() > max(SURE * gap.std(ddof=1) / np.sqrt(len(gap)), LEAST_GAIN))


def chosen_genes(is_tf: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Regulators, up to a quarter of the genes, filled up with other genes: positions in file order."""
    acting = rng.permutation(np.flatnonzero(is_tf))[: max(1, n // 4)]
    others = rng.permutation(np.flatnonzero(~is_tf))[: max(1, n - len(acting))]
    return np.sort(np.concatenate([acting, others]))


def split(values: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of each cell's molecules, at the depth of the whole; the smallest value of a cell counts as one molecule."""
    linear = np.expm1(values.astype(np.float64))
    one = np.where(linear > 0, linear, np.inf).min(1, keepdims=True)
    one[~np.isfinite(one)] = 1.0
    counts = np.minimum(np.round(linear / one), 1e6).astype(np.int64)
    kept = rng.binomial(counts, 0.5)
    return tuple(np.log1p(2 * half * one).astype(np.float32) for half in (kept, counts - kept))


def deviations(x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """As in `sccafm.embedding.anchor`, of the genes that vary, each batch from its own mean: too few cells to find its states."""
    x = x - batch_means(x.astype(np.float64), codes)[codes]
    spread = x.std(0)
    varies = spread > 1e-5
    d = unit(x[:, varies] / spread[varies] ** GENE_POWER)
    return d - batch_means(d, codes)[codes]


def batch_means(x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """B W means of the batches, each drawn to the mean of all cells by `PRIOR_CELLS`."""
    sums = np.stack([x[codes == code].sum(0, dtype=np.float64) for code in range(codes.max() + 1)])
    counts = np.bincount(codes)
    return (sums + PRIOR_CELLS * sums.sum(0) / counts.sum()) / (counts[:, None] + PRIOR_CELLS)
