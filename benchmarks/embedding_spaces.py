"""Spaces that the selection panel compares, and by what: `embedding_panel.py` runs it."""

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sccafm import evaluate
from sccafm.data.input import ModelInput
from sccafm.embedding.anchor import MODEL_POWER, axes, fit_anchor, unit
from sccafm.embedding.harmony import corrected

ZERO_SHOT = "X_sccafm_zero_shot"
N_NEIGHBORS, N_FOLDS, SEEDS = 15, 5, (0, 1, 2)
RESOLUTIONS = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class Task:
    """Cells that are judged together."""

    name: str
    adata: ad.AnnData  # obs label, batch; obsm ZERO_SHOT
    model_input: ModelInput

    @property
    def labels(self) -> np.ndarray:
        return self.adata.obs["label"].astype(str).to_numpy()

    @property
    def batches(self) -> np.ndarray | None:
        return self.adata.obs["batch"].astype(str).to_numpy() if "batch" in self.adata.obs else None

    @property
    def z(self) -> np.ndarray:
        return self.adata.obsm[ZERO_SHOT]


# --- spaces


def scaled(x: np.ndarray, like: np.ndarray, share: float) -> np.ndarray:
    """As long as a share of `like` is, root mean square over cells."""
    x = x - x.mean(0)
    return x * (share * np.sqrt((like**2).sum(1).mean() / (x**2).sum(1).mean()))


def centred(x: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    return x - (x.mean(0) if groups is None else pd.DataFrame(x).groupby(groups).transform("mean").to_numpy())


def principal(x: np.ndarray, groups: np.ndarray | None, n: int = 50) -> np.ndarray:
    x = centred(x.astype(float), groups)
    values, vectors = np.linalg.eigh(x @ x.T)
    return vectors[:, ::-1][:, :n] * np.sqrt(np.maximum(values[::-1][:n], 0))


def spaces(task: Task) -> dict[str, np.ndarray]:
    """What is shown: baselines, zero-shot and anchored vectors of the same cells."""
    b, key = task.batches, None if task.batches is None else "batch"
    pca = evaluate.hvg_pca(task.adata, batch_key=key)
    found = {"anchored": fit_anchor(task.model_input, task.z, b)[1], "zero-shot": task.z, "HVG-PCA": pca}
    if b is None:
        found["centred PCA, unit length"] = unit(centred(pca, None))
    else:
        found["anchored, Harmony"] = corrected(fit_anchor(task.model_input, task.z, b, corrects=False)[1], b)
        found["zero-shot, centred"] = centred(task.z, b)
        found["HVG-PCA, centred"] = centred(pca, b)
        found["HVG-PCA, Harmony"] = harmony(pca, b)
    return found | {"log expression": evaluate.log_expression(task.adata, batch_key=key)}


def harmony(x: np.ndarray, batches: np.ndarray) -> np.ndarray:
    import harmonypy

    found = np.asarray(
        harmonypy.run_harmony(x, pd.DataFrame({"b": batches}), "b", verbose=False, random_state=0).Z_corr
    )
    return found if found.shape == x.shape else found.T


def designs(task: Task) -> dict[str, np.ndarray]:
    """Ways to join the module's vector with a study's own components."""
    b = task.batches
    x = evaluate.log_expression(task.adata, batch_key=None if b is None else "batch").astype(float)
    pca, z = principal(x, b), centred(task.z.astype(float), b)
    weight = np.linalg.lstsq(z, centred(x, b), rcond=1e-3)[0]
    residual = principal(x - z @ weight, b)
    anchor, own = fit_anchor(task.model_input, task.z, b)
    e, f = (unit(part) for part in np.split(own, [anchor.loadings.shape[1]], axis=1))
    every = z @ axes(z, z.shape[1], MODEL_POWER)
    return {
        "PCA": pca,
        "PCA + 1/4 module": np.hstack([pca, scaled(z, pca, 0.25)]),
        "PCA + 1/2 module": np.hstack([pca, scaled(z, pca, 0.5)]),
        "module + PCA of its residual": np.hstack([z, scaled(residual, z, 1.0)]),
        "module + PCA of its residual, unit length": np.hstack([unit(z), unit(residual)]),
        "PCA, unit length": unit(pca),
        "PCA + 1/2 module, unit length": np.hstack([unit(pca), 0.5 * unit(z)]),
        "own": e,
        **{f"own + {w} module": np.hstack([e, w * f]) for w in (0.25, 0.35, 0.5, 0.7, 1.0)},
        **{f"own + 0.5 module, {n} axes": np.hstack([e, 0.5 * unit(every[:, :n])]) for n in (32, 64, 128)},
        "module, unit length": f,
    }


# --- measures


def balanced(labels: np.ndarray, predicted: np.ndarray) -> float:
    return float(pd.Series(labels == predicted).groupby(labels).mean().mean())


def within(x: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """kNN in stratified folds: balanced accuracy and macro-F1, means over seeds of the folds."""
    accuracy, f1 = [], []
    for seed in SEEDS:
        predicted = np.empty(len(labels), dtype=object)
        for seen, held in StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed).split(x, labels):
            predicted[held] = KNeighborsClassifier(N_NEIGHBORS).fit(x[seen], labels[seen]).predict(x[held])
        accuracy.append(balanced(labels, predicted))
        f1.append(f1_score(labels, list(predicted), average="macro"))
    return {"balanced accuracy": float(np.mean(accuracy)), "macro-F1": float(np.mean(f1))}


def linear(x: np.ndarray, labels: np.ndarray) -> float:
    """Balanced accuracy of logistic regression on standardised vectors, as scikit-learn comes: who fits a head has few cells."""
    predicted = np.empty(len(labels), dtype=object)
    for seen, held in StratifiedKFold(N_FOLDS, shuffle=True, random_state=SEEDS[0]).split(x, labels):
        head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, class_weight="balanced"))
        predicted[held] = head.fit(x[seen], labels[seen]).predict(x[held])
    return balanced(labels, predicted)


def clusters(x: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """NMI and ARI of Leiden clusters, each at the best of `RESOLUTIONS`."""
    cells = ad.AnnData(np.zeros((len(x), 1), np.float32), obsm={"x": np.asarray(x, dtype=np.float32)})
    sc.pp.neighbors(cells, use_rep="x", n_neighbors=N_NEIGHBORS)
    found = []
    for resolution in RESOLUTIONS:
        sc.tl.leiden(cells, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=0)
        found.append([f(labels, cells.obs["leiden"]) for f in (normalized_mutual_info_score, adjusted_rand_score)])
    return dict(zip(("NMI", "ARI"), np.max(found, axis=0).tolist(), strict=True))


def across(x: np.ndarray, labels: np.ndarray, batches: np.ndarray) -> float:
    """Balanced accuracy of each batch's cells, named by neighbours in the others: a mean over batches."""
    scores = []
    for batch in np.unique(batches):
        here = batches == batch
        scores.append(named_by(x[~here], labels[~here], x[here], labels[here]))
    return float(np.nanmean(scores))


def named_by(seen: np.ndarray, names: np.ndarray, x: np.ndarray, labels: np.ndarray) -> float:
    """Balanced accuracy over the labels that both have; NaN with fewer than ten such cells."""
    known = np.isin(labels, names)
    if known.sum() < 10:
        return float("nan")
    return balanced(labels[known], KNeighborsClassifier(N_NEIGHBORS).fit(seen, names).predict(x[known]))
