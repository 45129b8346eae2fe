"""What is understood of an AnnData, and what is said of data that cannot be understood."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sccafm.data.input import prepare
from sccafm.data.options import InputOptions
from sccafm.types import CONDITIONS

SYMBOLS = ["SPI1", "GATA1", "STAT1", "EP300", "LYZ", "CD14", "TP53", "ACTB"]
IDS = [
    *["ENSG00000066336", "ENSG00000102145", "ENSG00000115415", "ENSG00000100393"],
    *["ENSG00000090382", "ENSG00000170458", "ENSG00000141510", "ENSG00000075624"],
]
MOUSE = ["Spi1", "Gata1", "Stat1", "Ep300", "Lyz2", "Cd14", "Trp53", "Actb"]


def data(names=SYMBOLS, cells=6, values=None, **columns):
    rng = np.random.default_rng(0)
    values = rng.poisson(3, (cells, len(names))) + 1 if values is None else values
    var = pd.DataFrame({key: list(column) for key, column in columns.items()}, index=list(names))
    return ad.AnnData(values.astype(np.float32), obs=pd.DataFrame(index=[f"cell{i}" for i in range(cells)]), var=var)


@pytest.fixture
def model_input(tiny_model):
    def of(adata, **settings):
        return prepare(adata, tiny_model, InputOptions(**settings))

    return of


@pytest.fixture
def conditions(model_input, tiny_model):
    def of(adata, **settings):
        found = model_input(adata, **settings)
        known = tiny_model.conditions
        ids = {slot: found.conditions[0, i] for i, slot in enumerate(CONDITIONS)}
        return found, ids, known

    return of


# --- genes


def test_plain_symbols_are_read(model_input):
    found = model_input(data())
    assert found.names.tolist() == SYMBOLS
    assert found.species == "human"
    assert found.is_tf.tolist() == [True, True, True, False, False, False, True, False]
    assert found.receipt.n_symbol == len(SYMBOLS)
    assert found.receipt.n_lost == 0


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (IDS, {}),
        ([f"{gene_id}.{i}" for i, gene_id in enumerate(IDS)], {}),
        ([gene_id.lower() for gene_id in IDS], {}),
        ([f"gene{i}" for i in range(8)], {"gene_ids": IDS}),
        ([f"gene{i}" for i in range(8)], {"feature_name": SYMBOLS}),
        ([f"gene{i}" for i in range(8)], {"feature_id": IDS}),
        ([f"gene{i}" for i in range(8)], {"gene_symbols": SYMBOLS}),
        ([s.lower() for s in SYMBOLS], {}),
        ([*SYMBOLS[:6], "novel-7", "ACTB"], {"gene_ids": [*["-"] * 6, IDS[6], "-"]}),
    ],
    ids=["ids", "versions", "lower-ids", "gene_ids", "feature_name", "feature_id", "gene_symbols", "lower", "rescue"],
)
def test_the_same_genes_however_they_are_written(model_input, names, columns):
    expected = model_input(data())
    found = model_input(data(names, **columns), species="human")
    np.testing.assert_array_equal(found.gene_ids, expected.gene_ids)
    np.testing.assert_array_equal(found.is_tf, expected.is_tf)
    assert found.symbols.tolist() == SYMBOLS
    assert found.names.tolist() == list(names)


def test_mouse_genes_reach_the_human_tokens_and_keep_their_symbols(model_input):
    found, human = model_input(data(MOUSE)), model_input(data())
    both = [i for i, name in enumerate(MOUSE) if name != "Lyz2"]
    known = [found.names.get_loc(MOUSE[i]) for i in both if MOUSE[i] in found.names]
    assert found.species == "mouse"
    assert found.symbols.tolist() == found.names.tolist()
    np.testing.assert_array_equal(found.gene_ids[known], human.gene_ids[both])
    assert found.is_tf[found.names.get_loc("Trp53")]
    assert found.receipt.n_ortholog >= 7


def test_upper_case_mouse_symbols_are_read_once_the_species_is_said(model_input):
    found = model_input(data([name.upper() for name in MOUSE]), species="mouse")
    np.testing.assert_array_equal(found.gene_ids, model_input(data(MOUSE)).gene_ids)


def test_gene_key_names_the_genes_and_labels_the_results(model_input):
    found = model_input(data([f"gene{i}" for i in range(8)], mine=SYMBOLS), gene_key="mine")
    assert found.names.tolist() == SYMBOLS


def test_missing_gene_key_lists_what_there_is(model_input):
    with pytest.raises(KeyError, match=r"gene_key='genes' is no column of var; there are \['gene_ids'\]"):
        model_input(data(gene_ids=IDS), gene_key="genes")


def test_categorical_name_columns_are_read(model_input):
    adata = data([f"gene{i}" for i in range(8)])
    adata.var["feature_name"] = pd.Categorical(SYMBOLS)
    assert model_input(adata).symbols.tolist() == SYMBOLS


def test_unknown_genes_are_left_out_and_listed(model_input):
    found = model_input(data([*SYMBOLS, "Foo1", "ENSG99999999999"]))
    assert found.names.tolist() == SYMBOLS
    assert found.receipt.lost == ("Foo1", "ENSG99999999999")
    assert "lost 2 genes: Foo1, ENSG99999999999" in str(found.receipt)


def test_second_columns_of_a_gene_warn(model_input):
    with pytest.warns(UserWarning, match="1 columns share the model's token of a gene.*: P53"):
        found = model_input(data([*SYMBOLS, "P53"]))
    assert found.receipt.duplicates == ("P53",)
    assert found.names.tolist() == SYMBOLS


def test_of_two_columns_of_one_name_the_higher_is_kept(model_input):
    values = np.ones((6, 9))
    values[:, 8] = 5
    adata = data([*SYMBOLS, "other"], values=values)
    adata.var_names = [*SYMBOLS, "ACTB"]
    with pytest.warns(UserWarning, match="share the model's token"):
        found = model_input(adata)
    assert found.columns.tolist() == [0, 1, 2, 3, 4, 5, 6, 8]
    assert found.names.is_unique


@pytest.mark.parametrize("names", [["xx1", "xx2", "xx3", "xx4"], ["1", "2", "3", "4"], ["GATA1", *map(str, range(40))]])
def test_nothing_in_common_is_said_with_what_was_looked_at(model_input, names):
    with pytest.raises(ValueError, match=r"of \d+ genes are in the model's vocabulary. Looked at \['var_names'\]"):
        model_input(data(names))


def test_twice_the_same_cell_is_refused(model_input):
    adata = data()
    adata.obs_names = ["a", "b", "c", "d", "e", "a"]
    with pytest.raises(ValueError, match="'a' stands twice; adata.obs_names_make_unique"):
        model_input(adata)


# --- species


@pytest.mark.parametrize("word", ["Homo sapiens", "human", "NCBITaxon:9606"])
@pytest.mark.parametrize("key", ["organism", "species", "organism_ontology_term_id"])
def test_species_is_read_from_obs(conditions, word, key):
    adata = data([name.capitalize() for name in SYMBOLS])  # spelled as in a mouse
    adata.obs[key] = pd.Categorical([word] * 6)
    found, ids, known = conditions(adata)
    assert found.species == "human"
    assert found.receipt.species_from == f"obs[{key!r}]"
    assert ids["species"] == known.index("human") != 0


def test_species_is_read_from_uns(model_input):
    adata = data()
    adata.uns["organism"] = "Mus musculus"
    assert (model_input(adata).species, model_input(adata).receipt.species_from) == ("mouse", "uns['organism']")


def test_species_is_read_from_the_column_that_was_named(model_input):
    adata = data()
    adata.obs["wirt"] = "mm"
    assert model_input(adata, condition_keys={"species": "wirt"}).species == "mouse"


def test_what_was_said_beats_obs(model_input):
    adata = data()
    adata.obs["organism"] = "Rattus norvegicus"
    assert model_input(adata, species="Homo sapiens").species == "human"


def test_species_of_unclear_names_is_human_and_said(model_input):
    adata = data([name.lower() for name in SYMBOLS])
    assert model_input(adata).receipt.species_from.startswith("default")


def test_a_rat_is_refused(model_input):
    adata = data()
    adata.obs["organism"] = "Rattus norvegicus"
    with pytest.raises(
        ValueError, match=r"obs\['organism'\] says 'Rattus norvegicus', which is neither human nor mouse"
    ):
        model_input(adata)
    with pytest.raises(ValueError, match="species= says 'rat', which is neither human nor mouse"):
        model_input(data(), species="rat")


def test_two_species_are_refused(model_input):
    adata = data()
    adata.obs["organism"] = ["Homo sapiens", "Mus musculus"] * 3
    with pytest.raises(ValueError, match="holds two species .*split the data"):
        model_input(adata)
    assert model_input(adata, species="human").species == "human"
    assert model_input(adata[::2].copy()).species == "human"


def test_two_spellings_of_one_species_are_one(model_input):
    adata = data()
    adata.obs["organism"] = ["Homo sapiens", "human"] * 3
    assert model_input(adata).species == "human"


# --- conditions


def test_cellxgene_names_are_found(conditions):
    adata = data()
    adata.obs["assay"], adata.obs["tissue"], adata.obs["disease"] = "10x 3' v3", "blood", "normal"
    found, ids, known = conditions(adata)
    assert ids == {"platform": known.index("10x 3' v3"), "species": 1, "tissue": known.index("blood"),
                   "disease": known.index("normal")}  # fmt: skip
    assert 0 not in ids.values()
    assert "tissue: obs['tissue'] blood" in str(found.receipt)


def test_absent_conditions_are_unknown_and_said(conditions):
    found, ids, _ = conditions(data())
    assert (ids["platform"], ids["tissue"], ids["disease"]) == (0, 0, 0)
    assert "platform: absent" in str(found.receipt)


def test_of_two_columns_the_known_one_is_read(conditions):
    adata = data()
    adata.obs["tissue"], adata.obs["tissue_general"] = "some corner of it", "blood"
    _, ids, known = conditions(adata)
    assert ids["tissue"] == known.index("blood")


def test_a_foreign_word_is_said(conditions):
    adata = data()
    adata.obs["disease"] = "moon sickness"
    found, ids, _ = conditions(adata)
    assert ids["disease"] == 0
    assert "unknown to the model: moon sickness" in str(found.receipt)


def test_condition_keys_name_columns(conditions):
    adata = data()
    adata.obs["organ"], adata.obs["tissue"] = "blood", "brain"
    _, ids, known = conditions(adata, condition_keys={"tissue": "organ"})
    assert ids["tissue"] == known.index("blood")


@pytest.mark.parametrize("slot", ["tissue", "species"])
def test_missing_condition_column_lists_what_there_is(model_input, slot):
    adata = data()
    adata.obs["batch"] = "a"
    with pytest.raises(KeyError, match=rf"{slot}='organ', adata.obs has \['batch'\]"):
        model_input(adata, condition_keys={slot: "organ"})


def test_unknown_condition_is_refused(model_input):
    with pytest.raises(ValueError, match=r"unknown: \['organ'\]"):
        model_input(data(), condition_keys={"organ": "tissue"})


def test_condition_keys_that_are_no_mapping_are_refused(model_input):
    with pytest.raises(ValueError, match="condition_keys maps slots to obs columns, .*got 'tissue'"):
        model_input(data(), condition_keys="tissue")


def test_species_key_without_effect_warns(model_input):
    adata = data()
    adata.obs["host"] = "mouse"
    with pytest.warns(UserWarning, match="has no effect"):
        assert model_input(adata, species="human", condition_keys={"species": "host"}).species == "human"


# --- regulators


def test_all_regulators_hold_cofactors_too(model_input):
    found = model_input(data(), regulators="all")
    assert found.names[found.is_tf].tolist() == ["SPI1", "GATA1", "STAT1", "EP300", "TP53"]


@pytest.mark.parametrize("names", [["LYZ", "spi1"], ["ENSG00000090382", "SPI1"]])
def test_any_genes_may_be_asked_for_as_regulators(model_input, names):
    adata = data(IDS) if names[0].startswith("ENS") else data()
    found = model_input(adata, regulators=names)
    assert found.symbols[found.is_tf].tolist() == ["SPI1", "LYZ"]


def test_mouse_regulators_may_be_asked_for_by_either_symbol(model_input):
    for name in ("Trp53", "TP53"):
        found = model_input(data(MOUSE), regulators=[name])
        assert found.names[found.is_tf].tolist() == ["Trp53"]


def test_regulators_that_are_not_there_warn(model_input):
    with pytest.warns(UserWarning, match="1 of the regulators asked for are not in the data: PAX5"):
        found = model_input(data(), regulators=["SPI1", "PAX5"])
    assert found.is_tf.sum() == 1


def test_mistyped_regulators_are_refused(model_input):
    with pytest.raises(ValueError, match='must be "dna_binding", "all" or a list of gene names, got \'dna-binding\''):
        model_input(data(), regulators="dna-binding")


@pytest.mark.parametrize("settings", [{"genes": ["LYZ", "CD14"]}, {"regulators": []}])
def test_no_regulator_left_is_refused(model_input, settings):
    with pytest.raises(ValueError, match=r"none of the \d genes is a regulator \(human"):
        model_input(data(), **settings)


def test_lost_regulators_are_listed(tiny_model, model_input):
    lost = [
        tf
        for tf in tiny_model.reference_data.regulators["mouse"].index
        if tiny_model.reference_data.genes.find(tf, "mouse")[0] < 0
    ]
    found = model_input(data([*MOUSE, lost[0].capitalize()]))
    assert found.receipt.lost_regulators == (lost[0].capitalize(),)
    assert "lost 1 regulators" in str(found.receipt)


# --- which genes are read


def test_named_genes_are_read_in_file_order(model_input):
    found = model_input(data(), genes=["lyz", "SPI1", "LYZ"])
    assert found.names.tolist() == ["SPI1", "LYZ"]


def test_genes_may_be_named_by_symbol_where_labels_are_ids(model_input):
    assert model_input(data(IDS), genes=["LYZ", IDS[0]]).symbols.tolist() == ["SPI1", "LYZ"]


def test_a_mistyped_gene_gets_a_hint(model_input):
    with pytest.warns(UserWarning, match=r"1 of the 2 genes asked for .*: GATA11; close to 'GATA11': \['GATA1'\]"):
        found = model_input(data(), genes=["SPI1", "GATA11"])
    assert found.receipt.not_found == ("GATA11",)
    assert "did not find 1 of the genes asked for: GATA11" in str(found.receipt)


WIDE = ["SPI1", "GATA1", "LYZ", "CD14", "ACTB", "CD74", "CST3", "B2M"]


@pytest.fixture
def wide():
    """Two regulators, one of them seen in one of 300 cells, and six other genes, the last never seen."""
    values = np.random.default_rng(1).poisson(20, (300, 8)).astype(float)
    values[1:, 1] = 0
    values[:, 7] = 0
    return data(WIDE, 300, values)


def test_regulators_that_are_seen_and_variable_genes_are_chosen(model_input, wide):
    found = model_input(wide, n_top_genes=3)
    assert found.names[found.is_tf].tolist() == ["SPI1"]
    assert (~found.is_tf).sum() == 3
    assert "B2M" not in found.names
    often = wide.copy()
    often.X[:3, 1] = 1  # 1 % of the cells
    assert model_input(often, n_top_genes=3).is_tf.sum() == 2


def test_the_receipt_tells_which_of_them_are_known_for_a_lineage(model_input, wide):
    receipt = model_input(wide, n_top_genes=3).receipt
    assert [line.split(" (")[0] for line in receipt.lineage_regulators] == ["GATA1"]
    assert "GATA1 (Erythroblasts; in " in receipt.lineage_regulators[0] and " cell" in receipt.lineage_regulators[0]
    assert (
        f"regulators known for a lineage (infer_grn(always=[...]) reads them): {receipt.lineage_regulators[0]}"
        in str(receipt)
    )
    assert model_input(wide, n_top_genes=3, always=["GATA1"]).receipt.lineage_regulators == ()


def test_regulators_of_lineages_that_most_cells_show_come_first_and_read_ones_not_at_all(model_input):
    values = np.random.default_rng(1).poisson(20, (2000, 8)).astype(float)
    values[3:, 1] = 0
    found = model_input(data(WIDE, 2000, values), n_top_genes=3)
    seen = [int(line.split("in ")[-1].split()[0]) for line in found.receipt.lineage_regulators]
    assert seen == sorted(seen, reverse=True) and seen
    read = set(found.names)
    assert not read & {line.split(" (")[0] for line in found.receipt.lineage_regulators}


@pytest.mark.parametrize(("seen", "n_regulators"), [(9, 1), (10, 2)])
def test_ten_cells_are_enough_for_a_regulator_among_many(model_input, seen, n_regulators):
    values = np.random.default_rng(1).poisson(20, (2000, 8)).astype(float)
    values[seen:, 1] = 0
    assert model_input(data(WIDE, 2000, values), n_top_genes=3).is_tf.sum() == n_regulators


def test_regulators_that_were_asked_for_are_kept_however_rare(model_input, wide):
    found = model_input(wide, n_top_genes=3, regulators=["GATA1"])
    assert found.names[found.is_tf].tolist() == ["GATA1"]


def test_regulators_that_are_always_read_stand_beside_the_others(model_input, wide):
    found = model_input(wide, n_top_genes=3, always=["gata1", "CD14"])
    assert found.names[found.is_tf].tolist() == ["SPI1", "GATA1", "CD14"]
    assert found.receipt.rare_regulators == ()
    with pytest.warns(UserWarning, match="1 of always= are not in the data or not in the vocabulary: NOBODY"):
        assert model_input(wide, n_top_genes=3, always=["NOBODY"]).receipt.not_found == ("NOBODY",)
    with pytest.raises(
        ValueError, match=r"always must be a list of names, got the text 'GATA1'; write always=\['GATA1'\]"
    ):
        model_input(wide, always="GATA1")


def test_the_receipt_names_regulators_that_few_cells_show(model_input, wide):
    receipt = model_input(wide, n_top_genes=3).receipt
    assert receipt.rare_regulators == ("GATA1",)
    assert r"left out 1 regulators that few cells show (infer_grn(always=[...]) reads them): GATA1" in str(receipt)


@pytest.mark.parametrize("n_top_genes", [None, 8, 2000])
def test_small_data_are_taken_whole(model_input, wide, n_top_genes):
    assert model_input(wide, n_top_genes=n_top_genes).names.tolist() == WIDE


@pytest.mark.parametrize("n_top_genes", [0, -3])
def test_number_of_genes_must_be_positive(model_input, n_top_genes):
    with pytest.raises(ValueError, match="n_top_genes must be a positive number or None"):
        model_input(data(), n_top_genes=n_top_genes)


# --- values


def test_cells_without_counts_warn(model_input):
    values = np.ones((6, 8))
    values[2] = 0
    with pytest.warns(UserWarning, match="1 cells have no counts.*: cell2"):
        assert len(model_input(data(values=values)).conditions) == 6


@pytest.mark.parametrize(
    ("scale", "message"),
    [(0.37, "X is normalised: it is read as it is"), (123.4, "X is normalised but not log-transformed")],
)
def test_normalised_values_warn(model_input, scale, message):
    adata = data()
    adata.X *= scale
    with pytest.warns(UserWarning, match=message):
        assert model_input(adata).receipt.values.startswith("normalised")


@pytest.mark.parametrize(("value", "message"), [(np.nan, "not finite"), (np.inf, "not finite"), (-2.0, "negative")])
def test_unreadable_values_are_refused(model_input, value, message):
    adata = data()
    adata.X[3, 4] = value
    with pytest.raises(ValueError, match=rf"{message}.*gene 'LYZ' of cell 'cell3'"):
        model_input(adata)


@pytest.mark.parametrize("shape", [(0, 8), (6, 0)])
def test_empty_data_are_refused(model_input, shape):
    with pytest.raises(ValueError, match="nothing to read"):
        model_input(data()[: shape[0], : shape[1]].copy())


def test_genes_of_raw_are_read_where_only_raw_has_counts(model_input):
    adata = data()
    raw = adata.copy()
    adata = adata[:, :3].copy()
    adata.raw = raw
    adata.X = adata.X - adata.X.mean(0)
    found = model_input(adata)
    assert found.names.tolist() == SYMBOLS
    assert found.receipt.matrix == "raw.X"
    assert found.labels_of(adata).tolist() == SYMBOLS[:3]


# --- the receipt


def test_receipt_adds_up_and_can_be_stored(model_input):
    adata = data(["SPI1", "ENSG00000102145", "P53", "LYZ", "nonsense"], values=sparse.csr_matrix(np.ones((6, 5))))
    receipt = model_input(adata, species="human").receipt
    found = (receipt.n_ensembl, receipt.n_symbol, receipt.n_ortholog, receipt.n_alias, receipt.n_lost)
    assert found == (1, 2, 0, 1, 1)
    assert (receipt.n_cells, receipt.n_genes, receipt.n_used, receipt.n_regulators) == (6, 5, 4, 3)
    assert receipt.to_dict()["lost"] == ["nonsense"]
    assert receipt.to_dict()["conditions"]["species"] == "human"
    lines = str(receipt).splitlines()
    assert "sccafm: genes 4 of 5 known: 1 by Ensembl id, 2 by symbol, 1 by alias" in lines
    assert "sccafm: used 4 genes, 3 of them as regulators" in lines


def test_ids_of_one_species_under_the_name_of_the_other_are_said(model_input):
    with pytest.warns(UserWarning, match="var_names names genes of the human, and species= says mouse"):
        model_input(data(IDS), species="mouse")
