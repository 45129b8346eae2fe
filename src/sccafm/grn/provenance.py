"""The card of a run over cells: what makes two runs the same, and what their results carry."""

import json
from importlib.metadata import version

import pandas as pd
import torch

from sccafm._io import digest
from sccafm.confidence.calibration import Calibration
from sccafm.data.input import ModelInput
from sccafm.grn.factors import factor_names
from sccafm.model.model import Model


def run_card(
    model: Model,
    model_input: ModelInput,
    groups: pd.Series,
    groupby: str | None,
    top_k: int | None,
    min_weight: float | None,
    keep_factors: bool,
    null_cells: int,
    neighbors: int,
) -> dict:
    """What makes two runs the same: a store takes parts of one run only."""
    return {
        "weights": model.weights_hash[:16],
        "cells": digest(*model_input.matrix.obs_names),
        "genes": digest(*model_input.names, model_input.gene_ids.tobytes(), model_input.is_tf.tobytes()),
        "values": f"{model_input.matrix.origin} {model_input.matrix.kind} {model_input.digest}",
        "conditions": digest(model_input.conditions.tobytes()),
        "groupby": groupby,
        "groups": digest(*groups.astype(str), *groups.cat.categories),
        "top_k": None if top_k is None else int(top_k),  # numpy's numbers are none to JSON
        "min_weight": None if min_weight is None else float(min_weight),
        "keep_factors": keep_factors,
        "null_cells": int(null_cells),
        "neighbors": int(neighbors),
        "calibration": digest(json.dumps(card(model.calibration), sort_keys=True)),
        "device": model.device.type,
    }


def parameters(model: Model, model_input: ModelInput, run: dict) -> dict:
    return {
        "model": model.source,
        "revision": model.revision or "",
        "weights_hash": model.weights_hash,
        "version": version("sccafm"),
        "torch": torch.__version__,
        "device": str(model.device),
        "receipt": model_input.receipt.to_dict(),
        "calibration": card(model.calibration),
        "factors": list(model.contexts or factor_names(model.sfm.config.num_factors)),
        "run": run,
    }


def card(calibration: Calibration | None) -> dict:
    """What results carry of a calibration: how a group's confidence is read, and the share of real edges assumed."""
    return {} if calibration is None else dict(calibration.confidence)
