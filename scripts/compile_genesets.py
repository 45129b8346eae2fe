"""Compile models/genesets.gmt.gz: the gene sets that name contexts.

    python scripts/compile_genesets.py --source GENESETS

GENESETS holds go_bp_2021_enrichr.gmt and reactome_2021.gmt. Kept are sets with 10 to 300 genes of the vocabulary; the
same sources give the same bytes.
"""

import argparse
import gzip
from pathlib import Path

from sccafm.reference.genes import Vocabulary, normalize_symbol
from sccafm.reference.tables import read_gmt

ROOT = Path(__file__).parents[1]
SOURCES = {"GO BP": "go_bp_2021_enrichr.gmt", "Reactome": "reactome_2021.gmt"}
SIZES = (10, 300)


def known_genes(path: Path, known: set[str]) -> dict[str, list[str]]:
    """Name -> known genes, in alphabetical order."""
    return {name: sorted(set(map(normalize_symbol, genes)) & known) for name, genes in read_gmt(path).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    options = parser.parse_args()
    vocabulary = Vocabulary.read(ROOT / "models/vocab.json")
    known = {normalize_symbol(vocabulary.symbol(token)) for token in range(vocabulary.size) if vocabulary.symbol(token)}
    lines = []
    for source, file in SOURCES.items():
        kept = {n: g for n, g in known_genes(options.source / file, known).items() if SIZES[0] <= len(g) <= SIZES[1]}
        lines += ["\t".join([name, source, *genes]) for name, genes in sorted(kept.items())]
        print(f"{source}: {len(kept):,} sets")
    path = ROOT / "models/genesets.gmt.gz"
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))
    print(f"wrote {path.name}: {len(lines):,} sets, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
