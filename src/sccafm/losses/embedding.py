"""What the EFM learns from a batch of cells: views, networks and loss terms. `train efm` and `embed(adapt=)` share it."""

import dataclasses
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from sccafm.losses import contrastive, views
from sccafm.nn import SFM, CausalEFM
from sccafm.nn.causal_efm import graph_of
from sccafm.types import Factors, Tokens

WATCHED = ("effective_rank", "uniformity", "alignment")  # terms that are logged and never minimised


@dataclass(frozen=True)
class EFMWeights:
    """What each term counts; 0 switches it off."""

    cell: float = 1.0
    """Two views of a cell against other cells and against itself without a cause."""
    gene: float = 0.2
    """Targets against matched genes that their regulators do not regulate; 0 gives the ablation without it."""
    reconstruction: float = 0.3
    """Values of hidden genes."""


@dataclass(frozen=True)
class Views:
    """How a cell is looked at."""

    kind: str = "causal"
    """"causal", or "plain": genes are left out at random, and no cause is taken away (for ablations)."""
    genes: int = 224
    """Genes of a view."""
    causal_share: float = 0.5
    """Share of them that are kept because they send or receive regulation."""
    thin_from: float = 0.3
    """Least share of the molecules that a view keeps; the most is all."""
    hidden: float = 0.15
    """Share of the genes whose values are hidden."""
    knocked_out: int = 4
    """Regulators that are taken away together for a hard negative."""
    knocked_out_among: int = 16
    """The most active ones, of which they are drawn."""
    temperature: float = 0.2
    gene_temperature: float = 0.2
    anchors: int = 96
    """Targets of a batch that the gene term looks at."""
    matched: int = 8
    """Matched negatives of each."""

    def __post_init__(self):
        if self.kind not in ("causal", "plain"):
            raise ValueError(f'views.kind must be "causal" or "plain", got {self.kind!r}')


def objective(
    sfm: SFM,
    efm: CausalEFM,
    tokens: Tokens,
    settings: Views,
    weights: EFMWeights,
    partners: Tokens | None = None,
    is_negative: Tensor | None = None,
) -> dict[str, Tensor]:
    """Every loss term of a batch, before weighting, and what is watched.

    Parameters
    ----------
    sfm, efm
        Networks; the structure module gets a gradient in training mode alone.
    tokens
        C G cells that share their genes.
    settings, weights
        A term of weight 0 is not computed.
    partners
        The cells that second views are made of, where they are not the same: equal states of other batches.
    is_negative
        C C, which cells are told apart from which; absent: all.
    """  # fmt: skip
    pair = together(tokens, tokens if partners is None else partners)  # 2C cells
    thin = torch.empty(len(pair)).uniform_(settings.thin_from, 1.0).to(pair.expression.device)
    seen = views.thinned(pair, thin)
    is_hidden = views.hidden_genes(seen, settings.hidden)
    seen = dataclasses.replace(seen, expression=seen.expression.masked_fill(is_hidden, 0.0))
    factors = read_factors(sfm, seen) if efm.config.graph != "none" else None
    is_causal = settings.kind == "causal" and factors is not None
    positions = views.kept_genes(seen, factors if is_causal else None, settings.genes, settings.causal_share)
    shown, graph = views.taken(seen, factors, positions)
    is_hidden = is_hidden.gather(1, positions)
    embedded = efm(shown, graph, is_hidden)
    one, other = embedded.learned.chunk(2)  # components need no teaching, and would solve most of the contrast
    hard = None
    if is_causal and graph is not None:
        first, own = shown[: len(tokens)], graph[: len(tokens)]
        lost = views.active_regulators(first, own, settings.knocked_out, settings.knocked_out_among)
        without = efm(views.knocked_out(first, own, lost), own, is_hidden[: len(tokens)])
        hard = without.learned[:, None]
    terms = {"cell": contrastive.cell_contrast(one, other, settings.temperature, hard, is_negative)}
    if weights.gene:
        terms["gene"] = gene_term(efm, seen, factors, embedded.genes, positions, settings)
    if weights.reconstruction:
        values = pair.expression.gather(1, positions)
        terms["reconstruction"] = contrastive.reconstruction(efm.predict(embedded.genes, shown), values, is_hidden)
    with torch.no_grad():
        watched = contrastive.effective_rank(one), contrastive.uniformity(one), contrastive.alignment(one, other)
    return terms | dict(zip(WATCHED, watched, strict=True))


def total(terms: dict[str, Tensor], weights: EFMWeights) -> Tensor:
    """What is minimised."""
    return reduce(add, (getattr(weights, name) * term for name, term in terms.items() if name not in WATCHED))


def together(one: Tokens, other: Tokens) -> Tokens:
    """Cells of both, one after the other."""
    names = [field.name for field in dataclasses.fields(Tokens)]
    parts = {name: (getattr(one, name), getattr(other, name)) for name in names}
    joined: dict[str, Any] = {name: None if a is None else torch.cat((a, b)) for name, (a, b) in parts.items()}
    return Tokens(**joined)


def read_factors(sfm: SFM, tokens: Tokens) -> Factors:
    with torch.set_grad_enabled(sfm.training and torch.is_grad_enabled()):
        return sfm(tokens)


def gene_term(
    efm: CausalEFM, seen: Tokens, factors: Factors | None, genes: Tensor, positions: Tensor, settings: Views
) -> Tensor:
    """`contrastive.gene_contrast` on gene states that are averaged over the batch's cells."""
    if factors is None:
        return genes.new_zeros(())
    size, width = seen.gene_ids.shape[1], genes.shape[-1]
    flat = positions.flatten()
    shown = torch.bincount(flat, minlength=size)  # G, how many views show the gene
    mean = genes.new_zeros(size, width).index_add(0, flat, genes.flatten(0, 1)) / shown.clamp_min(1)[:, None]
    regulator_index = seen.is_tf[0].nonzero()[:, 0]
    with torch.no_grad():
        graph = graph_of(efm.config.graph, seen, factors)
        scores = torch.einsum("ctm,cgm->tg", graph.u[:, regulator_index], graph.v) / len(seen)
        confidence = contrastive.edge_confidence(scores) * (shown > 0) * (shown[regulator_index] > 0)[:, None]
        strength = confidence.sum(0)  # G
        anchors = torch.multinomial(strength + 1e-9, min(settings.anchors, size))
        negatives = contrastive.matched_negatives(seen.expression, confidence, anchors, settings.matched)
    heads = efm.source_head(mean), efm.target_head(mean)
    return contrastive.gene_contrast(*heads, confidence, regulator_index, anchors, negatives, settings.gene_temperature)
