"""Paragraphs of docstrings that several calls share, so that each option is described once.

A docstring under `shared_parameters` names a paragraph on a line of its own, ``%(layer)s``.
"""

import re
from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)

PARAMETERS = {
    "model": "What `sccafm.load` returned, or takes; None: the model that ships with the library.",
    "genes": """
        Names of the genes to read; unknown ones are listed and left out. None: the regulators that are seen in at least
        10 cells or 1 % of them and the `n_top_genes` most variable other genes; data of at most `n_top_genes` genes are
        taken whole.
    """,
    "n_top_genes": "None: every gene that the vocabulary holds.",
    "layer": 'Layer to read. None: the first of layers["counts"], X and raw that holds counts, else normalised values.',
    "gene_key": """
        Column of var with the gene names, which then label the results. None: every usual column is looked at, and
        var_names label the results.
    """,
    "species": '"human" or "mouse". None: from obs, uns or the names.',
    "condition_keys": """
        Maps "platform", "species", "tissue", "disease" to columns of obs. None: CELLxGENE's names are looked for.
    """,
    "preprocess": """
        "auto": counts are read as log1p of counts per 10,000, log-normalised values as they are. "none": the matrix
        is read as it is.
    """,
    "batch_size": """
        Cells of one pass on a GPU, and of one read on a CPU, where cells are passed one at a time so that a cell's
        answer does not depend on the batch.
    """,
    "device": '"auto", "cpu", "cuda", ...; ignored for a loaded model, which stays where it is.',
    "key_added": "Name of what is written to `adata`.",
    "progress": "Print the receipt and show a bar.",
}
LINE = re.compile(r"^( *)%\((\w+)\)s$", re.MULTILINE)


def shared_parameters(function: Function) -> Function:
    """Fill the paragraphs into the docstring; a decorator. Under ``python -OO`` there is none to fill."""
    if function.__doc__:
        function.__doc__ = LINE.sub(lambda found: paragraph(found[2], found[1]), function.__doc__)
    return function


def paragraph(name: str, indent: str) -> str:
    """A parameter in numpydoc's form, at an indentation."""
    lines = [line.strip() for line in PARAMETERS[name].strip().splitlines()]
    return "\n".join([f"{indent}{name}", *(f"{indent}    {line}" for line in lines)])
