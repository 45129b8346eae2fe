"""What is said beside the progress bars: the receipt at verbosity 2, nothing of it below."""

import logging
import subprocess
import sys
from importlib.resources import files

import pytest

import sccafm


@pytest.fixture(autouse=True)
def usual():
    yield
    sccafm.settings.verbosity = 2


@pytest.mark.parametrize(("level", "says"), [(0, False), ("warning", False), (2, True), ("info", True), (3, True)])
def test_verbosity_decides_whether_the_receipt_is_printed(tiny_model, toy_adata, capsys, level, says):
    sccafm.settings.verbosity = level
    sccafm.infer_grn(toy_adata, tiny_model, null_cells=0)
    assert ("sccafm: read X: counts" in capsys.readouterr().out) == says


def test_the_receipt_goes_through_the_log(tiny_model, toy_adata):
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logging.getLogger("sccafm").addHandler(handler)
    try:
        sccafm.infer_grn(toy_adata, tiny_model, null_cells=0)
        sccafm.infer_grn(toy_adata, tiny_model, null_cells=0, progress=False)
    finally:
        logging.getLogger("sccafm").removeHandler(handler)
    assert len(seen) == 1
    assert "used 60 genes, 18 of them as regulators" in seen[0]


@pytest.mark.parametrize("level", [4, -1, True, "loud", None])
def test_levels_that_there_are_not(level):
    with pytest.raises(ValueError, match="verbosity must be 0 to 3, or one of"):
        sccafm.settings.verbosity = level


def test_import_is_quick_and_names_are_there_when_asked_for():
    code = "import sccafm, sys; assert 'torch' not in sys.modules; sccafm.evaluate.network; assert set(sccafm.__all__) <= set(dir(sccafm))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(getattr(sccafm, name) is not None for name in sccafm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'infer_grm'"):
        assert sccafm.infer_grm


def test_types_are_shipped():
    assert files("sccafm").joinpath("py.typed").is_file()
