"""What is drawn, what was drawn, and where: for the tests of pictures."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import toy_data
from matplotlib.text import Text

import sccafm
from sccafm import GRN


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def adata():
    cells = toy_data()
    cells.obsm["X_umap"] = np.random.default_rng(0).normal(size=(30, 2))
    return cells


@pytest.fixture(scope="module")
def grn(adata, calibrated_model) -> GRN:
    return sccafm.infer_grn(adata, calibrated_model, groupby="cell_type", keep_factors=True, progress=False)


@pytest.fixture(scope="module")
def sparse_grn(adata, calibrated_model) -> GRN:
    return sccafm.infer_grn(adata, calibrated_model, groupby="cell_type", top_k=40, progress=False)


def extents(artists) -> np.ndarray:
    """Low and high corner of what was drawn, in pixels: N 2 2."""
    return np.array([artist.get_window_extent().get_points() for artist in artists])


def words(texts) -> np.ndarray:
    """The same of the words alone, without the lines that lead to them."""
    return np.array([Text.get_window_extent(text).get_points() for text in texts])


def overlaps(found: np.ndarray, slack: float = 0.5) -> list[tuple[int, int]]:
    pairs = itertools.combinations(range(len(found)), 2)
    apart = lambda a, b: (found[a, 1] - slack <= found[b, 0]).any() or (found[b, 1] - slack <= found[a, 0]).any()  # noqa: E731
    return [(a, b) for a, b in pairs if not apart(a, b)]


def of_kind(ax, kind) -> list:
    return [artist for artist in ax.get_children() if type(artist) is kind]
