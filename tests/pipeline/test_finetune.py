"""Choosing conversations for a model that is already trained, from file to file."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.pools import write_jsonl
from tests.tiny_chat import conversations, read_lines, write_chat_experiment, write_chat_model
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


@pytest.mark.parametrize("first", [None, 0.25])
def test_less_and_cosines_at_several_checkpoints(
    tmp_path: Path, dsdm: Dsdm, first: float | None
) -> None:
    write_chat_experiment(tmp_path)
    experiment = write_chat_experiment(
        tmp_path,
        targets=[
            {"name": "capitals", "file": str(tmp_path / "target.jsonl"), "chat": True},
            {"name": "rest", "file": str(tmp_path / "target.jsonl"), "seed": 1},
        ],
        proxies={
            "count": 2,
            "checkpoints": 2,
            "first_checkpoint": first,
            "moments": True,
            "epochs": 4.0,
        },
        estimator="less",
        directions={"estimators": ["ekfac"], "ekfac": {"curvature_rows": 32}},
        scores={"cosine": True, "calibration_rows": 16, "precision": "float32"},
    )
    code, _, err = dsdm("run", experiment)
    assert code == 0, err
    run = tmp_path / "run"
    table = pq.read_table(run / "scores" / "all" / "scores.parquet")
    rates = [json.loads((run / "proxies" / str(i) / "rates.json").read_text()) for i in (0, 1)]
    weights = np.concatenate([np.array(rate) / sum(rate) / 2 for rate in rates])
    assert weights.sum() == pytest.approx(1)
    # A quarter of the training, and half of it, at the rates that lead to it.
    assert weights[0] < weights[1] if first else weights[0] > weights[1]

    columns = [table[f"ekfac.{i}.mix"].to_numpy() for i in range(4)]
    mean = np.average(columns, axis=0, weights=weights)
    np.testing.assert_allclose(table["ekfac"].to_numpy(), mean, rtol=1e-5, atol=1e-7)
    assert np.abs(table["ekfac.0.mix"].to_numpy()).max() <= 1
    # The baseline's scores select.
    scored = pq.read_table(run / "baselines" / "less" / "scores.parquet")["less"].to_numpy()
    chosen = pq.read_table(run / "selection" / "selection.parquet")["candidate"].to_numpy()
    assert set(chosen) == set(np.argsort(-scored, kind="stable")[: len(chosen)])
    assert "less" in (run / "report.html").read_text(encoding="utf-8")


ARMS = ["top", "random", "repeated", "bm25", "similarity", "less", "all-1epochs"]


def test_arms_are_compared_at_equal_numbers_of_conversations(tmp_path: Path, dsdm: Dsdm) -> None:
    write_chat_experiment(tmp_path)
    experiment = write_chat_experiment(
        tmp_path,
        proxies={"moments": True, "epochs": 4.0},
        directions={"ekfac": {"curvature_rows": 32}, "context_share": 0.0},
        compare={
            "arms": ARMS,
            "epochs": 3,
            "train": {"batch_rows": 4, "lr": 1e-2},
            "heldout": [
                {"name": "other", "file": str(tmp_path / "target.jsonl"), "chat": True, "limit": 3}
            ],
        },
    )
    code, out, err = dsdm("run", experiment)
    assert code == 0, err
    run = tmp_path / "run"
    for arm in ARMS:
        counts = json.loads((run / "models" / f"{arm}-0" / "_manifest.json").read_text())["counts"]
        # 6 conversations in each of 3 epochs, 4 at a time; all: 60 once.
        assert counts["steps"] == (15 if arm == "all-1epochs" else 5), arm
        chosen = np.load(run / "models" / f"{arm}-0" / "rows.npy")
        assert len(chosen) == {"random": 18, "all-1epochs": 60}.get(arm, 6), arm
        assert (run / "models" / f"{arm}-0" / "adapter_model.safetensors").is_file()
    assert "similarity" in out
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "With the tokens of what the assistant says" in page


def test_adapters_notice_that_their_base_has_changed(tmp_path: Path, dsdm: Dsdm) -> None:
    experiment = write_chat_experiment(tmp_path)
    assert dsdm("run", experiment, "--until", "proxies")[0] == 0
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text() + "\n")
    _, out, _ = dsdm("status", experiment)
    (line,) = [line for line in out.splitlines() if line.startswith("stale    proxies/0")]
    assert "input model files changed" in line


def test_a_fine_tune_in_full_needs_no_adapters(tmp_path: Path, dsdm: Dsdm) -> None:
    model = {"lora": None}
    code, _, err = dsdm("run", write_chat_experiment(tmp_path, model=model))
    assert code == 0, err
    assert (tmp_path / "run" / "proxies" / "0" / "model.safetensors").is_file()


def test_a_dry_run_forecasts_a_fine_tune(tmp_path: Path, dsdm: Dsdm) -> None:
    code, out, err = dsdm("run", write_chat_experiment(tmp_path), "--dry-run")
    assert code == 0, err
    assert "pool       " in out
    assert "60 documents" in out


def test_a_pool_of_prompts_needs_no_template(tmp_path: Path, dsdm: Dsdm) -> None:
    write_chat_model(tmp_path / "model", template=None)
    records = [
        {"prompt": c["messages"][0]["content"], "completion": " " + c["messages"][1]["content"]}
        for c in conversations(60)
    ]
    write_jsonl(tmp_path / "pool.jsonl", records)
    targets = [{"name": "capitals", "file": str(tmp_path / "target.jsonl")}]
    code, _, err = dsdm("run", write_chat_experiment(tmp_path, targets=targets))
    assert code == 0, err
    for record in read_lines(tmp_path / "run" / "dataset" / "part-00000.jsonl"):
        record.pop("dsdm_score")
        assert record in records


def test_the_chosen_conversations_keep_their_shape_in_parquet(tmp_path: Path, dsdm: Dsdm) -> None:
    pq.write_table(pa.Table.from_pylist(conversations(60)), tmp_path / "pool.parquet")
    pool = {"files": [str(tmp_path / "pool.parquet")]}
    experiment = write_chat_experiment(tmp_path, pool=pool, export={"format": "parquet"})
    code, _, err = dsdm("run", experiment)
    assert code == 0, err
    table = pq.read_table(tmp_path / "run" / "dataset" / "part-00000.parquet")
    by_id = {record["id"]: record for record in conversations(60)}
    assert len(table) == 6
    for record in table.drop_columns(["dsdm_score"]).to_pylist():
        assert record == by_id[record["id"]]


def test_a_baseline_that_selects_alone_needs_no_directions(tmp_path: Path, dsdm: Dsdm) -> None:
    experiment = write_chat_experiment(tmp_path, estimator="less", proxies={"moments": True})
    code, _, err = dsdm("run", experiment)
    assert code == 0, err
    run = tmp_path / "run"
    assert not (run / "directions").exists()
    assert not (run / "scores").exists()
    assert len(read_lines(run / "dataset" / "part-00000.jsonl")) == 6
    out = tmp_path / "three"
    code, _, err = dsdm("select", run / "scores", "--candidates", 3, "--out", out)
    assert code == 0, err
    assert len(read_lines(out / "dataset" / "part-00000.jsonl")) == 3
