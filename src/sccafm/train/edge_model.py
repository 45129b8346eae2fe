"""The edge model: vectors of regulators and of targets whose products tell a regulator's own targets.

Two towers read what is known of a regulator and of a target (`edge_evidence`). They answer two questions, each with vectors of
its own: *binding* (would the regulator bind near the gene), taught by ChIP-seq and motifs, and *response* (would the gene move if
the regulator were taken away), taught by curated edges. Two losses, each popularity-proof in its own way:

- ``swap``: over pairs of true edges i->j, k->l of one source whose exchanged pairs are no edges,
  ``softplus(-(s_ij + s_kl - s_il - s_kj))``. A level of the regulator or of the target cancels.
- ``levels``: logistic regression with a free level for each regulator and each target of each source, beside the product.
  What is popular is learned as such, and the product has the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from sccafm.reference.regulation import QUESTIONS
from sccafm.train.edge_evidence import BINDING, LEAST_TARGETS, EdgeEvidence, Split


@dataclass(frozen=True)
class EdgeModelConfig:
    """Settings of the edge model."""

    loss: Literal["swap", "levels"] = "swap"
    width: int = 32  # K, of the vectors of one question
    hidden: int = 128
    steps: int = 400
    genes: int = 4096  # of one step
    regulators: int = 192  # of one source in one step, at most
    pairs: int = 4096  # of edges of one source in one step
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    own_decay: float = 0.5  # of a regulator's own vector, beside what its features say
    own_dropout: float = 0.5  # share of steps in which a regulator goes without it, so that relatives must do
    dropout: float = 0.2
    seeds: tuple[int, ...] = (0, 1, 2)  # whose vectors stand side by side
    sources: Mapping[str, float] = field(
        default_factory=lambda: {"curated": 1.0, "encode": 1.0, "chea": 0.5, "conserved_motifs": 0.5}
    )  # what each source's loss counts


@dataclass(frozen=True, eq=False)
class EdgeVectors:
    """What the edge model says of regulator i and target j: ``source[q, i] @ target[q, j]`` under question q."""

    source: np.ndarray  # 2 V K
    target: np.ndarray  # 2 V K

    def product(self, question: int, regulators: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """T G."""
        return self.source[question, regulators] @ self.target[question, targets].T


class Tower(nn.Module):
    """Features to vectors of both questions: a linear map and a layer beside it."""

    def __init__(self, inputs: int, config: EdgeModelConfig):
        super().__init__()
        outputs = len(QUESTIONS) * config.width
        self.drop_input = nn.Dropout(config.dropout / 2)
        last = nn.Linear(config.hidden, outputs)
        self.layers = nn.Sequential(nn.Linear(inputs, config.hidden), nn.SiLU(), nn.Dropout(config.dropout), last)
        self.skip = nn.Linear(inputs, outputs, bias=False)
        for weight in (last.weight, self.skip.weight):
            weight.data.mul_(0.5)

    def forward(self, x: Tensor) -> Tensor:  # N P -> N 2 K
        x = self.drop_input(x)
        return (self.layers(x) + self.skip(x)).unflatten(1, (len(QUESTIONS), -1))


class Source:
    """Edges of one source as a table of the regulators that have enough."""

    def __init__(self, edges: np.ndarray, size: int):
        regulators, code, times = np.unique(edges[:, 0], return_inverse=True, return_counts=True)
        enough = times >= LEAST_TARGETS
        row = np.cumsum(enough) - 1
        kept = enough[code]
        self.regulators = torch.from_numpy(regulators[enough]).long()
        self.is_edge = torch.zeros(len(self.regulators), size, dtype=torch.bool)  # T V
        self.is_edge[row[code[kept]], edges[kept, 1].astype(np.int64)] = True
        self.genes = self.is_edge.any(0).nonzero()[:, 0].numpy()


class EdgeModel(nn.Module):
    """Towers, a vector of its own for each regulator, and what each source makes of the products."""

    of_source: Tensor  # V P
    of_target: Tensor

    def __init__(self, config: EdgeModelConfig, source: Tensor, target: Tensor, sources: Mapping[str, Source]):
        super().__init__()
        self.config, size = config, len(source)
        self.register_buffer("of_source", source, persistent=False)
        self.register_buffer("of_target", target, persistent=False)
        self.sends, self.receives = Tower(source.shape[1], config), Tower(target.shape[1], config)
        self.own = nn.Embedding(size, len(QUESTIONS) * config.width)
        nn.init.zeros_(self.own.weight)
        self.scale = nn.ParameterDict({name: nn.Parameter(torch.ones(config.width)) for name in sources})
        if config.loss == "levels":
            rows = {name: torch.full((len(s.regulators),), -2.0) for name, s in sources.items()}
            self.row = nn.ParameterDict({name: nn.Parameter(value) for name, value in rows.items()})
            self.column = nn.ParameterDict({name: nn.Parameter(torch.zeros(size)) for name in sources})

    def senders(self, tokens: Tensor) -> Tensor:  # T -> T 2 K
        own = self.own(tokens).unflatten(1, (len(QUESTIONS), -1))
        kept = 1 - self.config.own_dropout
        if self.training:
            own = own * (torch.rand(len(tokens), 1, 1) < kept)
        return self.sends(self.of_source[tokens]) + (own if self.training else own * kept)

    def receivers(self, tokens: Tensor) -> Tensor:  # G -> G 2 K
        return self.receives(self.of_target[tokens])

    def loss(self, name: str, source: Source, rows: Tensor, genes: Tensor, receivers: Tensor) -> Tensor | None:
        """Of some regulators and genes of one source; None where they hold no edges to learn from."""
        question = question_of(name)
        senders = self.senders(source.regulators[rows])[:, question] * self.scale[name]
        product = senders @ receivers[:, question].T / self.config.width**0.5  # T G
        is_edge = source.is_edge[rows][:, genes]
        if self.config.loss == "swap":
            return swap_loss(product, is_edge, self.config.pairs)
        logits = product + self.row[name][rows, None] + self.column[name][genes]
        share = is_edge.float().mean()
        entropy = F.binary_cross_entropy_with_logits(logits, is_edge.float())
        return entropy / (4 * share * (1 - share)).clamp_min(0.02)  # rare edges count no less

    @torch.no_grad()
    def vectors(self) -> EdgeVectors:
        self.eval()
        every = torch.arange(len(self.of_source))
        source, target = self.senders(every).numpy(), self.receivers(every).numpy()
        for question in range(len(QUESTIONS)):
            names = [name for name in self.scale if question_of(name) == question]
            if not names:
                continue
            weight = np.array([self.config.sources[name] for name in names])
            scale = np.average([self.scale[name].numpy() for name in names], 0, weight)
            source[:, question] *= scale / self.config.width**0.5
        return EdgeVectors(source.transpose(1, 0, 2), target.transpose(1, 0, 2))


def question_of(source: str) -> int:
    return QUESTIONS.index("binding" if source in BINDING else "response")


def swap_loss(product: Tensor, is_edge: Tensor, pairs: int) -> Tensor | None:
    """``softplus(-(s_ij + s_kl - s_il - s_kj))`` over random pairs of edges whose exchanged pairs are no edges.

    A regulator counts by the root of its edges, not by their number.
    """
    i, j = is_edge.nonzero(as_tuple=True)
    if len(i) < 50:
        return None
    first, second = torch.randint(len(i), (2, pairs))
    i, j, k, l = i[first], j[first], i[second], j[second]
    proper = (i != k) & ~is_edge[i, l] & ~is_edge[k, j]
    i, j, k, l = i[proper], j[proper], k[proper], l[proper]
    gain = product[i, j] + product[k, l] - product[i, l] - product[k, j]
    weight = is_edge.sum(1).clamp_min(3).float().rsqrt()
    weight = weight[i] * weight[k]
    return (F.softplus(-gain) * weight).sum() / weight.sum().clamp_min(1e-9)


def train_edge_model(
    evidence: EdgeEvidence,
    function: np.ndarray,
    profiles: np.ndarray,
    config: EdgeModelConfig | None = None,
    split: Split | None = None,
    progress: bool = True,
) -> EdgeVectors:
    """Train one edge model for each seed; their vectors stand side by side, so that products are means over seeds.

    Parameters
    ----------
    evidence
        What was compiled.
    function, profiles
        V D, V P: GO and Reactome membership, and where genes are expressed.
    config
        None: the defaults.
    split
        What is held out; None: nothing.
    progress
        Show a bar.
    """
    config, split = config or EdgeModelConfig(), split or Split()
    edges = evidence.training_edges(split)
    sources = {
        name: Source(edges[name], evidence.size) for name, counts in config.sources.items() if counts and name in edges
    }
    features = [torch.from_numpy(x) for x in evidence.features(split, function, profiles)]
    found = [train_one(config, features, sources, seed, progress) for seed in config.seeds]
    source = np.concatenate([vectors.source for vectors in found], 2) / len(found)
    return EdgeVectors(source, np.concatenate([vectors.target for vectors in found], 2))


def train_one(
    config: EdgeModelConfig, features: list[Tensor], sources: Mapping[str, Source], seed: int, progress: bool
) -> EdgeVectors:
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        source, target = features
        model = EdgeModel(config, source, target, sources)
        optimizer = model_optimizer(model, config)
        rates = [group["lr"] for group in optimizer.param_groups]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=config.steps, pct_start=0.1)
        pool = np.unique(np.concatenate([source.genes for source in sources.values()]))
        for _ in tqdm(range(config.steps), desc=f"edge model, seed {seed}", disable=not progress):
            genes = torch.from_numpy(rng.choice(pool, min(config.genes, len(pool)), replace=False))
            receivers, total = model.receivers(genes), torch.zeros(())
            for name, source in sources.items():
                n = len(source.regulators)
                rows = torch.from_numpy(rng.choice(n, min(n, config.regulators), replace=False))
                loss = model.loss(name, source, rows, genes, receivers)
                total = total if loss is None else total + config.sources[name] * loss
            if not torch.isfinite(total):
                raise FloatingPointError(f"the edge model's loss is {float(total)}; lower its learning rate")
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        return model.vectors()


def model_optimizer(model: EdgeModel, config: EdgeModelConfig) -> torch.optim.AdamW:
    """Own vectors are decayed more, levels hardly and learn faster."""
    own, levels, rest = [], [], []
    for name, parameter in model.named_parameters():
        part = own if name.startswith("own.") else levels if name.split(".")[0] in ("row", "column") else rest
        part.append(parameter)
    rate = config.learning_rate
    groups = [
        {"params": rest, "lr": rate, "weight_decay": config.weight_decay},
        {"params": own, "lr": rate, "weight_decay": config.own_decay},
    ]
    if levels:
        groups.append({"params": levels, "lr": 10 * rate, "weight_decay": 1e-3})
    return torch.optim.AdamW(groups)
