"""Mean networks of any groups of cells, where they can be had exactly."""

import numpy as np
import pandas as pd

from sccafm.grn.grn import GRN
from sccafm.grn.regrouping import NOT_KEPT, joined_groups, summed_scores

LEFT_OUT = "\0left out"


def mean_networks(grn: GRN, groups: pd.Series) -> np.ndarray:
    """Mean scores of each group without self-edges: K T G.

    Parameters
    ----------
    groups
        Categorical, a value for each cell; missing ones belong to no group.

    Raises
    ------
    KeyError
        Neither do the groups join those of the inference, nor were factors kept.
    """
    n, codes = len(groups.cat.categories), groups.cat.codes.to_numpy()
    joins = joined_groups(grn.groups, groups.cat.add_categories(LEFT_OUT).fillna(LEFT_OUT))
    if joins is not None and "scores" in grn.sums:
        total = np.stack([grn.sums["scores"][joins == group].sum(0) for group in range(n)])
    elif "u_index" in grn.arrays:
        total = summed_scores(grn.arrays, codes, n, grn.context.shape[1])
    else:
        raise KeyError(f"groups of {groups.name!r} have no {NOT_KEPT['scores']}")
    total /= np.maximum(np.bincount(codes[codes >= 0], minlength=n), 1)[:, None, None]
    total[:, np.arange(len(grn.regulators)), grn.targets.get_indexer(grn.regulators)] = 0
    return total
