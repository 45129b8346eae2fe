"""Networks in the forms that other tools read. Every column that speaks of an edge travels along where the form allows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sccafm._io import write_file
from sccafm._text import warn

TOP_K = 10_000  # edges of a group that leave by default
GENERNIB_EDGES = 50_000  # more are refused there
SMALLEST = 1e-300  # of a q-value, so that its logarithm is finite
SIGNS = {1: "(+)", -1: "(-)", 0: "(?)"}


class Exports:
    """What leaves a network: `GRN` and `Network` have these methods, for they have ``network(group, top_k)``.

    `group` is a group of the network, None: all cells of a GRN or the only group. `top_k` edges leave, the strongest;
    None: all. With `min_confidence` only edges of at least this confidence. Files appear whole or not at all, and an
    existing one is replaced.
    """

    if TYPE_CHECKING:  # what `GRN` and `Network` have
        regulators: pd.Index
        network: Callable[..., pd.DataFrame]
        pool: Callable[..., pd.DataFrame]

    def _leaving(self, group: object, top_k: int | None, min_confidence: float | None) -> pd.DataFrame:
        if min_confidence is None:
            return self.network(group, top_k)
        table = self.network(group)
        if "confidence" not in table or table["confidence"].isna().all():
            raise ValueError("these edges have no confidence; leave min_confidence out")
        table = table[(table["confidence"] >= min_confidence).to_numpy()].reset_index(drop=True)
        return table if top_k is None else table.head(top_k)

    def to_decoupler(
        self,
        group: object = None,
        *,
        signed: bool = False,
        top_k: int | None = TOP_K,
        min_confidence: float | None = None,
    ) -> pd.DataFrame:
        """A `net` for decoupler: source, target, weight, then all other columns; pairs are unique.

        Parameters
        ----------
        group, top_k, min_confidence
            See the class.
        signed
            Multiply weights by the sign. Edges of unknown sign are then left out, with a warning that counts them.

        Returns
        -------
        DataFrame; source and target are text, weight is float64.

        Raises
        ------
        ValueError
            No edge has a sign.
        """
        table = self._leaving(group, top_k, min_confidence).astype({"source": str, "target": str, "weight": float})
        if not signed:
            return table
        known = (table["sign"] != 0).to_numpy()
        if not known.any():
            raise ValueError("no edge has a sign; pass signed=False")
        if not known.all():
            warn(f"{(~known).sum():,} of {len(table):,} edges have no sign and are left out")
        table = table[known].reset_index(drop=True)
        return table.assign(weight=table["weight"] * table["sign"])

    def to_regulons(
        self,
        group: object = None,
        path: str | Path | None = None,
        *,
        top_k: int | None = TOP_K,
        min_targets: int = 5,
        min_confidence: float | None = None,
    ) -> dict[str, list[str]]:
        """Sets of targets with pySCENIC's names, for AUCell: ``SPI1(+)`` activates, ``SPI1(-)`` represses.

        Parameters
        ----------
        group, top_k, min_confidence
            See the class.
        path
            GMT file to write; ``decoupler.pp.read_gmt`` reads it.
        min_targets
            Smaller sets are left out.

        Returns
        -------
        Name -> targets, the strongest first. Targets whose sign is not known are in ``SPI1(?)``.

        Raises
        ------
        ValueError
            No set is large enough.
        """
        table = self._leaving(group, top_k, min_confidence)
        names = table["source"].astype(str) + table["sign"].map(SIGNS).astype(str)
        sets = {name: list(genes.astype(str)) for name, genes in table["target"].groupby(names, sort=True)}
        sets = {name: genes for name, genes in sets.items() if len(genes) >= min_targets}
        if not sets:
            raise ValueError(f"no regulon has {min_targets} targets among {len(table):,} edges; lower min_targets")
        if path is not None:
            where = "_".join(["sccafm", *str("all cells" if group is None else group).split()])  # some split at spaces
            lines = ["\t".join([name, where, *genes]) for name, genes in sets.items()]
            _write_text(path, "\n".join(lines) + "\n")
        return sets

    def to_celloracle(
        self, group: object = None, *, top_k: int | None = TOP_K, min_confidence: float | None = None
    ) -> pd.DataFrame:
        """Edges in the columns of CellOracle's ``Links.links_dict[group]``.

        Parameters
        ----------
        group, top_k, min_confidence
            See the class.

        Returns
        -------
        DataFrame source, target, coef_mean (weight times sign, 0 where the sign is unknown), coef_abs (weight), p (the
        q-value), -logp, then the other columns of the edge.
        """
        table = self._leaving(group, top_k, min_confidence).astype({"source": str, "target": str})
        q = table["qvalue"].to_numpy(float) if "qvalue" in table else np.full(len(table), np.nan)
        first = {
            "source": table["source"],
            "target": table["target"],
            "coef_mean": table["weight"] * table["sign"],
            "coef_abs": table["weight"],
            "p": q,
            "-logp": -np.log10(np.maximum(q, SMALLEST)),
        }
        return pd.DataFrame(first | {name: table[name] for name in table if name not in (*first, "weight")})

    def to_celloracle_base(
        self, group: object = None, *, top_k: int | None = TOP_K, min_confidence: float | None = None
    ) -> dict[str, list[str]]:
        """Target -> its regulators, the strongest first: a base network for ``Oracle.import_TF_data(TFdict=...)``."""
        table = self._leaving(group, top_k, min_confidence).astype({"source": str, "target": str})
        return {target: list(found) for target, found in table["source"].groupby(table["target"], sort=True)}

    def to_networkx(self, group: object = None, *, top_k: int | None = TOP_K, min_confidence: float | None = None):
        """A ``networkx.DiGraph``.

        Parameters
        ----------
        group, top_k, min_confidence
            See the class.

        Returns
        -------
        networkx.DiGraph
            Edges carry every column of the edge, nodes is_regulator and, of a GRN, symbol and gene_id. Missing values
            are left out.

        Raises
        ------
        ImportError
            networkx is not installed.
        """
        try:
            import networkx as nx
        except ImportError as error:
            raise ImportError("graphs are made by networkx: pip install networkx") from error
        table = self._leaving(group, top_k, min_confidence).astype({"source": str, "target": str})
        graph = nx.DiGraph(group="" if group is None else str(group))
        genes = getattr(self, "genes", None)
        regulators = set(map(str, self.regulators))
        for name in pd.unique(table[["source", "target"]].to_numpy().ravel()):
            more = {} if genes is None else plain_values(genes.loc[name, ["symbol", "gene_id"]].to_dict())
            graph.add_node(name, is_regulator=name in regulators, **more)
        for row in table.to_dict("records"):
            source, target = row.pop("source"), row.pop("target")
            graph.add_edge(source, target, **plain_values(row))
        return graph

    def to_graphml(
        self,
        group: object = None,
        path: str | Path | None = None,
        *,
        top_k: int | None = TOP_K,
        min_confidence: float | None = None,
    ) -> str:
        """GraphML, as Cytoscape, Gephi, yEd and igraph read it; with `path` a file; attributes as in `to_networkx`.

        Returns
        -------
        The text of the file.
        """
        graph = self.to_networkx(group, top_k=top_k, min_confidence=min_confidence)
        import networkx as nx

        text = "\n".join(nx.generate_graphml(graph)) + "\n"
        if path is not None:
            _write_text(path, text)
        return text

    def to_cyjs(
        self,
        group: object = None,
        path: str | Path | None = None,
        *,
        top_k: int | None = TOP_K,
        min_confidence: float | None = None,
    ) -> dict:
        """Elements of Cytoscape and cytoscape.js; with `path` a .cyjs file.

        Returns
        -------
        {"elements": {"nodes": [...], "edges": [...]}, ...}, attributes as in `to_networkx`; `networkx.cytoscape_graph`
        reads it.
        """
        graph = self.to_networkx(group, top_k=top_k, min_confidence=min_confidence)
        import networkx as nx

        content = nx.cytoscape_data(graph) | {"data": dict(graph.graph)}
        if path is not None:
            _write_text(path, json.dumps(content, allow_nan=False))
        return content

    def to_beeline(
        self,
        group: object = None,
        path: str | Path | None = None,
        *,
        top_k: int | None = TOP_K,
        min_confidence: float | None = None,
    ) -> pd.DataFrame:
        """BEELINE's ``rankedEdges.csv``: Gene1, Gene2, EdgeWeight, tab-separated, then the other columns of the edge.

        Returns
        -------
        DataFrame, the strongest first, as in the file.
        """
        table = self._leaving(group, top_k, min_confidence).astype({"source": str, "target": str})
        table = table.rename(columns={"source": "Gene1", "target": "Gene2", "weight": "EdgeWeight"})
        if path is not None:
            write_file(path, lambda p: table.to_csv(p, sep="\t", index=False))
        return table

    def to_genernib(
        self,
        path: str | Path | None = None,
        *,
        dataset_id: str,
        method_id: str = "sccafm",
        by_group: bool = False,
        top_k: int | None = GENERNIB_EDGES,
    ):
        """A prediction as geneRNIB reads it: an AnnData whose uns holds method_id, dataset_id and prediction.

        Parameters
        ----------
        path
            h5ad file to write.
        dataset_id, method_id
            Names that geneRNIB knows.
        by_group
            One network of each group, told apart by a column cell_type, instead of one of all cells.
        top_k
            Edges in all, at most 50,000; the strongest.

        Returns
        -------
        AnnData
            uns["prediction"] has source, target, weight (text, as geneRNIB wants it), then the other columns.

        Raises
        ------
        ValueError
            More edges than geneRNIB takes.
        """
        import anndata as ad

        if top_k is None or top_k > GENERNIB_EDGES:
            raise ValueError(f"geneRNIB takes at most {GENERNIB_EDGES:,} edges, got top_k={top_k}")
        table = self.pool(top_k).rename(columns={"group": "cell_type"}) if by_group else self.network(None, top_k)
        table = table.sort_values("weight", ascending=False, kind="stable").head(top_k).reset_index(drop=True)
        texts = table.select_dtypes("category").columns
        table = table.astype(dict.fromkeys(texts, str)).assign(weight=table["weight"].map(repr))
        first = ["source", "target", "weight"]
        table = table[[*first, *table.columns.drop(first)]]
        adata = ad.AnnData(uns={"method_id": method_id, "dataset_id": dataset_id, "prediction": table})
        if path is not None:
            write_file(path, adata.write_h5ad)
        return adata


def plain_values(row: dict) -> dict:
    """Values that JSON and GraphML hold; missing ones are left out."""
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
    return {key: value for key, value in plain.items() if not pd.isna(value)}


def _write_text(path: str | Path, text: str) -> None:
    write_file(path, lambda p: p.write_text(text, encoding="utf-8"))
