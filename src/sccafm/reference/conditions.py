"""Words for where a cell comes from: platform, species, tissue and disease, in CELLxGENE's terms."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from sccafm.reference.genes import NULL_WORDS, SPECIES, species_name
from sccafm.types import CONDITIONS

UNKNOWN = "<unk>"
# How laboratories write what CELLxGENE calls otherwise.
SYNONYMS = {
    "10x": "10x transcription profiling",
    "10x genomics": "10x transcription profiling",
    "10x 3p": "10x 3' transcription profiling",
    "10x 3p v1": "10x 3' v1",
    "10x 3p v2": "10x 3' v2",
    "10x 3p v3": "10x 3' v3",
    "10x 5p v1": "10x 5' v1",
    "10x 5p v2": "10x 5' v2",
    "cel-seq2/sort-seq": "cel-seq2",
    "smarter": "smart-like",
    "smarter c1": "smart-like",
    "smarter c1 umi": "smart-like",
    "strt-seq umi": "strt-seq",
    "pbmc": "blood",
    "peripheral blood": "blood",
    "whole blood": "blood",
    "skin": "skin of body",
    "cortex": "cerebral cortex",
    "lymphoid": "lymph node",
    "thyroid": "thyroid gland",
    "ipsc": "induced pluripotent stem cell",
    "bone marrow kit+": "bone marrow",
    "fetalbrain": "brain",
    "fetalliver": "liver",
    "smallintestine": "small intestine",
    "ca1 hippocampus": "ca1 field of hippocampus",
    "hippocampus": "hippocampal formation",
    "dentate gyrus": "dentate gyrus of hippocampal formation",
    "preimplantation embryo": "embryo",
    "lung lines": "lung",
    "lung tumour": "lung",
    "breast lines": "breast",
    "breast tumour": "breast",
    "healthy": "normal",
    "control": "normal",
    "lung adenocarcinoma lines": "lung adenocarcinoma",
    "nsclc": "non-small cell lung carcinoma",
    "anaplastic thyroid carcinoma": "thyroid gland undifferentiated (anaplastic) carcinoma",
}


class Conditions:
    """Words for platform, species, tissue and disease that a model knows; one table for all four slots.

    Parameters
    ----------
    records
        Dictionaries ``{cond_value, token_index}``; ``<unk>`` has index 0, nothing stands twice.
    source
        What to call the file in errors.
    """

    def __init__(self, records: list[Mapping], source: str = "cond_dict.json"):
        try:
            pairs = [(str(r["cond_value"]).strip().lower(), int(r["token_index"])) for r in records]
        except (TypeError, KeyError) as error:
            raise ValueError(f"{source} must be a list of {{cond_value, token_index}}; got {error!r}") from error
        self._index = dict(pairs)
        if len(self._index) < len(pairs) or len({index for _, index in pairs}) < len(pairs):
            raise ValueError(f"{source} gives a value or an index twice; each condition needs its own")
        if self._index.get(UNKNOWN) != 0:
            raise ValueError(f"{source} must give '{UNKNOWN}' the index 0, got {self._index.get(UNKNOWN)}")
        self.size = max(self._index.values()) + 1

    @classmethod
    def read(cls, path: str | Path) -> "Conditions":
        try:
            return cls(json.loads(Path(path).read_text()), str(path))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON ({error}); download the file again") from error

    def __contains__(self, value: object) -> bool:
        return self.index(value) != 0

    def __repr__(self) -> str:
        return f"Conditions: {self.size - 1} known words"

    def index(self, value: object) -> int:
        """Index of a word in any case, 0 if unknown; the spellings of a species are one word, laboratory names are CELLxGENE's."""
        word = str(value).strip().lower()
        if word in self._index or word in NULL_WORDS:
            return self._index.get(word, 0)
        spellings = SPECIES.get(species_name(word) or "") or (SYNONYMS.get(word, UNKNOWN),)
        return next((self._index[s] for s in spellings if s in self._index), 0)

    def literal(self, word: str) -> int:
        """Index of a lower-case word as it stands, 0 if unknown: how the published tokenizer looks words up."""
        return self._index.get(word, 0)

    def encode(self, columns: Mapping[str, pd.Series | str | None], n_cells: int) -> np.ndarray:
        """Condition ids: C 4 int64 in the order of CONDITIONS. A slot is a column, one word for all, or None."""
        ids = np.zeros((n_cells, len(CONDITIONS)), dtype=np.int64)
        for slot, name in enumerate(CONDITIONS):
            words = columns.get(name)
            if isinstance(words, pd.Series):
                codes, values = pd.factorize(words, use_na_sentinel=False)
                ids[:, slot] = np.array([self.index(value) for value in values], dtype=np.int64)[codes]
            elif words is not None:
                ids[:, slot] = self.index(words)
        return ids
