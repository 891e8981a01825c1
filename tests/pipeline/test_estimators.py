"""Estimators of others, targets of any name, and what decides an estimator's artifacts."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dsdm.datamodel.columns import ScoreColumn, score_columns
from dsdm.datamodel.estimators import ESTIMATORS
from tests.tiny_runs import Dsdm, write_data, write_experiment

PLUGIN = '''
import torch  # may stand at the top of an outsider's file

from dsdm.config import Config
from dsdm.datamodel.estimators import estimator


class SignsConfig(Config):
    """Settings of `signs`."""

    power: float = 0.5
    """Of the gradient's entries."""


@estimator("signs", settings=SignsConfig, help="entries of the gradient to a power")
def signs(inputs, settings):
    return {
        target: {
            name: tensor.sign() * tensor.abs() ** settings.power
            for name, tensor in inputs.target_gradient(target).items()
        }
        for target in inputs.targets
    }
'''


def test_an_estimator_in_one_file_of_an_outsider_selects(
    tmp_path: Path, dsdm: Dsdm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_estimator.py").write_text(PLUGIN)
    write_data(tmp_path)
    settings = {"estimators": ["signs"], "signs": {"power": 0.25}}
    experiment = write_experiment(tmp_path, plugins=["my_estimator"], directions=settings)
    try:
        code, out, err = dsdm("run", experiment, "--workers", 2, "--threads", 1)
        assert code == 0, err
        assert (tmp_path / "run" / "dataset" / "part-00000.parquet").is_file()
        code, out, _ = dsdm("status", experiment, "--directions.signs.power", 0.5)
        assert "directions.signs.power: 0.25 -> 0.5" in out
        code, _, err = dsdm("run", experiment, "--directions.signs.pow", 0.5)
        assert code == 2
        assert "unknown field `pow` in `directions.signs`; did you mean `power`?" in err
    finally:
        ESTIMATORS._found.pop("signs", None)


def test_a_target_may_be_called_like_the_mix_or_a_column(tmp_path: Path, dsdm: Dsdm) -> None:
    write_data(tmp_path)
    names = ["qa.mix", "ekfac", "predicted", "0.words"]
    targets = [
        {"name": name, "file": str(tmp_path / "target.jsonl"), "seed": seed}
        for seed, name in enumerate(names)
    ]
    arms = ["top", "random", "ekfac:qa.mix"]
    experiment = write_experiment(
        tmp_path,
        targets=targets,
        directions={"estimators": ["ekfac", "gradient"]},
        scores={"per_target": True, "shrinkage": 0.0},
        compare={"arms": arms, "epochs": 1},
    )
    code, _, err = dsdm("run", experiment)
    assert code == 0, err
    run = tmp_path / "run"
    table = pq.read_table(run / "scores" / "all" / "scores.parquet")
    columns = score_columns(table.schema)
    assert columns[:2] == [ScoreColumn("ekfac"), ScoreColumn("gradient")]
    assert {one.target for one in columns if one.checkpoint == 0} == {"mix", *names}
    mix = table[str(ScoreColumn("ekfac", 0, "mix"))].to_numpy()
    np.testing.assert_array_equal(table["ekfac"].to_numpy(), mix)
    assert np.abs(table[str(ScoreColumn("ekfac", 0, "qa.mix"))].to_numpy() - mix).max() > 0.01
    assert "Best for qa.mix" in (run / "report.html").read_text(encoding="utf-8")


def test_only_its_own_section_decides_an_estimators_directions(tmp_path: Path, dsdm: Dsdm) -> None:
    write_data(tmp_path)
    experiment = write_experiment(tmp_path, directions={"estimators": ["ekfac", "trak"]})
    assert dsdm("run", experiment, "--until", "directions")[0] == 0
    _, out, _ = dsdm("status", experiment, "--directions.trak.damping", 3)
    assert "done     directions/ekfac/0" in out
    (line,) = [line for line in out.splitlines() if "directions/trak/0" in line]
    assert line.startswith("stale")
    assert "directions.trak.damping: 10.0 -> 3" in line
