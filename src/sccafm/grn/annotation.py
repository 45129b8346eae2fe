"""What an AnnData is told of its networks."""

import json

import pandas as pd
from anndata import AnnData

from sccafm._text import warn
from sccafm.data.groups import ALL
from sccafm.data.input import ModelInput
from sccafm.grn.grn import GRN

POPULATION_EDGES = 10_000  # edges of the population network that uns keeps per group


def can_annotate(adata, is_said: bool = False) -> bool:
    """Whether results can be written into an AnnData; a subset of a backed file takes none, which is said once, at the start."""
    if not isinstance(adata, AnnData):
        return True  # refused by `prepare`
    if not (adata.isbacked and adata.is_view):
        return True
    if not is_said:
        warn(
            "a subset of a backed file cannot be annotated: the results are in what this call returns. For an annotated copy in "
            "memory pass copy=True"
        )
    return False


def annotate(adata, grn: GRN, model_input: ModelInput, key: str) -> None:
    """Write the results that belong to cells and genes into the AnnData."""
    own = grn.own_arrays()  # what is done to one later does not change the other
    adata.obsm[f"X_{key}_sfm"] = own["summary"]
    adata.obsm[f"{key}_context"] = pd.DataFrame(own["context"], grn.cells.copy(), grn.context.columns, copy=False)
    adata.obs[f"{key}_context"] = grn.context_label.array
    adata.obs[f"{key}_context_entropy"] = grn.context_entropy.to_numpy()
    if "ood" in grn.arrays:
        adata.obs[f"{key}_ood"] = grn.ood.to_numpy()
    labels = model_input.labels_of(adata)
    adata.var["is_tf"] = labels.isin(model_input.regulator_labels)
    adata.var[f"{key}_in_vocab"] = labels.isin(model_input.known_genes)
    network = grn.pool(POPULATION_EDGES)
    for column in ("group", "source", "target", "prior_sources"):
        network[column] = network[column].astype(str)
    first = ["source", "target", "weight"]
    network = network[first + [column for column in network if column not in first]]
    network = network if grn.groups.name != ALL else network.drop(columns="group")
    adata.uns[key] = {"grn": network, "params": storable(grn.params)}


def storable(params: dict) -> dict:
    """h5ad holds no None: what is unset becomes an empty text."""
    return json.loads(json.dumps(params), object_hook=lambda d: {k: "" if v is None else v for k, v in d.items()})
