"""The stages that make models of the pool and read them: proxies, directions."""

from collections.abc import Iterator
from typing import Any

import msgspec

from dsdm.config import as_dict
from dsdm.datamodel.config import AUTO, CommonDirectionsConfig, estimator_settings
from dsdm.datamodel.estimators import known_estimator
from dsdm.graph import Artifact, Graph, fingerprints
from dsdm.lm.config import training_content
from dsdm.stages.data import usable_pool
from dsdm.stages.run import Run

MAKING = "dsdm.stages.making.models"


def proxies(graph: Graph) -> Iterator[Artifact]:
    """The proxies, each trained on its own random share of the pool."""
    run: Run = graph.run
    inputs = fingerprints(graph["tokenizer"]) | usable_pool(graph)
    inputs |= run.base_files(run.experiment.model)
    for replicate in run.replicates:
        experiment = replicate.experiment
        share: dict[str, Any] = {"fraction": experiment.proxies.fraction}
        if experiment.proxies.tokens is not None:
            share = {"tokens": experiment.proxies.tokens}
        for number in range(experiment.proxies.count):
            settings = {
                "model": experiment.model,
                **share,
                "epochs": experiment.proxies.epochs,
                "train": training_content(experiment.proxies.train),
                "seed": [experiment.seed, number],
                "checkpoints": experiment.proxies.checkpoints,
                "first_checkpoint": experiment.proxies.first_checkpoint,
                "moments": experiment.proxies.moments,
            }
            yield Artifact(
                "proxies",
                replicate.models / "proxies" / str(number),
                settings,
                inputs,
                f"{MAKING}:train_proxy",
                replicate,
                (number,),
                needs_model=True,
            )


def directions(graph: Graph) -> Iterator[Artifact]:
    """One folder for each estimator and checkpoint of a proxy: directions and calibration."""
    for replicate in graph.run.replicates:
        for estimator in replicate.experiment.estimators:
            yield from _directions(graph, replicate, estimator)


def _directions(graph: Graph, run: Run, estimator: str) -> Iterator[Artifact]:
    experiment, checkpoints = run.experiment, run.experiment.proxies.checkpoints
    trained = proxies_of(graph, run)
    targets = fingerprints(graph["targets"])
    common = CommonDirectionsConfig.__struct_fields__
    config = {key: v for key, v in as_dict(experiment.directions).items() if key in common}
    del config["estimators"]
    # No estimator's directions depend on the settings of another.
    config[estimator] = as_dict(estimator_settings(experiment.directions, estimator))
    for number in range(experiment.proxies.num_checkpoints):
        proxy, checkpoint = divmod(number, checkpoints)
        settings = {
            "estimator": estimator,
            "weights": run.weights,
            "directions": config,
            "scores": msgspec.structs.replace(
                experiment.scores, screening=AUTO, shrinkage=None, group_means_from="all"
            ),
            "checkpoint": checkpoint,
        }
        along = known_estimator(estimator).needs_training
        path = run.models / "directions" / estimator / str(number)
        make = "estimate_along" if along else "estimate_at"
        yield Artifact(
            "directions",
            path,
            settings,
            fingerprints([trained[proxy]]) | targets,
            f"{MAKING}:{make}",
            run,
            (estimator, proxy if along else number),
            key=str(number),
            together=f"{path.parent}/of-{proxy}" if along else None,
            needs_model=True,
        )


def proxies_of(graph: Graph, run: Run) -> list[Artifact]:
    """The proxies of the run or of one of its replicates."""
    return [one for one in graph["proxies"] if one.run is run]


def directions_of(graph: Graph, run: Run, estimator: str) -> list[Artifact]:
    """The directions of one estimator at the checkpoints of a run or replicate."""
    folder = run.models / "directions" / estimator
    return [one for one in graph["directions"] if one.path.parent == folder]
