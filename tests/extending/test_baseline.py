"""A baseline in one file outside of the project."""

import numpy as np
import pyarrow.parquet as pq

from dsdm.baselines import BASELINES
from dsdm.cli import main
from dsdm.experiment import experiment_type
from dsdm.template import PRETRAINING, make_template
from tests.tiny_runs import write_data, write_experiment


def test_a_baseline_of_a_plugin_selects_and_is_in_the_template(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(BASELINES, "_found", dict(BASELINES._found))
    write_data(tmp_path)
    path = write_experiment(
        tmp_path,
        plugins=["tests.extending.shortest_baseline"],
        estimator="shortest",
        baselines={"shortest": {"power": 2.0}},
    )
    assert main(["run", str(path)]) == 0, capsys.readouterr().err
    table = pq.read_table(tmp_path / "run" / "baselines" / "shortest" / "scores.parquet")
    lengths = table["num_tokens"].to_numpy().astype(float)
    assert np.array_equal(table["shortest"].to_numpy(), -(lengths**2))
    chosen = pq.read_table(tmp_path / "run" / "selection" / "selection.parquet")
    assert max(chosen["num_tokens"].to_pylist()) <= np.median(lengths)
    template = make_template(experiment_type(), PRETRAINING)
    assert "Short texts first." in template
    assert "Of the number of tokens." in template
