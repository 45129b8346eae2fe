"""What `infer_grn` and `embed` are handed beside the data: settings are checked, and a model is found."""

from pathlib import Path

import numpy as np
import torch

from sccafm._text import warn
from sccafm.data.options import InputOptions
from sccafm.model.model import Model, load, load_cached


def check_settings(batch_size: object, options: InputOptions) -> None:
    """What every call that reads cells is handed."""
    if batch_size != "auto" and (batch_size is True or not isinstance(batch_size, (int, np.integer)) or batch_size < 1):
        raise ValueError(f'batch_size must be "auto" or a positive whole number, got {batch_size!r}')
    if options.genes is not None and options.n_top_genes not in (None, InputOptions.n_top_genes):
        warn("n_top_genes has no effect where genes= names the genes to read")


def check_edges(top_k: object, min_weight: object, null_cells: object) -> None:
    """Which edges are kept and tested."""
    if (
        isinstance(null_cells, bool)
        or not isinstance(null_cells, (int, np.integer))
        or not (null_cells == 0 or null_cells >= 8)
    ):
        raise ValueError(f"null_cells must be 0 or a whole number of at least 8, got {null_cells!r}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or top_k < 1):
        raise ValueError(f"top_k must be a positive whole number or None for no limit, got {top_k!r}")
    if min_weight is not None and not (isinstance(min_weight, int | float | np.number) and 0 <= min_weight <= 1):
        raise ValueError(f"min_weight must lie between 0 and 1, got {min_weight!r}")


def check_key(key: object, name: str = "key_added") -> None:
    """A name under which results can be written to h5ad."""
    if not isinstance(key, str) or not key.strip() or set(key) & set("/\0") or key.strip(".") == "":
        raise ValueError(f'{name} must be a name that h5ad can hold: text without "/", such as "sccafm"; got {key!r}')


def as_model(model: Model | str | Path | None, device: str) -> Model:
    if isinstance(model, Model):
        if device != "auto" and torch.device(device) != model.device:
            warn(f"device={device!r} has no effect: the loaded model is on {model.device}")
        return model
    if model is None:
        return load_cached(None, str(device))
    return load(model, device=device)


def forward_batch_size(batch_size: int | str, model: Model) -> int:
    if batch_size != "auto":
        return int(batch_size)
    return 16 if model.device.type == "cpu" else 32
