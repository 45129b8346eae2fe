"""sccafm demo, infer, embed: from cells to networks and vectors."""

import contextlib
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from sccafm._io import new_folder


@dataclass(frozen=True)
class Demo:
    """Infer the network of every cell of 350 real blood cells, and show some of it.

    Example: sccafm demo
    """

    regulators: int = 6
    """Regulators to show of each cell type."""
    edges: int = 5
    """Edges to show of one cell."""


@dataclass(frozen=True)
class Infer:
    """Infer the network of every cell of h5ad or zarr files, and write them to a folder.

    Example: sccafm infer --input cells.h5ad --out networks --groupby cell_type
    """

    input: Path
    """h5ad file, zarr folder, or a folder of them."""
    out: Path
    """New folder for the networks; an interrupted run resumes there."""
    plan: bool = False
    """Say what the run would read and take, and stop."""
    n_jobs: int | None = None
    """Processes; -1: one a core; absent: the fastest."""
    model: str | None = None
    """Model folder or hub repository; absent: the bundled model."""
    groupby: str | None = None
    """Column of obs whose groups get a mean network each."""
    regulators: str = "dna_binding"
    """"dna_binding" or "all"."""
    always: tuple[str, ...] = ()
    """Regulators to read however few cells show them."""
    genes: Path | None = None
    """Text file of genes to read; absent: by variation."""
    n_top_genes: int | None = 2000
    """Most variable genes to read beside the regulators."""
    layer: str | None = None
    gene_key: str | None = None
    species: str | None = None
    platform_key: str | None = None
    """Column of obs; absent: CELLxGENE's name."""
    tissue_key: str | None = None
    disease_key: str | None = None
    preprocess: str = "auto"
    """"auto": counts are log-normalised; "none": read as it is."""
    top_k: int | None = 1000
    """Edges to keep of each cell."""
    min_weight: float | None = None
    keep_factors: bool = False
    """Keep what every score can be computed from."""
    null_cells: int = 32
    """Permuted cells that q-values compare with; 0: none."""
    neighbors: int = 0
    """Read cells as means of so many nearest cells."""
    device: str = "auto"


@dataclass(frozen=True)
class Embed:
    """Embed the cells and genes of an h5ad file, and write the vectors to a folder.

    Example: sccafm embed --input cells.h5ad --out vectors --batch-key donor --adapt "5 epochs"
    """

    input: Path
    """h5ad file; not changed."""
    out: Path
    """New folder for the vectors."""
    model: str | None = None
    """Model folder or hub repository; absent: the bundled model."""
    groupby: str | None = None
    """Column of obs whose groups get mean gene vectors."""
    genes: Path | None = None
    """Text file of the genes to read; absent: chosen by variation."""
    n_top_genes: int | None = 2000
    """Most variable genes to read beside the regulators."""
    layer: str | None = None
    gene_key: str | None = None
    species: str | None = None
    platform_key: str | None = None
    """Column of obs; absent: CELLxGENE's name, as for the next two."""
    tissue_key: str | None = None
    disease_key: str | None = None
    preprocess: str = "auto"
    """"auto": counts are log-normalised; "none": read as it is."""
    adapt: str | None = None
    """Continue training on these cells first, e.g. "5 epochs"."""
    batch_key: str | None = None
    """Column of obs with batches, whose differences are taken away."""
    anchor: bool = True
    """--no-anchor: the embedding module's own vectors, which do not depend on the other cells."""
    harmony: bool = False
    """Correct the vectors by harmonypy instead; needs --batch-key and the extra sccafm[harmony]."""
    device: str = "auto"


def run_demo(options: Demo) -> None:
    import time

    import sccafm

    adata = sccafm.datasets.pbmc3k()[::2].copy()  # half of them: a first look should not take minutes
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what was left out of these cells is in the receipt, and nobody can mend it
        grn = sccafm.infer_grn(adata, groupby="cell_type", n_top_genes=1000)
    seconds = time.perf_counter() - start
    ranked = sccafm.tl.rank_regulators(grn)
    print(
        f"\n{grn}\n\nRegulators that are stronger in a cell type than in the others (share of its cells that show the regulator):"
    )
    for group, table in ranked.groupby("group", observed=True):
        listed = ", ".join(f"{r.regulator} ({r.detection:.0%})" for r in table.head(options.regulators).itertuples())
        print(f"  {group}: {listed}")
    cell = adata.obs_names[adata.obs["cell_type"] == ranked["group"].iloc[0]][0]
    print(f"\nWho regulates whom in one cell, {cell} ({adata.obs['cell_type'][cell]}, {grn.context_label[cell]}):")
    for edge in grn[cell].head(options.edges).itertuples():
        print(f"  {edge.source} -> {edge.target}: weight {edge.weight:.2f}, confidence {edge.confidence:.2f}")
    print("\nContexts, the factors that lead most cells:")
    for row in grn.factors_table(3).sort_values("share_of_cells", ascending=False).head(5).itertuples():
        types = adata.obs["cell_type"][(grn.context_label == row.name).to_numpy()].value_counts()
        print(
            f"  {row.name}: {row.share_of_cells:.0%} of cells, mostly {types.index[0]} ({types.iloc[0]} of {types.sum()})"
        )
    print(
        f"\n{len(grn)} cells in {seconds:.1f} s ({len(grn) / seconds:.0f} cells/s). The same in Python, and what comes next:"
    )
    print("  adata = sccafm.datasets.pbmc3k()[::2].copy()")
    print('  grn = sccafm.infer_grn(adata, groupby="cell_type", n_top_genes=1000)')
    print(f'  grn["{cell}"]; sccafm.tl.rank_regulators(grn); sccafm.pl.network(grn, "{ranked["group"].iloc[0]}")')


def read_cells(path: Path, backed: str | None = None):
    import anndata as ad

    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give an .h5ad file")
    try:
        return ad.read_h5ad(path, backed=backed)
    except OSError as error:
        raise ValueError(f"{path} is no readable h5ad file: {error}") from error


def settings_of(options: Infer | Embed, names: tuple[str, ...]) -> dict:
    """Keyword arguments that `infer_grn` and `embed` share, and those of `names`."""
    from sccafm._io import read_names

    shared = ("groupby", "n_top_genes", "layer", "gene_key", "species", "preprocess", "device")
    keys = {slot: getattr(options, f"{slot}_key") for slot in ("platform", "tissue", "disease")}
    return {name: getattr(options, name) for name in (*shared, *names)} | {
        "condition_keys": {slot: key for slot, key in keys.items() if key is not None} or None,
        "genes": None if options.genes is None else read_names(options.genes),
    }


def run_infer(options: Infer) -> None:
    import sccafm

    names = (
        "regulators",
        "always",
        "top_k",
        "min_weight",
        "null_cells",
        "neighbors",
        "keep_factors",
        "n_jobs",
    )
    settings = settings_of(options, names)
    if options.plan:
        print(sccafm.plan(options.input, options.model, store=options.out, **settings))
        return
    with contextlib.redirect_stdout(sys.stderr):  # the receipt is progress, not the result
        grn = sccafm.infer_grn(options.input, options.model, store=options.out, **settings)
    print(f"{grn}\nwritten to {options.out}; read it with sccafm.read_grn({str(options.out)!r})")


def run_embed(options: Embed) -> None:
    import sccafm

    adata = read_cells(options.input)
    new_folder(options.out)  # before the cells are embedded, which takes long
    with contextlib.redirect_stdout(sys.stderr):
        found = sccafm.embed(adata, options.model, **settings_of(options, ("adapt", "batch_key", "anchor", "harmony")))
        found.write(options.out)
    print(f"{found}\nwritten to {options.out}; read it with sccafm.read_embedding({str(options.out)!r})")
