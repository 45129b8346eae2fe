"""Weights on disk: configs and safetensors, read strictly and written in the published form."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sccafm._io import write_json
from sccafm.nn import EFM, SFM, VGAE, CausalEFM, CausalEFMConfig, EFMConfig, SFMConfig, VGAEConfig

EFM_KINDS = {"efm": EFMConfig, "causal_efm": CausalEFMConfig}  # section of efm_config.json -> the published, and ours
SFM_PREFIX, VGAE_PREFIX = "foundation_modules.sfm.", "head_modules.vgae."
# Parameters that checkpoints carried before the renaming of 2026-05-05.
OLD_KEYS = ("zero_embedding", "expr_modulator", "condition_encoder", "cell_context_encoder", "position_embedding.")


def load_sfm(config_file: Path, weights_file: Path, vocab_size: int, num_conditions: int) -> tuple[SFM, VGAE | None]:
    """Structure module and its training head (None where the file holds only the module)."""
    config = read_sections(config_file, "sfm", "vgae")
    weights = read_tensors(weights_file)
    own = {key.removeprefix(SFM_PREFIX): t for key, t in weights.items() if key.startswith(SFM_PREFIX)}
    head = {key.removeprefix(VGAE_PREFIX): t for key, t in weights.items() if key.startswith(VGAE_PREFIX)}
    with torch.random.fork_rng(devices=[]):  # loading draws no numbers from the user's generator
        sfm = SFM(configure(SFMConfig, config["sfm"], config_file), vocab_size, num_conditions)
        vgae = VGAE(configure(VGAEConfig, config["vgae"], config_file)) if head else None
    fill_module(sfm, own or weights, weights_file)
    if vgae is not None:
        fill_module(vgae, head, weights_file)
    return sfm, vgae


def load_efm(config_file: Path, weights_file: Path, vocab_size: int, num_conditions: int) -> EFM | CausalEFM:
    """Embedding module of either kind; the name of the config's section tells which."""
    found = read_sections(config_file)
    kind = "causal_efm" if "causal_efm" in found else "efm"
    config = configure(EFM_KINDS[kind], read_sections(config_file, kind)[kind], config_file)
    with torch.random.fork_rng(devices=[]):
        efm = CausalEFM(config, vocab_size) if kind == "causal_efm" else EFM(config, vocab_size, num_conditions)
    fill_module(efm, read_tensors(weights_file), weights_file)
    return efm


def load_causal_efm(folder: Path) -> CausalEFM:
    """An embedding module of this library from its two files alone, in evaluation mode; its own tensors tell the vocabulary's size."""
    path = folder / "efm_model.safetensors"
    with safe_open(path, "pt") as file:
        names = file.keys()
        vocab_size = file.get_slice("gene_vectors").get_shape()[0] if "gene_vectors" in names else 0
    efm = load_efm(folder / "efm_config.json", path, vocab_size, 0)
    if not isinstance(efm, CausalEFM):
        raise ValueError(f"{folder} holds a published embedding module; one of this library was expected")
    return efm.eval().requires_grad_(False)


def save_efm(folder: Path, efm: EFM | CausalEFM) -> None:
    """Write efm_config.json and efm_model.safetensors."""
    kind = next(kind for kind, config in EFM_KINDS.items() if isinstance(efm.config, config))
    write_json(folder / "efm_config.json", {kind: dataclasses.asdict(efm.config)})
    save_file(tensors(efm), folder / "efm_model.safetensors")


def configure(kind: type, section: Mapping, file: Path):
    """A frozen config from its JSON section; an unknown key is an error."""
    known = [f.name for f in dataclasses.fields(kind)]
    unknown = sorted(set(section) - set(known))
    if unknown:
        raise ValueError(f"{file} has unknown keys {unknown} for {kind.__name__}; known are {known}")
    try:
        return kind(**section)
    except ValueError as error:
        raise ValueError(f"{file}, {kind.__name__}: {error}") from error


def fill_module(module: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """Strict loading that names the leaf: nothing missing, nothing left over, every shape as built."""
    expected = module.state_dict()
    old = [key for key in weights if any(part in key for part in OLD_KEYS) and key not in expected]
    if old:
        raise ValueError(
            f"{file} was written before the published renaming of 2026-05-05 (it holds {old[0]!r}) and no current "
            "reader can load it; ask for a newer release"
        )
    missing, extra = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing or extra:
        raise ValueError(
            f"{file} does not fit its config: {len(missing)} tensors are missing (first {missing[:3]}), "
            f"{len(extra)} are not expected (first {extra[:3]})"
        )
    for key, tensor in weights.items():
        if tensor.shape != expected[key].shape:
            raise ValueError(
                f"{file}: {key} should have the shape {tuple(expected[key].shape)} by config and vocabulary, "
                f"it has {tuple(tensor.shape)}"
            )
    module.load_state_dict({key: tensor.to(expected[key].dtype) for key, tensor in weights.items()})


def read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, "pt"):  # reads the header only: a damaged file fails before its size is allocated
            return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} is no complete safetensors file ({error}); it may be cut short or a Git LFS pointer: download it again"
        ) from error


def read_sections(file: Path, *names: str) -> dict[str, dict]:
    """A config file: JSON with an object under each name."""
    try:
        config = json.loads(file.read_text())
    except ValueError as error:  # not JSON, or not text
        raise ValueError(f"{file} is not JSON ({error}); download the file again") from error
    found = [name for name, section in config.items() if isinstance(section, dict)] if isinstance(config, dict) else []
    if not set(names) <= set(found):
        raise ValueError(f"{file} needs the sections {list(names)}; it has {found}")
    return config


def tensors(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + key: t.detach().cpu().contiguous() for key, t in module.state_dict().items()}


def save_sfm(folder: Path, sfm: SFM, vgae: VGAE | None, like: Path | None = None) -> None:
    """Write sfm_config.json and sfm_model.safetensors in the published form.

    Where the file `like` holds the same values under the same names, its bytes are copied: the weights then keep their hash, by which
    networks, spaces and heads know them.
    """
    head = VGAEConfig() if vgae is None else vgae.config
    write_json(folder / "sfm_config.json", {"sfm": dataclasses.asdict(sfm.config), "vgae": dataclasses.asdict(head)})
    weights = tensors(sfm, SFM_PREFIX) | ({} if vgae is None else tensors(vgae, VGAE_PREFIX))
    target = folder / "sfm_model.safetensors"
    if like is not None and holds_the_same(like, weights):
        shutil.copyfile(like, target)
    else:
        save_file(weights, target)


def holds_the_same(file: Path, weights: Mapping[str, Tensor]) -> bool:
    found = read_tensors(file)
    return set(found) == set(weights) and all(
        found[name].shape == tensor.shape and torch.equal(found[name].to(tensor.dtype), tensor)
        for name, tensor in weights.items()
    )


def module_hash(module: torch.nn.Module) -> str:
    """sha256 over names and values of a module's tensors."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
