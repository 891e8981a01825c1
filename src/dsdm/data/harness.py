"""Target examples of lm-evaluation-harness tasks: the prompts it makes and the gold answers."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from dsdm.data.harness_tasks import load_tasks
from dsdm.data.target_files import TargetExample, collect, group_of, join_answer
from dsdm.errors import DataError


def read_task_examples(
    name: str, num_fewshot: int, seed: int, group: str | None
) -> Iterator[TargetExample]:
    """The task's evaluation documents as prompts, each with its gold answer.

    `name` is a task, tag or group of lm-eval, or the path of a task's YAML file.

    Raises:
        DataError: lm-eval has no such task or can't load it, or a document has no gold answer.
    """
    for task in load_tasks([name]).values():
        _set_fewshot(task, num_fewshot, seed)
        by_document = groupby(_build_requests(task), key=lambda request: request.doc_id)
        documents = ((task, list(requests)) for _, requests in by_document)
        yield from collect(documents, lambda document: _gold_example(*document, group=group))


def gold_index(task: Any, doc: Any, where: str) -> int:
    """The position of the (first) right choice, found as lm-eval's `process_results` does.

    Raises:
        DataError: the document names no right choice; `where` says which document it is.
    """
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(gold, list):
        gold = gold[0] if gold else None
    choices = task.doc_to_choice(doc)
    if isinstance(gold, str) and gold in choices:
        return int(choices.index(gold))
    if isinstance(gold, int) and 0 <= gold < len(choices):
        return gold
    raise DataError(f"{where}: the gold answer {gold!r:.60} is none of {len(choices)} choices.")


def _set_fewshot(task: Any, num_fewshot: int, seed: int) -> None:
    if num_fewshot and task.get_config("num_fewshot") == 0:
        # lm-eval's evaluator ignores the count for such tasks; another prompt would be scored.
        raise DataError(f"Task {task.task_name!r} fixes num_fewshot to 0. Set `fewshot: 0`.")
    task.set_config("num_fewshot", num_fewshot)
    task.set_fewshot_seed(seed)


def _build_requests(task: Any) -> list[Any]:
    try:
        task.build_all_requests()
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise DataError(
            f"lm-eval could not build the prompts of task {task.task_name!r}: "
            f"{type(error).__name__}: {error}."
        ) from error
    return list(task.instances)


def _gold_example(task: Any, requests: Sequence[Any], *, group: str | None) -> TargetExample:
    where = f"{task.task_name}: document {requests[0].doc_id}"
    doc = requests[0].doc
    if any(len(request.args) > 2 for request in requests):
        raise DataError(f"{where}: has images or audio; dsdm reads text alone.")
    if task.OUTPUT_TYPE == "loglikelihood":
        context, answer = requests[0].args
    elif task.OUTPUT_TYPE == "multiple_choice":
        context, answer = requests[gold_index(task, doc, where)].args
    elif task.OUTPUT_TYPE == "generate_until":
        context = requests[0].args[0]
        answer = _written_answer(task, doc, context, where)
    else:
        raise DataError(
            f"{where}: output_type {task.OUTPUT_TYPE!r} has no answers. "
            "Give the texts themselves as a target with `text`."
        )
    return _checked_example(
        context, answer, group_of(doc, group, f"{context}{answer}", where), where
    )


def _checked_example(context: object, answer: object, group: str, where: str) -> TargetExample:
    if not isinstance(context, str) or not isinstance(answer, str) or not answer.strip():
        raise DataError(
            f"{where}: needs a text as prompt and as answer, "
            f"got {context!r:.60} and {answer!r:.60}."
        )
    return TargetExample(context, answer, where, group)


def _written_answer(task: Any, doc: Any, context: str, where: str) -> str:
    """The (first) right answer of a generation task, joined to its prompt as few-shot ones are."""
    gold = task.doc_to_target(doc)
    if isinstance(gold, list):
        gold = gold[0] if gold else ""
    if isinstance(gold, int) and task.get_config("doc_to_choice") is not None:
        gold = task.doc_to_choice(doc)[gold]
    # As in lm-eval's few-shot examples: a space follows a `gen_prefix`, whatever the delimiter.
    delimiter = " " if task.doc_to_prefix(doc) else task.get_config("target_delimiter")
    return join_answer(context, str(gold), delimiter, where)
