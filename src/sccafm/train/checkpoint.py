"""Weights and optimiser moments in one safetensors file that appears whole, whatever the number of processes.

Tensors are stored whole under their parameter's name, so that any number of processes reads what any other wrote.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sccafm._io import write_whole

MODEL, OPTIMIZER = "model.", "optimizer."


def whole(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, put together where processes hold parts of it: all of them must ask."""
    from torch.distributed.tensor import DTensor

    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.detach().cpu().contiguous()


def split_like(tensor: Tensor, example: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(example, DTensor):
        return distribute_tensor(tensor.to(example.device), example.device_mesh, example.placements)
    return tensor


def save_checkpoint(
    path: Path, module: Any, optimizer: torch.optim.Optimizer | None, progress: dict, write: bool
) -> None:
    """Every process must call this; the one that is to `write` does."""
    tensors = {MODEL + name: whole(value) for name, value in module.state_dict().items()}
    if optimizer is not None:
        for name, parameter in module.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{OPTIMIZER}{key}.{name}"] = whole(torch.as_tensor(value))
    if write:
        write_whole(path, lambda p: save_file(tensors, p, {"progress": json.dumps(progress)}))


def read_weights(path: Path, prefix: str) -> dict[str, Tensor]:
    """Weights of the part of the trained module whose names begin with `prefix`, by the part's own names."""
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(MODEL + prefix)]  # noqa: SIM118, no mapping
        return {name.removeprefix(MODEL + prefix): file.get_tensor(name) for name in names}


def load_checkpoint(path: Path, module: Any, optimizer: torch.optim.Optimizer | None = None) -> dict:
    """Fill a network, and an optimiser if there is one; returns what was stored of the run's progress."""
    with safe_open(path, "pt") as file:
        told = file.metadata() or {}
    if "progress" not in told:
        raise ValueError(
            f"{path} was written by an older version; finish the run with that version, or choose a new folder"
        )
    tensors = load_file(path)
    state = module.state_dict()
    weights = {name.removeprefix(MODEL): value for name, value in tensors.items() if name.startswith(MODEL)}
    module.load_state_dict({name: split_like(value, state.get(name, value)) for name, value in weights.items()})
    if optimizer is not None:
        fill_optimizer(optimizer, module, tensors)
    return json.loads(told["progress"])


def fill_optimizer(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    names = {parameter: name for name, parameter in module.named_parameters()}
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    parameters = dict(module.named_parameters())
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(OPTIMIZER):
            moment, name = key.removeprefix(OPTIMIZER).split(".", 1)
            part = split_like(value, parameters[name]) if value.ndim else value
            state.setdefault(ordered.index(name), {})[moment] = part
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
