"""A trained model's scores, taken further from those of the usual cell: what a structure module is taught once it reads states weakly.

Evidence comes from cells that the model does not see, and one cell tells their state only in part. A model that is taught by it says
what is likely, which lies near the usual network in every cell: types of cells then share most of their strongest edges. What it does
read is right in direction and too small. So it is taught once more, by itself. With log scores ``l`` of a cell, and ``l0`` of a cell
that has every gene at its usual level (same genes and conditions), both of the model to start from::

    d      = l - l0
    wanted = levels(l0) * usual + rest(l0) + regulator * rows(d) + target * columns(d) + pair * rest(d)

where ``rows`` are the means of each regulator, ``columns`` those of each target, ``levels`` their sum and ``rest`` what remains; a cell's
overall mean stays as it is. The model to start from reads all molecules of a cell, and of its nearest cells if the settings say so, over
which d is averaged; the model that learns reads one cell, often thinned, and has to tell from it what they say. Self-distillation of this
kind changes no format and adds no time at inference. Each gain is a setting (`Gains`), and which were chosen docs/decisions.md says.
"""

import dataclasses

import torch
from torch import Tensor

from sccafm.nn import SFM
from sccafm.train.config import Gains
from sccafm.train.corpus import Batch
from sccafm.types import Tokens

FLOOR = 1e-7  # far below usual scores (about 1e-5); a logarithm needs one


@torch.no_grad()
def wanted(teacher: SFM, batch: Batch, regulator_mask: Tensor, gains: Gains) -> Tensor:
    """Log scores that are asked for: C T G.

    Parameters
    ----------
    teacher
        The model to start from.
    batch
        Cells that share their genes.
    regulator_mask
        G bool, which of the genes regulate.
    gains
        All 1: the teacher's own log scores.
    """
    tokens = batch.tokens
    assert batch.whole is not None
    conditions, which = tokens.conditions.unique(dim=0, return_inverse=True)
    few = tokens[: len(conditions)]  # conditions apart, all cells of a batch have one usual cell
    usual = dataclasses.replace(few, conditions=conditions, expression=batch.usual.expand(len(conditions), -1))
    usual = log_scores(teacher, usual, regulator_mask)[which]
    near = [dataclasses.replace(tokens, expression=values) for values in batch.whole.unbind(1)]
    log = torch.stack([log_scores(teacher, part, regulator_mask) for part in near]).mean(0)
    return amplified(log, usual, gains)


def log_scores(sfm: SFM, tokens: Tokens, regulator_mask: Tensor) -> Tensor:
    factors = sfm(tokens)
    return (factors.u[:, regulator_mask] @ factors.v.transpose(1, 2) + FLOOR).log()


def amplified(log: Tensor, usual: Tensor, gains: Gains) -> Tensor:
    """The formula above: C T G, C T G -> C T G."""
    rows, columns, rest = apart(log - usual)
    usual_rows, usual_columns, usual_rest = apart(usual)
    mean = log.mean((1, 2), keepdim=True)  # a cell's overall level stays
    levels = gains.usual * (usual_rows + usual_columns) + gains.regulator * rows + gains.target * columns
    return mean + levels + usual_rest + gains.pair * rest


def apart(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Levels of regulators and of targets beside the overall mean, and what remains: C T 1, C 1 G, C T G."""
    x = x - x.mean((1, 2), keepdim=True)
    rows, columns = x.mean(2, keepdim=True), x.mean(1, keepdim=True)
    return rows, columns, x - rows - columns
