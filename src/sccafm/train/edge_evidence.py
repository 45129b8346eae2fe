"""What the edge model learns from: edges of several sources, and what is known of regulators and targets.

`scripts/compile_regulation.py` makes the file. A `Split` says what is held out of it, and is taken out everywhere: of the
edges, and of the ChIP-seq vectors of targets and regulators.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from sklearn.utils.extmath import randomized_svd

CHIP_COLUMNS = 64
RELATIVES = 12.0  # sharpness of the weights of relatives, over cosines of their motifs
BINDING = (
    "encode",
    "chea",
    "conserved_motifs",
    "circuits",
)  # sources that say where a regulator binds; others, what responds
LEAST_TARGETS = 5  # regulators of a source with fewer teach nothing


@dataclass(frozen=True)
class Split:
    """What is held out."""

    chip_regulators: frozenset[int] = frozenset()  # tokens, out of every source but the curated one
    cells: frozenset[str] = frozenset()  # cell lines of ENCODE
    curated_regulators: frozenset[int] = frozenset()  # tokens
    curated_edges: np.ndarray | None = field(default=None, compare=False)  # N bool of the curated edges


@dataclass(frozen=True, eq=False)
class EdgeEvidence:
    """The compiled file."""

    size: int  # V
    edges: Mapping[str, np.ndarray]  # source -> N 2 int32 tokens
    memberships: np.ndarray  # N 2 int32: experiment, target
    experiments: tuple[dict, ...]  # regulator (token), cell, name
    blocks: Mapping[str, np.ndarray]  # "target.motif", ... -> V columns

    @classmethod
    def read(cls, folder: Path) -> "EdgeEvidence":
        """Read evidence.safetensors and evidence.json.

        Raises
        ------
        FileNotFoundError
            One of the two is missing.
        """
        paths = [folder / name for name in ("evidence.safetensors", "evidence.json")]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is missing; make it: python scripts/compile_regulation.py --out {folder}"
                )
        tensors, content = load_file(paths[0]), json.loads(paths[1].read_text())
        edges = {k.removeprefix("edges."): v for k, v in tensors.items() if k.startswith("edges.")}
        blocks = {k: v for k, v in tensors.items() if k.split(".")[0] in ("source", "target")}
        none = np.zeros((0, 2), np.int32)
        return cls(content["size"], edges, tensors.get("experiments", none), tuple(content["experiments"]), blocks)

    def random_split(self, seed: int, chip: int = 18, cells: int = 8, curated: int = 40, share: float = 0.1) -> Split:
        """Hold out regulators and cell lines of ENCODE, curated regulators of 20 targets or more, and a share of curated edges."""
        rng = np.random.default_rng(seed)
        regulators = np.unique([e["regulator"] for e in self.experiments])
        lines = sorted({e["cell"] for e in self.experiments})
        known, targets = np.unique(self.edges["curated"][:, 0], return_counts=True)
        return Split(
            frozenset(rng.choice(regulators, chip, replace=False).tolist()),
            frozenset(rng.choice(lines, cells, replace=False).tolist()),
            frozenset(rng.choice(known[targets >= 20], curated, replace=False).tolist()),
            rng.random(len(self.edges["curated"])) < share,
        )

    def training_edges(self, split: Split) -> dict[str, np.ndarray]:
        """Edges of each source without what is held out: N 2, unique."""
        found = {}
        if self.experiments:
            experiment, target = self.memberships[self._shown(split)[self.memberships[:, 0]]].T
            regulator = np.array([e["regulator"] for e in self.experiments], np.int32)[experiment]
            found["encode"] = np.unique(np.stack([regulator, target], 1), axis=0)
        for source, edges in self.edges.items():
            held = split.curated_regulators if source == "curated" else split.chip_regulators
            shown = ~np.isin(edges[:, 0], list(held))
            if source == "curated" and split.curated_edges is not None:
                shown &= ~split.curated_edges
            found[source] = edges[shown]
        return found

    def _shown(self, split: Split) -> np.ndarray:
        """Experiments that are not held out: bool."""
        return np.array([
            e["regulator"] not in split.chip_regulators and e["cell"] not in split.cells for e in self.experiments
        ])  # fmt: skip

    def features(self, split: Split, function: np.ndarray, profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is known of regulators and of targets: V P, V Q float32. Blocks have root mean square 1 over known genes.

        Parameters
        ----------
        split
            What is held out.
        function
            V D, GO and Reactome membership (the release's vocab.safetensors).
        profiles
            V P, where genes are expressed (`corpus.gene_profiles`).
        """
        source, target = [function, profiles], [function, profiles]
        if self.experiments or "chea" in self.edges:
            vectors, borrowed = self.chip_vectors(split)
            target.append(vectors)
            source.append(borrowed)
        source += [block for name, block in self.blocks.items() if name.startswith("source.")]
        target += [block for name, block in self.blocks.items() if name.startswith("target.")]
        one, other = (np.concatenate([scaled(block) for block in side], 1) for side in (source, target))
        return one, other

    def chip_vectors(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """ChIP-seq of targets (V 64: an SVD of genes x experiments), and of each regulator's relatives (V 64).

        A relative is a regulator whose DNA motif is alike; the regulator's own experiments stay out, so that one without any is
        described in the same way.
        """
        columns, owners = self.experiment_columns(split)
        known = columns.any(1)
        x = (columns - columns.mean(0)) / (columns.std(0) + 1e-6)
        x -= x.mean(1, keepdims=True)
        x[~known] = 0
        left, scale, right = randomized_svd(x, min(CHIP_COLUMNS, min(x.shape) - 1), random_state=0)
        return left * scale, self._borrowed(right.T, owners)

    def experiment_columns(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Genes x experiments (ENCODE's) and regulators (of the literature's), and whose each column is."""
        shown = self._shown(split) if self.experiments else np.zeros(0, bool)
        columns = np.zeros((self.size, len(shown)), np.float32)
        columns[self.memberships[:, 1], self.memberships[:, 0]] = 1
        owners = np.array([e["regulator"] for e in self.experiments], int)
        edges = self.training_edges(split).get("chea", np.zeros((0, 2), np.int32))
        regulators, code = np.unique(edges[:, 0], return_inverse=True)
        literature = np.zeros((self.size, len(regulators)), np.float32)
        literature[edges[:, 1], code] = 1
        return np.concatenate([columns[:, shown], literature], 1), np.concatenate([owners[shown], regulators])

    def _borrowed(self, loadings: np.ndarray, owners: np.ndarray) -> np.ndarray:
        own = np.zeros((self.size, loadings.shape[1]), np.float32)
        np.add.at(own, owners, loadings)
        studied, times = np.unique(owners, return_counts=True)
        own[studied] /= times[:, None]
        motif = self.blocks.get("source.similarity", np.zeros((self.size, 1), np.float32))
        motif = motif / np.maximum(np.linalg.norm(motif, axis=1, keepdims=True), 1e-9)
        studied = studied[np.abs(motif[studied]).sum(1) > 0]
        described = np.flatnonzero(np.abs(motif).sum(1) > 0)
        weight = np.exp(RELATIVES * (motif[described] @ motif[studied].T - 1))
        weight[described[:, None] == studied] = 0
        found = np.zeros_like(own)
        found[described] = weight @ own[studied] / np.maximum(weight.sum(1, keepdims=True), 0.05)
        return found


def scaled(block: np.ndarray) -> np.ndarray:
    """Root mean square 1 over the genes that a block knows."""
    known = np.abs(block).sum(1) > 0
    size = np.sqrt(np.mean(np.square(block[known], dtype=np.float64))) if known.any() else 1.0
    return (block / size).astype(np.float32)
