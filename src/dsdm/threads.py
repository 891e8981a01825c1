"""How many threads to compute with: as many as the machine has free, and the same for a whole run.

The number of threads changes how sums are rounded. So a run's number is chosen once, when the run
is created, and written into its folder; every later command and worker reads it there.
"""

import json
import os
import time
from pathlib import Path

from dsdm.artifacts import disk_errors, write_whole
from dsdm.errors import ArtifactError

FILE = "threads.json"
LOOKS_SECONDS = 0.3
"""How long the other processes of the machine are watched."""
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
STAT = Path("/proc/stat")


def choose_threads(
    folder: Path, wanted: int | None = None, *, initial: int | None = None, workers: int = 1
) -> int:
    """Threads of each process that computes for the run in `folder`, written there.

    Args:
        folder: The run's; it is made where it is missing.
        wanted: Takes the place of what is written; None: what is written counts.
        initial: For a run that has no number yet; None: as many as the machine has free.
        workers: Processes side by side that share what is free.

    Raises:
        ArtifactError: the file can't be read or written.
    """
    path = folder / FILE
    if wanted is None and path.exists():
        try:
            return int(json.loads(path.read_text(encoding="utf-8"))["threads"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path}: the number of threads can't be read ({error}). Give it again with "
                "--threads."
            ) from error
    threads = wanted or initial or default_threads(busy_cpus(), workers)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"threads": threads}).encode() + b"\n")
    return threads


def default_threads(load: float | None, workers: int = 1) -> int:
    """Threads for each of the workers: the CPUs that other processes leave free, at least one.

    Args:
        load: CPUs that other processes keep busy; None: unknown, taken for none.
        workers: Processes side by side.
    """
    free = available_cpus() - round(load or 0.0)
    return max(1, free // workers)


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables for at most so many threads, which sleep while they wait.

    They are read when torch, numpy and tokenizers are loaded. A thread that spins while it waits
    takes the processor from the process that it waits for.
    """
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    passive = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
    return dict.fromkeys(counts, str(threads)) | passive


def available_cpus(cgroups: Path = CGROUPS, own_cgroups: Path = OWN_CGROUPS) -> int:
    """CPUs that this process may use: by its affinity and its container's quota, at least one."""
    quota = _cpu_quota(cgroups, own_cgroups)
    count = len(_own_cpus())
    return count if quota is None else max(1, min(count, int(quota)))


def busy_cpus(seconds: float = LOOKS_SECONDS, stat: Path = STAT) -> float | None:
    """How many of the CPUs that this process may use others keep busy; None where unknown.

    Work of low priority, which gives way, doesn't count.
    """
    before = _cpu_times(stat)
    time.sleep(seconds)
    after = _cpu_times(stat)
    busy = [
        (after[cpu][0] - before[cpu][0]) / max(1, after[cpu][1] - before[cpu][1])
        for cpu in before.keys() & after.keys()
    ]
    return sum(busy) if busy else None


def _own_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _cpu_times(stat: Path) -> dict[int, tuple[int, int]]:
    """Busy and total ticks of each CPU that this process may use."""
    try:
        lines = stat.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    times = {}
    for line in lines:
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            # user nice system idle iowait irq softirq steal; guests are in user and nice.
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, fields[:8])
            busy = user + system + irq + softirq + steal
            times[int(name[3:])] = busy, busy + nice + idle + iowait
    return {cpu: times[cpu] for cpu in _own_cpus() & times.keys()}


def _cpu_quota(cgroups: Path, own_cgroups: Path) -> float | None:
    """CPUs by the strictest quota of this process's control groups, version 1 or 2."""
    try:
        lines = own_cgroups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = cgroups / controllers
        group = top / path.strip("/")
        # A limit of a group above holds too. In a container the path may be the host's.
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            quotas += [quota for quota in (_quota_v2(folder), _quota_v1(folder)) if quota]
    return min(quotas, default=None)


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
