"""The interactive page in a real browser: it renders, finds genes, shows a gene's edges, filters, and logs no error."""

import json
import os
import re
import shutil

import pandas as pd
import pytest

from sccafm import GRN, pl

EDGES = pd.DataFrame(
    [
        ("SPI1", "LYZ", 0.9, 0.8, 1, True),
        ("SPI1", "CST3", 0.7, 0.6, 1, False),
        ("CEBPB", "LYZ", 0.5, 0.5, 0, False),
        ("CEBPB", "SPI1", 0.4, 0.3, -1, False),
        ("PAX5", "CD19", 0.6, 0.2, 1, True),
        ("PAX5", "</script><b>x", 0.1, 0.2, 1, False),  # a name that would end the script
    ],
    columns=["source", "target", "weight", "confidence", "sign", "in_prior"],
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return pl.network_html(GRN.from_edges(EDGES), tmp_path_factory.mktemp("page") / "net.html", title="a <b> & c")


def test_page_is_whole_and_needs_nothing_else(page):
    text = page.read_text()
    assert [p.name for p in page.parent.iterdir()] == ["net.html"]
    assert not any(mark in text for mark in ("__DATA__", "__TITLE__", "__CYTOSCAPE__"))
    assert not re.search(r"<(link|img|iframe|script)\b[^>]*(src|href)=", text)
    assert "The Cytoscape Consortium" in text
    assert "<title>a &lt;b&gt; &amp; c</title>" in text


def test_page_holds_every_column(page):
    text = page.read_text()
    data = json.loads(text.split('id="data" type="application/json">')[1].split("</script>")[0])
    edge = next(e["data"] for e in data["elements"]["edges"] if e["data"]["id"] == "CEBPB -> SPI1")
    assert {"weight": 0.4, "confidence": 0.3, "sign": -1, "in_prior": False}.items() <= edge.items()
    assert data["range"] == [0.2, 0.8]


@pytest.fixture(scope="module")
def browser(page):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--disable-gpu", "--window-size=1300,850", "--no-sandbox"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    os.environ.setdefault("SE_OFFLINE", "true")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.get(page.as_uri())
    yield browser
    browser.quit()


def panel(browser) -> str:
    return browser.find_element("id", "panel").text


def search(browser, text: str) -> None:
    from selenium.webdriver.common.keys import Keys

    field = browser.find_element("id", "search")
    field.clear()
    field.send_keys(text, Keys.ENTER)


def place(browser, gene: str) -> dict:
    """Where a gene is drawn, in pixels from the canvas' middle, and whether it is seen."""
    code = """
        const n = cy.getElementById(arguments[0]), p = n.renderedPosition(), c = cy.container();
        return {x: p.x - c.clientWidth / 2, y: p.y - c.clientHeight / 2, seen: n.visible(), faded: n.hasClass("faded")};
    """
    return browser.execute_script(code, gene)


def click(browser, gene: str) -> None:
    from selenium.webdriver import ActionChains

    at = place(browser, gene)
    canvas = browser.find_element("id", "cy")
    ActionChains(browser).move_to_element_with_offset(canvas, round(at["x"]), round(at["y"])).click().perform()


def test_it_renders_every_gene(browser):
    count = browser.execute_script("return [cy.nodes().length, cy.edges(':visible').length]")
    assert count == [7, 6]
    assert browser.find_element("id", "count").text == "6 of 6 edges"
    canvas = browser.execute_script("return cy.png({full: true}).length")
    assert canvas > 5000


def test_a_click_shows_the_edges(browser):
    browser.find_element("id", "fit").click()
    click(browser, "SPI1")
    text = panel(browser)
    assert "SPI1" in text and "2 targets" in text and "1 regulators" in text
    assert text.index("LYZ") < text.index("CST3")
    assert "represses" in text and "0.8" in text
    assert place(browser, "PAX5")["faded"]


def test_search_finds_a_gene_in_any_case_and_says_when_there_is_none(browser):
    search(browser, "lyz")
    assert "2 regulators" in panel(browser)
    search(browser, "NOSUCH")
    assert browser.find_element("id", "message").text == "no gene NOSUCH in this network"


def test_filters_hide_edges_and_lonely_genes(browser):
    set_value = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    slider = browser.find_element("id", "confidence")
    browser.execute_script(set_value, slider, 0.45)
    assert browser.find_element("id", "count").text == "3 of 6 edges"
    assert not place(browser, "CD19")["seen"]
    browser.find_element("css selector", "#signs input[value='0']").click()
    assert browser.find_element("id", "count").text == "2 of 6 edges"
    browser.find_element("css selector", "#signs input[value='0']").click()
    browser.execute_script(set_value, slider, 0.2)
    assert browser.find_element("id", "count").text == "6 of 6 edges"


def test_the_console_is_silent(browser):
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
