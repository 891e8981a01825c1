"""Choose the training data that makes your language model better at your tasks.

With a model of your own:

    learner = dsdm.CausalLM(model)
    direction = dsdm.estimate(learner, targets, pool, method="ekfac")
    scores = dsdm.score(learner, direction, pool)
    chosen = dsdm.select(scores, dsdm.SelectionConfig(fraction=0.05))

With an experiment, which trains proxies and keeps what it made:

    experiment = dsdm.load_experiment(Path("my.yaml"))
    run = dsdm.run_experiment(experiment)
    scores = dsdm.run_scores(run, "ekfac")
    chosen = dsdm.select(scores, dsdm.SelectionConfig(tokens=1e9))

Names are loaded when they are first used, so that `import dsdm` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsdm.config import parse_config as parse_config
    from dsdm.datamodel.api import estimate as estimate
    from dsdm.datamodel.api import score as score
    from dsdm.datamodel.direction import Direction as Direction
    from dsdm.errors import DsdmError as DsdmError
    from dsdm.experiment import Experiment as Experiment
    from dsdm.experiment import load_experiment as load_experiment
    from dsdm.learners.causal_lm import CausalLM as CausalLM
    from dsdm.reporting.page import write_run_report as write_run_report
    from dsdm.selection import Scores as Scores
    from dsdm.selection import SelectionConfig as SelectionConfig
    from dsdm.selection import select as select
    from dsdm.stages import Workers as Workers
    from dsdm.stages import run_experiment as run_experiment
    from dsdm.stages import run_status as run_status
    from dsdm.stages.making.selection import run_scores as run_scores

_MODULES = {
    "CausalLM": "dsdm.learners.causal_lm",
    "Direction": "dsdm.datamodel.direction",
    "DsdmError": "dsdm.errors",
    "Experiment": "dsdm.experiment",
    "Scores": "dsdm.selection",
    "SelectionConfig": "dsdm.selection",
    "estimate": "dsdm.datamodel.api",
    "load_experiment": "dsdm.experiment",
    "parse_config": "dsdm.config",
    "Workers": "dsdm.stages",
    "run_experiment": "dsdm.stages",
    "run_scores": "dsdm.stages.making.selection",
    "run_status": "dsdm.stages",
    "score": "dsdm.datamodel.api",
    "select": "dsdm.selection",
    "write_run_report": "dsdm.reporting.page",
}

__all__ = sorted(_MODULES)  # noqa: PLE0605


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'dsdm' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
