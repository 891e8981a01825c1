"""The stage that measures whether the scores can be trusted: samples, halves, probes, a verdict.

Nothing but the verdict is made of its parts, so one that is stale is made again unasked.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from dsdm.checking.measured import KINDS, Check
from dsdm.checking.verdict import thresholds
from dsdm.config import as_dict
from dsdm.errors import ArtifactError
from dsdm.graph import Artifact, Graph, fingerprints
from dsdm.lm.config import training_content
from dsdm.stages.models import directions_of, proxies_of
from dsdm.stages.run import Run

MAKING = "dsdm.stages.making.check"
BEFORE = "before"
"""The losses of the probed proxy before any probe."""
VERDICT = "verdict"
CHECK = "check.json"
PROBED = 0
"""The proxy that halves and probes look at."""


def check(graph: Graph) -> Iterator[Artifact]:
    """What each proxy says of a sample, halves of the targets, short trainings, and a verdict."""
    run: Run = graph.run
    if run.experiment.selecting_estimator not in run.experiment.estimators:
        return  # a baseline selects: there are no slopes
    config = run.experiment.check
    settings = {name: value for name, value in as_dict(config).items() if name != "probe"}
    settings |= {"run seed": run.experiment.seed}
    directions = selecting_directions(graph)
    samples = [
        _part(run, f"samples/{number}", settings, fingerprints([own]), "sample", number)
        for number, own in enumerate(directions)
    ]
    halves = _part(run, "halves", settings, fingerprints([directions[PROBED]]), "measure_halves")
    inputs = fingerprints(samples)
    before = _part(run, f"probes/{BEFORE}", settings, inputs, "measure_before")
    train = {
        "proxies": training_content(run.experiment.proxies.train),
        "row_tokens": run.experiment.examples.row_tokens,
    }
    probes = [
        _part(
            run,
            f"probes/{number:02d}",
            {
                "sample": settings,
                "probe": config.probe,
                "group": number,
                "train": train,
            },
            inputs,
            "probe",
            number,
        )
        for number in range(len(KINDS) * config.probe.groups)
    ]
    parts = [*samples, halves, before, *probes]
    yield from parts
    verdict = {"check": config, "thresholds": thresholds(), "weights": run.weights}
    needed = fingerprints([*proxies_of(graph, run), *parts])
    yield _part(run, VERDICT, verdict, needed, "judge_measured")


def failure(run: Run, message: str) -> Artifact:
    """The verdict where proxies or directions could not be made."""
    settings = {"failure": message, "thresholds": thresholds()}
    return _part(run, VERDICT, settings, {}, "judge_failure", message)


def selecting_directions(graph: Graph) -> list[Artifact]:
    """Of the estimator that selects, at the end of each proxy's training."""
    run: Run = graph.run
    each = run.experiment.proxies.checkpoints
    return directions_of(graph, run, run.experiment.selecting_estimator)[each - 1 :: each]


def load_check(run_folder: Path) -> Check:
    """The finished check of a run.

    Raises:
        ArtifactError: there is none, or it can't be read.
    """
    path = run_folder / "check" / VERDICT / CHECK
    try:
        return msgspec.json.decode(path.read_bytes(), type=Check)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: is not there. Run `dsdm check`.") from error
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{path}: can't be read ({error}). Run `dsdm check` again.") from error


def _part(
    run: Run, place: str, settings: Any, inputs: dict[str, str], make: str, *arguments: object
) -> Artifact:
    return Artifact(
        "check",
        run.folder / "check" / place,
        settings,
        inputs,
        f"{MAKING}:{make}",
        run,
        arguments,
        remade="always",
        needs_model=True,
    )
