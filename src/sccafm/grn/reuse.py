"""Networks that were inferred before and are handed to another call: checks, and their factors as tensors."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from sccafm._text import warn
from sccafm.data.input import ModelInput
from sccafm.grn.factors import unpack_factors
from sccafm.grn.grn import GRN
from sccafm.model.model import Model
from sccafm.types import Factors


def stored_factors(grn: GRN, model_input: ModelInput, start: int, stop: int) -> Factors:
    """What the structure module said of some cells when their networks were inferred."""
    return unpacked_factors(grn.arrays, slice(start, stop), model_input.is_tf, grn.sums["u"].shape[1])


def unpacked_factors(
    arrays: Mapping[str, np.ndarray], cells: slice | np.ndarray, is_tf: np.ndarray, size: int
) -> Factors:
    """Factors of some cells from what is kept of them.

    Parameters
    ----------
    arrays
        u_index, u_value, v_index, v_value (`grn.factors.pack_factors`) and summary, a row per cell.
    cells
        Rows of the arrays.
    is_tf
        G bool: u is kept of regulators alone.
    size
        Number of factors, M.
    """
    u, v = (
        unpack_factors(np.asarray(arrays[f"{n}_index"][cells]), np.asarray(arrays[f"{n}_value"][cells]), size) for n in "uv"
    )  # fmt: skip
    whole = np.zeros((len(u), len(is_tf), size), dtype=u.dtype)
    whole[:, is_tf] = u
    return Factors(torch.from_numpy(whole), torch.from_numpy(v), torch.from_numpy(np.array(arrays["summary"][cells])))


def check_grn(adata, grn: GRN | None, model: Model, genes: Sequence[str] | None) -> None:
    if grn is None:
        return
    if not isinstance(grn, GRN):
        raise TypeError(f"grn must be what sccafm.infer_grn or sccafm.read_grn returned, got {type(grn).__name__}")
    if "u_index" not in grn.arrays:
        raise ValueError(
            "grn= holds no factors; infer it with keep_factors=True: sccafm.infer_grn(adata, keep_factors=True)"
        )
    if grn.params["run"]["weights"] != model.weights_hash[:16]:
        raise ValueError(
            f"grn= was inferred by other weights ({grn.params['run']['weights']}) than the model's "
            f"({model.weights_hash[:16]}); pass the model it was inferred with, model={grn.params.get('model')!r}"
        )
    names = pd.Index(getattr(adata, "obs_names", []))
    if not names.equals(grn.cells):
        common = len(names.intersection(grn.cells))
        raise ValueError(
            f"grn= is of other cells: {len(grn):,} there, {len(names):,} here, {common:,} in common, and their order must "
            "agree; pass adata[grn.cells], or infer the networks of these cells"
        )
    if genes is not None:
        warn("genes= has no effect beside grn=, whose genes are read")


def check_same_values(grn: GRN, model_input: ModelInput) -> None:
    here = f"{model_input.matrix.origin} {model_input.matrix.kind} {model_input.digest}"
    there = grn.params["run"]["values"]
    same_genes = list(model_input.names) == list(grn.genes.index)
    if here != there or not same_genes or not np.array_equal(model_input.is_tf, grn.genes["is_tf"].to_numpy()):
        raise ValueError(
            f"grn= was inferred from other values or genes (there {there}, here {here}); pass the same layer=, gene_key= "
            "and preprocess= as then, or infer it again"
        )
