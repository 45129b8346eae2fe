"""Data sets in memory, and batches drawn from them: the same step of the same seed is the same batch, always."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import torch
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from tqdm.auto import tqdm

from sccafm.batch import Tokens
from sccafm.lexicon import Lexicon
from sccafm.preprocess import TARGET_SUM, csr_block, variable_genes
from sccafm.reading import Reading, read
from sccafm.tokenizer import tokenize
from sccafm.train.config import TrainSFM

LEAST_LEVEL = 0.05  # log1p of counts per 10,000 below which no gene's usual level is taken to be
VALIDATION = 1_000_003  # added to the seed of validation batches


@dataclass(frozen=True)
class DataSet:
    """One file: counts of all genes, and which of them the model knows."""

    name: str
    species: str
    counts: sparse.csr_matrix  # cells x all genes, float32
    columns: np.ndarray  # positions of the known genes
    tokens: np.ndarray  # their tokens
    is_tf: np.ndarray  # DNA-binding regulators among them
    is_cofactor: np.ndarray  # other regulators among them
    appeal: np.ndarray  # probability of a known gene to be drawn as a target
    conditions: np.ndarray  # C 4
    neighbors: np.ndarray  # cells x k, each cell among its own
    level: np.ndarray  # mean log1p expression of the known genes
    train: np.ndarray  # positions of cells
    validation: np.ndarray


@dataclass(frozen=True)
class Batch:
    tokens: Tokens
    level: Tensor  # C G, log1p expression of the gene in cells like this one
    activity: Tensor  # C G in [0, 1), the same beside the gene's usual level: 0.5 where they are equal
    dataset: str

    def to(self, device) -> "Batch":
        tensors = (x.to(device) for x in (self.tokens, self.level, self.activity))
        return Batch(*tensors, self.dataset)


class Corpus:
    """All data sets of a folder, and the draw.

    Parameters
    ----------
    config
        Folder, sizes and seed.
    lexicon
        Vocabulary and tables of the model.
    progress
        Show a bar while files are read.
    """

    def __init__(self, config: TrainSFM, lexicon: Lexicon, progress: bool = True):
        self.config = config
        paths = sorted(Path(config.data).glob("*.h5ad"))
        if not paths:
            raise FileNotFoundError(f"{config.data} holds no .h5ad file")
        bar = tqdm(paths, desc="reading", unit="file", disable=not progress)
        self.datasets = [read_dataset(path, config, lexicon) for path in bar]
        cells = np.array([len(d.train) for d in self.datasets])
        self.share = np.sqrt(cells) / np.sqrt(cells).sum()  # between one vote a file and one vote a cell
        self.usual = usual_levels(self.datasets, lexicon.vocabulary.size)

    def __repr__(self) -> str:
        cells = sum(len(d.train) for d in self.datasets)
        return f"Corpus of {len(self.datasets)} data sets, {cells:,} cells to train on"

    def train_batch(self, step: int) -> Batch:
        return self._draw(np.random.default_rng([self.config.seed, step]), "train")

    def validation_batches(self, n: int) -> list[Batch]:
        """The same `n` batches of held-out cells each time."""
        rngs = (np.random.default_rng([self.config.seed + VALIDATION, i]) for i in range(n))
        return [self._draw(rng, "validation") for rng in rngs]

    def _draw(self, rng: np.random.Generator, part: str) -> Batch:
        config = self.config
        dataset = self.datasets[rng.choice(len(self.datasets), p=self.share)]
        pool = getattr(dataset, part)
        cells = rng.choice(pool, min(config.cells, len(pool)), replace=False)
        may_regulate = dataset.is_tf | dataset.is_cofactor if rng.random() < 0.2 else dataset.is_tf
        genes = draw_genes(rng, dataset, may_regulate, config)
        counts = dataset.counts[cells]
        if part == "train" and rng.random() < config.thin:
            counts = thin(rng, counts, rng.uniform(0.3, 1.0))
        expression = np.log1p(per_ten_thousand(counts)[:, dataset.columns[genes]].toarray())
        conditions = dataset.conditions[cells]
        if part == "train":
            conditions = np.where(rng.random(conditions.shape) < config.mask_conditions, 0, conditions)
        tokens = tokenize(expression, dataset.tokens[genes], may_regulate[genes], conditions)
        usual = self.usual[dataset.species][dataset.tokens[genes]]
        level = smoothed(dataset, cells, dataset.columns[genes])
        level, activity = (torch.from_numpy(x.astype(np.float32)) for x in (level, level / (level + usual)))
        return Batch(tokens, level, activity, dataset.name)


def read_dataset(path: Path, config: TrainSFM, lexicon: Lexicon) -> DataSet:
    adata = ad.read_h5ad(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the receipt would tell a user
        try:
            reading = read(adata, lexicon, regulators="all", n_top_genes=None)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if reading.matrix.kind != "counts":
        raise ValueError(f"{path} holds {reading.matrix.kind} values; training needs counts in X, layers or raw")
    binding = read_binding(reading, lexicon)
    survey = reading.matrix.survey()
    counts = csr_block(reading.matrix.values, 0, adata.n_obs).astype(np.float32)
    seen = survey.detected[reading.columns] >= max(3, 0.005 * adata.n_obs)
    columns = reading.columns[seen]
    rng = np.random.default_rng([config.seed, *path.name.encode()])
    cells = rng.permutation(np.setdiff1d(np.arange(adata.n_obs), survey.empty))
    held = max(1, int(config.validation_share * len(cells)))
    variable = variable_genes(survey, columns, 2000)
    appeal = np.full(len(columns), 0.5 / len(columns))  # half of the targets at random, half among the variable ones
    appeal[np.isin(columns, variable)] += 0.5 / len(variable)
    return DataSet(
        name=path.stem,
        species=reading.species,
        counts=counts,
        columns=columns,
        tokens=reading.gene_ids[seen],
        is_tf=binding[seen],
        is_cofactor=(reading.is_tf & ~binding)[seen],
        appeal=appeal / appeal.sum(),
        conditions=reading.conditions,
        neighbors=nearest(counts, variable, config),
        level=np.log1p(survey.mean[columns]),
        train=np.sort(cells[held:]),
        validation=np.sort(cells[:held]),
    )


def read_binding(reading: Reading, lexicon: Lexicon) -> np.ndarray:
    """DNA-binding regulators among the genes of a reading: G bool."""
    table = lexicon.regulators[reading.species]
    binding = set(table.index[table["class"] == "dna_binding"])
    return reading.is_tf & np.array([str(symbol).upper() in binding for symbol in reading.symbols])


def per_ten_thousand(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    totals = np.maximum(np.asarray(counts.sum(1, dtype=np.float64)).ravel(), 1)
    return sparse.diags(TARGET_SUM / totals) @ counts


def nearest(counts: sparse.csr_matrix, variable: np.ndarray, config: TrainSFM) -> np.ndarray:
    """Nearest cells by principal components of the variable genes: cells x k, itself first."""
    log = per_ten_thousand(counts)[:, variable].log1p()
    components = min(30, min(log.shape) - 1)
    scores = TruncatedSVD(components, random_state=config.seed).fit_transform(log)
    k = min(config.neighbors, len(scores))
    return NearestNeighbors(n_neighbors=k).fit(scores).kneighbors(scores, return_distance=False).astype(np.int32)


def smoothed(dataset: DataSet, cells: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Log1p of the mean expression over each cell's neighbours: C G."""
    rows = dataset.neighbors[cells]  # C k
    linear = per_ten_thousand(dataset.counts[rows.ravel()])[:, columns].toarray()
    return np.log1p(linear.reshape(*rows.shape, -1).mean(1))


def usual_levels(datasets: list[DataSet], vocab_size: int) -> dict[str, np.ndarray]:
    """A gene's usual level in a species, by token: mean over the data sets that measure it."""
    usual = {}
    for species in ("human", "mouse"):
        total, times = np.zeros(vocab_size), np.zeros(vocab_size)
        for dataset in datasets:
            if dataset.species == species:
                total[dataset.tokens] += dataset.level
                times[dataset.tokens] += 1
        usual[species] = np.maximum(total / np.maximum(times, 1), LEAST_LEVEL)
    return usual


def draw_genes(rng: np.random.Generator, dataset: DataSet, may_regulate: np.ndarray, config: TrainSFM) -> np.ndarray:
    """Positions among the known genes: up to `regulators` regulators, filled up with targets, in file order."""
    acting = np.flatnonzero(may_regulate)
    acting = rng.choice(acting, min(config.regulators, len(acting)), replace=False)
    appeal = np.where(may_regulate, 0, dataset.appeal)
    size = int(rng.uniform(0.4, 1.0) * config.genes)  # the model must not depend on how many genes it is shown
    n = min(max(size - len(acting), 16), int((appeal > 0).sum()))
    targets = rng.choice(len(appeal), n, replace=False, p=appeal / appeal.sum())
    return np.sort(np.concatenate([acting, targets]))


def thin(rng: np.random.Generator, counts: sparse.csr_matrix, share: float) -> sparse.csr_matrix:
    """Keep each molecule with the probability `share`."""
    thinned = counts.copy()
    thinned.data = rng.binomial(counts.data.astype(np.int64), share).astype(np.float32)
    return thinned


def cluster_profiles(datasets: list[DataSet], vocab_size: int, per_dataset: int, seed: int) -> np.ndarray:
    """Expression of neighbourhoods of cells drawn from each data set, less the data set's mean, by token.

    vocab_size x profiles; 0 where a data set does not measure the gene.
    """
    rng = np.random.default_rng(seed)
    profiles = []
    for dataset in datasets:
        cells = rng.choice(len(dataset.neighbors), min(per_dataset, len(dataset.neighbors)), replace=False)
        level = smoothed(dataset, cells, dataset.columns)  # n known
        for row in level:
            profile = np.zeros(vocab_size)
            profile[dataset.tokens] = row - dataset.level
            profiles.append(profile)
    return np.stack(profiles, 1)
