"""Other ways to score: each baseline is a function from `BaselineInputs` to `Scores`.

To add one, write it in a module of its own name and list it in `config.BASELINE_NAMES`; in
`uses_proxies` too if it reads them, for otherwise new proxies would not make it stale, and in
`SEES_NO_TARGET` if it looks at none; and its settings, if it has any, in `settings_of`.
"""

from importlib import import_module

from dsdm.baselines.config import BASELINE_NAMES, BaselinesConfig
from dsdm.baselines.inputs import BaselineInputs
from dsdm.config import Config
from dsdm.selection import Scores


def baseline_scores(name: str, inputs: BaselineInputs, config: BaselinesConfig) -> Scores:
    """The scores of the baseline called `name`, one of `BASELINE_NAMES`."""
    # Imported here because their libraries take seconds to load.
    baseline = getattr(import_module(f"dsdm.baselines.{name}"), name)
    settings = settings_of(name, config)
    scores: Scores = baseline(inputs) if settings is None else baseline(inputs, settings)
    return scores


def settings_of(name: str, config: BaselinesConfig) -> Config | None:
    """The settings of the baseline called `name`; None: it has none."""
    return {
        "bm25": config.bm25,
        "classifier": config.classifier,
        "dsir": config.dsir,
        "less": config.less,
        "semdedup": config.semdedup,
        "similarity": config.similarity,
    }.get(name)


__all__ = ["BASELINE_NAMES", "BaselineInputs", "BaselinesConfig", "baseline_scores", "settings_of"]
