"""The API reference names every public name, and nothing else."""

import importlib
import re
from pathlib import Path

import pytest

API = Path(__file__).parents[1] / "docs/api"
NAMESPACES = [
    "sccafm",
    *(f"sccafm.{name}" for name in ("datasets", "evaluate", "pl", "pp", "simulation", "tl", "train")),
]


def listed() -> dict[str, list[str]]:
    """Module -> names in the tables of the API pages."""
    found: dict[str, list[str]] = {}
    for page in API.glob("*.md"):
        for block in re.findall(r"```\{eval-rst\}\n(.*?)```", page.read_text(), re.DOTALL):
            module = re.search(r"currentmodule:: (\S+)", block)[1]
            found.setdefault(module, []).extend(re.findall(r"^   (\w+)$", block, re.MULTILINE))
    return found


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_public_name_is_in_the_reference(namespace):
    public, found = importlib.import_module(namespace), listed()
    told = [getattr(importlib.import_module(module), name) for module, names in found.items() for name in names]
    namespaces = {name.rpartition(".")[2] for name in NAMESPACES}
    missing = [
        name
        for name in public.__all__
        if name not in namespaces and name != "settings" and not any(getattr(public, name) is one for one in told)
    ]
    assert not missing, f"add {missing} to docs/api"


def test_no_name_is_listed_twice():
    told = [id(getattr(importlib.import_module(module), name)) for module, names in listed().items() for name in names]
    assert len(told) == len(set(told))
