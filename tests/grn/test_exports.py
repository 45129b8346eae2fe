"""Networks leave in other tools' forms and come back from them; each form is read by its tool, or by its published schema."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sccafm
from sccafm import GRN, evaluate


@pytest.fixture(scope="module")
def grn(calibrated_model):
    from conftest import toy_data

    return sccafm.infer_grn(toy_data(), calibrated_model, groupby="cell_type", progress=False)


@pytest.fixture
def edges() -> pd.DataFrame:
    """A hand-made network of two groups."""
    return pd.DataFrame(
        {
            "cell_type": ["B", "B", "B", "T", "T"],
            "TF": ["PAX5", "PAX5", "EBF1", "GATA3", "TCF7"],
            "target": ["CD19", "CD79A", "CD19", "CD3D", "IL7R"],
            "importance": [3.0, -2.0, 1.0, 5.0, 0.5],
            "note": ["a", "b", "c", "d", "e"],
        }
    )


def test_a_groups_network_is_its_part_of_the_pool(grn):
    pooled = grn.pool(50)
    for group in grn.group_sizes.index:
        part = pooled[(pooled["group"] == group).to_numpy()].drop(columns="group").reset_index(drop=True)
        pd.testing.assert_frame_equal(grn.network(group, 50), part)
    everywhere = grn.network(None, 50)
    found = [grn.matrix().loc[e.source, e.target] for e in everywhere.itertuples()]
    np.testing.assert_allclose(everywhere["weight"], found)
    assert (everywhere["n_cells"] == 30).all()


# --- decoupler


def test_decoupler_net_keeps_every_column(grn):
    net = grn.to_decoupler("B cell", top_k=100)
    assert list(net.columns) == list(grn.network("B cell", 1).columns)
    assert not net.duplicated(["source", "target"]).any()
    assert net["weight"].dtype == np.float64
    assert len(net) == 100


def test_signed_net_multiplies_by_the_sign_and_counts_what_it_leaves(grn):
    plain = grn.to_decoupler("B cell", top_k=100)
    known = plain[plain["sign"] != 0]
    assert 0 < len(known) < 100
    with pytest.warns(UserWarning, match=f"{100 - len(known)} of 100 edges have no sign"):
        net = grn.to_decoupler("B cell", top_k=100, signed=True)
    np.testing.assert_allclose(net["weight"], known["weight"] * known["sign"])


def test_net_without_any_sign_is_refused_as_signed():
    network = GRN.from_edges(pd.DataFrame({"source": ["A"], "target": ["B"]}))
    with pytest.raises(ValueError, match="no edge has a sign; pass signed=False"):
        network.to_decoupler(signed=True)


@pytest.mark.filterwarnings("ignore")  # of decoupler's own dependencies
def test_decoupler_scores_activity_with_it(grn, toy_adata):
    dc = pytest.importorskip("decoupler", reason="pip install decoupler")
    toy_adata.X = np.log1p(toy_adata.X.toarray())
    dc.mt.ulm(toy_adata, net=grn.to_decoupler("T cell", top_k=300), tmin=3)
    assert set(toy_adata.obsm["score_ulm"].columns) <= set(grn.regulators)


@pytest.mark.filterwarnings("ignore")
def test_decoupler_reads_the_regulons_and_runs_aucell(grn, toy_adata, tmp_path):
    dc = pytest.importorskip("decoupler", reason="pip install decoupler")
    sets = grn.to_regulons("T cell", tmp_path / "new/regulons.gmt", top_k=300)
    read = dc.pp.read_gmt(str(tmp_path / "new/regulons.gmt"))
    assert {name: list(genes) for name, genes in read.groupby("source", sort=True)["target"]} == sets
    dc.mt.aucell(toy_adata, net=read, tmin=3)
    assert set(toy_adata.obsm["score_aucell"].columns) <= set(sets)


def test_regulons_hold_targets_by_sign_strongest_first(grn):
    sets = grn.to_regulons("T cell", top_k=200, min_targets=1)
    net = grn.to_decoupler("T cell", top_k=200)
    for name, genes in sets.items():
        regulator, sign = name[:-3], {"(+)": 1, "(-)": -1, "(?)": 0}[name[-3:]]
        assert genes == list(net["target"][(net["source"] == regulator) & (net["sign"] == sign)])
    assert sum(map(len, sets.values())) == 200


def test_regulons_that_are_all_too_small_are_refused(grn):
    with pytest.raises(ValueError, match="no regulon has 1000 targets among 10 edges; lower min_targets"):
        grn.to_regulons(top_k=10, min_targets=1000)


# --- CellOracle, networkx, Cytoscape, BEELINE, geneRNIB


def test_celloracle_links_have_its_columns(grn):
    links = grn.to_celloracle("monocyte", top_k=80)
    assert list(links.columns[:6]) == ["source", "target", "coef_mean", "coef_abs", "p", "-logp"]
    assert {"confidence", "in_prior", "qvalue"} <= set(links)
    np.testing.assert_allclose(links["coef_mean"].abs(), links["coef_abs"] * links["sign"].abs())
    np.testing.assert_allclose(10 ** -links["-logp"], links["p"])


def test_celloracle_links_are_read_back_with_their_weights_and_signs(grn):
    links = grn.to_celloracle("monocyte", top_k=80)
    net = GRN.from_edges(links[["source", "target", "coef_mean", "coef_abs", "p", "-logp"]]).network()
    both = links.merge(net, on=["source", "target"], suffixes=("", "_read"))
    assert len(both) == len(links) == 80  # edges of unknown sign too
    np.testing.assert_allclose(both["weight"], both["coef_abs"])
    assert (both["sign_read"] == np.sign(both["coef_mean"])).all()
    whole = GRN.from_edges(links).network()
    np.testing.assert_allclose(whole["weight"].max(), links["coef_abs"].max())
    assert {"confidence", "qvalue"} <= set(whole)


def test_regulons_are_read_back_from_a_gmt_file(grn, tmp_path):
    sets = grn.to_regulons("T cell", tmp_path / "regulons.gmt", top_k=300)
    for read in (GRN.from_edges, GRN.from_pyscenic):
        net = read(tmp_path / "regulons.gmt").network()
        assert (net["weight"] == 1).all()
        for name, genes in sets.items():
            regulator, sign = name[:-3], {"+": 1, "-": -1, "?": 0}[name[-2]]
            own = net[(net["source"] == regulator) & (net["sign"] == sign)]
            assert set(own["target"]) == set(genes) - {regulator}


def test_files_that_are_no_tables_of_edges_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2,3\n4,5,6,7\n")
    with pytest.raises(ValueError, match="is no table of edges as CSV, TSV or parquet"):
        GRN.from_edges(tmp_path / "x.csv")
    (tmp_path / "y.csv").write_text("gene,score\nA,1\n")
    with pytest.raises(ValueError, match="expected TF, target, importance or pySCENIC's motif table"):
        GRN.from_pyscenic(tmp_path / "y.csv")
    with pytest.raises(FileNotFoundError, match="no file .*none.csv; give the CSV that `pyscenic grn`"):
        GRN.from_pyscenic(tmp_path / "none.csv")


def test_celloracle_base_lists_regulators_of_targets(grn):
    base = grn.to_celloracle_base("monocyte", top_k=80)
    net = grn.to_decoupler("monocyte", top_k=80)
    assert {(source, target) for target, found in base.items() for source in found} == set(
        zip(net["source"], net["target"], strict=True)
    )


def test_networkx_graph_carries_every_column(grn):
    nx = pytest.importorskip("networkx")
    graph = grn.to_networkx("B cell", top_k=60)
    assert isinstance(graph, nx.DiGraph)
    for row in grn.to_decoupler("B cell", top_k=60).to_dict("records"):
        held = graph.edges[row.pop("source"), row.pop("target")]
        assert held == {key: value for key, value in row.items() if value == value}
    assert all(graph.nodes[source]["is_regulator"] for source, _ in graph.edges)


def test_graphml_comes_back_as_the_same_graph(grn, tmp_path):
    nx = pytest.importorskip("networkx")
    text = grn.to_graphml("B cell", tmp_path / "grn.graphml", top_k=60)
    graph, back = grn.to_networkx("B cell", top_k=60), nx.parse_graphml(text)
    assert (tmp_path / "grn.graphml").read_text(encoding="utf-8") == text
    assert dict(back.nodes(data=True)) == dict(graph.nodes(data=True))
    assert {(a, b): d for a, b, d in back.edges(data=True)} == {(a, b): d for a, b, d in graph.edges(data=True)}
    assert [p.name for p in tmp_path.iterdir()] == ["grn.graphml"]


def test_cyjs_comes_back_through_networkx(grn, tmp_path):
    nx = pytest.importorskip("networkx")
    grn.to_cyjs("B cell", tmp_path / "grn.cyjs", top_k=60)
    content = json.loads((tmp_path / "grn.cyjs").read_text())
    back, graph = nx.cytoscape_graph(content), grn.to_networkx("B cell", top_k=60)
    assert back.is_directed()
    assert set(back.edges) == set(graph.edges)
    assert all("confidence" in edge["data"] for edge in content["elements"]["edges"])


def test_missing_values_are_left_out_of_graphs(tiny_model, toy_adata):
    """A model without calibration has no confidence: JSON has no NaN."""
    content = sccafm.infer_grn(toy_adata, tiny_model, null_cells=0, progress=False).to_cyjs(top_k=5)
    assert all({"confidence", "qvalue"}.isdisjoint(edge["data"]) for edge in content["elements"]["edges"])
    json.dumps(content, allow_nan=False)


def test_beeline_file_is_read_by_the_evaluation(grn, tmp_path):
    table = grn.to_beeline("B cell", tmp_path / "rankedEdges.csv", top_k=40)
    back = pd.read_csv(tmp_path / "rankedEdges.csv", sep="\t")
    assert list(back.columns[:2]) == ["Gene1", "Gene2"]
    np.testing.assert_allclose(back["EdgeWeight"], table["EdgeWeight"])
    assert evaluate.read_beeline(tmp_path / "rankedEdges.csv").n_mapped == 40


def test_genernib_file_has_the_published_schema(grn, tmp_path):
    grn.to_genernib(tmp_path / "net.h5ad", dataset_id="op", top_k=70)
    uns = ad.read_h5ad(tmp_path / "net.h5ad").uns
    assert (uns["method_id"], uns["dataset_id"]) == ("sccafm", "op")
    net = uns["prediction"]
    assert list(net.columns[:3]) == ["source", "target", "weight"]
    assert all(isinstance(weight, str) for weight in net["weight"])
    np.testing.assert_allclose(net["weight"].astype(float), grn.network(None, 70)["weight"])


def test_genernib_of_groups_names_cell_types_and_keeps_the_limit(grn):
    net = grn.to_genernib(dataset_id="op", by_group=True, top_k=90).uns["prediction"]
    assert set(net["cell_type"]) <= set(grn.group_sizes.index)
    assert len(net) == 90
    with pytest.raises(ValueError, match="at most 50,000 edges, got top_k=50001"):
        grn.to_genernib(dataset_id="op", top_k=50_001)


def test_only_confident_edges_leave(grn):
    least = grn.network("B cell", 100)["confidence"].median()
    net = grn.to_decoupler("B cell", top_k=None, min_confidence=least)
    whole = grn.network("B cell")
    assert len(net) == (whole["confidence"] >= least).sum()


def test_confidence_that_does_not_exist_is_no_filter(tiny_model, toy_adata):
    grn = sccafm.infer_grn(toy_adata, tiny_model, progress=False)
    with pytest.raises(ValueError, match="no confidence; leave min_confidence out"):
        grn.to_decoupler(min_confidence=0.5)


@pytest.mark.parametrize("export", ["to_decoupler", "to_networkx", "to_celloracle", "to_beeline", "to_regulons"])
def test_unknown_groups_are_named(grn, export):
    with pytest.raises(KeyError, match="no group 'NK'; there are"):
        getattr(grn, export)("NK")


def test_a_stored_run_exports_the_same(grn, tmp_path):
    back = sccafm.read_grn(grn.write(tmp_path / "grn"))
    pd.testing.assert_frame_equal(back.to_decoupler("B cell"), grn.to_decoupler("B cell"))


# --- networks of other tools


def test_edges_of_another_tool(edges):
    network = GRN.from_edges(edges)
    assert network.group_names == ["B", "T"]
    assert list(network.regulators) == ["EBF1", "GATA3", "PAX5", "TCF7"]
    found = network.network("B")
    assert list(found["target"]) == ["CD19", "CD79A", "CD19"]
    assert list(found["weight"]) == [3, 2, 1]
    assert list(found["sign"]) == [1, -1, 1]
    assert list(found["note"]) == ["a", "b", "c"]
    assert network.matrix("B").loc["PAX5", "CD79A"] == 2
    assert network.matrix("B").to_numpy().sum() == 6
    assert "Network of 5 edges: 4 regulators x 4 targets\n  groups: B, T" in repr(network)
    assert list(network.pool(1)["target"]) == ["CD19", "CD3D"]


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_files_are_read_as_tables_are(edges, tmp_path, form):
    edges.loc[0, "target"] = "NA"  # a gene may be called so
    path = tmp_path / f"edges.{form}"
    if form == "parquet":
        edges.to_parquet(path)
    else:
        edges.to_csv(path, sep="," if form == "csv" else "\t")
    pd.testing.assert_frame_equal(GRN.from_edges(path).pool(), GRN.from_edges(edges).pool())


def test_our_own_pool_comes_back(grn):
    network = GRN.from_edges(grn.pool(30))
    found, ours = network.pool(), grn.pool(30)
    assert set(found) == set(ours)
    np.testing.assert_allclose(network.matrix("T cell").max().max(), ours[ours["group"] == "T cell"]["weight"].max())
    assert list(network.to_decoupler("T cell").columns[:4]) == ["source", "target", "weight", "sign"]


def test_evaluation_takes_a_network(edges):
    truth = pd.DataFrame({"source": ["PAX5", "EBF1"], "target": ["CD19", "CD79A"]})
    report = evaluate.network(
        GRN.from_edges(edges), truth, group="B", baselines=None, n_bootstrap=10, min_positives=1, min_negatives=1
    )
    assert report.table["n_true"].iloc[0] == 2


def test_what_is_left_out_is_said():
    table = pd.DataFrame(
        {"source": ["A", "A", "A", "B"], "target": ["B", "B", "C", "B"], "weight": [1.0, 2.0, 0.0, 3.0]}
    )
    with pytest.warns(UserWarning, match="left out 1 self-edges, 1 weights of 0, 1 duplicates"):
        network = GRN.from_edges(table)
    assert list(network.pool()["weight"]) == [2]


def test_signs_of_omnipath_and_absent_weights():
    table = pd.DataFrame(
        {
            "source_genesymbol": ["A", "B", "C"],
            "target_genesymbol": ["X", "X", "X"],
            "is_stimulation": [True, False, True],
            "is_inhibition": [False, True, True],
        }
    )
    found = GRN.from_edges(table).pool()
    assert list(found["sign"]) == [1, -1, 0]
    assert (found["weight"] == 1).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.rename(columns={"TF": "boss"}), KeyError, "expected columns source, target"),
        (lambda t: t.assign(importance=[1, np.nan, 1, 1, 1]), ValueError, "1 of 5 weights in 'importance'"),
        (lambda t: t.assign(TF=["PAX5", None, "A", "B", "C"]), ValueError, "a name in 'TF' or 'target' is missing"),
        (lambda t: t.iloc[:0], ValueError, "no edge is left"),
    ],
)
def test_tables_that_are_no_network_are_refused(edges, change, error, message):
    with pytest.raises(error, match=message):
        GRN.from_edges(change(edges))


def test_several_networks_need_a_name(edges):
    network = GRN.from_edges(edges)
    with pytest.raises(ValueError, match="there are 2 networks; pick one: group='B'"):
        network.to_decoupler()
    with pytest.raises(KeyError, match="no group 'NK'; there are"):
        network.network("NK")
    with pytest.raises(FileNotFoundError, match="no file nowhere.csv"):
        GRN.from_edges("nowhere.csv")


def test_adjacencies_of_pyscenic(tmp_path):
    table = pd.DataFrame({"TF": ["SPI1", "PAX5"], "target": ["LYZ", "CD19"], "importance": [7.5, 3.0]})
    table.to_csv(tmp_path / "adj.tsv", sep="\t", index=False)
    found = GRN.from_pyscenic(tmp_path / "adj.tsv").pool()
    assert list(found["weight"]) == [7.5, 3.0]


REGULONS = """\
,,Enrichment,Enrichment,Enrichment,Enrichment,Enrichment,Enrichment,Enrichment,Enrichment
,,AUC,NES,MotifSimilarityQvalue,OrthologousIdentity,Annotation,Context,TargetGenes,RankAtMax
TF,MotifID,,,,,,,,
SPI1,m1,0.1,4.2,0.0,1.0,direct,"frozenset({'activating', 'weight>75.0%'})","[('LYZ', 2.5), ('SPI1', 1.0)]",900
SPI1,m2,0.1,3.2,0.0,1.0,direct,"frozenset({'activating', 'weight>75.0%'})","[('LYZ', 3.5), ('CST3', 1.5)]",900
PAX5,m3,0.1,3.2,0.0,1.0,direct,"frozenset({'repressing', 'weight>75.0%'})","[('LYZ', 0.5)]",900
"""


def test_regulons_of_pyscenic(tmp_path):
    (tmp_path / "reg.csv").write_text(REGULONS)
    found = GRN.from_pyscenic(tmp_path / "reg.csv").pool()
    rows = {(e.source, e.target): (e.weight, e.sign) for e in found.itertuples()}
    assert rows == {("SPI1", "LYZ"): (3.5, 1), ("SPI1", "CST3"): (1.5, 1), ("PAX5", "LYZ"): (0.5, -1)}


def test_other_files_are_not_taken_for_pyscenics(tmp_path):
    (tmp_path / "x.csv").write_text("a,b,c,d\n,,,\n1,2,3,4\n")
    with pytest.raises(ValueError, match="expected TF, target, importance or pySCENIC's motif table"):
        GRN.from_pyscenic(tmp_path / "x.csv")
    with pytest.raises(ValueError, match=r"x\.loom is a loom file; give the CSV"):
        GRN.from_pyscenic(tmp_path / "x.loom")
