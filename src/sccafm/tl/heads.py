"""Heads: a label or a number is read from a cell's vector by a linear map or a small network, judged on held-out donors."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sccafm.store import new_folder, write_whole
from sccafm.tl.scores import fit_temperature, judged, make_folds

FORMAT = 1
KINDS, NETWORKS = ("classify", "regress"), ("linear", "mlp")


@dataclass(frozen=True)
class Settings:
    """What a head is and how it is fitted."""

    kind: str
    network: str
    target: str
    use_rep: str
    groups: str | None
    hidden: int = 64  # of a small network
    steps: int = 150
    learning_rate: float = 0.05
    weight_decay: float = 0.05
    random_state: int = 0


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

    def __repr__(self) -> str:
        s = self.settings
        whole = self.scores.iloc[-1]
        measures = ", ".join(
            f"{m} {whole[m]:.3f}" for m in self.scores.columns if m not in ("fold", "held_out", "n_cells")
        )
        across = f"{len(self.scores) - 1} folds" + (f" of {s.groups}" if s.groups else " of cells at random")
        return f"Head ({s.kind}, {s.network}) of {s.target!r} on {s.use_rep!r}: over {across}, {measures}"

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Probabilities, C classes, or values, C."""
        with torch.inference_mode():
            out = self.network((torch.from_numpy(x).float() - self.center) / self.scale)
            out = torch.softmax(out / self.temperature, 1) if self.settings.kind == "classify" else out[:, 0]
        return out.numpy()

    def write(self, folder: str | Path) -> Path:
        """Write to a folder that is new or empty: JSON and safetensors. `read_head` and `predict` read it."""
        folder = new_folder(folder)
        tensors = {f"network.{k}": t.contiguous() for k, t in self.network.state_dict().items()}
        tensors |= {"center": self.center, "scale": self.scale}
        write_whole(folder / "head.safetensors", lambda p: save_file(tensors, p))
        content = {"format": FORMAT, "settings": asdict(self.settings), "classes": list(self.classes)}
        content |= {"temperature": self.temperature, "embedding_hash": self.embedding_hash}
        content |= {"scores": json.loads(self.scores.to_json(orient="records"))}
        content |= {"held_out": json.loads(self.held_out.to_json(orient="split"))}
        write_whole(folder / "head.json", lambda p: p.write_text(json.dumps(content, indent=1) + "\n"))
        return folder


def read_head(folder: str | Path) -> Head:
    """Read what `Head.write` wrote. FileNotFoundError or ValueError where it is no head of this version."""
    path = Path(folder) / "head.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no head: it has no head.json")
    content = json.loads(path.read_text())
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path} has the format {content.get('format')}, this version reads {FORMAT}; fit the head again"
        )
    tensors = load_file(Path(folder) / "head.safetensors")
    settings, classes = Settings(**content["settings"]), tuple(content["classes"])
    network = make_network(settings, len(tensors["center"]), len(classes) or 1)
    network.load_state_dict({k.removeprefix("network."): t for k, t in tensors.items() if k.startswith("network.")})
    held_out = pd.DataFrame(**content["held_out"])
    return Head(
        settings, classes, network.eval(), tensors["center"], tensors["scale"], content["temperature"],
        pd.DataFrame(content["scores"]), held_out, content["embedding_hash"],
    )  # fmt: skip


def fit_head(
    adata: AnnData,
    target: str,
    *,
    kind: str = "classify",
    groups: str | None = None,
    use_rep: str = "X_sccafm",
    network: str = "linear",
    n_folds: int = 5,
    random_state: int = 0,
) -> Head:
    """Fit a head on the cells' vectors, which stay as they are.

    Parameters
    ----------
    adata
        Cells with vectors in obsm: `sccafm.embed` puts them there.
    target
        Column of obs: labels to classify, or numbers. Cells without one are left out.
    kind
        "classify" or "regress".
    groups
        Column of obs whose values are never split between fitting and judging: donor, patient, plate, cell line. None:
        folds of cells at random, which flatter where cells of one donor are alike.
    use_rep
        Field of obsm.
    network
        "linear", or "mlp" with one hidden layer.
    n_folds
        Folds of whole groups, at most one a group.
    random_state
        Of folds and networks.

    Returns
    -------
    Head
        Fitted to all cells. `Head.scores` has what was found on held-out folds: accuracy, macro-F1 and the expected
        calibration error of the probabilities, or R2 and Spearman's correlation. Probabilities are calibrated by a
        temperature (Guo et al. 2017) that is fitted to held-out predictions.

    Raises
    ------
    KeyError
        A column of obs or field of obsm is absent.
    ValueError
        Fewer than two labels, groups or cells, or values that are no numbers.
    """
    settings = Settings(kind, network, target, use_rep, groups, random_state=random_state)
    x, is_known = check_input(adata, settings, n_folds)
    x, obs = x[is_known], adata.obs[is_known]
    y, classes = read_target(obs[target], kind)
    folds = make_folds(obs, groups, n_folds, random_state)
    outputs = torch.zeros(len(x), len(classes) or 1)
    for fold in np.unique(folds):
        here = folds == fold
        fitted = fit(x[~here], y[~here], settings, len(classes))
        outputs[here] = logits(fitted, x[here])
        if classes:  # a label that no other fold holds cannot be named
            outputs[here] = outputs[here].index_fill(1, absent(y[~here], len(classes)), -1e4)
    temperature = fit_temperature(outputs, y) if classes else 1.0
    network_, center, scale = fit(x, y, settings, len(classes))
    named = obs[groups].astype(str).to_numpy() if groups else None
    return Head(
        settings, classes, network_, center, scale, temperature,
        judged(outputs / temperature, y, folds, named, kind), frame(outputs / temperature, classes, obs.index),
        embedding_hash(adata, use_rep),
    )  # fmt: skip


def predict(adata: AnnData, head: Head | str | Path, *, key_added: str | None = None, copy: bool = False):
    """Read labels or numbers of cells from their vectors.

    Parameters
    ----------
    adata
        Cells with vectors in the field of obsm that the head was fitted on.
    head
        What `fit_head` returned, or the folder that `Head.write` wrote.
    key_added
        Name of what is written; None: the head's target and "_predicted".
    copy
        Leave `adata` alone.

    Returns
    -------
    DataFrame
        Of "classify" a probability for each class, of "regress" the column "value". In `adata` ``obs[key]`` (categorical,
        or float32), and of "classify" ``obs[key + "_probability"]`` (float32, of the named class).

    Raises
    ------
    KeyError, ValueError
        No such vectors, another width, or vectors that another embedding module made.
    """
    head = head if isinstance(head, Head) else read_head(head)
    settings = head.settings
    x = vectors(adata, settings.use_rep)
    if x.shape[1] != len(head.center):
        raise ValueError(f"obsm[{settings.use_rep!r}] is {x.shape[1]} wide, the head was fitted on {len(head.center)}")
    found = embedding_hash(adata, settings.use_rep)
    if head.embedding_hash and found and found != head.embedding_hash:
        raise ValueError(
            f"obsm[{settings.use_rep!r}] was made by another embedding module than the head was fitted on; embed these cells "
            "with the same model (the adapted one is Embedding.model)"
        )
    out = head.apply(x)
    table = pd.DataFrame(
        out if out.ndim == 2 else out[:, None], adata.obs_names, list(head.classes) or ["value"]
    )  # fmt: skip
    if not copy:
        key = f"{settings.target}_predicted" if key_added is None else key_added
        if settings.kind == "classify":
            adata.obs[key] = pd.Categorical.from_codes(out.argmax(1), list(head.classes))
            adata.obs[f"{key}_probability"] = out.max(1)
        else:
            adata.obs[key] = out
    return table


def check_input(adata: AnnData, settings: Settings, n_folds: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors, and which cells can be used."""
    if settings.kind not in KINDS:
        raise ValueError(f'kind must be "classify" or "regress", got {settings.kind!r}')
    if settings.network not in NETWORKS:
        raise ValueError(f'network must be "linear" or "mlp", got {settings.network!r}')
    if not isinstance(n_folds, int) or n_folds < 2:
        raise ValueError(f"n_folds must be a whole number of at least 2, got {n_folds!r}")
    is_known = np.ones(adata.n_obs, dtype=bool)
    for key, option in ((settings.target, "target"), (settings.groups, "groups")):
        if key is not None and key not in adata.obs:
            raise KeyError(f"{option}={key!r} is no column of obs; there are {list(adata.obs.columns)}")
        is_known &= True if key is None else adata.obs[key].notna().to_numpy()
    x = vectors(adata, settings.use_rep)
    if is_known.sum() < 4:
        raise ValueError(f"{is_known.sum()} cells have a {settings.target!r} and a group; at least 4 are needed")
    return x, is_known


def vectors(adata: AnnData, use_rep: str) -> np.ndarray:
    if use_rep not in adata.obsm:
        raise KeyError(f"obsm has no {use_rep!r}; there are {list(adata.obsm)}: sccafm.embed(adata) makes X_sccafm")
    x = np.asarray(adata.obsm[use_rep], dtype=np.float32)
    if not np.isfinite(x).all():
        raise ValueError(f"obsm[{use_rep!r}] holds values that are not finite; leave those cells out")
    return x


def read_target(column: pd.Series, kind: str) -> tuple[Tensor, tuple[str, ...]]:
    if kind == "classify":
        codes, names = pd.factorize(column.astype(str), sort=True)
        if len(names) < 2:
            raise ValueError(f"{column.name!r} names a single label, {names[0]!r}; two are needed")
        return torch.from_numpy(codes), tuple(names)
    try:
        values = pd.to_numeric(column).to_numpy(dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(f'{column.name!r} holds no numbers ({error}); for labels: kind="classify"') from error
    if np.ptp(values) == 0:
        raise ValueError(f"{column.name!r} is {values[0]} in every cell; there is nothing to learn")
    return torch.from_numpy(values), ()


def make_network(settings: Settings, width: int, outputs: int) -> nn.Module:
    if settings.network == "linear":
        return nn.Linear(width, outputs)
    return nn.Sequential(
        nn.Linear(width, settings.hidden), nn.SiLU(), nn.Dropout(0.2), nn.Linear(settings.hidden, outputs)
    )


def fit(x: np.ndarray, y: Tensor, settings: Settings, n_classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network on standardised vectors, by AdamW over all cells at once; labels count alike, however rare."""
    center, scale = torch.from_numpy(x.mean(0)), torch.from_numpy(np.maximum(x.std(0), 1e-6))
    z = (torch.from_numpy(x) - center) / scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.random_state)
        network = make_network(settings, x.shape[1], n_classes or 1)
        if not n_classes:  # the bias begins at the mean
            (network if settings.network == "linear" else network[-1]).bias.data.fill_(y.mean())
        weight = (1 / torch.bincount(y, minlength=n_classes).clamp_min(1)).float() if n_classes else None
        optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
        spread = None if n_classes else y.var().clamp_min(1e-12)
        for _ in range(settings.steps):
            out = network(z)
            loss = F.cross_entropy(out, y, weight) if n_classes else (out[:, 0] - y).square().mean() / spread
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval(), center, scale


@torch.inference_mode()
def logits(fitted: tuple[nn.Module, Tensor, Tensor], x: np.ndarray) -> Tensor:
    network, center, scale = fitted
    return network((torch.from_numpy(x) - center) / scale)


def absent(y: Tensor, n_classes: int) -> Tensor:
    return (torch.bincount(y, minlength=n_classes) == 0).nonzero()[:, 0]


def frame(outputs: Tensor, classes: tuple[str, ...], cells: pd.Index) -> pd.DataFrame:
    values = torch.softmax(outputs, 1) if classes else outputs
    return pd.DataFrame(values.numpy(), cells, list(classes) or ["value"])


def embedding_hash(adata: AnnData, use_rep: str) -> str:
    params = adata.uns[use_rep].get("params", {}) if use_rep in adata.uns else {}
    return str(params.get("efm_hash", ""))
