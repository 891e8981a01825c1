"""Making a stage's artifacts in this process, in several beside each other, or on a Ray cluster.

A worker is told which artifacts to make, not how: it finds the work in the experiment itself, so
nothing but the experiment and paths goes to it.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
Spread = Callable[[Maker, str, Sequence[Sequence[Path]]], None]
"""Has artifacts of a maker and stage made elsewhere: groups of paths, each for one worker."""


@dataclass(frozen=True)
class Workers:
    """Who makes artifacts, and with how many threads.

    Which worker makes what, and in which order, does not change what is made; the number of
    threads a worker computes with changes rounding.
    """

    count: int = 1
    """Processes beside each other; 1 is this one."""
    threads: int | None = None
    """Threads of each; None: its share of the cores."""
    ray: str | None = None
    """Address of a Ray cluster, `auto` for the one this machine belongs to, `local` for one that is
    started for the run; None: no Ray."""

    @property
    def threads_each(self) -> int:
        """Threads of each worker."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.count)


LOOKS_EVERY_SECONDS = 1.0
"""How often a worker looks whether its parent is still there."""
HERE = Workers()
"""This process."""


@contextmanager
def workers(experiment: Experiment, config: Workers) -> Iterator[Perform]:
    """How to make many artifacts.

    Raises:
        ConfigError: Ray is asked for and not installed.
        ArtifactError: there is no Ray cluster at the address.
    """
    if config.ray is not None:
        from dsdm.pipeline.ray_workers import on_ray

        with on_ray(experiment, config, config.ray) as spread:
            yield partial(_perform_elsewhere, spread)
    elif config.count == 1:
        if config.threads is not None:
            import torch

            torch.set_num_threads(config.threads)
        yield lambda maker, works: _perform_here(works)
    else:
        with _in_processes(experiment, config) as spread:
            yield partial(_perform_elsewhere, spread)


def _perform_here(works: Sequence[Work]) -> int:
    return sum(perform_together(group) for group in passes(works))


def _perform_elsewhere(spread: Spread, maker: Maker, works: Sequence[Work]) -> int:
    if any(work.follows_siblings for work in works):
        return _perform_here(works)
    missing = [work for work in works if not work.is_done()]
    if missing:
        groups = [[work.path for work in group] for group in passes(missing)]
        spread(maker, missing[0].stage, groups)
    return len(missing)


def perform_paths(experiment: Experiment, maker: Maker, paths: Sequence[Path]) -> int:
    """What a worker does: makes the artifacts at some paths; returns how many were missing."""
    return perform_together([work for work in maker(Run(experiment)) if work.path in paths])


@contextmanager
def _in_processes(experiment: Experiment, config: Workers) -> Iterator[Spread]:
    context = multiprocessing.get_context("spawn")
    positions: Queue[int] = context.Queue()
    for position in range(config.count):
        positions.put(position)
    settings = (positions, config.threads_each, os.getpid())
    with ProcessPoolExecutor(config.count, context, _start_worker, settings) as pool:

        def spread(maker: Maker, stage: str, groups: Sequence[Sequence[Path]]) -> None:
            _finish([pool.submit(perform_paths, experiment, maker, paths) for paths in groups])

        yield spread


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


def _start_worker(positions: "Queue[int]", threads: int, parent: int) -> None:
    import torch

    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    use_threads(threads)
    pipeline_work.bar_position = positions.get()
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(pipeline_work.bar_position % torch.cuda.device_count())


def _end_with(parent: int) -> None:
    """Ends this process once its parent is gone: a killed one can't tell its workers to stop."""
    while os.getppid() == parent:
        time.sleep(LOOKS_EVERY_SECONDS)
    os._exit(1)


def use_threads(threads: int) -> None:
    """Sets up a worker's process."""
    import torch
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(threads)
    transformers_logging.disable_progress_bar()
