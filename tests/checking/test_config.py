from typing import Any

import pytest

from dsdm.checking.config import CheckConfig
from dsdm.config import parse_config
from dsdm.errors import ConfigError


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"rows": 1}, "rows, exact_rows and tune_examples of 2 or more"),
        ({"probe": {"groups": 1}}, "groups of 2 or more"),
        ({"probe": {"share": 0.4}}, "share above 0, at most 1/3"),
        ({"probe": {"steps": 0}}, "steps, batch_tokens and lr_share above 0"),
        ({"probe": {"step": 10}}, "step"),
    ],
)
def test_settings_that_say_nothing_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(raw, CheckConfig, "check")


def test_the_default_probe_trains_on_as_many_tokens_as_its_docstring_says() -> None:
    probe = CheckConfig().probe
    assert 3 * probe.groups * probe.steps * probe.batch_tokens == pytest.approx(1.2e6, rel=0.03)
