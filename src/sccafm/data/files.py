"""One reading of several files: genes that all of them hold, one species, conditions of each cell from its own file."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from sccafm._text import warn
from sccafm.data.input import DEFAULTS, ModelInput, prepare, read
from sccafm.data.joined import CellFiles, JoinedMatrix, column_of, same_species, shared_genes
from sccafm.data.options import InputOptions
from sccafm.reference.bundle import ReferenceData


def prepare_cells(adata, model, options: InputOptions = DEFAULTS) -> ModelInput:
    """`prepare` for an AnnData or for several files."""
    if isinstance(adata, CellFiles):
        return read_files(adata, model.reference_data, options)
    return prepare(adata, model, options)


def read_files(files: CellFiles, reference_data: ReferenceData, options: InputOptions = DEFAULTS) -> ModelInput:
    """Read files in the terms of a model's tables.

    Raises
    ------
    ValueError, KeyError
        A file cannot be read (its name is said), the files are of two species, or they hardly share genes.
    """
    everything = replace(options, genes=None, n_top_genes=None, regulators="all", always=())
    found = []
    for path, adata in zip(files.paths, files.parts, strict=True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what matters of it is said of all files together
                found.append(read(adata, reference_data, everything))
        except (ValueError, KeyError, TypeError) as error:
            reason = error.args[0] if error.args else error
            raise type(error)(f"{path.name}: {reason}") from error
    species = same_species([one.species for one in found], files.paths)
    wanted = shared_genes([one.gene_ids for one in found], files.paths)
    columns = [column_of(one.gene_ids, one.columns, wanted) for one in found]
    parts = [one.matrix for one in found]
    matrix: Any = JoinedMatrix(
        parts, columns, [part.shape[0] for part in parts], parts[0].var.iloc[columns[0]], files.obs_names,
        [one.survey for one in found],
    )  # fmt: skip
    if matrix.kind == "mixed":
        kinds = ", ".join(f"{path.name} {part.kind}" for path, part in zip(files.paths, parts, strict=True))
        warn(
            f"the files hold values of different kinds ({kinds}); each is read as its own kind, which levels may differ by"
        )
    joined = replace(options, species=species, condition_keys=None)
    whole = read(files.adata, reference_data, joined, matrix)
    return replace(whole, conditions=np.concatenate([one.conditions for one in found]))
