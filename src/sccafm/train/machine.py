"""Where training runs: one device, several, or several machines, by lightning-fabric over torch.distributed.

The same command works alone, under torchrun and under Slurm: what they set in the environment says how many processes
there are.
"""

import inspect
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sccafm._text import warn
from sccafm.model.model import choose_device
from sccafm.train.config import Machine


def launched(environment=os.environ) -> tuple[int, int] | None:
    """Processes per machine and machines, as torchrun or Slurm started them; None where neither did."""
    if "LOCAL_WORLD_SIZE" in environment and "WORLD_SIZE" in environment:  # torchrun
        local = int(environment["LOCAL_WORLD_SIZE"])
        return local, int(environment["WORLD_SIZE"]) // local
    if "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(environment.get("SLURM_NNODES", 1))
        return int(environment.get("SLURM_NTASKS_PER_NODE", int(environment["SLURM_NTASKS"]) // nodes)), nodes
    return None


def is_first(environment=os.environ) -> bool:
    """Whether this is the process that speaks for all."""
    return not any(int(environment.get(name, 0)) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))


def connect(machine: Machine, device: str, batches: int, parts: Callable[[nn.Module], list[nn.Module]]):
    """Start the processes and join them.

    Parameters
    ----------
    machine
        Devices, machines, strategy, precision.
    device
        "auto", or a torch device; with an index ("cuda:1") one process on that device.
    batches
        Micro-batches of one step, to be shared equally.
    parts
        Modules of the network that "fsdp" gathers one at a time.

    Returns
    -------
    lightning_fabric.Fabric
        Launched.

    Raises
    ------
    ImportError
        lightning-fabric is not installed.
    ValueError
        The processes cannot share the batches, or the settings do not fit the processes that were started.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise ImportError("training needs lightning-fabric: pip install 'sccafm[train]'") from error
    devices, nodes = count_processes(machine)
    world = devices * nodes
    if batches % world:
        raise ValueError(
            f"{world} processes cannot share accumulate_grad_batches={batches} equally; set it to a multiple, e.g. {world} "
            f"(a run that is taken up again keeps it on any number of processes that divides them)"
        )
    chosen = choose_device(device)
    if chosen.index is not None and world > 1:
        raise ValueError(f"device={device!r} is one device, but there are {world} processes; write {chosen.type!r}")
    fabric = Fabric(
        accelerator=chosen.type,
        devices=devices if chosen.index is None or chosen.type == "cpu" else [chosen.index],
        num_nodes=nodes,
        strategy=choose_strategy(machine, world, parts),
        precision=choose_precision(machine.precision, chosen),
    )
    fabric.launch()
    return fabric


def count_processes(machine: Machine) -> tuple[int, int]:
    found = launched()
    if found is None:
        return machine.devices or 1, machine.nodes or 1
    for name, asked, there in zip(("devices", "nodes"), (machine.devices, machine.nodes), found, strict=True):
        if asked not in (None, there):
            raise ValueError(
                f"machine.{name} is {asked}, but {there} were started; leave it out under torchrun or Slurm"
            )
    return found


def choose_precision(precision: str, device: torch.device) -> Any:
    if precision != "auto":
        return precision
    return "bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32-true"


def choose_strategy(machine: Machine, world: int, parts: Callable[[nn.Module], list[nn.Module]]):
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    if world == 1:
        if machine.strategy == "fsdp":
            warn('one process has nothing to share: machine.strategy="fsdp" is ignored')
        return "auto"
    timeout = timedelta(minutes=machine.timeout)
    if machine.strategy == "fsdp":
        return ModelParallelStrategy(sharding(parts), data_parallel_size=world, tensor_parallel_size=1, timeout=timeout)
    # Buffers are the same everywhere by themselves; torch 2.13 gave the switch a new name.
    names = ("forward_sync_buffers", "broadcast_buffers")
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    buffers: dict[str, Any] = {next(name for name in names if name in known): False}
    # A term that is switched off leaves its parameters without a gradient.
    return DDPStrategy(find_unused_parameters=True, timeout=timeout, **buffers)


def sharding(parts: Callable[[nn.Module], list[nn.Module]]) -> Callable:
    def shard(module: nn.Module, mesh) -> nn.Module:
        from torch.distributed.fsdp import fully_shard

        for part in [*parts(module), module]:
            fully_shard(part, mesh=mesh["data_parallel"])
        return module

    return shard


def disconnect() -> None:
    """Leave the process group, after the last model that uses it is gone: gloo may abort at exit otherwise."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
