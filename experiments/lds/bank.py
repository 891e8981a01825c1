"""A bank of retrained models: its settings, its subsets, and the losses that were measured.

A set-up has two committed files beside its SETUP.yaml. SETUP_bank.json says what is retrained
(`BankConfig`). SETUP_losses.jsonl holds the settings that decide a loss, and then a line for each
model: its name, a fingerprint of the candidates that it was trained on, and its losses.

The folder of a finished bank is all that a method is judged by, also one from outside:

    inclusion.npy       bool, (subsets, candidates)
    tokens.npy          int64, (candidates,)
    losses/TARGET.npy   nats a target token, mean of its examples, (subsets, seeds)
    bank.json           the kind of each subset, and the targets' names
    candidates.parquet  where each candidate is from, and its text
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from jaxtyping import Bool, Float, Int
from record import read_lines, write_lines

from dsdm.artifacts import write_json
from dsdm.config import Config, as_dict, differences, load_config, parse_config
from dsdm.errors import ArtifactError
from dsdm.evaluation.lds import Retrained
from dsdm.evaluation.rows import cut_to_tokens
from dsdm.lm.config import ModelConfig, TrainConfig

KINDS = ("half", "skewed")

Count = Annotated[int, msgspec.Meta(ge=0)]


class BankConfig(Config):
    """Models retrained on random subsets of the pool."""

    halves: Count = 100
    """Uniformly random subsets."""
    skewed: Count = 100
    """Subsets in which each source has a random weight; random halves hardly differ."""
    seeds: Annotated[int, msgspec.Meta(ge=1)] = 2
    """Trainings on each subset; each renews initial weights and order. One has no noise ceiling."""
    share: float = 0.5
    """Share of the pool's tokens in each subset; of its rows with `train.batch_rows`."""
    skew: Annotated[float, msgspec.Meta(gt=0)] = 1.5
    """Standard deviation of the logarithms of the sources' weights."""
    epochs: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """Passes over a subset."""
    train: TrainConfig = TrainConfig()
    """Optimizer and schedule."""

    def __post_init__(self) -> None:
        """Refuses a bank that can't be made."""
        if not 0 < self.share < 1:
            raise ValueError(f"`share` must be above 0 and below 1, got {self.share}")
        if self.halves + self.skewed < 2:
            raise ValueError("a rank correlation needs `halves` or `skewed` subsets, 2 or more")

    def subsets(self) -> Iterator[tuple[str, int]]:
        """Kind and number of each subset, kinds in turn, so that a part of a bank is balanced."""
        counts = {"half": self.halves, "skewed": self.skewed}
        for number in range(max(counts.values())):
            yield from ((kind, number) for kind in KINDS if number < counts[kind])


def bank_config(setup: Path, subsets: int | None = None) -> BankConfig:
    """What is retrained for a set-up: all of it, or so many subsets of each kind at most."""
    config = load_config(setup.with_name(f"{setup.stem}_bank.json"), BankConfig)
    if subsets is None:
        return config
    fewer = {"halves": min(subsets, config.halves), "skewed": min(subsets, config.skewed)}
    changed: BankConfig = msgspec.structs.replace(config, **fewer)
    return changed


class LossSettings(Config):
    """All settings that decide what a retrained model lost, beside its candidates."""

    seed: int
    """Of the run."""
    share: float
    skew: float
    epochs: float
    model: ModelConfig
    train: TrainConfig


@dataclass(frozen=True)
class ModelLosses:
    """What one retrained model lost."""

    candidates: str
    """Fingerprint of the candidates that it was trained on."""
    losses: Mapping[str, float]
    """By target: mean of the examples of its tune part, in nats a target token."""


KnownLosses = dict[str, ModelLosses]
"""By the name of a retrained model."""


def model_name(kind: str, number: int, seed: int) -> str:
    """The name of the model that one seed trains on one subset, such as `half-003-1`."""
    return f"{kind}-{number:03d}-{seed}"


def losses_file(setup: Path) -> Path:
    """Where the losses of a set-up's models are kept."""
    return setup.with_name(f"{setup.stem}_losses.jsonl")


def read_losses(path: Path, settings: LossSettings) -> KnownLosses:
    """The losses that are known; none where there is no file.

    Raises:
        ArtifactError: they were measured with other settings.
    """
    lines = read_lines(path)
    if not lines:
        return {}
    recorded = parse_config(lines[0]["settings"], LossSettings, str(path))
    changed = differences(_decisive(recorded), _decisive(settings))
    if changed:
        raise ArtifactError(
            f"{path}: its losses were measured with other settings: {'; '.join(changed)}. Restore "
            "these, or move the file away to train every model again."
        )
    return {line["model"]: ModelLosses(line["candidates"], line["losses"]) for line in lines[1:]}


def write_losses(path: Path, settings: LossSettings, known: KnownLosses) -> None:
    """Replaces the file of the losses that are known."""
    lines = [{"model": name, **vars(known[name])} for name in sorted(known)]
    write_lines(path, [{"settings": _decisive(settings)}, *lines])


def _decisive(settings: LossSettings) -> dict[str, Any]:
    found = as_dict(settings)
    del found["train"]["checkpoint_seconds"]
    return dict(found)


@dataclass(frozen=True)
class Bank:
    """Losses of models retrained on random subsets."""

    inclusion: Bool[np.ndarray, "subsets candidates"]
    """Whether each candidate was in each subset."""
    kinds: tuple[str, ...]
    """How each subset was drawn: `half` or `skewed`."""
    tokens: Int[np.ndarray, " candidates"]
    """Tokens that are learned in each candidate: in a conversation, those of its completions."""
    losses: Mapping[str, Float[np.ndarray, "subsets seeds"]]
    """By target: the mean loss of the examples of its tune part, in nats a target token."""

    @property
    def num_candidates(self) -> int:
        """Candidates that were drawn from."""
        return len(self.tokens)

    @property
    def num_seeds(self) -> int:
        """Trainings on each subset."""
        return int(next(iter(self.losses.values())).shape[1])

    def of_kind(self, kind: str) -> Retrained:
        """The models on the subsets that were drawn in one way."""
        chosen = np.flatnonzero(np.array(self.kinds) == kind)
        losses = {target: values[chosen] for target, values in self.losses.items()}
        return Retrained(self.inclusion[chosen], self.tokens, losses)

    def by_kind(self) -> dict[str, Retrained]:
        """The models by how their subsets were drawn."""
        return {kind: self.of_kind(kind) for kind in dict.fromkeys(self.kinds)}


def write_bank(bank: Bank, folder: Path) -> None:
    """Writes the bank, without the table of its candidates."""
    (folder / "losses").mkdir(parents=True, exist_ok=True)
    np.save(folder / "inclusion.npy", bank.inclusion)
    np.save(folder / "tokens.npy", bank.tokens)
    for target, losses in bank.losses.items():
        np.save(folder / "losses" / f"{target}.npy", losses)
    write_json(folder / "bank.json", {"kinds": bank.kinds, "targets": list(bank.losses)})


def load_bank(folder: Path) -> Bank:
    """The bank in a finished folder.

    Raises:
        ArtifactError: there is none, or it is damaged.
    """
    try:
        about = json.loads((folder / "bank.json").read_text(encoding="utf-8"))
        return Bank(
            inclusion=np.load(folder / "inclusion.npy"),
            kinds=tuple(about["kinds"]),
            tokens=np.load(folder / "tokens.npy"),
            losses={n: np.load(folder / "losses" / f"{n}.npy") for n in about["targets"]},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder}: holds no bank of retrained models that can be read ({error}). Name the "
            "folder `lds/bank` of a run whose bank is finished."
        ) from error


def draw_subset(
    sizes: Int[np.ndarray, " candidates"],
    weights: Float[np.ndarray, " candidates"],
    share: float,
    seed: int,
) -> Int[np.ndarray, " chosen"]:
    """Sorted candidates with at most `share` of the whole size, drawn one by one in proportion.

    Each draw takes one of those that are left with a probability proportional to its weight. So
    equal weights give a uniformly random subset, and all subsets are of one size, but for the last
    candidate: training for more steps would lower every loss whatever the data.

    Args:
        sizes: What each candidate adds to a training: its tokens, or its rows where steps are of
            so many rows.
        weights: 0 or more; candidates at 0 are never drawn and do not count in `share`.
        share: Above 0, at most 1.
        seed: Draws the subset.

    Raises:
        ValueError: no candidate has a weight above 0.
    """
    possible = np.flatnonzero(weights > 0)
    if not len(possible):
        raise ValueError("no candidate has a weight above 0.")
    # The order of exponential draws over weights is that of successive draws (Efraimidis and
    # Spirakis, 2006).
    draws = np.random.default_rng(seed).exponential(size=len(weights))
    order = possible[np.argsort(draws[possible] / weights[possible], kind="stable")]
    return np.sort(cut_to_tokens(order, sizes, int(share * int(sizes[possible].sum()))))


def source_weights(
    sources: Int[np.ndarray, " candidates"], skew: float, seed: int
) -> Float[np.ndarray, " candidates"]:
    """The weight of each candidate's source, exp(skew z) with one normal draw z for each source.

    Args:
        sources: Number of each candidate's source, from 0.
        skew: Standard deviation of the logarithm of a weight.
        seed: Draws the weights.
    """
    logarithms = np.random.default_rng(seed).normal(scale=skew, size=int(sources.max()) + 1)
    return np.asarray(np.exp(logarithms)[sources])


def inclusion_matrix(
    subsets: Sequence[Int[np.ndarray, " _"]], num_candidates: int
) -> Bool[np.ndarray, "subsets candidates"]:
    """Whether each candidate is in each subset."""
    inclusion = np.zeros((len(subsets), num_candidates), np.bool_)
    for number, candidates in enumerate(subsets):
        inclusion[number, candidates] = True
    return inclusion
