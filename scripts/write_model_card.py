"""Copy a trained model into models/ and write its card and curves.

    python scripts/write_model_card.py RUN [RUN ...] --data FOLDER [--manifest MANIFEST.tsv]
    python scripts/calibrate.py ... && python benchmarks/edges.py ... && python scripts/contexts.py models OTHER --write ...
    python benchmarks/edges_panel.py ...
    python scripts/write_model_card.py --fitted

The last line puts what was fitted to these weights (confidence, signs, contexts), and what their scores are made of, into the card that
the first one wrote.

RUN is the folder of `python -m sccafm.train sfm`, or several where each began (--init) with the weights of the one before it; of
earlier runs the settings (a JSON file) are enough, and the curves are then those of the others. FOLDER holds the h5ad files that it was trained on, MANIFEST a table of where
they come from (columns file, cells, genes, species, paper, licence). Every figure of the card comes from these files.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import anndata as ad
import pandas as pd

from sccafm.grn.anatomy import CELL_TERMS, PAIR_TERMS
from sccafm.train.card import LEFT_OUT, written_step
from sccafm.train.log import draw_curves

ROOT = Path(__file__).parents[1]
HEADER = """---
library_name: sccafm
license: gpl-3.0
tags: [biology, single-cell, gene-regulatory-network, scRNA-seq]
---
"""
FITTED = "## Fitted to these weights"
PANEL = ROOT / "docs/edges_panel.json"
TERMS = (*PAIR_TERMS, *CELL_TERMS)
SEEDS = """
- Factors matched one to one with those of another model by what they target (over {genes:,} genes): correlation {mean:.3f} on average,
  median {median:.3f}; {chance:.3f} with the genes of one model shuffled. The other is {other}."""
EMBEDDING = """## Embedding module

`sccafm.embed` uses the embedding module beside it: [efm_card.md](efm_card.md); what it is worth:
[docs/embedding.md](../docs/embedding.md).

"""
LIMITS = """## Limits

- The score ranks the edges of a cell. It is not a probability, and a missing edge is not evidence of absence. Confidence is
  one, for a stated share of real edges: see above.
- Known edges come from literature-curated collections, which know much about few regulators: `in_prior` tells what the
  model was told. Hubs of the literature (RELA, NFKB1, JUN) are hubs here, less than in the literature.
- No cell was labelled with its true network. The model was taught graded evidence (docs/training.md): what an edge model of motifs,
  ChIP-seq of other cells and curated edges says of the pair, how active both ends are in cells like this one. That is a sign of
  regulation, not a proof.
- Contexts follow clusters of cell states of the corpus, softly.
- The networks themselves have no sign: it comes from signed literature and the data's dependence (docs/edges.md).
- The corpus is small and has mostly blood, immune, lung, gut and embryonic cells. Genes outside of the vocabulary
  (human protein-coding genes with a name) are not read; mouse genes are read through one-to-one orthologs.
- Trained on one machine with two cores: a first default, not the last word.
"""


def data_table(folder: Path, manifest: Path | None) -> tuple[str, int, int]:
    known = {}
    if manifest is not None:
        table = pd.read_csv(manifest, sep="\t")
        known = {
            str(f).split(":")[-1].split("/")[-1]: row
            for f, row in zip(table["file"], table.to_dict("records"), strict=True)
        }
    lines, cells = ["| data set | cells | genes | species | source | licence as stated |", "|" + " --- |" * 6], 0
    paths = sorted(folder.glob("*.h5ad"))
    for path in paths:
        adata = ad.read_h5ad(path, backed="r")
        row = known.get(path.name, {})
        said = [str(row.get(k, "")).replace("nan", "").replace("|", "/") for k in ("species", "paper", "licence")]
        lines.append(f"| {path.stem} | {adata.n_obs:,} | {adata.n_vars:,} | " + " | ".join(said) + " |")
        cells += adata.n_obs
    return "\n".join(lines), len(paths), cells


def fitted_section(folder: Path) -> str:
    """What calibration.json and contexts.json say of the weights beside them; nothing where they are of others."""
    digest = hashlib.sha256((folder / "sfm_model.safetensors").read_bytes()).hexdigest()
    files = [folder / name for name in ("calibration.json", "contexts.json")]
    content = [json.loads(file.read_text()) for file in files if file.exists()]
    if len(content) < 2 or any(c["weights_hash"] != digest for c in content):
        return ""
    calibration, contexts = content
    held, factors = calibration["signs"]["held_out"], contexts["factors"]
    seeds = contexts.get("seeds")
    again = "" if seeds is None else SEEDS.format(**seeds)
    busiest = sorted(factors, key=lambda f: -f["load"])[:8]
    lines = [
        f"| {f['name']} | {', '.join(f['regulators'][:3])} | {', '.join(f['tissues'])} | {f['evidence']} |"
        for f in busiest
    ]
    anatomy = anatomy_lines(digest)
    return f"""{FITTED}

By `scripts/calibrate.py`; [docs/edges.md](../docs/edges.md) says what each is, [benchmarks/edges.md](../benchmarks/edges.md)
how well it holds on truths that fitted none of it.

- Confidence assumes that a share of {calibration["confidence"]["base_rate"]:.3f} of all pairs is real.
- Signs of {held["n_pairs"]:,} hidden TRRUST pairs: precision {held["precision"]:.3f} at coverage {held["coverage"]:.3f}.
- Load of the factors over the corpus: entropy {contexts["load_entropy"]:.3f} of the maximum.{again}

![Reliability of confidence](reliability.png)

The factors that carry most; `contexts.json` has all:

| name | regulators | most active in | evidence |
| --- | --- | --- | --- |
{chr(10).join(lines)}

{anatomy}"""


def anatomy_lines(digest: str, figures: Path = PANEL) -> str:
    """What the scores of these weights are made of, where `benchmarks/edges_panel.py` has measured it."""
    found = json.loads(figures.read_text()) if figures.exists() else {}
    if found.get("weights_hash") != digest:
        return ""
    rows = [row for row in found["anatomy"] if row["network"] in ("mean of all cells", "cell by cell")]
    lines = [
        f"| {row['set']} | {row['network']} | "
        + " | ".join("-" if row[term] is None else f"{row[term]:.3f}" for term in TERMS)
        + " |"
        for row in rows
    ]
    return f"""Shares of the variance of log scores (`GRN.anatomy`): what a level of each regulator and of each target explains is two lists.

| cells | network | {" | ".join(TERMS)} |
{"| --- " * (len(TERMS) + 2)}|
{chr(10).join(lines)}

"""


def renew_fitted(card: Path) -> None:
    """Write the fitted section anew, where it stands or before the embedding module's."""
    text = card.read_text()
    after = text.index(EMBEDDING.splitlines()[0])
    before = text.index(FITTED) if FITTED in text else after
    card.write_text(text[:before] + fitted_section(card.parent) + text[after:])


def earlier(configs: list[dict]) -> str:
    """What runs before the last one had for other settings; a run begins with the weights of the one before it."""
    told = []
    for number, config in enumerate(configs[:-1], 1):
        flat, last = flattened(config), flattened(configs[-1])
        differing = ", ".join(f"{key} {value}" for key, value in flat.items() if value != last.get(key, value))
        told.append(
            f"\nRun {number} of {len(configs)} differed from the last, whose settings stand below, in: {differing}."
        )
    return "".join(told)


def flattened(settings: dict) -> dict:
    flat = {}
    for key, value in settings.items():
        if key not in LEFT_OUT:
            flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--note", default="", help="a sentence on the training that the settings do not tell")
    parser.add_argument("--fitted", action="store_true", help="only what was fitted to the weights, after RUN is gone")
    options = parser.parse_args()
    if options.fitted:
        renew_fitted(ROOT / "models/README.md")
        return
    if not options.runs or options.data is None:
        parser.error("RUN and --data are needed, or --fitted")
    configs = [json.loads((run / "config.json" if run.is_dir() else run).read_text()) for run in options.runs]
    begun = [sum(c["steps"] for c in configs[:number]) for number in range(len(configs))]
    logs = [pd.read_csv(run / "log.csv") for run in options.runs if run.is_dir()]
    for log, steps in zip(logs, begun[-len(logs) :], strict=True):
        log["step"] += steps
    config, log = configs[-1], pd.concat(logs, ignore_index=True)
    gone = "" if len(logs) == len(configs) else f" (from step {begun[-len(logs)]:,} on)"
    for name in ("sfm_config.json", "sfm_model.safetensors"):
        shutil.copyfile(options.runs[-1] / "model/models" / name, ROOT / "models" / name)
    draw_curves(log, ROOT / "models/curves.png")
    table, files, cells = data_table(options.data, options.manifest)
    last = written_step(log, config["patience"])
    sizes = config["sfm"]
    steps = " + ".join(f"{c['steps']:,}" for c in configs)
    settings = {k: v for k, v in config.items() if k not in LEFT_OUT}
    card = f"""{HEADER}
# The bundled model

A structure module for human and mouse single-cell RNA-seq: width {sizes["embed_dim"]}, {sizes["num_layers"]} layer,
{sizes["num_heads"]} heads, {sizes["num_factors"]} factors of which each gene chooses {sizes["topk"]}. `sccafm.load()` reads it.
How it ranks edges beside simple baselines: [docs/benchmarks.md](../docs/benchmarks.md).

## Training

{files} data sets, {cells:,} cells, {steps} steps of {config.get("batch_size", config.get("cells"))} cells and up to {config["genes"]:,} genes;
{config["validation_share"]:.0%} of each data set's cells were held out. Terms on them at the end:
{", ".join(f"{term} {last[term]:.3f}" for term in config["weights"])}.{earlier(configs)}

![Loss terms by step{gone}](curves.png)

Gene vectors stand still in training: the gene as regulator and as target under the edge model (`regulation.safetensors`,
[docs/edges.md](../docs/edges.md#binding-and-response)), expression profiles of the corpus, GO and Reactome membership, the gene's
usual levels and popularity, and its degrees in the prior network ([OmniPath.csv](../OmniPath.csv): CollecTRI and TRRUST).{options.note and " " + options.note} Made by
`python -m sccafm.train sfm` with these settings (`sccafm train sfm --help` says what they mean):

```json
{json.dumps(settings, indent=1)}
```

{fitted_section(ROOT / "models")}{EMBEDDING}{LIMITS}
## Data

{table}
"""
    (ROOT / "models/README.md").write_text(card.lstrip("\n"))
    print(f"wrote models/README.md: {files} data sets, {cells:,} cells")


if __name__ == "__main__":
    main()
