"""sccafm: who regulates whom, in this very cell."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what __getattr__ finds, for editors and type checkers
    from sccafm import datasets, evaluate, pl, pp, tl
    from sccafm import simulation as simulation  # reached by name, though not in __all__
    from sccafm._parallel import WorkerError
    from sccafm._settings import settings
    from sccafm.embedding.adapt import Adapt
    from sccafm.embedding.embed import embed
    from sccafm.embedding.result import Embedding, read_embedding
    from sccafm.grn.concat import concat
    from sccafm.grn.grn import GRN
    from sccafm.grn.infer import infer_grn
    from sccafm.grn.plan import Plan, plan
    from sccafm.grn.stored import read_grn
    from sccafm.model.model import Model, load
    from sccafm.simulation import simulate

# Public name -> the module that holds it: imported when it is asked for, so that `import sccafm` is quick.
_NAMES = {
    "GRN": "grn.grn",
    "Adapt": "embedding.adapt",
    "Embedding": "embedding.result",
    "Model": "model.model",
    "WorkerError": "_parallel",
    "Plan": "grn.plan",
    "concat": "grn.concat",
    "embed": "embedding.embed",
    "infer_grn": "grn.infer",
    "load": "model.model",
    "plan": "grn.plan",
    "read_embedding": "embedding.result",
    "read_grn": "grn.stored",
    "settings": "_settings",
    "simulate": "simulation",
}
_NAMESPACES = ("datasets", "evaluate", "pl", "pp", "simulation", "tl", "train")

__all__ = [
    "GRN",
    "Adapt",
    "Embedding",
    "Model",
    "Plan",
    "WorkerError",
    "concat",
    "datasets",
    "embed",
    "evaluate",
    "infer_grn",
    "load",
    "pl",
    "plan",
    "pp",
    "read_embedding",
    "read_grn",
    "settings",
    "simulate",
    "tl",
]


def __getattr__(name: str):
    if name in _NAMES:
        found = getattr(import_module(f"sccafm.{_NAMES[name]}"), name)
    elif name in _NAMESPACES:
        found = import_module(f"sccafm.{name}")
    elif name == "__version__":
        from importlib.metadata import version

        found = version("sccafm")
    else:
        raise AttributeError(f"module 'sccafm' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES, *_NAMESPACES, "__version__"})
