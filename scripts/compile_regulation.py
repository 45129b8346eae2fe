"""Compile what is known of regulation into one file that the edge model is trained on.

    python scripts/compile_regulation.py --resources REGULATORY --out FOLDER [--leave-out encode circuits ...]

REGULATORY holds the tables that docs/resources.md lists under "Evidence of regulation". Genes become tokens of the bundled
vocabulary; names that it does not hold are counted and left out. FOLDER receives evidence.safetensors and evidence.json.
Nothing of REGULATORY/validation_only is read: it judges.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save_file
from sklearn.utils.extmath import randomized_svd

import sccafm
from sccafm.reference.genes import normalize_symbol

MOTIF_COLUMNS, SIMILARITY_COLUMNS, CLASSES, FAMILIES = 96, 48, 30, 60
MOTIF_PARTS = [f"motif_epd_core_jaspar2024_human_part{i}of3.npz" for i in (1, 2, 3)]
CIRCUITS_PARTS = [f"circuits_marbach2016_part{i}of2.csv.gz" for i in (1, 2)]
TABLES = {  # source -> files
    "conserved_motifs": ["motif_msigdb_c3_legacy.csv.gz"],
    "chea": ["chip_chea_noleak.csv.gz"],
    "circuits": CIRCUITS_PARTS,
}
SOURCES = ("curated", "encode", *TABLES, "motifs")


class Names:
    """Symbols to tokens, with a count of what is lost."""

    def __init__(self, vocabulary):
        self.vocabulary, self.known, self.lost = vocabulary, {}, {}

    def tokens(self, names, source: str) -> np.ndarray:
        """-1 where the vocabulary does not hold the name."""
        names = [str(name) for name in names]
        for name in set(names) - set(self.known):
            self.known[name] = self.vocabulary.token_of_symbol(normalize_symbol(name))
        found = np.array([self.known[name] for name in names], dtype=np.int32)
        self.lost[source] = self.lost.get(source, 0) + int((found < 0).sum())
        return found

    def edges(self, table: pd.DataFrame, source: str) -> np.ndarray:
        """Edges of the first two columns: N 2 int32, without self-edges."""
        ends = np.stack([self.tokens(table[column], source) for column in table.columns[:2]], 1)
        return ends[(ends >= 0).all(1) & (ends[:, 0] != ends[:, 1])]


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / name, keep_default_na=False)  # NA is no gene, but NAN a symbol may be


def curated(prior: pd.DataFrame, names: Names) -> dict[str, np.ndarray]:
    """The released prior without edges that ChIP-seq alone supports, which mix cell types."""
    kept = prior[prior["chip_only"].astype(int) == 0]
    return {"edges.curated": names.edges(kept[["Gene1", "Gene2"]], "curated")}


def encode(folder: Path, names: Names) -> tuple[dict[str, np.ndarray], list[dict]]:
    """ChIP-seq experiments one by one, so that regulators and cell lines can be held out."""
    table = read(folder, "chip_encode_experiments_noleak.csv.gz")
    regulators = names.tokens(table["tf"], "encode")
    rows, experiments = [], []
    for row, regulator in zip(table.itertuples(), regulators, strict=True):
        if regulator < 0:
            continue
        targets = names.tokens(row.targets.split(" "), "encode")
        targets = np.unique(targets[(targets >= 0) & (targets != regulator)])
        rows.append(np.stack([np.full(len(targets), len(experiments), np.int32), targets], 1))
        experiments.append({"regulator": int(regulator), "cell": row.cell, "name": row.set})
    return {"experiments": np.concatenate(rows).astype(np.int32)}, experiments


def motifs(folder: Path, names: Names, size: int) -> dict[str, np.ndarray]:
    """Promoter motifs of targets; of regulators where their own motifs point, what these resemble, and their class."""
    parts = [np.load(folder / part) for part in MOTIF_PARTS]
    genes = names.tokens(parts[0]["genes"], "motifs")
    z = np.concatenate([part["z_quarter_sd"] for part in parts], 1).astype(np.float32)[genes >= 0] / 4
    left, scale, right = randomized_svd(z - z.mean(0), MOTIF_COLUMNS, random_state=0)
    target = np.zeros((size, MOTIF_COLUMNS), np.float32)
    target[genes[genes >= 0]] = left * scale
    similarity = np.load(folder / "motif_jaspar2024_similarity.npz")
    alike = similarity["sim8"].astype(np.float32) / 100
    left, scale, _ = randomized_svd(alike - alike.mean(0), SIMILARITY_COLUMNS, random_state=0)
    matrices = np.concatenate([part["tfs"] for part in parts])
    return {
        "target.motif": target,
        "target.promoter": promoters(folder, names, size),
        "source.motif": mean_of_owners(right.T, matrices, names, size),
        "source.similarity": mean_of_owners(left * scale, similarity["tfs"], names, size),
        "source.class": classes(folder, names, size),
    }


def mean_of_owners(rows: np.ndarray, owners: np.ndarray, names: Names, size: int) -> np.ndarray:
    """Mean of the rows of each regulator's matrices; a matrix of a dimer belongs to both."""
    total, times = np.zeros((size, rows.shape[1]), np.float32), np.zeros(size)
    for row, owner in zip(rows, owners, strict=True):
        for token in owner_tokens(owner, names):
            total[token] += row
            times[token] += 1
    return total / np.maximum(times, 1)[:, None].astype(np.float32)


def owner_tokens(owner: object, names: Names) -> np.ndarray:
    parts = [part for part in str(owner).replace("::", ";").replace(",", ";").split(";") if part]
    tokens = names.tokens(parts, "motifs")
    return tokens[tokens >= 0]


def classes(folder: Path, names: Names, size: int) -> np.ndarray:
    """DNA-binding classes and families as indicators, and whether any is known."""
    table = read(folder, "motif_jaspar2024_tf_class.csv")
    columns = [*table["dbd_class"].value_counts().index[:CLASSES], *table["dbd_family"].value_counts().index[:FAMILIES]]
    found = np.zeros((size, len(columns) + 1), np.float32)
    for row in table.itertuples():
        tokens = owner_tokens(row.tfs_human, names)
        for k, column in enumerate(columns):
            if (row.dbd_class if k < CLASSES else row.dbd_family) == column:
                found[tokens, k] = 1
        found[tokens, -1] = 1
    return found


def promoters(folder: Path, names: Names, size: int) -> np.ndarray:
    """Number of promoters, CpG and GC content, standardised over the genes that have one."""
    table = read(folder, "gene_core_promoter_epd.csv.gz")
    tokens = names.tokens(table["gene"], "motifs")
    values = table[["n_epd_promoters", "max_cpg_60bp", "max_gc_60bp"]].to_numpy(np.float32)
    found = np.zeros((size, 3), np.float32)
    found[tokens[tokens >= 0]] = ((values - values.mean(0)) / values.std(0))[tokens >= 0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--leave-out", nargs="*", choices=SOURCES, default=[])
    options = parser.parse_args()
    model = sccafm.load(device="cpu")
    names, size = Names(model.vocabulary), model.vocabulary.size
    tensors, experiments = {}, []
    if "curated" not in options.leave_out:
        tensors |= curated(model.reference_data.prior, names)
    if "encode" not in options.leave_out:
        found, experiments = encode(options.resources, names)
        tensors |= found
    for source, files in TABLES.items():
        if source not in options.leave_out:
            table = pd.concat([read(options.resources, file) for file in files])
            tensors[f"edges.{source}"] = names.edges(table, source)
    if "motifs" not in options.leave_out:
        tensors |= motifs(options.resources, names, size)
    options.out.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, options.out / "evidence.safetensors")
    content = {"size": size, "experiments": experiments, "left_out": options.leave_out, "lost_names": names.lost}
    (options.out / "evidence.json").write_text(json.dumps(content) + "\n")
    for name, tensor in tensors.items():
        print(f"{name}: {' x '.join(map(str, tensor.shape))}")
    print(f"names that the vocabulary does not hold: {names.lost}")


if __name__ == "__main__":
    main()
