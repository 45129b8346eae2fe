"""The card of a trained model: what it was trained on, how, and how far it came. Every figure comes from the run."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sccafm.nn import CausalEFMConfig, SFMConfig
from sccafm.train.config import RunConfig, TrainEFM, TrainSFM
from sccafm.train.files import File

HEADER = """---
library_name: sccafm
tags: [biology, single-cell, gene-regulatory-network, scRNA-seq]
---
"""
LIMITS = """The score ranks the edges of a cell; it is not a probability, and a missing edge is not evidence of absence. Known edges
come from the prior network that the model was trained on: `in_prior` tells which. How it ranks edges beside simple
methods has to be measured: `sccafm.evaluate`."""
# Sizes stand in sfm_config.json and efm_config.json; the rest says where a run took place.
LEFT_OUT = ("sfm", "vgae", "efm", "data", "run", "init", "hold_out", "regulation", "threads", "device", "machine")


def write_card(folder: Path, config: TrainSFM, sizes: SFMConfig, files: Sequence[File], bad: dict[Path, str]) -> None:
    """Write README.md and curves.png beside the weights.

    Parameters
    ----------
    folder
        Of the weights.
    config
        Of the run, whose folder holds log.csv and curves.png.
    sizes
        Of the network.
    files, bad
        What was trained on, and what was left out.
    """
    log = pd.read_csv(config.run / "log.csv")
    last = written_step(log, config.patience)
    terms = ", ".join(f"{term} {last[term]:.3f}" for term in log.columns[2:])
    content = f"""{HEADER}
# {config.run.resolve().name}

A structure module: width {sizes.embed_dim}, {sizes.num_layers} layers, {sizes.num_heads} heads, {sizes.num_factors}
factors, of which each gene chooses {sizes.topk or sizes.num_factors}. `sccafm.load()` reads the folder above this one.

## Training

From {begun(config.init)}: {last["step"]:,} steps of {config.accumulate_grad_batches} x {config.batch_size} cells and up to {config.genes:,} genes, seed
{config.seed}. {config.validation_share:.0%} of the cells of each file were held out; terms on them at that step: {terms}.

![Loss terms by step](curves.png)

```json
{settings(config)}
```

## Data

{data_table(files)}
{left_out(bad)}
## Limits

{LIMITS}
"""
    (folder / "README.md").write_text(content.lstrip("\n"))
    copy_curves(config, folder / "curves.png")


def written_step(log: pd.DataFrame, patience: int) -> pd.Series:
    """The evaluation of the weights that a run writes: with patience the best ones, else the last."""
    held_out = log[log["part"] == "validation"]
    return held_out.loc[held_out["total"].idxmin()] if patience else held_out.iloc[-1]


def beside(sizes: CausalEFMConfig) -> str:
    return f" beside {sizes.components} components of the corpus" if sizes.components else ""


def begun(init: Path | None) -> str:
    """What a run started from."""
    return "new weights" if init is None else f"the weights of {Path(init).name}"


def settings(config: RunConfig) -> str:
    """What a card tells of the settings, as JSON."""
    kept = {name: value for name, value in dataclasses.asdict(config).items() if name not in LEFT_OUT}
    return json.dumps(kept, indent=1, default=str)


def copy_curves(config: RunConfig, path: Path) -> None:
    if (config.run / "curves.png").exists():
        shutil.copyfile(config.run / "curves.png", path)


def data_table(files: Sequence[File]) -> str:
    rows = [f"| {f.name} | {f.species} | {len(f.cells):,} | {len(f.tokens):,} |" for f in files]
    total = (
        f"{len(files)} files, {sum(len(f.cells) for f in files):,} cells; genes are those that the vocabulary knows."
    )
    return "\n".join([total, "", "| file | species | cells | genes |", "| --- | --- | --- | --- |", *rows])


def left_out(bad: dict[Path, str]) -> str:
    if not bad:
        return ""
    return (
        "\nLeft out:\n\n"
        + "\n".join(f"- {path.name}: {told.removeprefix(f'{path}: ')}" for path, told in bad.items())
        + "\n"
    )


EFM_LIMITS = """The embedding says how a cell stands beside the usual levels of its species, and how its own graph passes that
on; it is no proof of a cause. How it stands beside principal components and other simple embeddings has to be measured:
`sccafm.evaluate.embedding`."""


def write_efm_card(
    folder: Path,
    config: TrainEFM,
    sizes: CausalEFMConfig,
    files: Sequence[File],
    bad: dict[Path, str],
    watched: Sequence[str],
) -> None:
    """Write efm_card.md and efm_curves.png beside the weights.

    Parameters
    ----------
    folder
        Of the weights.
    config
        Of the run, whose folder holds log.csv and curves.png.
    sizes
        Of the network.
    files, bad
        What was trained on, and what was left out.
    watched
        Columns of the log that are no loss terms.
    """
    log = pd.read_csv(config.run / "log.csv")
    last = written_step(log, config.patience)
    terms = [c for c in log.columns[2:] if c not in watched]
    told = [", ".join(f"{name} {last[name]:.3f}" for name in names) for names in (terms, watched)]
    content = f"""# The embedding module

Cells of width {sizes.cell_dim}{beside(sizes)}, genes of width {sizes.embed_dim} with source and target vectors of {sizes.head_dim}; {sizes.num_layers} layers whose
messages run along the structure module's graph ({sizes.graph}). `sccafm.embed` uses it.

## Training

From {begun(config.init)}: {last["step"]:,} steps of {config.accumulate_grad_batches} x {config.batch_size} cells and up to {config.genes:,} genes, seed {config.seed}; the structure module {"learned too" if config.sfm_learning_rate else "stood still"}.
On cells that were held out, at that step: {told[0]}.
Watched for collapse there: {told[1]}.

![Loss terms by step](efm_curves.png)

```json
{settings(config)}
```

## Data

{data_table(files)}
{left_out(bad)}
## Limits

{EFM_LIMITS}
"""
    (folder / "efm_card.md").write_text(content)
    copy_curves(config, folder / "efm_curves.png")
