"""Gene vectors to start from: what regulates what, where genes are expressed, what they do, and how well they are known."""

import numpy as np

from sccafm.reference.bundle import ReferenceData
from sccafm.reference.regulation import Regulation
from sccafm.train.corpus import Corpus
from sccafm.train.edge_evidence import scaled

SENDS, RECEIVES, EXPRESSION = 5 / 16, 5 / 16, 3 / 16  # of the columns; the rest is function and levels


def gene_vectors(
    function: np.ndarray, corpus: Corpus, reference_data: ReferenceData, regulation: Regulation, width: int
) -> np.ndarray:
    """Starting vectors: V D float32.

    A gene as regulator and as target (the leading directions of what the edge model says of pairs), the corpus's expression profiles,
    the leading columns of the function vectors (GO and Reactome membership), and single columns: the gene's usual level in
    human and mouse, the share of files that detect it, its popularity in binding and response, and the log of its out- and
    in-degree in the prior. Blocks have root mean square 1 per entry, single columns 2.

    Parameters
    ----------
    function
        V D, the release's vocab.safetensors.
    corpus
        Data sets, for profiles and levels.
    reference_data
        For the prior's degrees.
    regulation
        Vectors of the edge model.
    width
        D.
    """
    size = len(function)
    sends, receives = leading(regulation, int(SENDS * width))
    if corpus.profiles is None:
        raise ValueError("gene vectors need a corpus with profiles")
    expression = corpus.profiles[:, : int(EXPRESSION * width)]
    edges = reference_data.prior_tokens
    degrees = [np.log1p(np.bincount(edges[end], minlength=size)) for end in ("source", "target")]
    single = [standardised(x) for x in (*degrees, *corpus.usual.values(), corpus.breadth)]
    single += [np.clip(x, -3, 3) for x in regulation.popularity.values()]
    blocks = [scaled(sends), scaled(receives), scaled(expression), 2 * np.stack(single, 1)]
    rest = width - sum(block.shape[1] for block in blocks)
    blocks.append(scaled(function[:, :rest]))
    missing = rest - blocks[-1].shape[1]
    return np.pad(np.concatenate(blocks, 1), ((0, 0), (0, missing))).astype(np.float32)


def leading(regulation: Regulation, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The leading directions of the products of both questions together: V columns each."""
    source, target = (np.concatenate(tuple(side), 1) for side in (regulation.source, regulation.target))
    _, r_source = np.linalg.qr(source[np.abs(source).sum(1) > 0])
    _, r_target = np.linalg.qr(target[np.abs(target).sum(1) > 0])
    left, scale, right = np.linalg.svd(r_source @ r_target.T)
    root = np.sqrt(scale[:columns])
    sends = source @ np.linalg.pinv(r_source) @ left[:, :columns] * root
    return sends, target @ np.linalg.pinv(r_target) @ right[:columns].T * root


def standardised(x: np.ndarray) -> np.ndarray:
    return np.clip((x - x.mean()) / x.std(), -3, 3)
