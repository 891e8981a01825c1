"""Accuracy on tasks of lm-evaluation-harness, which lm-eval itself measures on a trained model."""

import contextlib
import io
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dsdm.data.harness import gold_index
from dsdm.data.harness_tasks import load_tasks
from dsdm.data.tokenizer import Tokenizer, load_tokenizer
from dsdm.errors import DataError
from dsdm.precision import Precision, uses_bfloat16

GOLD_LOGLIK = "gold_loglik_per_byte"
"""Where accuracy is at chance, as small models' is, this still tells them apart."""
# lm-eval's own, so that its command line gives the same numbers
PYTHON_SEED, OTHER_SEED = 0, 1234

Metrics = dict[str, float]
"""By lm-eval's name (acc, acc_norm, exact_match ...); standard errors end in `_stderr`."""


def task_results(
    model: PreTrainedModel,
    tokenizer: Tokenizer | Path,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_rows: int = 16,
    max_tokens: int | None = None,
    precision: Precision = "auto",
) -> dict[str, Metrics]:
    """The metrics of each task, by its name; a group or tag stands for its tasks.

    Beside lm-eval's metrics there is GOLD_LOGLIK where answers are given and not generated: the
    log-likelihood of the right answer in nats a UTF-8 byte of it, averaged over documents. Metrics
    that are means of documents have a standard error; lm-eval would bootstrap the others'. A metric
    of answers that go through a filter of the task is called METRIC,FILTER.

    Args:
        model: On the device where it is to run; it is left in evaluation mode.
        tokenizer: Or the folder that it was saved in.
        tasks: Names that lm-eval knows, or paths of YAML files.
        limit: Documents of each task, the first ones; None: all.
        num_fewshot: None: as many as the task asks for. A task that fixes 0 keeps it.
        batch_rows: Rows in one forward pass.
        max_tokens: Longest row, cut on its left; None: what the model's config says.
        precision: What matrix products run in.

    Raises:
        DataError: lm-eval has no such task, or can't load it or run it on this model.
        ModelError: the folder holds no tokenizer.
    """
    with _quiet(), _seeded():
        loaded = load_tasks(tasks)
        lm = _language_model(model, tokenizer, batch_rows, max_tokens, precision)
        results = {}
        for name, task in loaded.items():
            _set_fewshot(task, num_fewshot)
            results[name] = _evaluate(lm, task, limit)
    return results


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval prints, and shows progress bars that no option turns off."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Some tasks shuffle their choices with the global generators, which are put back after."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(PYTHON_SEED)
            np.random.seed(OTHER_SEED)
            torch.manual_seed(OTHER_SEED)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _set_fewshot(task: Any, num_fewshot: int | None) -> None:
    """As lm-eval's `simple_evaluate` does."""
    own = task.get_config("num_fewshot")
    if own is None or (num_fewshot is not None and own != 0):
        task.set_config("num_fewshot", num_fewshot or 0)
    task.set_fewshot_seed(OTHER_SEED)


def _language_model(
    model: PreTrainedModel,
    tokenizer: Tokenizer | Path,
    batch_rows: int,
    max_tokens: int | None,
    precision: Precision,
) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=model,
        backend="causal",
        tokenizer=_wrapped(tokenizer),
        # The model was trained on rows without one.
        add_bos_token=False,
        batch_size=batch_rows,
        max_length=max_tokens,
        mixed_precision_dtype="bfloat16" if uses_bfloat16(model.device, precision) else None,
        softmax_dtype="float32",
    )


def _wrapped(tokenizer: Tokenizer | Path) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers has it, in which `</s>` written out in a text stays text."""
    if isinstance(tokenizer, Path):
        tokenizer = load_tokenizer(tokenizer)
    eos = tokenizer.backend.id_to_token(tokenizer.eos)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, eos_token=eos, pad_token=eos, split_special_tokens=True
    )


def _evaluate(lm: Any, task: Any, limit: int | None) -> Metrics:
    import lm_eval

    name = task.task_name
    # Not `simple_evaluate`, which asks git, pip and the compiler for their versions as well.
    try:
        found = lm_eval.evaluate(
            lm=lm, task_dict={"tasks": {name: task}, "groups": {}}, limit=limit, bootstrap_iters=0
        )
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise DataError(
            f"lm-eval could not run task {name!r} on a model that reads {lm.max_length} tokens: "
            f"{type(error).__name__}: {str(error) or 'an answer is empty or longer than that'}. "
            "Leave the task out, or copy its YAML file and change it (`max_gen_toks` under "
            "`generation_kwargs` is how long an answer may get; 256 by default)."
        ) from error
    return _metrics(task, found["results"][name], found["samples"][name]) | _gold_loglik(task)


def _metrics(
    task: Any, results: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> Metrics:
    from lm_eval.api.metrics import mean

    metrics: Metrics = {}
    for key, value in results.items():
        metric, _, filtered = key.partition(",")
        if not filtered or not isinstance(value, Real):
            continue
        suffix = "" if filtered == "none" else f",{filtered}"
        metrics[f"{metric}{suffix}"] = float(value)
        if task.aggregation().get(metric, mean) is mean:
            chosen = [s for s in samples if s["filter"] == filtered and metric in s]
            values = [float(sample[metric]) for sample in chosen]
            metrics |= _standard_error(f"{metric}_stderr{suffix}", values)
    return metrics


def _gold_loglik(task: Any) -> Metrics:
    """Nothing where a document has no right answer among those that were scored."""
    if task.OUTPUT_TYPE not in ("loglikelihood", "multiple_choice"):
        return {}
    by_document = groupby(task.instances, key=lambda request: request.doc_id)
    try:
        values = [_loglik_per_byte(task, list(requests)) for _, requests in by_document]
    except DataError:
        return {}
    mean = {GOLD_LOGLIK: float(np.mean(values))}
    return mean | _standard_error(f"{GOLD_LOGLIK}_stderr", values)


def _loglik_per_byte(task: Any, requests: Sequence[Any]) -> float:
    first = requests[0]
    where = f"{task.task_name}: document {first.doc_id}"
    is_choice = task.OUTPUT_TYPE == "multiple_choice"
    gold = requests[gold_index(task, first.doc, where) if is_choice else 0]
    loglik, _ = gold.resps[0]
    return float(loglik) / len(gold.args[1].encode())


def _standard_error(name: str, values: Sequence[float]) -> Metrics:
    if len(values) < 2:
        return {}
    return {name: float(np.std(values, ddof=1)) / math.sqrt(len(values))}
