"""A pool of which a part is scored exactly, from file to report."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dsdm.evaluation.intervals import share_interval
from tests.tiny_runs import Dsdm, add_pool_file, write_data, write_experiment

SCREENING = {"sample": 0.3, "share": 0.6}


def scores_of(run: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(run / "scores" / "all" / "scores.parquet")
    return {name: table[name].to_numpy() for name in table.column_names if name != "id"}


def test_what_is_scored_exactly_has_the_scores_of_a_full_run(tmp_path: Path, dsdm: Dsdm) -> None:
    write_data(tmp_path)
    proxies = {"count": 2, "epochs": 2.0, "train": {"batch_tokens": 128, "lr": 1e-2}}
    settings = {"proxies": proxies, "examples": {"row_tokens": 32, "unit": "row"}}
    full = write_experiment(tmp_path, **settings)
    assert dsdm("run", full)[0] == 0
    whole = scores_of(tmp_path / "run")
    screened = write_experiment(
        tmp_path, **settings, run=str(tmp_path / "screened"), scores={"screening": SCREENING}
    )
    code, out, err = dsdm("run", screened)
    assert code == 0, err
    part = scores_of(tmp_path / "screened")
    is_exact = np.isclose(part["ekfac"], whole["ekfac"], rtol=1e-3, atol=1e-5)
    assert 0.5 < is_exact.mean() < 0.7
    (line,) = [line for line in out.splitlines() if line.startswith("screened ")]
    assert "rows scored exactly" in line
    # What is only predicted is never above what was scored because of its prediction.
    chosen = pq.read_table(tmp_path / "screened" / "selection" / "selection.parquet")
    assert is_exact[chosen["candidate"].to_numpy()].mean() > 0.9
    page = (tmp_path / "screened" / "report.html").read_text(encoding="utf-8")
    assert "Screened: " in page


@pytest.mark.parametrize("unit", ["row", "document"])
def test_units_and_later_files(tmp_path: Path, dsdm: Dsdm, unit: str) -> None:
    write_data(tmp_path)
    experiment = write_experiment(
        tmp_path,
        examples={"row_tokens": 16, "unit": unit},
        scores={"screening": SCREENING, "calibration_rows": 16},
    )
    assert dsdm("run", experiment)[0] == 0
    before = scores_of(tmp_path / "run")["ekfac"]
    add_pool_file(tmp_path, "c", seed=5)
    code, _, err = dsdm("run", experiment)
    assert code == 0, err
    after = scores_of(tmp_path / "run")["ekfac"]
    assert len(after) > len(before)
    np.testing.assert_array_equal(after[: len(before)], before)


def test_screening_is_for_forward_scores_of_the_mix(tmp_path: Path, dsdm: Dsdm) -> None:
    write_data(tmp_path)
    experiment = write_experiment(
        tmp_path, scores={"screening": SCREENING, "per_target": True, "method": "forward"}
    )
    code, _, err = dsdm("run", experiment)
    assert code == 2
    assert "forward scores of the targets' mix" in err


def test_a_share_must_leave_something_to_choose(tmp_path: Path, dsdm: Dsdm) -> None:
    write_data(tmp_path)
    experiment = write_experiment(tmp_path, scores={"screening": {"sample": 0.3, "share": 0.2}})
    code, _, err = dsdm("run", experiment)
    assert code == 2
    assert "`share` must be above `sample`" in err


def test_wilsons_interval() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for found, total, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        interval = share_interval(found, total)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)
