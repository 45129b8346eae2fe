"""concat: networks of several runs of the same settings as one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sccafm._io import digest, new_folder
from sccafm._text import listing
from sccafm.data.joined import stacked
from sccafm.grn import storage
from sccafm.grn.grn import GRN
from sccafm.grn.pairs import Pairs
from sccafm.grn.storage import CellEdges, Part, Store, n_parts, stored_results
from sccafm.grn.stored import read_grn

SAME = ("weights", "genes", "groupby", "top_k", "min_weight", "keep_factors", "neighbors", "calibration")


def concat(networks: Sequence[GRN | str | Path], store: str | Path | None = None) -> GRN:
    """Join networks of different cells that were inferred with the same settings and genes.

    Edges of cells, contexts, strengths and mean networks are those of a single run. What compares a cell with its data set was found
    in each run by itself and stays so: q-values of cells, and `ood`. Of the runs together: `sign` where the runs that do not
    abstain agree; the null of group q-values is pooled, and a group is tested by the cells of the run that holds most of it.

    Parameters
    ----------
    networks
        At least two: `GRN` objects, or folders that `infer_grn(store=...)` or `GRN.write` wrote.
    store
        New folder to write to, a chunk at a time, so that memory stays flat. None: the result is in memory.

    Returns
    -------
    GRN

    Raises
    ------
    ValueError
        Fewer than two, other settings or genes (the message names the first that differs), or a cell that stands in two of them.
    """
    runs = [network if isinstance(network, GRN) else read_grn(network) for network in networks]
    check_joinable(runs)
    first = runs[0]
    cells = pd.Index(np.concatenate([run.cells.astype(str) for run in runs]))
    groups = joined_groups(runs, cells)
    header = joined_params(runs, cells, groups)
    tables: list[Any] = [run.obs for run in runs]
    obs = None if any(table is None for table in tables) else stacked(tables, cells)
    labels = {"cells": cells, "genes": first.genes, "groups": groups, "pairs": joined_pairs(runs), "obs": obs}
    sums = joined_sums(runs, groups.cat.categories)
    names = sorted(set.intersection(*(set(run.arrays) for run in runs)))
    if store is None:
        starts = np.cumsum([0] + [len(run) for run in runs])
        edges = CellEdges.join(
            [moved(run, np.arange(len(run)), start) for run, start in zip(runs, starts, strict=False)]
        )
        arrays = {name: np.concatenate([run.arrays[name] for run in runs]) for name in names}
        return GRN(**labels, edges=edges, sums=sums, arrays=arrays, params=header)
    return written(GRN(**labels, edges=CellEdges.join([]), sums=sums, arrays={}, params=header), runs, names, store)


def check_joinable(runs: Sequence[GRN]) -> None:
    if len(runs) < 2:
        raise ValueError(f"concat joins at least two networks, got {len(runs)}")
    first = runs[0].params["run"]
    for number, run in enumerate(runs[1:], 2):
        for key in SAME:
            here = run.params["run"].get(key)
            if here != first.get(key):
                hint = (
                    "; infer all of them with the same list, genes=[...] and regulators=[...]" if key == "genes" else ""
                )
                raise ValueError(
                    f"network {number} was inferred with another {key} ({here}) than the first ({first.get(key)}){hint}"
                )
    if len({run.pairs.n_null > 0 for run in runs}) > 1:
        raise ValueError("some networks have q-values and some none (null_cells=0); infer all of them the same way")
    cells = pd.Index(np.concatenate([run.cells.astype(str) for run in runs]))
    if not cells.is_unique:
        twice = cells[cells.duplicated()].unique()
        raise ValueError(
            f"{len(twice):,} cells stand in two networks: {listing(twice)}; name cells by their sample before inference, "
            'e.g. adata.obs_names = sample + ":" + adata.obs_names'
        )


def joined_groups(runs: Sequence[GRN], cells: pd.Index) -> pd.Series:
    order = list(dict.fromkeys(name for run in runs for name in run.groups.cat.categories))
    values = np.concatenate([run.groups.astype(str) for run in runs])
    return pd.Series(pd.Categorical(values, order), index=cells, name=runs[0].groups.name)


def joined_params(runs: Sequence[GRN], cells: pd.Index, groups: pd.Series) -> dict:
    first = runs[0].params
    own: dict[str, Any] = {"cells": digest(*cells), "groups": digest(*groups.astype(str), *groups.cat.categories)}
    own["null_cells"] = sum(run.pairs.n_null for run in runs)
    own |= {key: digest(*(run.params["run"][key] for run in runs)) for key in ("values", "conditions")}
    receipt = first["receipt"] | {"n_cells": len(cells)}
    return first | {"run": first["run"] | own, "receipt": receipt, "joined": len(runs)}


def joined_pairs(runs: Sequence[GRN]) -> Pairs:
    """Signs that do not contradict each other; moments of the runs' permuted cells together."""
    first, pairs = runs[0].pairs, [run.pairs for run in runs]
    signs = np.stack([p.sign for p in pairs])
    up, down = (signs > 0).any(0), (signs < 0).any(0)
    sign = np.where(up & down, 0, up.astype(np.int8) - down.astype(np.int8)).astype(np.int8)
    n = np.array([p.n_null for p in pairs], dtype=np.float64)
    mean, sd, total = first.null_mean, first.null_sd, int(n.sum())
    if total:
        share = n / total
        mean = sum(s * p.null_mean.astype(np.float64) for s, p in zip(share, pairs, strict=True))
        within = sum((k - 1) * p.null_sd.astype(np.float64) ** 2 for k, p in zip(n, pairs, strict=True))
        between = sum(k * (p.null_mean - mean) ** 2 for k, p in zip(n, pairs, strict=True))
        sd = np.sqrt((within + between) / (total - 1))
    moments = np.asarray(mean, np.float32), np.asarray(sd, np.float32), total
    return Pairs(first.in_prior, first.sources, first.source_names, first.binding, first.response, sign, *moments)


def joined_sums(runs: Sequence[GRN], groups: pd.Index) -> dict[str, np.ndarray]:
    first = runs[0].sums
    sums: dict[str, Any] = {name: np.zeros((len(groups), *first[name].shape[1:])) for name in ("scores", "expression")}
    sums |= {name: sum(run.sums[name] for run in runs) for name in ("u", "v")}
    for run in runs:
        for place, group in enumerate(run.groups.cat.categories):
            for name in ("scores", "expression"):
                sums[name][groups.get_loc(group)] += run.sums[name][place]
    if "null_tail" not in first:
        return sums
    weight = np.array([run.pairs.n_null for run in runs], dtype=np.float64)
    sums["null_tail"] = np.average([run.sums["null_tail"] for run in runs], axis=0, weights=weight)
    return sums | joined_tests(runs, groups)


def joined_tests(runs: Sequence[GRN], groups: pd.Index) -> dict[str, np.ndarray]:
    """Each group, and last all cells, tested by the cells of the run that tests most of them, the first of equals."""
    shape = runs[0].sums["tested"].shape[1:]
    tested, counts = np.zeros((len(groups) + 1, *shape), np.float32), np.zeros(len(groups) + 1, np.int64)
    for run in sorted(runs, key=len, reverse=True):
        rows = [*groups.get_indexer(run.groups.cat.categories), len(groups)]
        for place, row in enumerate(rows):
            if run.sums["n_tested"][place] > counts[row]:
                counts[row], tested[row] = run.sums["n_tested"][place], run.sums["tested"][place]
    return {"tested": tested, "n_tested": counts}


def moved(run: GRN, cells: np.ndarray, start: int) -> CellEdges:
    """Edges of some cells, numbered from `start` on."""
    found = run.edges.of(cells)
    number = (found.cell + start).astype(np.int32)
    return CellEdges(number, found.edge, found.weight, found.confidence, found.qvalue)


def written(whole: GRN, runs: Sequence[GRN], names: Sequence[str], folder: str | Path) -> GRN:
    """Write part by part, each from the runs that its cells come from."""
    folder = new_folder(folder)
    store = Store(folder, {"run": whole.params["run"], "params": whole.params}, whole.tables())
    ends = np.cumsum([len(run) for run in runs])
    size = storage.PART_CELLS
    for number in range(n_parts(len(whole))):
        edges, rows = [], {name: [] for name in names}
        for run, end in zip(runs, ends, strict=True):
            begin = end - len(run)
            a, b = max(number * size, begin) - begin, min((number + 1) * size, len(whole), end) - begin
            if a < b:
                edges.append(moved(run, np.arange(a, b), begin))
                for name in names:
                    rows[name].append(run.arrays[name][a:b])
        arrays = {name: np.concatenate(some) for name, some in rows.items()}
        store.add(number, Part(CellEdges.join(edges), arrays), whole.sums)
    store.complete()
    values = {name: getattr(whole, name) for name in ("cells", "genes", "groups", "pairs", "obs", "sums", "params")}
    return GRN(**values, **stored_results(store.folder, len(whole), store.header["edges"]))
