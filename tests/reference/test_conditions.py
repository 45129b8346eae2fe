"""Words for platform, species, tissue and disease."""

import numpy as np
import pandas as pd
import pytest

from sccafm.reference.conditions import SYNONYMS, Conditions

WORDS = ["<unk>", "human", "mouse", "10x 3' v3", "blood", "normal", "influenza"]
CONDITIONS = Conditions([{"cond_value": word, "token_index": i} for i, word in enumerate(WORDS)])


@pytest.mark.parametrize("word", ["human", "Homo sapiens", " HS ", "NCBITaxon:9606"])
def test_a_species_is_one_word_however_it_is_spelled(word):
    assert CONDITIONS.index(word) == 1


def test_a_table_that_holds_the_latin_name_is_reached_by_the_common_one():
    latin = Conditions([{"cond_value": "<unk>", "token_index": 0}, {"cond_value": "Homo sapiens", "token_index": 1}])
    assert latin.index("human") == latin.index("Homo sapiens") == 1


@pytest.mark.parametrize("word", ["Blood", " blood ", "PBMC", "peripheral blood"])
def test_case_spaces_and_laboratory_names_are_read(word):
    assert CONDITIONS.index(word) == 4


@pytest.mark.parametrize("word", ["", "nan", None, float("nan"), "NA", "<NA>", "moon dust", "<unk>"])
def test_absent_and_foreign_words_are_unknown(word):
    assert CONDITIONS.index(word) == 0
    assert word not in CONDITIONS


def test_literal_lookup_knows_no_synonyms():
    assert CONDITIONS.literal("blood") == 4
    assert CONDITIONS.literal("homo sapiens") == CONDITIONS.literal("pbmc") == 0


def test_cells_are_encoded_slot_by_slot():
    tissue = pd.Series(pd.Categorical(["blood", None, "Blood"]))
    ids = CONDITIONS.encode({"platform": None, "species": "human", "tissue": tissue}, 3)
    np.testing.assert_array_equal(ids, [[0, 1, 4, 0], [0, 1, 0, 0], [0, 1, 4, 0]])
    assert ids.dtype == np.int64


def test_synonyms_lead_to_words_of_the_bundled_table(tiny_model):
    missing = [word for word in SYNONYMS.values() if tiny_model.conditions.literal(word) == 0]
    assert missing == []


def test_no_synonym_is_a_word_of_the_bundled_table(tiny_model):
    assert [word for word in SYNONYMS if tiny_model.conditions.literal(word)] == []


def test_the_bundled_table_holds_every_word_of_the_source(tiny_model, shared):
    words = pd.read_csv(shared / "resources/cond_vocab_examples.csv", keep_default_na=False)["value"].str.lower()
    assert [word for word in words if word != "<unk>" and tiny_model.conditions.literal(word) == 0] == []


def test_a_word_of_the_table_is_taken_before_its_synonym():
    table = Conditions([{"cond_value": w, "token_index": i} for i, w in enumerate(["<unk>", "blood", "pbmc"])])
    assert [table.index("PBMC"), table.index("whole blood")] == [2, 1]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"cond_value": "<unk>", "token_index": 1}], "the index 0"),
        ([{"cond_value": "human", "token_index": 0}], "the index 0"),
        ([{"cond_value": "<unk>", "token_index": 0}, {"cond_value": "a", "token_index": 0}], "twice"),
        ([{"cond_value": "<unk>", "token_index": 0}, {"cond_value": " <UNK>", "token_index": 1}], "twice"),
        ([{"value": "<unk>"}], "must be a list of"),
        ({"<unk>": 0}, "must be a list of"),
    ],
)
def test_damaged_table_is_refused(records, message):
    with pytest.raises(ValueError, match=message):
        Conditions(records)


def test_table_that_is_no_json_is_refused_by_path(tmp_path):
    (tmp_path / "cond_dict.json").write_text("")
    with pytest.raises(ValueError, match=r"cond_dict\.json is not JSON"):
        Conditions.read(tmp_path / "cond_dict.json")
