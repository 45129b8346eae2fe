"""The selection panel: which design of embedding is better, on studies of the training corpus.

    python benchmarks/embedding_panel.py --corpus FOLDER --cache FOLDER [--cells 500] [--parts within across ...]

Writes the section "The selection panel" of docs/embedding.md. Vectors of the embedding module are kept in the cache, so that
designs of anchoring are compared in minutes. Tasks are in `embedding_tasks.py`.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from embedding import joined, page, table
from embedding_adapting import TEXT as ADAPTING
from embedding_adapting import judge_adapting
from embedding_adapting import verdict as adapting_verdict
from embedding_batches import corrections, mixing
from embedding_spaces import (
    ZERO_SHOT,
    Task,
    across,
    centred,
    clusters,
    designs,
    harmony,
    linear,
    named_by,
    spaces,
    within,
)
from embedding_tasks import MEETINGS, STUDIES, Meeting, common_cells, drawn, file_cells, file_label, named, without_rare

import sccafm
from sccafm import evaluate
from sccafm.data.groups import find_groups
from sccafm.data.input import read
from sccafm.data.narrowing import narrowed
from sccafm.data.options import InputOptions
from sccafm.embedding.anchor import fit_anchor
from sccafm.embedding.embed import run
from sccafm.model.weights import module_hash

ROOT = Path(__file__).parents[1]
SPECIES_CELLS = 200  # that are placed into the space of another species


# --- cells, and their vectors of the module


class Panel:
    """Cells with the module's vectors, from the cache or embedded now."""

    def __init__(
        self,
        corpus: Path,
        cache: Path,
        n: int,
        model: sccafm.Model,
        only_cached: bool = False,
        runs: Sequence[Path] = (),
    ):
        self.corpus, self.n, self.model = corpus, n, model
        self.cache, self.only_cached, self.runs = cache, only_cached, runs
        self.module = f"{model.weights_hash[:12]}-{module_hash(model.efm)[:12]}"
        self.folder = self._folder(n)
        self.folder.mkdir(parents=True, exist_ok=True)

    def _folder(self, n: int) -> Path:
        return self.cache / f"{self.module}-{n}"

    def names(self) -> list[str]:
        """What has to be embedded: files, and meetings of several files of one species."""
        files = {study.file for study in STUDIES.values()}
        return sorted(files) + sorted(name for name, meeting in MEETINGS.items() if is_common(meeting))

    def is_wanted(self, name: str) -> bool:
        return not self.only_cached or self._stored(name) is not None

    def _stored(self, name: str) -> Path | None:
        """The cells in the cache, of this number or the next larger one."""
        sizes = sorted(int(path.name.rsplit("-", 1)[1]) for path in self.cache.glob(f"{self.module}-*"))
        paths = [self._folder(size) / f"{name}.h5ad" for size in sizes if size >= self.n]
        return next((path for path in paths if path.exists()), None)

    def embedded(self, name: str) -> ad.AnnData:
        """Cells with the module's vectors; of a larger number in the cache as many are drawn."""
        of_each = self.n // len(MEETINGS[name].files) if name in MEETINGS else self.n
        path = self._stored(name)
        if path is None:
            meeting = MEETINGS.get(name)
            cells = common_cells(self.corpus, meeting, of_each) if meeting else file_cells(self.corpus, name, of_each)
            found = sccafm.embed(cells.copy(), self.model, anchor=False, progress=False)
            cells.obsm[ZERO_SHOT] = found.zero_shot.to_numpy()
            path = self.folder / f"{name}.h5ad"
            cells.write_h5ad(path.with_suffix(".partial"))
            path.with_suffix(".partial").rename(path)
            print("embedded", name, cells.shape, flush=True)
        cells = ad.read_h5ad(path)
        if path.parent == self.folder:
            return cells
        parts = cells.obs["batch"].astype(str).to_numpy() if name in MEETINGS else np.zeros(len(cells))
        rng = np.random.default_rng(0)
        kept = [rng.permutation(np.flatnonzero(parts == part))[:of_each] for part in np.unique(parts)]
        return cells[np.sort(np.concatenate(kept))].copy()

    def kept(self, name: str, find: Callable) -> np.ndarray:
        """An array from the cache, or found now."""
        path = self.folder / f"{name}.npy"
        if not path.exists():
            np.save(path, find())
        return np.load(path)

    def task(self, name: str, adata: ad.AnnData) -> Task:
        adata = without_rare(adata)
        return Task(name, adata, read(adata, self.model.reference_data))

    def studies(self, names: list[str] | None):
        for name, study in STUDIES.items():
            if (names is None or name in names) and self.is_wanted(study.file):
                adata = named(self.embedded(study.file), study.label)
                adata.obs = adata.obs[["label", "species"]].copy()
                yield study, self.task(name, adata)

    def meetings(self, names: list[str] | None):
        for name, meeting in MEETINGS.items():
            stored = name if is_common(meeting) else meeting.files[0]
            if meeting.across != "species" and (names is None or name in names) and self.is_wanted(stored):
                adata = self.embedded(stored)
                if not is_common(meeting):
                    adata.obs["batch"] = adata.obs[meeting.batch].astype(str)
                yield meeting, self.task(name, adata)


def is_common(meeting: Meeting) -> bool:
    return len(meeting.files) > 1 and meeting.across != "species"


# --- parts


def judge_within(panel: Panel, names: list[str] | None) -> dict:
    """Within each study."""
    rows = []
    for study, task in panel.studies(names):
        told = {"study": task.name, "species": study.species, "assay": study.assay, "labels from": study.labels_from}
        told |= {"cells": len(task.labels), "labels": len(set(task.labels))}
        for method, x in spaces(task).items():
            scores = within(x, task.labels) | {"linear": linear(x, task.labels)} | clusters(x, task.labels)
            rows.append(told | {"method": method} | scores)
        print(task.name, flush=True)
    return {"rows": rows}


def judge_across(panel: Panel, names: list[str] | None) -> dict:
    """From batch to batch, all embedded together."""
    rows = []
    for meeting, task in panel.meetings(names):
        told = {
            "meeting": task.name,
            "across": meeting.across,
            "batches": len(set(task.batches)),
            "cells": len(task.labels),
        }
        for method, x in spaces(task).items():
            rows.append(told | {"method": method, "balanced accuracy": across(x, task.labels, task.batches)})
        print(task.name, flush=True)
    return {"rows": rows}


def judge_left_out(panel: Panel, names: list[str] | None) -> dict:
    """Studies and meetings whose cells an embedding module did not read in training, each under the run that left it out."""
    rows, made_by = [], []
    for folder in panel.runs:
        config = json.loads((folder / "config.json").read_text())
        seen = {path.stem for path in Path(config["data"]).iterdir()}
        model = sccafm.load(folder / "model", device="cpu")
        here = Panel(panel.corpus, panel.cache, panel.n, model, panel.only_cached)
        studies = [name for name, study in STUDIES.items() if study.file not in seen and (not names or name in names)]
        meetings = [name for name, meeting in MEETINGS.items() if not seen & set(meeting.files)]
        made_by.append({"efm": here.module.split("-")[1], "steps": steps_of(folder), "files": len(seen)})
        for _, task in here.studies(studies):
            found = spaces(task)
            rows += [
                {"kind": "within", "task": task.name, "method": method}
                | {"balanced accuracy": within(x, task.labels)["balanced accuracy"]}
                for method, x in found.items()
                if method in LEFT_OUT["within"]
            ]
            print(task.name, flush=True)
        for _, task in here.meetings([name for name in meetings if not names or name in names]):
            rows += [
                {
                    "kind": "across",
                    "task": task.name,
                    "method": method,
                    "balanced accuracy": across(x, task.labels, task.batches),
                }
                for method, x in spaces(task).items()
                if method in LEFT_OUT["across"]
            ]
            print(task.name, flush=True)
    return {"rows": rows, "made_by": made_by}


def steps_of(run: Path) -> list[int]:
    """Of a training and of those that it went on from, the first one first."""
    config = json.loads((run / "config.json").read_text())
    before = [] if config["init"] is None else steps_of(Path(config["init"]).parent)
    return [*before, config["steps"]]


def judge_place(panel: Panel, names: list[str] | None) -> dict:
    """Each of up to five batches placed into the space of the others, which were embedded without it."""
    rows = []
    for meeting, task in panel.meetings(names):
        scores: dict[str, list[float]] = {}
        for batch in np.unique(task.batches)[:5]:
            here = task.batches == batch
            for method, value in placed(task, here, panel.model).items():
                scores.setdefault(method, []).append(value)
        told = {"meeting": task.name, "across": meeting.across}
        rows += [told | {"method": m, "balanced accuracy": float(np.nanmean(v))} for m, v in scores.items()]
        print(task.name, flush=True)
    return {"rows": rows}


def placed(task: Task, here: np.ndarray, model: sccafm.Model) -> dict[str, float]:
    """One batch in the space of the others, and the same with principal components."""
    old, new = (
        read(task.adata[rows].copy(), model.reference_data, InputOptions(genes=list(task.model_input.names)))
        for rows in (~here, here)
    )
    several = len(set(task.batches[~here])) > 1
    anchor, seen = fit_anchor(old, task.z[~here], task.batches[~here] if several else None)
    names, labels = task.labels[~here], task.labels[here]
    found = {}
    for told, own_mean in (("placed", False), ("placed, own mean", True)):
        found[told] = named_by(seen, names, anchor.place(new, task.z[here], own_mean), labels)
    x = evaluate.log_expression(task.adata, batch_key="batch").astype(float)
    left = centred(x[~here], task.batches[~here])
    axes = np.linalg.svd(left, full_matrices=False)[2][:50].T
    for told, mean in (
        ("HVG-PCA of the others", x[~here].mean(0)),
        ("HVG-PCA of the others, own mean", x[here].mean(0)),
    ):
        found[told] = named_by(left @ axes, names, (x[here] - mean) @ axes, labels)
    return found


def judge_species(panel: Panel, names: list[str] | None) -> dict:
    """Cells of one species in the space of the other."""
    rows = []
    for name, meeting in MEETINGS.items():
        if meeting.across != "species" or (names is not None and name not in names):
            continue
        if not all(map(panel.is_wanted, meeting.files)):
            continue
        parts = [named(panel.embedded(file), file_label(file), meeting.names) for file in meeting.files]
        for reference, new in (parts, parts[::-1]):
            told = {"meeting": name, "direction": " to ".join(part.obs["species"].iloc[0] for part in (reference, new))}
            scores = between_species(panel, reference, drawn(new, SPECIES_CELLS), f"{name}, {told['direction']}")
            rows += [told | {"method": method, "balanced accuracy": value} for method, value in scores.items()]
            print(told, flush=True)
    return {"rows": rows}


def between_species(panel: Panel, reference: ad.AnnData, new: ad.AnnData, cached: str) -> dict[str, float]:
    """A space is fitted on genes that both files hold: a file may have been cut to variable genes."""
    model, every = panel.model, InputOptions(regulators="all", n_top_genes=None)
    whole, known = (read(part, model.reference_data, every) for part in (new, reference))
    shared = known.names[np.isin(known.gene_ids, whole.gene_ids)]
    anchor, seen = fit_anchor(read(reference[:, shared].copy(), model.reference_data), reference.obsm[ZERO_SHOT])
    model_input = narrowed(
        whole, anchor.read_ids, [str(token) for token in anchor.read_ids], anchor.read_is_tf, "the space"
    )
    z = panel.kept(cached, lambda: run(model, model_input, find_groups(new, None), None, 16, False)[0])
    names, labels = (part.obs["label"].to_numpy() for part in (reference, new))
    found = {}
    for told, own_mean in (("placed", False), ("placed, own mean", True)):
        found[told] = named_by(seen, names, anchor.place(model_input, z, own_mean), labels)
    zero_shot = centred(reference.obsm[ZERO_SHOT], None), centred(z, None)
    found["zero-shot, centred"] = named_by(zero_shot[0], names, zero_shot[1], labels)
    both = joined({"reference": reference, "new": new}, model)
    is_new = np.arange(len(both)) >= len(reference)
    pca = evaluate.hvg_pca(both, batch_key="species")
    for told, x in (
        ("HVG-PCA of both", pca),
        ("HVG-PCA of both, centred", centred(pca, is_new.astype(int))),
        ("HVG-PCA of both, Harmony", harmony(pca, is_new.astype(str))),
    ):
        found[told] = named_by(x[~is_new], names, x[is_new], labels)
    return found


def judge_designs(panel: Panel, names: list[str] | None) -> dict:
    rows = []
    for _, task in panel.studies(names):
        for design, x in designs(task).items():
            told = {"task": task.name, "design": design}
            rows.append(told | {"kind": "within", "balanced accuracy": within(x, task.labels)["balanced accuracy"]})
            rows.append(told | {"kind": "linear", "balanced accuracy": linear(x, task.labels)})
    for _, task in panel.meetings(names):
        scores = {method: across(x, task.labels, task.batches) for method, x in designs(task).items()}
        rows += [{"task": task.name, "kind": "across", "design": d, "balanced accuracy": v} for d, v in scores.items()]
    return {"rows": rows}


def judge_batches(panel: Panel, names: list[str] | None) -> dict:
    """Ways to correct for batches."""
    rows = []
    for _, task in panel.meetings(names):
        for design, x in corrections(task).items():
            x = x.astype(float)
            scores = {"balanced accuracy": across(x, task.labels, task.batches)} | clusters(x, task.labels)
            scores["mixing"] = mixing(x, task.labels, task.batches)
            rows.append({"task": task.name, "design": design} | scores)
        print(task.name, flush=True)
    return {"rows": rows}


# --- the section


def wide(rows: list[dict], by: list[str], column: str = "method", value: str = "balanced accuracy") -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    order = list(dict.fromkeys(frame[column]))
    shown = frame.pivot(index=by, columns=column, values=value).reindex(columns=order)
    shown = (
        shown.loc[list(dict.fromkeys(map(tuple, frame[by].to_numpy())))]
        if len(by) > 1
        else shown.loc[list(dict.fromkeys(frame[by[0]]))]
    )
    mean = pd.DataFrame(
        [shown.mean()],
        index=pd.MultiIndex.from_tuples([("mean", *[""] * (len(by) - 1))], names=by)
        if len(by) > 1
        else pd.Index(["mean"], name=by[0]),
    )
    return pd.concat([shown, mean]).reset_index()


def gap(rows: list[dict], by: str, one: str, other: str, value: str = "balanced accuracy") -> str:
    shown = pd.DataFrame(rows).pivot(index=by, columns="method", values=value)
    gaps = shown[one] - shown[other]
    return (
        f"{value}, {one} beside {other}: {gaps.mean():+.3f} on the mean, {gaps.min():+.3f} at worst ({gaps.idxmin()})."
    )


def section(kept: dict) -> list[str]:
    text = [INTRODUCTION]
    if rows := kept.get("within", {}).get("rows"):
        told = ["species", "assay", "labels from", "cells", "labels"]
        studies = pd.DataFrame(rows).drop_duplicates("study")[["study", *told]]
        measures = (
            pd.DataFrame(rows)
            .groupby("method", sort=False)[["balanced accuracy", "macro-F1", "linear", "NMI", "ARI"]]
            .mean()
        )
        text += ["### Within studies", f"Means over {len(studies)} studies.", table(measures.reset_index())]
        text += [
            gap(rows, "study", "anchored", "HVG-PCA"),
            gap(rows, "study", "anchored", "centred PCA, unit length"),
            "Balanced accuracy of kNN, by study:",
            table(wide(rows, ["study"])),
        ]
        for measure, told in {
            "linear": "Linear head", "NMI": "NMI of Leiden clusters", "ARI": "ARI of Leiden clusters",
        }.items():  # fmt: skip
            text += [
                gap(rows, "study", "anchored", "HVG-PCA", measure),
                f"{told}, by study:",
                table(wide(rows, ["study"], value=measure)),
            ]
        text += ["What the studies are:", table(studies)]
    if rows := kept.get("across", {}).get("rows"):
        text += ["### Between donors, technologies and studies", ACROSS, table(wide(rows, ["meeting", "across"]))]
        text += [
            "\n".join(
                f"- {gap(rows, 'meeting', 'anchored', other)}" for other in ("HVG-PCA, centred", "HVG-PCA, Harmony")
            )
        ]
    if rows := kept.get("left out", {}).get("rows"):
        told = "; ".join(
            f"{r['efm']}: {' + '.join(f'{n:,}' for n in r['steps'])} steps on {r['files']} files"
            for r in kept["left out"]["made_by"]
        )
        text += ["### Studies that training did not see", f"{LEFT_OUT_TEXT} Modules {told}."]
        for kind, rivals in {
            "within": ["HVG-PCA"],
            "across": ["HVG-PCA", "HVG-PCA, centred", "HVG-PCA, Harmony"],
        }.items():
            part = [row for row in rows if row["kind"] == kind]
            text.append(table(wide(part, ["task"])))
            gaps = [gap(part, "task", one, other) for one in ("zero-shot", "anchored") for other in rivals]
            text.append("\n".join(f"- {told}" for told in gaps))
    if rows := kept.get("place", {}).get("rows"):
        text += ["### New cells in a stored space", PLACE, table(wide(rows, ["meeting", "across"]))]
    if rows := kept.get("species", {}).get("rows"):
        text += ["### Between human and mouse", SPECIES, table(wide(rows, ["meeting", "direction"]))]
    if rows := kept.get("designs", {}).get("rows"):
        shown = pd.DataFrame(rows).groupby(["design", "kind"], sort=False)["balanced accuracy"].mean().unstack()
        text += ["### Designs of anchoring", DESIGNS, table(shown[["within", "linear", "across"]].reset_index())]
    if rows := kept.get("batches", {}).get("rows"):
        measures = ["balanced accuracy", "NMI", "ARI", "mixing"]
        shown = pd.DataFrame(rows).groupby("design", sort=False)[measures].mean()
        n = len({row["task"] for row in rows})
        text += ["### Designs of batch correction", BATCHES, f"Means over {n} meetings.", table(shown.reset_index())]
    if rows := kept.get("adapting", {}).get("rows"):
        shown = pd.DataFrame(rows).astype(object).where(lambda frame: frame.notna(), "-")
        text += ["### Adapting", ADAPTING, table(shown), adapting_verdict(rows)]
    return text


INTRODUCTION = """Studies of the training corpus, on which the rule and the constants of anchoring were chosen: none of these figures
judges the result. The embedding module has read these very cells, without their labels, in training: its zero-shot rows flatter.
Labels that come from clusters of expression favour components of expression. kNN: 15 neighbours, five stratified folds, three seeds.
Linear: balanced accuracy of logistic regression on standardised vectors, the first of those seeds. NMI and ARI: Leiden at the best of six
resolutions. "unit length": divided by the Euclidean length."""
ACROSS = """All cells of a meeting are embedded together with `batch_key=`; the cells of each batch are named by their nearest
neighbours in the others. Balanced accuracy over the labels that the others hold, a mean over batches."""
LEFT_OUT = {
    "within": ("anchored", "zero-shot", "HVG-PCA", "centred PCA, unit length"),
    "across": ("anchored", "zero-shot", "zero-shot, centred", "HVG-PCA", "HVG-PCA, centred", "HVG-PCA, Harmony"),
}
LEFT_OUT_TEXT = """Two further embedding modules from new weights, each trained without a half of these studies (and without what holds cells
of the same study) and asked about that half alone; components are of the other files too. `sccafm train efm --data FILES --run RUN`
on the structure module of before, continued (`--init`) on the present one, then `--parts "left out" --runs RUN RUN`. The structure module
has read all cells, without labels. Balanced accuracy."""
PLACE = """The space is made of the other batches alone; the cells of the batch that is left out are placed into it (`Embedding.place`).
Balanced accuracy, a mean over up to five batches that are left out. "own mean": the placed cells depart from their own mean, and
are corrected as one batch more where the others are several."""
SPECIES = """Cells of one species are placed into the space of the other through orthologs. Balanced accuracy over the labels that both have."""
DESIGNS = """Ways to join the module's vector with a study's own components; balanced accuracy, means over the studies (within: kNN; linear: a
linear head) and the meetings (across, centred by batch). "own": the components of `sccafm.embedding.anchor`, unit length; "+ w module": joined with the
module's vector, whitened in part and of length w. A share without unit length is a share of the root-mean-square length."""
BATCHES = """Ways to correct the same anchored vectors for batches. NMI and ARI: Leiden at the best of six resolutions, all batches together.
Mixing: share of other batches among a cell's 30 nearest that bear its label, over that among all cells of the label; 1 is the most."""
PARTS: dict[str, Callable] = {
    "within": judge_within, "across": judge_across, "left out": judge_left_out, "batches": judge_batches, "place": judge_place, "species": judge_species,
    "designs": judge_designs, "adapting": judge_adapting,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--cells", type=int, default=500, help="of a study; of a meeting in all")
    parser.add_argument("--only-cached", action="store_true", help="leave out what would have to be embedded")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=list(PARTS),
        default=[part for part in PARTS if part not in ("adapting", "left out")],
    )
    parser.add_argument(
        "--runs", nargs="+", type=Path, default=[], help="of modules that left studies out, for `left out`"
    )
    parser.add_argument("--only", nargs="+", help="studies and meetings by name, for a look; the page is not written")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/embedding.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = sccafm.load(options.model, device="cpu")
    panel = Panel(options.corpus, options.cache, options.cells, model, options.only_cached, options.runs)
    path = options.out.with_suffix(".json")
    for part in options.parts:
        found = PARTS[part](panel, options.only)
        if options.only:
            print(*section({part: found})[1:], sep="\n\n", flush=True)
            continue
        kept = json.loads(path.read_text()) if path.exists() else {}  # another part may have been written meanwhile
        made_by = {
            "settings": f"--cells {options.cells}",
            "sfm": model.weights_hash[:12],
            "efm": module_hash(model.efm)[:12],
        }
        before = kept.get("panel", {})
        is_same = all(before.get(key) == value for key, value in made_by.items())
        figures = (before["figures"] if is_same else {}) | {part: found}  # no page mixes models or numbers of cells
        kept["panel"] = made_by | {"text": section(figures), "figures": figures}
        path.write_text(json.dumps(kept, indent=1) + "\n")
        options.out.write_text(page(kept))


if __name__ == "__main__":
    main()
