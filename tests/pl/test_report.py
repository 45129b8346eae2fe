"""The page about a run and its methods paragraph: whole, self-contained, and true to the run card."""

import base64
import re

import matplotlib.pyplot as plt
import pytest
from conftest import toy_data

import sccafm
from sccafm import pl
from sccafm.grn.methods import REFERENCES


@pytest.fixture(scope="module")
def grn(calibrated_model):
    return sccafm.infer_grn(toy_data(), calibrated_model, groupby="cell_type", top_k=200, progress=False)


@pytest.fixture(scope="module")
def page(grn, tmp_path_factory) -> str:
    plt.close("all")  # of tests before
    path = pl.report(grn, tmp_path_factory.mktemp("report") / "new/report.html", n_edges=15, title="a <b> & c")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert plt.get_fignums() == []
    return path.read_text()


def test_every_section_is_there_and_linked(page):
    sections = ["What was read", "Regulators", "Contexts", "Networks", "Quality", "Run card", "Methods"]
    assert re.findall(r"<h2 id=[^>]*>([^<]*)</h2>", page) == sections
    assert re.findall(r'<a href="#([^"]*)"', page) == re.findall(r'<h2 id="([^"]*)"', page)
    assert "<title>a &lt;b&gt; &amp; c</title>" in page


def test_pictures_are_in_the_page(page, grn):
    told = re.findall(r'<img alt="([^"]*)"', page)
    assert {f"network of {group}" for group in grn.group_sizes.index} <= set(told)
    assert {
        "genes matched and lost",
        "regulators by group",
        "contexts by group",
        "unusual cells by group",
        "confidence",
    } <= set(told)
    for data in re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', page):
        assert b"<svg" in base64.b64decode(data)
    assert not re.search(r'(src|href)="http', page)


def test_the_page_says_what_the_run_card_says(page, grn):
    for value in (grn.params["weights_hash"], grn.params["version"], "run: top_k", "200"):
        assert value in page
    assert grn.methods().splitlines()[0][:60] in page


def test_the_same_run_gives_the_same_page(grn, page, tmp_path):
    again = pl.report(grn, tmp_path / "report.html", n_edges=15, title="a <b> & c").read_text()
    assert again == page


def test_a_run_without_groups_calibration_and_null_has_a_page(tiny_model, tmp_path):
    grn = sccafm.infer_grn(toy_data(), tiny_model, null_cells=0, progress=False)
    text = pl.report(grn, tmp_path / "report.html", n_edges=10).read_text()
    assert "Regulators are not ranked" in text
    assert "network of all" in text
    assert "unusual cells" not in text


def test_an_unknown_group_is_said(grn, tmp_path):
    with pytest.raises(KeyError, match="no group 'NK'; there are"):
        pl.report(grn, tmp_path / "report.html", groups=["NK"])
    assert list(tmp_path.iterdir()) == []


def test_methods_tell_the_run(grn):
    text = grn.methods()
    assert "30 human cells" in text
    assert "200 strongest edges of a cell were kept" in text
    assert "cell_type: B cell (10), T cell (10), monocyte (10)" in text
    assert "40% of the candidate edges are real" in text
    assert "32 cells whose values were permuted" in text


def test_references_are_numbered_as_they_are_cited(grn):
    text, references = grn.methods().split("\n\n")
    cited = [int(n) for group in re.findall(r"\[([\d, ]+)\]", text) for n in group.split(", ")]
    assert sorted(set(cited)) == list(range(1, len(references.splitlines()) + 1))
    assert cited[0] == 1
    assert all(line.split(". ", 1)[1] in REFERENCES.values() for line in references.splitlines())


def test_what_was_not_done_is_not_told(tiny_model):
    text = sccafm.infer_grn(toy_data(), tiny_model, null_cells=0, min_weight=0.01, top_k=None, progress=False).methods()
    assert "all edges with a weight of at least 0.01 were kept" in text
    assert "calibrated" not in text
    assert "permuted" not in text
    assert "groups" not in text
