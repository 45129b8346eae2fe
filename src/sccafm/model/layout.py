"""Where the files of a release stand: bundle, folder or Hugging Face hub; structured or flat."""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from sccafm.reference.tables import bundled

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
    "regulation": ("models/regulation.json", "regulation.json"),
    "regulation_tensors": ("models/regulation.safetensors", "regulation.safetensors"),
    "genesets": ("models/genesets.gmt.gz", "genesets.gmt.gz"),
    "contexts": ("models/contexts.json", "contexts.json"),
    "lineages": ("models/lineages.csv", "lineages.csv"),
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
    "lineages",
    "regulation",
    "regulation_tensors",
)  # the bundle's own where a release has none
FITTED = ("calibration", "calibration_tensors", "contexts")  # belong to the weights beside them alone
SFM_PICTURES, EFM_CARD = (
    ("curves", "reliability"),
    ("efm_card", "efm_curves"),
)  # of the cards: go where their weights go
REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # "./folder" is none


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


def find_release(source: str | Path | None, revision: str | None, local_files_only: bool) -> Path:
    """Folder of a release: the bundle, a local folder, or a hub snapshot. Looks at the disk first."""
    if source is None:
        return bundled()
    path = Path(source).expanduser()
    if path.is_dir():
        return path.absolute()
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
