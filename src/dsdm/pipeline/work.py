"""The unit of everything that is done: one artifact, with what it is made of and how.

A stage is a function `Run -> iterator of Work`. Whether a piece of work is done, missing or stale
follows from its config and inputs alone, so a status needs no computation and a killed run goes on
where it was.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dsdm.artifacts import (
    Draft,
    State,
    artifact_fingerprint,
    check_contents,
    compare_manifest,
    load_manifest,
    writing,
)
from dsdm.config import as_dict
from dsdm.errors import ArtifactError

Advance = Callable[[int], None]

bar_position = 0
"""The line of the terminal, from the bottom, that this process shows its progress on."""
shows_bars = True
"""Whether this process shows its progress at all."""


@dataclass(frozen=True)
class Pass:
    """What can make several artifacts of a stage at once, for hardly more than one of them."""

    name: str
    """The same for works that can be made together."""
    make: Callable[[Mapping[Path, Draft]], None]
    """Given the drafts of those that are missing, by the paths of their works. What it writes for
    one does not depend on which others are made."""


@dataclass(frozen=True)
class Work:
    """One artifact: a folder of the run."""

    stage: str
    path: Path
    config: object
    """The settings that decide the content, and no others."""
    inputs: Mapping[str, str]
    """Fingerprints of what is read, by name."""
    make: Callable[[Draft], None]
    shared: Pass | None = None
    """Makes it together with others of its stage, where several are missing."""
    follows_inputs: bool = False
    """Whether it is made again, unasked, when its inputs changed: for what takes seconds."""

    follows_siblings: bool = False
    """Whether it reads what came before it in its stage, so that it can't be made beside it."""

    @property
    def name(self) -> str:
        """The path from the stage's folder on, such as `directions/ekfac/0`."""
        parts = self.path.parts
        first = max(i for i, part in enumerate(parts) if part == self.stage)
        return "/".join(parts[first:])

    @property
    def fingerprint(self) -> str:
        """Identifies the content of the finished artifact."""
        return artifact_fingerprint(self.config, self.inputs)

    def state(self) -> tuple[State, list[str]]:
        """Whether the artifact is done, missing or stale, and if stale, why."""
        return compare_manifest(self.path, config=self.config, inputs=self.inputs)

    def is_done(self) -> bool:
        """Whether the artifact is done; one that is has been read, to see that it is whole.

        Raises:
            ArtifactError: it does not hold what was written.
        """
        is_done = self.state()[0] == "done"
        if is_done:
            check_contents(self.path)
        return is_done


def perform(work: Work) -> bool:
    """Makes the artifact where it is missing; True if it was made now.

    Raises:
        ArtifactError: an artifact made with another config or other inputs is in its place.
    """
    return perform_together([work]) == 1


def perform_together(works: Sequence[Work]) -> int:
    """Makes those of the works that are missing, of `passes`, in one pass; returns how many.

    Raises:
        ArtifactError: an artifact made with another config or other inputs is in its place.
    """
    missing = [work for work in works if _is_missing(work)]
    with ExitStack() as stack:
        drafts = {work.path: stack.enter_context(_writing(work)) for work in missing}
        for draft in drafts.values():
            draft.made_with = len(missing)
        if len(missing) == 1:
            missing[0].make(drafts[missing[0].path])
        elif missing:
            shared = missing[0].shared
            assert shared is not None
            shared.make(drafts)
    return len(missing)


def passes(works: Iterable[Work]) -> list[list[Work]]:
    """The works in groups that can be made together, in the order of their first members."""
    groups: dict[object, list[Work]] = {}
    for work in works:
        groups.setdefault(work.shared.name if work.shared else work.path, []).append(work)
    return list(groups.values())


def _is_missing(work: Work) -> bool:
    state, changes = work.state()
    if state == "stale" and not (work.follows_inputs and _only_inputs_changed(work)):
        raise ArtifactError(
            f"{work.path}: was made with other settings: {'; '.join(changes)}. Restore them, give "
            f"another `run` folder, or make it again with --redo {work.stage}."
        )
    if state == "done":
        check_contents(work.path)
    return state != "done"


def _writing(work: Work) -> AbstractContextManager[Draft]:
    return writing(work.path, config=work.config, inputs=work.inputs)


def _only_inputs_changed(work: Work) -> bool:
    manifest = load_manifest(work.path)
    return manifest is not None and manifest.config == as_dict(work.config)


def fingerprints(works: Sequence[Work]) -> dict[str, str]:
    """The fingerprints of several works, by their paths in the run, wherever the run is."""
    return {work.name: work.fingerprint for work in works}


def finished_counts(work: Work) -> dict[str, Any]:
    """The counts in a finished artifact's manifest."""
    manifest = load_manifest(work.path)
    return {} if manifest is None else manifest.counts


@contextmanager
def progress(title: str, total: int | None, unit: str) -> Iterator[Advance]:
    """A bar with rate and time left on the terminal; the block gets a function that advances it."""
    scaled = unit in ("tokens", "rows", "bytes")
    with tqdm(
        total=total,
        desc=title,
        unit=f" {unit}",
        unit_scale=scaled,
        mininterval=1.0,
        leave=False,
        position=bar_position,
        disable=not shows_bars,
    ) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        yield advance
