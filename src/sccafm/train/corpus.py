"""Batches drawn from data sets: the same step of the same seed is the same batch, always."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from torch import Tensor

from sccafm.data.neighbors import itself_first
from sccafm.data.tokenizer import tokenize
from sccafm.model.layout import find_files, find_release
from sccafm.model.weights import read_sections
from sccafm.reference.bundle import ReferenceData
from sccafm.train.config import RunConfig, holds_contexts
from sccafm.train.files import DataSet, File, corpus_files, per_ten_thousand, refuse_or_skip, survey_files
from sccafm.train.programmes import fit_programmes
from sccafm.train.stream import Memory, Stream
from sccafm.types import Tokens

LEAST_LEVEL = 0.05  # log1p of counts per 10,000 below which no gene's usual level is taken to be
VALIDATION = 1_000_003  # added to the seed of validation batches
PROFILE_COLUMNS, PROFILES_PER_DATASET = 64, 40
BYTES_PER_COUNT = 8  # a float32 and its column


@dataclass(frozen=True)
class Batch:
    tokens: Tokens
    activity: Tensor  # C G in [0, 1), level in cells like this one beside the usual level: 0.5 where they are equal
    programme: Tensor | None  # C M, rows sum to 1; absent where a trained model goes on
    dataset: str
    # Expression of each cell and its nearest ones before counts are thinned, C k G; absent without gains.
    whole: Tensor | None
    usual: Tensor  # G, the genes' usual levels in the species

    def to(self, device) -> "Batch":
        programme, whole = (None if x is None else x.to(device) for x in (self.programme, self.whole))
        moved = self.tokens.to(device), self.activity.to(device), programme
        return Batch(*moved, self.dataset, whole, self.usual.to(device))


class Corpus:
    """All data sets of a folder, and the draw.

    Files whose counts take less than ``config.stream.above`` GB together stay in memory; others are streamed.

    Parameters
    ----------
    config
        Folder, sizes and seed; the run folder, where the surveys of the files are kept.
    reference_data
        Vocabulary and tables of the model.
    progress
        Show a bar while files are read.
    for_edges
        Make the profiles and programmes that the structure module is taught by, from a `TrainSFM`; the embedding module
        needs none.
    rank, world, barrier
        Of several processes, which survey the files together.

    Raises
    ------
    FileNotFoundError
        The folder holds no file.
    ValueError
        Files cannot be trained on, and ``config.on_bad_file`` is "refuse".
    """

    def __init__(
        self,
        config: Any,
        reference_data: ReferenceData,
        progress: bool = True,
        for_edges: bool = True,
        rank: int = 0,
        world: int = 1,
        barrier: Callable[[], None] = lambda: None,
    ):
        self.config = config
        ranks = {"rank": rank, "world": world, "barrier": barrier}
        self.files, self.bad = survey_files(
            corpus_files(config.data), config, reference_data, progress=progress, **ranks
        )
        refuse_or_skip(self.bad, len(self.files), config.on_bad_file)
        cells = np.array([file.n_train for file in self.files])
        share = np.sqrt(cells) / np.sqrt(cells).sum()  # between one vote a file and one vote a cell
        self.usual = usual_levels(self.files, reference_data.vocabulary.size)
        gigabytes = sum(file.size for file in self.files) * BYTES_PER_COUNT / 1e9
        self.is_streamed = gigabytes > config.stream.above
        self.source = (Stream if self.is_streamed else Memory)(self.files, config, share)
        self.profiles = self.programmes = None
        if not for_edges:
            return
        self.breadth = breadth(self.files, reference_data.vocabulary.size)
        self.profiles = gene_profiles(self.source.samples(), reference_data.vocabulary.size, config.seed)
        if config.weights.context and not holds_contexts(config):
            samples, size = self.source.samples(), number_of_factors(config)
            self.programmes = fit_programmes(samples, self.profiles, self.usual, size, config.seed)

    def __repr__(self) -> str:
        cells = sum(file.n_train for file in self.files)
        how = "streamed from disk" if self.is_streamed else "in memory"
        return f"Corpus of {len(self.files)} data sets, {cells:,} cells to train on, {how}"

    def train_batch(self, number: int) -> Batch:
        """The micro-batch `number`, counted over all steps and processes."""
        return self._draw(*self.pick("train", number, self.config.seed), "train")

    def validation_batch(self, number: int) -> Batch:
        """The same held-out cells each time."""
        return self._draw(*self.pick("validation", number, self.config.seed), "validation")

    def pick(self, part: str, number: int, seed: int) -> tuple[np.random.Generator, DataSet]:
        """Where a batch of training or held-out cells is drawn from, and what draws it."""
        if part == "train":
            rng = np.random.default_rng([seed, number])
            return rng, self.source.pick(rng, number)
        rng = np.random.default_rng([seed + VALIDATION, number])
        return rng, self.source.pick_held_out(rng)

    def samples(self):
        """Cells of each file in turn: all of them where they are in memory, else a window."""
        return self.source.samples()

    def close(self) -> None:
        self.source.close()

    def _draw(self, rng: np.random.Generator, dataset: DataSet, part: str) -> Batch:
        tokens, cells, genes = draw_tokens(rng, dataset, part, self.config)
        usual = self.usual[dataset.species][dataset.tokens[genes]]
        level = smoothed(dataset, cells, dataset.columns[genes])
        activity = torch.from_numpy((level / (level + usual)).astype(np.float32))
        programme = None
        if self.programmes is not None:
            share = self.config.programme_share
            programme = torch.from_numpy(self.programmes.assign(dataset, cells))
            programme = share * programme + (1 - share) / programme.shape[1]
        whole = None
        if self.config.gains.is_on:
            near = itself_first(dataset.neighbors[cells], cells[:, None])[:, : self.config.gains.cells]
            values = expression_of(dataset.counts[near.ravel()], dataset.columns[genes])
            whole = torch.from_numpy(values.reshape(*near.shape, -1))
        usual = torch.from_numpy(usual.astype(np.float32))
        return Batch(tokens, activity, programme, dataset.name, whole, usual)


def number_of_factors(config: Any) -> int:
    """Of the model to start from, where there is one."""
    if config.init is None:
        return config.sfm.num_factors
    file = find_files(find_release(config.init, None, False), required=("sfm_config",))["sfm_config"]
    return read_sections(file, "sfm")["sfm"]["num_factors"]


def draw_tokens(
    rng: np.random.Generator, dataset: DataSet, part: str, config: RunConfig
) -> tuple[Tokens, np.ndarray, np.ndarray]:
    """Cells of one step with some of their genes: tokens, and the positions of cells and genes in the data set."""
    pool = getattr(dataset, part)
    cells = rng.choice(pool, min(config.batch_size, len(pool)), replace=False)
    may_regulate = dataset.is_tf | dataset.is_cofactor if rng.random() < 0.2 else dataset.is_tf
    genes = draw_genes(rng, dataset, may_regulate, config)
    counts = dataset.counts[cells]
    if part == "train" and rng.random() < config.thin:
        counts = thin(rng, counts, rng.uniform(0.3, 1.0))
    expression = expression_of(counts, dataset.columns[genes])
    conditions = dataset.conditions[cells]
    if part == "train":
        conditions = np.where(rng.random(conditions.shape) < config.mask_conditions, 0, conditions)
    return tokenize(expression, dataset.tokens[genes], may_regulate[genes], conditions), cells, genes


def expression_of(counts: sparse.csr_matrix, columns: np.ndarray) -> np.ndarray:
    """Log1p of counts per 10,000: C G float32."""
    return np.log1p(per_ten_thousand(counts)[:, columns].toarray()).astype(np.float32)


def smoothed(dataset: DataSet, cells: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Log1p of the mean expression over each cell's neighbours: C G."""
    rows = dataset.neighbors[cells]  # C k
    linear = per_ten_thousand(dataset.counts[rows.ravel()])[:, columns].toarray().reshape(*rows.shape, -1)
    return np.log1p(linear.mean(1))


def breadth(files: list[File], vocab_size: int) -> np.ndarray:
    """Share of the files that detect each gene, by token: broadly transcribed genes stand open in most cells."""
    times = np.zeros(vocab_size)
    for file in files:
        times[file.tokens] += 1
    return times / len(files)


def usual_levels(files: list[File], vocab_size: int) -> dict[str, np.ndarray]:
    """A gene's usual level in a species, by token: mean over the data sets that measure it."""
    usual = {}
    for species in ("human", "mouse"):
        total, times = np.zeros(vocab_size), np.zeros(vocab_size)
        for file in files:
            if file.species == species:
                total[file.tokens] += file.level
                times[file.tokens] += 1
        usual[species] = np.maximum(total / np.maximum(times, 1), LEAST_LEVEL)
    return usual


def draw_genes(rng: np.random.Generator, dataset: DataSet, may_regulate: np.ndarray, config: RunConfig) -> np.ndarray:
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


def gene_profiles(datasets: Iterable[DataSet], vocab_size: int, seed: int) -> np.ndarray:
    """Where genes are expressed: an SVD of cluster profiles, V P, leading column first."""
    profiles = cluster_profiles(datasets, vocab_size, PROFILES_PER_DATASET, seed)
    columns = min(PROFILE_COLUMNS, min(profiles.shape) - 1)
    return TruncatedSVD(columns, random_state=seed).fit_transform(profiles)


def cluster_profiles(datasets: Iterable[DataSet], vocab_size: int, per_dataset: int, seed: int) -> np.ndarray:
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
