"""Making a stage's artifacts on a Ray cluster.

Every node must see the run folder and the pool under the same paths, as on a shared file system;
relative ones are from where the driver was started.
A task is one artifact, or those of one pass; it writes aside and renames, so a task whose worker or
node died is given to another, and a driver that died goes on from what is on disk.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsdm.errors import ArtifactError, ConfigError, DsdmError
from dsdm.experiment import Experiment
from dsdm.pipeline import work as pipeline_work
from dsdm.pipeline.work import progress
from dsdm.pipeline.workers import Maker, Spread, Workers, perform_paths, use_threads

RETRIES = 3
"""Further workers that a task is given to where one dies."""
NO_MODEL = (
    "tokenizer",
    "examples",
    "targets",
    "overlap",
    "topics",
    "selection",
    "dataset",
    "heldout",
    "shared",
)
"""Stages whose artifacts need no GPU."""


@contextmanager
def on_ray(experiment: Experiment, config: Workers, address: str) -> Iterator[Spread]:
    """How to have artifacts made on the cluster at `address`.

    `config.count` limits the tasks at a time where a cluster is started; an existing cluster runs
    as many as its CPUs allow, at `config.threads_each` each. Where it has GPUs, whatever runs a
    model takes one.

    Raises:
        ConfigError: Ray is not installed.
        ArtifactError: there is no cluster at the address.
    """
    ray = _import_ray()
    threads = config.threads_each
    _connect(ray, address, config.count * threads)
    # A worker that dies takes its task's time with it, and nothing else.
    task = ray.remote(max_retries=RETRIES, num_cpus=threads)(_perform)
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    described = ray.put(experiment)

    def spread(maker: Maker, stage: str, groups: Sequence[Sequence[Path]]) -> None:
        fitted = task.options(num_gpus=int(has_gpus and stage not in NO_MODEL))
        here = os.getcwd()
        running = [fitted.remote(described, maker, paths, threads, here) for paths in groups]
        _finish(ray, running, stage)

    try:
        yield spread
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--ray: Ray is not installed. Install dsdm with its `ray` extra: "
            "pip install 'dsdm[ray]'."
        ) from error
    return ray


def _connect(ray: Any, address: str, num_cpus: int) -> None:
    """To the cluster at `address`, or to one of `num_cpus` that is started."""
    settings = {"log_to_driver": False, "logging_level": "error"}
    try:
        _check_address(address)
        if address == "local":
            ray.init("local", num_cpus=num_cpus, include_dashboard=False, **settings)
        else:
            ray.init(address, **settings)
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"--ray {address}: no Ray cluster can be reached there ({error}). Start one with "
            "`ray start --head`, or give --ray local."
        ) from error


def _check_address(address: str) -> None:
    """Ray itself waits for minutes where nobody listens."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _perform(
    experiment: Experiment, maker: Maker, paths: Sequence[Path], threads: int, started_in: str
) -> int:
    with contextlib.suppress(OSError):  # a worker has paths that are relative to somewhere else
        os.chdir(started_in)
    pipeline_work.shows_bars = False  # the driver's bar counts artifacts
    use_threads(threads)
    return perform_paths(experiment, maker, paths)


def _finish(ray: Any, running: list[Any], stage: str) -> None:
    """Waits for all; an error of one stops those that have not begun."""
    with progress(stage, len(running), "artifacts") as advance:
        waiting = list(running)
        try:
            while waiting:
                (done,), waiting = ray.wait(waiting)
                ray.get(done)
                advance(1)
        except ray.exceptions.RayTaskError as error:
            _let_begun_finish(ray, waiting)
            if isinstance(error.cause, DsdmError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise ArtifactError(
                f"Ray: a worker or node died {RETRIES + 1} times at the same work, or the cluster "
                f"is gone ({type(error).__name__}). What was finished is kept: the same command "
                "goes on from there."
            ) from error


def _let_begun_finish(ray: Any, waiting: list[Any]) -> None:
    for task in waiting:
        ray.cancel(task, force=False)
    if waiting:
        ray.wait(waiting, num_returns=len(waiting))
