"""Ways to correct anchored vectors for batches, which the selection panel compares: `embedding_panel.py --parts batches`."""

import numpy as np
from embedding_spaces import Task, centred, harmony

from sccafm import evaluate
from sccafm.embedding import batches as correction
from sccafm.embedding.anchor import fit_anchor, unit

N_PAIRS, N_MIXED = 20, 30  # neighbours that are mutual; that mixing is counted among
LEAST_OTHERS = 0.05  # of a label's cells, in other batches: below it nothing can mix


def corrections(task: Task) -> dict[str, np.ndarray]:
    """The same anchored vectors, corrected in different ways, and principal components."""
    b = task.batches
    codes = np.unique(b, return_inverse=True)[1]
    anchor, plain = fit_anchor(task.model_input, task.z, b, corrects=False)
    plain, width = plain.astype(float), anchor.loadings.shape[1]
    e, f = plain[:, :width], plain[:, width:]
    by_mean = np.hstack([np.linalg.norm(x, axis=1).mean() * unit(centred(x, b)) for x in (e, f)])
    one, other = mutual_neighbors(by_mean, codes)
    moved = plain - offsets(plain, codes, one, other)[codes]
    pca = evaluate.hvg_pca(task.adata, batch_key="batch")
    found = {
        "soft clusters, two rounds (anchored)": fit_anchor(task.model_input, task.z, b)[1],
        "not corrected": plain,
        "each batch's mean taken away": by_mean,
        "offsets between mutual nearest neighbours": unit(moved),
        "and directions in which these differ made small": unit(narrowed(moved, one, other)),
        "components weighted by what all batches have of them": unit(shared(centred(plain, b), codes)),
        "Harmony": unit(harmony(plain, b)),
        "each batch's mean taken away, Harmony": unit(harmony(by_mean, b)),
    }
    rounds = correction.ROUNDS
    for told, n in (("soft clusters, one round", 1), ("soft clusters, eight rounds", 8)):
        correction.ROUNDS = n
        found[told] = correction.correct(plain, codes, np.arange(len(codes)))[0]
    correction.ROUNDS = rounds
    return found | {"HVG-PCA, centred": centred(pca, b), "HVG-PCA, Harmony": harmony(pca, b)}


def mutual_neighbors(x: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of cells of two batches that are among each other's nearest (Haghverdi et al. 2018), by inner product."""
    pairs = []
    for a in range(codes.max() + 1):
        for b in range(a + 1, codes.max() + 1):
            of, to = np.flatnonzero(codes == a), np.flatnonzero(codes == b)
            near = x[of] @ x[to].T
            is_near = [np.zeros(near.shape, bool), np.zeros(near.T.shape, bool)]
            for found, score in zip(is_near, (near, near.T), strict=True):
                k = min(N_PAIRS, score.shape[1])
                np.put_along_axis(found, np.argpartition(-score, k - 1, axis=1)[:, :k], True, axis=1)
            i, j = np.nonzero(is_near[0] & is_near[1].T)
            pairs.append((of[i], to[j]))
    return tuple(np.concatenate(part) for part in zip(*pairs, strict=True))


def offsets(x: np.ndarray, codes: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """B W: the shifts of batches that explain the pairs' differences best, by least squares; a cell's pairs share its weight."""
    batch = np.eye(codes.max() + 1)[codes]
    degree = np.bincount(np.concatenate([one, other]), minlength=len(codes))
    weight = 1 / np.sqrt(degree[one] * degree[other])[:, None]
    design = batch[one] - batch[other]
    found = np.linalg.lstsq(design.T @ (weight * design), design.T @ (weight * (x[one] - x[other])), rcond=1e-9)[0]
    return found - batch.mean(0) @ found


def narrowed(x: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Divided along each direction by how much mutual neighbours differ in it (relevant component analysis)."""
    gap = x[one] - x[other]
    scatter = gap.T @ gap / len(gap)
    values, vectors = np.linalg.eigh(scatter / np.trace(scatter) * len(scatter) + np.eye(len(scatter)))
    return x @ (vectors / np.sqrt(values))


def shared(x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Each entry times the root of the geometric over the arithmetic mean of its variances in the batches."""
    spread = np.stack([(x[codes == code] ** 2).mean(0) for code in range(codes.max() + 1)]) + 1e-12
    return x * np.sqrt(np.exp(np.log(spread).mean(0)) / spread.mean(0))


def mixing(x: np.ndarray, labels: np.ndarray, batches: np.ndarray) -> float:
    """Share of other batches among a cell's near cells of its label, over that among all cells of the label: at most 1, a mean."""
    near = (x**2).sum(1) - 2 * x @ x.T
    np.fill_diagonal(near, np.inf)
    near = np.argpartition(near, N_MIXED, axis=1)[:, :N_MIXED]
    same, foreign = labels[near] == labels[:, None], batches[near] != batches[:, None]
    found = []
    for i in np.flatnonzero(same.any(1)):
        expected = (batches[labels == labels[i]] != batches[i]).mean()
        if expected >= LEAST_OTHERS:
            found.append(min((same[i] & foreign[i]).sum() / same[i].sum() / expected, 1))
    return float(np.mean(found))
