"""New data on the genes that a head or a space was fitted on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sccafm._text import listing, warn
from sccafm.data.input import ModelInput

LEAST_GENES = 0.5  # of the genes that something was fitted on; with fewer the cells are others than it knows


def narrowed(
    model_input: ModelInput, gene_ids: np.ndarray, symbols: Sequence[str], is_tf: np.ndarray, owner: str
) -> ModelInput:
    """The genes that something was fitted on, in its order and with its regulators.

    Parameters
    ----------
    model_input
        With every gene of the data that the vocabulary holds.
    gene_ids, symbols, is_tf
        Of the genes it was fitted on. They are found by their vocabulary row: whether they are written as symbols,
        Ensembl ids or mouse orthologs does not matter.
    owner
        What was fitted, for the messages: "the head".

    Raises
    ------
    ValueError
        Fewer than half of the genes are here.
    """
    place = {token: i for i, token in enumerate(model_input.gene_ids.tolist())}
    found = np.array([place.get(token, -1) for token in gene_ids.tolist()])
    is_here = found >= 0
    lost = [symbol for symbol, here in zip(symbols, is_here, strict=True) if not here]
    if is_here.mean() < LEAST_GENES or not is_tf[is_here].any():
        raise ValueError(
            f"{owner} was fitted on {len(gene_ids):,} genes, {int(is_tf.sum()):,} of them as regulators; here are "
            f"{int(is_here.sum()):,} and {int(is_tf[is_here].sum()):,} of these, without {listing(lost)}. Pass the whole "
            f"matrix, not one that was cut to variable genes, or fit {owner} on genes that both have: genes=[...]"
        )
    if lost:
        warn(
            f"{len(lost):,} of the {len(gene_ids):,} genes that {owner} was fitted on are not in the data, cells are read "
            f"without them: {listing(lost)}"
        )
    chosen, is_tf = found[is_here], is_tf[is_here]
    receipt = replace(model_input.receipt, n_used=len(chosen), n_regulators=int(is_tf.sum()))
    return replace(
        model_input, columns=model_input.columns[chosen], names=model_input.names[chosen], gene_ids=model_input.gene_ids[chosen],
        symbols=model_input.symbols[chosen], is_tf=is_tf, receipt=receipt,
    )  # fmt: skip
