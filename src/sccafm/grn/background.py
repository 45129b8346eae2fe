"""What is found out about a data set before its cells are read: scores in permuted cells, prior and sign of each pair."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from sccafm.confidence.permutation import SAMPLE_CELLS as NULL_SAMPLE
from sccafm.confidence.permutation import NullDistribution, fit_null, permuted_cells, sample_cells
from sccafm.confidence.signs import SAMPLE_CELLS as SIGN_SAMPLE
from sccafm.confidence.signs import infer_signs
from sccafm.data.input import ModelInput
from sccafm.data.tokenizer import tokenize
from sccafm.grn.edges import self_edges
from sccafm.grn.pairs import Pairs
from sccafm.model.forward import factors_of
from sccafm.model.model import Model
from sccafm.reference.bundle import ReferenceData
from sccafm.reference.regulation import QUESTIONS


class Sample(NamedTuple):
    """Some cells of a data set that their names choose, so that neither their order nor a seed does."""

    values: np.ndarray  # C G
    conditions: np.ndarray  # C 4


def read_sample(model_input: ModelInput, size: int = max(NULL_SAMPLE, SIGN_SAMPLE)) -> Sample:
    cells = sample_cells(model_input.matrix.obs_names, size)
    values = np.concatenate([model_input.matrix.read(c, c + 1, model_input.columns) for c in cells])
    return Sample(values, model_input.conditions[cells])


def find_null(model: Model, model_input: ModelInput, sample: Sample, n: int) -> NullDistribution | None:
    """Scores of the model in `n` permuted cells of a data set; None for n = 0."""
    if n == 0:
        return None
    permuted = permuted_cells(sample.values[:NULL_SAMPLE], n)
    conditions = sample.conditions[np.arange(n) % len(sample.conditions)]
    tokens = tokenize(permuted, model_input.gene_ids, model_input.is_tf, conditions)
    factors = model.sfm.config.num_factors
    # One block of each kind: the system has it back afterwards, which it hasn't of many small ones.
    u = torch.empty(n, int(model_input.is_tf.sum()), factors)
    v = torch.empty(n, len(model_input.gene_ids), factors)
    for i in range(n):
        u[i : i + 1], v[i : i + 1], *_ = factors_of(model.sfm, tokens[i : i + 1], model_input.is_tf)
    scores = [lambda i=i: (u[i] @ v[i].T).numpy() for i in range(n)]
    return fit_null(scores, self_edges(model_input.is_tf))


def find_pairs(model: Model, model_input: ModelInput, values: np.ndarray, null: NullDistribution | None) -> Pairs:
    """What is known of each pair before all cells are read; `values` are those of a sample, C G."""
    fitted = None if model.calibration is None else model.calibration.signs
    sign = infer_signs(values[:SIGN_SAMPLE], model_input.gene_ids, model_input.is_tf, model.reference_data, fitted)
    in_prior, sources, names = prior_matrix(model.reference_data, model_input)
    unknown = np.full(in_prior.shape, np.nan, np.float32)
    binding = response = unknown
    if model.regulation is not None:
        ends = (model_input.gene_ids[model_input.is_tf], model_input.gene_ids, in_prior)
        binding, response = (model.regulation.probability(question, *ends) for question in QUESTIONS)
    mean, sd, n = (unknown, unknown, 0) if null is None else (null.mean, null.sd, null.n)
    return Pairs(in_prior, sources, names, binding, response, sign, mean, sd, n)


def prior_matrix(
    reference_data: ReferenceData, model_input: ModelInput
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Which regulator-target pairs the prior network holds (T G bool), and codes and names of their sources."""
    tokens = pd.Index(model_input.gene_ids)
    edges = reference_data.prior_tokens
    rows = tokens[model_input.is_tf].get_indexer(edges["source"])
    columns = tokens.get_indexer(edges["target"])
    both = (rows >= 0) & (columns >= 0)
    held = np.zeros((int(model_input.is_tf.sum()), len(tokens)), dtype=bool)
    held[rows[both], columns[both]] = True
    said = edges["sources"].fillna("").astype(str) if "sources" in edges else pd.Series("", index=edges.index)
    names = ("", *sorted(set(said) - {""}))
    codes = np.zeros(held.shape, dtype=np.int16)
    codes[rows[both], columns[both]] = pd.Index(names).get_indexer(said)[both]
    return held, codes, names
