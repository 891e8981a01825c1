"""The arms of a comparison: which rows each target model is trained on, at equal training tokens.

An arm is written

    BASE[:TARGET][-bottom][-Nepochs][@BUDGET]

BASE is an estimator or a baseline, whose ranking is used; `top` or `bottom` of the method that
selects; `random` (fresh rows, each once while the pool lasts); `repeated` (random candidates, as
many as were selected, for as many epochs); `all` (every candidate, for as many epochs: the one arm
that trains on more tokens); `source-matched` (random candidates, as many of each
source as were selected); `best-source` (the source that the selecting method likes best). `:TARGET`
selects for that target alone, `-bottom` takes the other end, `@2` trains on twice the tokens, and
`-8epochs` passes 8 times over what it selects. An arm selects as many tokens as it is trained on,
divided by its epochs.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import msgspec

from dsdm.baselines import BASELINES
from dsdm.config import Config
from dsdm.data.tasks import TargetConfig
from dsdm.datamodel.estimators import ESTIMATORS
from dsdm.errors import ConfigError
from dsdm.lm.config import ModelConfig, TrainConfig

Control = Literal["random", "repeated", "all", "source-matched", "best-source"]
CONTROLS: tuple[Control, ...] = get_args(Control)
Kind = Literal["top", "bottom", "random", "repeated", "all", "source-matched", "best-source"]
EvaluatedPart = Literal["tune", "report"]

ARM = re.compile(
    r"(?P<base>[\w-]+?)(:(?P<target>[\w.-]+?))?(?P<bottom>-bottom)?"
    r"(-(?P<epochs>[\d.]+)epochs)?(@(?P<budget>[\d.]+))?"
)

Count = Annotated[int, msgspec.Meta(ge=0)]


class CompareConfig(Config):
    """Target models that are trained to see what the selection is worth."""

    name: str = ""
    """Folder of this comparison's models within the run, where a run has several comparisons."""
    arms: tuple[str, ...] = ("top", "random", "bottom")
    """METHOD, METHOD-bottom, METHOD:TARGET, top, bottom, random (fresh rows), random@2 (twice the
    tokens), repeated (random, same epochs), all (every candidate, same epochs: more tokens),
    source-matched, best-source, METHOD-8epochs."""
    epochs: float = 4.0
    """Passes over the selection; every arm gets as many training tokens."""
    seeds: int = 1
    """Trainings of each arm: each renews the initial weights, the order and random's rows."""
    new_proxies: bool = False
    """Each seed renews the proxies too, and all that is made with them."""
    model: ModelConfig | None = None
    """The model that is trained; None: the proxies'."""
    train: TrainConfig | None = None
    """Optimizer and schedule, the same for every arm; None: the proxies'."""
    learning_rates: tuple[float, ...] = ()
    """Each arm is trained at each of these once, and then at the one that is best on the tune
    part; none: `train.lr` for every arm."""
    parts: tuple[EvaluatedPart, ...] = ("report",)
    """Parts of the targets to evaluate on; choose on `tune`, look at `report` last."""
    heldout: tuple[TargetConfig, ...] = ()
    """Tasks that nothing was selected for, to evaluate on whole wherever `report` is."""
    lm_eval: tuple[str, ...] = ()
    """lm-evaluation-harness tasks, by name or YAML path, for accuracies."""
    lm_eval_limit: Count | None = None
    """The most documents of each of those tasks."""
    pool_slice: Count = 0
    """Candidates, drawn at random, that no arm is trained on, to measure bits per byte on."""

    def __post_init__(self) -> None:
        """Refuses a comparison that can't be made."""
        names = [task.name for task in self.heldout]
        if len(set(names)) < len(names):
            raise ValueError(f"names in `heldout` must differ, got {names}")
        if not re.fullmatch(r"[\w-]*", self.name):
            raise ValueError(f"`name` {self.name!r} must be letters, digits, `_` and `-`")
        if self.seeds < 1 or self.epochs <= 0 or any(rate <= 0 for rate in self.learning_rates):
            raise ValueError("`seeds` must be at least 1, `epochs` and rates above 0")


@dataclass(frozen=True)
class Arm:
    """One kind of training data."""

    name: str
    kind: Kind
    method: str = ""
    """Whose ranking is used, or whose selection a control is like; empty for random rows."""
    target: str | None = None
    """Select for this target alone."""
    epochs: float | None = None
    """Passes over the rows; None: as the comparison says."""
    budget: float = 1.0
    """Training tokens, as a multiple of the comparison's."""

    def times_selected(self, epochs: float) -> float:
        """What it is trained on, as a multiple of the selection, where others have `epochs`."""
        return self.budget * epochs / (self.epochs or epochs)


def parse_arm(name: str, selecting_estimator: str, methods: tuple[str, ...]) -> Arm:
    """The arm called `name`.

    Args:
        name: As in the module's description.
        selecting_estimator: What `top` and `bottom` stand for.
        methods: The run's estimators.

    Raises:
        ConfigError: no such arm.
    """
    found = ARM.fullmatch(name)
    plain = _plain_arm(found["base"], selecting_estimator, methods) if found else None
    if found is not None and plain is None and found["base"] in ESTIMATORS:
        raise ConfigError(
            f"compare.arms: {name!r}: add {found['base']!r} to directions.estimators, so that "
            "candidates are scored by it."
        )
    if found is None or plain is None:
        raise ConfigError(
            f"compare.arms: {name!r} is not known. Write top, bottom, {', '.join(CONTROLS)}, or "
            f"one of {', '.join((*methods, *BASELINES))}, which may have :TARGET, -bottom, "
            "-8epochs and @2 behind it."
        )
    if plain.kind != "top" and (found["bottom"] or found["target"]):
        raise ConfigError(f"compare.arms: {name!r}: only a method has a bottom or a target.")
    if plain.kind == "random" and found["epochs"]:
        raise ConfigError(
            f"compare.arms: {name!r}: random takes fresh rows, each once. For random rows that are "
            f"passed over several times write repeated-{found['epochs']}epochs."
        )
    if found["target"] and plain.method in BASELINES and not BASELINES[plain.method].sees_targets:
        raise ConfigError(f"compare.arms: {name!r}: {plain.method} does not look at targets.")
    return dataclasses.replace(
        plain,
        name=name,
        kind="bottom" if found["bottom"] else plain.kind,
        target=found["target"],
        epochs=_number(name, found["epochs"]),
        budget=_number(name, found["budget"]) or 1.0,
    )


def _plain_arm(base: str, selecting_estimator: str, methods: tuple[str, ...]) -> Arm | None:
    if base in ("top", "bottom"):
        return Arm(base, "top" if base == "top" else "bottom", selecting_estimator)
    if base in ("random", "repeated"):
        return Arm(base, "random" if base == "random" else "repeated")
    if base == "all":
        return Arm(base, "all")
    if base in ("source-matched", "best-source"):
        kind: Kind = "source-matched" if base == "source-matched" else "best-source"
        return Arm(base, kind, selecting_estimator)
    return Arm(base, "top", base) if base in (*methods, *BASELINES) else None


def _number(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if number <= 0:
        raise ConfigError(f"compare.arms: {name!r}: {text!r} is not a number above 0.")
    return number
