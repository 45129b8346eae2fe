"""Continues the training of the embedding module on the data at hand: `sccafm.embed(adapt=)`."""

import copy
import math
import re
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import sparse
from tqdm.auto import tqdm

from sccafm._io import BLOCK, blocks
from sccafm._settings import logger
from sccafm._text import warn
from sccafm._torch import cosine_decay
from sccafm.data.input import ModelInput
from sccafm.data.tokenizer import tokenize
from sccafm.embedding.held_out import HELD, SEEN, HeldOut, chosen_genes, is_better
from sccafm.losses.embedding import EFMWeights, Views, objective, total
from sccafm.model.model import Model
from sccafm.nn import CausalEFM

POOL = 20_000  # cells to learn from, at most: they are kept in memory
LEAST_CELLS = 10
COMPONENTS, NEIGHBORS = 30, 20  # of the space in which equal states of two batches are found
WORDS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(epochs?|minutes?)\s*")


CHECKS, PATIENCE = 8, 3  # looks at held-out cells; those without a gain that end a training by epochs


@dataclass(frozen=True)
class Adapt:
    """How long and how to continue training; ``adapt="5 epochs"`` and ``adapt="3 minutes"`` are short for it."""

    epochs: float | None = None
    """Passes over the cells (over 20,000 of them where there are more): repeats bit by bit on one machine."""
    minutes: float | None = None
    """Instead of epochs: as many steps as there is time for, judging included."""
    most_minutes: float | None = 5.0
    """Epochs that take longer end here, with a warning; None: they take what they take."""
    held_out: float = 0.1
    """Share of the cells that judge the training: what does not serve them is not kept. 0: everything is kept."""
    seed: int = 0
    learning_rate: float = 5e-4
    batch_size: int = 32
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
        if not 0 <= self.held_out < 1:
            raise ValueError(f"Adapt.held_out is a share of the cells, from 0 to below 1; got {self.held_out}")


def read_adapt(adapt: object) -> Adapt | None:
    """What ``adapt=`` asks for."""
    if adapt is None or isinstance(adapt, Adapt):
        return adapt
    found = WORDS.fullmatch(adapt) if isinstance(adapt, str) else None
    if found is None:
        raise ValueError(f'adapt must be a text such as "5 epochs" or "3 minutes", or an Adapt; got {adapt!r}')
    settings: dict[str, Any] = {found[2].removesuffix("s") + "s": float(found[1])}
    return Adapt(**settings)


def adapt_efm(
    model: Model, model_input: ModelInput, settings: Adapt, batches: np.ndarray | None, progress: bool
) -> tuple[CausalEFM, dict]:
    """An embedding module that has learned from these cells too; the model's own stays as it is.

    The training is looked at a few times on cells that are held out (`sccafm.embedding.held_out`), and the best of what was seen
    is returned: the module as it was, where nothing was better by more than chance.

    Parameters
    ----------
    model, model_input
        Networks and data.
    settings
        How long; seed.
    batches
        Batch of each cell. Cells are then told apart within their batch alone, so that a batch's own mark is of no use,
        and equal states of two batches (mutual nearest neighbours) are drawn together.
    progress
        Show a bar.

    Returns
    -------
    The module, and what to remember: steps, scores on held-out cells, and which step was kept.
    """
    if not isinstance(model.efm, CausalEFM):
        raise ValueError(
            "the published embedding module cannot be adapted; load a model with this library's, e.g. sccafm.load()"
        )
    n = len(model_input.matrix.obs_names)
    if n < LEAST_CELLS:
        raise ValueError(f"adapt= learns to tell cells apart and needs {LEAST_CELLS} of them, got {n}; leave it out")
    rng = np.random.default_rng(settings.seed)
    efm = copy.deepcopy(model.efm).train()
    efm.requires_grad_(True)
    optimizer = torch.optim.AdamW(efm.parameters(), settings.learning_rate, betas=(0.9, 0.98))
    with torch.random.fork_rng(devices=[]), Clock(settings, n, progress) as clock:
        torch.manual_seed(settings.seed)
        cells, judge = draw_cells(model, model_input, settings, batches, rng)
        watch = Watch(judge, efm, clock)
        for share in clock:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * cosine_decay(share)
            step(model, efm, optimizer, cells.draw(), settings)
            if watch.is_over(share):
                break
        watch.finish()
    record = watch.record()
    if progress or not record["steps"]:
        (logger.info if record["steps"] else warn)(told(record))
    return watch.best().eval().requires_grad_(False), record


def told(record: dict) -> str:
    """What came of adapting, in a line."""
    if not record["steps"]:
        return "adapt= had time for no step: the embedding module stays as it was; give it more time"
    if not record["scores"]:
        return f"adapted in {record['steps']:,} steps; there were too few cells to hold any out, so that nothing judged them"
    if not record["is_kept"]:
        return (
            f"adapting for {record['steps']:,} steps did not serve held-out cells: the embedding module stays as it was"
        )
    first, best = record["scores"][0], record["scores"][record["looked_at"].index(record["kept_step"])]
    return f"adapted: step {record['kept_step']:,} of {record['steps']:,} is kept (held-out cells: {first:.3f} before, {best:.3f} after)"


def draw_cells(
    model: Model, model_input: ModelInput, settings: Adapt, batches: np.ndarray | None, rng: np.random.Generator
) -> tuple["Pool", HeldOut | None]:
    """Cells to learn from, and others that judge (None where there are too few, or none are wanted)."""
    n = len(model_input.matrix.obs_names)
    drawn = rng.permutation(n)[:POOL]
    n_held = min(HELD, round(settings.held_out * len(drawn)))
    n_held = 0 if n_held < 2 else n_held
    held, pool = drawn[:n_held], np.sort(drawn[n_held:])
    cells = Pool(model_input, pool, None if batches is None else batches[pool], settings, rng)
    if not n_held:
        return cells, None
    seen = np.sort(rng.permutation(len(pool))[:SEEN])
    values = np.concatenate([read_rows(model_input, np.sort(held)).toarray(), cells.values[seen].toarray()])
    judging = np.concatenate([np.sort(held), pool[seen]])
    codes = np.zeros(len(judging), int) if batches is None else np.unique(batches[judging], return_inverse=True)[1]
    return cells, HeldOut(model, model_input, values, model_input.conditions[judging], codes, n_held, rng)


class Watch:
    """Looks at held-out cells now and then, and keeps the best module that it saw."""

    def __init__(self, judge: HeldOut | None, efm: CausalEFM, clock: "Clock"):
        self.judge, self.efm, self.clock = judge, efm, clock
        self.found: list[dict] = []
        self.state, self.kept, self.steps, self.misses = None, 0, 0, 0
        if judge is not None:
            begin = time.monotonic()
            self.first = self.top = judge.scores(efm)
            self.state = copy.deepcopy(efm.state_dict())
            self.found.append({"step": 0, "score": float(self.first.mean())})
            clock.reserve = time.monotonic() - begin

    def is_over(self, share: float) -> bool:
        """After a step: whether the training may end."""
        self.steps += 1
        if self.judge is None or share < (len(self.found)) / CHECKS:
            return False
        self._look()
        return self.clock.steps is not None and self.misses >= PATIENCE

    def finish(self) -> None:
        if self.judge is not None and self.steps > self.found[-1]["step"]:
            self._look()

    def _look(self) -> None:
        assert self.judge is not None
        scores = self.judge.scores(self.efm)
        self.found.append({"step": self.steps, "score": float(scores.mean())})
        if scores.mean() > self.top.mean() and is_better(scores, self.first):
            self.top, self.kept = scores, self.steps
            self.state = copy.deepcopy(self.efm.state_dict())
        is_highest = self.found[-1]["score"] > max(look["score"] for look in self.found[:-1])
        self.misses = 0 if is_highest else self.misses + 1

    def best(self) -> CausalEFM:
        if self.state is not None:
            self.efm.load_state_dict(self.state)
        return self.efm

    def record(self) -> dict:
        """Of the run card: numbers and lists of them, as h5ad holds them."""
        kept = self.steps if self.judge is None else self.kept
        looked_at, scores = ([look[name] for look in self.found] for name in ("step", "score"))
        return {"steps": self.steps, "kept_step": kept, "is_kept": kept > 0, "looked_at": looked_at, "scores": scores}


def step(model: Model, efm: CausalEFM, optimizer: torch.optim.Optimizer, batch: tuple, settings: Adapt) -> None:
    tokens, *rest = batch
    tokens = tokens.to(model.device)
    partners, is_negative = (None if part is None else part.to(model.device) for part in rest)
    terms = objective(model.sfm, efm, tokens, settings.views, settings.weights, partners, is_negative)
    loss = total(terms, settings.weights)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"adapt= met a loss of {loss.item()}; lower its learning_rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(efm.parameters(), 1.0)
    optimizer.step()


class Clock:
    """Shares of the training that are done, step by step, by number of steps or by the time since the clock was made."""

    def __init__(self, settings: Adapt, n_cells: int, progress: bool):
        self.begin, self.reserve = time.monotonic(), 0.0
        per_epoch = math.ceil(min(n_cells, POOL) / settings.batch_size)
        self.steps = None if settings.epochs is None else max(1, round(settings.epochs * per_epoch))
        minutes = settings.most_minutes if self.steps else settings.minutes
        self.whole = math.inf if minutes is None else 60 * minutes
        total, unit = (self.steps, "step") if self.steps else (max(1, round(self.whole)), "s")
        self.bar = tqdm(total=total, desc="sccafm adapt", unit=unit, disable=not progress)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.steps is None and not any(error):
            self._show_time(self.whole)
        self.bar.close()

    def __iter__(self):
        longest, number = 0.0, 0
        while number != self.steps:
            now = time.monotonic()
            passed = now - self.begin
            if passed + longest + self.reserve > self.whole:  # the last look at held-out cells has its time too
                break
            yield number / self.steps if self.steps else passed / self.whole
            longest, number = max(longest, time.monotonic() - now), number + 1
            if self.steps:
                self.bar.update()
            else:
                self._show_time(time.monotonic() - self.begin)
        if self.steps and number < self.steps:
            warn(
                f"adapt= ended after {self.whole / 60:g} minutes and {number:,} of {self.steps:,} steps, so that it may not repeat "
                "bit by bit; fewer epochs fit, Adapt(epochs=..., most_minutes=None) takes the time it takes"
            )

    def _show_time(self, passed: float) -> None:
        self.bar.update(min(round(passed), self.bar.total) - self.bar.n)


class Pool:
    """Cells in memory to draw from."""

    def __init__(
        self,
        model_input: ModelInput,
        pool: np.ndarray,
        batches: np.ndarray | None,
        settings: Adapt,
        rng: np.random.Generator,
    ):
        self.model_input, self.settings, self.rng = model_input, settings, rng
        self.conditions = model_input.conditions[pool]
        self.values = read_rows(model_input, pool)
        self.codes, self.equals = None, []
        if batches is not None:
            self.codes = np.unique(batches, return_inverse=True)[1]
            self.equals = mutual_nearest_neighbors(self.values, self.codes, settings.seed)

    def draw(self):
        """Tokens of a step's cells, of their partners, and which cells are told apart (both None without batches)."""
        cells = self.rng.permutation(self.values.shape[0])[: self.settings.batch_size]
        genes = chosen_genes(self.model_input.is_tf, self.settings.genes, self.rng)
        tokens = self._tokens(cells, genes)
        if self.codes is None:
            return tokens, None, None
        partners = np.array([self._partner(cell) for cell in cells])
        same = self.codes[cells][:, None] == self.codes[cells]
        return tokens, self._tokens(partners, genes), torch.from_numpy(same)

    def _partner(self, cell: int) -> int:
        found = self.equals[cell]
        return self.rng.choice(found) if len(found) and self.rng.random() < self.settings.partners else cell

    def _tokens(self, cells: np.ndarray, genes: np.ndarray):
        model_input = self.model_input
        values = self.values[cells][:, genes].toarray()
        return tokenize(values, model_input.gene_ids[genes], model_input.is_tf[genes], self.conditions[cells])


def read_rows(model_input: ModelInput, pool: np.ndarray) -> sparse.csr_matrix:
    """Values of some cells, block by block."""
    parts = []
    for start, stop in blocks(len(model_input.matrix.obs_names), BLOCK):
        wanted = pool[(pool >= start) & (pool < stop)]
        if len(wanted):
            parts.append(sparse.csr_matrix(model_input.matrix.read(start, stop, model_input.columns)[wanted - start]))
    return sparse.vstack(parts, "csr")


def mutual_nearest_neighbors(values: sparse.csr_matrix, codes: np.ndarray, seed: int) -> list[np.ndarray]:
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
