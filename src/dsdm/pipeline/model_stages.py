"""The stages that make models of the pool and what is asked of them: proxies, directions."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dsdm.artifacts import Draft, write_json
from dsdm.config import as_dict, fingerprint
from dsdm.data.overlap import DEFAULT_WORDS
from dsdm.data.sequences import AllBut, Rows
from dsdm.data.tasks import Part
from dsdm.datamodel.config import AUTO, METAGRADIENT, TRAITS
from dsdm.errors import ConfigError, DataError
from dsdm.lm.config import ModelConfig, TrainConfig, training_content
from dsdm.lm.schedule import checkpoint_rates, kept_steps
from dsdm.pipeline.data_stages import (
    dropped_inputs,
    first_examples_work,
    targets_work,
    tokenizer_work,
)
from dsdm.pipeline.run import CHECKPOINTS, RATES, Run
from dsdm.pipeline.work import Pass, Work, fingerprints, progress

if TYPE_CHECKING:
    from dsdm.datamodel.estimate import Question
    from dsdm.lm.replay import Replay


def proxies_work(run: Run) -> Iterator[Work]:
    """The proxies, each trained on its own random share of the pool."""
    experiment = run.experiment
    inputs = fingerprints([*tokenizer_work(run), *first_examples_work(run)])
    inputs |= dropped_inputs(run) | run.base_files(experiment.model)
    share: dict[str, Any] = {"fraction": experiment.proxies.fraction}
    if experiment.proxies.tokens is not None:
        share = {"tokens": experiment.proxies.tokens}
    for number in range(experiment.proxies.count):
        config = {
            "model": experiment.model,
            **share,
            "epochs": experiment.proxies.epochs,
            "train": training_content(experiment.proxies.train),
            "seed": [experiment.seed, number],
        }
        if experiment.proxies.checkpoints > 1:
            config["checkpoints"] = experiment.proxies.checkpoints
            if experiment.proxies.first_checkpoint is not None:
                config["first_checkpoint"] = experiment.proxies.first_checkpoint
        if experiment.proxies.moments:
            config["moments"] = True
        path = run.folder / "proxies" / str(number)
        yield Work("proxies", path, config, inputs, partial(_train_proxy, run, number))


def directions_work(run: Run) -> Iterator[Work]:
    """One folder for each estimator and checkpoint of a proxy: directions and calibration."""
    experiment, checkpoints = run.experiment, run.experiment.proxies.checkpoints
    targets = fingerprints(list(targets_work(run)))
    proxies = list(proxies_work(run))
    for method in experiment.estimators:
        for number in range(experiment.proxies.num_points):
            proxy = proxies[number // checkpoints]
            config = {
                "estimator": method,
                "weights": target_weights(run),
                "directions": _without(experiment.directions, "estimators"),
                "scores": msgspec.structs.replace(
                    experiment.scores, screening=AUTO, shrinkage=None, group_means_from="all"
                ),
            }
            if checkpoints > 1:
                config["checkpoint"] = number % checkpoints
            path = run.folder / "directions" / method / str(number)
            inputs = fingerprints([proxy]) | targets
            make, shared = partial(_estimate, run, method, number, proxy.fingerprint), None
            if TRAITS[method].of_training:
                name = str(path.parent / f"of-{proxy.path.name}")
                follow = partial(
                    _estimate_of_training, run, number // checkpoints, proxy.fingerprint
                )
                make, shared = partial(make_one, follow, path), Pass(name, follow)
            yield Work("directions", path, config, inputs, make, shared)


def usable_rows(run: Run) -> AllBut:
    """Rows of the first pool, in order, without those of dropped candidates.

    Raises:
        DataError: every candidate is dropped.
    """
    end = run.num_first_rows
    dropped = run.examples.rows_of(run.droppable)
    usable = AllBut(run.examples, end, dropped[dropped < end])
    if not len(usable):
        raise DataError(
            f"drop_overlap: all {len(run.droppable):,} candidates of the pool share "
            f"{DEFAULT_WORDS} words in a row with a target, so that none of its {end:,} rows "
            "is left. Set `drop_overlap` to false, or give another pool or other targets."
        )
    return usable


def target_rows(run: Run, part: Part) -> dict[str, Rows]:
    """One part of every target, by name."""
    return {target.name: run.target(target.name, part) for target in run.experiment.targets}


def target_weights(run: Run) -> dict[str, float]:
    """What each target counts for in the mix."""
    return {target.name: target.weight for target in run.experiment.targets}


def derived_seed(*purpose: object) -> int:
    """A seed of its own for every purpose."""
    return int(fingerprint(list(purpose))[:8], 16) % (2**31)


def directions_seed(run: Run, number: int) -> int:
    """What the directions of one proxy are drawn with."""
    return derived_seed(run.experiment.seed, "directions", run.experiment.directions.seed, number)


def training_folder(draft: Draft) -> Path:
    """Where a training keeps its checkpoints until the draft is finished."""
    return draft.target.with_name(f".{draft.target.name}.training")


@dataclass(frozen=True)
class Keep:
    """What a training leaves beside the model that it ends with."""

    checkpoints: int = 1
    """Points of the training that are kept, the end included."""
    first: float | None = None
    """Where the first of several is, as `kept_steps` has it."""
    moments: bool = False
    """Whether Adam's moments are kept at each."""

    def folders(self, work: Path, num_steps: int) -> dict[int, Path]:
        """Where each checkpoint before the last is written while training goes on, by its step.

        Raises:
            ConfigError: two of them would be at the same step, or one before the first.
        """
        steps = kept_steps(num_steps, self.checkpoints, self.first)
        if steps[0] < 1 or len(set(steps)) < len(steps):
            first = "" if self.first is None else f", proxies.first_checkpoint {self.first:g}"
            raise ConfigError(
                f"proxies.checkpoints {self.checkpoints}{first}: a proxy is trained for "
                f"{num_steps} steps, which have no such checkpoints. Train longer, or in smaller "
                "batches."
            )
        return {step: work / CHECKPOINTS / str(i) for i, step in enumerate(steps[:-1])}


LAST_ALONE = Keep()


def train_model(
    run: Run,
    model: ModelConfig,
    train: TrainConfig,
    order: np.ndarray,
    seed: int,
    draft: Draft,
    keep: Keep = LAST_ALONE,
) -> None:
    """Trains a model on rows of the pool into the draft, from where a killed run left it."""
    from dsdm.lm.model import load_model, save_model
    from dsdm.lm.moments import save_moments
    from dsdm.lm.train import forget, plan_steps
    from dsdm.lm.train import train as train_on_rows

    vocab_size, eos = run.tokenizer.vocab_size, run.tokenizer.eos
    trained = load_model(model, vocab_size=vocab_size, eos=eos, seed=seed, device=run.device)
    # Beside the draft, which is emptied when a killed run begins again.
    work = training_folder(draft)
    title = "/".join(draft.target.parts[-2:])
    lengths = run.examples.lengths_of(order)
    tokens = int(lengths.sum())
    num_steps = len(plan_steps(lengths, train.batch_tokens, train.batch_rows))
    kept = keep.folders(work, num_steps)
    with progress(title, tokens, "tokens") as advance:
        result = train_on_rows(
            trained,
            run.examples,
            order,
            train,
            work=work,
            fingerprint=draft.fingerprint,
            kept=kept,
            advance=advance,
        )
    save_model(trained, draft.path)
    if keep.moments:
        save_moments(result.moments, draft.path)
    for folder in kept.values():
        # Copied: a process that is killed from here on finds all of them there again.
        shutil.copytree(folder, draft.path / CHECKPOINTS / folder.name)
    if keep.checkpoints > 1:
        rates = checkpoint_rates(train, num_steps, keep.checkpoints, keep.first)
        write_json(draft.path / RATES, rates)
    write_json(draft.path / "metrics.json", result.metrics)
    draft.counts.update(steps=result.steps, tokens=result.tokens, loss=result.metrics[-1]["loss"])
    draft.flops += result.flops
    draft.seconds_before = result.seconds_before
    forget(work)


def check_models(run: Run) -> None:
    """Makes each model once, so that one that can't be used stops the run before long work.

    Raises:
        ModelError: as `load_model` does, or rows are longer than the model reads.
        NumericalError: a weight is NaN or infinite.
    """
    from dsdm.lm.model import check_row_length, load_model

    compare = run.experiment.compare
    models = [run.experiment.model, *([compare.model] if compare and compare.model else [])]
    for config in models:
        vocab_size, eos = run.tokenizer.vocab_size, run.tokenizer.eos
        model = load_model(config, vocab_size=vocab_size, eos=eos, seed=0)
        check_row_length(model, run.experiment.examples.row_tokens)


@dataclass(frozen=True)
class ProxyRows:
    """What a proxy is trained on."""

    seed: int
    """Draws the rows, their order and the initial weights."""
    subset: np.ndarray
    """Row numbers, sorted."""
    order: np.ndarray
    """Row numbers as they are trained on, epoch by epoch."""


def proxy_rows(run: Run, number: int) -> ProxyRows:
    """The rows of one proxy."""
    from dsdm.lm.train import epoch_order

    experiment, proxies = run.experiment, run.experiment.proxies
    seed = derived_seed(experiment.seed, "proxy", number)
    rows = usable_rows(run)
    tokens = float(rows.lengths.sum()) if proxies.tokens is not None else 0.0
    count = max(1, round(proxies.share_of(tokens) * len(rows)))
    drawn = np.random.default_rng(seed).choice(len(rows), count, replace=False)
    subset = rows.originals(np.sort(drawn))
    return ProxyRows(seed, subset, epoch_order(subset, proxies.epochs, seed))


def _train_proxy(run: Run, number: int, draft: Draft) -> None:
    proxies, rows = run.experiment.proxies, proxy_rows(run, number)
    np.save(draft.path / "subset.npy", rows.subset)
    keep = Keep(proxies.checkpoints, proxies.first_checkpoint, proxies.moments)
    train_model(run, run.experiment.model, proxies.train, rows.order, rows.seed, draft, keep)


def _estimate(run: Run, method: str, number: int, proxy: str, draft: Draft) -> None:
    from dsdm.datamodel.estimate import estimate_directions

    experiment = run.experiment
    with progress(f"directions/{method}/{number}", None, "tokens") as advance:
        estimate_directions(
            _question(run, number, proxy),
            method,
            experiment.directions,
            experiment.scores,
            draft,
            advance,
        )


def _estimate_of_training(
    run: Run, proxy: int, fingerprint: str, drafts: Mapping[Path, Draft]
) -> None:
    """The metagradient's directions at checkpoints of a proxy; a draft's path ends in its point."""
    from dsdm.datamodel.estimate import estimate_of_training

    experiment, checkpoints = run.experiment, run.experiment.proxies.checkpoints
    replay, tail = replay_of(run, proxy), experiment.directions.tail
    points = [proxy * checkpoints + i for i in range(checkpoints)]
    title = f"directions/{METAGRADIENT}/of-{proxy}"
    with progress(title, round((1 + tail) * replay.num_tokens), "tokens") as advance:
        estimate_of_training(
            replay,
            [_question(run, point, fingerprint) for point in points],
            experiment.directions,
            experiment.scores,
            {points.index(int(path.name)): draft for path, draft in drafts.items()},
            advance,
        )


def replay_of(run: Run, proxy: int) -> "Replay":
    """The training of one proxy, not yet run, to be followed back as the experiment says."""
    from dsdm.lm.model import load_model
    from dsdm.lm.replay import Replay

    experiment, rows = run.experiment, proxy_rows(run, proxy)
    vocab_size, eos = run.tokenizer.vocab_size, run.tokenizer.eos
    model = load_model(
        experiment.model, vocab_size=vocab_size, eos=eos, seed=rows.seed, device=run.device
    )
    directions, train = experiment.directions, experiment.proxies.train
    tail, smoothing = directions.tail, directions.smoothing
    return Replay(model, run.examples, rows.order, train, tail=tail, smoothing=smoothing)


def _question(run: Run, number: int, proxy: str) -> "Question":
    from dsdm.datamodel.estimate import Question

    return Question(
        model=run.point(number),
        proxy=proxy,
        targets=target_rows(run, "fit"),
        weights=target_weights(run),
        pool=usable_rows(run),
        seed=directions_seed(run, number),
        moments=run.point_folder(number),
    )


def make_one(make: Callable[[Mapping[Path, Draft]], None], path: Path, draft: Draft) -> None:
    """One artifact of a pass by itself."""
    make({path: draft})


def _without(config: object, *names: str) -> dict[str, Any]:
    return {key: value for key, value in as_dict(config).items() if key not in names}
