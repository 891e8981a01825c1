"""The stages that measure target models: on the targets, on other tasks, and on the pool."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from dsdm.artifacts import Draft, write_json
from dsdm.data.sequences import Subset
from dsdm.data.tasks import TargetConfig, write_target
from dsdm.evaluation.arms import EvaluatedPart
from dsdm.pipeline.compare_stages import models_work
from dsdm.pipeline.data_stages import targets_work, tokenizer_work
from dsdm.pipeline.losses import EVALUATION_TOKENS, heldout_losses, part_losses
from dsdm.pipeline.run import Run, evaluation_folder
from dsdm.pipeline.training_rows import held_out
from dsdm.pipeline.work import Work, fingerprints

Measure = Callable[[Path, Draft], None]
"""Measures the model in a folder."""


def heldout_work(run: Run) -> Iterator[Work]:
    """The rows of each task that nothing is selected for."""
    compare = run.experiment.compare
    row_tokens = run.experiment.examples.row_tokens
    for task in compare.heldout if compare else ():
        config = {"task": task, "row_tokens": row_tokens}
        inputs = fingerprints(list(tokenizer_work(run))) | {"files": run.contents[task.places]}
        make = partial(_write_task, run, task)
        yield Work("heldout", run.data_folder / "heldout" / task.name, config, inputs, make)


def evaluations_work(run: Run) -> Iterator[Work]:
    """What is measured of each target model, each kind in its own folder."""
    compare = run.experiment.compare
    if compare is None:
        return
    targets = fingerprints(list(targets_work(run)))
    for part in compare.parts:
        yield from _each_model(run, part, {"part": part}, targets, partial(_on_part, run, part))
    if "report" not in compare.parts:
        return
    if compare.heldout:
        tasks = fingerprints(list(heldout_work(run)))
        yield from _each_model(run, "heldout", {}, tasks, partial(_on_heldout, run))
    if compare.lm_eval:
        config = {"tasks": compare.lm_eval, "limit": compare.lm_eval_limit}
        yield from _each_model(run, "lm_eval", config, {}, partial(_accuracies, run))
    if compare.pool_slice:
        yield from _each_model(run, "pool", {}, {}, partial(_on_pool_slice, run))


def _each_model(
    run: Run, kind: str, config: object, inputs: Mapping[str, str], measure: Measure
) -> Iterator[Work]:
    for model in models_work(run):
        path = evaluation_folder(run.compare_folder, kind, model.path.name)
        read = fingerprints([model]) | dict(inputs)
        yield Work("evaluations", path, config, read, partial(measure, model.path))


def _write_task(run: Run, task: TargetConfig, draft: Draft) -> None:
    write_target(task, run.tokenizer, run.experiment.examples.row_tokens, draft)


def _on_part(run: Run, part: EvaluatedPart, model: Path, draft: Draft) -> None:
    _write_losses(part_losses(run, part, model), draft)


def _on_heldout(run: Run, model: Path, draft: Draft) -> None:
    _write_losses(heldout_losses(run, model), draft)


def _write_losses(losses: Mapping[str, np.ndarray], draft: Draft) -> None:
    for name, values in losses.items():
        np.save(draft.path / f"{name}.npy", values)
    means = {name: float(values.mean()) for name, values in losses.items()}
    write_json(draft.path / "losses.json", means)
    draft.counts["loss"] = means


def _accuracies(run: Run, model: Path, draft: Draft) -> None:
    from dsdm.evaluation.accuracy import task_results
    from dsdm.lm.model import load_saved

    compare, tokenizer = run.compare, run.data_folder / "tokenizer"
    trained = load_saved(model, run.device)
    results = task_results(trained, tokenizer, compare.lm_eval, limit=compare.lm_eval_limit)
    write_json(draft.path / "results.json", results)
    draft.counts["results"] = results


def _on_pool_slice(run: Run, model: Path, draft: Draft) -> None:
    from dsdm.evaluation.pool_slice import bits_per_byte, predicted_bytes
    from dsdm.lm.model import load_saved

    examples = run.examples
    slice_rows = np.flatnonzero(np.isin(examples.candidate_of_row, held_out(run)))
    rows = Subset(examples, slice_rows)
    num_bytes = predicted_bytes(rows, run.tokenizer)
    trained = load_saved(model, run.device)
    bits = bits_per_byte(trained, rows, num_bytes, batch_tokens=EVALUATION_TOKENS)
    write_json(draft.path / "results.json", {"bits_per_byte": bits})
    draft.counts.update(bits_per_byte=bits, bytes=int(num_bytes.sum()))
