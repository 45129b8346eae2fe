"""What a run will take, from its sizes alone: memory of a process, disk, and roughly the time of a cell.

`sccafm.plan` measures the time on the machine and on some cells; the rest of it stands here.
"""

from dataclasses import dataclass
from pathlib import Path

from sccafm._machine import available_memory, free_disk, read_bytes, show_bytes
from sccafm._text import warn
from sccafm.grn.storage import PART_CELLS
from sccafm.nn import SFMConfig

BASE_MEMORY = 600 * 2**20  # of a worker that has imported everything and read the weights
OWN_MEMORY = 860 * 2**20  # of the process that reads the data: vocabulary, edge model and tables as well
OWN_PAIR_MEMORY = 170  # bytes of a pair there, where the null is fitted
EDGE_BYTES = 4.5  # of an edge on disk
EDGE_MEMORY = 20  # of an edge in memory
EDGE_COPIES = 4  # of a part's edges while it is sorted and written
PAIR_MEMORY = 56  # bytes of a regulator-target pair: what is known of it, and what is computed of a cell's scores
PRODUCT_RATE = 80e9  # floating-point operations a second of one core, about
PAIR_SECONDS = 12e-9  # of one pair of one cell outside of the network
FREE_SHARE = 0.8  # of the free memory that workers may take by default


@dataclass(frozen=True)
class Size:
    """What the cost of a run depends on."""

    cells: int
    genes: int  # G
    regulators: int  # T
    groups: int
    top_k: int | None
    keep_factors: bool
    null_cells: int
    config: SFMConfig

    @property
    def pairs(self) -> int:
        return self.genes * self.regulators

    @property
    def edges(self) -> int:
        """Of one cell, at most."""
        return self.pairs if self.top_k is None else min(self.top_k, self.pairs)

    def cell_seconds(self) -> float:
        """Of one cell on one core, within a factor of two or so."""
        config, length = self.config, self.genes + 1
        hidden = config.backbone_mlp_hidden_dim or 4 * config.embed_dim
        linear = 2 * length * (4 * config.embed_dim**2 + 3 * config.embed_dim * hidden)
        attention = 4 * length**2 * config.embed_dim  # of the first layer half, see `sccafm.nn.shared_start`
        products = 2 * self.pairs * config.num_factors
        return (
            config.num_layers * linear + max(config.num_layers - 0.5, 0) * attention + products
        ) / PRODUCT_RATE + self.pairs * PAIR_SECONDS

    def array_bytes(self) -> int:
        """Of one cell in the arrays."""
        config = self.config
        plain = 4 * (config.num_factors + config.embed_dim + 2 * self.regulators + 1)
        kept = min(config.topk or config.num_factors, config.num_factors)
        return plain + (6 * kept * (self.genes + self.regulators) if self.keep_factors else 0)

    def sums_bytes(self) -> int:
        return 8 * self.groups * (self.pairs + self.genes) + 8 * self.config.num_factors * (
            self.genes + self.regulators
        )

    def disk_bytes(self, edge_bytes: float = EDGE_BYTES) -> int:
        """Of the folder: edges, arrays, sums, and what is known of the pairs."""
        return int(
            self.cells * (self.edges * edge_bytes + self.array_bytes()) + 2 * self.sums_bytes() + 16 * self.pairs
        )

    def worker_bytes(self) -> int:
        """Memory of a process that computes parts."""
        config, part = self.config, min(PART_CELLS, self.cells)
        factors = 4 * config.num_factors * (self.genes + self.regulators)
        batch = 16 * factors
        tokens = 4 * (self.genes + 1) * (12 * config.embed_dim + 4 * config.num_factors)
        edges = part * self.edges * EDGE_MEMORY * EDGE_COPIES
        sums = min(self.groups, part) * 8 * self.pairs
        return int(
            BASE_MEMORY + self.pairs * PAIR_MEMORY + batch + tokens + edges + 2 * part * self.array_bytes() + sums
        )

    def own_bytes(self) -> int:
        """Memory of the process that reads the data and finds out what all parts share, where it computes the parts as well."""
        groups = max(self.groups - 1, 0) * 12 * self.pairs
        return int(OWN_MEMORY + self.pairs * OWN_PAIR_MEMORY + groups)

    def result_bytes(self) -> int:
        """Memory of the results where they are not stored."""
        return self.cells * (self.edges * EDGE_MEMORY + self.array_bytes()) + self.sums_bytes()


def most_workers(size: Size, memory_limit: int | str | None) -> int | None:
    """How many processes the memory holds, at least one; None where that is not known."""
    if memory_limit is not None:
        most = read_bytes(memory_limit) // size.worker_bytes()
        if most < 1:
            warn(
                f"memory_limit={memory_limit!r} is less than one process needs, about {show_bytes(size.worker_bytes())}; one is "
                "used. Read fewer genes, n_top_genes= or genes=, for less"
            )
        return max(int(most), 1)
    free = available_memory()
    return None if free is None else max(int(FREE_SHARE * free // size.worker_bytes()), 1)


def warn_before(size: Size, folder: Path | None) -> None:
    """Say before a run starts that its results will not fit on the disk, or in memory where there is no folder."""
    if folder is not None:
        needed, free = size.disk_bytes(), free_disk(folder)
        if needed > free:
            warn(
                f"{folder} will take about {show_bytes(needed)}, and {show_bytes(free)} are free on its disk: the run will stop when "
                "it is full. Keep fewer edges (top_k=), or name a folder on another disk"
            )
        return
    needed, free = size.result_bytes(), available_memory()
    if free is not None and needed > free:
        warn(
            f"the results will take about {show_bytes(needed)} of memory, and {show_bytes(free)} are free; pass "
            'store="folder" to write them to disk while cells are read'
        )
