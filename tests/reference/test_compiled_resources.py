"""The compiled resource tables: shape, rules, and agreement with their sources."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import is_required
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "../shared/resources"
TABLES = {
    "human_tfs.csv": ["TF", "gene_id", "class", "evidence", "dbd_family"],
    "mouse_tfs.csv": ["TF", "gene_id", "class", "evidence", "dbd_family", "human_symbol", "human_gene_id"],
    "OmniPath.csv": [
        *["Gene1", "Gene2", "sign", "confidence", "sources", "n_pmids", "chip_only", "sign_source"],
        *["complex_expanded", "Gene1_id", "Gene2_id"],
    ],
    "homologous.csv": ["mouse_EnsemblID", "mouse_Symbol", "human_EnsemblID", "human_Symbol", "support"],
    "models/aliases.csv": ["alias", "gene_symbol", "type"],
}
KEYS = {
    "human_tfs.csv": [["TF"], ["gene_id"]],
    "mouse_tfs.csv": [["TF"], ["gene_id"]],
    "OmniPath.csv": [["Gene1", "Gene2"]],
    "homologous.csv": [["mouse_EnsemblID"], ["human_EnsemblID"]],
    "models/aliases.csv": [["alias"]],
}
MASTERS = """
SPI1 GATA1 GATA2 GATA3 PAX5 PDX1 TP53 STAT1 STAT3 IRF4 IRF8 MYC NFKB1 RELA JUN FOS CEBPA RUNX1 TAL1 SOX2 POU5F1
NANOG KLF4 FOXP3 TBX21 RORC BCL6 EBF1 TCF7 HNF4A FOXA2 NKX2-1 MYOD1 NEUROD1 PAX6 SOX10 AR ESR1 NR3C1 CTCF SMAD3
"""


def read(name, root=ROOT):
    return pd.read_csv(root / name, keep_default_na=False)


def dna_binding(species):
    return set(read(f"{species}_tfs.csv").query("`class` == 'dna_binding'")["TF"])


def read_vocab():
    return pd.DataFrame(json.loads((ROOT / "models/vocab.json").read_text()))


def read_vectors(root=ROOT):
    return load_file(root / "models/vocab.safetensors")["embeddings"]


def cosines(vectors):
    return vectors @ vectors.T / vectors.shape[1]  # rows have root-mean-square 1


@pytest.mark.parametrize("name", TABLES)
def test_columns_and_unique_keys(name):
    table = read(name)
    assert list(table.columns) == TABLES[name]
    assert len(table) > 0
    for key in KEYS[name]:
        assert not table.duplicated(key).any()


@pytest.mark.parametrize("name", ["human_tfs.csv", "mouse_tfs.csv"])
def test_tf_classes_and_evidence(name):
    table = read(name)
    assert set(table["class"]) == {"dna_binding", "cofactor", "other"}
    assert table["TF"].is_monotonic_increasing
    assert table["evidence"].ne("").all()
    assert not table["evidence"].str.contains("DoRothEA").any()


def test_master_regulators_bind_dna():
    human, mouse = dna_binding("human"), dna_binding("mouse")
    assert set(MASTERS.split()) <= human
    assert {"Spi1", "Gata1", "Pdx1", "Trp53", "Stat1", "Irf8", "Myc", "Cebpa"} <= mouse


def test_splicing_factors_and_cofactors_do_not_bind_dna():
    human, mouse = dna_binding("human"), dna_binding("mouse")
    assert human.isdisjoint({"SNRPB", "SRSF9", "SFPQ", "EP300", "NCOR1", "NCOA2", "ID2", "PIN1", "KHSRP"})
    assert mouse.isdisjoint({"Snrpb", "Srsf9", "Sfpq", "Ep300", "Ncor1", "Ncoa2", "Id2"})


def test_mouse_class_is_that_of_the_human_ortholog():
    human, mouse = read("human_tfs.csv"), read("mouse_tfs.csv")
    pairs = mouse.merge(human, left_on="human_gene_id", right_on="gene_id", suffixes=("", "_human"))
    assert len(pairs) > 1000
    assert (pairs["class"] == pairs["class_human"]).all()


def test_prior_holds_no_dorothea():
    edges = read("OmniPath.csv")
    assert set(edges["sources"]) == {"CollecTRI", "TRRUST", "CollecTRI;TRRUST"}
    assert not edges["sign_source"].str.contains("DoRothEA").any()


def test_prior_edges_are_sane():
    edges = read("OmniPath.csv")
    assert edges["sign"].isin([-1, 0, 1]).all()
    assert (edges["Gene1"] != edges["Gene2"]).all()
    assert (edges["sign"] == 0).eq(edges["sign_source"] == "none").all()
    assert edges[["Gene1", "Gene2"]].equals(edges[["Gene1", "Gene2"]].sort_values(["Gene1", "Gene2"]))


def test_prior_confidence_is_the_noisy_or_of_its_sources():
    for edge in read("OmniPath.csv").sample(500, random_state=0).itertuples():
        doubt = 1.0
        if "CollecTRI" in edge.sources:
            cap = 0.5 if edge.complex_expanded else 0.95
            doubt *= 1 - min(0.6 + 0.1 * np.log2(1 + edge.n_pmids), cap)
        if "TRRUST" in edge.sources:
            doubt *= 1 - 0.7
        assert edge.confidence == pytest.approx(1 - doubt, abs=6e-5)


def test_prior_names_genes_as_the_vocabulary_does():
    edges, vocab = read("OmniPath.csv"), read_vocab()
    symbol_of = vocab.set_index("gene_id")["gene_symbol"]
    for end in ("Gene1", "Gene2"):
        assert (edges[f"{end}_id"].map(symbol_of) == edges[end]).all()


def test_vocabulary_rows():
    vocab = read_vocab()
    assert list(vocab.columns) == ["token_index", "gene_symbol", "gene_id"]
    assert vocab["token_index"].tolist() == list(range(len(vocab)))
    assert vocab["gene_id"][:4].tolist() == ["<pad>", "<mask>", "<sos>", "<eos>"]
    assert vocab["gene_symbol"][:4].isna().all()
    genes = vocab[4:]
    assert genes["gene_id"].is_monotonic_increasing
    assert genes["gene_id"].str.fullmatch(r"ENSG\d{11}").all()
    assert genes["gene_symbol"].str.upper().is_unique


def test_human_regulators_are_in_the_vocabulary():
    vocab = read_vocab()
    assert set(read("human_tfs.csv")["TF"]) <= set(vocab["gene_symbol"].dropna())


def test_aliases_never_override_a_symbol():
    aliases, symbols = read("models/aliases.csv"), set(read_vocab()["gene_symbol"].dropna())
    assert set(aliases["gene_symbol"]) <= symbols
    assert not aliases["alias"].isin({symbol.upper() for symbol in symbols}).any()
    assert aliases["alias"].str.fullmatch(r"[A-Z0-9._/-]+").all()
    assert not aliases["alias"].str.fullmatch(r"[0-9.]+").any()
    assert aliases["alias"].is_monotonic_increasing


def test_known_aliases():
    symbol_of = read("models/aliases.csv").set_index("alias")["gene_symbol"]
    expected = {
        "OCT4": "POU5F1",
        "PU.1": "SPI1",
        "P53": "TP53",
        "CD20": "MS4A1",
        "MARCH1": "MARCHF1",
        "1-SEP": "SEPTIN1",
    }
    assert symbol_of.loc[list(expected)].to_dict() == expected


def test_conditions():
    table = pd.DataFrame(json.loads((ROOT / "models/cond_dict.json").read_text()))
    assert table["token_index"].tolist() == list(range(len(table)))
    assert table["cond_value"].tolist()[:3] == ["<unk>", "human", "mouse"]
    assert table["cond_value"].is_unique
    assert (table["cond_value"] == table["cond_value"].str.strip().str.lower()).all()
    assert {"10x 3' v1", "10x 3' v3", "smart-seq2", "blood", "lung", "normal", "covid-19"} <= set(table["cond_value"])


def test_vectors_match_the_vocabulary():
    vectors = read_vectors()
    assert vectors.shape == (len(read_vocab()), 128)
    assert vectors.dtype == np.float32
    rms = np.sqrt((vectors**2).mean(1))
    is_empty = rms == 0
    np.testing.assert_allclose(rms[~is_empty], 1, atol=1e-4)
    assert is_empty[:4].all()
    assert is_empty.mean() < 0.1


def test_vectors_know_gene_function():
    row = read_vocab().set_index("gene_symbol")["token_index"]
    vectors = read_vectors()

    def cosine(a, b):
        return cosines(vectors[[row[a], row[b]]])[0, 1]

    assert cosine("CD3D", "CD3E") > cosine("CD3D", "INS") + 0.3
    assert cosine("COL1A1", "COL3A1") > cosine("COL1A1", "HBB") + 0.3
    assert cosine("SPI1", "GATA1") > cosine("SPI1", "ALB")


def test_recompiling_gives_the_committed_files(tmp_path):
    if not SOURCE.exists():
        if is_required():
            pytest.fail("the resource sources are absent")
        pytest.skip("the resource sources are absent")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/resources.md").write_bytes((ROOT / "docs/resources.md").read_bytes())
    script = ROOT / "scripts/compile_resources.py"
    command = [sys.executable, script, "--source", SOURCE, "--out", tmp_path]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for name in [*TABLES, "models/vocab.json", "models/cond_dict.json", "docs/resources.md"]:
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes(), name
    ours, theirs = (read_vectors(root) for root in (ROOT, tmp_path))
    sample = np.random.default_rng(0).choice(len(ours), 1000, replace=False)
    np.testing.assert_allclose(cosines(theirs[sample]), cosines(ours[sample]), atol=1e-3)
