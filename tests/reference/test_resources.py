"""The CSVs of a release as the library reads them."""

import pytest

from sccafm.reference.tables import bundled, read_aliases, read_homologs, read_prior, read_regulators, read_table


@pytest.fixture
def table(tmp_path):
    def write(text):
        (tmp_path / "table.csv").write_text(text)
        return tmp_path / "table.csv"

    return write


def test_bundle_holds_models_and_tables():
    names = ["models/vocab.json", "models/cond_dict.json", "human_tfs.csv", "mouse_tfs.csv", "OmniPath.csv"]
    assert [name for name in [*names, "homologous.csv"] if not (bundled() / name).is_file()] == []


def test_a_gene_called_na_is_no_hole(table):
    assert read_table(table("TF\nNA\nNAN\n"), ("TF",))["TF"].tolist() == ["NA", "NAN"]


def test_missing_column_is_named_with_what_is_there(table):
    with pytest.raises(ValueError, match=r"needs the columns \['TF'\]; it has \['gene'\]"):
        read_regulators(table("gene\nGATA1\n"))


@pytest.mark.parametrize("text", ["", 'TF\n"GATA1\n', "TF\na,b\nc,d,e\n"])
def test_unreadable_csv_is_refused_by_path(table, text):
    with pytest.raises(ValueError, match=r"table\.csv is no readable CSV"):
        read_regulators(table(text))


def test_regulators_are_spelled_and_unique(table):
    found = read_regulators(table("TF,class\n gata1,cofactor\nGATA1,dna_binding\nPax5,dna_binding\n"))
    assert found.index.tolist() == ["GATA1", "PAX5"]
    assert found["class"].tolist() == ["cofactor", "dna_binding"]


def test_list_without_classes_is_taken_for_dna_binding(table):
    assert read_regulators(table("TF\nGATA1\n"))["class"].tolist() == ["dna_binding"]


def test_prior_is_spelled_unique_and_without_self_edges(table):
    found = read_prior(table("Gene1,Gene2,sign\nGata1,TAL1,1\nGATA1,tal1,-1\nGATA1,gata1,1\n"))
    assert found.to_dict("records") == [{"Gene1": "GATA1", "Gene2": "TAL1", "sign": 1}]


def test_aliases_are_spelled(table):
    assert read_aliases(table("alias,gene_symbol\npu.1,Spi1\n")) == {"PU.1": "SPI1"}


def test_a_table_that_changed_on_disk_is_read_anew(table):
    header = "mouse_EnsemblID,mouse_Symbol,human_EnsemblID,human_Symbol\n"
    path = table(header + "ENSMUSG1,Other,ENSG1,OTHER\n")
    assert read_homologs(path).mouse_symbol("TRP53") == "TRP53"
    path.write_text(header + "ENSMUSG1,Trp53,ENSG1,TP53\n")
    assert read_homologs(path).mouse_symbol("TRP53") == "Trp53"


@pytest.mark.parametrize(("species", "master", "cofactor"), [("human", "SPI1", "EP300"), ("mouse", "TRP53", "EP300")])
def test_bundled_lists_tell_transcription_factors_from_cofactors(tiny_model, species, master, cofactor):
    classes = tiny_model.reference_data.regulators[species]["class"]
    assert classes[master] == "dna_binding"
    assert classes[cofactor] == "cofactor"
