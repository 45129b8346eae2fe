"""What a truth of a panel is, whichever panel it belongs to. Knows no file: see selection_panel.py and judged_panel.py."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from sccafm import evaluate
from sccafm.evaluate.truth import gene_keys

KINDS = ("binding", "response", "curated")
COLUMNS = ["source", "target"]


@dataclass(frozen=True, eq=False)
class PanelTruth:
    """True edges, and what is asked about them."""

    name: str
    kind: str  # of KINDS
    species: str  # whose symbols the edges are in: human or mouse; BEELINE writes mouse symbols in upper case
    edges: pd.DataFrame  # source, target
    targets: pd.Index  # genes that can be targets; none: those of the cells
    unclear: pd.DataFrame  # source, target of edges that are neither true nor false
    cells: Path | None = None  # h5ad file from which a network of these cells can be inferred
    only: tuple[str, tuple[str, ...]] | None = (
        None  # column of obs and its labels: the cells of the file that are meant
    )

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.name}: kind {self.kind!r} is none of {list(KINDS)}")

    @property
    def regulators(self) -> pd.Index:
        return pd.Index(pd.unique(self.edges["source"]), name="source")

    def swap(self, scores: pd.DataFrame, known: pd.DataFrame | None = None, **options) -> evaluate.SwapTest:
        """The swap test; `known` are further edges (of a prior) that count neither as true nor as false."""
        exclude = self.unclear if known is None else pd.concat([self.unclear, known[COLUMNS]], ignore_index=True)
        targets = self.targets if len(self.targets) else None
        return evaluate.swap_test(scores, self.edges, exclude=exclude, targets=targets, **options)

    def report(self, scores: pd.DataFrame, **options) -> evaluate.Report:
        """`evaluate.network` on the truth's own candidates: its regulators times its targets, without unclear edges."""
        if len(self.targets):
            scores = scores.loc[:, gene_keys(scores.columns).isin(gene_keys(self.targets))]
        return evaluate.network(scores, self.edges, exclude=self.unclear, kind=self.kind, **options)

    def read_cells(self, n_cells: int) -> ad.AnnData:
        """Up to `n_cells` of the cells that are meant, drawn by a fixed seed."""
        adata = ad.read_h5ad(self.cells)
        if self.only is not None:
            column, labels = self.only
            adata = adata[adata.obs[column].astype(str).isin(labels).to_numpy()]
        return sampled(adata, n_cells)

    def read_genes(self, n_cells: int, n_targets: int) -> ad.AnnData:
        """`read_cells` with the truth's regulators and up to `n_targets` of its targets, drawn by a fixed seed."""
        drawn = np.random.default_rng(0).choice(self.targets, min(n_targets, len(self.targets)), replace=False)
        adata = self.read_cells(n_cells)
        return adata[:, gene_keys(adata.var_names).isin(gene_keys([*self.regulators, *drawn]))].copy()

    def in_human(self, orthologs: pd.DataFrame) -> "PanelTruth":
        """A mouse truth in human symbols (columns mouse_Symbol, human_Symbol); genes without an ortholog are lost."""
        if self.species == "human":
            return self
        human = dict(zip(orthologs["mouse_Symbol"].str.upper(), orthologs["human_Symbol"], strict=True))

        def translated(edges: pd.DataFrame) -> pd.DataFrame:
            return edges.apply(lambda column: column.str.upper().map(human)).dropna().reset_index(drop=True)

        targets = pd.Index(pd.Series(self.targets).str.upper().map(human).dropna().unique())
        changed = {"edges": translated(self.edges), "unclear": translated(self.unclear), "targets": targets}
        return dataclasses.replace(self, species="human", **changed)


def sampled(adata: ad.AnnData, n: int) -> ad.AnnData:
    """Up to n cells, drawn by a fixed seed, in their order."""
    rng = np.random.default_rng(0)
    return adata[np.sort(rng.choice(adata.n_obs, min(n, adata.n_obs), replace=False))].copy()


def no_edges() -> pd.DataFrame:
    return pd.DataFrame(columns=COLUMNS, dtype=object)


def as_edges(table: pd.DataFrame, source: str, target: str) -> pd.DataFrame:
    """Columns source, target of a table: unique, without self-edges."""
    edges = table[[source, target]].set_axis(COLUMNS, axis=1).astype(object)
    return edges[edges["source"] != edges["target"]].drop_duplicates(ignore_index=True)
