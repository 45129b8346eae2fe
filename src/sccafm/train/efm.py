"""What trains an embedding module: views and contrasts of a batch under a structure module that stands still."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sccafm._text import warn
from sccafm._torch import plain_torch
from sccafm.losses.embedding import WATCHED, objective, total
from sccafm.model.layout import FITTED, SFM_PICTURES, copy_present, copy_tables, find_files, find_release
from sccafm.model.weights import load_efm, load_sfm, save_efm, save_sfm
from sccafm.nn import SFM, CausalEFM
from sccafm.nn.causal_efm import from_structure
from sccafm.reference.bundle import ReferenceData, read_reference_data
from sccafm.train.card import write_efm_card
from sccafm.train.checkpoint import read_weights
from sccafm.train.components import fit_components
from sccafm.train.config import TrainEFM
from sccafm.train.corpus import Corpus, draw_tokens
from sccafm.train.run import TaskDefinition, train, warn_ignored
from sccafm.types import Tokens


@dataclass(frozen=True)
class Cells:
    """A batch: cells of one data set that share their genes."""

    tokens: Tokens
    dataset: str

    def to(self, device) -> "Cells":
        return Cells(self.tokens.to(device), self.dataset)


class Draw:
    """Batches of cells by number, from a corpus."""

    def __init__(self, corpus: Corpus, config: TrainEFM):
        self.corpus, self.config = corpus, config

    def train_batch(self, number: int) -> Cells:
        return self._draw("train", number)

    def validation_batch(self, number: int) -> Cells:
        """The same held-out cells each time."""
        return self._draw("validation", number)

    def _draw(self, part: str, number: int) -> Cells:
        rng, dataset = self.corpus.pick(part, number, self.config.seed)
        return Cells(draw_tokens(rng, dataset, part, self.config)[0], dataset.name)


class EFMTrainer(nn.Module):
    """Networks and losses of one run."""

    def __init__(self, config: TrainEFM, sfm: SFM, efm: CausalEFM):
        super().__init__()
        self.config, self.sfm, self.efm = config, sfm, efm
        sfm.requires_grad_(config.sfm_learning_rate > 0)

    def train(self, mode: bool = True) -> "EFMTrainer":
        """The structure module keeps to evaluation while it stands still: its dropout would be noise in the graph."""
        super().train(mode)
        self.sfm.train(mode and self.config.sfm_learning_rate > 0)
        return self

    def forward(self, batch: Cells) -> tuple[dict[str, Tensor], None]:
        return objective(self.sfm, self.efm, batch.tokens, self.config.views, self.config.weights), None

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        return total(terms, self.config.weights)

    def optimizer(self) -> torch.optim.AdamW:
        """Matrices are decayed towards 0, and so are the genes' shifts; norms, biases and usual levels are not."""
        config = self.config
        levels = self.efm.usual_level
        own = [p for p in self.efm.parameters() if p is not levels]
        groups = [
            {"params": [p for p in own if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in own if p.ndim <= 1] + [levels], "weight_decay": 0.0},
        ]
        groups = [group | {"lr": config.learning_rate} for group in groups]
        if config.sfm_learning_rate:
            groups.append({"params": list(self.sfm.parameters()), "lr": config.sfm_learning_rate, "weight_decay": 0.0})
        return torch.optim.AdamW(groups, betas=(0.9, 0.98))

    def measure(self, seen: None) -> dict[str, Tensor]:
        return {}

    def after_step(self, sums: dict[str, Tensor]) -> None:
        pass

    def parts(self) -> Iterable[nn.Module]:
        """The encoder's layers."""
        return list(self.efm.layers)


@plain_torch()
def train_efm(config: TrainEFM, progress: bool = True) -> Path:
    """Train, or take up a stopped run where its last checkpoint left it.

    Parameters
    ----------
    config
        Data, structure module, run folder, sizes, seed.
    progress
        Show bars.

    Returns
    -------
    The model folder, ``RUN/model``: the structure module's release with efm_config.json, efm_model.safetensors and
    efm_card.md. The run folder also holds config.json, log.csv with every loss term and what is watched (effective rank,
    uniformity and alignment of the cells' embeddings), curves.png, the surveys of the data, and the checkpoint.

    Raises
    ------
    ImportError
        The extra "train" is not installed.
    ValueError
        The run folder belongs to another configuration, a file cannot be trained on, `init` has another kind of
        embedding module, or the processes do not fit.
    FileNotFoundError
        No data, or no model folder.
    FloatingPointError
        A loss is not finite: step, term and file are named.
    """
    return train(config, EMBEDDING, progress)


def release(config: TrainEFM) -> tuple[dict[str, Path], ReferenceData]:
    """The model folder with the structure module."""
    files = find_files(find_release(config.sfm, None, False))
    return files, read_reference_data(files)


def build(
    config: TrainEFM, files: dict[str, Path], reference_data: ReferenceData, corpus: Corpus
) -> tuple[SFM, CausalEFM]:
    """The structure module, and an embedding module that begins with its gene vectors and the corpus's usual levels."""
    sizes = (reference_data.vocabulary.size, reference_data.conditions.size)
    torch.manual_seed(config.seed)
    sfm, _ = load_sfm(files["sfm_config"], files["sfm_model"], *sizes)
    if config.init is not None:
        return sfm.eval(), begun(config, sizes, corpus)
    species = tuple(reference_data.conditions.index(name) for name in ("human", "mouse"))
    own = dataclasses.replace(config.efm, gene_dim=sfm.config.embed_dim, species=species)
    levels = torch.from_numpy(np.stack([corpus.usual[name] for name in ("human", "mouse")]))
    efm = from_structure(sfm.embedding.gene_embedding.weight.detach(), levels, own)
    return sfm.eval(), with_components(efm, corpus, config)


def with_components(efm: CausalEFM, corpus: Corpus, config: TrainEFM) -> CausalEFM:
    """The same with as many components as the settings ask for, fitted to the corpus."""
    if config.efm.components:
        vocab_size = len(efm.gene_vectors)
        efm.components = fit_components(
            corpus.samples(), len(corpus.files), config.efm.components, vocab_size, config.seed
        )
        efm.config = dataclasses.replace(
            efm.config, components=config.efm.components, component_weight=config.efm.component_weight
        )
    return efm


def begun(config: TrainEFM, sizes: tuple[int, int], corpus: Corpus) -> CausalEFM:
    """The embedding module of a model folder; one without components gets those of this corpus."""
    files = find_files(find_release(config.init, None, False), required=("efm_config", "efm_model"))
    efm = load_efm(files["efm_config"], files["efm_model"], *sizes)
    if not isinstance(efm, CausalEFM):
        raise ValueError(
            f"init={str(config.init)!r} holds a published (autoregressive) embedding module, which is not trained here; "
            "leave init out for new weights"
        )
    if efm.components is None:
        efm = with_components(efm, corpus, config)
    warn_ignored("efm", config.efm, efm.config, TrainEFM(config.data, config.run).efm)
    return efm


def build_task(
    config: TrainEFM, networks: tuple[SFM, CausalEFM], reference_data: ReferenceData, corpus: Corpus
) -> tuple[EFMTrainer, Draw]:
    """Losses and batches; the reference data have no say in them."""
    return EFMTrainer(config, *networks), Draw(corpus, config)


def write_model(
    networks: tuple[SFM, CausalEFM], config: TrainEFM, files: dict[str, Path], trained: Path, corpus: Corpus
) -> None:
    """The structure module's release with the trained embedding module in it."""
    folder, (sfm, efm) = config.run / "model", networks
    efm.load_state_dict(read_weights(trained, "efm."))
    copy_tables(files, folder)
    if config.sfm_learning_rate:
        sfm.load_state_dict(read_weights(trained, "sfm."))
        save_sfm(folder / "models", sfm, None)
        if "calibration" in files:
            warn("the structure module was changed: its calibration is left out, fit it again")
    else:
        copy_present(files, ("sfm_config", "sfm_model", *FITTED, *SFM_PICTURES), folder)
    save_efm(folder / "models", efm)
    write_efm_card(folder / "models", config, efm.config, corpus.files, corpus.bad, WATCHED)


EMBEDDING = TaskDefinition(release, build, build_task, write_model, for_edges=False)
