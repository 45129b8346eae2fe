"""Who is compared with whom: the two sides of a contrast, and donors on both or on one of them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np
import pandas as pd

from sccafm._text import warn
from sccafm.tl.moderation import Tested, paired, unpaired

MOST_PERMUTATIONS = 2000


@dataclass(frozen=True, eq=False)
class Design:
    """Donors of one group of cells. `one` and `other` hold positions of units, each a donor on one side of the contrast."""

    one: np.ndarray
    other: np.ndarray
    is_paired: bool  # the same donors, in the same order

    def test(self, values: np.ndarray, method: str, rng: np.random.Generator) -> Tested:
        """Test each column of `values`, units F."""
        found = self._compared(values[self.one], values[self.other])
        if method == "permutation":
            found = Tested(found.effect, found.low, found.high, found.t, self._permuted(values, found.t, rng))
        return found

    @property
    def _compared(self) -> Callable[[np.ndarray, np.ndarray], Tested]:
        return paired if self.is_paired else unpaired

    def _permuted(self, values: np.ndarray, t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Share of the permutations of donors, this one among them, with an absolute t at least as large."""
        count, n = np.zeros(len(t)), 0
        for one, other in self._permutations(rng):
            again = self._compared(values[one], values[other]).t
            count += np.abs(again) >= np.abs(t) * (1 - 1e-9)
            n += 1
        return np.where(np.isfinite(t), count / n, np.nan)

    def _permutations(self, rng: np.random.Generator):
        """All of them where there are few; else this one and random others."""
        if self.is_paired:
            n = len(self.one)
            flips = itertools.product((False, True), repeat=n)
            if 2**n > MOST_PERMUTATIONS:
                flips = [np.zeros(n, bool), *(rng.random((MOST_PERMUTATIONS - 1, n)) < 0.5)]
            for flip in flips:
                yield np.where(flip, self.other, self.one), np.where(flip, self.one, self.other)
            return
        units, n = np.concatenate([self.one, self.other]), len(self.one)
        chosen = itertools.combinations(range(len(units)), n)
        if comb(len(units), n) > MOST_PERMUTATIONS:
            drawn = (rng.permutation(len(units))[:n] for _ in range(MOST_PERMUTATIONS - 1))
            chosen = itertools.chain([tuple(range(n))], drawn)
        for first in chosen:
            inside = np.isin(np.arange(len(units)), first)
            yield units[inside], units[~inside]


def find_design(units: pd.DataFrame) -> Design | None:
    """Design of one group of cells; None where a side has too few donors.

    Parameters
    ----------
    units
        Columns sample, side (0: the first of the contrast, 1: the second); rows are units.
    """
    sides = [units[units["side"] == side] for side in (0, 1)]
    both = sorted(set(sides[0]["sample"]) & set(sides[1]["sample"]))
    alone = sorted(set(sides[0]["sample"]) ^ set(sides[1]["sample"]))
    if len(both) >= 2 and (not alone or len(both) >= 3):
        if alone:
            warn(f"left out donors that are on one side alone, beside {len(both)} on both: {', '.join(alone[:5])}")
        places = [side.reset_index().set_index("sample")["index"].loc[both].to_numpy() for side in sides]
        return Design(*places, is_paired=True)
    places = [side.index.to_numpy() for side in sides]
    return Design(*places, is_paired=False) if min(map(len, places)) >= 2 else None


def find_condition(
    contrast: tuple[str, str], condition_key: str | pd.Series | None, obs, cells, labels_of
) -> pd.Series:
    """Side of each cell as text: the column that is named, or the only one of obs that holds both labels.

    Raises
    ------
    KeyError, ValueError
        No such column, several of them, or a label that no cell has.
    """
    if not isinstance(contrast, (tuple, list)) or len(contrast) != 2 or contrast[0] == contrast[1]:
        raise ValueError(f'contrast must be two different labels, as ("stim", "ctrl"), got {contrast!r}')
    wanted = {str(label) for label in contrast}
    if condition_key is None:
        texts = {} if obs is None else {name: obs[name].astype(str) for name in obs if obs[name].dtype.kind not in "fc"}
        holding = [name for name, text in texts.items() if wanted <= set(text)]
        if len(holding) != 1:
            one = next((name for name, text in texts.items() if wanted & set(text)), None)
            if not holding and one is not None:
                raise KeyError(
                    f"contrast={tuple(contrast)}: obs[{one!r}] holds one of the labels, not both; there are {sorted(set(texts[one]))[:8]}"
                )
            raise KeyError(
                f"contrast={tuple(contrast)}: {len(holding) or 'no'} columns of obs hold both labels "
                f"({', '.join(holding or ([] if obs is None else map(str, obs)))}); name the column with condition_key="
            )
        return texts[holding[0]].set_axis(cells)
    found = labels_of(condition_key, obs, cells, "condition_key").astype(str)
    missing = sorted(wanted - set(found))
    if missing:
        raise ValueError(f"contrast: no cell has {missing[0]!r} in {found.name!r}; there are {sorted(set(found))[:8]}")
    return found
