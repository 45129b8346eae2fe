"""Gene vectors to start from: what genes do, where they are expressed, and how well the prior knows them."""

import numpy as np
from sklearn.decomposition import TruncatedSVD

from sccafm.lexicon import Lexicon
from sccafm.train.corpus import Corpus, cluster_profiles

EXPRESSION_COLUMNS, DEGREE_COLUMNS = 29, 2
PROFILES_PER_DATASET = 40


def gene_vectors(function: np.ndarray, corpus: Corpus, lexicon: Lexicon) -> np.ndarray:
    """Starting vectors: V D float32.

    The leading columns of the function vectors (GO and Reactome membership), then an SVD of expression profiles of the
    corpus, the gene's usual level, and the log of its out- and in-degree in the prior. Blocks have root mean square 1
    per entry, level and degrees 2.

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
    profiles = cluster_profiles(corpus.samples(), size, PROFILES_PER_DATASET, corpus.config.seed)
    expression = TruncatedSVD(EXPRESSION_COLUMNS, random_state=corpus.config.seed).fit_transform(profiles)
    edges = lexicon.prior_tokens
    degrees = [np.bincount(edges[end], minlength=size) for end in ("source", "target")]
    level = np.mean([corpus.usual[species] for species in ("human", "mouse")], 0)
    single = [standardised(np.log1p(degree)) for degree in degrees] + [standardised(level)]
    keep = width - EXPRESSION_COLUMNS - len(single)
    blocks = [unit(function[:, :keep]), unit(expression), 2 * np.stack(single, 1)]
    return np.concatenate(blocks, 1).astype(np.float32)


def unit(block: np.ndarray) -> np.ndarray:
    """Scale a block to root mean square 1 over the genes that it knows."""
    known = np.abs(block).sum(1) > 0
    return block / np.sqrt(np.mean(block[known] ** 2))


def standardised(x: np.ndarray) -> np.ndarray:
    return np.clip((x - x.mean()) / x.std(), -3, 3)
