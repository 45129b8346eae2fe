"""Gene sets from files and tables, with a receipt that adds up."""

import gzip

import pandas as pd
import pytest
from anndata import AnnData

from sccafm.evaluate import read_gene_sets

TABLE = pd.DataFrame(
    [("A", "ENSG01", "t1"), ("B", "ENSG02", "t1"), ("b", "ENSG02.3", "t1"), ("C", "ENSG03", "t2"), ("X", "ENSG09", "t2")],
    columns=["gene_symbol", "gene_id", "go_id"],
)  # fmt: skip


def adds_up(found) -> bool:
    return found.n_rows == found.n_mapped + found.n_unmapped + found.n_duplicates + found.n_in_dropped_sets


def test_a_table_is_matched_by_symbol_or_id():
    for names in (["a", "B", "C"], ["ENSG01.7", "ENSG02", "ensg03"]):
        found = read_gene_sets(TABLE, names)
        assert found.sets == {"t1": tuple(names[:2]), "t2": (names[2],)}
        assert (found.n_mapped, found.n_unmapped, found.n_duplicates) == (3, 1, 1) and adds_up(found)
    assert "1 unmapped, e.g. ENSG09" in repr(found) or "1 unmapped, e.g. X" in repr(found)
    adata = AnnData(var=pd.DataFrame({"gene_ids": ["ENSG03"]}, index=["whatever"]))
    assert read_gene_sets(TABLE, adata).sets == {"t2": ("whatever",)}


@pytest.mark.parametrize("suffix", [".gmt", ".gmt.gz"])
def test_a_gmt_file(tmp_path, suffix):
    path = tmp_path / f"sets{suffix}"
    lines = "one\tna\tA\tB,1.0\tA\n\ntwo\thttp://x\tC\tD\t\none\tna\tE\n"
    path.write_bytes(gzip.compress(lines.encode()) if suffix.endswith("gz") else lines.encode())
    found = read_gene_sets(path)
    assert found.sets == {"one": ("A", "B", "E"), "two": ("C", "D")} and found.n_duplicates == 1 and adds_up(found)
    assert read_gene_sets(str(path), ["d", "e"]).sets == {"one": ("e",), "two": ("d",)}


def test_a_csv_file(tmp_path):
    TABLE.to_csv(tmp_path / "t.csv.gz", index=False)
    assert read_gene_sets(tmp_path / "t.csv.gz", ["A", "B", "C"]).sets == {"t1": ("A", "B"), "t2": ("C",)}


def test_sizes_count_matched_genes():
    found = read_gene_sets({"big": "ABCDE", "small": "AB", "lost": "AXYZ"}, list("ABCDE"), min_genes=2, max_genes=4)
    assert found.sets == {"small": ("A", "B")} and len(found) == 1
    assert (found.n_dropped_sets, found.n_in_dropped_sets, found.n_unmapped) == (2, 6, 3) and adds_up(found)
    assert read_gene_sets(found).sets == found.sets


def test_go_terms_of_the_resources(shared):
    found = read_gene_sets(shared / "resources/genesets/gene_go_terms.csv.gz", ["SPI1", "GATA1", "TP53"], min_genes=3)
    assert "GO:0005634" in found.sets and adds_up(found)  # nucleus


def test_validation(tmp_path):
    with pytest.raises(KeyError, match="expected a column of sets .* rename them"):
        read_gene_sets(pd.DataFrame({"x": ["A"], "gene": ["B"]}))
    with pytest.raises(ValueError, match="none of 5 rows names one of the genes .*both in Ensembl ids"):
        read_gene_sets(TABLE, ["foo"])
    with pytest.raises(ValueError, match="none of 2 sets has 9 to None matched genes .*largest has 2"):
        read_gene_sets(TABLE, min_genes=9)
    (tmp_path / "bad.gmt").write_text("one two three\n")
    with pytest.raises(ValueError, match="is no GMT file"):
        read_gene_sets(tmp_path / "bad.gmt")
