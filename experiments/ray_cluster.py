"""A Ray cluster of two nodes that are both this machine, and its workers' processes.

    python experiments/ray_cluster.py CORES

starts one whose nodes have so many cores each, prints its address, and ends with standard input.
"""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from record import ROOT


@contextmanager
def two_nodes(cores: int = 1) -> Iterator[str]:
    """The address of a cluster whose nodes have so many cores each.

    It is started by another process: one that has talked to a cluster can't be forked.
    """
    paths = [str(ROOT), str(ROOT / "src"), str(ROOT / "experiments")]
    # Read by Ray when it starts a worker.
    settings = {"PYTHONPATH": os.pathsep.join(paths), "RAY_worker_niceness": "0"}
    with subprocess.Popen(
        [sys.executable, str(Path(__file__)), str(cores)],
        env=os.environ | settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise SystemExit("no Ray cluster could be started")
        yield address


def _serve(cores: int) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(
                num_cpus=cores, object_store_memory=100_000_000, include_dashboard=False
            )
        print(cluster.address, flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


def some_worker(rng: random.Random) -> int | None:
    """A process that is at a task of dsdm's on a node that this process started."""
    workers = [pid for pid in _descendants(os.getpid()) if b"ray::_perform" in _command(pid)]
    return rng.choice(sorted(workers)) if workers else None


def _descendants(root: int) -> set[int]:
    parents = {int(path.name): _parent(path) for path in Path("/proc").glob("[0-9]*")}
    found, more = set(), {root}
    while more:
        found |= more
        more = {pid for pid, parent in parents.items() if parent in found} - found
    return found - {root}


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
