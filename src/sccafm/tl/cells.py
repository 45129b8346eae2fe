"""Cells as an embedding module reads them: expression, and the factors that the structure module finds in each."""

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sccafm._io import blocks
from sccafm.data.input import ModelInput
from sccafm.data.tokenizer import tokenize
from sccafm.embedding.adapt import read_rows
from sccafm.grn.factors import pack_factors
from sccafm.grn.grn import GRN
from sccafm.grn.reuse import unpacked_factors
from sccafm.model.forward import factors_of
from sccafm.model.model import Model
from sccafm.nn import CausalEFM
from sccafm.types import Factors, Tokens


class Cells:
    """Cells in memory, each with its factors: the structure module is asked once, however often a cell is looked at.

    Factors take about half a megabyte a cell at 2,250 genes; those of `grn` stay where they are, on disk if it was stored.

    Parameters
    ----------
    model, model_input
        Networks and data.
    where
        Positions of the cells in the data, ascending.
    grn
        Networks of all cells of the data, with factors.
    batch_size
        Cells of one pass.
    progress
        Show a bar.
    """

    def __init__(
        self, model: Model, model_input: ModelInput, where: np.ndarray, grn: GRN | None, batch_size: int, progress: bool
    ):
        self.model_input, self.device, self.conditions = model_input, model.device, model_input.conditions[where]
        self.values = read_rows(model_input, where)
        self.size = model.sfm.config.num_factors
        self.rows = np.arange(len(where)) if grn is None else where  # of the arrays
        self.arrays = self._ask(model, batch_size, progress) if grn is None else grn.arrays

    def __len__(self) -> int:
        return self.values.shape[0]

    def tokens(self, cells: np.ndarray) -> Tokens:
        model_input = self.model_input
        return tokenize(self.values[cells].toarray(), model_input.gene_ids, model_input.is_tf, self.conditions[cells])

    def factors(self, cells: np.ndarray) -> Factors:
        return unpacked_factors(self.arrays, self.rows[cells], self.model_input.is_tf, self.size)

    @torch.inference_mode()
    def vectors(self, efm: CausalEFM, cells: np.ndarray | None = None) -> Tensor:
        """Of all cells or some: C D, on the CPU."""
        cells = np.arange(len(self)) if cells is None else cells
        parts = [cells[start:stop] for start, stop in blocks(len(cells), pass_length(self.device))]
        found = [efm(self.tokens(p).to(self.device), self.factors(p).to(self.device)).cells for p in parts]
        return torch.cat(found).float().cpu()

    def _ask(self, model: Model, batch_size: int, progress: bool) -> dict[str, np.ndarray]:
        width = min(model.sfm.config.topk or self.size, self.size)
        parts = []
        with tqdm(total=len(self), desc="sccafm networks", unit="cell", disable=not progress) as bar:
            for start, stop in blocks(len(self), batch_size):
                u, v, _, summary = factors_of(model.sfm, self.tokens(np.arange(start, stop)), self.model_input.is_tf)
                packed = {"summary": summary.cpu().numpy()}
                for name, dense in (("u", u), ("v", v)):
                    packed[f"{name}_index"], packed[f"{name}_value"] = pack_factors(dense.cpu().numpy(), width)
                parts.append(packed)
                bar.update(stop - start)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def pass_length(device: torch.device) -> int:
    """On a CPU cells are passed one at a time, so that a cell's answer has the same bits whatever stands beside it."""
    return 1 if device.type == "cpu" else 32


@torch.inference_mode()
def embed_cells(model: Model, efm: CausalEFM, model_input: ModelInput, batch_size: int, progress: bool) -> np.ndarray:
    """Vectors of all cells of a data set, block by block: C D."""
    step, found = pass_length(model.device), []
    with tqdm(total=len(model_input.matrix.obs_names), desc="sccafm predict", unit="cell", disable=not progress) as bar:
        for start, stop in blocks(len(model_input.matrix.obs_names), batch_size):
            values = model_input.matrix.read(start, stop, model_input.columns)
            tokens = tokenize(values, model_input.gene_ids, model_input.is_tf, model_input.conditions[start:stop])
            for first in range(0, len(tokens), step):
                part = tokens[first : first + step].to(model.device)
                found.append(efm(part, model.sfm(part)).cells.float().cpu().numpy())
            bar.update(stop - start)
    return np.concatenate(found)
