"""Loads and saves models: JSON config + vocabulary + safetensors, from the bundle, a folder or the Hugging Face hub.

Foreign key names are renamed here alone. Nothing is unpickled.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from sccafm._io import file_hash, whole_path, write_json
from sccafm._text import warn
from sccafm._torch import plain_torch
from sccafm.confidence.calibration import Calibration, read_calibration
from sccafm.model.layout import (
    CANDIDATES,
    EFM_CARD,
    SFM_PICTURES,
    copy_present,
    copy_tables,
    find_files,
    find_release,
    flat_name,
)
from sccafm.model.weights import load_efm, load_sfm, save_efm, save_sfm
from sccafm.nn import EFM, SFM, VGAE, CausalEFM
from sccafm.reference.bundle import ReferenceData, read_reference_data
from sccafm.reference.conditions import Conditions
from sccafm.reference.genes import Vocabulary
from sccafm.reference.regulation import Regulation, read_regulation


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A loaded release: networks in evaluation mode, and everything needed to read data for them."""

    sfm: SFM
    vgae: VGAE | None  # training head; None in a release without it
    efm: EFM | CausalEFM | None  # the published kind, or this library's
    reference_data: ReferenceData  # gene names, conditions, regulators and prior that belong to the weights
    source: str  # where it was loaded from
    revision: str | None
    weights_hash: str  # sha256 of the structure module's weights file
    files: Mapping[str, Path]  # logical name -> file that was read
    calibration: Calibration | None = None  # None in a release without one
    contexts: tuple[str, ...] | None = None  # a name for each factor; None in a release without them
    regulation: Regulation | None = None  # what the edge model says of the vocabulary's genes

    @property
    def embedding_module(self) -> EFM | CausalEFM:
        """`efm`, where there is one; a ValueError otherwise."""
        if self.efm is None:
            raise ValueError(f"the model from {self.source} has no embedding module")
        return self.efm

    @property
    def vocabulary(self) -> Vocabulary:
        """Gene names and their tokens."""
        return self.reference_data.vocabulary

    @property
    def conditions(self) -> Conditions:
        """Platforms, species, tissues and diseases that the model knows."""
        return self.reference_data.conditions

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.sfm.parameters()).device

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.sfm.parameters())
        config = self.sfm.config
        return (
            f"Model from {self.source}: SFM of {count / 1e6:.1f}M parameters (width {config.embed_dim}, "
            f"{config.num_layers} layers, {config.num_factors} factors), EFM {'loaded' if self.efm else 'absent'}, "
            f"{len(self.vocabulary):,} genes, on {self.device}"
        )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model to a folder in the published flat layout; `load` reads it back to the same numbers.

        The folder appears whole or not at all. It must not exist yet, or be empty.
        """
        folder = whole_path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty; choose a new folder or remove it first")
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        copy_tables(self.files, partial)
        save_sfm(partial / "models", self.sfm, self.vgae, like=self.files["sfm_model"])
        self._copy_fitted(partial)
        copy_present(self.files, SFM_PICTURES, partial)
        if self.efm is not None:
            save_efm(partial / "models", self.efm)
            copy_present(self.files, EFM_CARD, partial)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
        return folder

    def _copy_fitted(self, folder: Path) -> None:
        """Copy calibration and names, and let them name the weights as they were just written."""
        own = {"calibration": self.calibration, "calibration_tensors": self.calibration, "contexts": self.contexts}
        digest = file_hash(folder / flat_name("sfm_model"))
        for name in (name for name, content in own.items() if content is not None):
            path = folder / flat_name(name)
            shutil.copyfile(self.files[name], path)
            if path.suffix == ".json":
                write_json(path, json.loads(path.read_text()) | {"weights_hash": digest})


@plain_torch()
def load(
    source: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    revision: str | None = None,
    local_files_only: bool = False,
) -> Model:
    """Load a model.

    Parameters
    ----------
    source
        None: the model that ships with the library. A folder in either published layout. A Hugging Face model
        repository, e.g. ``"kaichenxu/scCAFM"``.
    device
        "auto" takes a CUDA device when there is one, else the CPU; or any torch device ("cuda:1", "mps").
    revision
        Branch, tag or commit of a hub repository.
    local_files_only
        Do not ask the hub; use what was downloaded before.

    Returns
    -------
    Model
        Networks in float32 and evaluation mode.

    Raises
    ------
    FileNotFoundError
        A folder or a file in it is missing.
    ValueError
        A file is damaged or does not fit: the message names the leaf, what was expected and what came. Or no such device.
    """
    folder = find_release(source, revision, local_files_only)
    files = find_files(folder)
    reference_data = read_reference_data(files)
    sizes = (reference_data.vocabulary.size, reference_data.conditions.size)
    device = choose_device(device)
    sfm, vgae = load_sfm(files["sfm_config"], files["sfm_model"], *sizes)
    efm = None
    halves = [name for name in ("efm_config", "efm_model") if name in files]
    if len(halves) == 2:
        efm = load_efm(files["efm_config"], files["efm_model"], *sizes)
    elif halves:
        warn(
            f"{folder} holds {halves[0]} ({files[halves[0]]}) without its other half, looked for "
            f"{[c for name in ('efm_config', 'efm_model') if name not in halves for c in CANDIDATES[name]]}: "
            "the model has no EFM"
        )
    weights_hash = file_hash(files["sfm_model"])
    return Model(
        sfm=sfm.to(device).eval(),
        vgae=vgae and vgae.to(device).eval(),
        efm=efm and efm.to(device).eval(),
        reference_data=reference_data,
        source="bundled" if source is None else str(source),
        revision=revision,
        weights_hash=weights_hash,
        files=files,
        calibration=read_calibration(files, weights_hash),
        contexts=read_contexts(files, weights_hash),
        regulation=read_regulation(files, reference_data.vocabulary.gene_ids()),
    )


def read_contexts(files: Mapping[str, Path], weights_hash: str) -> tuple[str, ...] | None:
    """Names of the factors, as scripts/calibrate.py writes them; None if there are none for these weights."""
    if "contexts" not in files:
        return None
    content = json.loads(files["contexts"].read_text())
    if content["weights_hash"] != weights_hash:
        warn(
            f"{files['contexts']} names the factors of other weights and is not used; name them again: "
            "python scripts/calibrate.py"
        )
        return None
    return tuple(factor["name"] for factor in content["factors"])


def carry_contexts(files: Mapping[str, Path], folder: Path) -> None:
    """Hand the names of a release's factors to the weights in a folder that were trained from it and held to its contexts.

    What stands beside the names (regulators, targets, load) is still that of the weights that they were made for, which
    ``named_for`` tells.
    """
    if "contexts" not in files:
        return
    content = json.loads(files["contexts"].read_text())
    begun, trained = (file_hash(path) for path in (files["sfm_model"], folder / flat_name("sfm_model")))
    if content["weights_hash"] == begun:
        write_json(folder / flat_name("contexts"), content | {"weights_hash": trained, "named_for": begun})


@lru_cache(maxsize=2)
def load_cached(source: str | None, device: str) -> Model:
    """`load` for calls that name a source instead of passing a model."""
    return load(source, device=device)


def choose_device(device: str | torch.device) -> torch.device:
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f'device must be "auto", "cpu", "cuda", "cuda:1", "mps", ...; got {device!r}') from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError('device="cuda" was asked for, but torch sees no CUDA device; pass device="cpu" or "auto"')
    return chosen
