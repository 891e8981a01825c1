"""Making a stage's artifacts in this process, or in several beside each other.

A worker is told which artifact to make, not how: it finds the work in the experiment itself, so
nothing but the experiment and a path goes to it. (A cluster's workers can be told the same.)
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dsdm.errors import ArtifactError
from dsdm.experiment import Experiment
from dsdm.pipeline import work as pipeline_work
from dsdm.pipeline.run import Run
from dsdm.pipeline.work import Work, passes, perform_together

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

Maker = Callable[[Run], Iterator[Work]]
Perform = Callable[[Maker, Sequence[Work]], int]
"""Makes those of the works that are missing; returns how many. All are of one maker."""


@contextmanager
def workers(experiment: Experiment, count: int) -> Iterator[Perform]:
    """How to make many artifacts with `count` processes; 1 is this one.

    Each of several processes gets its share of the cores. Which process makes what does not change
    what is made, but the number of threads a process has changes rounding.
    """
    if count == 1:
        yield lambda maker, works: _perform_here(works)
        return
    context = multiprocessing.get_context("spawn")
    positions: Queue[int] = context.Queue()
    for position in range(count):
        positions.put(position)
    threads = max(1, (os.cpu_count() or 1) // count)
    with ProcessPoolExecutor(count, context, _start_worker, (positions, threads)) as pool:

        def perform_beside(maker: Maker, works: Sequence[Work]) -> int:
            if any(work.follows_siblings for work in works):
                return _perform_here(works)
            missing = [work for work in works if work.state()[0] != "done"]
            groups = [[work.path for work in group] for group in passes(missing)]
            _finish([pool.submit(_perform, experiment, maker, paths) for paths in groups])
            return len(missing)

        yield perform_beside


def _perform_here(works: Sequence[Work]) -> int:
    return sum(perform_together(group) for group in passes(works))


def _finish(futures: Sequence[Future[int]]) -> None:
    """Waits for all; after an error, for those that have begun, whose results are then kept."""
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done():
                future.result()
    except BrokenProcessPool as error:
        raise ArtifactError(
            "A worker process died (killed, or out of memory). What was finished is kept: the same "
            "command goes on from there, with fewer --workers if memory was short."
        ) from error
    finally:
        for future in futures:
            future.cancel()


def _start_worker(positions: "Queue[int]", threads: int) -> None:
    import torch
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(threads)
    transformers_logging.disable_progress_bar()
    pipeline_work.bar_position = positions.get()


def _perform(experiment: Experiment, maker: Maker, paths: Sequence[Path]) -> int:
    return perform_together([work for work in maker(Run(experiment)) if work.path in paths])
