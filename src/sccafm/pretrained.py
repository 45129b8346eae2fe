"""Loads and saves models: JSON config + vocabulary + safetensors, from the bundle, a folder or the Hugging Face hub.

Foreign key names are renamed here alone. Nothing is unpickled.
"""

import dataclasses
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sccafm.calibration import Calibration, read_calibration
from sccafm.conditions import Conditions
from sccafm.genes import Vocabulary
from sccafm.lexicon import Lexicon, read_lexicon
from sccafm.nn import EFM, SFM, VGAE, CausalEFM, CausalEFMConfig, EFMConfig, SFMConfig, VGAEConfig
from sccafm.resources import bundled

# Where a logical file may stand: the structured layout, the flat one, the folder itself; the first that exists is read.
CANDIDATES = {
    "sfm_config": ("models/sfm/sfm_config.json", "models/sfm_config.json", "sfm_config.json"),
    "sfm_model": ("models/sfm/sfm_model.safetensors", "models/sfm_model.safetensors", "sfm_model.safetensors"),
    "efm_config": ("models/efm/efm_config.json", "models/efm_config.json", "efm_config.json"),
    "efm_model": ("models/efm/efm_model.safetensors", "models/efm_model.safetensors", "efm_model.safetensors"),
    "vocab": ("tokenizer/vocab.json", "models/vocab.json", "vocab.json"),
    "vocab_tensors": ("tokenizer/vocab.safetensors", "models/vocab.safetensors", "vocab.safetensors"),
    "cond_dict": ("tokenizer/cond_dict.json", "models/cond_dict.json", "cond_dict.json"),
    "human_tfs": ("resources/human_tfs.csv", "human_tfs.csv"),
    "mouse_tfs": ("resources/mouse_tfs.csv", "mouse_tfs.csv"),
    "omnipath": ("resources/OmniPath.csv", "OmniPath.csv"),
    "homologous": ("resources/homologous.csv", "homologous.csv"),
    "calibration": ("models/calibration.json", "calibration.json"),
    "calibration_tensors": ("models/calibration.safetensors", "calibration.safetensors"),
    "genesets": ("models/genesets.gmt.gz", "genesets.gmt.gz"),
    "contexts": ("models/contexts.json", "contexts.json"),
    "aliases": ("models/aliases.csv", "aliases.csv"),
    "model_card": ("models/README.md",),
    "curves": ("models/curves.png",),
    "reliability": ("models/reliability.png",),
    "efm_card": ("models/efm_card.md",),
    "efm_curves": ("models/efm_curves.png",),
}
REQUIRED = ("sfm_config", "sfm_model", "vocab", "cond_dict")
BORROWED = (
    "human_tfs",
    "mouse_tfs",
    "omnipath",
    "homologous",
    "aliases",
    "genesets",
)  # the bundle's own where a release has none
FITTED = ("calibration", "calibration_tensors", "contexts")  # belong to the weights beside them alone
SFM_PICTURES, EFM_CARD = (
    ("curves", "reliability"),
    ("efm_card", "efm_curves"),
)  # of the cards: go where their weights go
EFM_KINDS = {"efm": EFMConfig, "causal_efm": CausalEFMConfig}  # section of efm_config.json -> the published, and ours
SFM_PREFIX, VGAE_PREFIX = "foundation_modules.sfm.", "head_modules.vgae."
REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # "./folder" is none
# Parameters that checkpoints carried before the renaming of 2026-05-05.
OLD_KEYS = ("zero_embedding", "expr_modulator", "condition_encoder", "cell_context_encoder", "position_embedding.")


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A loaded release: networks in evaluation mode, and everything needed to read data for them."""

    sfm: SFM
    vgae: VGAE | None  # training head; None in a release without it
    efm: EFM | CausalEFM | None  # the published kind, or this library's
    lexicon: Lexicon  # gene names, conditions, regulators and prior that belong to the weights
    source: str  # where it was loaded from
    revision: str | None
    weights_hash: str  # sha256 of the structure module's weights file
    files: Mapping[str, Path]  # logical name -> file that was read
    calibration: Calibration | None = None  # None in a release without one
    contexts: tuple[str, ...] | None = None  # a name for each factor; None in a release without them

    @property
    def vocabulary(self) -> Vocabulary:
        return self.lexicon.vocabulary

    @property
    def conditions(self) -> Conditions:
        return self.lexicon.conditions

    @property
    def device(self) -> torch.device:
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
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty; choose a new folder or remove it first")
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        copy_tables(self.files, partial)
        save_sfm(partial / "models", self.sfm, self.vgae)
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
    lexicon = read_lexicon(files)
    sizes = (lexicon.vocabulary.size, lexicon.conditions.size)
    device = choose_device(device)
    sfm, vgae = load_sfm(files["sfm_config"], files["sfm_model"], *sizes)
    efm = None
    halves = [name for name in ("efm_config", "efm_model") if name in files]
    if len(halves) == 2:
        efm = load_efm(files["efm_config"], files["efm_model"], *sizes)
    elif halves:
        warnings.warn(
            f"{folder} holds {halves[0]} ({files[halves[0]]}) without its other half, looked for "
            f"{[c for name in ('efm_config', 'efm_model') if name not in halves for c in CANDIDATES[name]]}: "
            "the model has no EFM",
            stacklevel=2,
        )
    weights_hash = file_hash(files["sfm_model"])
    return Model(
        sfm=sfm.to(device).eval(),
        vgae=vgae and vgae.to(device).eval(),
        efm=efm and efm.to(device).eval(),
        lexicon=lexicon,
        source="bundled" if source is None else str(source),
        revision=revision,
        weights_hash=weights_hash,
        files=files,
        calibration=read_calibration(files, weights_hash),
        contexts=read_contexts(files, weights_hash),
    )


def read_contexts(files: Mapping[str, Path], weights_hash: str) -> tuple[str, ...] | None:
    """Names of the factors, as scripts/calibrate.py writes them; None if there are none for these weights."""
    if "contexts" not in files:
        return None
    content = json.loads(files["contexts"].read_text())
    if content["weights_hash"] != weights_hash:
        warnings.warn(
            f"{files['contexts']} names the factors of other weights and is not used; name them again: "
            "python scripts/calibrate.py",
            stacklevel=3,
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


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copy_tables(files: Mapping[str, Path], folder: Path) -> None:
    """Copy what belongs to no weights into a folder of the flat layout."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    for name, path in files.items():
        if name.removesuffix("_config").removesuffix("_model") not in ("sfm", "efm", *SFM_PICTURES, *EFM_CARD, *FITTED):
            shutil.copyfile(path, folder / flat_name(name))


def copy_present(files: Mapping[str, Path], names: Iterable[str], folder: Path) -> None:
    """Copy those of some logical files that a release has."""
    for name in names:
        if name in files:
            shutil.copyfile(files[name], folder / flat_name(name))


def flat_name(name: str) -> str:
    """Where the flat layout keeps a logical file."""
    flat = [c for c in CANDIDATES[name] if c.startswith("models/") and c.count("/") == 1]
    return flat[0] if flat else CANDIDATES[name][-1]


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


def find_release(source: str | Path | None, revision: str | None, local_files_only: bool) -> Path:
    """Folder of a release: the bundle, a local folder, or a hub snapshot. Looks at the disk first."""
    if source is None:
        return bundled()
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise FileNotFoundError(f"{source} is a file; a model is a folder, e.g. sccafm.load({str(path.parent)!r})")
    parent_exists = path.parent != Path(".") and path.parent.is_dir()
    if parent_exists or not isinstance(source, str) or not REPO_ID.fullmatch(source):
        near = sorted(p.name for p in path.parent.iterdir() if p.is_dir()) if path.parent.is_dir() else []
        raise FileNotFoundError(
            f"no folder {source!r} ({path.parent} holds the folders {near[:8]}). A model is None (the bundled one), "
            "a local folder, or a hub repository written as 'owner/name'"
        )
    return download(source, revision, local_files_only)


def download(repo_id: str, revision: str | None, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    patterns = sorted({pattern for candidates in CANDIDATES.values() for pattern in candidates})
    try:
        return Path(
            snapshot_download(repo_id, revision=revision, local_files_only=local_files_only, allow_patterns=patterns)
        )
    except Exception as error:  # the hub client raises a dozen kinds, and which depends on its version
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FileNotFoundError(
            f"no local folder {repo_id!r}, and the Hugging Face hub gave no such model ({type(error).__name__}: "
            f"{reason}). Check the name, the network and HF_TOKEN, or download the repository and pass its folder"
        ) from error


def find_files(folder: Path, required: tuple[str, ...] = REQUIRED) -> dict[str, Path]:
    """Each logical file's path: in the release, else in the bundle for what a release may borrow."""
    files = {}
    for name, candidates in CANDIDATES.items():
        roots = [folder, bundled()] if name in BORROWED else [folder]
        found = next((root / c for root in roots for c in candidates if (root / c).is_file()), None)
        if found is not None:
            files[name] = found
        elif name in required:
            raise FileNotFoundError(f"{folder} is no model folder: it lacks {name}, looked for {list(candidates)}")
    return files


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


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


def tensors(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + key: t.detach().cpu().contiguous() for key, t in module.state_dict().items()}


def save_sfm(folder: Path, sfm: SFM, vgae: VGAE | None) -> None:
    """Write sfm_config.json and sfm_model.safetensors in the published form."""
    head = VGAEConfig() if vgae is None else vgae.config
    write_json(folder / "sfm_config.json", {"sfm": dataclasses.asdict(sfm.config), "vgae": dataclasses.asdict(head)})
    weights = tensors(sfm, SFM_PREFIX) | ({} if vgae is None else tensors(vgae, VGAE_PREFIX))
    save_file(weights, folder / "sfm_model.safetensors")
