"""The worked example of docs/finetune.md, at toy size; and what it says of its files."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset

from dsdm.experiment import load_experiment
from tests.data.pools import write_jsonl
from tests.tiny_chat import conversations, write_chat_experiment
from tests.tiny_runs import Dsdm

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "finetune.md").read_text(encoding="utf-8")
COMMANDS = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).splitlines()
TINY = "{model_type: llama, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, " + (
    "num_attention_heads: 2, max_position_embeddings: 512, initializer_range: 0.2}"
)
TOY = {
    "demo_base.yaml": [
        *("--pool.sample", "0.02", "--tokenizer.vocab_size", "500", "--model.config", TINY),
    ],
    "demo.yaml": [
        *("--selection.candidates", "6", "--pool.max_rejected_share", "1.0"),
        *("--compare.epochs", "1", "--directions.ekfac.curvature_rows", "20"),
        *("--scores.calibration_rows", "16", "--proxies.epochs", "1"),
    ],
    "make_pool.py": ["--count", "60"],
}


def run_command(line: str, dsdm: Dsdm, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page says to type, with the toy's settings behind it."""
    program, *words = shlex.split(line)
    words += [word for name, more in TOY.items() if name in line for word in more]
    if program == "dsdm":
        code, _, err = dsdm(*words)
        assert code == 0, err
        return
    assert program == "python"
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(words[0], run_name="__main__")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_the_worked_example_runs(
    tmp_path: Path,
    dsdm: Dsdm,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert len(COMMANDS) == 5
    for line in COMMANDS:
        run_command(line, dsdm, monkeypatch)
    for path in re.findall(r"^\| `(runs/finetune/\S+)` \|", PAGE, re.MULTILINE):
        assert (tmp_path / path).exists(), path
    pool = (tmp_path / "runs/finetune/pool.jsonl").read_text(encoding="utf-8").splitlines()
    whole = {json.loads(line)["id"]: json.loads(line) for line in pool}
    chosen = tmp_path / "runs/finetune/demo/dataset/part-00000.jsonl"
    lines = [json.loads(line) for line in chosen.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 6
    for line in lines:
        line.pop("dsdm_score")
        assert line == whole[line["id"]]
    adapter = json.loads(
        (tmp_path / "runs/finetune/demo/models/top-0/adapter_config.json").read_text()
    )
    assert adapter["base_model_name_or_path"] == "runs/finetune/model"


def test_datasets_reads_the_chosen_conversations_as_trainers_do(tmp_path: Path, dsdm: Dsdm) -> None:
    write_jsonl(tmp_path / "pool.jsonl", conversations(60))
    assert dsdm("run", write_chat_experiment(tmp_path))[0] == 0
    file = str(tmp_path / "run" / "dataset" / "part-00000.jsonl")
    found = load_dataset("json", data_files=file, split="train", cache_dir=str(tmp_path / "cache"))
    assert [turn["role"] for turn in found[0]["messages"]] == ["user", "assistant"]


def test_the_page_s_experiment_is_what_new_writes(tmp_path: Path, dsdm: Dsdm) -> None:
    (block,) = [b for b in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "pool:" in b]
    (tmp_path / "mine.yaml").write_text(block, encoding="utf-8")
    experiment = load_experiment(tmp_path / "mine.yaml")
    assert experiment.own_tokenizer.path == experiment.model.path
    assert dsdm("new", tmp_path / "new.yaml", "--finetune", "--minimal")[0] == 0
    assert load_experiment(tmp_path / "new.yaml") == experiment


def test_figures_are_of_a_finished_comparison(
    tmp_path: Path, dsdm: Dsdm, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "pool.jsonl", conversations(60))
    experiment = write_chat_experiment(
        tmp_path,
        compare={"arms": ["top", "random", "repeated", "bm25"], "epochs": 2, "seeds": 2},
    )
    assert dsdm("run", experiment)[0] == 0
    script = ROOT / "experiments" / "finetune" / "figures.py"
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    names = runpy.run_path(str(script))
    rows = names["comparison_figures"](load_experiment(experiment), "finetune", "report")
    found = {row["name"]: row for row in rows}
    folder = tmp_path / "run" / "evaluations" / "report"
    losses = [
        np.mean([np.load(folder / f"{arm}-{s}" / "capitals.npy").mean() for s in (0, 1)])
        for arm in ("top", "random")
    ]
    figure = found["finetune.capitals.dsdm.loss_minus_random"]
    assert figure["value"] == pytest.approx(losses[0] - losses[1])
    assert figure["low"] < figure["value"] < figure["high"]
    assert found["finetune.dsdm.cost"]["value"] > 0
    assert -1 <= found["finetune.dsdm.completion_correlation"]["value"] <= 1
    assert "finetune.capitals.bm25.loss_minus_repeated" in found
