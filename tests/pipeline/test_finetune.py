"""Choosing conversations for a model that is already trained, from file to file."""

from pathlib import Path

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
