"""The stage that scores the pool with baselines, and the scores that a choice is made by."""

from collections.abc import Iterator

from dsdm.baselines import BASELINES, baseline_settings, reads_proxies
from dsdm.graph import Artifact, Graph, fingerprints
from dsdm.stages.models import proxies_of
from dsdm.stages.run import Run
from dsdm.stages.scores import merged_of

MAKING = "dsdm.stages.making.compare"


def baselines(graph: Graph) -> Iterator[Artifact]:
    """One file of scores for each baseline that selects or that an arm is made by."""
    for run in graph.run.replicates:
        experiment = run.experiment
        named = {(arm.method, arm.target) for arm in experiment.compared_arms}
        if run is graph.run:
            named.add((experiment.selecting_estimator, None))
        for name, target in sorted((one for one in named if one[0] in BASELINES), key=str):
            # A target without weight is in no mix.
            mix = {name: weight for name, weight in run.weights.items() if weight > 0}
            weights = mix if target is None else {target: 1.0}
            needed = [*graph["duplicates"], *graph["targets"]]
            if reads_proxies(experiment.baselines, name):
                needed += proxies_of(graph, run)
            yield Artifact(
                "baselines",
                run.folder / "baselines" / baseline_folder(name, target),
                {
                    "baseline": name,
                    "settings": baseline_settings(experiment.baselines, name),
                    "seed": experiment.seed,
                    "weights": weights,
                },
                fingerprints(needed),
                f"{MAKING}:score_by_baseline",
                run,
                (name, weights),
                key=baseline_folder(name, target),
                needs_model=True,
            )


def baseline_folder(name: str, target: str | None) -> str:
    """Folder name of a baseline's scores, for the mix or for one target alone."""
    return name if target is None else f"{name}:{target}"


def ranking_of(graph: Graph, run: Run, method: str, target: str | None = None) -> Artifact:
    """What holds the scores by an estimator or a baseline, for the mix or one target alone."""
    if method not in BASELINES:
        return merged_of(graph, run)
    folder = baseline_folder(method, target)
    (found,) = [one for one in graph["baselines"] if one.run is run and one.key == folder]
    return found
