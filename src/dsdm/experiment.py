"""A whole experiment: the one file that composes every stage's settings."""

import contextlib
import importlib
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import msgspec

from dsdm.artifacts import write_whole
from dsdm.baselines import BASELINES, BaselinesConfig, baselines_config
from dsdm.checking.config import CheckConfig
from dsdm.config import Config, as_dict, read_config, with_sections
from dsdm.data.export import ExportConfig
from dsdm.data.pool import PoolConfig
from dsdm.data.rows import ExamplesConfig
from dsdm.data.share import ShareConfig
from dsdm.data.tasks import TargetConfig
from dsdm.data.tokenizer import TokenizerConfig
from dsdm.datamodel.config import (
    AUTO,
    EKFAC,
    METAGRADIENT,
    MIX,
    DirectionsConfig,
    ScoresConfig,
    ScreeningConfig,
    directions_config,
    estimator_settings,
    scored_targets,
    scores_forward,
    shrinkage_of,
)
from dsdm.datamodel.estimators import known_estimator
from dsdm.errors import ConfigError
from dsdm.evaluation.arms import Arm, CompareConfig, parse_arm
from dsdm.lm.config import ModelConfig, TrainConfig
from dsdm.selection import SelectionConfig
from dsdm.selection.rules import decides_by_score, selected_share

SCREENED_FROM = 20_000
"""Candidates in a pool that is screened unasked: with fewer, all are scored in minutes."""
MOST_SCREENED = 0.1
"""Share of a pool up to which what is selected is known to survive screening (docs/method.md)."""
BUDGETS = ("selection.tokens", "selection.candidates", "selection.fraction")
"""Settings of which exactly one is given."""
PLUGINS = "dsdm.plugins"
"""Group of the entry points by which a package names a module that registers something."""


class ProxiesConfig(Config):
    """The models that the datamodel is estimated on."""

    count: int = 2
    """How many; the scores' noise falls with it, the cost rises."""
    fraction: float = 0.4
    """Share of the pool's rows that each proxy is trained on, drawn anew for each."""
    tokens: Annotated[int, msgspec.Meta(gt=0)] | None = None
    """Rows of about so many tokens in place of `fraction`; the whole pool where it has fewer."""
    epochs: float = 1.0
    """Passes over that share."""
    train: TrainConfig = TrainConfig()
    """Optimizer and schedule."""
    checkpoints: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Directions are made and candidates scored at so many points of each proxy's training, at
    equal distances; each counts for the learning rates of the steps that lead to it
    (`scores.group_means_from` says which for what)."""
    first_checkpoint: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    """Where the first of several checkpoints is, as a share of the training; None: after as much of
    it as lies between the others."""
    moments: bool = False
    """Keep Adam's moments beside each checkpoint, which `less` needs."""

    @property
    def num_checkpoints(self) -> int:
        """Checkpoints of all proxies."""
        return self.count * self.checkpoints

    def share_of(self, pool_tokens: float) -> float:
        """What each proxy is trained on, as a share of a pool of so many tokens."""
        return self.fraction if self.tokens is None else min(1.0, self.tokens / pool_tokens)


class Experiment(Config):
    """Everything that `dsdm run` needs to know."""

    run: str
    """Folder of the run; stages and their results are folders in it."""
    pool: PoolConfig
    targets: tuple[TargetConfig, ...]
    """What the model should become good at; each needs one of `file`, `text` and `task`."""
    model: ModelConfig
    """The proxies' model, and the target models' where `compare.model` names no other."""
    selection: SelectionConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    examples: ExamplesConfig = ExamplesConfig()
    drop_overlap: bool = False
    """Leave out pool documents that share 13 words in a row with a target."""
    proxies: ProxiesConfig = ProxiesConfig()
    directions: DirectionsConfig = DirectionsConfig()
    scores: ScoresConfig = ScoresConfig()
    estimator: str | None = None
    """The estimator whose scores select, or a baseline, which alone is run unless
    `directions.estimators` names some; None: the first estimator that is run."""
    export: ExportConfig = ExportConfig()
    share: ShareConfig = ShareConfig()
    """Copies of finished parts in an object store."""
    baselines: BaselinesConfig = BaselinesConfig()
    """Settings of the methods to compare with."""
    compare: CompareConfig | None = None
    """Train and evaluate models on the selection and on controls; None: don't."""
    check: CheckConfig = CheckConfig()
    """What `dsdm check` measures before it says whether to trust the scores."""
    seed: int = 0
    """Draws the proxies' subsets and initial weights."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` is CUDA where there is one."""
    plugins: tuple[str, ...] = ()
    """Python modules that register estimators, baselines or formats of your own, such as
    `my_estimator` for my_estimator.py in the folder where `dsdm` is started. Naming a module runs
    it."""

    def __post_init__(self) -> None:
        """Refuses settings that contradict each other."""
        # A worker process, too, gets its experiment by this way.
        import_plugins(self.plugins)
        names = [target.name for target in self.targets]
        if not names:
            raise ValueError("`targets` must name at least one target")
        if len(set(names)) < len(names) or "mix" in names:
            raise ValueError(f"target names must differ and none may be `mix`, got {names}")
        if self.estimator not in (None, *self.estimators, *BASELINES):
            raise ValueError(
                f"`estimator` {self.estimator!r} is not in `directions.estimators` and no baseline"
            )
        if not self.proxies.count >= 1 or not 0 < self.proxies.fraction <= 1:
            raise ValueError("`proxies` needs count >= 1 and fraction above 0, at most 1")

        if self.proxies.first_checkpoint is not None and self.proxies.checkpoints == 1:
            raise ValueError(
                "`proxies.first_checkpoint` is of several: set proxies.checkpoints to 2 or more"
            )
        for name in self.estimators:
            if known_estimator(name).needs_training:
                self._check_of_training(name)
        self._check_group_means()
        self._check_screening()
        if self.pool.format == "conversations" and self.examples.unit == "row":
            raise ValueError("`examples.unit` row is for text; a conversation is one row as it is")

    def _check_of_training(self, method: str) -> None:
        checkpoints = self.proxies.checkpoints
        if self.proxies.first_checkpoint is not None:
            raise ValueError(
                f"`{method}` has its checkpoints at equal distances: leave "
                "proxies.first_checkpoint null"
            )
        if self.directions.output != "loglik":
            raise ValueError(
                f"`{method}` is of the loss that was trained: set directions.output to loglik"
            )
        if checkpoints > 1 and self.scores.cosine:
            raise ValueError(
                f"`{method}`: what a checkpoint counts for is in its direction's length, which "
                "scores.cosine leaves out: set it to false, or proxies.checkpoints to 1"
            )
        known_estimator(method).check(estimator_settings(self.directions, method), checkpoints)

    def _check_group_means(self) -> None:
        if self.scores.group_means_from != "first":
            return
        if self.proxies.checkpoints == 1:
            raise ValueError(
                "`scores.group_means_from` first needs several checkpoints: set "
                "proxies.checkpoints to 2 or more"
            )
        for method in self.estimators:
            if known_estimator(method).needs_training:
                raise ValueError(
                    "`scores.group_means_from` first is for slopes at checkpoints, and "
                    f"`{method}` has none: set it to all"
                )
            if not shrinkage_of(self.scores, method):
                raise ValueError(
                    "`scores.group_means_from` first is for scores that are shrunk to the means of "
                    f"groups, and those of `{method}` are not: set scores.shrinkage"
                )

    def _check_screening(self) -> None:
        screening = self.scores.screening
        if not isinstance(screening, ScreeningConfig):
            return
        if not self._is_screenable:
            raise ValueError(
                "`scores.screening` is for forward scores of the targets' mix: leave `mode` auto "
                "or forward, cosine and per_target false and per_example 0"
            )
        if self._most_selected(self.selection.fraction or 0.0) > screening.share:
            raise ValueError(
                f"`scores.screening.share` {screening.share:g} is less than what is selected: give "
                "more"
            )

    @property
    def _is_screenable(self) -> bool:
        """Whether candidates are scored by forward passes along the mix alone."""
        wanted = scored_targets([target.name for target in self.targets], self.scores)
        return wanted == [MIX] and scores_forward(self.scores, 1)

    def _most_selected(self, share: float) -> float:
        """The largest share of the pool that is chosen by scores, where a selection is `share`."""
        epochs = self.compare.epochs if self.compare else 1.0
        tops = [arm for arm in self.compared_arms if arm.kind == "top"]
        return share * max([1.0, *(arm.times_selected(epochs) for arm in tops)])

    def screening(
        self, num_candidates: int | float, num_tokens: int | float
    ) -> ScreeningConfig | None:
        """What part of a pool of this size is scored exactly; None: all of it."""
        screening, selection = self.scores.screening, self.selection
        if screening != AUTO:
            return screening
        if num_candidates < SCREENED_FROM or not (
            self._is_screenable and decides_by_score(selection)
        ):
            return None
        most = self._most_selected(selected_share(selection, num_candidates, num_tokens))
        return ScreeningConfig() if most <= MOST_SCREENED else None

    @property
    def own_tokenizer(self) -> TokenizerConfig:
        """The tokenizer's settings, where none is named that of a pretrained model."""
        if self.tokenizer.path is not None or not self.model.starts_pretrained:
            return self.tokenizer
        named: TokenizerConfig = msgspec.structs.replace(self.tokenizer, path=self.model.path)
        return named

    @property
    def estimators(self) -> tuple[str, ...]:
        """The estimators that are run; the default's reason is in docs/method.md."""
        if self.directions.estimators or self.estimator in tuple(BASELINES):
            return self.directions.estimators
        return (METAGRADIENT if self.model.lora else EKFAC,)

    @property
    def selecting_estimator(self) -> str:
        """The estimator, or baseline, whose scores select."""
        return self.estimator or self.estimators[0]

    @property
    def compared_arms(self) -> list[Arm]:
        """The arms of the comparison, none where there is no comparison."""
        names = self.compare.arms if self.compare else ()
        return [parse_arm(name, self.selecting_estimator, self.estimators) for name in names]

    @property
    def compared_training(self) -> TrainConfig:
        """How the models of the comparison are trained."""
        own = self.compare.train if self.compare else None
        return own or self.proxies.train

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.run)


@cache
def import_plugins(modules: tuple[str, ...] = ()) -> None:
    """Imports the modules of installed packages' entry points, then `modules`.

    Raises:
        ConfigError: one of `modules` cannot be imported.
    """
    for entry in entry_points(group=PLUGINS):
        entry.load()
    if modules and str(Path.cwd()) not in sys.path:
        # Last, so that no file there takes the place of an installed module.
        sys.path.append(str(Path.cwd()))
    for name in modules:
        advice = f"Name a module that is installed, or one in {Path.cwd()}, by its import path."
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(f"plugins: {name!r} is no name of a Python module. {advice}")
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"plugins: `{name}` cannot be imported ({error}). {advice}"
            ) from error


def load_experiment(path: Path, overrides: Sequence[tuple[str, str]] = ()) -> Experiment:
    """The experiment in a YAML file; its plugins are imported first.

    An override of one of the BUDGETS takes the place of the one in the file.

    Raises:
        ConfigError: a key is unknown, a value has the wrong type, two settings conflict, or a
            plugin can't be imported.
    """
    file = read_config(path, overrides, BUDGETS)
    plugins = file.content.get("plugins")
    if isinstance(plugins, list):
        import_plugins(tuple(name for name in plugins if isinstance(name, str)))
    else:
        import_plugins()  # `parse` refuses what is no list
    experiment = file.parse(experiment_type())
    _check_arms(experiment)
    return experiment


def experiment_type() -> type[Experiment]:
    """`Experiment` with a section for every estimator and baseline that is registered by now."""
    composed = (
        ("directions", directions_config(), "How directions are estimated."),
        ("baselines", baselines_config(), "Settings of the methods to compare with."),
    )
    fields = {field.name: field.type for field in msgspec.structs.fields(Experiment)}
    others = tuple(one for one in composed if one[1] is not fields[one[0]])
    return with_sections(Experiment, others) if others else Experiment


def _check_arms(experiment: Experiment) -> None:
    used = {experiment.selecting_estimator, *(arm.method for arm in experiment.compared_arms)}
    for name in sorted(used):
        found = BASELINES.get(name)
        if found is not None and found.needs_moments and not experiment.proxies.moments:
            raise ConfigError(f"`{name}` needs Adam's moments: set proxies.moments to true.")
    targets = [target.name for target in experiment.targets]
    for arm in experiment.compared_arms:
        if arm.target is not None and arm.target not in targets:
            raise ConfigError(
                f"compare.arms: {arm.name!r}: {arm.target!r} is none of the targets "
                f"{', '.join(targets)}."
            )
        is_scored = experiment.scores.per_target or experiment.scores.per_example > 0
        if arm.target is not None and arm.method not in BASELINES and not is_scored:
            raise ConfigError(
                f"compare.arms: {arm.name!r} needs the scores of each target: set "
                "scores.per_target to true."
            )


def record_experiment(experiment: Experiment, path: Path) -> None:
    """Writes what a run folder was made with.

    A comparison on record there stays where the experiment has none: its models are still there,
    and `dsdm compare` may have chosen its arms.
    """
    if experiment.compare is None and path.exists():
        # One that fits the experiment no longer is let go.
        with contextlib.suppress(ConfigError):
            compare = load_experiment(path).compare
            recorded: Experiment = msgspec.structs.replace(experiment, compare=compare)
            _check_arms(recorded)
            experiment = recorded
    save_experiment(experiment, path)


def save_experiment(experiment: Experiment, path: Path) -> None:
    """Writes the experiment as YAML that `load_experiment` reads, without the secrets of URLs."""
    write_whole(path, msgspec.yaml.encode(as_dict(experiment), order="sorted"))
