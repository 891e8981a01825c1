"""Every kind of bad input ends in one message on standard error and exit code 2."""

import errno
import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from transformers import AutoModelForCausalLM

from dsdm.data import harness
from dsdm.data.harness_tasks import unknown_task
from tests.data.pools import texts, write_jsonl, write_parquet
from tests.tiny_runs import MODEL, Dsdm, add_pool_file, target_records, write_data, write_experiment

Pool = Callable[..., str]


def message(dsdm: Dsdm, *arguments: object) -> str:
    """What the command says before it exits with code 2."""
    code, _, err = dsdm(*arguments)
    assert code == 2
    assert "Traceback" not in err
    assert err.count("dsdm: ") == 1
    return err.partition("dsdm: ")[2].removesuffix("\n")


@pytest.fixture
def pool_error(tmp_path: Path, dsdm: Dsdm) -> Pool:
    """The message for a pool that holds one file, and the usual settings with changes."""

    def run(name: str, content: bytes, **pool: object) -> str:
        write_data(tmp_path)
        for old in (tmp_path / "pool").iterdir():
            old.unlink()
        (tmp_path / "pool" / name).write_bytes(content)
        path = write_experiment(tmp_path, pool={"max_rejected_share": 0.2} | pool)
        return message(dsdm, "run", path, "--until", "duplicates")

    return run


def lines(*records: object) -> bytes:
    """Objects as JSON, bytes as they are."""
    return b"".join(
        (record if isinstance(record, bytes) else json.dumps(record).encode()) + b"\n"
        for record in records
    )


GOOD = [{"id": str(i), "text": text} for i, text in enumerate(texts(6))]


def test_an_empty_pool(tiny: Path, dsdm: Dsdm) -> None:
    shutil.rmtree(tiny.parent / "pool")
    assert "pool: no such file or folder. Correct `pool.files`" in message(dsdm, "run", tiny)
    (tiny.parent / "pool").mkdir()
    assert "it is empty" in message(dsdm, "run", tiny)
    assert "The pool is empty" in message(dsdm, "run", tiny, "--pool.files", "[]")


def test_a_pool_of_nothing_but_rubbish(pool_error: Pool) -> None:
    found = pool_error("a.jsonl", lines({"text": None}), max_rejected_share=1)
    assert "text" in found


def test_a_missing_column(pool_error: Pool) -> None:
    found = pool_error("a.jsonl", lines({"body": "x"}))
    assert "a.jsonl: has no column `text`; it has `body`" in found


def test_a_missing_column_of_parquet(tmp_path: Path, tiny: Path, dsdm: Dsdm) -> None:
    write_parquet(tmp_path / "pool" / "c.parquet", {"body": ["x"], "id": ["1"]})
    found = message(dsdm, "run", tiny, "--until", "examples")
    assert "c.parquet: has no column `text`; it has `body`, `id`" in found


def test_a_parquet_file_that_is_cut_short(tmp_path: Path, tiny: Path, dsdm: Dsdm) -> None:
    path = write_parquet(tmp_path / "pool" / "c.parquet", {"text": texts(500)})
    path.write_bytes(path.read_bytes()[:-200])
    found = message(dsdm, "run", tiny, "--until", "examples")
    assert "c.parquet: cannot be read" in found
    assert "cut short or damaged" in found


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_compressed_file_that_is_cut_short(pool_error: Pool, kind: str) -> None:
    content = lines(*({"text": text} for text in texts(500)))
    compress = gzip.compress if kind == "gz" else zstandard.ZstdCompressor().compress
    found = pool_error(f"a.jsonl.{kind}", compress(content)[:-100])
    assert f"a.jsonl.{kind}: cannot be read" in found
    assert "cut short or damaged" in found


BAD_RECORDS = {
    "not JSON": b"{not json",
    "not a JSON object": b'["a", "list"]',
    "longer than 400 bytes": {"text": "long " * 200},
    "invalid UTF-8": b'{"text": "caf\xe9"}',
    "null text": {"text": None},
    "empty text": {"text": " \n"},
    "not a string": {"text": 5},
    "duplicate id": {"id": "0", "text": "another text with an id of before"},
}


@pytest.mark.parametrize("reason", BAD_RECORDS)
def test_bad_records_are_counted_and_too_many_stop_the_run(
    tmp_path: Path, dsdm: Dsdm, pool_error: Pool, reason: str
) -> None:
    content = lines(*GOOD, BAD_RECORDS[reason])
    found = pool_error("a.jsonl", content, max_rejected_share=0.1, max_document_bytes=400)
    assert "a.jsonl: 1 of 7 records can't be used (1 " in found
    assert reason in found
    (listed,) = (tmp_path / "run" / "examples").glob("rejected*.jsonl")
    assert str(listed) in found
    assert json.loads(listed.read_text())["row"] == 6
    allowed = ("--pool.max_rejected_share", "0.2", "--until", "duplicates")
    assert dsdm("run", tmp_path / "tiny.yaml", *allowed)[0] == 0
    folders = [tmp_path / "run" / name for name in ("examples/00000", "duplicates")]
    rejected = "".join((folder / "rejected.jsonl").read_text() for folder in folders)
    counts = json.loads((folders[1] / "_manifest.json").read_text())["counts"]
    assert (counts["documents"], rejected.count("\n")) == (6, 1)


def target_error(folder: Path, dsdm: Dsdm, content: bytes, **target: object) -> str:
    (folder / "target.jsonl").write_bytes(content)
    one = {"name": "words", "file": str(folder / "target.jsonl")} | target
    path = write_experiment(folder, targets=[one])
    return message(dsdm, "run", path, "--until", "targets")


def test_a_target_without_an_answer(tiny: Path, dsdm: Dsdm) -> None:
    records = [*target_records(3), {"context": "Nothing follows", "continuation": " "}]
    found = target_error(tiny.parent, dsdm, lines(*records))
    assert "target.jsonl:4" in found
    assert "answer" in found


def test_an_answer_that_no_row_holds(tiny: Path, dsdm: Dsdm) -> None:
    records = [{"context": "Say it", "continuation": "the cat sat " * 60}, *target_records(9)]
    found = target_error(tiny.parent, dsdm, lines(*records))
    assert "target.jsonl:1: the answer has" in found
    assert "a row of 32 holds 31" in found


def test_a_target_with_too_few_examples(tiny: Path, dsdm: Dsdm) -> None:
    found = target_error(tiny.parent, dsdm, lines(*target_records(1)))
    assert "the part" in found
    assert "has no example" in found


def test_a_target_that_is_not_there(tiny: Path, dsdm: Dsdm) -> None:
    (tiny.parent / "target.jsonl").unlink()
    assert "target.jsonl" in message(dsdm, "run", tiny, "--until", "targets")


def test_an_unknown_task(tiny: Path, dsdm: Dsdm, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(names: list[str]) -> None:
        raise unknown_task(names[0], ["lambada_openai", "lambada_standard", "squadv2"])

    monkeypatch.setattr(harness, "load_tasks", load)
    found = target_error(tiny.parent, dsdm, b"", file=None, task="lambada_opnai")
    assert "no task 'lambada_opnai'. Nearest names: lambada_openai, " in found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_unknown_task_in_the_index_of_lm_eval(tiny: Path, dsdm: Dsdm) -> None:
    found = target_error(tiny.parent, dsdm, b"", file=None, task="lambada_opnai")
    assert "Nearest names: lambada_openai" in found


def test_a_vocabulary_that_is_smaller_than_the_tokenizers(tiny: Path, dsdm: Dsdm) -> None:
    found = message(dsdm, "run", tiny, "--model.config.vocab_size", "100")
    assert "its vocabulary has 100 entries and the tokenizer 300" in found


def test_weights_that_are_not_numbers(tiny: Path, dsdm: Dsdm) -> None:
    folder = tiny.parent / "pretrained"
    model = AutoModelForCausalLM.from_config(_gpt2())
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] = np.nan
    model.save_pretrained(folder)
    path = write_experiment(tiny.parent, model={"config": None, "path": str(folder)})
    found = message(dsdm, "run", path)
    assert "wte.weight` holds NaN or infinite values" in found


def _gpt2():
    from transformers import AutoConfig

    fields = MODEL | {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 0}
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def test_a_folder_that_holds_no_model(tiny: Path, dsdm: Dsdm) -> None:
    (tiny.parent / "empty").mkdir()
    path = write_experiment(tiny.parent, model={"config": None, "path": str(tiny.parent / "empty")})
    assert "cannot be made" in message(dsdm, "run", path)


def test_a_row_that_is_longer_than_the_model_reads(tiny: Path, dsdm: Dsdm) -> None:
    found = message(dsdm, "run", tiny, "--examples.row_tokens", "64")
    assert "32" in found
    assert "row_tokens" in found


def test_a_budget_that_is_larger_than_the_pool(tiny: Path, dsdm: Dsdm) -> None:
    found = message(dsdm, "run", tiny, "--selection.tokens", "1e6")
    assert "1,000,000" in found
    assert "5,384" in found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--pool.fils", "x"], "--pool.fils x: unknown field `fils` in `pool`; did you mean"),
        (["--proxies.train.lr", "fast"], "`proxies.train.lr`: Expected `float`, got `str`"),
        (["--proxies.count", "0"], "`proxies` needs count >= 1"),
        (
            ["--directions.estimators", "[ekfc]"],
            "known are ekfac, gradient, metagradient, trak",
        ),
        (["--estimator", "trak"], "`estimator` 'trak' is not in `directions.estimators`"),
        (["--selection.tokens", "5", "--selection.fraction", "0.1"], "exactly one budget"),
        (["--targets", "[]"], "at least one target"),
        (["--compare.arms", "[tip]"], "compare.arms: 'tip' is not known"),
        (["--compare.arms", "['dsir:far']"], "'far' is none of the targets words"),
        (["--compare.arms", "['top:words']"], "set scores.per_target to true"),
        (["--pool.format", "csv"], "`pool`: format 'csv' is none of auto, dataset, tokens,"),
    ],
)
def test_a_setting_that_is_wrong(
    tiny: Path, dsdm: Dsdm, arguments: list[str], expected: str
) -> None:
    assert expected in message(dsdm, "run", tiny, *arguments)
    assert not (tiny.parent / "run").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run: [x", "is not valid YAML"),
        ("- a\n- b", "expected a mapping at the top, got list"),
        ("", "expected a mapping at the top, got NoneType"),
        ("run: x", "missing required field"),
        ("run: \xff", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_experiment(tmp_path: Path, dsdm: Dsdm, text: str, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text.encode("latin-1"))
    found = message(dsdm, "run", path)
    assert found.startswith(f"{path}:")
    assert expected in found


def test_a_full_disk(tiny: Path, dsdm: Dsdm, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dsdm("run", tiny, "--until", "duplicates")[0] == 0
    # The index of the pool is written first, before any stage.
    calls = iter([os.fsync])

    def sync(number: int) -> None:
        for real in calls:
            return real(number)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", sync)
    found = message(dsdm, "run", tiny)
    assert "targets/words: could not be written (No space left on device)" in found
    assert "make room" in found
    monkeypatch.undo()
    code, _, err = dsdm("run", tiny, "--until", "targets")
    assert code == 0
    assert "examples     0 made, 2 already done" in err


def test_a_run_folder_that_cannot_be_made(tiny: Path, dsdm: Dsdm) -> None:
    (tiny.parent / "file").touch()
    found = message(dsdm, "run", tiny, "--run", tiny.parent / "file" / "run")
    assert "file/run: could not be written (Not a directory)" in found


@pytest.mark.parametrize(
    ("arguments", "change", "stage"),
    [
        (("--examples.row_tokens", "16"), "row_tokens: 32 -> 16", "examples"),
        (("--proxies.epochs", "1.0"), "epochs: 2.0 -> 1.0", "proxies"),
        (("--tokenizer.vocab_size", "310"), "vocab_size: 300 -> 310", "tokenizer"),
        (("--seed", "1"), "seed: [0, 0] -> [1, 0]", "proxies"),
    ],
)
def test_a_run_folder_of_other_settings(
    tiny: Path, dsdm: Dsdm, arguments: tuple[str, str], change: str, stage: str
) -> None:
    assert dsdm("run", tiny, "--until", "proxies")[0] == 0
    found = message(dsdm, "run", tiny, *arguments)
    assert change in found
    assert f"--redo {stage}" in found


def test_a_pool_file_that_was_only_touched_is_the_same(tiny: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny, "--until", "examples")[0] == 0
    for path in tiny.parent.rglob("*.jsonl"):
        os.utime(path, (1, 1))
    assert dsdm("run", tiny, "--until", "examples")[0] == 0


def test_a_pool_file_that_changed(tiny: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny, "--until", "examples")[0] == 0
    add_pool_file(tiny.parent, "b", seed=5)
    found = message(dsdm, "run", tiny)
    assert "input pool file changed" in found
    assert "--redo examples" in found


def test_a_target_file_that_changed(tiny: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny, "--until", "targets")[0] == 0
    write_jsonl(tiny.parent / "target.jsonl", target_records(21))
    found = message(dsdm, "run", tiny)
    assert "input files changed" in found
    assert "--redo targets" in found


def test_a_pool_file_that_is_gone(tiny: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny, "--until", "examples")[0] == 0
    (tiny.parent / "pool" / "b.jsonl").unlink()
    found = message(dsdm, "run", tiny)
    assert "b.jsonl: is part of the pool that this run began with, is still needed" in found


def test_a_damaged_manifest(tiny: Path, dsdm: Dsdm) -> None:
    assert dsdm("run", tiny, "--until", "tokenizer")[0] == 0
    (tiny.parent / "run" / "tokenizer" / "_manifest.json").write_text("{")
    assert "_manifest.json: is damaged" in message(dsdm, "run", tiny)


def test_a_report_of_a_folder_that_is_no_run(tmp_path: Path, dsdm: Dsdm) -> None:
    assert str(tmp_path) in message(dsdm, "report", tmp_path)


def test_a_pool_whose_every_candidate_overlaps_a_target(tmp_path: Path, dsdm: Dsdm) -> None:
    shared = "one two three four five six seven eight nine ten eleven twelve thirteen"
    write_data(tmp_path)
    for file in (tmp_path / "pool").iterdir():
        ids = [f"{file.stem}{i}" for i in range(9)]
        write_jsonl(file, [{"id": id, "text": f"{shared} {id}"} for id in ids])
    targets = [{"context": f"{i}. {shared}", "continuation": " end"} for i in range(20)]
    write_jsonl(tmp_path / "target.jsonl", targets)
    path = write_experiment(tmp_path, drop_overlap=True)
    found = message(dsdm, "run", path)
    assert "drop_overlap: all 18 candidates of the pool share 13 words in a row" in found
    assert "Set `drop_overlap` to false" in found


def test_ids_that_occur_in_two_files(tiny: Path, dsdm: Dsdm) -> None:
    records = [{"id": f"a{i}", "text": f"something else, number {i}"} for i in range(5)]
    write_jsonl(tiny.parent / "pool" / "c.jsonl", records)
    found = message(dsdm, "run", tiny, "--until", "duplicates")
    assert "5 of 5 records can't be used (5 duplicate id)" in found
