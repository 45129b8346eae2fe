"""Data flows one way: a module imports only what stands before it here, and nn knows torch and types alone."""

import ast
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src/sccafm"
ORDER = [
    *(
        "_io",
        "_docs",
        "_text",
        "_settings",
        "_machine",
        "_parallel",
        "_torch",
        "types",
        "reference",
        "data",
        "nn",
        "losses",
        "confidence",
        "model",
        "grn",
        "embedding",
        "pp",
    ),
    *("simulation", "evaluate", "tl", "pl", "datasets", "__init__", "train", "cli"),
]
NN_IMPORTS = {"torch", "types", "nn"} | set(sys.stdlib_module_names)


def imported(path: Path) -> set[str]:
    """Rooms of the house by name ("nn" for sccafm.nn.layers), other packages by theirs."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names]
    own = {part[1] if len(part) > 1 and part[1] in ORDER else "__init__" for part in parts if part[0] == "sccafm"}
    return own | {part[0] for part in parts if part[0] != "sccafm"}


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_no_module_imports_what_stands_after_it():
    forbidden = []
    for path in sorted(SOURCE.rglob("*.py")):
        here = room(path)
        later = {name for name in imported(path) if name in ORDER[ORDER.index(here) + 1 :]}
        foreign = imported(path) - NN_IMPORTS if here == "nn" else set()
        # `python -m sccafm.train` is the command line
        later -= {"cli"} if path.name == "__main__.py" else set()
        forbidden += [f"{path.relative_to(SOURCE)} imports {name}" for name in sorted(later | foreign)]
    assert not forbidden, "; ".join(forbidden)
