"""Runs a small pipeline again and again, kills it at random moments, and compares every byte.

    python experiments/faults.py --executor inprocess --runs 200
    python experiments/faults.py --executor ray --runs 50

Each run is killed with SIGKILL one to three times and started again until it is done. First kills
go to the stages in turn: half at a boundary between two writes, half at any moment of the stage. On
Ray (two nodes, both this machine) they are at any moment, of the driver and of a worker in turn.
Runs that need more than the same command again, or end with other bytes than the undisturbed run,
are `different`. What is done is kept in --folder, so that the same command goes on from there.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kills import Begins, Boundary, Kill, in_a_fork, list_boundaries
from record import ROOT, figure, write_figures
from small_run import (
    STAGE_NAMES,
    differing,
    forget_run,
    made_in,
    make_world,
    run_all,
    small_experiment,
)

from dsdm.stages import LOCAL, Workers

DONE = "done.jsonl"
MOST_STARTS = 30


@dataclass(frozen=True)
class Undisturbed:
    """What a run passes, takes and ends with where nothing happens."""

    boundaries: list[Boundary]
    """Empty where work is done in other processes."""
    seconds: dict[str, float]
    """That each stage takes."""
    contents: dict[str, bytes]


def main(arguments: list[str] | None = None) -> None:
    """Runs, writes `faults.EXECUTOR.runs` and `.different`, and shows where the kills fell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--executor", choices=["inprocess", "ray"], default="inprocess")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="of this soak; default runs/faults/EXECUTOR")
    parser.add_argument("--no-figures", action="store_true", help="leave experiments/results alone")
    options = parser.parse_args(arguments)
    folder = options.folder or ROOT / "runs" / "faults" / options.executor
    with _executor(options.executor) as (workers, kills):
        soak(folder, workers, kills, options.runs, options.seed)
    results = load_results(folder)
    print_kills(results)
    for result in results:
        if result["problems"]:
            print(f"run {result['run']}: {result}")
    if not options.no_figures:
        write_figures(f"faults_{options.executor}", _figures(options.executor, results))


@contextmanager
def _executor(name: str) -> Iterator[tuple[Workers, "type[InProcessKills]"]]:
    """Who makes artifacts, and what ends them."""
    with nullcontext() if name == "inprocess" else _cluster() as address:
        if name == "inprocess":
            yield LOCAL, InProcessKills
        else:
            yield Workers(threads=1, ray=address), RayKills


@contextmanager
def _cluster() -> Iterator[str]:
    from ray_cluster import two_nodes

    with two_nodes() as address:
        yield address


class InProcessKills:
    """Draws when a process is killed."""

    watches = True
    """Whether boundaries are of use."""

    def __init__(self, undisturbed: Undisturbed, rng: random.Random, run: int) -> None:
        self.undisturbed = undisturbed
        self.rng = rng
        self.run = run

    def first(self) -> tuple[str, Kill]:
        """The run's first, in its turn's stage."""
        stage = self.stage_in_turn()
        numbers = [i for i, b in enumerate(self.undisturbed.boundaries, 1) if b.stage == stage]
        if self.run % 2 == 0 and numbers:
            number = numbers[int(self.share_in_turn() * len(numbers))]
            return "boundary", Kill(boundary=number)
        return "moment", self.moment(stage, self.share_in_turn())

    def stage_in_turn(self) -> str:
        """The one that the run's first kill goes to."""
        return STAGE_NAMES[self.run // 2 % len(STAGE_NAMES)]

    def share_in_turn(self) -> float:
        """How far into its stage the first kill is: multiples of the golden ratio are spread."""
        turn = self.run // (2 * len(STAGE_NAMES))
        return (turn + self.rng.random() / 8) * 0.618034 % 1

    def next(self) -> tuple[str, Kill]:
        """A further one, which may be later than what is left to do."""
        if self.rng.random() < 0.5:
            return "boundary", Kill(boundary=self.rng.randint(1, 120))
        return "moment", self.moment(self.rng.choice(STAGE_NAMES), self.rng.random())

    def moment(self, stage: str, share: float) -> Kill:
        """When a share of the time that a stage takes is over."""
        return Kill(stage=stage, seconds=share * self.undisturbed.seconds[stage])


class RayKills(InProcessKills):
    """Kills the driver and a worker in turn."""

    watches = False

    def first(self) -> tuple[str, Kill]:
        """The run's first, in its turn's stage."""
        return self._at(self.stage_in_turn(), self.share_in_turn(), is_worker=self.run % 2 == 0)

    def next(self) -> tuple[str, Kill]:
        """A further one, which may be later than what is left to do."""
        stage, share = self.rng.choice(STAGE_NAMES), self.rng.random()
        return self._at(stage, share, is_worker=self.rng.random() < 0.5)

    def _at(self, stage: str, share: float, *, is_worker: bool) -> tuple[str, Kill]:
        from ray_cluster import some_worker

        moment = self.moment(stage, share)
        if not is_worker:
            return "driver", moment
        victim = partial(some_worker, self.rng)
        return "worker", Kill(stage=stage, seconds=moment.seconds, victim=victim)


def soak(folder: Path, workers: Workers, kills: type[InProcessKills], runs: int, seed: int) -> None:
    """Does those of the runs that are not in the folder's record yet."""
    world = folder / "world"
    if not world.exists():
        make_world(world)
    num_done = len(load_results(folder))
    undisturbed = _undisturbed(world, workers, kills)
    for number in range(num_done, runs):
        rng = random.Random(f"{seed} {number}")
        result = killed_run(world, workers, kills(undisturbed, rng, number), undisturbed)
        with open(folder / DONE, "a", encoding="utf-8") as file:
            file.write(json.dumps({"run": number, **result}) + "\n")


def _undisturbed(world: Path, workers: Workers, kills: type[InProcessKills]) -> Undisturbed:
    forget_run(world)
    body = partial(_run, world, workers)
    boundaries, ending = list_boundaries(body, world) if kills.watches else ([], in_a_fork(body))
    if ending.error:
        raise SystemExit(f"the undisturbed run: {ending.error}")
    return Undisturbed(boundaries, ending.seconds, made_in(world))


def _run(world: Path, workers: Workers, begins: Begins) -> None:
    run_all(small_experiment(world), workers, begins)


def killed_run(
    world: Path, workers: Workers, kills: InProcessKills, undisturbed: Undisturbed
) -> dict[str, Any]:
    """One run from nothing: where it was killed, and what was wrong in the end."""
    forget_run(world)
    body = partial(_run, world, workers)
    struck, problems = [], []
    planned = [kills.first()] + [kills.next() for _ in range(kills.rng.randint(0, 2))]
    for kind, kill in [*planned, *[("", None)] * MOST_STARTS]:
        ending = in_a_fork(body, kill)
        if ending.has_struck:
            struck.append([kind, ending.stage])
        if ending.error:
            problems.append(ending.error)
            break
        if kill is None:
            break
    if not problems:
        problems = differing(undisturbed.contents, made_in(world))
    return {"kills": struck, "problems": problems}


def load_results(folder: Path) -> list[dict[str, Any]]:
    """What the runs so far came to."""
    path = folder / DONE
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def print_kills(results: list[dict[str, Any]]) -> None:
    """How many kills fell into each stage, by kind."""
    counts = Counter((stage, kind) for result in results for kind, stage in result["kills"])
    kinds = sorted({kind for _, kind in counts})
    for stage in STAGE_NAMES:
        by_kind = [f"{counts[stage, kind]} {kind}" for kind in kinds if counts[stage, kind]]
        total = sum(counts[stage, kind] for kind in kinds)
        print(f"{stage:12} {total:4}  {', '.join(by_kind)}")


def _figures(executor: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kills = [stage for result in results for _, stage in result["kills"]]
    fewest = min(Counter({stage: 0 for stage in STAGE_NAMES} | Counter(kills)).values())
    unit = f"runs, {len(kills)} kills, at least {fewest} in each of {len(STAGE_NAMES)} stages"
    different = sum(bool(result["problems"]) for result in results)
    return [
        figure(f"faults.{executor}.runs", len(results), unit),
        figure(f"faults.{executor}.different", different, "runs"),
    ]


if __name__ == "__main__":
    main()
