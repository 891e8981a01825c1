"""A finished or unfinished run folder as the report reads it. Nothing is planned or made."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from dsdm.artifacts import Manifest, load_manifest
from dsdm.baselines import BASELINES
from dsdm.data.duplicates import load_duplicates
from dsdm.data.examples import Examples, load_examples
from dsdm.data.tokenizer import Tokenizer, load_tokenizer
from dsdm.datamodel.columns import ScoreColumn, score_columns
from dsdm.datamodel.config import MIX
from dsdm.errors import ArtifactError
from dsdm.experiment import Experiment, load_experiment
from dsdm.reporting.measured import MeasuredPart, finished_below, measured_parts
from dsdm.selection import Scores
from dsdm.selection.score_files import load_scores
from dsdm.stages import STAGES
from dsdm.stages.run import compare_folder
from dsdm.stages.scores_table import SCORES
from dsdm.stages.selection import SELECTION

EXPERIMENT = "experiment.yaml"


@dataclass(frozen=True, eq=False)
class RunView:
    """What a run's folder holds so far, read once; paths are of where the folder is now."""

    folder: Path
    experiment: Experiment
    stages: tuple[str, ...] = tuple(STAGES)
    """Names of the stages, in order."""

    def manifest(self, place: str) -> Manifest | None:
        """The manifest of a finished artifact, such as `scores/all`; None where there is none."""
        return load_manifest(self.folder / place)

    def finished(self, place: str) -> list[Path]:
        """The folders of finished artifacts at or below a place, such as `examples`, sorted."""
        return finished_below(self.folder / place)

    @property
    def compare_folder(self) -> Path:
        """Holds the comparison's models, their tuning and evaluations."""
        compare = self.experiment.compare
        return compare_folder(self.folder, compare) if compare else self.folder

    @cached_property
    def measured(self) -> list[MeasuredPart]:
        """What the comparison has measured, on each part of the targets and on held-out tasks."""
        return list(measured_parts(self.folder, self.experiment))

    @cached_property
    def examples(self) -> Examples:
        """The packed pool."""
        shards = sorted((self.folder / "examples").glob("[0-9]*"))
        duplicates = load_duplicates(self.folder / "duplicates")
        return load_examples(shards, duplicates, self.experiment.examples.unit)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer."""
        return load_tokenizer(self.folder / "tokenizer")

    @property
    def scores_path(self) -> Path:
        """The table of all scores."""
        return self.folder / scores_folder(self.experiment) / SCORES

    @cached_property
    def scores(self) -> Scores | None:
        """The selecting estimator's scores, with tokens and sources; None before there are any."""
        manifest = self.manifest(scores_folder(self.experiment))
        if manifest is None:
            return None
        estimator = self.experiment.selecting_estimator
        return load_scores([self.scores_path], estimator, manifest.fingerprint)

    @cached_property
    def score_columns(self) -> list[ScoreColumn]:
        """The columns of the table of all scores."""
        return shown_columns(pq.read_schema(self.scores_path))

    def column(self, name: str) -> np.ndarray:
        """One column of the table of all scores."""
        return np.asarray(pq.read_table(self.scores_path, columns=[name])[name].to_numpy())

    @property
    def score_digits(self) -> int:
        """Digits behind the point that tell scores apart: spreads are large, cosines small."""
        return 4 if self.experiment.scores.cosine else 2

    @cached_property
    def is_predicted(self) -> Bool[np.ndarray, " candidates"] | None:
        """Whose scores are what a screening predicts; None where all are computed."""
        mark = ScoreColumn(self.experiment.selecting_estimator, predicted=True)
        if mark not in score_columns(pq.read_schema(self.scores_path)):
            return None
        return self.column(str(mark))

    @cached_property
    def selection(self) -> Manifest | None:
        """The manifest of the selection; None where nothing is selected by the scores as they are.

        A selection from earlier scores would mark the wrong candidates.
        """
        table = scores_folder(self.experiment)
        scores, selection = self.manifest(table), self.manifest("selection")
        if scores is None or selection is None or not selection.counts["candidates"]:
            return None
        return selection if selection.inputs[table] == scores.fingerprint else None

    @cached_property
    def selected(self) -> Int[np.ndarray, " selected"]:
        """The sorted candidates that are selected; none before the selection."""
        if self.selection is None:
            return np.zeros(0, np.int64)
        return selected_candidates(self.folder / "selection")


def open_run(folder: Path) -> RunView:
    """The run in a folder.

    Raises:
        ArtifactError: the folder is not a run's.
    """
    if not (folder / EXPERIMENT).is_file():
        raise ArtifactError(
            f"{folder}: is no run folder, it has no {EXPERIMENT}. Give the `run` of an experiment "
            "that was run."
        )
    return RunView(folder, load_experiment(folder / EXPERIMENT))


def selected_candidates(folder: Path) -> Int[np.ndarray, " selected"]:
    """The sorted candidates in a finished selection."""
    table = pq.read_table(folder / SELECTION, columns=["candidate"])
    return np.asarray(table["candidate"].to_numpy())


def shown_columns(schema: pa.Schema) -> list[ScoreColumn]:
    """The columns of a scores table but for those of single examples.

    Each estimator's combined scores come first, then those of its checkpoints for the mix, then
    those for each target.
    """
    return sorted(
        (one for one in score_columns(schema) if not (one.is_example or one.predicted)),
        key=lambda one: (
            one.checkpoint is not None,
            one.target != MIX,
            one.estimator,
            one.checkpoint or 0,
            one.target,
        ),
    )


def scores_folder(experiment: Experiment) -> str:
    """The folder of the scores that select, within the run's."""
    estimator = experiment.selecting_estimator
    return f"baselines/{estimator}" if estimator in BASELINES else "scores/all"
