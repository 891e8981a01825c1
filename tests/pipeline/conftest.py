"""An experiment of which nothing is made yet."""

from pathlib import Path

import pytest

from dsdm.experiment import Experiment, load_experiment
from tests.tiny_runs import write_data, write_experiment


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """Nothing of it is made yet."""
    write_data(tmp_path)
    return load_experiment(write_experiment(tmp_path))
