"""The networks of a model, written to a folder for processes that need nothing else of it."""

import json
from pathlib import Path

import torch
from torch import nn

from sccafm.model.weights import load_efm, load_sfm, save_efm, save_sfm
from sccafm.nn import EFM, SFM, CausalEFM


def write_modules(folder: Path, sfm: SFM, efm: EFM | CausalEFM | None = None) -> None:
    save_sfm(folder, sfm, None)
    if efm is not None:
        save_efm(folder, efm)
    sizes = (rows_of(sfm.embedding.gene_embedding), rows_of(sfm.embedding.condition_embedding.cond_embedding))
    content = {"sizes": sizes, "device": str(next(sfm.parameters()).device), "has_efm": efm is not None}
    (folder / "modules.json").write_text(json.dumps(content))


def rows_of(embedding: nn.Embedding) -> int:
    return embedding.num_embeddings


def read_modules(folder: Path) -> tuple[SFM, EFM | CausalEFM | None]:
    """In evaluation mode, on the device that they were on."""
    content = json.loads((folder / "modules.json").read_text())
    device = torch.device(content["device"])
    sizes = content["sizes"]
    sfm, _ = load_sfm(folder / "sfm_config.json", folder / "sfm_model.safetensors", *sizes)
    efm = None
    if content["has_efm"]:
        efm = load_efm(folder / "efm_config.json", folder / "efm_model.safetensors", *sizes).to(device).eval()
    return sfm.to(device).eval(), efm
