"""Compile models/lineages.csv: regulators that are known for a lineage, which the receipt of a run looks for.

    python scripts/compile_lineages.py --source GENESETS [--leave-out panglaodb]

GENESETS holds panglaodb_markers.csv and go_bp_2021_enrichr.gmt. A DNA-binding regulator of the human list counts where PanglaoDB has it as a
canonical marker of a cell type, or GO has it in the differentiation or the fate of one; processes that only regulate these do not count.
The same sources give the same bytes.
"""

import argparse
import re
from pathlib import Path

import pandas as pd

from sccafm.reference.genes import normalize_symbol
from sccafm.reference.tables import read_gmt, read_regulators

ROOT = Path(__file__).parents[1]
MARKERS, PROCESSES = "PanglaoDB", "GO BP"
FATE = re.compile(r"differentiation|fate (commitment|specification|determination)", re.IGNORECASE)
NOT_A_FATE = re.compile(r"regulation|foam|involved in|morphogenesis|pathway", re.IGNORECASE)
MOST = 3  # lineages that are named of a regulator


def marked(path: Path) -> dict[str, list[str]]:
    """Canonical markers: spelled symbol -> cell types, those that show the marker most often first."""
    table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    table = table[pd.to_numeric(table["canonical marker"], errors="coerce") == 1].sort_values(
        "sensitivity_human", ascending=False, kind="stable"
    )
    return names_by_gene(zip(table["gene_symbol"], table["cell type"], strict=True))


def fated(path: Path) -> dict[str, list[str]]:
    """Spelled symbol -> processes, those of the fewest genes first."""
    found = [
        (name, genes) for name, genes in read_gmt(path).items() if FATE.search(name) and not NOT_A_FATE.search(name)
    ]
    found = sorted(found, key=lambda item: (len(item[1]), item[0]))
    return names_by_gene((gene, re.sub(r" \(GO:\d+\)", "", name)) for name, genes in found for gene in genes)


def names_by_gene(pairs) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for gene, name in pairs:
        names = found.setdefault(normalize_symbol(gene), [])
        if name not in names:
            names.append(name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--leave-out", nargs="+", choices=["panglaodb", "go"], default=[])
    options = parser.parse_args()
    sources = {
        MARKERS: {} if "panglaodb" in options.leave_out else marked(options.source / "panglaodb_markers.csv"),
        PROCESSES: {} if "go" in options.leave_out else fated(options.source / "go_bp_2021_enrichr.gmt"),
    }
    regulators = read_regulators(ROOT / "human_tfs.csv")
    rows = []
    for name in sorted(regulators.index[regulators["class"] == "dna_binding"]):
        source = next((source for source, found in sources.items() if name in found), None)
        if source is not None:
            rows.append({"TF": name, "lineages": "; ".join(sources[source][name][:MOST]), "source": source})
    path = ROOT / "models/lineages.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    print(pd.DataFrame(rows)["source"].value_counts().to_string(), f"\nwrote {path.name}: {len(rows):,} regulators")


if __name__ == "__main__":
    main()
