"""Tokens from values, and the published tokenizer's rules on small input."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from making import write_tables
from scipy import sparse

from sccafm.data.published import tokenize_as_published
from sccafm.data.tokenizer import tokenize
from sccafm.reference.conditions import Conditions
from sccafm.reference.genes import Vocabulary

REGULATORS = {"human": {"SPI1", "NOVEL"}, "mouse": {"GATA1"}}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = write_tables(tmp_path_factory.mktemp("tables") / "release") / "models"
    return Vocabulary.read(folder / "vocab.json"), Conditions.read(folder / "cond_dict.json")


def cells(genes, **obs):
    values = np.arange(2 * len(genes), dtype=np.float32).reshape(2, -1)
    index = ["a", "b"]
    return ad.AnnData(values, obs=pd.DataFrame(obs, index=index), var=pd.DataFrame(index=list(genes)))


def published(adata, tables, max_length=6, **settings):
    return tokenize_as_published(adata, *tables, REGULATORS, max_length=max_length, **settings)


def test_cells_share_their_genes_and_nothing_is_padded():
    expression = np.array([[0.0, 1.5], [2.0, 0.0], [3.0, 1.0]])
    conditions = np.array([[0, 1, 2, 3]] * 3)
    tokens = tokenize(expression, np.array([7, 9]), np.array([True, False]), conditions)
    assert len(tokens) == 3
    assert tokens.gene_ids.tolist() == [[7, 9]] * 3
    assert tokens.is_tf.tolist() == [[True, False]] * 3
    assert tokens.conditions.tolist() == conditions.tolist()
    assert tokens.expression.dtype == torch.float32
    np.testing.assert_array_equal(tokens.expression, expression)
    assert tokens.is_padding is None
    assert tokens.is_gene.all()


def test_tokens_of_some_cells_are_their_rows():
    tokens = tokenize(np.eye(3), np.arange(3), np.ones(3, bool), np.arange(12).reshape(3, 4))
    assert tokens[1:].conditions.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert tokens[1:].expression.tolist() == np.eye(3)[1:].tolist()
    assert tokens.to("cpu").gene_ids.tolist() == tokens.gene_ids.tolist()


def test_published_symbols_are_upper_cased_and_unknown_genes_become_live_pads(tables):
    tokens = published(cells([" spi1", "Novel", "CD4"]), tables)
    assert tokens.gene_ids.tolist() == [[6, 0, 26, 0, 0]] * 2
    assert tokens.is_padding.tolist() == [[False, False, False, True, True]] * 2
    assert tokens.is_tf.tolist() == [[True, True, False, False, False]] * 2  # unknown, yet on the list


def test_published_ensembl_ids_lose_their_version_and_take_the_vocabulary_symbol(tables):
    tokens = published(cells(["ENSG00000000000.7", "ensg00000000020", "ENSG99999999999"]), tables)
    assert tokens.gene_ids[0].tolist() == [6, 26, 0, 0, 0]
    assert tokens.is_tf[0].tolist() == [True, False, False, False, False]


def test_published_one_symbol_among_ensembl_ids_makes_all_of_them_unknown(tables):
    assert published(cells(["ENSG00000000000", "CD4"]), tables).gene_ids[0].tolist() == [0, 26, 0, 0, 0]


def test_published_names_may_stand_in_a_column(tables):
    adata = cells(["x", "y"])
    adata.var["symbol"] = ["CD4", "SPI1"]
    assert published(adata, tables, gene_key="symbol").gene_ids[0].tolist() == [26, 6, 0, 0, 0]


def test_published_cells_that_fill_the_length_have_no_mask(tables):
    assert published(cells(["CD4", "SPI1"]), tables, max_length=3).is_padding is None
    with pytest.raises(ValueError, match="2 genes do not fit max_length=2; at most 1 do"):
        published(cells(["CD4", "SPI1"]), tables, max_length=2)


def test_published_species_choose_regulators_and_word_for_word_the_condition(tables):
    adata = cells(["SPI1", "GATA1"], species=["Mouse", "Homo sapiens"])
    tokens = published(adata, tables, keys={"species": "species"})
    assert tokens.is_tf[:, :2].tolist() == [[False, True], [True, False]]
    assert tokens.conditions[:, 1].tolist() == [2, 0]  # "homo sapiens" is no word of the table
    with pytest.raises(KeyError, match="organism"):
        published(adata, tables, keys={"species": "organism"})


def test_published_conditions_stand_in_their_slots(tables):
    adata = cells(["SPI1"], tissue=["Blood", "nan"], disease=[" normal", "plague"])
    keys = {"platform": "absent", "tissue": "tissue", "disease": "disease"}
    assert published(adata, tables, keys=keys).conditions.tolist() == [[0, 1, 3, 4], [0, 1, 0, 0]]


def test_published_values_are_read_as_they_are_from_any_storage(tables):
    adata = cells(["SPI1", "CD4"])
    dense = published(adata, tables).expression
    adata.X = sparse.csc_matrix(adata.X)
    assert torch.equal(published(adata, tables).expression, dense)
    assert dense.tolist() == [[0, 1, 0, 0, 0], [2, 3, 0, 0, 0]]
