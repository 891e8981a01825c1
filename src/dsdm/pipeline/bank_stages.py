"""The stage that retrains models on random subsets of the pool: the truth that LDS compares with.

Each retrained model is an artifact of its own, so a killed bank goes on where it was, and a bank
with more subsets keeps what a smaller one has made. Its weights are not kept. What models lost can
be carried to another machine (`Lost`), where they need not be trained again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsdm.artifacts import Draft, artifact_fingerprint
from dsdm.config import fingerprint
from dsdm.data.examples import counted_lengths
from dsdm.errors import ArtifactError
from dsdm.lm.config import training_content
from dsdm.pipeline.data_stages import (
    dropped_inputs,
    first_examples_work,
    targets_work,
    tokenizer_work,
)
from dsdm.pipeline.lock import alone_in
from dsdm.pipeline.losses import part_losses
from dsdm.pipeline.model_stages import derived_seed, train_model, usable_rows
from dsdm.pipeline.run import Run
from dsdm.pipeline.work import Work, fingerprints, finished_counts
from dsdm.pipeline.workers import HERE, Workers
from dsdm.pipeline.workers import workers as start_workers
from dsdm.trust.bank import CANDIDATES, Bank, load_bank, write_bank
from dsdm.trust.lds_config import LdsConfig
from dsdm.trust.subsets import draw_subset, inclusion_matrix, source_weights

STAGE = "lds"
SUBSET = "subset.npy"
KINDS = ("half", "skewed")


@dataclass(frozen=True)
class Lost:
    """What one retrained model lost."""

    made_of: str
    """Identifies its settings and the candidates that it was trained on."""
    losses: Mapping[str, float]
    """By target: mean of the examples of its tune part, in nats a target token."""


Known = Mapping[str, Lost]
"""By the name of a retrained model, such as `half-003-1`."""
NOTHING: Known = {}


@dataclass(frozen=True)
class _Subset:
    """One of the bank's subsets."""

    kind: str
    number: int

    def model(self, seed: int) -> str:
        """Folder name of the model that one seed trains on it."""
        return f"{self.kind}-{self.number:03d}-{seed}"


def bank_folder(run: Run) -> Path:
    """Where the finished bank of a run is."""
    return run.folder / STAGE / "bank"


def retrained_work(run: Run, config: LdsConfig, known: Known = NOTHING) -> Iterator[Work]:
    """One training for each subset and seed, kinds in turn, so that a part of a bank is balanced.

    Which candidates are in a subset depends on the run's seed, the subset's number and how it is
    drawn, and on nothing else of the bank. Models that are known are not trained.
    """
    inputs = _inputs(run)
    for subset in _subsets(config):
        for seed in range(config.seeds):
            content = {
                "kind": subset.kind,
                "number": subset.number,
                "share": config.share,
                "skew": config.skew if subset.kind == "skewed" else None,
                "epochs": config.epochs,
                "model": run.experiment.model,
                "train": training_content(config.train),
                "seed": [run.experiment.seed, seed],
            }
            name = subset.model(seed)
            make = partial(_retrain, run, config, subset, seed)
            if name in known:
                make = partial(_restore, run, config, subset, content, known[name])
            yield Work(STAGE, run.folder / STAGE / "models" / name, content, inputs, make)


def bank_work(run: Run, config: LdsConfig) -> Iterator[Work]:
    """All retrained models' losses in one folder, for any estimator to be judged by."""
    inputs = fingerprints(list(retrained_work(run, config)))
    make = partial(_assemble, run, config)
    yield Work(STAGE, bank_folder(run), {}, inputs, make, follows_inputs=True)


def finished_models(run: Run, config: LdsConfig) -> dict[str, Lost]:
    """What the models lost that are finished so far, with the settings of `config`."""
    return {
        work.path.name: Lost(
            _made_of(work.config, np.load(work.path / SUBSET)), finished_counts(work)["losses"]
        )
        for work in retrained_work(run, config)
        if work.state()[0] == "done"
    }


def make_bank(
    run: Run,
    config: LdsConfig,
    *,
    known: Known = NOTHING,
    workers: Workers = HERE,
    announce: Callable[[str, int, int], None] = lambda stage, made, total: None,
) -> Bank:
    """The bank of a run, after whatever is missing of it has been made.

    Args:
        run: Its tokenizer, examples and targets are finished.
        config: What to retrain.
        known: What models lost that were trained elsewhere, on the same pool and in the same way.
        workers: Who trains.
        announce: Called at the end with the stage's name, the models trained now, and all of them.

    Raises:
        DsdmError: as training does, or what is known was trained on another pool or in another way;
            what was finished is kept.
    """
    with alone_in(run.folder), start_workers(run.experiment, workers) as perform:
        trainings = partial(retrained_work, config=config, known=known)
        works = list(trainings(run))
        announce(STAGE, perform(trainings, works), len(works))
        assembling = partial(bank_work, config=config)
        perform(assembling, list(assembling(run)))
    return load_bank(bank_folder(run))


def _subsets(config: LdsConfig) -> Iterator[_Subset]:
    counts = {"half": config.halves, "skewed": config.skewed}
    for number in range(max(counts.values())):
        yield from (_Subset(kind, number) for kind in KINDS if number < counts[kind])


def _inputs(run: Run) -> dict[str, str]:
    """What every training reads: later files of the pool are not drawn from, as with proxies."""
    read = [*tokenizer_work(run), *first_examples_work(run), *targets_work(run)]
    return fingerprints(read) | dropped_inputs(run)


def _draw(run: Run, config: LdsConfig, subset: _Subset) -> np.ndarray:
    """The sorted candidates of a subset."""
    seed = partial(derived_seed, run.experiment.seed, STAGE, subset.kind, subset.number)
    candidates, sources = _first_candidates(run)
    weights = np.zeros(len(candidates))
    usable = usable_rows(run)
    rows = usable.originals(np.arange(len(usable)))
    weights[np.unique(run.examples.candidate_of_row[rows])] = 1.0
    if subset.kind == "skewed":
        weights *= source_weights(sources, config.skew, seed("sources"))
    sizes = _num_tokens(candidates)
    if config.train.batch_rows is not None:
        # Steps of so many rows make a training as long as it has rows, whatever they hold.
        sizes = np.bincount(run.examples.candidate_of_row)[: len(candidates)]
    return draw_subset(sizes, weights, config.share, seed("candidates"))


def _retrain(run: Run, config: LdsConfig, subset: _Subset, seed: int, draft: Draft) -> None:
    from dsdm.lm.train import epoch_order

    candidates = _draw(run, config, subset)
    np.save(draft.path / SUBSET, candidates)
    rows = np.flatnonzero(np.isin(run.examples.candidate_of_row, candidates))
    # The same initial weights for all subsets of a seed: what they add is noise, and the ceiling
    # is of what seeds have in common.
    seed = derived_seed(run.experiment.seed, STAGE, "model", seed)
    order = epoch_order(rows, config.epochs, seed)
    train_model(run, run.experiment.model, config.train, order, seed, draft)
    losses = part_losses(run, "tune", draft.path)
    # Not `loss`, which is the training's.
    draft.counts["losses"] = {target: float(values.mean()) for target, values in losses.items()}
    for weights in draft.path.glob("*.safetensors"):
        weights.unlink()


def _restore(
    run: Run, config: LdsConfig, subset: _Subset, content: object, lost: Lost, draft: Draft
) -> None:
    candidates = _draw(run, config, subset)
    if _made_of(content, candidates) != lost.made_of:
        raise ArtifactError(
            f"{draft.path.name}: the losses that are known are of a model that was trained on "
            "other candidates or with other settings. Use the pool and the settings that they were "
            "measured with."
        )
    np.save(draft.path / SUBSET, candidates)
    draft.counts["losses"] = dict(lost.losses)


def _made_of(content: object, candidates: np.ndarray) -> str:
    return artifact_fingerprint(content, {"candidates": fingerprint(candidates.tolist())})


def _assemble(run: Run, config: LdsConfig, draft: Draft) -> None:
    candidates, _ = _first_candidates(run)
    models = run.folder / STAGE / "models"
    subsets, lost = list(_subsets(config)), finished_models(run, config)
    bank = Bank(
        inclusion=inclusion_matrix(
            [np.load(models / subset.model(0) / SUBSET) for subset in subsets], len(candidates)
        ),
        kinds=tuple(subset.kind for subset in subsets),
        tokens=_learned_tokens(run, candidates),
        losses={
            target.name: np.array(
                [
                    [lost[subset.model(seed)].losses[target.name] for seed in range(config.seeds)]
                    for subset in subsets
                ]
            )
            for target in run.experiment.targets
        },
    )
    write_bank(bank, draft.path)
    texts = [run.examples.text_of(i, run.tokenizer) for i in range(len(candidates))]
    pq.write_table(candidates.append_column("text", pa.array(texts)), draft.path / CANDIDATES)
    draft.counts.update(subsets=len(subsets), seeds=config.seeds, candidates=len(candidates))


def _num_tokens(candidates: pa.Table) -> np.ndarray:
    return np.asarray(candidates["num_tokens"].to_numpy().astype(np.int64))


def _learned_tokens(run: Run, candidates: pa.Table) -> np.ndarray:
    """Of a conversation those whose prediction counts, of a document all."""
    counted = [counted_lengths(work.path) for work in first_examples_work(run)]
    found = [lengths for lengths in counted if lengths is not None]
    return np.concatenate(found) if found else _num_tokens(candidates)


def _first_candidates(run: Run) -> tuple[pa.Table, np.ndarray]:
    """The table of the candidates of the pool's first files, and the number of each one's source.

    Sources are numbered by name.
    """
    pairs = zip(run.shards, run.examples.shards, strict=True)
    tables = [run.examples.candidates_table(shard) for pool, shard in pairs if pool.is_first]
    table = pa.concat_tables(tables)
    _, sources = np.unique(np.array(table["source"].to_pylist()), return_inverse=True)
    return table, sources
