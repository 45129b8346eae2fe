"""Continues the training of the embedding module on the data at hand: `sccafm.embed(adapt=)`."""

import copy
import math
import re
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse
from tqdm.auto import tqdm

from sccafm._io import BLOCK, blocks
from sccafm.data.input import Reading
from sccafm.data.tokenizer import tokenize
from sccafm.losses.embedding import EFMWeights, Views, objective, total
from sccafm.model.model import Model
from sccafm.nn import CausalEFM

POOL = 20_000  # cells to learn from, at most: they are kept in memory
LEAST_CELLS = 10
COMPONENTS, NEIGHBORS = 30, 20  # of the space in which equal states of two batches are found
WORDS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(epochs?|minutes?)\s*")


@dataclass(frozen=True)
class Adapt:
    """How long and how to continue training; ``adapt="5 epochs"`` and ``adapt="3 minutes"`` are short for it."""

    epochs: float | None = None
    """Passes over the cells (over 20,000 of them where there are more): repeats bit by bit on one machine."""
    minutes: float | None = None
    """Instead of epochs: as many steps as there is time for."""
    seed: int = 0
    learning_rate: float = 5e-4
    cells: int = 32
    """Cells of a step."""
    genes: int = 384
    """Genes of a step."""
    partners: float = 0.5
    """With `batch_key`: how often the second view is of an equal state in another batch, not of the cell itself."""
    weights: EFMWeights = field(default_factory=EFMWeights)
    views: Views = field(default_factory=Views)

    def __post_init__(self):
        given = [n for n in (self.epochs, self.minutes) if n is not None]
        if len(given) != 1 or not given[0] > 0 or not math.isfinite(given[0]):
            raise ValueError(
                f"Adapt needs either epochs or minutes, above 0: got epochs={self.epochs}, minutes={self.minutes}; "
                "write Adapt(epochs=5)"
            )


def read_adapt(adapt: object) -> Adapt | None:
    """What ``adapt=`` asks for."""
    if adapt is None or isinstance(adapt, Adapt):
        return adapt
    found = WORDS.fullmatch(adapt) if isinstance(adapt, str) else None
    if found is None:
        raise ValueError(f'adapt must be a text such as "5 epochs" or "3 minutes", or an Adapt; got {adapt!r}')
    return Adapt(**{found[2].removesuffix("s") + "s": float(found[1])})


def adapt_efm(model: Model, reading: Reading, settings: Adapt, batches: np.ndarray | None, progress: bool) -> CausalEFM:
    """An embedding module that has learned from these cells too; the model's own stays as it is.

    Parameters
    ----------
    model, reading
        Networks and data.
    settings
        How long; seed.
    batches
        Batch of each cell. Cells are then told apart within their batch alone, so that a batch's own mark is of no use,
        and equal states of two batches (mutual nearest neighbours) are drawn together.
    progress
        Show a bar.
    """
    if not isinstance(model.efm, CausalEFM):
        raise ValueError(
            "the published embedding module cannot be adapted; load a model with this library's, e.g. sccafm.load()"
        )
    n = len(reading.matrix.obs_names)
    if n < LEAST_CELLS:
        raise ValueError(f"adapt= learns to tell cells apart and needs {LEAST_CELLS} of them, got {n}; leave it out")
    rng = np.random.default_rng(settings.seed)
    pool = np.sort(rng.choice(n, min(n, POOL), replace=False))
    cells = Pool(reading, pool, None if batches is None else batches[pool], settings, rng)
    efm = copy.deepcopy(model.efm).train()
    efm.requires_grad_(True)
    optimizer = torch.optim.AdamW(efm.parameters(), settings.learning_rate, betas=(0.9, 0.98))
    with torch.random.fork_rng(devices=[]), clock(settings, len(pool), progress) as share_done:
        torch.manual_seed(settings.seed)
        for share in share_done:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))
            step(model, efm, optimizer, cells.draw(), settings)
    return efm.eval().requires_grad_(False)


def step(model: Model, efm: CausalEFM, optimizer: torch.optim.Optimizer, batch: tuple, settings: Adapt) -> None:
    tokens, partners, is_negative = (None if part is None else part.to(model.device) for part in batch)
    terms = objective(model.sfm, efm, tokens, settings.views, settings.weights, partners, is_negative)
    loss = total(terms, settings.weights)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"adapt= met a loss of {loss.item()}; lower its learning_rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(efm.parameters(), 1.0)
    optimizer.step()


class clock:
    """Shares of the training that are done, step by step, by number of steps or by the time."""

    def __init__(self, settings: Adapt, n_cells: int, progress: bool):
        self.settings = settings
        per_epoch = math.ceil(n_cells / settings.cells)
        self.steps = None if settings.epochs is None else max(1, round(settings.epochs * per_epoch))
        total, unit = (self.steps, "step") if self.steps else (round(60 * settings.minutes), "s")
        self.bar = tqdm(total=total, desc="sccafm adapt", unit=unit, disable=not progress)

    def __enter__(self):
        return self._by_steps() if self.steps else self._by_time()

    def __exit__(self, *error):
        self.bar.close()

    def _by_steps(self):
        for number in range(self.steps):
            yield number / self.steps
            self.bar.update()

    def _by_time(self):
        begin, whole = time.monotonic(), 60 * self.settings.minutes
        while (passed := time.monotonic() - begin) < whole:
            yield passed / whole
            self.bar.update(min(round(time.monotonic() - begin), self.bar.total) - self.bar.n)


class Pool:
    """Cells in memory to draw from."""

    def __init__(
        self, reading: Reading, pool: np.ndarray, batches: np.ndarray | None, settings: Adapt, rng: np.random.Generator
    ):
        self.reading, self.settings, self.rng = reading, settings, rng
        self.conditions = reading.conditions[pool]
        self.values = read_rows(reading, pool)
        self.codes = None if batches is None else np.unique(batches, return_inverse=True)[1]
        self.equals = None if batches is None else equal_states(self.values, self.codes, settings.seed)

    def draw(self):
        """Tokens of a step's cells, of their partners, and which cells are told apart (both None without batches)."""
        cells = self.rng.permutation(self.values.shape[0])[: self.settings.cells]
        genes = self._genes()
        tokens = self._tokens(cells, genes)
        if self.codes is None:
            return tokens, None, None
        partners = np.array([self._partner(cell) for cell in cells])
        same = self.codes[cells][:, None] == self.codes[cells]
        return tokens, self._tokens(partners, genes), torch.from_numpy(same)

    def _genes(self) -> np.ndarray:
        """Regulators, up to a quarter of the genes of a step, filled up with other genes: positions in file order."""
        is_tf, n = self.reading.is_tf, self.settings.genes
        acting = self.rng.permutation(np.flatnonzero(is_tf))[: max(1, n // 4)]
        others = self.rng.permutation(np.flatnonzero(~is_tf))[: max(1, n - len(acting))]
        return np.sort(np.concatenate([acting, others]))

    def _partner(self, cell: int) -> int:
        found = self.equals[cell]
        return self.rng.choice(found) if len(found) and self.rng.random() < self.settings.partners else cell

    def _tokens(self, cells: np.ndarray, genes: np.ndarray):
        reading = self.reading
        values = self.values[cells][:, genes].toarray()
        return tokenize(values, reading.gene_ids[genes], reading.is_tf[genes], self.conditions[cells])


def read_rows(reading: Reading, pool: np.ndarray) -> sparse.csr_matrix:
    """Values of some cells, block by block."""
    parts = []
    for start, stop in blocks(len(reading.matrix.obs_names), BLOCK):
        wanted = pool[(pool >= start) & (pool < stop)]
        if len(wanted):
            parts.append(sparse.csr_matrix(reading.matrix.read(start, stop, reading.columns)[wanted - start]))
    return sparse.vstack(parts, "csr")


def equal_states(values: sparse.csr_matrix, codes: np.ndarray, seed: int) -> list[np.ndarray]:
    """Mutual nearest neighbours of each cell in other batches (Haghverdi et al. 2018), by cosine of leading components.

    Components are centred within each batch. C arrays of positions, empty where there is none.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.neighbors import NearestNeighbors

    scores = TruncatedSVD(min(COMPONENTS, min(values.shape) - 1), random_state=seed).fit_transform(values)
    for code in np.unique(codes):
        scores[codes == code] -= scores[codes == code].mean(0)
    scores /= np.maximum(np.linalg.norm(scores, axis=1, keepdims=True), 1e-9)
    found: list[list[int]] = [[] for _ in codes]
    names = np.unique(codes)
    for a in names:
        for b in names[names > a]:
            one, other = np.flatnonzero(codes == a), np.flatnonzero(codes == b)
            near = [
                NearestNeighbors(n_neighbors=min(NEIGHBORS, len(to))).fit(scores[to]).kneighbors(scores[of])[1]
                for of, to in ((one, other), (other, one))
            ]
            names_it = {(int(j), int(i)) for j, row in enumerate(near[1]) for i in row}
            for i, row in enumerate(near[0]):
                for j in row:
                    if (int(j), i) in names_it:
                        found[one[i]].append(other[j])
                        found[other[j]].append(one[i])
    return [np.array(sorted(partners), dtype=int) for partners in found]
