"""A pool of which a part is scored exactly, from file to report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsdm import experiment as dsdm_experiment
from dsdm.datamodel.columns import ScoreColumn, append_columns
from dsdm.datamodel.config import ScreeningConfig
from dsdm.errors import ArtifactError
from dsdm.experiment import load_experiment
from dsdm.stages.scores_table import PROVENANCE, SCORES, merge_scores
from tests.tiny_runs import Dsdm, write_data, write_experiment

SCREENING = {"sample": 0.35, "share": 0.6}


def scores_of(run: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(run / "scores" / "all" / "scores.parquet")
    return {name: table[name].to_numpy() for name in table.column_names if name != "id"}


def run_both(folder: Path, dsdm: Dsdm, **settings: Any) -> tuple[np.ndarray, np.ndarray, str]:
    """A full run's slopes, a screened one's, and what the latter printed."""
    scores = {"shrinkage": 0.0}
    assert dsdm("run", write_experiment(folder, **settings, scores=scores))[0] == 0
    screened = write_experiment(
        folder,
        **settings,
        run=str(folder / "screened"),
        scores=scores | {"screening": SCREENING},
    )
    code, out, err = dsdm("run", screened)
    assert code == 0, err
    whole, part = (scores_of(folder / name)["ekfac"] for name in ("run", "screened"))
    return whole, part, out


@pytest.mark.parametrize("unit", ["row", "document"])
def test_candidates_have_the_scores_of_a_full_run_or_are_predicted_below_the_cut(
    tmp_path: Path, dsdm: Dsdm, unit: str
) -> None:
    write_data(tmp_path)
    whole, part, out = run_both(
        tmp_path,
        dsdm,
        proxies={"count": 2, "epochs": 4.0, "train": {"batch_tokens": 128, "lr": 1e-2}},
        examples={"row_tokens": 16, "unit": unit},
    )
    is_exact = ~scores_of(tmp_path / "screened")["ekfac.predicted"]
    np.testing.assert_allclose(part[is_exact], whole[is_exact], rtol=1e-3, atol=1e-4)
    assert is_exact.mean() == pytest.approx(SCREENING["share"], abs=0.1)
    cut = json.loads((tmp_path / "screened" / "screening" / "ekfac" / "screening.json").read_text())
    assert part[~is_exact].max() < cut["cut"]
    chosen = pq.read_table(tmp_path / "screened" / "selection" / "selection.parquet")
    # All but what fills the budget's last tokens.
    num_predicted = int((~is_exact[chosen["candidate"].to_numpy()]).sum())
    assert num_predicted < 0.1 * len(chosen)
    (line,) = [line for line in out.splitlines() if line.startswith("screened ")]
    said = f", {num_predicted} of the selected candidates predicted" if num_predicted else ""
    assert f"rows scored exactly{said}; they hold an estimated" in line
    page = (tmp_path / "screened" / "report.html").read_text(encoding="utf-8")
    assert "Screened: " in page
    assert "Worst, by predictions" in page


def test_parts_from_before_there_was_a_mark_are_not_merged_with_later_ones(tmp_path: Path) -> None:
    line: dict[str, list[Any]] = {name: ["a"] for name in PROVENANCE} | {"candidate": [0]}
    mark = {ScoreColumn("ekfac", predicted=True): pa.array([True])}
    parts = [{ScoreColumn("ekfac"): pa.array([0.5])}] * 2
    parts[1] = parts[1] | mark
    shards = []
    for number, scored in enumerate(parts):
        folder = tmp_path / str(number)
        folder.mkdir()
        pq.write_table(append_columns(pa.table(line), scored.items()), folder / SCORES)
        shards.append([folder])
    with pytest.raises(ArtifactError, match="parts have different columns"):
        merge_scores(shards, tmp_path / SCORES)


def test_a_sample_of_a_few_candidates_is_an_error(tmp_path: Path, dsdm: Dsdm) -> None:
    write_data(tmp_path)
    screening = {"sample": 0.05, "share": 0.6}
    experiment = write_experiment(
        tmp_path, scores={"screening": screening}, examples={"unit": "document"}
    )
    code, _, err = dsdm("run", experiment)
    assert code == 2
    assert "a sample of 4 candidates says nothing of the others" in err


def test_where_more_than_scores_decides_nothing_is_estimated(tmp_path: Path, dsdm: Dsdm) -> None:
    write_data(tmp_path)
    experiment = write_experiment(
        tmp_path,
        scores={"screening": SCREENING},
        selection={"fraction": 0.2, "random_share": 0.1},
    )
    code, out, err = dsdm("run", experiment)
    assert code == 0, err
    assert "the sample can't say what they hold" in out


@pytest.mark.parametrize(
    "changes",
    [{"selection": {"fraction": 0.7}}, {"compare": {"arms": ["top-1epochs"], "epochs": 4}}],
)
def test_more_than_is_scored_can_not_be_selected(
    tmp_path: Path, dsdm: Dsdm, changes: dict[str, Any]
) -> None:
    write_data(tmp_path)
    experiment = write_experiment(tmp_path, scores={"screening": SCREENING}, **changes)
    code, _, err = dsdm("run", experiment)
    assert code == 2
    assert "less than what is selected" in err


def test_large_pools_are_screened_unasked(
    tmp_path: Path, dsdm: Dsdm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsdm_experiment, "SCREENED_FROM", 500)
    write_data(tmp_path)
    examples = {"unit": "row", "row_tokens": 8}
    path = write_experiment(tmp_path, examples=examples, selection={"fraction": 0.05})
    code, out, err = dsdm("run", path)
    assert code == 0, err
    assert "24.0% of 674 rows scored exactly" in out
    # What is decided stays: for a larger budget, for a comparison with the bottom, for more text.
    scores, chosen = tmp_path / "run" / "scores", tmp_path / "chosen"
    code, _, err = dsdm("select", scores, "--fraction", "0.15", "--out", chosen)
    assert code == 0, err
    for budget in (("--fraction", "0.5"), ("--tokens", "2000"), ("--candidates", "400")):
        code, _, err = dsdm("select", scores, *budget, "--out", tmp_path / "more")
        assert code == 2
        assert "the rest is predicted" in err
    code, out, err = dsdm("compare", path, "--compare.arms", "[top, bottom]")
    assert code == 0, err
    assert "scores       0 made" in err
    # More than a tenth is scored anew, where that is asked for.
    code, _, err = dsdm("run", path, "--selection.fraction", "0.2")
    assert code == 2
    assert "--redo scores" in err
    code, out, err = dsdm("run", path, "--selection.fraction", "0.2", "--redo", "scores")
    assert code == 0, err
    assert "\nscreened " not in out


@pytest.mark.parametrize(
    ("candidates", "changes", "is_screened"),
    [
        (20_000, {}, True),
        (19_999, {}, False),
        (20_000, {"selection": {"fraction": 0.11}}, False),
        (20_000, {"selection": {"fraction": None, "tokens": 2e5}}, True),
        (20_000, {"selection": {"fraction": None, "tokens": 3e5}}, False),
        (20_000, {"selection": {"fraction": None, "candidates": 2_000}}, True),
        (20_000, {"selection": {"fraction": None, "candidates": 3_000}}, False),
        (20_000, {"selection": {"fraction": 0.1, "source_cap": 0.5}}, False),
        (20_000, {"scores": {"per_target": True}}, False),
        (20_000, {"scores": {"screening": None}}, False),
        (100, {"scores": {"screening": {}}}, True),
        (20_000, {"compare": {"arms": ["top-2epochs"]}}, False),
        (20_000, {"directions": {"estimators": ["ekfac", "trak"]}}, True),
    ],
)
def test_what_is_screened_unasked(
    tmp_path: Path, candidates: int, changes: dict[str, Any], is_screened: bool
) -> None:
    path = write_experiment(tmp_path, **({"selection": {"fraction": 0.1}} | changes))
    screening = load_experiment(path).screening(candidates, 100 * candidates)
    assert screening == (ScreeningConfig() if is_screened else None)


def test_screening_is_for_forward_scores_of_the_mix(tmp_path: Path, dsdm: Dsdm) -> None:
    write_data(tmp_path)
    experiment = write_experiment(
        tmp_path, scores={"screening": SCREENING, "per_target": True, "mode": "forward"}
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
