"""The training loop of the structure module: one process, seeded, resumable to the bit.

Nothing random outlives a step: batch and dropout of step n depend on the seed and n alone, so a checkpoint is weights,
optimiser moments and the number of the step.
"""

import csv
import dataclasses
import json
import math
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from sccafm import losses
from sccafm.lexicon import Lexicon, read_lexicon
from sccafm.nn import SFM, VGAE
from sccafm.nn.routing import balanced_beta
from sccafm.nn.sfm import Routing
from sccafm.pretrained import choose_device, copy_tables, find_files, find_release, load_sfm, read_tensors, save_sfm
from sccafm.store import write_whole
from sccafm.train.config import TrainSFM, default_sfm, default_vgae
from sccafm.train.corpus import Batch, Corpus
from sccafm.train.vectors import gene_vectors

TABLES = ("vocab", "cond_dict")  # what a release must hold to train on its vocabulary
CHECKPOINT = "checkpoint.safetensors"
VALIDATION_BATCHES = 32


class Trainer(nn.Module):
    """Networks, prior and losses of one run; the forward pass gives every term of a batch."""

    def __init__(self, config: TrainSFM, lexicon: Lexicon, sfm: SFM, vgae: VGAE):
        super().__init__()
        self.config, self.sfm, self.vgae = config, sfm, vgae
        size = lexicon.vocabulary.size
        edges = lexicon.prior_tokens
        strength = edges["confidence"] if "confidence" in edges else edges["source"] * 0 + 0.9
        keys = torch.tensor((edges["source"] * size + edges["target"]).to_numpy())
        order = keys.argsort()
        self.register_buffer("prior_keys", keys[order], persistent=False)
        values = torch.tensor(strength.to_numpy(), dtype=torch.float32).clamp(0, 0.99)
        self.register_buffer("prior_strength", values[order], persistent=False)
        studied = torch.zeros(2, size, dtype=torch.bool)  # a gene that the prior never saw is no negative of it
        studied[0, torch.tensor(edges["source"].to_numpy())] = True
        studied[1, torch.tensor(edges["target"].to_numpy())] = True
        self.register_buffer("studied", studied, persistent=False)
        self.vocab_size = size

    def prior(self, regulators: Tensor, targets: Tensor) -> Tensor:
        """How surely the prior holds each pair, 0 where it does not: T, G tokens -> T G."""
        keys = regulators[:, None] * self.vocab_size + targets
        position = torch.searchsorted(self.prior_keys, keys).clamp_max(len(self.prior_keys) - 1)
        return torch.where(self.prior_keys[position] == keys, self.prior_strength[position], 0.0)

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], Routing]:
        """Every loss term before weighting, and the routing for the load balance."""
        tokens, config = batch.tokens, self.config
        routing = self.sfm.route(tokens)
        factors = routing.factors
        acts = tokens.is_tf[0]  # the cells of a batch share their genes
        genes, regulators = tokens.gene_ids[0], tokens.gene_ids[0][acts]
        scores = factors.u[:, acts] @ factors.v.transpose(1, 2)  # C T G
        strength = self.prior(regulators, genes)  # T G
        is_pair = self.studied[0, regulators][:, None] & self.studied[1, genes] & (regulators[:, None] != genes)
        active = strength * (batch.activity[:, acts, None] * batch.activity[:, None]).sqrt()
        safety = torch.exp(-config.safety * standardised(batch.level))
        contrast = losses.edge_contrast(scores, active, is_pair, safety, config.sharpness)
        pairs = torch.ones_like(scores, dtype=torch.bool)
        prior = losses.prior_loss(scores, strength > 0, pairs, 512, 5.0, 0.1)
        evidence = losses.elbo(
            tokens.expression, self.vgae(tokens.expression, factors), tokens.is_gene, config.min_scale
        ) / len(genes)
        terms = {
            "edges": contrast,
            "prior": prior,
            "elbo": evidence,
            "context": losses.context_contrast(factors.context()),
            # The penalty grows like exp(spectral radius); its logarithm has a gradient that cannot overflow.
            "dag": losses.dag_penalty(factors).log1p(),
            "sparsity": losses.sparsity(factors, tokens.is_tf, tokens.is_gene),
        }
        return terms, routing

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        weights = dataclasses.asdict(self.config.weights)
        return sum(weights[name] * term for name, term in terms.items() if weights[name])


def standardised(level: Tensor) -> Tensor:
    """Levels of a cell's genes on one scale: C G."""
    centered = level - level.mean(1, keepdim=True)
    return (centered / level.std(1, keepdim=True).clamp_min(1e-6)).clamp(-2.5, 2.5)


def train_sfm(config: TrainSFM, progress: bool = True) -> Path:
    """Train, or take up a stopped run where its last checkpoint left it.

    Parameters
    ----------
    config
        Data, run folder, sizes, seed.
    progress
        Show bars.

    Returns
    -------
    The model folder, ``RUN/model``: `sccafm.load` reads it. The run folder also holds config.json, log.csv with every
    loss term, and the checkpoint.

    Raises
    ------
    ValueError
        The run folder belongs to another configuration.
    FloatingPointError
        A loss is not finite: step, term and data set are named.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    config.run.mkdir(parents=True, exist_ok=True)
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    check_run(config.run, settings)
    release = find_release(config.init, None, False)
    files = find_files(release, required=TABLES)
    lexicon = read_lexicon(files)
    corpus = Corpus(config, lexicon, progress)
    device = choose_device(config.device)
    sfm, vgae = build(config, files, lexicon, corpus)
    trainer = Trainer(config, lexicon, sfm, vgae).to(device)
    optimizer = make_optimizer(trainer)
    checkpoint = config.run / CHECKPOINT
    first = load_checkpoint(checkpoint, trainer, optimizer) if checkpoint.exists() else 0
    log = Log(config.run / "log.csv", list(dataclasses.asdict(config.weights)), first)
    validation = corpus.validation_batches(VALIDATION_BATCHES)
    bar = tqdm(initial=first, total=config.steps, desc="training", unit="step", disable=not progress)
    with ThreadPoolExecutor(1) as reader, bar:
        upcoming = reader.submit(corpus.train_batch, first)
        for step in range(first, config.steps):
            batch = upcoming.result().to(device)
            upcoming = reader.submit(corpus.train_batch, step + 1)
            terms = train_step(trainer, optimizer, batch, step)
            bar.update()
            if (step + 1) % config.log_every == 0:
                bar.set_postfix(loss=f"{terms['total']:.3f}", edges=f"{terms['edges']:.3f}")
                log.add(step + 1, "train", terms)
            if (step + 1) % config.validate_every == 0 or step + 1 == config.steps:
                log.add(step + 1, "validation", validate(trainer, validation, device))
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                save_checkpoint(checkpoint, trainer, optimizer, step + 1)
        cancel(upcoming)
    return write_model(config.run / "model", trainer, files)


def cancel(upcoming: Future) -> None:
    if not upcoming.cancel():
        upcoming.result()


def check_run(run: Path, settings: dict) -> None:
    """A run folder belongs to one configuration; its length, threads and device may change, at the price of other bits."""
    path = run / "config.json"
    if path.exists() and (run / CHECKPOINT).exists():  # before the first checkpoint nothing was trained
        found = json.loads(path.read_text())
        free = ("steps", "threads", "device", "checkpoint_every", "run")
        differing = [k for k, v in settings.items() if k not in free and found.get(k) != v]
        if differing:
            raise ValueError(f"{run} belongs to another configuration (it differs in {differing}); choose a new folder")
        if found["steps"] != settings["steps"]:
            warnings.warn(
                f"{run} was begun for {found['steps']:,} steps and goes on to {settings['steps']:,}: the learning rate "
                "follows the new cosine from here, so that the model is not that of an unbroken run",
                stacklevel=3,
            )
    write_whole(path, lambda p: p.write_text(json.dumps(settings, indent=2) + "\n"))


def build(config: TrainSFM, files: dict[str, Path], lexicon: Lexicon, corpus: Corpus) -> tuple[SFM, VGAE]:
    """New networks with gene vectors from what is known of the genes, or those of the release to start from."""
    sizes = (lexicon.vocabulary.size, lexicon.conditions.size)
    torch.manual_seed(config.seed)
    if config.init is not None:
        sfm, vgae = load_sfm(files["sfm_config"], files["sfm_model"], *sizes)
        warn_ignored("sfm", config.sfm, sfm.config, default_sfm())
        if vgae is not None:
            warn_ignored("vgae", config.vgae, vgae.config, default_vgae())
        return sfm, vgae if vgae is not None else VGAE(config.vgae)
    sfm = SFM(config.sfm, *sizes)
    function = read_tensors(files["vocab_tensors"])["embeddings"].numpy()
    vectors = torch.from_numpy(gene_vectors(function, corpus, lexicon))
    if vectors.shape != sfm.embedding.gene_embedding.weight.shape:
        raise ValueError(
            f"{files['vocab_tensors']} holds vectors of width {function.shape[1]}, the model has embed_dim "
            f"{config.sfm.embed_dim}; they must agree"
        )
    sfm.embedding.gene_embedding.weight.data.copy_(vectors)
    return sfm, VGAE(config.vgae)


def warn_ignored(section: str, asked, loaded, default) -> None:
    """Say which settings have no effect because the network comes from a model folder."""
    asked, loaded, default = (dataclasses.asdict(config) for config in (asked, loaded, default))
    ignored = [key for key in asked if asked[key] not in (loaded[key], default[key])]
    if ignored:
        told = ", ".join(f"{section}.{key}={asked[key]!r} (the model has {loaded[key]!r})" for key in ignored)
        warnings.warn(f"with init the network comes from the model folder; without effect: {told}", stacklevel=4)


def make_optimizer(trainer: Trainer) -> torch.optim.AdamW:
    """Gene vectors learn slowly and are not decayed; norms, biases and bins are not decayed either."""
    config = trainer.config
    genes = trainer.sfm.embedding.gene_embedding.weight
    rest = [p for p in trainer.parameters() if p is not genes]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "lr": config.learning_rate, "weight_decay": 0.0},
    ]
    genes.requires_grad_(not trainer.sfm.config.freeze_loaded_gene_embeddings)
    if genes.requires_grad:
        groups.append({"params": [genes], "lr": config.gene_learning_rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    for group in optimizer.param_groups:
        group["peak"] = group["lr"]
    return optimizer


def schedule(step: int, config: TrainSFM) -> float:
    """Share of the peak learning rate: linear rise, then a cosine down to 5 %."""
    rise = min(1.0, (step + 1) / max(config.warmup, 1))
    return rise * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(step / config.steps, 1))))


def train_step(trainer: Trainer, optimizer: torch.optim.AdamW, batch: Batch, step: int) -> dict[str, float]:
    """One optimiser step; returns every term and the total as numbers."""
    config = trainer.config
    torch.manual_seed(config.seed * 1_000_003 + step)  # dropout and sampling of this step
    trainer.train()
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * schedule(step, config)
    terms, routing = trainer(batch)
    total = trainer.total(terms)
    numbers = {name: term.item() for name, term in terms.items()} | {"total": total.item()}
    check_finite(numbers, step, batch.dataset)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    norm = nn.utils.clip_grad_norm_(trainer.parameters(), config.clip)
    check_finite({"gradient": norm.item()}, step, batch.dataset)
    optimizer.step()
    balance(trainer.sfm, routing)
    return numbers


def balance(sfm: SFM, routing: Routing) -> None:
    """Move the routers' offsets towards an equal load of all factors."""
    for router, logits in ((sfm.tf_router, routing.tf_logits), (sfm.tg_router, routing.tg_logits)):
        if router.is_balanced():
            gating = router.gating
            gating.update(balanced_beta(logits.detach().float(), gating.beta_qb, gating.k))


def check_finite(numbers: dict[str, float], step: int, dataset: str) -> None:
    bad = [name for name, value in numbers.items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"step {step}: {bad[0]} is {numbers[bad[0]]} on a batch of {dataset}; the run stops here"
        )


@torch.no_grad()
def validate(trainer: Trainer, batches: list[Batch], device: torch.device) -> dict[str, float]:
    """Mean of every term over held-out cells."""
    trainer.eval()
    sums: dict[str, float] = {}
    for number, batch in enumerate(batches):
        torch.manual_seed(number)  # the autoencoder samples in evaluation too
        terms, _ = trainer(batch.to(device))
        for name, term in (terms | {"total": trainer.total(terms)}).items():
            sums[name] = sums.get(name, 0.0) + float(term) / len(batches)
    return sums


def save_checkpoint(path: Path, trainer: Trainer, optimizer: torch.optim.AdamW, step: int) -> None:
    """Weights and moments in one file that appears whole."""
    tensors = {f"model.{k}": v.detach().cpu().contiguous() for k, v in trainer.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v).cpu().contiguous() for k, v in state.items()}
    write_whole(path, lambda p: save_file(tensors, p, {"step": str(step)}))


def load_checkpoint(path: Path, trainer: Trainer, optimizer: torch.optim.AdamW) -> int:
    """Fill networks and optimiser; returns the number of steps done."""
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    tensors = load_file(path)
    trainer.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return step


class Log:
    """Loss terms as CSV; rows after the checkpoint that a run is taken up from are dropped, for they come again."""

    def __init__(self, path: Path, terms: list[str], first: int):
        self.path, self.columns = path, ["step", "part", *terms, "total"]
        kept = []
        if path.exists() and first:
            with path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= first]
        self._write("w", kept, header=True)

    def add(self, step: int, part: str, numbers: dict[str, float]) -> None:
        self._write("a", [{"step": step, "part": part} | {k: f"{v:.6g}" for k, v in numbers.items()}], header=False)

    def _write(self, mode: str, rows: list[dict], header: bool) -> None:
        with self.path.open(mode, newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            if header:
                writer.writeheader()
            writer.writerows(rows)


def write_model(folder: Path, trainer: Trainer, files: dict[str, Path]) -> Path:
    """The trained model as a folder that `sccafm.load` reads, with the tables it was trained on."""
    copy_tables(files, folder)
    save_sfm(folder / "models", trainer.sfm, trainer.vgae)
    return folder
