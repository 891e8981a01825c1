"""Settings of directions and scores, apart from torch so that the command line starts at once."""

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from dsdm.config import Config, with_sections
from dsdm.datamodel.estimators import ESTIMATORS, NoSettings, known_estimator
from dsdm.precision import Precision

EKFAC, METAGRADIENT = "ekfac", "metagradient"
"""The estimators that are run unless others are named."""
MIX = "mix"
"""What the weighted sum of all targets is called where a target's name is asked for."""
SHRINKAGE_OF_FIRST = 0.1
"""Where the first checkpoint gives the means of groups: these lie further apart there."""
FORWARD_AT_MOST = 1
"""Directions up to which two forward passes for each are cheaper than one backward pass."""

AUTO: Literal["auto"] = "auto"
"""Screening as it suits the pool."""


class CommonDirectionsConfig(Config):
    """How directions are estimated. Each estimator has a section of its own beside these."""

    estimators: tuple[str, ...] = ()
    """Estimators to run: `ekfac`, `trak` (the paper's), `gradient` (no curvature), `metagradient`
    (the proxy's training followed backwards, no curvature approximated; needs `loglik`), or one
    that a plug-in registers. Left empty: `metagradient` for adapters (`model.lora`), `ekfac` for
    all other models."""
    output: Literal["loglik", "margin"] = "loglik"
    """What a datamodel predicts: `loglik` or `margin` (the paper's)."""
    context_share: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.3
    """What a target's context counts for in its direction, all of its tokens together, the rest
    being the answer's; the paper's is 0."""
    embeddings: bool = True
    """Whether directions move the embeddings and the output layer too, beside the blocks' linear
    layers."""
    batch_tokens: int = 8192
    """Tokens in one forward and backward pass, padding included."""
    precision: Precision = "float32"
    """Of the gradients. Sums are fp32 and systems are solved in fp64 in any case."""
    seed: int = 0
    """Draws the sample, the projection and sampled labels, anew for each proxy."""

    def __post_init__(self) -> None:
        """Refuses estimators that there are not."""
        for name in self.estimators:
            known_estimator(name)


def directions_config() -> type[CommonDirectionsConfig]:
    """The settings of directions, with a section for each estimator that is registered by now."""
    found = [ESTIMATORS[name] for name in ESTIMATORS]
    sections = tuple((e.name, e.settings, e.help) for e in found if e.settings is not NoSettings)
    for name, _, _ in sections:
        if name in CommonDirectionsConfig.__struct_fields__:
            raise ValueError(f"estimator {name!r}: `directions` has a setting of that name")
    return with_sections(CommonDirectionsConfig, sections)


if TYPE_CHECKING:
    DirectionsConfig = CommonDirectionsConfig
else:
    DirectionsConfig = directions_config()
    """With the sections of all estimators but those of plug-ins."""


def estimator_settings(config: CommonDirectionsConfig, estimator: str) -> Config:
    """The section of one estimator; its defaults where it has none or registered since."""
    settings: Config = getattr(config, estimator, None) or known_estimator(estimator).settings()
    return settings


class ScreeningConfig(Config):
    """What part of the pool is scored exactly; the rest is predicted to be worse."""

    sample: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.06
    """Share of the candidates, drawn at random, that is learned from; 50,000 at most."""
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.24
    """Share of the candidates that are scored exactly, the sample included: those that are
    predicted to be best. Give more than twice what you select."""

    def __post_init__(self) -> None:
        """Refuses a sample that leaves nothing to choose."""
        if self.share <= self.sample:
            raise ValueError("`share` must be above `sample`, which it includes")


class ScoresConfig(Config):
    """How candidates are scored."""

    mode: Literal["auto", "forward", "backward"] = "auto"
    """`forward` for few directions, `backward` for many; `auto` takes the cheaper. Backward
    passes serve all estimators."""
    cosine: bool = False
    """Score by the cosine of a candidate's gradient with the direction (needs `backward`): a short
    completion's long gradient counts for no more than another's."""
    per_target: bool = False
    """Score each target by itself, beside the mix."""
    per_example: int = 0
    """So many examples of each target are scored by themselves too (needs `backward`)."""
    screening: ScreeningConfig | Literal["auto"] | None = AUTO
    """Score only the candidates that could be selected, which needs forward scores of the mix
    alone; `auto` does where that holds, the pool has 20,000 candidates and at most a tenth of it is
    selected, by scores alone; None: score all."""
    shrinkage: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """How far a candidate's score is shrunk towards the mean of candidates about the same topics;
    None: 0.3 of the way for `ekfac`, 0.1 with `group_means_from` first, and not at all for other
    estimators and for cosines."""
    group_means_from: Literal["all", "first"] = "all"
    """Which of a proxy's checkpoints the means of those groups are of. `first`: its first one says
    what kinds of text help, and the later ones which texts of a kind."""
    effect_nats: float = 0.02
    """Largest forward step: the standard deviation of its effect on the calibration rows' outputs.
    A quarter and a sixteenth of it are tried too, in float32 less where need be, and the best is
    taken."""
    calibration_rows: int = 128
    """Rows on which the step is set, the forward scores are checked and directions are scaled."""
    min_correlation: float = 0.98
    """Forward scores that agree less with the exact derivative are an error."""
    batch_tokens: int = 8192
    """Tokens in one forward pass, padding included; on the CPU 4,096 are the most."""
    precision: Precision = "auto"
    """`bfloat16` runs matrix products in bf16; `auto` does where the hardware multiplies in it and,
    of forward scores, where they agree with the exact derivative."""


def shrinkage_of(config: ScoresConfig, estimator: str) -> float:
    """How far the scores of one estimator are shrunk towards the means of their groups."""
    if config.shrinkage is not None:
        return config.shrinkage
    default = 0.0 if config.cosine else known_estimator(estimator).shrinkage
    return default if config.group_means_from == "all" else min(default, SHRINKAGE_OF_FIRST)


def example_name(target: str, number: int) -> str:
    """What a single example of a target is called where a target's name is asked for."""
    return f"{target}[{number}]"


def scored_targets(targets: list[str], config: ScoresConfig) -> list[str]:
    """What candidates are scored for: the mix alone, or every target, and examples on request."""
    single = [example_name(t, i) for t in targets for i in range(config.per_example)]
    return ([*targets, *single]) if config.per_target or single else [MIX]


def scores_forward(config: ScoresConfig, num_directions: int) -> bool:
    """Whether so many directions are scored forward."""
    if config.cosine:
        return False
    if config.mode == "auto":
        return num_directions <= FORWARD_AT_MOST
    return config.mode == "forward"
