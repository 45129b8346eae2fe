"""Names of a model's factors, their load, and whether another seed finds them again.

`scripts/calibrate.py` calls `name_contexts`. To compare two models trained with different seeds on the same vocabulary:

    python scripts/contexts.py MODEL OTHER --corpus FOLDER [--write TEXT]

MODEL is "models" for the bundled one. With --write the figures go into MODEL's contexts.json, for its card; TEXT says what
OTHER is.
"""

import argparse
import json
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import sccafm
from sccafm._io import write_json
from sccafm.confidence.permutation import sample_cells
from sccafm.grn.contexts import enrichment, leading, load_entropy, matched_correlation, name_factor, where_active
from sccafm.model.layout import find_files
from sccafm.reference.tables import read_gene_sets


def loads(seen: list, size: int) -> dict[str, np.ndarray]:
    """Mean factors of each gene over the data sets that read it, by token: u and v, V M."""
    found = {}
    for side in "uv":
        total, times = 0.0, np.zeros(size)
        for s in seen:
            tokens = s.tokens[s.is_tf] if side == "u" else s.tokens
            factors = getattr(s, side)
            rows = np.zeros((size, factors.shape[1]))
            rows[tokens] = factors
            total = total + rows
            times[tokens] += 1
        found[side] = total / np.maximum(times, 1)[:, None]
    return found


def name_contexts(seen: list, model: sccafm.Model, n_top: int = 10) -> dict:
    """What contexts.json holds: for each factor a name, its evidence, what it is made of and where it is active."""
    sets = read_gene_sets(model.files.get("genesets"))
    found = loads(seen, model.vocabulary.size)
    read = np.flatnonzero(found["v"].sum(1) > 0)
    symbols = pd.Index([model.vocabulary.symbol(token).upper() for token in read])
    context = np.concatenate([s.context for s in seen])
    tissues = pd.Series(np.concatenate([np.repeat(s.tissue, len(s.context)) for s in seen]))
    types = pd.Series(np.concatenate([s.cell_types for s in seen]))
    known = (types != "").to_numpy()
    in_tissues, in_types = where_active(context, tissues), where_active(context[known], types[known])
    load = np.mean([s.context.mean(0) for s in seen], axis=0)
    own = leading(found["u"][read], n_top)
    factors = []
    for m in range(context.shape[1]):
        v = found["v"][read, m]
        regulators = [str(symbols[i]) for i in own[m]]
        targets = [str(symbols[i]) for i in np.argsort(-v, kind="stable")[:n_top] if v[i] > 0]
        terms = enrichment(v, symbols, sets)
        name, evidence = name_factor(m, regulators, terms)
        factors.append(
            {
                "name": name,
                "evidence": evidence,
                "load": round(float(load[m]), 6),
                "regulators": regulators,
                "targets": targets,
                "terms": terms.head(3)[["term", "overlap", "size", "fdr", "genes"]].to_dict("records"),
                "tissues": {label: round(share, 4) for label, share in in_tissues[m]},
                "cell_types": {label: round(share, 4) for label, share in in_types[m]},
            }
        )
    entropy = load_entropy(load)
    named = sum("genes among its targets" in f["evidence"] for f in factors)
    print(
        f"contexts: {named} of {len(factors)} factors named by a gene set; entropy of the load {entropy:.3f} of the maximum"
    )
    return {"load_entropy": round(entropy, 4), "factors": factors}


def gene_loads(model: sccafm.Model, corpus: Path, n_cells: int = 16) -> pd.DataFrame:
    """Mean target factors of each gene over the corpus: genes x factors."""
    tables = []
    for path in sorted(corpus.glob("*.h5ad"))[::3]:
        adata = ad.read_h5ad(path)
        adata = adata[sample_cells(adata.obs_names, n_cells)].copy()
        grn = sccafm.infer_grn(adata, model, null_cells=0, progress=False)
        tables.append(pd.DataFrame(grn.sums["v"] / len(grn), index=grn.genes["gene_id"]))
    return pd.concat(tables).groupby(level=0).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--write", metavar="TEXT")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    one, other = (gene_loads(sccafm.load(source, device="cpu"), options.corpus) for source in options.models)
    genes = one.index.intersection(other.index)
    _, correlation = matched_correlation(one.loc[genes].to_numpy(), other.loc[genes].to_numpy())
    rng = np.random.default_rng(0)
    _, chance = matched_correlation(one.loc[genes].to_numpy(), other.loc[rng.permutation(genes)].to_numpy())
    print(
        f"matched factors over {len(genes):,} genes: correlation {np.mean(correlation):.3f} on average, median "
        f"{np.median(correlation):.3f}; {np.mean(chance):.3f} with the genes of one model shuffled"
    )
    if options.write:
        found = {"other": options.write, "genes": len(genes), "mean": round(float(np.mean(correlation)), 4)}
        found |= {"median": round(float(np.median(correlation)), 4), "chance": round(float(np.mean(chance)), 4)}
        path = find_files(Path(options.models[0]))["contexts"]
        write_json(path, json.loads(path.read_text()) | {"seeds": found})


if __name__ == "__main__":
    main()
