"""Heads: what reads a label or a number from a cell's vector, with its scores on held-out cells, in memory and in a folder."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sccafm._io import new_folder, whole_path, write_whole
from sccafm.model.weights import load_causal_efm, save_efm
from sccafm.nn import CausalEFM
from sccafm.tl.networks import Fit, Settings, make_network, outputs
from sccafm.tl.tuning import Finetune

FORMAT, FORMATS = 2, (1, 2)


@dataclass(frozen=True, eq=False)
class Tuned:
    """The embedding module that was trained with a head, and what it reads of a cell."""

    efm: CausalEFM = field(repr=False)
    finetune: Finetune
    gene_ids: np.ndarray = field(repr=False)  # G rows of the vocabulary
    symbols: tuple[str, ...] = field(repr=False)  # G, in the species of the cells it was fitted on
    is_tf: np.ndarray = field(repr=False)  # G bool
    preprocess: str  # as in `sccafm.embed`
    weights_hash: str  # of the structure module whose factors it reads
    source: str  # where that was loaded from


@dataclass(frozen=True, eq=False)
class Head:
    """A fitted head. `scores` says what it is worth on cells of groups that it had not seen."""

    settings: Settings
    classes: tuple[str, ...]  # of "classify"
    network: nn.Module = field(repr=False)
    center: Tensor = field(repr=False)  # D, and scale: what the vectors are standardised by
    scale: Tensor = field(repr=False)
    temperature: float  # logits are divided by it; 1 for "regress"
    scores: pd.DataFrame = field(repr=False)  # a row per fold, and "all"
    held_out: pd.DataFrame = field(repr=False)  # predictions of the cells while they were held out
    embedding_hash: str = field(repr=False)  # of the module that made the vectors; "" where unknown
    tuned: Tuned | None = field(default=None, repr=False)  # with `finetune`: the module that makes its vectors

    def __repr__(self) -> str:
        s = self.settings
        whole = self.scores.iloc[-1]
        measures = ", ".join(
            f"{m} {whole[m]:.3f}" for m in self.scores.columns if m not in ("fold", "held_out", "n_cells")
        )
        across = f"{len(self.scores) - 1} folds" + (f" of {s.groups}" if s.groups else " of cells at random")
        read = repr(s.use_rep)
        if self.tuned is not None:
            read = f"{len(self.tuned.gene_ids):,} genes, embedding module fine-tuned for {self.tuned.finetune.epochs:g} epochs"
        return f"Head ({s.kind}, {s.network}) of {s.target!r} on {read}: over {across}, {measures}"

    @property
    def labels(self) -> list:
        """`classes` as they stood in obs: text, whole numbers or booleans."""
        read = {"int": int, "bool": {"True": True, "False": False}.__getitem__}.get(self.settings.labels, str)
        return [read(name) for name in self.classes]

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Probabilities, C classes, or values, C."""
        out = outputs(Fit(self.network, self.center, self.scale), torch.from_numpy(x).float())
        out = torch.softmax(out / self.temperature, 1) if self.settings.kind == "classify" else out[:, 0]
        return out.numpy()

    def write(self, folder: str | Path) -> Path:
        """Write to a folder that is new or empty: JSON and safetensors.

        `read_head` and `predict` read it. With `finetune` it holds the tuned embedding module too. Each file appears whole,
        and head.json, without which it is no head, last.
        """
        folder = new_folder(folder)
        tensors = {f"network.{k}": t.contiguous() for k, t in self.network.state_dict().items()}
        tensors |= {"center": self.center, "scale": self.scale}
        write_whole(folder / "head.safetensors", lambda p: save_file(tensors, p))
        content = {"format": FORMAT, "settings": asdict(self.settings), "classes": list(self.classes)}
        content |= {"temperature": self.temperature, "embedding_hash": self.embedding_hash}
        content |= {"scores": json.loads(self.scores.to_json(orient="records"))}
        content |= {"held_out": json.loads(self.held_out.to_json(orient="split"))}
        content |= {"tuned": None if self.tuned is None else write_tuned(self.tuned, folder)}
        write_whole(folder / "head.json", lambda p: p.write_text(json.dumps(content, indent=1) + "\n"))
        return folder


def read_head(folder: str | Path) -> Head:
    """Read what `Head.write` wrote. FileNotFoundError or ValueError where it is no head of this version."""
    folder = whole_path(folder)
    path = folder / "head.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no head: it has no head.json")
    content = json.loads(path.read_text())
    if content.get("format") not in FORMATS:
        raise ValueError(
            f"{path} has the format {content.get('format')}, this version reads {FORMATS}; fit the head again"
        )
    tensors = load_file(folder / "head.safetensors")
    for name in ("steps", "learning_rate"):  # heads of before had fixed ones
        content["settings"].pop(name, None)
    settings, classes = Settings(**content["settings"]), tuple(content["classes"])
    network = make_network(settings, len(tensors["center"]), len(classes) or 1)
    network.load_state_dict({k.removeprefix("network."): t for k, t in tensors.items() if k.startswith("network.")})
    held_out = pd.DataFrame(**content["held_out"])
    tuned = content.get("tuned")  # the first format had none
    tuned = None if tuned is None else read_tuned(folder, tuned)
    return Head(
        settings, classes, network.eval(), tensors["center"], tensors["scale"], content["temperature"],
        pd.DataFrame(content["scores"]), held_out, content["embedding_hash"], tuned,
    )  # fmt: skip


def write_tuned(tuned: Tuned, folder: Path) -> dict:
    """Write efm_config.json and efm_model.safetensors; what is to stand in head.json beside them."""
    save_efm(folder, tuned.efm)
    names = ("preprocess", "weights_hash", "source")
    genes = {"gene_ids": tuned.gene_ids.tolist(), "symbols": list(tuned.symbols), "is_tf": tuned.is_tf.tolist()}
    return {name: getattr(tuned, name) for name in names} | genes | {"finetune": asdict(tuned.finetune)}


def read_settings(content: dict) -> Finetune:
    """Settings of fine-tuning; heads of version 0.1 before its release call them ``unfreeze``, and ``batch_size`` ``cells``."""
    found = dict(content["finetune"] if "finetune" in content else content["unfreeze"])
    if "cells" in found:
        found["batch_size"] = found.pop("cells")
    return Finetune(**found)


def read_tuned(folder: Path, content: dict) -> Tuned:
    return Tuned(
        load_causal_efm(folder), read_settings(content), np.array(content["gene_ids"]),
        tuple(content["symbols"]), np.array(content["is_tf"]), content["preprocess"], content["weights_hash"],
        content["source"],
    )  # fmt: skip
