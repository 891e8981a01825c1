"""The estimators that there are, by name. Registering one and its settings needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from dsdm.config import Config
from dsdm.datamodel.estimators.costs import EstimatorCost, Workload
from dsdm.registry import Registry

if TYPE_CHECKING:
    from dsdm.datamodel.estimators.inputs import EstimatorInputs


class NoSettings(Config):
    """Of an estimator without any."""


class CurvatureConfig(Config):
    """Settings of an estimator that takes a curvature from a sample of the pool."""

    curvature_rows: Annotated[int, msgspec.Meta(ge=1)] = 4096
    """Examples of the pool on which the curvature is fitted."""
    damping: Annotated[float, msgspec.Meta(ge=0)] = 0.1
    """Added to every eigenvalue, as a share of the mean of those that the sample determines."""


Estimate = Callable[["EstimatorInputs", Any], Any]
"""Given inputs and settings: for each target its direction's tensors by parameter name, higher =
better, of any length. With `needs_training`, a list of those, one for each checkpoint in order."""
Cost = Callable[[Any, Workload], EstimatorCost]


@dataclass(frozen=True)
class Estimator:
    """What the rest of the program knows of an estimator."""

    name: str
    estimate: Estimate
    settings: type[Config]
    """Its section of `directions`, each field with a default."""
    help: str
    """One line about it."""
    cost: Cost
    """What it takes of its sample and beside the targets' gradients."""
    shrinkage: float
    """How far its scores are shrunk towards the means of their groups, by default."""
    needs_training: bool
    """Whether it follows a proxy's training and gives directions at all its checkpoints at once."""
    check: Callable[[Any, int], None]
    """Raises ValueError where its settings don't fit so many checkpoints of a training."""


ESTIMATORS: Registry[Estimator] = Registry("dsdm.estimators")
"""The estimators by their names."""


def estimator(
    name: str,
    *,
    help: str,
    settings: type[Config] = NoSettings,
    cost: Cost = lambda settings, workload: EstimatorCost(),
    shrinkage: float = 0.0,
    needs_training: bool = False,
    check: Callable[[Any, int], None] = lambda settings, num_checkpoints: None,
) -> Callable[[Estimate], Estimate]:
    """A decorator that registers an estimator; arguments as the fields of `Estimator`.

    Raises:
        ValueError: the name can't be a section of the settings.
    """
    if not name.isidentifier():
        raise ValueError(f"estimator {name!r}: its name must be letters, digits and `_`")

    def register(function: Estimate) -> Estimate:
        found = Estimator(name, function, settings, help, cost, shrinkage, needs_training, check)
        ESTIMATORS.add(name, found)
        return function

    return register


def known_estimator(name: str) -> Estimator:
    """The estimator of that name.

    Raises:
        ValueError: there is none.
    """
    found = ESTIMATORS.get(name)
    if found is None:
        raise ValueError(f"estimator {name!r} is not known: known are {', '.join(ESTIMATORS)}")
    return found
