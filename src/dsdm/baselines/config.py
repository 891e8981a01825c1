"""Settings of the baselines: a section for each that is registered."""

from typing import TYPE_CHECKING

from dsdm.baselines.registry import BASELINES, NoSettings
from dsdm.config import Config, with_sections


class CommonBaselinesConfig(Config):
    """Methods to compare with, each with a section of its own."""


def baselines_config() -> type[CommonBaselinesConfig]:
    """The settings of the baselines that are registered by now."""
    found = [BASELINES[name] for name in BASELINES]
    sections = tuple((b.name, b.settings, b.help) for b in found if b.settings is not NoSettings)
    return with_sections(CommonBaselinesConfig, sections)


if TYPE_CHECKING:
    BaselinesConfig = CommonBaselinesConfig
else:
    BaselinesConfig = baselines_config()
    """With the sections of all baselines but those of plug-ins."""


def baseline_settings(config: CommonBaselinesConfig, name: str) -> Config:
    """The section of one baseline; its defaults where it has none or registered since."""
    settings: Config = getattr(config, name, None) or BASELINES[name].settings()
    return settings


def reads_proxies(config: CommonBaselinesConfig, name: str) -> bool:
    """Whether a baseline reads the proxies."""
    return BASELINES[name].reads_proxies(baseline_settings(config, name))
