import json
import math
import random
from pathlib import Path
from typing import Any

import lm_eval.tasks
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from dsdm.data.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer
from dsdm.errors import DataError
from dsdm.evaluation.accuracy import GOLD_LOGLIK, task_results
from dsdm.lm.config import ModelConfig
from dsdm.lm.model import load_model
from tests.data.pools import texts

POSITIONS = 24
GPT2 = {"model_type": "gpt2", "n_positions": POSITIONS, "n_embd": 16, "n_layer": 2, "n_head": 2}
CHOICES = (
    "output_type: multiple_choice\ndoc_to_target: label\ndoc_to_choice: choices\n"
    "metric_list: [{metric: acc}, {metric: acc_norm}]"
)
LAST_WORD = (
    'output_type: loglikelihood\ndoc_to_target: " {{gold}}"\n'
    "metric_list: [{metric: acc}, {metric: perplexity}]"
)
WRITTEN = (
    'output_type: generate_until\ndoc_to_target: "{{gold}}"\n'
    "generation_kwargs: {max_gen_toks: 3, until: ['!']}\nmetric_list: [{metric: exact_match}]"
)
RECORDS = [
    {"question": f"number {i}", "choices": [f"a{i} é", "the long answer", "b"], "label": i % 3}
    for i in range(7)
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer(TokenizerConfig(vocab_size=280), iter(texts(20, 0)))


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> PreTrainedModel:
    model = load_model(
        ModelConfig(config=GPT2), vocab_size=tokenizer.vocab_size, eos=tokenizer.eos, seed=0
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model


def write_task(
    folder: Path, settings: str, records: list[dict[str, Any]] = RECORDS, name: str = "numbers"
) -> str:
    golds = [record | {"gold": record["choices"][record["label"]]} for record in records]
    lines = "".join(json.dumps(record) + "\n" for record in golds)
    (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    path = folder / f"{name}.yaml"
    path.write_text(
        f"""task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/{name}.jsonl}}
  cache_dir: {folder}/cache
test_split: test
doc_to_text: "Q {{{{question}}}}:"
{settings}
""",
        encoding="utf-8",
    )
    return str(path)


def scored(
    model: PreTrainedModel, tokenizer: Tokenizer, context: str, answer: str
) -> tuple[float, bool]:
    """The answer's log-likelihood in nats, and whether it is the greedy one."""
    # Tokenised as one text, as lm-eval does, then cut where the context's own tokens end.
    start = len(tokenizer.encode_batch([context])[0])
    tokens = torch.tensor(tokenizer.encode_batch([context + answer])[0].astype(np.int64))
    with torch.no_grad():
        seen = tokens[:-1][-POSITIONS:]
        logprobs = model(input_ids=seen[None]).logits[0].double().log_softmax(1)
    count = len(tokens) - start
    of_answer, answer_tokens = logprobs[-count:], tokens[start:]
    loglik = float(of_answer.gather(1, answer_tokens[:, None]).sum())
    return loglik, bool((of_answer.argmax(1) == answer_tokens).all())


def standard_error(values: list[float]) -> float:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def check_mean(found: dict[str, float], name: str, values: list[float]) -> None:
    assert found[name] == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert found[f"{name}_stderr"] == pytest.approx(standard_error(values), rel=1e-4)


def run(
    model: PreTrainedModel, tokenizer: Tokenizer, path: str, **options: Any
) -> dict[str, float]:
    return task_results(model, tokenizer, [path], precision="float32", **options)["numbers"]


@pytest.mark.parametrize("batch_rows", [1, 64])
def test_accuracy_is_that_of_the_models_own_likelihoods(
    tmp_path: Path, model: PreTrainedModel, tokenizer: Tokenizer, batch_rows: int
) -> None:
    found = run(model, tokenizer, write_task(tmp_path, CHOICES), batch_rows=batch_rows)
    right, right_a_character, per_byte = [], [], []
    for record in RECORDS:
        context, label = f"Q {record['question']}:", record["label"]
        answers = [f" {choice}" for choice in record["choices"]]
        logliks = [scored(model, tokenizer, context, answer)[0] for answer in answers]
        # lm-eval's acc_norm counts the choice's characters without the space before it.
        a_character = np.array(logliks) / [len(choice) for choice in record["choices"]]
        right.append(float(np.argmax(logliks) == label))
        right_a_character.append(float(np.argmax(a_character) == label))
        per_byte.append(logliks[label] / len(answers[label].encode()))
    assert 0 < sum(right) < len(RECORDS)
    check_mean(found, "acc", right)
    check_mean(found, "acc_norm", right_a_character)
    check_mean(found, GOLD_LOGLIK, per_byte)
    assert len(found) == 6


def test_a_last_word_is_scored_by_its_likelihood(
    tmp_path: Path, model: PreTrainedModel, tokenizer: Tokenizer
) -> None:
    found = run(model, tokenizer, write_task(tmp_path, LAST_WORD))
    golds = [f" {record['choices'][record['label']]}" for record in RECORDS]
    contexts = [f"Q {record['question']}:" for record in RECORDS]
    pairs = [scored(model, tokenizer, *pair) for pair in zip(contexts, golds, strict=True)]
    bytes_each = [len(gold.encode()) for gold in golds]
    check_mean(found, "acc", [float(greedy) for _, greedy in pairs])
    check_mean(found, GOLD_LOGLIK, [ll / n for (ll, _), n in zip(pairs, bytes_each, strict=True)])
    mean_loglik = sum(loglik for loglik, _ in pairs) / len(pairs)
    assert found["perplexity"] == pytest.approx(math.exp(-mean_loglik), rel=1e-4)
    assert "perplexity_stderr" not in found


def greedy_answer(model: PreTrainedModel, tokenizer: Tokenizer, context: str) -> str:
    tokens = [int(token) for token in tokenizer.encode_batch([context])[0]]
    start = len(tokens)
    for _ in range(3):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokenizer.decode(tokens[start:]).split("!")[0]


def test_a_written_answer_is_the_greedy_one_and_each_filter_has_its_metric(
    tmp_path: Path, model: PreTrainedModel, tokenizer: Tokenizer
) -> None:
    answers = [greedy_answer(model, tokenizer, f"Q {r['question']}:") for r in RECORDS]
    golds = [*answers[:4], "x", "y", "z"]
    records = [r | {"choices": [g], "label": 0} for r, g in zip(RECORDS, golds, strict=True)]
    filters = "filter_list: [{name: as-is, filter: [{function: take_first}]}]"
    expected = [float(gold == answer) for gold, answer in zip(golds, answers, strict=True)]
    plain = run(model, tokenizer, write_task(tmp_path, WRITTEN, records))
    check_mean(plain, "exact_match", expected)
    filtered = run(model, tokenizer, write_task(tmp_path, f"{WRITTEN}\n{filters}", records))
    assert filtered == {
        "exact_match,as-is": plain["exact_match"],
        "exact_match_stderr,as-is": plain["exact_match_stderr"],
    }


def test_a_context_longer_than_the_model_reads_is_cut_on_its_left(
    tmp_path: Path, model: PreTrainedModel, tokenizer: Tokenizer
) -> None:
    long = {"question": "z" * 60, "choices": ["yes", "no"], "label": 0}
    found = run(model, tokenizer, write_task(tmp_path, CHOICES, [long]))
    loglik, _ = scored(model, tokenizer, f"Q {long['question']}:", " yes")
    assert found[GOLD_LOGLIK] == pytest.approx(loglik / 4, rel=1e-4)
    shorter = run(model, tokenizer, str(tmp_path / "numbers.yaml"), max_tokens=12)
    assert shorter[GOLD_LOGLIK] != pytest.approx(loglik / 4, rel=1e-3)


def test_an_answer_that_does_not_fit_the_model_is_an_error(
    tmp_path: Path, model: PreTrainedModel, tokenizer: Tokenizer
) -> None:
    path = write_task(tmp_path, WRITTEN.replace("max_gen_toks: 3, ", ""))
    with pytest.raises(DataError, match=rf"'numbers' on a model that reads {POSITIONS} .*256"):
        run(model, tokenizer, path)
    long = {"question": "a", "choices": ["z" * 100, "b"], "label": 0}
    with pytest.raises(DataError, match="an answer is empty or longer"):
        run(model, tokenizer, write_task(tmp_path, CHOICES, [long]))


def test_a_document_without_a_right_answer_leaves_only_its_likelihood_out(
    tmp_path: Path, model: PreTrainedModel, tokenizer: Tokenizer
) -> None:
    path = write_task(tmp_path, CHOICES)
    lines = (tmp_path / "numbers.jsonl").read_text(encoding="utf-8")
    lines = lines.replace('"label": 2', '"label": 9', 1)
    (tmp_path / "numbers.jsonl").write_text(lines, encoding="utf-8")
    found = run(model, tokenizer, path)
    assert GOLD_LOGLIK not in found
    assert "acc" in found


def test_a_saved_tokenizer_gives_the_same_and_transformers_reads_it(
    tmp_path: Path, model: PreTrainedModel, tokenizer: Tokenizer
) -> None:
    path = write_task(tmp_path, CHOICES)
    tokenizer.save(tmp_path / "tokenizer")
    assert run(model, tmp_path / "tokenizer", path) == run(model, tokenizer, path)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    text = "Q number 1: été"
    assert loaded.encode(text) == list(tokenizer.encode_batch([text])[0])


def test_the_name_of_a_special_token_in_a_text_is_text(
    tmp_path: Path, model: PreTrainedModel, tokenizer: Tokenizer
) -> None:
    forged = {"question": "<|endoftext|>", "choices": ["yes", "no"], "label": 0}
    found = run(model, tokenizer, write_task(tmp_path, CHOICES, [forged]))
    loglik, _ = scored(model, tokenizer, "Q <|endoftext|>:", " yes")
    assert found[GOLD_LOGLIK] == pytest.approx(loglik / 4, rel=1e-4)


def test_limit_takes_the_first_documents_and_shots_change_the_prompt(
    tmp_path: Path, model: PreTrainedModel, tokenizer: Tokenizer
) -> None:
    path = write_task(tmp_path, CHOICES + "\nfewshot_split: test")
    first = run(model, tokenizer, path, limit=3)
    other = tmp_path / "first"
    other.mkdir()
    assert run(model, tokenizer, write_task(other, CHOICES, RECORDS[:3])) == first
    one_shot = run(model, tokenizer, path, limit=3, num_fewshot=1)
    assert one_shot[GOLD_LOGLIK] != first[GOLD_LOGLIK]
    assert run(model, tokenizer, path, limit=3, num_fewshot=1) == one_shot
    fixed = write_task(other, CHOICES + "\nfewshot_split: test\nnum_fewshot: 0", RECORDS[:3])
    assert run(model, tokenizer, fixed, num_fewshot=1) == first


def global_states() -> list[Any]:
    # The last entry of Python's is how many numbers were drawn: beartype draws some, in tests.
    states = random.getstate()[1][:-1], np.random.get_state()[1], torch.get_rng_state()
    return [list(map(int, state)) for state in states]


def test_evaluating_says_nothing_and_leaves_no_trace(
    tmp_path: Path,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random.seed(5)
    random.random()
    states = global_states()
    paths = [
        write_task(tmp_path, settings, name=name)
        for name, settings in (("a", CHOICES), ("b", LAST_WORD), ("c", WRITTEN))
    ]
    found = task_results(model, tokenizer, paths)
    assert list(found) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")
    assert global_states() == states
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    ragged = tokenizer.encode_batch(["a", "a long text"])
    assert len(ragged[0]) < len(ragged[1])


def test_an_unknown_task_is_an_error_that_names_it(
    tmp_path: Path, model: PreTrainedModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_task(tmp_path, CHOICES)
    # lm-eval's own index takes half a minute to build.
    manager = lm_eval.tasks.TaskManager(include_path=tmp_path, include_defaults=False)
    asked = []
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda **kw: asked.append(kw) or manager)
    with pytest.raises(DataError, match=r"no task 'numbrs'\. Nearest names: numbers\."):
        task_results(model, tokenizer, [path, "numbrs"])
    assert list(task_results(model, tokenizer, ["numbers"])) == ["numbers"]
    assert [options["include_defaults"] for options in asked] == [True]


def test_a_task_that_cannot_be_used_is_an_error(
    tmp_path: Path, model: PreTrainedModel, tokenizer: Tokenizer
) -> None:
    with pytest.raises(DataError, match=r"none\.yaml: .*cannot be read"):
        task_results(model, tokenizer, [str(tmp_path / "none.yaml")])
    path = write_task(tmp_path, CHOICES)
    with pytest.raises(DataError, match="'numbers' is named twice"):
        task_results(model, tokenizer, [path, path])
    (tmp_path / "numbers.jsonl").unlink()
    with pytest.raises(DataError, match=r"could not load task .*numbers\.jsonl"):
        task_results(model, tokenizer, [path])


def test_a_group_stands_for_its_tasks(
    tmp_path: Path, model: PreTrainedModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path, CHOICES, name="one")
    write_task(tmp_path, LAST_WORD, name="two")
    (tmp_path / "both.yaml").write_text("group: both\ntask: [one, two]\n", encoding="utf-8")
    manager = lm_eval.tasks.TaskManager(include_path=tmp_path, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda **_: manager)
    assert list(task_results(model, tokenizer, ["both"])) == ["one", "two"]
