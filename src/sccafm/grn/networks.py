"""Networks without cells: what another tool inferred, one or several groups, as edges with their columns."""

import ast
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sccafm._io import whole_path
from sccafm._text import warn
from sccafm.data.groups import ALL
from sccafm.grn.edge_tables import WEIGHTS, edge_columns, find_column
from sccafm.grn.exports import Exports
from sccafm.reference.tables import read_gmt

SETS = (".gmt", ".gmt.gz")
GROUP_COLUMNS = ("group", "cell_type", "cluster")
CELLORACLE_WEIGHTS = ("coef_abs", "coef_mean")  # the latter is 0 where the sign is unknown


@dataclass(frozen=True, eq=False)
class Network(Exports):
    """Directed networks of one or several groups, as a table of edges.

    Made by `GRN.from_edges` and `GRN.from_pyscenic`. `sccafm.evaluate`, `sccafm.pl` and the exports take it as they
    take a GRN; what needs cells does not.
    """

    edges: pd.DataFrame  # group, source, target (categorical), weight (above 0), sign, then whatever came along

    def __len__(self) -> int:
        return len(self.edges)

    def __repr__(self) -> str:
        names = self.group_names
        groups = "" if names == [ALL] else f"\n  groups: {', '.join(names)}"
        return (
            f"Network of {len(self):,} edges: {len(self.regulators):,} regulators x {len(self.targets):,} targets"
            f"{groups}\n  columns: {', '.join(self.edges.columns)}"
        )

    @property
    def group_names(self) -> list[str]:
        return list(self.edges["group"].cat.categories)

    @property
    def regulators(self) -> pd.Index:
        return self.edges["source"].cat.categories

    @property
    def targets(self) -> pd.Index:
        return self.edges["target"].cat.categories

    def network(self, group: object = None, top_k: int | None = None) -> pd.DataFrame:
        """Edges of one group, the strongest first.

        Parameters
        ----------
        group
            None: the only group.
        top_k
            Edges to keep; None: all.

        Returns
        -------
        DataFrame source, target, weight, sign and the other columns of the table.

        Raises
        ------
        KeyError
            No such group; here and in what follows.
        ValueError
            Several groups and none named.
        """
        names = self.group_names
        if group is None and len(names) > 1:
            raise ValueError(f"there are {len(names)} networks; pick one: group={names[0]!r}")
        group = names[0] if group is None else str(group)
        if group not in names:
            raise KeyError(f"no group {group!r}; there are {names}")
        found = self.edges[(self.edges["group"] == group).to_numpy()]
        return found.drop(columns="group").head(top_k if top_k is not None else len(found)).reset_index(drop=True)

    def pool(self, top_k: int | None = None) -> pd.DataFrame:
        """Edges of all groups under a first column group; `top_k` of each, the strongest."""
        if top_k is None:
            return self.edges.copy()
        return self.edges.groupby("group", observed=True, sort=False).head(top_k).reset_index(drop=True)

    def matrix(self, group: object = None) -> pd.DataFrame:
        """Weights of one group, regulators x targets, float64; 0 where there is no edge."""
        table = self.network(group)
        values = np.zeros((len(self.regulators), len(self.targets)))
        values[table["source"].cat.codes, table["target"].cat.codes] = table["weight"]
        return pd.DataFrame(values, index=self.regulators, columns=self.targets)


def from_edges(edges: pd.DataFrame | str | Path) -> Network:
    """Read a long table of edges.

    Parameters
    ----------
    edges
        DataFrame, or a CSV, tab-separated, parquet or GMT file (of `to_regulons` or pySCENIC: sets without weights). Ends are called source and target, Gene1 and Gene2, TF and
        target or alike; strength is weight, score, importance, EdgeWeight, coef_mean or alike, and 1 where there is no
        such column. Groups are in group, cell_type or cluster. The sign is read from sign, mor, is_stimulation and
        is_inhibition, or from negative weights, else it is 0 (unknown). All other columns travel along.

    Returns
    -------
    Network
        weight is the absolute strength. Self-edges and zeros are left out, and of an edge that stands twice in a group
        the stronger is kept; each is said in a warning.

    Raises
    ------
    KeyError
        No columns for the ends.
    ValueError
        A weight or a name is missing, or no edge is left.
    """
    table = _read(edges)
    source, target = edge_columns(table)
    weight = _weights(table)
    sign = _signs(table, weight)
    group = next((name for name in GROUP_COLUMNS if name in table), None)
    ends = table[[source, target]]
    if ends.isna().any(axis=None) or (ends == "").any(axis=None):
        raise ValueError(f"a name in {source!r} or {target!r} is missing; drop the rows: table.dropna()")
    main = {
        "group": ALL if group is None else table[group].astype(str),
        "source": ends[source].astype(str),
        "target": ends[target].astype(str),
        "weight": weight.abs(),
        "sign": sign,
    }
    used = {source, target, group, weight.name, *main}
    rest = {name: table[name] for name in table if name not in used}
    return _checked(pd.DataFrame(main | rest, index=table.index))


def _read(edges: pd.DataFrame | str | Path) -> pd.DataFrame:
    if isinstance(edges, pd.DataFrame):
        return edges
    path = Path(edges)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give a table of edges as CSV, TSV or parquet")
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.name.endswith(SETS):
        return _sets(path)
    try:
        is_tabbed = len(pd.read_csv(path, sep="\t", nrows=0).columns) > 1
        # genes may be called NA or NAN: of names only an empty field is missing
        table = pd.read_csv(path, sep="\t" if is_tabbed else ",", keep_default_na=False, na_values=[""])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no table of edges as CSV, TSV or parquet: {str(error).strip()}") from error
    return table.loc[:, ~table.columns.str.startswith("Unnamed:")]


def _sets(path: Path) -> pd.DataFrame:
    """Regulons of a GMT file, as `to_regulons` and pySCENIC name them ("SPI1(+)", "SPI1(-)", "SPI1(?)"); such a file has no weights."""
    ends = [(name, gene) for name, genes in read_gmt(path).items() for gene in genes]
    table = pd.DataFrame(ends, columns=["source", "target"])
    sign = table["source"].str.extract(r"\(([+-])\)$")[0].map({"+": 1, "-": -1}).fillna(0).astype(int)
    return table.assign(source=table["source"].str.replace(r"\([+?-]\)$", "", regex=True), sign=sign)


def _weights(table: pd.DataFrame) -> pd.Series:
    names = {str(column).lower(): column for column in table.columns}
    known = [name for name in (*CELLORACLE_WEIGHTS, *WEIGHTS) if name.lower() in names]
    if not known:
        return pd.Series(1.0, index=table.index, name="weight")
    column = find_column(table, known, "")
    weight = pd.to_numeric(table[column], errors="coerce").astype(float)
    if not np.isfinite(weight).all():
        n = int((~np.isfinite(weight)).sum())
        raise ValueError(f"{n:,} of {len(weight):,} weights in {column!r} are no numbers; drop those rows")
    return weight


def _signs(table: pd.DataFrame, weight: pd.Series) -> pd.Series:
    if {"is_stimulation", "is_inhibition"} <= set(table):
        sign = table["is_stimulation"].astype(int) - table["is_inhibition"].astype(int)
    else:
        column = next((name for name in ("sign", "mor") if name in table), None)
        signed = table["coef_mean"].astype(float) if "coef_mean" in table else weight
        stated = signed if (signed < 0).any() else weight * 0  # all positive: strengths, and no word on the sign
        sign = stated if column is None else pd.to_numeric(table[column])
    return np.sign(sign.fillna(0)).astype(np.int8)


def _checked(table: pd.DataFrame) -> Network:
    is_self, is_zero = table["source"] == table["target"], table["weight"] == 0
    table = table[~(is_self | is_zero)].sort_values("weight", ascending=False, kind="stable")
    twice = table.duplicated(["group", "source", "target"])
    counts = {"self-edges": is_self.sum(), "weights of 0": (is_zero & ~is_self).sum(), "duplicates": twice.sum()}
    said = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)
    if said:
        warn(f"left out {said}")
    table = table[~twice]
    if table.empty:
        raise ValueError("no edge is left; expected rows with source, target and a weight other than 0")
    table = table.astype({name: "category" for name in ("group", "source", "target")})
    return Network(table.sort_values("group", kind="stable").reset_index(drop=True))


def from_pyscenic(path: str | Path) -> Network:
    """Read what pySCENIC wrote: adjacencies of ``pyscenic grn`` or regulons of ``pyscenic ctx``.

    Parameters
    ----------
    path
        CSV or tab-separated: adjacencies ``TF, target, importance``, or the motif table whose TargetGenes list genes
        with weights; there activating and repressing modules give the sign.

    Returns
    -------
    Network
        As of `from_edges`; an edge that several motifs of a regulator support is kept once, with its largest weight.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A loom file, or one that is neither of the two.
    """
    path = whole_path(path)
    if path.suffix == ".loom":
        raise ValueError(f"{path} is a loom file; give the CSV that `pyscenic grn` or `pyscenic ctx` wrote")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give the CSV that `pyscenic grn` or `pyscenic ctx` wrote")
    if path.name.endswith(SETS):
        return from_edges(path)
    with open(path, encoding="utf-8", errors="replace") as file:
        first = file.readline()
    if "TF" in first and "importance" in first:
        return from_edges(path)
    try:
        table = pd.read_csv(path, header=[0, 1], index_col=[0, 1])
    except (ValueError, IndexError, UnicodeDecodeError):
        raise ValueError(
            f"{path} begins {first.strip()[:60]!r}; expected TF, target, importance or pySCENIC's motif table"
        ) from None
    names = [column[-1] for column in table.columns]
    if not {"TargetGenes", "Context"} <= set(names):
        raise ValueError(
            f"{path} has columns {first.strip().split(',')[:8]}; expected TF, target, importance or pySCENIC's motif table"
        )
    return from_edges(_regulon_edges(table.set_axis(names, axis=1)))


def _regulon_edges(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (regulator, _), context, genes in zip(table.index, table["Context"], table["TargetGenes"], strict=True):
        sign = 1 if "activating" in context else -1 if "repressing" in context else 0
        rows += [(regulator, gene, float(weight), sign) for gene, weight in ast.literal_eval(genes)]
    edges = pd.DataFrame(rows, columns=["source", "target", "weight", "sign"])
    edges = edges[(edges["source"] != edges["target"]) & (edges["weight"] != 0)]  # a regulon lists its own regulator
    return edges.sort_values("weight", ascending=False, kind="stable").drop_duplicates(["source", "target"])
