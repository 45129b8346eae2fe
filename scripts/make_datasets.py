"""Make the example data sets that ship with the library from h5ad files with counts.

    python scripts/make_datasets.py --pbmc3k pbmc3k.h5ad --kang18 ifnb.h5ad --oligodendrocytes marques.h5ad

Cells are chosen at random (seeded), balanced over the labels; genes seen in fewer than `MIN_CELLS` of them are left out.
The same files give the same cells. Sources and licences: docs/resources.md.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

FOLDER = Path(__file__).parents[1] / "src/sccafm/datasets"
MIN_CELLS = 5  # of the chosen ones, that must show a gene
SEED = 0


@dataclass(frozen=True)
class Recipe:
    """What is kept of a source."""

    n_cells: int
    labels: tuple[str, ...]  # columns of obs whose combinations are balanced
    obs: dict[str, str]  # column in the source -> column here
    constant: dict[str, str]  # further columns of obs, in CELLxGENE's words


RECIPES = {
    "pbmc3k": Recipe(
        700,
        ("cell_type",),
        {"cell_type": "cell_type"},
        {"organism": "human", "tissue": "blood", "disease": "normal"},
    ),
    "kang18": Recipe(
        700,
        ("cell_type", "condition"),
        {"cell_type": "cell_type", "condition": "condition"},
        {"organism": "human", "tissue": "blood", "disease": "systemic lupus erythematosus"},
    ),
    "oligodendrocytes": Recipe(
        600,
        ("cell_type",),
        {"cell_type": "cell_type", "region": "region"},
        {"organism": "mouse", "tissue": "brain", "disease": "normal"},
    ),
}


def balanced(labels: pd.Series, n: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of `n` labelled cells, as even over the labels as their numbers allow, in rising order."""
    sizes = labels.value_counts()
    share = next(s for s in range(1, sizes.max() + 1) if sizes.clip(upper=s).sum() >= min(n, sizes.sum()))
    positions = np.arange(len(labels))
    kept = [rng.permutation(positions[(labels == label).to_numpy()])[:share] for label in sorted(sizes.index)]
    chosen = np.concatenate(kept)
    surplus = len(chosen) - n
    return np.sort(rng.permutation(chosen)[: len(chosen) - max(surplus, 0)])


def compact(adata: ad.AnnData, recipe: Recipe) -> ad.AnnData:
    """The chosen cells with their counts and labels, and nothing else."""
    labels = adata.obs[list(recipe.labels)]
    labels = labels[labels.notna().all(axis=1)].astype(str).agg(" / ".join, axis=1).reindex(adata.obs_names)
    cells = balanced(labels, recipe.n_cells, np.random.default_rng(SEED))
    counts = sparse.csr_matrix(adata.X)[cells]
    if not np.array_equal(counts.data, np.round(counts.data)):
        raise ValueError("expected counts in X, got numbers that are not whole")
    genes = np.flatnonzero(counts.getnnz(axis=0) >= MIN_CELLS)
    obs = adata.obs.iloc[cells][list(recipe.obs)].rename(columns=recipe.obs).astype(str).astype("category")
    obs = obs.assign(**{name: pd.Categorical([word] * len(obs)) for name, word in recipe.constant.items()})
    var = adata.var.iloc[genes]
    var = var[["ensembl"]].rename(columns={"ensembl": "gene_ids"}) if "ensembl" in var else var[[]]
    return ad.AnnData(counts[:, genes].astype(np.float32), obs=obs, var=var)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in RECIPES:
        parser.add_argument(f"--{name}", type=Path, help="h5ad file of the source; absent: this set is left as it is")
    sources = vars(parser.parse_args())
    for name, recipe in RECIPES.items():
        if sources[name] is None:
            continue
        adata = compact(ad.read_h5ad(sources[name]), recipe)
        partial = FOLDER / f"{name}.h5ad.partial"
        adata.write_h5ad(partial, compression="gzip", compression_opts=9)
        partial.replace(FOLDER / f"{name}.h5ad")
        size = (FOLDER / f"{name}.h5ad").stat().st_size / 2**20
        print(f"{name}: {adata.n_obs} cells x {adata.n_vars} genes, {size:.2f} MB")
        print(adata.obs.groupby(list(recipe.labels), observed=True).size().to_string())


if __name__ == "__main__":
    main()
