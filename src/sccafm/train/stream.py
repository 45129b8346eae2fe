"""A corpus that does not fit in memory: windows of cells come and go, in an order that the seed alone decides.

A file is cut into blocks of neighbouring rows, which disks like; a window is a few blocks of one file from all over it,
so that sorted files do no harm. Each micro-batch of a step has a lane of its own, with a few windows of several files in
memory; every so many steps the oldest makes room for the next, which was read meanwhile. A lane depends on the seed and
its number, never on how many processes there are: two processes share the lanes of one, and read half as much each.

Memory: about ``(windows + 2) * window`` cells per lane of the process, some 16 KB each at 2,000 genes seen in a cell.
"""

import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from sccafm.train.config import RunConfig
from sccafm.train.files import DataSet, File, load
from sccafm.train.machine import is_first

PLAN, BLOCKS = 2_000_003, 3_000_017  # added to the seed: of the order of windows, of the order of blocks


class Memory:
    """All files in memory, each a data set; the parameters are those of `Stream`."""

    def __init__(self, files: list[File], config: RunConfig, share: np.ndarray):
        bar = tqdm(
            files, desc="reading", unit="file", disable=None if is_first() else True
        )  # None: on a terminal alone
        self.datasets = [load(file, config) for file in bar]
        self.share = share

    def pick(self, rng: np.random.Generator, number: int) -> DataSet:
        return self.datasets[rng.choice(len(self.datasets), p=self.share)]

    def pick_held_out(self, rng: np.random.Generator) -> DataSet:
        return self.pick(rng, 0)

    def samples(self) -> list[DataSet]:
        return self.datasets

    def close(self) -> None:
        pass


@dataclass(eq=False)
class Lane:
    """The windows of one micro-batch, by number, and which file comes next."""

    rng: np.random.Generator
    files: list[int] = field(default_factory=list)  # of each window so far
    visits: list[int] = field(default_factory=list)  # how often its file came before
    seen: Counter = field(default_factory=Counter)
    held: dict[int, Future] = field(default_factory=dict)


class Stream:
    """Windows of many files; `pick` gives the one that a micro-batch is drawn from.

    Parameters
    ----------
    files
        Surveys of the corpus.
    config
        Seed, cells and micro-batches of a step, and the sizes in ``config.stream``.
    share
        How often each file's windows come, one number a file; they sum to 1.
    """

    def __init__(self, files: list[File], config: RunConfig, share: np.ndarray):
        self.files, self.config, self.share = files, config, share
        self.stride = max(1, config.stream.window // config.batch_size)  # steps until the oldest window goes
        self.lanes = [
            Lane(np.random.default_rng([config.seed + PLAN, lane])) for lane in range(config.accumulate_grad_batches)
        ]
        self.loader = ThreadPoolExecutor(1, "window")
        self.lock = threading.Lock()

    def pick(self, rng: np.random.Generator, number: int) -> DataSet:
        """The window that the micro-batch `number`, counted over all steps, is drawn from."""
        step, lane = divmod(number, self.config.accumulate_grad_batches)
        turn, held = step // self.stride, self.config.stream.windows
        with self.lock:
            futures = self.lanes[lane].held
            for old in [window for window in futures if window < turn - 1]:  # a slower reader may need the last one
                futures.pop(old).cancel()
            for window in range(turn, turn + held + 1):  # and the next, ahead of time
                if window not in futures:
                    futures[window] = self.loader.submit(self._load, lane, window)
            chosen = futures[turn + int(rng.integers(held))]
        return chosen.result()

    def pick_held_out(self, rng: np.random.Generator) -> DataSet:
        """A window around a held-out cell."""
        file = self.files[rng.choice(len(self.files), p=self.share)]
        cell = rng.choice(np.flatnonzero(file.is_held_out))
        blocks = self._blocks(file)
        first = next(i for i, block in enumerate(blocks) if block[-1] >= cell)
        others = rng.permutation(np.setdiff1d(np.arange(len(blocks)), first))
        chosen = np.sort([first, *others[: self._blocks_of_window - 1]])
        return load(file, self.config, [blocks[i] for i in chosen])

    def samples(self):
        """One window of each file."""
        return (load(file, self.config, self.window(file, 0)) for file in self.files)

    def window(self, file: File, visit: int) -> list[np.ndarray]:
        """Runs of cells of a file's visit: every block comes once before any comes again, in an order of its own."""
        blocks = self._blocks(file)
        groups = max(1, round(len(blocks) / self._blocks_of_window))
        epoch, group = divmod(visit, groups)
        order = np.random.default_rng([self.config.seed + BLOCKS, epoch, *file.name.encode()]).permutation(len(blocks))
        return [blocks[i] for i in np.sort(np.array_split(order, groups)[group])]

    def close(self) -> None:
        self.loader.shutdown(cancel_futures=True)

    @property
    def _blocks_of_window(self) -> int:
        return max(1, self.config.stream.window // self.config.stream.block)

    def _blocks(self, file: File) -> list[np.ndarray]:
        cells = np.arange(len(file.cells))
        return np.array_split(cells, max(1, round(len(cells) / self.config.stream.block)))

    def _load(self, lane: int, window: int) -> DataSet:
        file, visit = self._plan(self.lanes[lane], window)
        # Lanes take turns through a file, so that no two read the same cells before all were read.
        return load(self.files[file], self.config, self.window(self.files[file], visit * len(self.lanes) + lane))

    def _plan(self, lane: Lane, window: int) -> tuple[int, int]:
        """File of a lane's window, and how often the lane had the file before; called by the loader's one thread."""
        while len(lane.files) <= window:
            for file in lane.rng.choice(len(self.files), 1024, p=self.share).tolist():
                lane.files.append(file)
                lane.visits.append(lane.seen[file])
                lane.seen[file] += 1
        return lane.files[window], lane.visits[window]
