"""Settings of a training run: frozen, written beside the weights, read back as they are."""

import json
from dataclasses import KW_ONLY, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sccafm.losses.embedding import EFMWeights, Views
from sccafm.nn import CausalEFMConfig, SFMConfig, VGAEConfig

COMPONENTS = 128  # of the corpus in an embedding module


@dataclass(frozen=True)
class LossWeights:
    """What each term counts; 0 switches it off."""

    cell: float = 1.0
    """Divergence of a cell's scores over all pairs from the evidence."""
    regulator: float = 1.0
    """The same within each regulator, every regulator counting alike."""
    pair: float = 0.3
    """Mean squared gap between log scores and evidence, both without the levels of regulators and targets."""
    state: float = 0.5
    """Mean squared gap between what makes a cell differ from the others of its batch, in log scores and in the evidence."""
    context: float = 2.5
    """Divergence of a cell's context from the programmes of the corpus that it belongs to; with init, from its context
    under the model to start from (see hold_contexts)."""
    prior: float = 0.02
    """The published prior loss, on the highest-scoring edges."""
    elbo: float = 0.02
    """Evidence lower bound of the graph autoencoder, per gene."""
    dag: float = 0.01
    """Acyclicity of the factor graph, as the log of 1 + the published penalty."""
    sparsity: float = 0.001
    """Mean score."""


@dataclass(frozen=True)
class EvidenceWeights:
    """What speaks for an edge, in standard deviations of each term; 0 takes a term away. See `sccafm.train.evidence`."""

    pair: float = 2.0
    """The edge model says that the target is one of this regulator's own, whatever the popularity of either."""
    known: float = 1.5
    """The prior holds the edge and both ends are active."""
    coactivity: float = 0.8
    """Both ends stand above, or both below, their usual level."""
    activity: float = 1.3
    """The target stands above its usual level."""
    bound: float = 0.4
    """The target is bound by many regulators: popularity in binding."""
    responds: float = 0.4
    """The target varies between cell states and has many known regulators: popularity in response."""
    regulator_activity: float = 1.7
    """The regulator stands above its usual level."""


@dataclass(frozen=True)
class Gains:
    """Factors by which departures from the usual cell are enlarged in the scores of the model in `init`; all 1: the evidence teaches.

    `sccafm.train.amplified` has the formula.
    """

    regulator: float = 1.0
    """Level of each regulator in the cell beside its level in the usual cell."""
    target: float = 1.0
    """The same of each target."""
    pair: float = 1.0
    """What is left of the departure once both levels are taken away."""
    usual: float = 1.0
    """What is kept of the levels that regulators and targets have in the usual cell: popularity."""
    cells: int = 1
    """Nearest cells, itself among them, over which the departure is averaged."""

    def __post_init__(self):
        if self.cells < 1:
            raise ValueError(f"gains.cells must be at least 1, got {self.cells}")

    @property
    def is_on(self) -> bool:
        return self != Gains()


@dataclass(frozen=True)
class Machine:
    """Where a run takes place. It may change when a run is taken up again."""

    devices: int | None = None
    """Processes on each machine; absent: as torchrun or Slurm started them, else one."""
    nodes: int | None = None
    """Machines; absent: as torchrun or Slurm says, else one."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """Of several processes: "ddp" (auto) keeps the whole model in each, "fsdp" a part of it."""
    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true"] = "auto"
    """auto: bf16-mixed on a GPU that knows bfloat16, else 32-true."""
    readers: int = 2
    """Threads that draw batches ahead of the model."""
    timeout: int = 30
    """Minutes that processes wait for each other before they give up."""


@dataclass(frozen=True)
class StreamConfig:
    """How a corpus that is too large for memory is read."""

    above: float = 8.0
    """GB of counts (8 bytes for each that is not zero) up to which files stay in memory; 0 always streams."""
    block: int = 256
    """Cells of one read, which stand side by side in the file."""
    window: int = 2048
    """Cells of one file in memory together, from blocks all over it; a cell's neighbours are found among them."""
    windows: int = 4
    """Windows to draw from at a time."""


def default_sfm() -> SFMConfig:
    return SFMConfig(
        embed_dim=256,
        expr_hidden_dim=32,
        expr_num_bins=24,
        batch_num_bins=16,
        batch_hidden_dim=32,
        num_layers=1,
        num_heads=4,
        backbone_mlp_hidden_dim=512,
        backbone_mlp_dropout=0.0,
        out_dropout=0.1,
        num_factors=256,
        router_hidden_dim=256,
        router_dropout=0.0,
        topk=96,  # with 32 of 256 most pairs share no factor, and the pair term is not learned
        beta_momentum=0.05,
        freeze_loaded_gene_embeddings=True,
        attention_backend="sdpa",
    )


def default_vgae() -> VGAEConfig:
    return VGAEConfig(hidden_dim=32, dropout=0.0)


def default_efm() -> CausalEFMConfig:
    return CausalEFMConfig(components=COMPONENTS)


@dataclass(frozen=True)
class RunConfig:
    """Settings of every run, whatever it trains; those without a default have one in each kind."""

    data: Path
    """Folder of h5ad files and zarr folders with counts, human or mouse."""
    run: Path
    """Folder of the run: log, checkpoint, model. A run that was stopped is taken up again."""
    _: KW_ONLY
    steps: int
    """Optimiser steps."""
    batch_size: int
    """Cells of one batch, all of one data set."""
    accumulate_grad_batches: int = 1
    """Batches whose gradients make one step, over all processes: a multiple of their number."""
    genes: int
    """Genes of one step, regulators among them."""
    regulators: int
    """Regulators of one step, at most."""
    learning_rate: float = 2e-3
    """Greatest one, of AdamW."""
    weight_decay: float = 1e-2
    """Of matrices; norms, biases and gene vectors are not decayed."""
    warmup: int
    """Steps over which the learning rate rises; it then falls to 5 % along a cosine."""
    clip: float = 1.0
    """Greatest norm of the gradient."""
    mask_conditions: float = 0.3
    """Probability with which each condition of a cell is hidden, so that unknown ones work."""
    thin: float
    """Probability with which a batch's counts are thinned, to a share between 0.3 and 1."""
    neighbors: int
    """Cells like each one that are looked for when a file is read; 0: none."""
    validation_share: float = 0.03
    """Share of each data set's cells that is never trained on."""
    validation_batches: int
    """Batches of held-out cells that an evaluation reads."""
    validate_every: int
    """Steps between evaluations on held-out cells."""
    patience: int = 0
    """Evaluations without improvement after which a run ends, and its best weights are kept; 0: never."""
    checkpoint_every: int
    """Steps between checkpoints."""
    log_every: int = 20
    """Steps between lines of the log."""
    seed: int = 0
    """Of weights, batches and the choice of held-out cells."""
    threads: int | None = None
    """CPU threads; absent: as torch chooses."""
    device: str = "auto"
    """"auto": a CUDA device where there is one, else the CPU; or any torch device."""
    on_bad_file: Literal["refuse", "skip"] = "refuse"
    """What becomes of a file that is corrupt, empty or holds no counts."""
    machine: Machine = field(default_factory=Machine)
    stream: StreamConfig = field(default_factory=StreamConfig)


@dataclass(frozen=True, kw_only=True)
class TrainSFM(RunConfig):
    """Train a structure module on a folder of h5ad and zarr files."""

    init: Path | None = None
    """Model folder to start from, whose sizes are used instead of sfm.* and vgae.*; absent: new weights on the bundled
    vocabulary."""
    steps: int = 20_000
    batch_size: int = 4
    genes: int = 1024
    regulators: int = 256
    gene_learning_rate: float = 2e-4
    """Of the gene vectors, where sfm.freeze_loaded_gene_embeddings is off."""
    warmup: int = 200
    thin: float = 0.5
    neighbors: int = 20
    """Cells like this one over which expression is averaged to say which edges are active."""
    min_scale: float = 0.1
    """Least scale of the likelihood in the evidence lower bound; the published one is 1e-5."""
    validation_batches: int = 32
    validate_every: int = 1000
    checkpoint_every: int = 500
    hold_out: Path | None = None
    """File of regulators, a symbol a line, whose prior edges training never sees: to judge what it learned beyond them."""
    regulation: Path | None = None
    """Folder with the regulation.json and regulation.safetensors to be taught by; absent: the release's."""
    hold_contexts: bool = True
    """With init: hold contexts where they were, so that factors keep their names; else they learn the programmes."""
    programme_share: float = 0.6
    """Share of a cell's context that follows its programmes; the rest is asked to be even over the factors."""
    gene_vectors: Literal["known", "random"] = "known"
    """"known": new weights start from what is known of the genes; "random": from chance, for ablations."""
    weights: LossWeights = field(default_factory=LossWeights)
    evidence: EvidenceWeights = field(default_factory=EvidenceWeights)
    gains: Gains = field(default_factory=Gains)
    sfm: SFMConfig = field(default_factory=default_sfm)
    vgae: VGAEConfig = field(default_factory=default_vgae)

    def __post_init__(self):
        if self.gains.cells > max(self.neighbors, 1):
            raise ValueError(
                f"gains.cells={self.gains.cells} asks for more cells than neighbors={self.neighbors} finds; raise neighbors"
            )


@dataclass(frozen=True, kw_only=True)
class TrainEFM(RunConfig):
    """Train an embedding module on a folder of h5ad and zarr files, under a structure module that stands still."""

    sfm: Path | None = None
    """Model folder with the structure module; absent: the bundled one."""
    init: Path | None = None
    """Model folder whose embedding module to start from; absent: new weights."""
    steps: int = 1_600
    batch_size: int = 32
    """Cells of one batch, all of one data set: each is told apart from the others."""
    genes: int = 384
    """Genes of one step, regulators among them; a view shows views.genes of them."""
    regulators: int = 128
    sfm_learning_rate: float = 0.0
    """Above 0 the structure module learns too, and loses its calibration."""
    warmup: int = 100
    thin: float = 0.0  # views thin counts by themselves
    neighbors: int = 0  # no term asks for them
    validation_batches: int = 16
    validate_every: int = 500
    checkpoint_every: int = 250
    weights: EFMWeights = field(default_factory=EFMWeights)
    views: Views = field(default_factory=Views)
    efm: CausalEFMConfig = field(default_factory=default_efm)


def holds_contexts(config: TrainSFM) -> bool:
    """Whether a trained model goes on whose contexts keep the meaning that they have."""
    return config.init is not None and config.hold_contexts


RENAMED = {"cells": "batch_size", "batches": "accumulate_grad_batches"}  # keys of runs that were begun before 0.1.0


def read_config(path: Path, kind: Any = TrainSFM) -> Any:
    """A configuration from JSON, such as the config.json of a run; absent keys keep their defaults.

    Raises
    ------
    ValueError
        An unknown key, or no JSON.
    """
    try:
        values = json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    parts: dict[str, Any] = {f.name: f.default_factory for f in fields(kind) if is_dataclass(f.type)}
    try:
        values = {RENAMED.get(name, name): value for name, value in values.items()}
        nested = {name: replace(make(), **values[name]) for name, make in parts.items() if name in values}
        names = [f.name for f in fields(kind) if f.type in (Path, Path | None)]
        paths: dict[str, Any] = {name: Path(values[name]) for name in names if values.get(name) is not None}
        return kind(**{**values, **nested, **paths})
    except (TypeError, ValueError) as error:
        command = kind.__name__.removeprefix("Train").lower()
        raise ValueError(f"{path}: {error}; `python -m sccafm.train {command} --help` lists the keys") from error
