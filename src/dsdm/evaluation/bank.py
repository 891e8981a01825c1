"""A bank of retrained models: what was in each training subset, and which losses came of it.

The folder of a finished bank is all that an estimator is judged by, ours or one from outside:

    inclusion.npy       bool, (subsets, candidates)
    tokens.npy          int64, (candidates,)
    losses/TARGET.npy   nats a target token, mean of its examples, (subsets, seeds)
    bank.json           the kind of each subset, and the targets' names
    candidates.parquet  where each candidate is from, and its text
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from dsdm.artifacts import write_json
from dsdm.errors import ArtifactError

BANK = "bank.json"
INCLUSION = "inclusion.npy"
TOKENS = "tokens.npy"
LOSSES = "losses"
CANDIDATES = "candidates.parquet"


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

    def of_kind(self, kind: str) -> "Bank":
        """The part of the bank whose subsets were drawn in one way."""
        chosen = np.flatnonzero(np.array(self.kinds) == kind)
        losses = {target: values[chosen] for target, values in self.losses.items()}
        return Bank(self.inclusion[chosen], (kind,) * len(chosen), self.tokens, losses)


def write_bank(bank: Bank, folder: Path) -> None:
    """Writes the bank, without the table of its candidates, into an empty folder."""
    np.save(folder / INCLUSION, bank.inclusion)
    np.save(folder / TOKENS, bank.tokens)
    (folder / LOSSES).mkdir()
    for target, losses in bank.losses.items():
        np.save(folder / LOSSES / f"{target}.npy", losses)
    write_json(folder / BANK, {"kinds": bank.kinds, "targets": list(bank.losses)})


def load_bank(folder: Path) -> Bank:
    """The bank in a finished folder.

    Raises:
        ArtifactError: there is none, or it is damaged.
    """
    try:
        about = json.loads((folder / BANK).read_text(encoding="utf-8"))
        return Bank(
            inclusion=np.load(folder / INCLUSION),
            kinds=tuple(about["kinds"]),
            tokens=np.load(folder / TOKENS),
            losses={name: np.load(folder / LOSSES / f"{name}.npy") for name in about["targets"]},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder}: holds no bank of retrained models that can be read ({error}). Name the "
            "folder `lds/bank` of a run whose bank is finished."
        ) from error
