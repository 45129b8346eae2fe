"""A small task for the engine, and what one of two processes does with it: ``python rank.py FOLDER SETTINGS.json``.

Each scenario writes files; the process that started this one reads them. `test_engine` says what they should hold.
"""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from sccafm.train import train_sfm
from sccafm.train.config import Machine, read_config
from sccafm.train.engine import Engine
from sccafm.train.machine import connect


@dataclasses.dataclass(frozen=True)
class Batch:
    x: Tensor  # C 4
    dataset: str

    def to(self, device) -> "Batch":
        return Batch(self.x.to(device), self.dataset)


class Data:
    """Batches of random numbers, from three files; it remembers which it gave."""

    def __init__(self, poisoned: int | None = None):
        self.given, self.poisoned = [], poisoned

    def train_batch(self, number: int) -> Batch:
        self.given.append(number)
        x = torch.randn(5 + number % 3, 4, generator=torch.Generator().manual_seed(number))
        return Batch(x * torch.nan if number == self.poisoned else x, f"file{number % 3}.h5ad")

    def validation_batch(self, number: int) -> Batch:
        return Batch(torch.randn(6, 4, generator=torch.Generator().manual_seed(10_000 + number)), "held out")


class Toy(nn.Module):
    """Learns the first number of four; a second term is switched off, and its layer without a gradient."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Sequential(nn.Linear(4, 7), nn.Dropout(0.3), nn.Linear(7, 1))
        self.silent = nn.Linear(4, 1)
        self.register_buffer("load", torch.zeros(4))

    def forward(self, batch):
        fit = (self.layer(batch.x)[:, 0] - batch.x[:, 0]).square().mean()
        return {"fit": fit, "off": self.silent(batch.x).mean()}, batch

    def total(self, terms):
        return 2 * terms["fit"]

    def optimizer(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)

    def measure(self, batch):
        return {"sum": batch.x.sum(0), "cells": torch.tensor(float(len(batch.x)))}

    def after_step(self, sums):
        self.load.lerp_(sums["sum"] / sums["cells"], 0.5)

    def parts(self):
        return [self.layer]


def settings(**changes) -> SimpleNamespace:
    sizes = {
        "steps": 7,
        "accumulate_grad_batches": 4,
        "warmup": 2,
        "clip": 1.0,
        "patience": 0,
        "validation_batches": 3,
        "seed": 1,
    }
    often = {"validate_every": 3, "checkpoint_every": 2, "log_every": 1, "machine": Machine()}
    return SimpleNamespace(**sizes | often | changes)


def train(run: Path, data: Data | None = None, stop: int | None = None, **changes) -> tuple[Path, list[int]]:
    """Train the toy in a run folder, killed before step `stop`; returns the weights and the batches drawn."""
    config, data = settings(**changes), data or Data()
    run.mkdir(parents=True, exist_ok=True)
    fabric = connect(config.machine, "cpu", config.accumulate_grad_batches, lambda objective: objective.task.parts())
    engine = Engine(fabric, config, Toy(), data, run, progress=False)
    if stop is not None:
        step = engine.step
        engine.step = lambda reader, number: step(reader, number) if number < stop else int("killed")
    try:
        return engine.fit(), data.given
    finally:
        engine.close()


def error_of(function) -> str:
    try:
        function()
    except (ValueError, FloatingPointError) as error:
        return str(error)
    return ""


def main(folder: Path, sfm_settings: Path) -> None:
    """All scenarios in one process group: it starts once, and is left when no model uses it any more."""
    rank = f"rank{connect(Machine(), 'cpu', 2, list).global_rank}.json"
    sharded = Machine(strategy="fsdp")
    _, given = train(folder / "ddp")
    train(folder / "fsdp", machine=sharded)
    error_of(lambda: train(folder / "again", stop=5))
    train(folder / "again")
    error_of(lambda: train(folder / "handed over", stop=5))
    error_of(lambda: train(folder / "sharded, handed over", stop=5, machine=sharded))
    train(folder / "taken over")
    train(folder / "taken over, sharded", machine=sharded)
    told = {"given": sorted(given)}
    told["poisoned"] = error_of(lambda: train(folder / "poisoned", Data(poisoned=9)))
    told["indivisible"] = error_of(lambda: train(folder / "indivisible", accumulate_grad_batches=3))
    train_sfm(read_config(sfm_settings), progress=False)  # this leaves the group
    (folder / rank).write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
