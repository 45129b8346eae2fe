"""The training loop: batches in, loss terms out; it knows nothing of what is trained.

Nothing random outlives a micro-batch: its cells and its dropout depend on the seed and its number alone, and its number
not on how many processes there are. So a checkpoint is weights, moments and the number of the step; a run that is taken
up again on as many processes ends with the same bits, and on another number of them sees the same data in the same order.
"""

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from sccafm._io import write_whole
from sccafm._torch import cosine_decay
from sccafm.train.checkpoint import load_checkpoint, save_checkpoint
from sccafm.train.log import Log, draw_curves

CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"


class Task(Protocol):
    """What is trained: an `nn.Module` that gives the loss terms of a batch, and has these methods."""

    def __call__(self, batch) -> tuple[dict[str, Tensor], object]:
        """Every loss term before weighting, and what `measure` wants to see."""
        ...

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """What is minimised."""
        ...

    def optimizer(self) -> torch.optim.Optimizer:
        """Groups with their peak learning rates."""
        ...

    def measure(self, seen: object) -> dict[str, Tensor]:
        """Numbers to be summed over the micro-batches of a step and over processes."""
        ...

    def after_step(self, sums: dict[str, Tensor]) -> None:
        """What the optimiser does not do, from these sums: the same in every process."""

    def parts(self) -> Iterable[nn.Module]:
        """Modules that may be gathered one at a time where the weights are shared between processes."""
        ...


class Data(Protocol):
    """Where batches come from; a batch has `to(device)` and says its file in `dataset`."""

    def train_batch(self, number: int): ...

    def validation_batch(self, number: int): ...


class Objective(nn.Module):
    """The one forward pass that strategies see: only the total carries a gradient out of it."""

    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def forward(self, batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        terms, seen = self.task(batch())
        total = self.task.total(terms)
        with torch.no_grad():
            sums = self.task.measure(seen) if self.training else {}
        return total, {name: term.detach() for name, term in terms.items()} | {"total": total.detach()}, sums


class Engine:
    """Trains a task on data, in one process or as one of several.

    Parameters
    ----------
    fabric
        Launched (`sccafm.train.machine.connect`).
    config
        steps, accumulate_grad_batches, warmup, clip, patience, validation_batches, validate_every, checkpoint_every, log_every, seed, and
        machine.readers.
    task
        What is trained; on the CPU, with the same weights in every process.
    data
        Batches by number.
    run
        Folder for checkpoint.safetensors, best.safetensors (with patience), log.csv and curves.png.
    progress
        Show a bar.
    """

    def __init__(self, fabric: Any, config, task: Task, data: Data, run: Path, progress: bool = True):
        self.fabric, self.config, self.data, self.run = fabric, config, data, run
        self.progress = progress and fabric.is_global_zero
        self.module: Any = fabric.setup_module(Objective(task))
        self.optimizer: Any = fabric.setup_optimizers(task.optimizer())
        for group in self.optimizer.param_groups:
            group["peak"] = group["lr"]
        self.done = {"step": 0, "best": math.inf, "stale": 0}  # stale: evaluations since the best one
        if (run / CHECKPOINT).exists():
            self.done = load_checkpoint(run / CHECKPOINT, self.task, self.optimizer)

    @property
    def task(self) -> Task:
        return self.module.module.task

    @property
    def is_over(self) -> bool:
        patience = self.config.patience
        return self.done["step"] >= self.config.steps or bool(patience and self.done["stale"] >= patience)

    def fit(self) -> Path:
        """Train to the end; returns the file that holds the weights to keep.

        Raises
        ------
        FloatingPointError
            A term or the gradient is not finite: step, term and file are named, in every process.
        """
        config, first = self.config, self.done["step"]
        held_out = [] if self.is_over else self._held_out()
        bar = tqdm(initial=first, total=config.steps, desc="training", unit="step", disable=not self.progress)
        log = None
        numbers = () if self.is_over else self._numbers(first)  # a reader reads ahead at once
        reader = Reader(self.data, iter(numbers), config.machine.readers)
        try:
            with bar:
                while not self.is_over:
                    begin = time.perf_counter()
                    terms = self.step(reader, self.done["step"])
                    self.done["step"] += 1
                    if log is None and self.fabric.is_global_zero:
                        log = Log(self.run, list(terms), first)
                    self._report(log, bar, terms, time.perf_counter() - begin)
                    self._evaluate(log, held_out)
        finally:
            reader.close()
            if log is not None:
                log.close()
        if log is not None:
            write_whole(self.run / "curves.png", lambda p: draw_curves(pd.read_csv(self.run / "log.csv"), p))
        return self.run / (BEST if config.patience and (self.run / BEST).exists() else CHECKPOINT)

    def step(self, reader: Iterator, step: int) -> dict[str, float]:
        """One optimiser step over this process's share of the micro-batches; terms are means over all of them."""
        config, mine = (
            self.config,
            range(self.fabric.global_rank, self.config.accumulate_grad_batches, self.fabric.world_size),
        )
        self.module.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(step, config)
        seen: list[tuple[str, dict[str, Tensor]]] = []
        sums: dict[str, Tensor] = {}
        for lane in mine:
            batch = next(reader).to(self.fabric.device)
            seed_everything(config.seed, step * config.accumulate_grad_batches + lane)
            more = self.fabric.world_size > 1 and lane != mine[-1]
            with self.fabric.no_backward_sync(self.module, enabled=more):
                # Hidden in a function: precision plugins would copy a dataclass of tensors, and refuse a frozen one.
                total, terms, measured = self.module(lambda batch=batch: batch)
                self.fabric.backward(total / len(mine))
            seen.append((batch.dataset, terms))
            sums = {name: sums.get(name, 0) + value for name, value in measured.items()}
        norm = self.fabric.clip_gradients(self.module, self.optimizer, max_norm=config.clip, error_if_nonfinite=False)
        means = {name: torch.stack([terms[name] for _, terms in seen]).mean() for name in seen[0][1]}
        means, sums = self._reduce(means, "mean"), self._reduce(sums, "sum")
        names, numbers = list(means), torch.stack([*means.values(), full(norm)]).tolist()
        self._check_finite(dict(zip([*names, "gradient"], numbers, strict=True)), seen, step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.task.after_step(sums)
        return dict(zip(names, numbers, strict=False))

    @torch.no_grad()
    def validate(self, batches: list) -> dict[str, float]:
        """Mean of every term over held-out cells."""
        self.module.eval()
        sums: dict[str, Tensor] = {}
        for number, batch in batches:
            seed_everything(0, number)  # the autoencoder samples in evaluation too
            _, terms, _ = self.module(lambda batch=batch: batch.to(self.fabric.device))
            # Every process passes as many batches; those beyond the last count nothing.
            counts = float(number < self.config.validation_batches)
            sums = {name: sums.get(name, 0) + counts * term for name, term in terms.items()}
        sums = self._reduce(sums, "sum")
        return {name: value.item() / self.config.validation_batches for name, value in sums.items()}

    def save(self, path: Path, with_moments: bool = True) -> None:
        optimizer = self.optimizer if with_moments else None
        save_checkpoint(path, self.task, optimizer, self.done, self.fabric.is_global_zero)

    def close(self) -> None:
        """Let go of the model, so that the process group may be left."""
        self.module = self.optimizer = None

    def _numbers(self, first: int) -> Iterator[int]:
        lanes = range(self.fabric.global_rank, self.config.accumulate_grad_batches, self.fabric.world_size)
        return (
            step * self.config.accumulate_grad_batches + lane
            for step in range(first, self.config.steps)
            for lane in lanes
        )

    def _held_out(self) -> list[tuple[int, object]]:
        n, rank, world = self.config.validation_batches, self.fabric.global_rank, self.fabric.world_size
        return [(i, self.data.validation_batch(i % n)) for i in range(rank, -(-n // world) * world, world)]

    def _report(self, log: Log | None, bar: tqdm, terms: dict[str, float], seconds: float) -> None:
        bar.update()
        if log is not None and self.done["step"] % self.config.log_every == 0:
            bar.set_postfix(loss=f"{terms['total']:.3f}")
            rate = self.optimizer.param_groups[0]["lr"]
            log.add(self.done["step"], "train", terms, seconds_per_step=seconds, learning_rate=rate)

    def _evaluate(self, log: Log | None, held_out: list) -> None:
        """Look at held-out cells, and keep a checkpoint, when it is time or the end."""
        config, done = self.config, self.done
        is_last = done["step"] == config.steps
        if is_last or done["step"] % config.validate_every == 0:
            terms = self.validate(held_out)
            if log is not None:
                log.add(done["step"], "validation", terms)
            better = terms["total"] < done["best"]
            done.update(best=min(terms["total"], done["best"]), stale=0 if better else done["stale"] + 1)
            if better and config.patience:
                self.save(self.run / BEST, with_moments=False)
        if self.is_over or done["step"] % config.checkpoint_every == 0:
            self.save(self.run / CHECKPOINT)

    def _reduce(self, numbers: dict[str, Tensor], how: str) -> dict[str, Tensor]:
        """Mean or sum over processes, in one message."""
        if self.fabric.world_size == 1 or not numbers:
            return numbers
        flat = self.fabric.all_reduce(torch.cat([v.float().flatten() for v in numbers.values()]), reduce_op=how)
        parts = flat.split([v.numel() for v in numbers.values()])
        return {name: part.view(v.shape) for (name, v), part in zip(numbers.items(), parts, strict=True)}

    def _check_finite(self, numbers: dict[str, float], seen: list[tuple[str, dict[str, Tensor]]], step: int) -> None:
        """Stop every process when one met a number that is not finite: the means are the same in all of them."""
        if all(map(math.isfinite, numbers.values())):
            return
        told = [
            f"step {step}: {name} is {value.item()} on a batch of {file}; the run stops here"
            for file, terms in seen
            for name, value in terms.items()
            if not math.isfinite(value)
        ]
        files = ", ".join(sorted({file for file, _ in seen}))
        told.append("")
        shared = [(told[0], files)] * self.fabric.world_size
        if dist.is_available() and dist.is_initialized():
            dist.all_gather_object(shared, (told[0], files))
        terms = [told for told, _ in shared if told]
        where = ", ".join(dict.fromkeys(files for _, files in shared))
        gradient = f"step {step}: gradient is {numbers['gradient']} on a batch of {where}; the run stops here"
        raise FloatingPointError(terms[0] if terms else gradient)


class Reader:
    """Draws batches ahead of the model, in order.

    Parameters
    ----------
    data
        Where they come from.
    numbers
        Which.
    threads
        How many are drawn at a time; twice as many are kept ready.
    """

    def __init__(self, data: Data, numbers: Iterator[int], threads: int):
        self.data, self.numbers = data, numbers
        self.pool = ThreadPoolExecutor(threads, "reader")
        self.upcoming = deque()
        for _ in range(2 * threads):
            self._ask()

    def __iter__(self) -> "Reader":
        return self

    def __next__(self):
        batch = self.upcoming.popleft().result()
        self._ask()
        return batch

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def _ask(self) -> None:
        number = next(self.numbers, None)
        if number is not None:
            self.upcoming.append(self.pool.submit(self.data.train_batch, number))


def seed_everything(seed: int, number: int) -> None:
    """Dropout and sampling of one micro-batch."""
    torch.manual_seed(seed * 1_000_003 + number)


def schedule(step: int, config) -> float:
    """Share of the peak learning rate: linear rise, then a cosine down to 5 %."""
    rise = min(1.0, (step + 1) / max(config.warmup, 1))
    return rise * cosine_decay(min(step / config.steps, 1))


def full(norm: Tensor) -> Tensor:
    """The norm over all processes."""
    return getattr(norm, "full_tensor", lambda: norm)()
