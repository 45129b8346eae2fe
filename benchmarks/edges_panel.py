"""Bars that concern networks, each measured on a finished model: beside its bar, met or missed.

    python benchmarks/edges_panel.py --shared SHARED [--model FOLDER] [--corpus CELLS] [--out docs/benchmarks.md] [--quick]

SHARED holds datasets/ and resources/, CELLS the unpacked training cells, without which responses of the selection panel are
not judged. Every run is a look at the judged panel, and docs/decisions.md counts it (not with --quick, which takes a few cells
for tests). Minutes on one core. What a finished model is chosen by stands in selection_panel.py instead.
"""

import argparse
import inspect
import itertools
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy import rivals
from agreement import LEADS, STRONGEST, TOP, judge_types
from judged_panel import SIMULATED, cell_types, judged_panel, note_look
from pages import renew_section, write_page
from panel import PanelTruth
from selection_panel import CELLS, selection_panel

import sccafm
from sccafm import evaluate
from sccafm.evaluate.kinds import titles_of
from sccafm.evaluate.markdown import markdown_table
from sccafm.grn.anatomy import CELL_TERMS, PAIR_TERMS

TITLE = "Bars of networks"
NAME = "sccafm"
KINDS = ("binding", "response")  # of the judged truths, and of the columns that answer them
SIZES = {"truth": 300, "wide": 40, "type": 80, "targets": 3000, "bootstrap": 200}
QUICK = {"truth": 30, "wide": 4, "type": 6, "targets": 200, "bootstrap": 10}


@dataclass(frozen=True)
class Bar:
    """One demand and what was measured."""

    what: str
    bar: str  # a relation and a number: ">= 0.58"
    value: float  # NaN where nothing could be measured
    where: str = ""

    @property
    def verdict(self) -> str:
        relation, number = self.bar.split()
        if np.isnan(self.value):
            return "not measured"
        compare = {">=": np.greater_equal, ">": np.greater, "<": np.less}[relation]
        return "met" if compare(self.value, float(number)) else "missed"


# --- truths


def network_of(adata, model: sccafm.Model, **options) -> sccafm.GRN:
    return sccafm.infer_grn(adata, model, regulators="all", n_top_genes=None, null_cells=0, progress=False, **options)


def columns(grn: sccafm.GRN, group: object = None) -> dict[str, pd.DataFrame]:
    """The columns of each kind that this model and version have, as further networks."""
    if "value" not in inspect.signature(grn.matrix).parameters:
        return {}
    found = {}
    for kind in (*KINDS, "confidence"):
        values = grn.matrix(group, value=kind)
        if values.notna().to_numpy().all():
            found[f"{NAME} {kind}"] = values
    return found


def known_edges(grn: sccafm.GRN) -> pd.DataFrame:
    held = np.argwhere(grn.in_prior)
    return pd.DataFrame({"source": grn.regulators[held[:, 0]], "target": grn.targets[held[:, 1]]})


def judge(truths: dict[str, PanelTruth], model: sccafm.Model, sizes: dict) -> dict[str, evaluate.Report]:
    """Reports of the judged truths: weight, columns of the kinds, own lists and cheap baselines."""
    reports, inferred = {}, {}
    for name, truth in truths.items():
        if truth.cells not in inferred:
            adata = truth.read_cells(sizes["truth"])
            grn = network_of(adata, model)
            inferred[truth.cells] = grn, adata[:, grn.targets].copy()
        grn, shown = inferred[truth.cells]
        others = columns(grn) | rivals(shown, grn, model)
        scales = dict.fromkeys(columns(grn), "logit") | {NAME: "log", "prior degrees": "identity"}
        reports[name] = evaluate.network(
            grn.matrix(), truth.edges, kind=truth.kind, adata=shown, prior=known_edges(grn), baselines=others, scale=scales,
            n_bootstrap=sizes["bootstrap"], n_permutations=2, name=NAME,
        )  # fmt: skip
    return reports


def swap_elsewhere(truths: dict[str, PanelTruth], model: sccafm.Model, sizes: dict) -> pd.DataFrame:
    """Swap tests of truths of the selection panel whose cells are at hand, on targets drawn by a fixed seed."""
    rows = []
    for name, truth in truths.items():
        grn = network_of(truth.read_genes(sizes["wide"], sizes["targets"]), model)
        found = {NAME: (grn.matrix(), "log")} | {k: (v, "logit") for k, v in columns(grn).items()}
        for method, (scores, scale) in found.items():
            for known in (None, known_edges(grn)):
                test = truth.swap(scores, known, scale=scale, n_bootstrap=sizes["bootstrap"])
                rows.append({
                    "kind": truth.kind, "truth": name, "method": method, "known edges": "with" if known is None else "without",
                    "swap": test.value, "low": test.low, "high": test.high, "true edges": test.n_true,
                    "regulators": test.n_regulators,
                })  # fmt: skip
    return pd.DataFrame(rows)


def swap_simulated(model: sccafm.Model) -> pd.DataFrame:
    """Simulated cells, whose network is a part of the prior: the model's mean network against the whole true one."""
    rows = []
    for seed in SIMULATED["seeds"]:
        size = {"n_cells": SIMULATED["cells"], "random_state": seed}
        adata = sccafm.simulate(SIMULATED["genes"], progress=False, **size)
        edges, grn = adata.uns["simulation"]["edges"], network_of(adata, model)
        methods = {NAME: (grn.matrix(), "log"), "|Pearson|": (evaluate.pearson(adata, list(grn.regulators)), "rank")}
        for method, (scores, scale) in methods.items():
            test = evaluate.swap_test(scores, edges[["source", "target"]], scale=scale)
            rows.append({"seed": seed, "method": method, "swap": test.value, "low": test.low, "high": test.high})
    return pd.DataFrame(rows)


# --- bars


def best_single(table: pd.DataFrame, kind: str, metric: str) -> tuple[str, float]:
    """The baseline with the best mean of a kind, the network's own lists among them."""
    means = table[(table["kind"] == kind) & (table["truth"] == "mean")].set_index("method")[metric]
    means = means[[method for method in means.index if method not in own_names()]].drop("random", errors="ignore")
    return means.idxmax(), float(means.max())


def own_names() -> list[str]:
    return [NAME, *(f"{NAME} {kind}" for kind in (*KINDS, "confidence"))]


def number(table: pd.DataFrame, kind: str, truth: str, method: str, metric: str) -> float:
    rows = table[(table["kind"] == kind) & (table["truth"] == truth) & (table["method"] == method)]
    return float(rows[metric].iloc[0]) if len(rows) else np.nan


def truth_bars(reports: dict, elsewhere: pd.DataFrame, simulated: pd.DataFrame) -> list[Bar]:
    every, unknown = evaluate.by_kind(reports), evaluate.by_kind(reports, subset="not_in_prior")
    bars = []
    for method, by in ((f"{NAME} binding", "by binding"), (NAME, "by weight")):
        value = number(unknown, "binding", "mean", method, "swap")
        bars.append(Bar(f"swap test, judged binding truths, mean without known edges, {by}", ">= 0.58", value))
    for method, by in ((f"{NAME} response", "by response"), (NAME, "by weight")):
        judged = every[(every["kind"] == "response") & (every["truth"] != "mean") & (every["method"] == method)]
        values = list(judged["swap"])
        if len(elsewhere):
            found = elsewhere.query("kind == 'response' and method == @method and `known edges` == 'with'")
            values += list(found["swap"])
        value = float(np.mean(values)) if values else np.nan
        bars.append(Bar(f"swap test, response truths, mean, {by}", "> 0.52", value, f"{len(values)} truths"))
    value = simulated.loc[simulated["method"] == NAME, "swap"].mean()
    bars.append(Bar("swap test, simulations, by weight", "> 0.55", float(value)))
    for suffix, by in ((True, "by the column of the kind"), (False, "by weight")):
        found = {
            name: number(every, report.kind, name, f"{NAME} {report.kind}" if suffix else NAME, "auroc")
            for name, report in reports.items()
        }
        least = min(found, key=lambda name: (not np.isnan(found[name]), found[name]))
        bars.append(Bar(f"AUROC per regulator, {by}, least of the judged truths", "> 0.5", found[least], least))
    for kind in KINDS:
        method, best = best_single(every, kind, "auroc")
        value = number(every, kind, "mean", f"{NAME} {kind}", "auroc") - best
        where = f"best baseline {method}, {best:.3f}"
        bars.append(
            Bar(
                f"AUROC per regulator, by {kind}: mean over {kind} truths minus the best baseline's",
                ">= 0.03",
                value,
                where,
            )
        )
    for kind in KINDS:
        method, best = best_single(every, kind, "auprc_ratio")
        value = number(every, kind, "mean", f"{NAME} {kind}", "auprc_ratio") - best
        where = f"best baseline {method}, {best:.3f}"
        bars.append(
            Bar(
                f"pooled AUPRC ratio, by {kind}: mean over {kind} truths minus the best baseline's",
                ">= 0",
                value,
                where,
            )
        )
    return bars


def type_bars(rows: pd.DataFrame, shares: pd.DataFrame) -> list[Bar]:
    bars = []
    shares = shares.assign(lists=shares["regulator"] + shares["target"])
    for title, found in shares[shares["network"] != "cell by cell"].groupby("set", sort=False):
        worst = found.loc[found["lists"].idxmax()]
        bars.append(
            Bar(f"two lists' share of the variance, {title}, largest", "< 0.6", worst["lists"], worst["network"])
        )
    pairs, halves, regulators = (rows[rows["what"] == what] for what in ("types", "halves", "regulators"))
    for title, found in pairs.groupby("set", sort=False):
        closest = found.loc[found["value"].idxmax()]
        bars.append(
            Bar(f"Jaccard of the top {TOP:,} between types, {title}, mean over pairs", "< 0.4", found["value"].mean())
        )
        bars.append(Bar(f"the same, {title}, closest pair", "< 0.4", closest["value"], closest["of"]))
    for title, found in halves.groupby("set", sort=False):
        worst = found.loc[found["value"].idxmin()]
        bars.append(
            Bar(
                f"Jaccard of the top {TOP:,} between halves of a type, {title}, least",
                "> 0.8",
                worst["value"],
                worst["of"],
            )
        )
    for title, found in regulators.groupby("set", sort=False):
        worst = found.loc[found["value"].idxmin()]
        bars.append(
            Bar(
                f"regulators among the {STRONGEST} strongest edges, {title}, least",
                ">= 15",
                worst["value"],
                worst["of"],
            )
        )
    for what, text, bar, titles in (
        ("factors", f"factors that lead {LEADS:.0%} of the cells or more", ">= 6", ("PBMC",)),
        ("NMI", "mutual information of leading factor and type, normalised", ">= 0.5", ("PBMC", "pancreas")),
    ):
        for row in rows[(rows["what"] == what) & rows["set"].isin(titles)].itertuples():
            bars.append(Bar(f"{text}, {row.set}", bar, row.value))
    return bars


def by_type(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per type: its halves, the type that is closest to it, and its number of leading regulators."""
    lines = []
    for (title, name), found in rows[rows["what"].isin(["halves", "regulators"])].groupby(["set", "of"], sort=False):
        pairs = rows[(rows["set"] == title) & (rows["what"] == "types")]
        pairs = pairs[[name in pair.split(", ") for pair in pairs["of"]]]
        closest = pairs.loc[pairs["value"].idxmax()]
        own = found.set_index("what")["value"]
        other = next(part for part in closest["of"].split(", ") if part != name)
        line = {
            "set": title,
            "type": name,
            "two halves": own["halves"],
            "closest type": other,
            "with it": closest["value"],
        }
        line |= {
            "mean with the others": pairs["value"].mean(),
            f"regulators of the {STRONGEST}": int(own["regulators"]),
        }
        lines.append(line)
    return pd.DataFrame(lines)


# --- page


def shown(frame: pd.DataFrame) -> str:
    def text(value) -> str:
        return "-" if value is None or value != value else f"{value:.3f}" if isinstance(value, float) else str(value)

    return markdown_table(list(frame.columns), (map(text, row) for row in frame.itertuples(index=False)))


def bars_table(bars: list[Bar]) -> str:
    def value(bar: Bar) -> str:
        return (
            "-" if np.isnan(bar.value) else f"{bar.value:.0f}" if bar.bar in (">= 15", ">= 6") else f"{bar.value:.3f}"
        )

    lines = ([bar.what, bar.bar, value(bar), bar.where, bar.verdict] for bar in bars)
    return markdown_table(["what", "bar", "measured", "where", "verdict"], lines)


def page(bars, reports, elsewhere, simulated, types, shares, model, sizes) -> str:
    verdicts = [bar.verdict for bar in bars]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("met", "missed", "not measured") if v in verdicts)
    lists = f"{NAME} (target list alone) and (regulator list alone)"
    parts = [
        "Written by `python benchmarks/edges_panel.py`; no figure is typed. "
        f"Model {model.source}, weights {model.weights_hash[:12]}; {counts} of {len(bars)}. Up to {sizes['truth']} cells of each "
        f"judged set. The best baseline is the one with the best mean over the truths of a kind, {lists} among the baselines.",
        bars_table(bars),
    ]
    for subset, title in {"all": "all candidates", "not_in_prior": "without edges that the prior holds"}.items():
        for kind, table in evaluate.kinds_markdown(reports, subset=subset).items():
            parts += [f"### {kind.capitalize()} truths, {title}", titles_of() + ".", table]
    if len(elsewhere):
        note = f"Up to {sizes['targets']:,} targets and {sizes['wide']} cells of the training corpus that resemble those of the truth."
        parts += ["### Swap test on truths of the selection panel", note, shown(elsewhere)]
    parts += [
        "### Swap test on simulated cells",
        "Networks are parts of the prior, so a model that was taught the prior knows them.",
        shown(simulated),
        "### Networks of cell types",
        f"Up to {sizes['type']} cells a type, dealt to two halves; Jaccard index of the {TOP:,} strongest edges, and the number of "
        f"regulators among the {STRONGEST} strongest.",
        shown(by_type(types)),
        f"Contexts: factors that lead {LEADS:.0%} of the cells or more, and the normalised mutual information of leading factor and type.",
        shown(
            types[types["what"].isin(["factors", "NMI"])]
            .pivot(index="set", columns="what", values="value")
            .reset_index()
        ),
        "### Anatomy",
        "Shares of the variance of log scores (`sccafm.anatomy`).",
        shown(shares[["set", "network", *PAIR_TERMS, *CELL_TERMS]]),
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs/benchmarks.md")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sizes, model = QUICK if options.quick else SIZES, sccafm.load(options.model, device="cpu")
    if not options.quick:
        note_look(Path(__file__).name, model.weights_hash)
    reports = judge(judged_panel(options.shared), model, sizes)
    chosen = selection_panel(options.shared, options.corpus)
    near = {name: chosen[name] for name in CELLS} if options.corpus else {}
    elsewhere, simulated = swap_elsewhere(near, model, sizes), swap_simulated(model)
    found = [judge_types(title, adata, model) for title, adata in cell_types(options.shared, sizes["type"]).items()]
    types = pd.DataFrame(list(itertools.chain.from_iterable(rows for rows, _ in found)))
    shares = pd.concat([part for _, part in found], ignore_index=True)
    bars = truth_bars(reports, elsewhere, simulated) + type_bars(types, shares)
    text = page(bars, reports, elsewhere, simulated, types, shares, model, sizes)
    renew_section(options.out, TITLE, text)
    frames = {
        "bars": pd.DataFrame([vars(bar) | {"verdict": bar.verdict} for bar in bars]),
        "types": types,
        "anatomy": shares,
    }
    frames |= {"swap elsewhere": elsewhere, "swap simulated": simulated, "judged": evaluate.by_kind(reports)}
    records = {name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()}
    records = {"weights_hash": model.weights_hash} | records
    write_page(options.out.with_name("edges_panel.json"), json.dumps(records, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
