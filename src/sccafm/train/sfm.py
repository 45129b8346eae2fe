"""What trains a structure module: networks, prior and losses of a batch, and what its run has of its own."""

import copy
import dataclasses
from collections.abc import Iterable
from functools import reduce
from operator import add
from pathlib import Path

import torch
from torch import Tensor, nn

from sccafm._text import warn
from sccafm._torch import plain_torch
from sccafm.losses import structure as losses
from sccafm.model.layout import CANDIDATES, copy_tables, find_files, find_release
from sccafm.model.model import carry_contexts
from sccafm.model.weights import load_sfm, read_tensors, save_sfm
from sccafm.nn import SFM, VGAE
from sccafm.nn.routing import balanced_beta
from sccafm.nn.sfm import Routing
from sccafm.reference.bundle import ReferenceData, read_reference_data
from sccafm.reference.genes import Vocabulary
from sccafm.reference.regulation import Regulation, read_regulation
from sccafm.train import amplified
from sccafm.train.card import write_card
from sccafm.train.checkpoint import read_weights
from sccafm.train.config import EvidenceWeights, TrainSFM, default_sfm, default_vgae, holds_contexts
from sccafm.train.corpus import Batch, Corpus
from sccafm.train.evidence import Evidence
from sccafm.train.run import TaskDefinition, train, warn_ignored
from sccafm.train.vectors import gene_vectors
from sccafm.types import Factors

TABLES = ("vocab", "cond_dict")  # what a release must hold to train on its vocabulary


class Trainer(nn.Module):
    """Networks, prior and losses of one run; the forward pass gives every term of a batch."""

    def __init__(self, config: TrainSFM, sfm: SFM, vgae: VGAE, evidence: Evidence):
        super().__init__()
        self.config, self.sfm, self.vgae, self.evidence = config, sfm, vgae, evidence
        self.begun = None
        if needs_teacher(config):
            begun = copy.deepcopy(sfm).eval().requires_grad_(False)
            self.begun = (begun,)  # in a tuple: it is neither trained nor saved nor shared out between processes
        sfm.embedding.gene_embedding.weight.requires_grad_(not sfm.config.freeze_loaded_gene_embeddings)

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], Routing]:
        """Every loss term before weighting, and the routing for the load balance."""
        tokens = batch.tokens
        routing = self.sfm.route(tokens)
        factors = routing.factors
        regulator_mask = tokens.is_tf[0]  # the cells of a batch share their genes
        genes, regulators = tokens.gene_ids[0], tokens.gene_ids[0][regulator_mask]
        scores = factors.u[:, regulator_mask] @ factors.v.transpose(1, 2)  # C T G
        wanted = self.wanted(batch, regulators, genes, regulator_mask)
        floor = {"floor": amplified.FLOOR} if self.config.gains.is_on else {}  # that of what is wanted
        is_pair = regulators[:, None] != genes
        elbo = losses.elbo(
            tokens.expression, self.vgae(tokens.expression, factors), tokens.is_gene, self.config.min_scale
        )
        known = self.evidence.known(regulators, genes) > 0
        terms = {
            "cell": losses.divergence(wanted.flatten(1), scores.flatten(1), is_pair.flatten(), **floor),
            "regulator": losses.divergence(wanted, scores, is_pair, **floor),
            "pair": losses.pair_gap(wanted, scores, **floor),
            "state": losses.state_gap(wanted, scores),
            "context": self.context(factors, batch),
            "prior": losses.prior_loss(scores, known, torch.ones_like(scores, dtype=torch.bool), 512, 5.0, 0.1),
            "elbo": elbo / len(genes),
            # The penalty grows like exp(spectral radius); its logarithm has a gradient that cannot overflow.
            "dag": losses.dag_penalty(factors).log1p(),
            "sparsity": losses.sparsity(factors, tokens.is_tf, tokens.is_gene),
        }
        return terms, routing

    def wanted(self, batch: Batch, regulators: Tensor, genes: Tensor, regulator_mask: Tensor) -> Tensor:
        """What teaches the scores, up to a constant: the evidence, or the scores of the model to start from, amplified."""
        if not self.config.gains.is_on:
            return self.evidence(regulators, genes, regulator_mask, batch.activity)
        return amplified.wanted(self.teacher(batch.activity.device), batch, regulator_mask, self.config.gains)

    def teacher(self, device) -> SFM:
        assert self.begun is not None
        return self.begun[0].to(device)

    def context(self, factors: Factors, batch: Batch) -> Tensor:
        """How far contexts are from the cells' programmes or, in a model that was trained before, from what they were.

        A trained model's contexts so keep their meaning, and the names that belong to them.
        """
        wanted = batch.programme
        if teaches_contexts(self.config):
            with torch.no_grad():
                wanted = self.teacher(factors.u.device)(batch.tokens).context()
        if wanted is None:
            return factors.u.new_zeros(())
        every = torch.ones_like(wanted[0], dtype=torch.bool)
        return losses.divergence((wanted + 1e-8).log(), factors.context(), every)

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        weights = dataclasses.asdict(self.config.weights)
        return reduce(add, (weights[name] * term for name, term in terms.items() if weights[name]))

    def optimizer(self) -> torch.optim.AdamW:
        """Gene vectors learn slowly and are not decayed; norms, biases and bins are not decayed either."""
        config = self.config
        genes = self.sfm.embedding.gene_embedding.weight
        rest = [p for p in self.parameters() if p is not genes]
        groups = [
            {
                "params": [p for p in rest if p.ndim > 1],
                "lr": config.learning_rate,
                "weight_decay": config.weight_decay,
            },
            {"params": [p for p in rest if p.ndim <= 1], "lr": config.learning_rate, "weight_decay": 0.0},
        ]
        if genes.requires_grad:
            groups.append({"params": [genes], "lr": config.gene_learning_rate, "weight_decay": 0.0})
        return torch.optim.AdamW(groups, betas=(0.9, 0.98))

    def measure(self, routing: Routing) -> dict[str, Tensor]:
        """The offsets that this batch's tokens ask of each router, times the number of tokens, and that number."""
        sums = {}
        for name, router, logits in self.routers(routing):
            beta = balanced_beta(logits.float(), router.gating.beta_qb, router.gating.k)
            tokens = beta.new_tensor(float(len(logits)))
            sums |= {f"{name}.beta": beta * tokens, f"{name}.tokens": tokens}
        return sums

    def after_step(self, sums: dict[str, Tensor]) -> None:
        """Move the routers' offsets towards an equal load of all factors: the mean over tokens, as published."""
        for name in ("tf_router", "tg_router"):
            if f"{name}.beta" in sums:
                getattr(self.sfm, name).gating.update(sums[f"{name}.beta"] / sums[f"{name}.tokens"])

    def routers(self, routing: Routing):
        """Routers whose load is balanced, with their logits."""
        for name, logits in (("tf_router", routing.tf_logits), ("tg_router", routing.tg_logits)):
            router = getattr(self.sfm, name)
            if router.is_balanced():
                yield name, router, logits

    def parts(self) -> Iterable[nn.Module]:
        """The encoder's blocks."""
        return list(self.sfm.backbone.layers)


def needs_teacher(config: TrainSFM) -> bool:
    """Whether the model to start from is asked in training."""
    return config.gains.is_on or teaches_contexts(config)


def teaches_contexts(config: TrainSFM) -> bool:
    """Whether contexts are held to those of the model to start from."""
    return holds_contexts(config) and config.weights.context > 0


@plain_torch()
def train_sfm(config: TrainSFM, progress: bool = True) -> Path:
    """Train, or take up a stopped run where its last checkpoint left it.

    Under torchrun or Slurm, or with ``config.machine.devices`` above 1, this is one of several processes.

    Parameters
    ----------
    config
        Data, run folder, sizes, seed.
    progress
        Show bars.

    Returns
    -------
    The model folder, ``RUN/model``: `sccafm.load` reads it. The run folder also holds config.json, log.csv with every
    loss term, curves.png, the surveys of the data, and the checkpoint.

    Raises
    ------
    ImportError
        The extra "train" is not installed.
    ValueError
        The run folder belongs to another configuration, a file cannot be trained on, the processes do not fit, settings
        contradict each other (`hold_out` or random gene vectors with `init`, gains without it, a width that the gene vectors do not have, more
        factors than cells), or `hold_out` names a regulator without prior edges.
    FileNotFoundError
        No data, or no file of regulators to hold out.
    FloatingPointError
        A loss is not finite: step, term and file are named.
    """
    return train(config, STRUCTURE, progress)


def release(config: TrainSFM) -> tuple[dict[str, Path], ReferenceData]:
    """The model folder to start from, or the bundled one for its tables."""
    if config.hold_out is not None and config.init is not None:
        raise ValueError(
            "hold_out is for new weights: the model to start from has seen these edges, and its gene vectors hold their number; "
            "leave init out"
        )
    if config.gains.is_on and config.init is None:
        raise ValueError(
            "gains are for a trained model whose scores are amplified, and there is none; name it: --init MODEL_FOLDER"
        )
    if config.gains.is_on and config.evidence != EvidenceWeights():
        warn(
            "with gains the model to start from teaches, not the evidence: weights of its terms (--evidence.*) have no effect"
        )
    files = find_files(find_release(config.init, None, False), required=TABLES)
    reference_data = read_reference_data(files)
    if config.hold_out is not None:
        reference_data = reference_data.without(config.hold_out.read_text().split())
    return files, reference_data


def build(config: TrainSFM, files: dict[str, Path], reference_data: ReferenceData, corpus: Corpus) -> tuple[SFM, VGAE]:
    """New networks with gene vectors from what is known of the genes, or those of the release to start from."""
    sizes = (reference_data.vocabulary.size, reference_data.conditions.size)
    torch.manual_seed(config.seed)
    if config.init is not None:
        if config.gene_vectors == "random":
            raise ValueError(
                'gene_vectors="random" is for new weights, and init brings weights; leave one of the two out'
            )
        sfm, vgae = load_sfm(files["sfm_config"], files["sfm_model"], *sizes)
        warn_ignored("sfm", config.sfm, sfm.config, default_sfm())
        if vgae is not None:
            warn_ignored("vgae", config.vgae, vgae.config, default_vgae())
        return sfm, vgae if vgae is not None else VGAE(config.vgae)
    sfm = SFM(config.sfm, *sizes)
    function = read_tensors(files["vocab_tensors"])["embeddings"].numpy()
    vectors = gene_vectors(
        function, corpus, reference_data, taught_by(config, reference_data.vocabulary), config.sfm.embed_dim
    )
    vectors = torch.from_numpy(vectors)
    if config.gene_vectors == "random":  # of a generator of its own: all other weights start as they do without
        vectors = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(config.seed))
    sfm.embedding.gene_embedding.weight.data.copy_(vectors)
    return sfm, VGAE(config.vgae)


def taught_by(config: TrainSFM, vocabulary: Vocabulary) -> Regulation:
    """What the edge model says of the vocabulary's genes: of the folder that the settings name, else of the release."""
    folder = find_release(config.init, None, False) if config.regulation is None else config.regulation
    if config.regulation is not None and not any((folder / name).is_file() for name in CANDIDATES["regulation"]):
        raise FileNotFoundError(f"{folder} holds no regulation.json; scripts/train_edge_model.py writes one")
    files = find_files(folder, required=())
    found = read_regulation(files, vocabulary.gene_ids())
    if found is None:
        raise FileNotFoundError(
            "the bundled model has no regulation.json; name a folder that has one: --regulation FOLDER"
        )
    return found


def build_task(
    config: TrainSFM, networks: tuple[SFM, VGAE], reference_data: ReferenceData, corpus: Corpus
) -> tuple[Trainer, Corpus]:
    """Losses, with the evidence of this corpus, and its batches."""
    evidence = Evidence(config.evidence, reference_data, taught_by(config, reference_data.vocabulary))
    return Trainer(config, *networks, evidence), corpus


def write_model(
    networks: tuple[SFM, VGAE], config: TrainSFM, files: dict[str, Path], trained: Path, corpus: Corpus
) -> None:
    """The trained model as a folder that `sccafm.load` reads, with its card and the tables it was trained on."""
    folder = config.run / "model"
    for name, network in zip(("sfm.", "vgae."), networks, strict=True):
        network.load_state_dict(read_weights(trained, name))
    copy_tables(files, folder)
    save_sfm(folder / "models", *networks)
    if teaches_contexts(config):
        carry_contexts(files, folder)
    write_card(folder / "models", config, networks[0].config, corpus.files, corpus.bad)


STRUCTURE = TaskDefinition(release, build, build_task, write_model, for_edges=True)
