"""Retrains models on random subsets of a run's pool."""

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dsdm.config import fingerprint
from dsdm.data.examples import counted_lengths
from dsdm.errors import ArtifactError
from dsdm.evaluation.losses import target_losses
from dsdm.experiment import Experiment
from dsdm.lm.model import load_model
from dsdm.lm.train import epoch_order, train
from dsdm.stages.making.compare import EVALUATION_TOKENS
from dsdm.stages.making.models import derived_seed
from dsdm.stages.run import Run
from lds.bank import (
    Bank,
    BankConfig,
    KnownLosses,
    LossSettings,
    ModelLosses,
    draw_subset,
    inclusion_matrix,
    model_name,
    read_losses,
    source_weights,
    write_bank,
    write_losses,
)

Subset = tuple[str, int]
"""Kind and number."""


def bank_folder(run: Run) -> Path:
    """Where the finished bank of a run is."""
    return run.folder / "lds" / "bank"


def loss_settings(experiment: Experiment, config: BankConfig) -> LossSettings:
    """The settings that decide what the models lose."""
    return LossSettings(
        seed=experiment.seed,
        share=config.share,
        skew=config.skew,
        epochs=config.epochs,
        model=experiment.model,
        train=config.train,
    )


def make_bank(
    run: Run,
    config: BankConfig,
    losses: Path,
    *,
    processes: int = 1,
    announce: Callable[[int, int], None] = lambda made, total: None,
) -> Bank:
    """The bank of a run, after the models that are not known have been trained.

    Args:
        run: Its tokenizer, examples and targets are finished.
        config: What to retrain.
        losses: File of the losses that are known, to which each new one is added when it is
            measured. The lines of other models stay.
        processes: Models that are trained at once.
        announce: Called after each training with the models that are known and all of them.

    Raises:
        ArtifactError: the file's losses were measured with other settings or on other candidates.
        DsdmError: as training does; what was finished is kept.
    """
    settings = loss_settings(run.experiment, config)
    known, subsets = read_losses(losses, settings), draw_subsets(run, config)
    missing = []
    for subset, candidates in subsets.items():
        made_of = fingerprint(candidates.tolist())
        for seed in range(config.seeds):
            name = model_name(*subset, seed)
            if name not in known:
                missing.append((name, made_of, candidates, seed))
            elif known[name].candidates != made_of:
                raise ArtifactError(
                    f"{losses}: {name} was trained on other candidates than this pool gives. Use "
                    "the pool that the losses were measured with, or move the file away."
                )
    total = len(subsets) * config.seeds
    announce(total - len(missing), total)
    with _trainings(processes) as submit:
        retrain = partial(retrained_losses, run, config)
        jobs = ((name, made_of, partial(retrain, c, s)) for name, made_of, c, s in missing)
        for number, (name, made_of, found) in enumerate(submit(jobs), start=1):
            known[name] = ModelLosses(made_of, found)
            write_losses(losses, settings, known)
            announce(total - len(missing) + number, total)
    bank = _assemble(run, config, subsets, known)
    write_bank(bank, bank_folder(run))
    texts = [run.examples.text_of(i, run.tokenizer) for i in range(bank.num_candidates)]
    table = candidates_table(run).append_column("text", pa.array(texts))
    pq.write_table(table, bank_folder(run) / "candidates.parquet")
    return bank


def draw_subsets(run: Run, config: BankConfig) -> dict[Subset, np.ndarray]:
    """The sorted candidates of each subset.

    They depend on the run's seed, the subset's number and how it is drawn, and on nothing else of
    the bank.
    """
    table, examples = candidates_table(run), run.examples
    _, sources = np.unique(np.array(table["source"].to_pylist()), return_inverse=True)
    is_usable = np.bincount(examples.candidate_of_row, minlength=len(table)) > 0
    is_usable[run.dropped] = False
    sizes = table["num_tokens"].to_numpy().astype(np.int64)
    if config.train.batch_rows is not None:
        # Steps of so many rows make a training as long as it has rows, whatever they hold.
        sizes = np.bincount(examples.candidate_of_row)[: len(table)]
    found = {}
    for kind, number in config.subsets():
        seed = partial(derived_seed, run.experiment.seed, "lds", kind, number)
        weights = is_usable.astype(np.float64)
        if kind == "skewed":
            weights *= source_weights(sources, config.skew, seed("sources"))
        found[kind, number] = draw_subset(sizes, weights, config.share, seed("candidates"))
    return found


def retrained_losses(
    run: Run, config: BankConfig, candidates: np.ndarray, seed: int
) -> dict[str, float]:
    """By target, what a model loses that was trained on the candidates' rows by one seed."""
    experiment = run.experiment
    rows = np.flatnonzero(np.isin(run.examples.candidate_of_row, candidates))
    # The same initial weights for all subsets of a seed: what they add is noise, and the ceiling
    # is of what seeds have in common.
    seed = derived_seed(experiment.seed, "lds", "model", seed)
    vocab_size, eos = run.tokenizer.vocab_size, run.tokenizer.eos
    model = load_model(
        experiment.model, vocab_size=vocab_size, eos=eos, seed=seed, device=run.device
    )
    with tempfile.TemporaryDirectory() as folder:
        order = epoch_order(rows, config.epochs, seed)
        train(model, run.examples, order, config.train, work=Path(folder))
    losses = target_losses(model, run.targets("tune"), batch_tokens=EVALUATION_TOKENS)
    return {target: float(values.mean()) for target, values in losses.items()}


def candidates_table(run: Run) -> pa.Table:
    """One line for each candidate of the pool."""
    return pa.concat_tables(run.examples.candidates_table(one) for one in run.examples.shards)


Jobs = Iterator[tuple[str, str, Callable[[], dict[str, float]]]]
Done = Iterator[tuple[str, str, dict[str, float]]]


@contextmanager
def _trainings(processes: int) -> Iterator[Callable[[Jobs], Done]]:
    """A function that does jobs and gives the results as they come."""
    if processes == 1:
        yield lambda jobs: ((name, made_of, job()) for name, made_of, job in jobs)
        return
    context, threads = get_context("spawn"), max(1, torch.get_num_threads() // processes)
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (threads,)) as pool:

        def submit(jobs: Jobs) -> Done:
            futures = {pool.submit(job): (name, made_of) for name, made_of, job in jobs}
            try:
                yield from ((*futures[one], one.result()) for one in as_completed(futures))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

        yield submit


def _assemble(
    run: Run, config: BankConfig, subsets: dict[Subset, np.ndarray], known: KnownLosses
) -> Bank:
    table = candidates_table(run)
    # Of a conversation those tokens whose prediction counts, of a document all.
    learned = counted_lengths(run.examples)
    tokens = table["num_tokens"].to_numpy() if learned is None else learned

    def lost(target: str) -> np.ndarray:
        return np.array(
            [
                [known[model_name(*one, seed)].losses[target] for seed in range(config.seeds)]
                for one in subsets
            ]
        )

    return Bank(
        inclusion=inclusion_matrix(list(subsets.values()), len(table)),
        kinds=tuple(kind for kind, _ in subsets),
        tokens=tokens.astype(np.int64),
        losses={target.name: lost(target.name) for target in run.experiment.targets},
    )
