"""The EFM that learned from causes: cells and genes from expression, with messages along the cell's own graph.

No attention between genes: what passes between them passes along the structure module's factors, `V (U^T h)`, so that a
cell of G genes costs O(G). A cell is read by itself; nothing here depends on the cells or the order of genes beside it.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sccafm.nn.components import Components, mixed
from sccafm.nn.config import check_config
from sccafm.nn.embedding import FLOAT32_EPS
from sccafm.nn.layers import zero_padding
from sccafm.types import Factors, Tokens

SPECIES_SLOT = 1  # of the four conditions
FEATURES = 4  # of a value: itself, beside its usual level, above zero, hidden
LEAST = 1e-6  # of what messages are divided by


@dataclass(frozen=True)
class CausalEFMConfig:
    """Sizes, as stored under "causal_efm" in efm_config.json."""

    embed_dim: int = 128  # D
    gene_dim: int = 128  # width of the frozen gene vectors, the structure module's
    num_layers: int = 1
    hidden_dim: int = 64  # of the layers' networks
    pool_heads: int = 8
    cell_dim: int = 128  # width of what contrasts teach of a cell
    components: int = 0  # of the corpus, which stand beside it in a cell's embedding
    component_weight: float = 1.0  # length of their part beside that of the other
    head_dim: int = 32  # width of a gene's source and target vectors
    graph: str = "sfm"  # "shuffled" and "none" are for ablations
    species: tuple[int, int] = (0, 0)  # condition ids of human and mouse

    def __post_init__(self):
        object.__setattr__(self, "species", tuple(self.species))  # JSON gives a list
        check_config(self)


class Embedded(NamedTuple):
    cells: Tensor  # C (cell_dim + components), root mean square 1
    genes: Tensor  # C G D, 0 on padding
    learned: Tensor  # C cell_dim, the part of the cells' vectors that contrasts teach; root mean square 1


class CausalEFM(nn.Module):
    """Embedding module of this library.

    Parameters
    ----------
    config
        Sizes.
    vocab_size
        Rows of the gene vectors, V.
    """

    gene_vectors: Tensor  # V gene_dim

    def __init__(self, config: CausalEFMConfig, vocab_size: int):
        super().__init__()
        self.config = config
        width = config.embed_dim
        self.register_buffer("gene_vectors", torch.zeros(vocab_size, config.gene_dim))
        # Each species' usual level of each gene: orthologs share a token, and with it a vector; what is left between the
        # species is how strongly their genes are transcribed.
        self.usual_level = nn.Parameter(torch.zeros(2, vocab_size))
        self.gene_shift = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.gene_shift.weight, std=0.3)  # the frozen vectors span few directions: genes get their own
        self.gene_proj = nn.Linear(config.gene_dim, width)
        self.value_encoder = nn.Sequential(
            nn.Linear(FEATURES, config.hidden_dim), nn.SiLU(), nn.Linear(config.hidden_dim, 2 * width)
        )
        self.tf_type = nn.Embedding(2, width)
        self.layers = nn.ModuleList(MessageLayer(width, config.hidden_dim) for _ in range(config.num_layers))
        self.final_norm = nn.RMSNorm(width, eps=FLOAT32_EPS)
        self.pool = CellPool(config)
        self.components = Components(config.components, vocab_size) if config.components else None
        self.source_head = nn.Linear(width, config.head_dim)
        self.target_head = nn.Linear(width, config.head_dim)
        self.value_head = nn.Sequential(nn.Linear(width, config.hidden_dim), nn.SiLU(), nn.Linear(config.hidden_dim, 1))

    def forward(self, tokens: Tokens, factors: Factors | None, is_hidden: Tensor | None = None) -> Embedded:
        """Embed cells.

        Parameters
        ----------
        tokens
            C G, as the structure module reads them.
        factors
            What it said of them; may be None where the config's graph is "none".
        is_hidden
            C G bool: genes whose value must not be looked at, to be told from their regulators.
        """
        above = tokens.expression - self.levels(tokens)  # C G
        expression = tokens.expression
        if is_hidden is not None:
            above, expression = above.masked_fill(is_hidden, 0.0), expression.masked_fill(is_hidden, 0.0)
        vectors = self.static(tokens.gene_ids)  # C G D
        hidden = vectors + self.tf_type((~tokens.is_tf).long()) + self._values(vectors, above, expression, is_hidden)
        hidden = zero_padding(hidden, tokens.is_padding)
        graph = graph_of(self.config.graph, tokens, factors)
        for layer in self.layers:
            hidden = zero_padding(layer(hidden, graph, expression), tokens.is_padding)
        hidden = zero_padding(self.final_norm(hidden), tokens.is_padding)
        learned = self.pool(hidden, vectors, above, expression, tokens.is_padding)
        return Embedded(self._beside_components(learned, expression, tokens), hidden, learned)

    def static(self, gene_ids: Tensor) -> Tensor:
        """A gene's vector whatever the cell: ... -> ... D."""
        return self.gene_proj(self.gene_vectors[gene_ids]) + self.gene_shift(gene_ids)

    def levels(self, tokens: Tokens) -> Tensor:
        """Usual level of each gene in the cell's species, between the two where it is unknown: C G."""
        return mixed(self.usual_level, tokens.gene_ids, self._species(tokens))

    def _species(self, tokens: Tokens) -> Tensor:
        """How much of each cell is human and mouse: C 2."""
        ids = tokens.conditions.new_tensor(self.config.species)
        is_species = (tokens.conditions[:, SPECIES_SLOT, None] == ids).to(self.usual_level.dtype)
        return torch.where(is_species.sum(1, keepdim=True) == 1, is_species, 0.5)

    def _beside_components(self, learned: Tensor, expression: Tensor, tokens: Tokens) -> Tensor:
        """Both parts, whose lengths are as 1 to `component_weight`."""
        if self.components is None:
            return learned
        on_axes = self.components(expression, tokens.gene_ids, self._species(tokens), tokens.is_padding)
        length = self.config.cell_dim**0.5  # of the learned part
        joined = torch.cat((learned, self.config.component_weight * length * on_axes), 1)
        return joined * (joined.shape[1] / (length**2 * (1 + self.config.component_weight**2))) ** 0.5

    def predict(self, genes: Tensor, tokens: Tokens) -> Tensor:
        """Value of each gene, as its final state tells it: C G D -> C G."""
        return self.value_head(genes)[..., 0] + self.levels(tokens)

    def _values(self, vectors: Tensor, above: Tensor, expression: Tensor, is_hidden: Tensor | None) -> Tensor:
        hidden = torch.zeros_like(above) if is_hidden is None else is_hidden.to(above.dtype)
        features = torch.stack((expression, above, (expression > 0).to(above.dtype), hidden), -1)  # C G 4
        scale, shift = self.value_encoder(features).chunk(2, -1)
        return vectors * scale + shift


class MessageLayer(nn.Module):
    """A gene hears from its active regulators, and a regulator from its active targets."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=FLOAT32_EPS)
        last = nn.Linear(hidden, width)
        self.update = nn.Sequential(nn.Linear(3 * width, hidden), nn.SiLU(), last)
        nn.init.zeros_(last.weight)  # a new layer passes on what it gets
        nn.init.zeros_(last.bias)

    def forward(self, hidden: Tensor, graph: Factors, expression: Tensor) -> Tensor:  # C G D -> C G D
        normed = self.norm(hidden)
        heard = mean_message(graph.u, graph.v, normed, expression)
        told = mean_message(graph.v, graph.u, normed, expression)
        return hidden + self.update(torch.cat((normed, heard, told), -1))


def mean_message(senders: Tensor, receivers: Tensor, features: Tensor, weight: Tensor) -> Tensor:
    """Mean of what senders say, weighted by score and by how active each is; 0 where nobody speaks.

    ``out_j = sum_i S_ij w_i f_i / (sum_i S_ij w_i + LEAST)`` with ``S = senders receivers^T``, which is never formed.

    Parameters
    ----------
    senders, receivers
        C G M factors, u and v for messages from regulators to targets.
    features
        C G D.
    weight
        C G, not negative.
    """
    said = torch.cat((features * weight[..., None], weight[..., None]), -1)  # C G D+1
    heard = receivers @ (senders.transpose(1, 2) @ said)
    return heard[..., :-1] / (heard[..., -1:] + LEAST)


class CellPool(nn.Module):
    """The cell token: heads that look at genes by state and expression, beside the sum of all departures from the usual."""

    def __init__(self, config: CausalEFMConfig):
        super().__init__()
        heads, width = config.pool_heads, config.embed_dim
        self.look = nn.Linear(width, heads)
        self.slope = nn.Parameter(torch.linspace(0.0, 1.0, heads))  # how much more an expressed gene is looked at
        self.mix = nn.Linear(heads * width, config.cell_dim)
        self.direct = nn.Linear(width, config.cell_dim, bias=False)
        self.norm = nn.RMSNorm(config.cell_dim, eps=FLOAT32_EPS, elementwise_affine=False)

    def forward(
        self, hidden: Tensor, vectors: Tensor, above: Tensor, expression: Tensor, is_padding: Tensor | None
    ) -> Tensor:
        scores = self.look(hidden) + self.slope * expression[..., None]  # C G heads
        if is_padding is not None:
            scores = scores.masked_fill(is_padding[..., None], -torch.inf)
            above = above.masked_fill(is_padding, 0.0)
        pooled = torch.einsum("cgh,cgd->chd", torch.softmax(scores, 1), hidden).flatten(1)
        departure = torch.einsum("cg,cgd->cd", above, vectors) / (above.norm(dim=1, keepdim=True) + LEAST)
        return self.norm(self.mix(pooled) + self.direct(departure))


def graph_of(kind: str, tokens: Tokens, factors: Factors | None) -> Factors:
    """The graph that messages take.

    "sfm": the cell's own. "shuffled": the same factors handed to other regulators and targets, always the same ones
    whatever the order of genes. "none": every regulator speaks to every gene.
    """
    if kind == "none":
        one = tokens.expression.new_ones(())
        u, v = ((one * where)[..., None] for where in (tokens.is_tf & tokens.is_gene, tokens.is_gene))
        return Factors(u, v, tokens.expression)
    if factors is None:
        raise ValueError(f'graph="{kind}" needs the factors of the structure module')
    if kind == "sfm":
        return factors
    return replace(
        factors,
        u=exchanged(factors.u, tokens.gene_ids, tokens.is_tf & tokens.is_gene),
        v=exchanged(factors.v, tokens.gene_ids, tokens.is_gene),
    )


def exchanged(rows: Tensor, gene_ids: Tensor, where: Tensor) -> Tensor:
    """Hand the rows of some genes around among them: C G M, C G, C G bool -> C G M.

    The genes stand in two circles, each in an order that their tokens alone decide; who is n-th in one gets the row of who
    is n-th in the other.
    """
    giving, taking = (torch.where(where, scattered(gene_ids, key), 2**31).argsort(dim=1, stable=True) for key in (1, 2))
    given = rows.gather(1, giving[..., None].expand_as(rows))
    return torch.zeros_like(rows).scatter(1, taking[..., None].expand_as(rows), given)


def scattered(ids: Tensor, key: int) -> Tensor:
    """A number below 2^31 for each id, which looks like chance and is not."""
    mixed = (ids * 2_654_435_761 + key * 40_503) % 2**31
    return (mixed * 1_103_515_245 + 12_345) % 2**31


def from_structure(vectors: Tensor, levels: Tensor, config: CausalEFMConfig) -> CausalEFM:
    """A new module that knows the structure module's gene vectors (V gene_dim) and the usual levels (2 V)."""
    efm = CausalEFM(config, len(vectors))
    with torch.no_grad():
        efm.gene_vectors.copy_(vectors)
        efm.usual_level.copy_(levels)
    return efm
