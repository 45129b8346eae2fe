"""Gene vectors to start from: what genes do, where they are expressed, and how well the prior knows them."""

import numpy as np

from sccafm.reference.bundle import Lexicon
from sccafm.train.corpus import Corpus

EXPRESSION_SHARE = 3 / 8  # of the columns


def gene_vectors(function: np.ndarray, corpus: Corpus, lexicon: Lexicon) -> np.ndarray:
    """Starting vectors: V D float32.

    The leading columns of the function vectors (GO and Reactome membership), then the corpus's expression profiles, the
    gene's usual level in human and mouse, the share of files that detect it, and the log of its out- and in-degree in the
    prior. Blocks have root mean square 1 per entry, levels, breadth and degrees 2.

    Parameters
    ----------
    function
        V D, the release's vocab.safetensors.
    corpus
        Data sets, for profiles and levels.
    lexicon
        For the prior's degrees.
    """
    size, width = function.shape
    expression = corpus.profiles[:, : int(EXPRESSION_SHARE * width)]
    edges = lexicon.prior_tokens
    degrees = [np.log1p(np.bincount(edges[end], minlength=size)) for end in ("source", "target")]
    single = [standardised(x) for x in (*degrees, *corpus.usual.values(), corpus.breadth)]
    keep = width - expression.shape[1] - len(single)
    blocks = [unit(function[:, :keep]), unit(expression), 2 * np.stack(single, 1)]
    return np.concatenate(blocks, 1).astype(np.float32)


def unit(block: np.ndarray) -> np.ndarray:
    """Scale a block to root mean square 1 over the genes that it knows."""
    known = np.abs(block).sum(1) > 0
    return block / np.sqrt(np.mean(block[known] ** 2))


def standardised(x: np.ndarray) -> np.ndarray:
    return np.clip((x - x.mean()) / x.std(), -3, 3)
