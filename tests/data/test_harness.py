import json
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest

from dsdm.data import harness
from dsdm.data.harness import read_task_examples
from dsdm.errors import DataError

LOGLIKELIHOOD = 'output_type: loglikelihood\ndoc_to_target: " {{word}}"'
CHOICES = "output_type: multiple_choice\ndoc_to_target: label\ndoc_to_choice: choices"
GENERATION = 'output_type: generate_until\ndoc_to_target: "{{word}}"'


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def write_task(folder: Path, settings: str, name: str = "numbers", **columns: Any) -> str:
    for split in ("train", "test"):
        records = [
            {
                "question": f"{split} {i}",
                "word": f"w{i}",
                "choices": [f"v{i}", f"w{i}"],
                "label": 1,
                **columns,
            }
            for i in range(5)
        ]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    path = folder / f"{name}.yaml"
    doc_to_text = "" if "doc_to_text" in settings else 'doc_to_text: "Q {{question}}\\nA:"'
    path.write_text(
        f"""task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{train: {folder}/train.jsonl, test: {folder}/test.jsonl}}
  cache_dir: {folder}/cache
training_split: train
test_split: test
{doc_to_text}
metric_list: []
{settings}
""",
        encoding="utf-8",
    )
    return str(path)


def read_pairs(path: str, num_fewshot: int = 0, seed: int = 0) -> list[tuple[str, str]]:
    examples = read_task_examples(path, num_fewshot, seed, None)
    return [(example.context, example.answer) for example in examples]


@pytest.mark.parametrize("settings", [LOGLIKELIHOOD, CHOICES, GENERATION])
def test_the_three_kinds_of_task_give_prompt_and_gold_answer(tmp_path: Path, settings: str) -> None:
    assert read_pairs(write_task(tmp_path, settings)) == [
        (f"Q test {i}\nA:", f" w{i}") for i in range(5)
    ]


def test_solved_examples_of_the_training_split_stand_before_the_question(tmp_path: Path) -> None:
    path = write_task(tmp_path, GENERATION)
    for i, (context, _) in enumerate(read_pairs(path, num_fewshot=2)):
        *solved, question = context.split("\n\n")
        assert question == f"Q test {i}\nA:"
        assert len(solved) == 2
        assert all(s == f"Q train {s[8]}\nA: w{s[8]}" for s in solved)
    assert read_pairs(path, 2, seed=0) == read_pairs(path, 2, seed=0) != read_pairs(path, 2, seed=1)


def test_the_gold_context_is_taken_where_contexts_are_the_choices(tmp_path: Path) -> None:
    path = write_task(
        tmp_path,
        "output_type: multiple_choice\ndoc_to_text: label\ndoc_to_choice: choices\n"
        'doc_to_target: "left {{word}}."',
    )
    assert read_pairs(path)[3] == ("w3", " left w3.")


def test_the_first_of_several_right_answers_is_taken(tmp_path: Path) -> None:
    path = write_task(
        tmp_path, "output_type: generate_until\ndoc_to_target: words", words=["yes", "yeah"]
    )
    assert read_pairs(path)[0][1] == " yes"


def test_a_document_without_a_gold_choice_is_an_error(tmp_path: Path) -> None:
    path = write_task(tmp_path, CHOICES)
    first, *others = (tmp_path / "test.jsonl").read_text(encoding="utf-8").splitlines(True)
    lines = [first, *(line.replace('"label": 1', '"label": 7') for line in others)]
    (tmp_path / "test.jsonl").write_text("".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"numbers: document 1: the gold answer 7 .* 3 more"):
        read_pairs(path)


def test_a_column_of_the_task_can_group_its_examples(tmp_path: Path) -> None:
    path = write_task(tmp_path, CHOICES, passage="P")
    assert {example.group for example in read_task_examples(path, 0, 0, "passage")} == {"P"}


def test_a_perplexity_task_is_an_error(tmp_path: Path) -> None:
    path = write_task(tmp_path, 'output_type: loglikelihood_rolling\ndoc_to_target: "{{word}}"')
    with pytest.raises(DataError, match="'loglikelihood_rolling' has no answers"):
        read_pairs(path)


def test_a_task_that_fixes_zero_shots_takes_no_others(tmp_path: Path) -> None:
    path = write_task(tmp_path, GENERATION + "\nnum_fewshot: 0")
    assert len(read_pairs(path)) == 5
    with pytest.raises(DataError, match="fixes num_fewshot to 0"):
        read_pairs(path, num_fewshot=1)


def test_an_unknown_task_is_an_error_with_the_nearest_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path, CHOICES, name="numbers_hard")
    write_task(tmp_path, CHOICES, name="letters")
    # lm-eval's own index takes half a minute to build.
    manager = lm_eval.tasks.TaskManager(include_path=tmp_path, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda **options: manager)
    with pytest.raises(DataError, match=r"no task 'number_hard'\. Nearest names: numbers_hard\."):
        read_pairs("number_hard")
    with pytest.raises(DataError, match="No name is near"):
        read_pairs("zzzzzzzz")
    assert len(read_pairs("numbers_hard")) == 5


def test_a_task_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.yaml: .*cannot be read"):
        read_pairs(str(tmp_path / "none.yaml"))
    path = write_task(tmp_path, "output_type: telepathy\ndoc_to_target: word")
    with pytest.raises(DataError, match=r"could not load task .*telepathy"):
        read_pairs(path)
    path = write_task(tmp_path, 'output_type: generate_until\ndoc_to_target: "{{absent}}"')
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(DataError, match=r"could not load task .*test\.jsonl"):
        read_pairs(path)


def test_lm_eval_is_imported_only_for_tasks() -> None:
    assert "lm_eval" not in vars(harness)
