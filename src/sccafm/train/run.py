"""The frame of a run, from a folder of files to a model folder: the same for whatever is trained.

A module that trains something (`sccafm.train.sfm`, `sccafm.train.efm`) hands it what is its own, a `TaskDefinition`.
"""

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sccafm._io import write_whole
from sccafm._text import warn
from sccafm.reference.bundle import ReferenceData
from sccafm.train.config import RunConfig, read_config
from sccafm.train.corpus import Corpus
from sccafm.train.engine import CHECKPOINT, Engine
from sccafm.train.machine import connect, disconnect

FREE = ("steps", "threads", "device", "machine", "checkpoint_every", "patience", "run")  # may change within a run
Files = dict[str, Path]
Networks = tuple[nn.Module, ...]


@dataclass(frozen=True)
class TaskDefinition:
    """What a kind of run has of its own."""

    release: Callable[[Any], tuple[Files, ReferenceData]]
    """Files of the model folder that it stands on, and their tables."""
    build: Callable[[Any, Files, ReferenceData, Corpus], Networks]
    """Networks to begin with, on the CPU."""
    build_task: Callable[[Any, Any, ReferenceData, Corpus], tuple[Any, Any]]
    """Losses of these networks and where their batches come from: a `Task` and its `Data` (`sccafm.train.engine`)."""
    write_model: Callable[[Any, Any, Files, Path, Corpus], None]
    """The model folder, from the file of trained weights. The networks are whole ones on the CPU, to be filled: those that
    trained may be spread over processes."""
    for_edges: bool
    """Whether the corpus makes what the structure module is taught by."""


def train(config: RunConfig, kind: TaskDefinition, progress: bool) -> Path:
    """Train, or take up a stopped run; returns the model folder."""
    with processes(config) as fabric:
        config.run.mkdir(parents=True, exist_ok=True)
        if fabric.is_global_zero:
            check_run(config)
        fabric.barrier()
        files, reference_data = kind.release(config)
        ranks = {"rank": fabric.global_rank, "world": fabric.world_size, "barrier": fabric.barrier}
        with closing(Corpus(config, reference_data, progress, for_edges=kind.for_edges, **ranks)) as corpus:
            kept, trained = fit(fabric, config, kind, files, reference_data, corpus, progress)
        if kept is not None:
            kind.write_model(kept, config, files, trained, corpus)
        fabric.barrier()
    return config.run / "model"


def parts_of(objective: Any) -> list[nn.Module]:
    return objective.task.parts()


@contextmanager
def processes(config: RunConfig) -> Iterator:
    """The fabric of this process, launched, as one of those that train."""
    if config.threads:
        torch.set_num_threads(config.threads)
    fabric = connect(config.machine, config.device, config.accumulate_grad_batches, parts_of)
    try:
        yield fabric
    finally:
        disconnect()


def fit(
    fabric,
    config: RunConfig,
    kind: TaskDefinition,
    files: Files,
    reference_data: ReferenceData,
    corpus: Corpus,
    progress: bool,
) -> tuple[Networks | None, Path]:
    """A copy of the networks as they were, in the process that writes the model, and the file of trained weights.

    No network that was spread over processes outlives this function, so that the group may be left.
    """
    networks = kind.build(config, files, reference_data, corpus)
    kept = copy.deepcopy(networks) if fabric.is_global_zero else None
    engine = Engine(fabric, config, *kind.build_task(config, networks, reference_data, corpus), config.run, progress)
    try:
        return kept, engine.fit()
    finally:
        engine.close()


def check_run(config: RunConfig) -> None:
    """A run folder belongs to one configuration; what is in `FREE` may change, at the price of other bits."""
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    path = config.run / "config.json"
    if path.exists() and (config.run / CHECKPOINT).exists():  # before the first checkpoint nothing was trained
        found = json.loads(json.dumps(dataclasses.asdict(read_config(path, type(config))), default=str))
        differing = [k for k, v in settings.items() if k not in FREE and found[k] != v]
        if differing:
            raise ValueError(
                f"{config.run} belongs to another configuration (it differs in {differing}); choose a new folder"
            )
        if found["steps"] != settings["steps"]:
            warn(
                f"{config.run} was begun for {found['steps']:,} steps and goes on to {settings['steps']:,}: the learning "
                "rate follows the new cosine from here, so that the model is not that of an unbroken run"
            )
    write_whole(path, lambda p: p.write_text(json.dumps(settings, indent=2) + "\n"))


def warn_ignored(section: str, asked, loaded, default) -> None:
    """Say which settings have no effect because the network comes from a model folder."""
    asked, loaded, default = (dataclasses.asdict(config) for config in (asked, loaded, default))
    ignored = [key for key in asked if asked[key] not in (loaded[key], default[key])]
    if ignored:
        told = ", ".join(f"{section}.{key}={asked[key]!r} (the model has {loaded[key]!r})" for key in ignored)
        warn(f"with init the network comes from the model folder; without effect: {told}")
