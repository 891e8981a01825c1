"""Choosing conversations for a model that is already trained, from file to file."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.tiny_chat import conversations, read_lines, write_chat_experiment
from tests.tiny_runs import Dsdm


def test_a_run_chooses_conversations_and_writes_them_as_they_came(
    tmp_path: Path, dsdm: Dsdm
) -> None:
    code, _, err = dsdm("run", write_chat_experiment(tmp_path))
    assert code == 0, err
    chosen = read_lines(tmp_path / "run" / "dataset" / "part-00000.jsonl")
    assert len(chosen) == 6
    by_id = {record["id"]: record for record in conversations(60)}
    for record in chosen:
        assert isinstance(record.pop("dsdm_score"), float)
        assert record == by_id[record["id"]]


def test_less_and_cosines_at_several_checkpoints(tmp_path: Path, dsdm: Dsdm) -> None:
    write_chat_experiment(tmp_path)
    experiment = write_chat_experiment(
        tmp_path,
        targets=[
            {"name": "capitals", "file": str(tmp_path / "target.jsonl"), "chat": True},
            {"name": "rest", "file": str(tmp_path / "target.jsonl"), "seed": 1},
        ],
        proxies={"count": 2, "checkpoints": 2, "moments": True, "epochs": 4.0},
        directions={"estimators": ["ekfac", "less"], "curvature_rows": 32},
        scores={"cosine": True, "calibration_rows": 16, "precision": "float32"},
    )
    code, _, err = dsdm("run", experiment)
    assert code == 0, err
    run = tmp_path / "run"
    table = pq.read_table(run / "scores" / "all" / "scores.parquet")
    rates = [json.loads((run / "proxies" / str(i) / "rates.json").read_text()) for i in (0, 1)]
    weights = np.concatenate([np.array(rate) / sum(rate) / 2 for rate in rates])
    assert weights.sum() == pytest.approx(1)
    assert len(set(weights.tolist())) > 1

    def mean(method: str, target: str) -> np.ndarray:
        columns = [table[f"{method}.{i}.{target}"].to_numpy() for i in range(4)]
        return np.average(columns, axis=0, weights=weights)

    best = np.maximum(mean("less", "capitals"), mean("less", "rest"))
    np.testing.assert_allclose(table["less"].to_numpy(), best, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        table["ekfac"].to_numpy(), mean("ekfac", "mix"), rtol=1e-5, atol=1e-7
    )
    assert np.abs(table["ekfac.0.mix"].to_numpy()).max() <= 1
