"""Tables of edges: spelling, receipts, loaders, and networks in every accepted form."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from sccafm.evaluate import read_beeline, read_chip_atlas, read_collectri, read_edges
from sccafm.evaluate.truth import aligned, gene_duplicates, gene_keys, gene_lookup, respell, score_matrix

EDGES = pd.DataFrame(
    [("Sox2", "Nanog"), ("SOX2", "nanog "), ("Sox2", "Sox2"), ("Sox2", "Lost"), ("Klf4", "Sox2"), (None, "Sox2")],
    columns=["Gene1", "Gene2"],
)


def adata_with_ids() -> AnnData:
    adata = AnnData(np.zeros((2, 3)))
    adata.var_names = ["Sox2", "Nanog", "Klf4"]
    adata.var["gene_ids"] = ["ENSMUSG00000074637.8", "ENSMUSG00000012396", None]
    return adata


def counts(truth) -> tuple[int, ...]:
    return truth.n_rows, truth.n_mapped, truth.n_filtered, truth.n_unmapped, truth.n_self_loops, truth.n_duplicates


def test_keys_know_case_space_version_and_missing_names():
    names = [" sox2", "ENSG00000181449.4", "ensmusg00000074637", "HLA-A", "AC000.1", None, float("nan")]
    expected = ["SOX2", "ENSG00000181449", "ENSMUSG00000074637", "HLA-A", "AC000.1", "", ""]
    assert list(gene_keys(names)) == expected
    assert len(gene_keys([])) == 0


def test_lookup_links_ids_and_symbols():
    lookup = gene_lookup(adata_with_ids())
    assert list(respell(["ENSMUSG00000074637", "NANOG", "other"], lookup)) == ["Sox2", "Nanog", "OTHER"]
    assert "" not in lookup
    assert gene_lookup(["Sox2", "SOX2"]) == {"SOX2": "Sox2"}


def test_receipt_adds_up():
    truth = read_edges(EDGES, ["Sox2", "Nanog", "Klf4"])
    assert counts(truth) == (6, 2, 0, 2, 1, 1)
    assert truth.edges.to_numpy().tolist() == [["Sox2", "Nanog"], ["Klf4", "Sox2"]]
    assert "Lost" in truth.unmapped_genes
    assert "6 rows" in repr(truth) and "1 self-loops" in repr(truth) and "Lost" in repr(truth)


def test_without_genes_every_gene_is_kept_in_its_first_spelling():
    truth = read_edges(EDGES)
    assert truth.edges.to_numpy().tolist() == [["Sox2", "Nanog"], ["Sox2", "Lost"], ["Klf4", "Sox2"]]
    again = read_edges(truth)
    pd.testing.assert_frame_equal(again.edges, truth.edges)


def test_a_regulator_need_not_be_measured():
    assert counts(read_edges(EDGES, ["Sox2", "Nanog"], regulators=["KLF4"])) == (6, 2, 0, 2, 1, 1)


def test_truth_in_ensembl_ids_meets_symbols():
    table = pd.DataFrame({"TF": ["ENSMUSG00000074637"], "Target": ["ENSMUSG00000012396.1"]})
    assert read_edges(table, adata_with_ids()).edges.to_numpy().tolist() == [["Sox2", "Nanog"]]


@pytest.mark.parametrize("columns", [("source", "target"), ("tf", "gene"), ("Regulator", "Target")])
def test_known_columns(columns):
    assert read_edges(EDGES.set_axis(columns, axis=1), ["Sox2", "Nanog", "Klf4"]).n_mapped == 2


@pytest.mark.parametrize(("suffix", "sep"), [(".csv", ","), (".tsv", "\t"), (".csv.gz", ",")])
def test_files(tmp_path, suffix, sep):
    path = tmp_path / f"truth{suffix}"
    EDGES.assign(Type="+").to_csv(path, sep=sep, index=False)
    assert counts(read_beeline(path, ["SOX2", "NANOG", "KLF4", "NA"])) == (6, 2, 0, 2, 1, 1)


def test_collectri_levels_and_complexes():
    table = pd.DataFrame({
        "source": ["SOX2", "COMPLEX:JUN_FOS", "KLF4", "KLF4"], "confidence": ["A", "A", "b", "E"],
        "target": ["NANOG", "NANOG", "SOX2", "NANOG"], "mor": [1, 1, -1, 1],
    })  # fmt: skip
    genes = ["SOX2", "NANOG", "KLF4"]
    assert counts(read_collectri(table, genes)) == (4, 3, 0, 1, 0, 0)
    assert counts(read_collectri(table, genes, levels=("A", "B"))) == (4, 2, 1, 1, 0, 0)
    with pytest.raises(KeyError, match="levels=None keeps all rows"):
        read_collectri(table.drop(columns="confidence"), levels=("A",))


def test_chip_atlas_wide_and_long(tmp_path):
    wide = pd.DataFrame({
        "Target_genes": ["NANOG", "KLF4", "GATA1"], "SOX2|Average": [120.0, 40.0, 60.0],
        "SRX1|hESC H9": [240.0, 0.0, 10.0], "SRX2|hESC H9": [0.0, 160.0, 10.0], "SRX3|K-562": [0, 0, 99], "STRING": [1, 2, 3],
    })  # fmt: skip
    path = tmp_path / "SOX2.5.tsv"
    wide.to_csv(path, sep="\t", index=False)
    assert read_chip_atlas(path).edges["target"].tolist() == ["NANOG", "GATA1"]
    assert read_chip_atlas(path, cell_type="hESC H9").edges["target"].tolist() == ["NANOG", "KLF4"]
    assert counts(read_chip_atlas(path, ["SOX2", "NANOG"], min_score=50)) == (3, 1, 1, 1, 0, 0)
    long = pd.DataFrame({"Gene1": ["SOX2", "SOX2"], "Gene2": ["NANOG", "KLF4"], "Score": [500, 20]})
    assert counts(read_chip_atlas(long)) == (2, 1, 1, 0, 0, 0)
    with pytest.raises(KeyError, match="no experiment in cell type 'liver'.*K-562"):
        read_chip_atlas(path, cell_type="liver")
    with pytest.raises(KeyError, match="expected a column score"):
        read_chip_atlas(long.drop(columns="Score"))
    with pytest.raises(KeyError, match=r"<antigen>\|Average"):
        read_chip_atlas(wide.drop(columns="SOX2|Average"))


def test_unknown_columns():
    with pytest.raises(KeyError, match="expected columns source, target.*got.*'a'.*rename"):
        read_edges(pd.DataFrame({"a": ["x"], "b": ["y"]}))


class Network:
    """Stands in for a GRN."""

    def __init__(self, matrices):
        self.matrices = matrices

    def matrix(self, group=None):
        return self.matrices[group]


MATRIX = pd.DataFrame([[0.0, 0.5, 0.2], [0.9, 0.0, 0.1]], index=["SOX2", "KLF4"], columns=["SOX2", "NANOG", "KLF4"])


def test_scores_in_every_form():
    grn = Network({None: MATRIX, "B": 2 * MATRIX})
    pd.testing.assert_frame_equal(score_matrix(grn), MATRIX)
    pd.testing.assert_frame_equal(score_matrix(grn, "B"), 2 * MATRIX)
    long = MATRIX.stack().rename_axis(["source", "target"]).rename("weight").reset_index()
    found = score_matrix(long[long["weight"] > 0])
    genes = pd.Index(["SOX2", "NANOG", "KLF4"])
    expected = MATRIX.where(MATRIX > 0, -np.inf).to_numpy()
    np.testing.assert_array_equal(aligned(found, MATRIX.index, genes, gene_lookup(genes)), expected)
    assert list(found.index) == ["SOX2", "KLF4"]  # first seen first, whatever the weights
    renamed = long.rename(columns={"source": "TF", "weight": "importance"})
    pd.testing.assert_frame_equal(score_matrix(renamed), score_matrix(long))


def test_long_table_with_groups():
    long = pd.DataFrame({"group": ["B", "T"], "source": ["SOX2"] * 2, "target": ["NANOG"] * 2, "weight": [0.1, 0.7]})
    assert score_matrix(long, "T").loc["SOX2", "NANOG"] == 0.7
    assert score_matrix(long[:1]).loc["SOX2", "NANOG"] == 0.1
    with pytest.raises(ValueError, match="2 networks in column 'group'.*group='B'"):
        score_matrix(long)
    with pytest.raises(KeyError, match="group 'NK' is absent.*'B', 'T'"):
        score_matrix(long, "NK")


def test_repeated_edges_keep_the_highest_weight():
    long = pd.DataFrame({"source": ["SOX2", "sox2"], "target": ["NANOG"] * 2, "weight": [0.8, 0.1]})
    with pytest.warns(UserWarning, match="1 edges stand there twice"):
        assert score_matrix(long).loc["SOX2", "NANOG"] == 0.8


def test_aligned_joins_repeated_genes_and_leaves_the_rest_last():
    twice = pd.DataFrame([[0.1, 0.4], [0.6, 0.2]], index=["Sox2", "SOX2"], columns=["NANOG", "LOST"])
    genes = pd.Index(["NANOG", "KLF4"])
    with pytest.warns(UserWarning, match="scores: 1 genes stand there twice"):
        found = aligned(twice, pd.Index(["SOX2", "KLF4"]), genes, gene_lookup(["SOX2", *genes]))
    np.testing.assert_array_equal(found, [[0.6, -np.inf], [-np.inf, -np.inf]])


def test_gene_duplicates():
    adata = adata_with_ids()
    adata.var_names = ["Sox2", "SOX2", "Klf4"]
    assert gene_duplicates(adata).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("scores", "error", "match"),
    [
        (np.zeros((2, 2)), ValueError, "got ndarray.*index=regulators"),
        (MATRIX.mask(MATRIX == 0.5), ValueError, r"1 of 6 scores are NaN.*fillna"),
        (MATRIX[:0], ValueError, "at least one regulator"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), KeyError, "expected columns source, target"),
        (pd.DataFrame({"source": ["x"], "target": ["y"]}), KeyError, "expected a column weight"),
        (
            pd.DataFrame({"source": ["x"], "target": ["y"], "weight": [np.nan]}),
            ValueError,
            "1 of 1 weights are NaN.*dropna",
        ),
    ],
)
def test_validation(scores, error, match):
    with pytest.raises(error, match=match):
        score_matrix(scores)
