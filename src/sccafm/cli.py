"""The command ``sccafm``: a demonstration, inference from file to folder, training."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Demo:
    """Infer the network of every cell of 700 real blood cells, and show some of it."""

    cells: int = 3
    """Cells to show, of different types."""
    edges: int = 5
    """Edges to show of each."""


@dataclass(frozen=True)
class Infer:
    """Infer the network of every cell of an h5ad file, and write them to a folder."""

    input: Path
    """h5ad file; it is read from disk as needed and not changed."""
    out: Path
    """Folder for the networks: parquet, JSON and safetensors. A run that was stopped is taken up again."""
    model: str | None = None
    """Model folder or hub repository; absent: the bundled model."""
    groupby: str | None = None
    """Column of obs whose groups get a mean network each."""
    regulators: str = "dna_binding"
    """"dna_binding" or "all"."""
    genes: Path | None = None
    """Text file of the genes to read, one name a line; absent: chosen by their variation."""
    n_top_genes: int | None = 2000
    """Most variable genes to read beside the regulators; None: all that the model knows."""
    layer: str | None = None
    gene_key: str | None = None
    species: str | None = None
    platform_key: str | None = None
    """Column of obs with the platform; absent: CELLxGENE's name is looked for, as for the two below."""
    tissue_key: str | None = None
    disease_key: str | None = None
    preprocess: str = "auto"
    """"auto": counts are normalised and logged; "none": the matrix is read as it is."""
    top_k: int | None = 1000
    """Edges to keep of each cell."""
    min_weight: float | None = None
    keep_factors: bool = False
    null_cells: int = 32
    """Permuted cells that q-values compare with; 0: none."""
    device: str = "auto"


def run_demo(options: Demo) -> None:
    import time

    import scanpy as sc

    import sccafm

    adata = sc.datasets.pbmc68k_reduced()
    start = time.perf_counter()
    grn = sccafm.infer_grn(adata, groupby="bulk_labels")
    seconds = time.perf_counter() - start
    print(f"\n{grn}\n\nWho regulates whom, in single cells:")
    labels = adata.obs["bulk_labels"]
    shown = labels.drop_duplicates().index[: options.cells]
    for cell in shown:
        edges = grn[cell].head(options.edges)
        listed = ", ".join(f"{e.source} -> {e.target} ({e.weight:.2f})" for e in edges.itertuples())
        print(f"  {cell} ({labels[cell]}, {grn.context_label[cell]}): {listed}")
    print("\nContexts, the factors that lead most cells:")
    table = grn.factors_table(3).sort_values("share_of_cells", ascending=False).head(5)
    for name, row in table.iterrows():
        cells = labels[(grn.context_label == name).to_numpy()].value_counts()
        print(
            f"  {name}: {row.share_of_cells:.0%} of cells, mostly {cells.index[0]}; "
            f"regulators {row.top_regulators}; targets {row.top_targets}"
        )
    print(f"\n{len(grn)} cells in {seconds:.1f} s ({len(grn) / seconds:.0f} cells/s). The same in Python:")
    print('  grn = sccafm.infer_grn(adata, groupby="bulk_labels"); grn["' + shown[0] + '"]')


def run_infer(options: Infer) -> None:
    import anndata as ad

    import sccafm

    if not options.input.is_file():
        raise FileNotFoundError(f"no file {options.input}; give an .h5ad file")
    try:
        adata = ad.read_h5ad(options.input, backed="r")
    except OSError as error:
        raise ValueError(f"{options.input} is no readable h5ad file: {error}") from error
    names = (
        "groupby",
        "regulators",
        "n_top_genes",
        "layer",
        "gene_key",
        "species",
        "preprocess",
        "top_k",
        "min_weight",
        "null_cells",
    )
    settings = {name: getattr(options, name) for name in (*names, "keep_factors", "device")}
    keys = {slot: getattr(options, f"{slot}_key") for slot in ("platform", "tissue", "disease")}
    settings["condition_keys"] = {slot: key for slot, key in keys.items() if key is not None} or None
    settings["genes"] = None if options.genes is None else options.genes.read_text().split()
    grn = sccafm.infer_grn(adata, options.model, store=options.out, **settings)
    print(f"{grn}\nwritten to {options.out}; read it with sccafm.read_grn({str(options.out)!r})")


def run_train(arguments: Sequence[str], what: str) -> None:
    import tyro

    from sccafm import train
    from sccafm.train.config import read_config
    from sccafm.train.machine import is_first

    kind, function = {"sfm": (train.TrainSFM, train.train_sfm), "efm": (train.TrainEFM, train.train_efm)}[what]
    arguments = list(arguments)
    default = None
    if arguments and arguments[0].endswith(".json"):
        default = read_config(Path(arguments.pop(0)), kind)
    prog = f"python -m sccafm.train {what} [CONFIG.json]"
    folder = function(tyro.cli(kind, args=arguments, default=default, prog=prog))
    if is_first():
        print(f"written to {folder}; load it with sccafm.load({str(folder)!r})")


def parse(config: type, run: Callable) -> Callable[[Sequence[str]], None]:
    def command(arguments: Sequence[str]) -> None:
        import tyro

        run(tyro.cli(config, args=list(arguments), prog=f"sccafm {config.__name__.lower()}"))

    return command


COMMANDS = {
    ("demo",): (Demo.__doc__, parse(Demo, run_demo)),
    ("infer",): (Infer.__doc__, parse(Infer, run_infer)),
    ("train", "sfm"): (
        "Train a structure module on a folder of h5ad and zarr files.",
        lambda arguments: run_train(arguments, "sfm"),
    ),
    ("train", "efm"): (
        "Train an embedding module under a structure module.",
        lambda arguments: run_train(arguments, "efm"),
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that `argv` (the process's arguments if None) names."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for words, (_, command) in COMMANDS.items():
        if tuple(argv[: len(words)]) == words:
            try:
                command(argv[len(words) :])
            except (
                ValueError,
                KeyError,
                OSError,
                ImportError,
                FloatingPointError,
            ) as error:  # what the doors say is for users; no traceback
                sys.exit(f"sccafm: {error.args[0] if isinstance(error, KeyError) else error}")
            return
    lines = [f"  sccafm {' '.join(words):10} {told}" for words, (told, _) in COMMANDS.items()]
    text = "\n".join(["usage:", *lines, "", "sccafm COMMAND --help tells the options of each."])
    if argv and argv[0] not in ("-h", "--help"):
        sys.exit(f"sccafm: no command {' '.join(argv[:2])!r}\n{text}")
    print(text)
