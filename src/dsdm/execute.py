"""Makes artifacts: in this process, in several processes side by side, or on a Ray cluster.

Every way is one function, `submit(stage, groups)`: it makes the missing artifacts of each group in
one call and raises the first error. Which worker makes what, and in which order, changes no byte.
An artifact is sent whole, with the name of its maker; a worker plans nothing.
"""

import contextlib
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsdm.errors import ArtifactError, ConfigError, DsdmError
from dsdm.graph import Artifact, grouped, is_missing, make_missing
from dsdm.progress import BARS, Bars, progress

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

Groups = Sequence[Sequence[Artifact]]
Submit = Callable[[str, Groups], None]
"""Makes the artifacts of a stage: groups of artifacts, each made in one call."""

LOOKS_EVERY_SECONDS = 1.0
"""How often a worker looks whether its parent is still there."""
RETRIES = 3
"""Further workers that a Ray task is given to where one dies."""


@dataclass(frozen=True)
class Workers:
    """Who makes artifacts, and with how many threads.

    The number of threads that a worker computes with changes rounding.
    """

    count: int = 1
    """Processes side by side; 1 is this one."""
    threads: int | None = None
    """Threads of each; None: its share of the cores."""
    ray: str | None = None
    """Address of a Ray cluster: `auto` for the one this machine belongs to, `local` for one that
    is started for the run; None: no Ray."""

    @property
    def threads_each(self) -> int:
        """Threads of each worker."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.count)


LOCAL = Workers()
"""This process."""


@contextmanager
def executor(workers: Workers) -> Iterator[Submit]:
    """How artifacts are made.

    Raises:
        ConfigError: Ray is asked for and not installed.
        ArtifactError: there is no Ray cluster at the address.
    """
    if workers.ray is not None:
        with _on_ray(workers, workers.ray) as submit:
            yield submit
    elif workers.count > 1:
        with _in_processes(workers) as submit:
            yield submit
    else:
        if workers.threads is not None:
            import torch

            torch.set_num_threads(workers.threads)
        yield make_here


def make_stage(submit: Submit, artifacts: Sequence[Artifact]) -> int:
    """Makes those artifacts of a stage that are missing; returns how many.

    Raises:
        DsdmError: as makers do; what was finished is kept.
    """
    missing = [artifact for artifact in artifacts if is_missing(artifact)]
    # What needs others of its stage is made after them.
    waves: dict[str, int] = {}
    for artifact in missing:
        waves[artifact.name] = 1 + max((waves.get(name, 0) for name in artifact.inputs), default=0)
    for wave in range(1, max(waves.values(), default=0) + 1):
        now = [artifact for artifact in missing if waves[artifact.name] == wave]
        submit(now[0].stage, grouped(now))
    return len(missing)


def make_here(stage: str, groups: Groups) -> None:
    """Makes artifacts in this process, one group after another."""
    for group in groups:
        make_missing(group)


@contextmanager
def _in_processes(workers: Workers) -> Iterator[Submit]:
    context = multiprocessing.get_context("spawn")
    positions: Queue[int] = context.Queue()
    for position in range(workers.count):
        positions.put(position)
    settings = (positions, workers.threads_each, os.getpid())
    with ProcessPoolExecutor(workers.count, context, _start_worker, settings) as pool:

        def submit(stage: str, groups: Groups) -> None:
            futures = [pool.submit(make_missing, list(group)) for group in groups]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                for future in futures:
                    if future.done():
                        future.result()
            except BrokenProcessPool as error:
                raise ArtifactError(
                    "A worker process died (killed, or out of memory). What was finished is kept: "
                    "the same command goes on from there, with fewer --workers if memory was short."
                ) from error
            finally:
                # After an error, what has begun ends, and its results are kept.
                for future in futures:
                    future.cancel()

        yield submit


def _start_worker(positions: "Queue[int]", threads: int, parent: int) -> None:
    import torch

    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _use_threads(threads)
    position = positions.get()
    BARS.set(Bars(position=position))
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(position % torch.cuda.device_count())


def _end_with(parent: int) -> None:
    """Ends this process once its parent is gone: a killed one can't tell its workers to stop."""
    while os.getppid() == parent:
        time.sleep(LOOKS_EVERY_SECONDS)
    os._exit(1)


def _use_threads(threads: int) -> None:
    import torch
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(threads)
    transformers_logging.disable_progress_bar()


@contextmanager
def _on_ray(workers: Workers, address: str) -> Iterator[Submit]:
    """Makes artifacts on the cluster at `address`.

    Every node must see the run folder and the pool under the same paths, as on a shared file
    system; relative ones are from where the driver was started. A task is one group of artifacts,
    written aside and renamed, so a task whose worker or node died is given to another, and a driver
    that died goes on from what is on disk. `workers.count` limits the tasks at a time where a
    cluster is started; an existing cluster runs as many as its CPUs allow.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--ray: Ray is not installed. Install dsdm with its `ray` extra: "
            "pip install 'dsdm[ray]'."
        ) from error
    threads = workers.threads_each
    _connect(ray, address, workers.count * threads)
    task = ray.remote(max_retries=RETRIES, num_cpus=threads)(_make_on_ray)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    has_gpus = resources.get("GPU", 0) > 0

    def submit(stage: str, groups: Groups) -> None:
        here = os.getcwd()
        running = [
            task.options(num_gpus=int(has_gpus and group[0].needs_model)).remote(
                list(group), threads, here
            )
            for group in groups
        ]
        _wait_on_ray(ray, running, stage)

    try:
        yield submit
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str, num_cpus: int) -> None:
    """To the cluster at `address`, or to one of `num_cpus` that is started."""
    settings = {"log_to_driver": False, "logging_level": "error"}
    try:
        host, _, port = address.rpartition(":")
        if host and port.isdecimal() and "/" not in host:
            # Ray itself waits for minutes where nobody listens.
            socket.create_connection((host, int(port)), timeout=10).close()
        if address == "local":
            ray.init("local", num_cpus=num_cpus, include_dashboard=False, **settings)
        else:
            ray.init(address, **settings)
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"--ray {address}: no Ray cluster can be reached there ({error}). Start one with "
            "`ray start --head`, or give --ray local."
        ) from error


def _make_on_ray(artifacts: Sequence[Artifact], threads: int, started_in: str) -> int:
    with contextlib.suppress(OSError):  # the run may have no relative path
        os.chdir(started_in)
    BARS.set(Bars(shown=False))  # the driver's bar counts artifacts
    _use_threads(threads)
    return make_missing(artifacts)


def _wait_on_ray(ray: Any, running: list[Any], stage: str) -> None:
    """Waits for all; an error of one stops those that have not begun."""
    with progress(stage, len(running), "artifacts") as advance:
        waiting = list(running)
        try:
            while waiting:
                (done,), waiting = ray.wait(waiting)
                ray.get(done)
                advance(1)
        except ray.exceptions.RayTaskError as error:
            for task in waiting:
                ray.cancel(task, force=False)
            if waiting:
                ray.wait(waiting, num_returns=len(waiting))
            if isinstance(error.cause, DsdmError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise ArtifactError(
                f"Ray: a worker or node died {RETRIES + 1} times at the same work, or the cluster "
                f"is gone ({type(error).__name__}). What was finished is kept: the same command "
                "goes on from there."
            ) from error
