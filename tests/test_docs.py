"""The API reference names every public name, and nothing else."""

import functools
import importlib
import inspect
import re
from pathlib import Path

import pytest

import sccafm

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


def test_type_checkers_see_every_public_name():
    block = Path(sccafm.__file__).read_text().split("if TYPE_CHECKING:")[1].split("\n\n")[0]
    assert [name for name in sccafm.__all__ if not re.search(rf"\b{name}\b", block)] == []


def test_no_name_is_listed_twice():
    told = [id(getattr(importlib.import_module(module), name)) for module, names in listed().items() for name in names]
    assert len(told) == len(set(told))


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_public_name_has_a_docstring(namespace):
    public = importlib.import_module(namespace)
    bare = []
    for name in public.__all__:
        one = getattr(public, name)
        members = vars(one).items() if inspect.isclass(one) else ()
        parts = [(name, one), *((f"{name}.{key}", value) for key, value in members if not key.startswith("_"))]
        bare += [key for key, value in parts if is_documented(value) is False]
    assert bare == []


def test_shared_paragraphs_are_filled_in():
    calls = (sccafm.infer_grn, sccafm.embed, sccafm.Embedding.place, sccafm.tl.fit_head, sccafm.tl.predict)
    for call in calls:
        text = inspect.getdoc(call)
        assert "%(" not in text and "\nlayer\n    Layer to read. None: the first of" in text
        parameters = text.split("Parameters\n")[1].split("Returns\n")[0]
        told = {name for line in re.findall(r"^(\w[\w, ]*)$", parameters, re.MULTILINE) for name in line.split(", ")}
        assert told == set(inspect.signature(call).parameters) - {"self"}


def is_documented(value: object) -> bool | None:
    """None for what has no docstring of its own: fields, modules' data."""
    value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    if isinstance(value, property | functools.cached_property) or inspect.isroutine(value) or inspect.isclass(value):
        return bool(value.__doc__)
    return None
