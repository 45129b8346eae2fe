"""Gene names as they come: spelling, species, vocabulary, orthologs, aliases, the best of several columns."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sccafm.model.layout import find_files
from sccafm.reference.bundle import read_reference_data
from sccafm.reference.former_names import FORMER
from sccafm.reference.genes import (
    UNKNOWN_TOKEN,
    GeneNames,
    Homologs,
    Vocabulary,
    guess_species,
    is_ensembl,
    match_genes,
    normalize_symbol,
    species_name,
)
from sccafm.reference.tables import bundled

RECORDS = [
    {"token_index": 9, "gene_symbol": "TP53", "gene_id": "ENSG00000141510"},
    {"token_index": 0, "gene_symbol": None, "gene_id": "<pad>"},
    {"token_index": 3, "gene_symbol": None, "gene_id": "<eos>"},
    {"token_index": 4, "gene_symbol": "GATA1", "gene_id": "ENSG00000102145"},
    {"token_index": 5, "gene_symbol": "SPI1", "gene_id": "ENSG00000066336"},
    {"token_index": 6, "gene_symbol": "TWIN", "gene_id": "ENSG00000000006"},
    {"token_index": 7, "gene_symbol": "TWIN", "gene_id": "ENSG00000000007"},
    {"token_index": 8, "gene_symbol": "ENSG00000000008", "gene_id": "ENSG00000000008"},
]
MICE = pd.DataFrame(
    [
        ["ENSMUSG00000059552", "Trp53", "ENSG00000141510", "TP53"],
        ["ENSMUSG00000031162", "Gata1", "ENSG00000102145", "GATA1"],
        ["ENSMUSG00000002111", "Spi1", "ENSG00000066336", "OLDSPI"],  # known by the id alone
    ],
    columns=["mouse_EnsemblID", "mouse_Symbol", "human_EnsemblID", "human_Symbol"],
)
VOCABULARY = Vocabulary(RECORDS)
BOOK = GeneNames(VOCABULARY, Homologs(MICE), {"PU.1": "SPI1", "P53": "TP53", "GONE": "NOWHERE"})
DIGITS = st.integers(0, 10**11 - 1).map("{:011d}".format)
IDS = st.builds("{}{}".format, st.sampled_from(["ENSG", "ENSMUSG"]), DIGITS)


def match(species="human", **columns):
    columns = {key: list(values) for key, values in columns.items()}
    return match_genes(columns, pd.Index(next(iter(columns.values()))), species, BOOK)


def token(name, species="human"):
    return BOOK.find(name, species)[0]


@given(st.text())
def test_spelling_twice_changes_nothing(name):
    assert normalize_symbol(normalize_symbol(name)) == normalize_symbol(name)


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9.-]{0,9}", fullmatch=True), st.sampled_from(["", " ", "\t", "\n "]))
def test_case_and_spaces_do_not_matter(name, space):
    assert normalize_symbol(space + name.lower() + space) == normalize_symbol(name.upper())


@given(IDS, st.integers(1, 99))
def test_ensembl_versions_are_cut(gene_id, version):
    assert normalize_symbol(f"{gene_id.lower()}.{version}") == gene_id
    assert is_ensembl(gene_id)


@pytest.mark.parametrize("name", ["NKX2-5", "RP11-34P13.7", "AC245014.3", "H1.2", "ENSG", "ENSA"])
def test_dots_of_symbols_stay(name):
    assert normalize_symbol(name) == name
    assert not is_ensembl(normalize_symbol(name))


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("Homo sapiens", "human"),
        (" HUMAN ", "human"),
        ("NCBITaxon:9606", "human"),
        ("mm", "mouse"),
        ("Mus musculus", "mouse"),
        ("NCBITaxon:10090", "mouse"),
        ("Rattus norvegicus", None),
        (float("nan"), None),
    ],
)
def test_species_has_many_spellings(word, name):
    assert species_name(word) == name


@pytest.mark.parametrize(
    ("names", "species"),
    [
        (["GATA1", "ACTB", "C1orf43", "MT-CO1"], "human"),
        (["Gata1", "Actb", "mt-Co1", "0610007P14Rik"], "mouse"),
        (["ENSG00000141510.3", "ensg00000102145", "spike"], "human"),
        (["ENSMUSG00000059552", "ENSMUSG00000031162"], "mouse"),
        (["1", "2", "3"], None),
        (["GATA1", "Gata1"], None),
        ([], None),
    ],
)
def test_species_is_guessed_from_names(names, species):
    assert guess_species(names) == species


def test_symbols_and_ids_share_tokens():
    assert token("gata1") == token("ENSG00000102145.12") == token(" GATA1 ") == 4


def test_duplicate_symbol_takes_the_highest_token():
    assert VOCABULARY.token("TWIN") == 7
    assert VOCABULARY.token("ENSG00000000006") == 6


def test_index_gaps_count_as_rows():
    assert VOCABULARY.size == 10
    assert len(VOCABULARY) == 6
    assert VOCABULARY.tokens.tolist() == [4, 5, 6, 7, 8, 9]


def test_special_rows_are_no_genes():
    assert VOCABULARY.special("<pad>") == 0
    assert token("<pad>") == UNKNOWN_TOKEN
    assert token("") == UNKNOWN_TOKEN


def test_unnamed_gene_is_called_by_its_id():
    assert VOCABULARY.symbol(8) == VOCABULARY.gene_id(8) == "ENSG00000000008"
    assert token("ENSG00000000008") == 8


@pytest.mark.parametrize("name", ["Trp53", "TRP53", "trp53", "ENSMUSG00000059552", "ENSMUSG00000059552.4"])
def test_mouse_gene_reaches_its_human_ortholog(name):
    assert BOOK.find(name, "mouse") == (9, "ortholog")


def test_mouse_gene_is_found_by_the_orthologs_id_where_its_symbol_is_unknown():
    assert BOOK.find("Spi1", "mouse") == (5, "ortholog")


def test_mouse_symbol_means_nothing_in_a_human():
    assert BOOK.find("Trp53", "human") == (UNKNOWN_TOKEN, "lost")


@pytest.mark.parametrize("alias", ["PU.1", "pu.1", "P53"])
def test_alias_reaches_the_current_symbol(alias):
    found, way = BOOK.find(alias, "human")
    assert way == "alias"
    assert VOCABULARY.symbol(found) == BOOK.aliases[normalize_symbol(alias)]


def test_alias_of_an_unknown_symbol_is_lost():
    assert BOOK.find("GONE", "human") == (UNKNOWN_TOKEN, "lost")


@given(st.lists(st.sampled_from(["GATA1", "ENSG00000141510", "TWIN"]), min_size=1), st.text(), st.integers(0, 9))
def test_one_odd_name_changes_no_other(names, odd, where):
    where = min(where, len(names))
    found = match(var_names=[*names[:where], odd, *names[where:]]).tokens.tolist()
    del found[where]
    assert found == [token(name) for name in names]


def test_the_column_that_knows_most_is_read_first():
    found = match(var_names=["a", "SPI1", "GATA1"], gene_ids=["ENSG00000141510", "ENSG00000066336", "ENSG00000102145"])
    assert found.tokens.tolist() == [9, 5, 4]
    assert found.ways.tolist() == ["ensembl"] * 3
    assert list(found.names) == ["a", "SPI1", "GATA1"]
    assert found.symbols.tolist() == ["TP53", "SPI1", "GATA1"]


def test_another_column_rescues_what_the_best_does_not_know():
    found = match(var_names=["TP53", "GATA1", "novel"], gene_ids=["x", "y", "ENSG00000066336"])
    assert found.tokens.tolist() == [9, 4, 5]
    assert found.ways.tolist() == ["symbol", "symbol", "ensembl"]


def test_rescued_mouse_gene_has_its_own_symbol():
    found = match("mouse", var_names=["Gata1", "Spi1", "novel"], gene_ids=["x", "y", "ENSMUSG00000059552"])
    assert found.symbols.tolist() == ["Gata1", "Spi1", "Trp53"]


def test_mouse_ids_are_called_by_mouse_symbols():
    assert match("mouse", var_names=["ENSMUSG00000059552.1", "GATA1"]).symbols.tolist() == ["Trp53", "Gata1"]


def test_unknown_genes_are_lost_and_keep_their_name():
    found = match(var_names=["GATA1", "Foo"])
    assert found.is_known.tolist() == [True, False]
    assert found.tokens.tolist() == [4, UNKNOWN_TOKEN]
    assert found.ways.tolist() == ["symbol", "lost"]
    assert found.symbols.tolist() == ["GATA1", "Foo"]


def test_order_of_records_does_not_matter():
    assert Vocabulary(RECORDS[::-1]).token("TWIN") == 7


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([*RECORDS, {"token_index": 4, "gene_symbol": "X", "gene_id": "Y"}], "token_index 4 twice"),
        ([r for r in RECORDS if r["gene_id"] != "<pad>"], "no record with gene_id '<pad>'"),
        ([{"token_index": 0, "gene_symbol": "X"}], "must be a list of"),
        ({"GATA1": 1}, "must be a list of"),
        ([], "no record with gene_id '<pad>'"),
    ],
)
def test_damaged_vocabulary_is_refused(records, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(records)


def test_vocabulary_that_is_no_json_is_refused_by_path(tmp_path):
    (tmp_path / "vocab.json").write_text("[{")
    with pytest.raises(ValueError, match=r"vocab\.json is not JSON"):
        Vocabulary.read(tmp_path / "vocab.json")


@pytest.mark.parametrize(
    ("name", "species", "symbol"),
    [
        ("Trp53", "mouse", "TP53"),
        ("ENSMUSG00000059552", "mouse", "TP53"),
        ("TRP53", "mouse", "TP53"),
        ("ENSG00000141510.18", "human", "TP53"),
        ("sept7", "human", "SEPTIN7"),
        ("MLL", "human", "KMT2A"),
        ("H2-Aa", "mouse", "HLA-DQA1"),
    ],
)
def test_bundled_tables_know_names_as_they_come(tiny_model, name, species, symbol):
    found, _ = tiny_model.reference_data.genes.find(name, species)
    assert found != UNKNOWN_TOKEN
    assert tiny_model.vocabulary.symbol(found) == symbol


@pytest.mark.parametrize("name", ["HLA.DRA", "hg19_HLA-DRA", "GRCh38___HLA-DRA", " hla-dra "])
def test_names_that_tools_mangled_are_found(tiny_model, name):
    book = tiny_model.reference_data.genes
    token, _ = book.find(name, "human")
    assert book.vocabulary.symbol(token) == "HLA-DRA"


def test_ensembl_copies_on_the_y_chromosome_are_the_gene(tiny_model):
    book = tiny_model.reference_data.genes
    assert book.find("ENSG00000182378.15_PAR_Y", "human") == book.find("ENSG00000182378", "human")


@pytest.mark.parametrize("name", ["Ear2", "Mcpt1", "Mgl2"])
def test_synonyms_of_human_genes_do_not_name_mouse_genes(tiny_model, name):
    assert tiny_model.reference_data.genes.find(name, "mouse") == (UNKNOWN_TOKEN, "lost")


def test_symbols_that_were_official_once_name_mouse_genes(tiny_model):
    book = tiny_model.reference_data.genes
    assert book.vocabulary.symbol(book.find("Ctgf", "mouse")[0]) == "CCN2"


def test_former_symbols_of_mouse_regulators_are_known_for_mice_alone():
    book = read_reference_data(find_files(bundled(), required=())).genes
    for old, new in FORMER.items():
        token, way = book.find(old.title(), "mouse")
        assert token != UNKNOWN_TOKEN and book.find(new.title(), "mouse")[0] == token, old
        assert way in ("alias", "symbol"), old
    assert book.find("Stra13", "human")[0] != book.find("Stra13", "mouse")[0]
