"""Judge gene vectors by what linear probes read from them about genes held out, beside the vectors they started from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from safetensors.numpy import load_file
from tqdm import tqdm

from sccafm.evaluate.comparison import ComparisonReport, Panel, verdict
from sccafm.evaluate.gene_sets import GeneSets, read_gene_sets
from sccafm.evaluate.markdown import markdown_table
from sccafm.evaluate.metrics import bootstrap_counts, interval
from sccafm.evaluate.probes import (
    complex_pairs,
    direction_pairs,
    fold_aurocs,
    pair_aurocs,
    regulation_pairs,
    term_aurocs,
)
from sccafm.evaluate.truth import Truth, gene_keys, read_edges
from sccafm.model.layout import find_files, find_release
from sccafm.reference.genes import UNKNOWN_TOKEN, Vocabulary

TASKS = {
    "terms": "gene sets",
    "complexes": "complexes",
    "regulation": "regulator-target",
    "direction": "direction",
}
BASELINES = ("start", "degree", "random")
N_FOLDS = 5


@dataclass(frozen=True, eq=False)
class GeneReport(ComparisonReport):
    """What `genes` found. `to_frame`, `to_markdown` and `plot` show it."""

    names: tuple[str, ...]  # vectors that were judged
    table: pd.DataFrame  # one row per task and method
    differences: pd.DataFrame  # judged vectors minus baseline, paired over bootstrap draws
    per_unit: pd.DataFrame  # one row per task, method and unit (set, complex or regulator)
    receipts: dict[str, GeneSets | Truth] = field(repr=False)  # what was mapped and lost
    skipped: dict[str, str]  # baseline or task -> why it is absent
    n_genes: int  # genes that all methods have
    n_left_out: int  # genes that some method lacks

    def to_frame(self) -> pd.DataFrame:
        """One row per task and method.

        Columns task, method, is_judged, auroc (mean over units), auroc_low and auroc_high (95 % bootstrap interval over
        units), n_units, n_dimensions.
        """
        return self.table.copy()

    def to_markdown(self) -> str:
        """GitHub table: methods x tasks, AUROC [low, high]."""
        tasks = self._tasks()
        cells = self.table.assign(cell=[_cell(row) for row in self.table.to_dict("records")])
        shown = cells.pivot(index="method", columns="task", values="cell").reindex(cells["method"].unique())
        rows = ([method, *(row[t] for t in tasks)] for method, row in shown.iterrows())
        return markdown_table(["method", *(TASKS[t] for t in tasks)], rows) + "\n\n" + self._story()

    def plot(self):
        """A matplotlib Figure: AUROC with its interval per method, a panel per task, chance as a line."""
        panels = [
            Panel(f"{TASKS[t]}, AUROC", self.table[self.table["task"] == t], "auroc", "auroc_low", "auroc_high", 0.5)
            for t in self._tasks()
        ]
        return self._figure(panels, self._story(), 3)

    def __repr__(self) -> str:
        lines, width = [self._story()], self.table["method"].str.len().max()
        for task in self._tasks():
            rows = self.table[self.table["task"] == task]
            lines.append(f"  {TASKS[task]}: AUROC over {rows['n_units'].iloc[0]} held-out {UNITS[task]}")
            for row in rows.to_dict("records"):
                lines.append(f"    {'*' if row['is_judged'] else ' '} {row['method']:{width}}  {_cell(row)}")
            lines += [f"    {self._verdict(name, task)}" for name in self.names]
        lines += [f"  {task}: {receipt!r}" for task, receipt in self.receipts.items()]
        lines += [f"  not run: {name} ({why})" for name, why in self.skipped.items()]
        return "\n".join(line for line in lines if line.strip())

    def _tasks(self) -> list[str]:
        return [task for task in TASKS if task in set(self.table["task"])]

    def _story(self) -> str:
        lost = f" ({self.n_left_out:,} that some of the vectors lack are left out)" if self.n_left_out else ""
        return f"{', '.join(self.names)}: linear probes on {self.n_genes:,} genes{lost}"

    def _verdict(self, name: str, task: str) -> str:
        gaps = self.differences.query("vectors == @name and task == @task")
        rows = self.table.query("task == @task and not is_judged").set_index("method")["auroc"].dropna()
        if gaps.empty or rows.empty:
            return ""
        best = rows.idxmax()
        gap = gaps[gaps["baseline"] == best].iloc[0]
        return verdict(name, f"the strongest baseline, {best}", gap, "+")


UNITS = {"terms": "genes, sets", "complexes": "complexes", "regulation": "regulators", "direction": "regulators"}


def genes(
    vectors: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    terms=None,
    complexes=None,
    pairs=None,
    baselines: str | Sequence[str] | Mapping[str, pd.DataFrame] | None = "all",
    min_genes: int = 20,
    max_genes: int = 500,
    max_sets: int = 300,
    max_pairs: int = 5000,
    n_bootstrap: int = 200,
    random_state: int = 0,
    progress: bool = True,
) -> GeneReport:
    """Judge gene vectors by cross-validated linear probes on genes, complexes and regulators held out.

    - terms: is a held-out gene a member of the set? Negatives are the other genes that any set holds.
    - complexes: are two genes of one complex? Negatives keep one gene; whole complexes are held out.
    - regulation: does the regulator, held out, have this target? False targets are drawn as often as true ones.
    - direction: of two regulators, both held out, which regulates the other? An edge against its reverse.

    All methods are judged on the same genes, folds and pairs. Vectors that were made from the very sets or pairs that are
    passed read them back: the bundled starting vectors hold GO and Reactome membership, so pass other sets to learn more.

    Parameters
    ----------
    vectors
        DataFrame genes x D, rows named by symbols or Ensembl ids, or several of them by name. Rows of nothing but NaN
        are genes without a vector.
    terms, complexes
        Sets of genes in any form that `read_gene_sets` takes. A complex needs three genes at least.
    pairs
        Regulators and targets in any form that `read_edges` takes.
    baselines
        "all": `start` (the bundled vectors a model starts from), `degree` (how many sets, complexes, targets and regulators
        a gene has among those seen), `random` (normal numbers); names; a dictionary of further vectors; None.
    min_genes, max_genes, max_sets
        Sizes of the sets that are probed, and how many of them, drawn at random.
    max_pairs
        True regulator-target pairs, drawn at random.
    n_bootstrap
        Draws of sets, complexes or regulators for the 95 % intervals and the paired differences.
    random_state
        Seed of everything that is drawn.
    progress
        Show a bar.

    Returns
    -------
    GeneReport

    Raises
    ------
    KeyError
        Unknown columns of a table.
    ValueError
        Nothing to judge by, NaN within a vector, genes named twice, or too few genes, sets or regulators in common.
    """
    if terms is None and complexes is None and pairs is None:
        raise ValueError("nothing to judge by; pass `terms=`, `complexes=` or `pairs=`")
    given = {"vectors": vectors} if isinstance(vectors, pd.DataFrame) else dict(vectors)
    judged = {name: _checked(name, frame) for name, frame in given.items()}
    names = next(iter(judged.values())).index
    rivals, wanted = _rivals(baselines, names)
    if twice := sorted(set(judged) & ({*rivals, *wanted})):
        raise ValueError(f"{twice} name vectors and a baseline; rename the vectors")
    common, arrays = _aligned(judged | rivals)
    rng = np.random.default_rng(random_state)
    if "random" in wanted:
        arrays["random"] = rng.normal(size=next(iter(arrays.values())).shape)
    receipts, units, degree = {}, {}, {}
    if terms is not None:
        receipts["terms"] = read_gene_sets(terms, common, min_genes=min_genes, max_genes=max_genes)
        units["terms"], degree["terms"] = _term_task(
            receipts["terms"], read_gene_sets(terms, common), common, max_sets, rng
        )
    if complexes is not None:
        receipts["complexes"] = read_gene_sets(complexes, common, min_genes=3)
        units["complexes"], degree["complexes"] = _complex_task(receipts["complexes"], common, rng)
    if pairs is not None:
        receipts["regulation"] = read_edges(pairs, common)
        for task, run in _pair_tasks(receipts["regulation"].edges, common, max_pairs, rng).items():
            units[task], degree[task] = run, _degrees(len(common))
    results = {task: {} for task in units}
    jobs = [(task, method) for task in units for method in (*arrays, *(["degree"] if "degree" in wanted else []))]
    for task, method in tqdm(jobs, desc="probes", disable=not progress):
        x = degree[task] if method == "degree" else arrays[method]
        results[task][method] = units[task](x)
    table, gaps, per_unit, skipped = _summary(results, list(judged), n_bootstrap, rng)
    widths = {method: x.shape[1] for method, x in arrays.items()}
    return GeneReport(
        names=tuple(judged),
        table=table.assign(n_dimensions=table["method"].map(widths).astype("Int64")),
        differences=gaps,
        per_unit=per_unit,
        receipts=receipts,
        skipped=skipped,
        n_genes=len(common),
        n_left_out=len(names) - len(common),
    )


def start_vectors(names: Sequence[str]) -> pd.DataFrame:
    """Bundled vectors that a model starts from (models/vocab.safetensors), for the genes that it has; symbols or Ensembl ids."""
    files = find_files(find_release(None, None, False), required=("vocab", "vocab_tensors"))
    vocabulary, table = Vocabulary.read(files["vocab"]), load_file(files["vocab_tensors"])["embeddings"]
    names = pd.Index(names)
    tokens = np.array([vocabulary.token(key) for key in gene_keys(names)])
    return pd.DataFrame(table[tokens[tokens != UNKNOWN_TOKEN]], index=names[tokens != UNKNOWN_TOKEN])


def _checked(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Finite vectors under unique gene keys."""
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"{name!r} is a {type(frame).__name__}; label it: `pd.DataFrame(array, index=gene_names)`")
    frame = frame.astype(float).dropna(how="all")
    n_bad = int((~np.isfinite(frame.to_numpy())).any(axis=1).sum())
    if n_bad:
        raise ValueError(
            f"{name!r} holds NaN or infinite values within {n_bad:,} of {len(frame):,} vectors; drop those genes: "
            "`vectors.dropna()`"
        )
    twice = gene_keys(frame.index).duplicated()
    if twice.any():
        raise ValueError(
            f"{name!r} names {int(twice.sum())} genes twice, e.g. {frame.index[twice][0]!r}; keep one of each: "
            "`vectors[~vectors.index.duplicated()]`"
        )
    return frame


def _rivals(wanted, names: pd.Index) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Vectors of the baselines that have some of their own, and the names asked for."""
    if isinstance(wanted, Mapping):
        return {name: _checked(name, frame) for name, frame in wanted.items()}, ()
    asked = BASELINES if wanted == "all" else (wanted,) if isinstance(wanted, str) else tuple(wanted or ())
    if unknown := [name for name in asked if name not in BASELINES]:
        raise ValueError(f"unknown baselines {unknown}; expected 'all' or some of {list(BASELINES)}")
    return ({"start": start_vectors(names)} if "start" in asked else {}), asked


def _aligned(frames: dict[str, pd.DataFrame]) -> tuple[pd.Index, dict[str, np.ndarray]]:
    """Genes that all methods have, in the order and spelling of the first, and their vectors."""
    keyed = {name: frame.set_axis(gene_keys(frame.index), axis=0) for name, frame in frames.items()}
    keys = next(iter(keyed.values())).index
    for frame in keyed.values():
        keys = keys[keys.isin(frame.index)]
    if len(keys) < 10 * N_FOLDS:
        raise ValueError(
            f"the vectors ({', '.join(frames)}) have {len(keys)} genes in common, expected at least {10 * N_FOLDS}; name all in "
            "symbols or all in Ensembl ids, or leave baselines out: `baselines=['random']`"
        )
    first = next(iter(frames.values())).index
    return first[gene_keys(first).isin(keys)], {name: frame.loc[keys].to_numpy() for name, frame in keyed.items()}


def _term_task(probed: GeneSets, every: GeneSets, common: pd.Index, max_sets: int, rng):
    """Function from vectors to the AUROC of each set, and the degree baseline: in how many other sets a gene is."""
    names = sorted(rng.choice(list(probed.sets), min(max_sets, len(probed)), replace=False))
    count = common.map(pd.Series([g for s in every.sets.values() for g in s]).value_counts()).to_numpy(dtype=float)
    known = np.flatnonzero(count > 0)  # a gene that no set holds was perhaps never looked at
    is_member = np.stack([common[known].isin(probed.sets[name]) for name in names], axis=1)
    folds = rng.permutation(len(known)) % N_FOLDS
    others = count[known][:, None] - is_member

    def run(x) -> pd.Series:
        aurocs = fold_aurocs(others, is_member, folds) if x is None else term_aurocs(x[known], is_member, folds)
        return pd.Series(aurocs, names)

    return run, None


def _complex_task(complexes: GeneSets, common: pd.Index, rng):
    """Function from vectors to the AUROC of each complex, and the degree baseline: in how many complexes a gene is."""
    if len(complexes) < 2 * N_FOLDS:
        raise ValueError(
            f"{len(complexes)} complexes have three genes, expected at least {2 * N_FOLDS}; pass more sets"
        )
    members = {name: common.get_indexer(group) for name, group in complexes.sets.items()}
    task = complex_pairs(members, len(common), N_FOLDS, rng)
    count = np.bincount(np.concatenate(list(members.values())), minlength=len(common))
    return lambda x: pd.Series(pair_aurocs(x, task, 3), task.units), np.log1p(count)[:, None]


def _pair_tasks(edges: pd.DataFrame, common: pd.Index, max_pairs: int, rng) -> dict[str, Callable]:
    places = np.column_stack([common.get_indexer(edges["source"]), common.get_indexer(edges["target"])])
    regulators = np.unique(places[:, 0])
    if len(regulators) < 2 * N_FOLDS:
        raise ValueError(
            f"the pairs have {len(regulators)} regulators among the genes, expected at least {2 * N_FOLDS}; pass more pairs, or "
            "vectors of more genes"
        )
    folds = np.full(len(common), -1)
    folds[regulators] = rng.permutation(len(regulators)) % N_FOLDS
    some = places[np.sort(rng.permutation(len(places))[:max_pairs])]
    tasks = {
        "regulation": regulation_pairs(some, places, common.to_numpy(), folds, rng),
        "direction": direction_pairs(places, common.to_numpy(), folds),
    }
    least = {"regulation": 5, "direction": 2}
    return {
        name: (lambda x, task=task, n=least[name]: pd.Series(pair_aurocs(x, task, n), task.units))
        for name, task in tasks.items()
        if len(task.first)
    }


def _degrees(n_genes: int) -> Callable:
    """Vectors of log out- and in-degree among the true training pairs."""

    def degrees(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.log1p(np.column_stack([np.bincount(end, minlength=n_genes) for end in (first, second)]))

    return degrees


def _summary(results: dict[str, dict[str, pd.Series]], judged: list[str], n_bootstrap: int, rng):
    """Table, differences and per-unit numbers; tasks without a unit that could be judged are skipped, and said."""
    rows, gaps, per_unit, skipped = [], [], [], {}
    for task, found in results.items():
        frame = pd.DataFrame(found).dropna()
        if frame.empty:
            skipped[task] = "no regulator, complex or set has enough pairs"
            continue
        counts = bootstrap_counts(len(frame), n_bootstrap if len(frame) > 1 else 0, rng)
        draws = {method: counts @ frame[method] / len(frame) for method in frame}
        for method in frame:
            low, high = interval(draws[method])
            values = {"auroc": frame[method].mean(), "auroc_low": low, "auroc_high": high, "n_units": len(frame)}
            rows.append({"task": task, "method": method, "is_judged": method in judged, **values})
        for name in judged:
            for rival in [method for method in frame if method not in judged]:
                low, high = interval(draws[name] - draws[rival])
                gaps.append((name, rival, task, (frame[name] - frame[rival]).mean(), low, high))
        long = frame.rename_axis("unit").reset_index().melt("unit", var_name="method", value_name="auroc")
        per_unit.append(long.assign(task=task)[["task", "method", "unit", "auroc"]])
    if not rows:
        raise ValueError(f"nothing could be judged: {skipped}; pass more pairs or sets, or lower `min_genes=`")
    columns = ["vectors", "baseline", "task", "difference", "low", "high"]
    return pd.DataFrame(rows), pd.DataFrame(gaps, columns=columns), pd.concat(per_unit, ignore_index=True), skipped


def _cell(row: dict) -> str:
    low, high = row["auroc_low"], row["auroc_high"]
    return f"{row['auroc']:.3f}" + ("" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]")
