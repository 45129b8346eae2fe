"""Independent parts of a run, handed to joblib: processes of this machine, or whatever `joblib.parallel_config` names.

A part is a number. Its task runs anywhere, writes its result to a folder that all processes see, and returns little. A process
that is killed costs the parts that were being computed, which are computed again.
"""

import math
import os
import queue
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import joblib
from joblib.parallel import get_active_backend

from sccafm._settings import logger

WORKER_START = 8.0  # seconds until a new process computes: it imports torch and reads the weights
THREADED_SHARE = (
    0.6  # of a cell's time that threads divide among them; processes divide all of it (benchmarks/atlas.py)
)
MOST_RESTARTS = 3  # of killed workers, without one part finished in between
LEAST_PARTS = 2
LOST_SECONDS = 30  # without a scheduler, after which it is taken to be dead


class WorkerError(RuntimeError):
    """Workers died, or cannot be reached; what they finished is kept."""


def cores() -> int:
    """Cores that this process may use."""
    return joblib.cpu_count()


def configured_jobs() -> int | None:
    """Workers that the caller's `joblib.parallel_config` gives; None where there is none."""
    backend, n_jobs = get_active_backend()
    is_default = type(backend).__name__ == "LokyBackend" and n_jobs is None
    return None if is_default else joblib.effective_n_jobs(n_jobs if n_jobs is not None else backend.default_n_jobs)


def is_local() -> bool:
    """Whether workers are processes or threads of this machine."""
    return type(get_active_backend()[0]).__name__ in (
        "LokyBackend",
        "MultiprocessingBackend",
        "ThreadingBackend",
        "SequentialBackend",
    )


def check_jobs(n_jobs: object) -> None:
    if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, int) or n_jobs == 0):
        raise ValueError(
            f"n_jobs must be a number of processes, -1 for one a core, or None for what is fastest; got {n_jobs!r}"
        )


def choose_jobs(n_jobs: int | None, n_parts: int, part_seconds: float, most: int | None = None) -> int:
    """How many workers compute `n_parts`; 0: this process does.

    Parameters
    ----------
    n_jobs
        As the caller asked; None: as `joblib.parallel_config` says, else one process a core where that is faster than one
        process with as many threads.
    n_parts
        Parts that are not there yet.
    part_seconds
        What one thread takes for a part, about.
    most
        As many as the memory of this machine holds; None: no limit.
    """
    if n_jobs == 1 or n_parts == 0:
        return 0
    limit = max(1, min(n_parts, n_parts if most is None else most))
    if not is_local():  # the scheduler knows its machines
        return min(joblib.effective_n_jobs(n_jobs if n_jobs is not None else -1), n_parts)
    given = joblib.effective_n_jobs(n_jobs) if n_jobs is not None else configured_jobs()
    if given is None:
        n = min(joblib.effective_n_jobs(-1), limit)
        threads = n_parts * part_seconds * (1 - THREADED_SHARE + THREADED_SHARE / cores())
        processes = WORKER_START + math.ceil(n_parts / n) * part_seconds
        given = n if n_parts >= LEAST_PARTS and processes < threads else 1
    n = min(given, limit)
    return 0 if n == 1 else n


def completed(task: Callable, numbers: Iterable[int], n_jobs: int, is_done: Callable[[int], bool]) -> Iterator[int]:
    """Numbers of parts as they are finished.

    Parameters
    ----------
    task
        Called with a number somewhere; pickled by joblib.
    numbers
        Parts to compute.
    n_jobs
        Workers.
    is_done
        Whether the result of a part is there, seen from here.

    Raises
    ------
    WorkerError
        Workers are killed again and again, cannot be reached, or write where this process does not see it.
    """
    left, restarts = list(numbers), 0
    while left:
        before = len(left)
        try:
            for number in _results(Guarded(task), left, n_jobs):
                if not is_done(number):
                    raise WorkerError(
                        f"part {number} was computed, but its files are not seen here: workers on other machines need a "
                        'folder that all machines see, store="..."'
                    )
                left.remove(number)
                yield number
        except Exception as error:
            if not is_lost(error):
                raise
            found = [number for number in left if is_done(number)]
            yield from found
            left = [number for number in left if number not in found]
            restarts = 0 if len(left) < before else restarts + 1
            if not is_restartable(error) or restarts >= MOST_RESTARTS:
                raise WorkerError(told_of(error, len(left))) from error
            if left:
                logger.warning(f"sccafm: a worker was killed; {len(left):,} parts are left and are computed again")


def clear_other_run(folder: Path, mark: str) -> None:
    """Remove a folder of parts that another run left; `mark` tells one run from another."""
    if not (folder / "mark").exists() or (folder / "mark").read_text() != mark:
        shutil.rmtree(folder, ignore_errors=True)


def mark_run(folder: Path, mark: str) -> None:
    """Say whose parts a folder takes, once everything that its workers read is there."""
    (folder / "mark").write_text(mark)


def _results(task: Callable, numbers: list[int], n_jobs: int) -> Iterator[int]:
    settings = {"n_jobs": n_jobs, "batch_size": 1, "pre_dispatch": "2*n_jobs"}
    calls = [joblib.delayed(task)(number) for number in numbers]
    try:
        parallel = joblib.Parallel(return_as="generator_unordered", **settings)
    except ValueError:  # back ends that give nothing before all is done
        parallel = joblib.Parallel(**settings)
    found = parallel(calls)
    client = getattr(get_active_backend()[0], "client", None)
    if client is not None and hasattr(found, "close"):
        yield from watched(found, client)
        return
    try:
        yield from found
    finally:
        if hasattr(found, "close"):  # a generator that is left early stops its workers
            found.close()


class SchedulerLostError(ConnectionError):
    """A Dask client has had no scheduler for `LOST_SECONDS`."""


def watched(found: Iterator[int], client) -> Iterator[int]:
    """Results as they come, until the client of Dask has lost its scheduler: joblib would wait for ever."""
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def collect() -> None:
        try:
            for number in found:
                answers.put(number)
            answers.put(None)
        except BaseException as error:  # raised again where the results are read
            answers.put(error)

    threading.Thread(target=collect, daemon=True).start()
    seen = time.monotonic()
    while True:
        try:
            answer = answers.get(timeout=1)
        except queue.Empty:
            if client.status == "running":
                seen = time.monotonic()
            elif time.monotonic() - seen > LOST_SECONDS:
                raise SchedulerLostError(f"no scheduler for {LOST_SECONDS} seconds") from None
            continue
        if answer is None:
            return
        if isinstance(answer, BaseException):
            raise answer
        yield answer


class Guarded:
    """A task with one thread of torch, where it runs in a process of its own."""

    def __init__(self, task: Callable):
        self.task, self.parent = task, (socket.gethostname(), os.getpid())

    def __call__(self, number: int) -> int:
        if (socket.gethostname(), os.getpid()) != self.parent:
            import torch

            torch.set_num_threads(1)
        self.task(number)
        return number


def is_lost(error: Exception) -> bool:
    """Whether workers or their scheduler failed, and not the task."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {*RESTARTABLE, *UNREACHABLE})


def is_restartable(error: Exception) -> bool:
    return bool({kind.__name__ for kind in type(error).__mro__} & set(RESTARTABLE))


RESTARTABLE = ("BrokenProcessPool", "TerminatedWorkerError")  # loky starts new processes
UNREACHABLE = (
    "KilledWorker", "CommClosedError", "FutureCancelledError", "CancelledError", "ClosedClientError", "TimeoutError",
    "StreamClosedError", "RayError", "SchedulerLostError",
)  # fmt: skip


def told_of(error: Exception, n_left: int) -> str:
    kind = type(error).__name__
    if {k.__name__ for k in type(error).__mro__} & {"KilledWorker", *RESTARTABLE}:
        return (
            f"workers are killed before they finish a part ({kind}), most often for want of memory; {n_left:,} parts are left. "
            "What is finished is kept with store=: call again with fewer workers, n_jobs= or memory_limit="
        )
    return (
        f"the workers or their scheduler cannot be reached any more ({kind}: {str(error).splitlines()[0] if str(error) else 'no reason given'}); "
        f"{n_left:,} parts are left. What is finished is kept with store=: start the scheduler again and call again"
    )
