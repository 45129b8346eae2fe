"""Tutorials run from top to bottom on the bundled cells, assert known biology, and end with what they do not show."""

import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs/tutorials").glob("*.md"))
TUTORIALS = [page for page in PAGES if page.name != "README.md"]


def cells(page: Path) -> list[str]:
    return re.findall(r"^```\{code-cell\}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorial_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sccafm.train.evidence.PROBE_STEPS", 20, raising=False
    )  # a reader waits a minute for the fit, we do not
    names: dict = {"__name__": "tutorial"}
    pictures = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for cell in cells(page):
            exec(compile(cell, page.name, "exec"), names)
            pictures += len(plt.get_fignums())
            plt.close("all")
    assert pictures >= 1


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorial_asserts_and_says_what_it_does_not_show(page):
    assert "\nassert " in "\n".join(cells(page))
    last = page.read_text().split("\n## ")[-1]
    assert last.startswith("What this does not show\n")
    assert last.count("\n- ") >= 2


def test_every_tutorial_is_listed():
    listed = (PAGES[0].parent / "README.md").read_text()
    assert {page.name for page in TUTORIALS} == set(re.findall(r"\]\((\w+\.md)\)", listed))
