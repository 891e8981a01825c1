"""What a run will cost on this machine, said beforehand: `dsdm run FILE --dry-run`.

A few megabytes of the pool are read and tokenized, and the real model is timed for half a minute
on random rows; the rest is counting. Nothing is written in the run's folder.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from dsdm.data.overlap import TargetGrams, overlap_of
from dsdm.data.tasks import Part, TargetConfig, load_target, write_target
from dsdm.data.tokenizer import Tokenizer
from dsdm.experiment import Experiment
from dsdm.forecast.calibration import measure_speed, peak_bytes
from dsdm.forecast.inputs import (
    ComparedModel,
    Cost,
    Measured,
    Number,
    TargetCounts,
    budget_tokens,
)
from dsdm.forecast.pool_sample import PoolSample, read_pool_sample
from dsdm.forecast.stage_costs import stage_costs
from dsdm.lm.config import ModelConfig
from dsdm.lm.model import check_row_length, flops_per_token, load_model
from dsdm.stages import Run, run_of, run_status

COLUMNS = ("stage", "state", "tokens", "time", "FLOPs", "disk", "memory")
TASK_EXAMPLES = 1000
"""Taken for each part of an lm-eval task, which takes long to load."""
OVERLAP_DOCUMENTS = 500


@dataclass(frozen=True)
class Progress:
    """How many of a stage's artifacts are there."""

    done: int
    stale: int
    total: int

    @property
    def left(self) -> float:
        """The share that is still to be made."""
        return 1 - self.done / self.total

    def __str__(self) -> str:
        if self.stale:
            return "stale"
        if self.done in (0, self.total):
            return "done" if self.done else "to do"
        return f"{self.done} of {self.total} done"


def forecast(experiment: Experiment) -> str:
    """A table of what each stage will cost in time, disk and memory, and what it goes by.

    Raises:
        DsdmError: the pool, a target or the model can't be used; the run would stop there too.
    """
    progress = _read_progress(experiment)
    measured = _measure(run_of(experiment, reads_pool=False))
    costs = stage_costs(experiment, measured)
    left = {name: costs[name].share(stage.left) for name, stage in progress.items()}
    rows = [_cells(name, str(progress[name]), cost) for name, cost in left.items()]
    total = _cells("total", "", sum(left.values(), Cost()))
    lines = [*_findings(experiment, measured), "", *_table([COLUMNS, *rows, total])]
    return "\n".join([*lines, "", *_notes(experiment, measured, progress)])


def _read_progress(experiment: Experiment) -> dict[str, Progress]:
    """By stage; a stage without artifacts is left out."""
    counts: dict[str, Counter[str]] = {}
    for status in run_status(experiment):
        counts.setdefault(status.artifact.stage, Counter())[status.state] += 1
    return {n: Progress(c["done"], c["stale"], c.total()) for n, c in counts.items()}


def _measure(run: Run) -> Measured:
    experiment = run.experiment
    pool = read_pool_sample(run)
    vocab_size = pool.tokenizer.vocab_size
    if experiment.own_tokenizer.path is None:
        # The sample may hold too little text for all entries.
        vocab_size = max(vocab_size, experiment.tokenizer.vocab_size)

    def load(config: ModelConfig) -> PreTrainedModel:
        eos, device = pool.tokenizer.eos, run.device
        model = load_model(config, vocab_size=vocab_size, eos=eos, seed=0, device=device)
        check_row_length(model, experiment.examples.row_tokens)
        return model

    with tempfile.TemporaryDirectory(prefix="dsdm-") as folder:
        targets = _count_targets(run, pool.tokenizer, Path(folder))
    base = peak_bytes(run.device)
    speed = measure_speed(load(experiment.model), vocab_size, pool.row_lengths, experiment, base)
    compared = ComparedModel(speed.parameters, speed.flops_a_token)
    if experiment.compare is not None and experiment.compare.model is not None:
        model = load(experiment.compare.model)
        num_parameters = sum(p.numel() for p in model.parameters())
        compared = ComparedModel(
            num_parameters, flops_per_token(model, int(pool.row_lengths.max()))
        )
    return Measured(pool, speed, compared, targets, _overlap_seconds(pool))


def _count_targets(run: Run, tokenizer: Tokenizer, folder: Path) -> TargetCounts:
    """Rows and tokens of the targets, which are encoded into `folder` to see."""
    parts = run.experiment.compare.parts if run.experiment.compare else ()
    row_tokens = run.experiment.examples.row_tokens
    start = time.monotonic()
    fit, evaluated = [], []
    for target in run.experiment.targets:
        lengths = _target_lengths(target, tokenizer, row_tokens, folder, ("fit", *parts))
        fit.append(lengths["fit"])
        evaluated += [lengths[part] for part in parts]
    return TargetCounts(
        fit_rows=sum(map(len, fit)),
        fit_tokens=float(sum(lengths.sum() for lengths in fit)),
        evaluated_tokens=float(sum(lengths.sum() for lengths in evaluated)),
        seconds=time.monotonic() - start,
    )


def _target_lengths(
    target: TargetConfig,
    tokenizer: Tokenizer,
    row_tokens: int,
    folder: Path,
    parts: Sequence[Part],
) -> dict[Part, np.ndarray]:
    """Tokens in each row of some parts of a target."""
    if target.task is not None:
        count = min(TASK_EXAMPLES, target.limit or TASK_EXAMPLES)
        return dict.fromkeys(parts, np.full(count, row_tokens))
    path = folder / target.name
    path.mkdir()
    write_target(target, tokenizer, row_tokens, path)
    return {part: load_target(path, part).lengths for part in parts}


def _overlap_seconds(pool: PoolSample) -> float:
    """Seconds to decode one token of the pool and look for its words in the targets."""
    if not pool.texts:
        return 0.0
    encoded = pool.tokenizer.encode_batch(pool.texts[:OVERLAP_DOCUMENTS])
    start = time.perf_counter()
    texts = [pool.tokenizer.decode(tokens) for tokens in encoded]
    overlap_of(enumerate(texts), TargetGrams.of_texts({"": texts[:100]}))
    return (time.perf_counter() - start) / max(1, sum(map(len, encoded)))


def _findings(experiment: Experiment, measured: Measured) -> list[str]:
    pool, speed = measured.pool, measured.speed
    how = "counted" if pool.is_exact else f"estimated from {_amount(pool.sampled_bytes)}B of text"
    return [
        f"pool       {_amount(pool.tokens)} tokens in {_amount(pool.documents)} documents "
        f"({_amount(pool.rows)} rows) of {pool.num_files:,} files, {how}",
        f"targets    {measured.targets.fit_rows:,.0f} examples to fit",
        f"model      {_amount(speed.parameters)} weights; each second it trains on "
        f"{_amount(speed.train)} tokens or reads {_amount(speed.forward)}",
        f"selection  {_amount(budget_tokens(experiment, pool))} tokens",
    ]


def _notes(
    experiment: Experiment, measured: Measured, progress: Mapping[str, Progress]
) -> list[str]:
    notes = ["Costs are of what is still to do. Memory is what a stage needs at its peak."]
    if any(target.task is not None for target in experiment.targets):
        notes.append(f"An lm-eval task is counted as {TASK_EXAMPLES:,} full rows in each part.")
    if budget_tokens(experiment, measured.pool) > measured.pool.tokens:
        notes.append("The budget is larger than the pool: the run will stop at `selection`.")
    compare = experiment.compare
    if compare is not None and (compare.heldout or compare.lm_eval or compare.pool_slice):
        notes.append("Evaluating on anything but the targets is not counted.")
    stale = [name for name, stage in progress.items() if stage.stale]
    if stale:
        notes.append(
            f"Made with other settings: {', '.join(stale)}. The run will stop there; "
            "`dsdm status` says why."
        )
    return notes


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    pairs = list(zip(row, widths, strict=True))
    return [c.ljust(w) for c, w in pairs[:2]] + [c.rjust(w) for c, w in pairs[2:]]


def _cells(name: str, state: str, cost: Cost) -> list[str]:
    return [
        name,
        state,
        _amount(cost.tokens),
        _duration(cost.seconds),
        f"{cost.flops:.1e}".replace("e+", "e") if cost.flops else "",
        f"{_amount(cost.disk)}B" if cost.disk else "",
        f"{_amount(cost.memory)}B" if cost.memory else "",
    ]


def _amount(number: Number) -> str:
    """Three digits and a letter, such as 1.23M; empty for nothing."""
    if number < 1:
        return ""
    letters = iter("KMGT")
    letter = ""
    while number >= 999.5 and (larger := next(letters, "")):
        number, letter = number / 1000, larger
    return f"{number:.3g}{letter}"


def _duration(seconds: Number) -> str:
    if seconds < 1:
        return "< 1 s" if seconds else ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
