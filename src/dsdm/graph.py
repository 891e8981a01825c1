"""The artifacts of an experiment as a graph: what each is made with, of what, and by whom.

A stage lists its artifacts once a process. Whether one is done, missing or stale follows from its
settings and the fingerprints of what it needs, so that asking for a state reads manifests and
imports nothing heavy: who makes an artifact is a name until it is made.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

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
from dsdm.errors import ArtifactError, ConfigError

Remade = Literal["asked", "inputs", "always"]
"""When a stale artifact is made again: only with --redo; unasked where only what it needs changed,
for what takes seconds; or always, for measurements that nothing else is made of."""


@dataclass(frozen=True, eq=False)
class Artifact:
    """One folder of a run, and all that decides what is in it."""

    stage: str
    path: Path
    settings: object
    """The settings that decide the content, and no others."""
    inputs: Mapping[str, str]
    """Fingerprints of the artifacts and files that it is made of, by name."""
    make: str
    """Who makes it, as `module:function`: `make(run, draft, *arguments)`, or, where `together` is
    set, `make(run, {key: draft}, *arguments)` for those that are missing."""
    run: Any
    """What `make` reads finished artifacts from. It is sent to workers with the artifact."""
    arguments: tuple[Any, ...] = ()
    key: str = ""
    """Tells it from others that are made together."""
    together: str | None = None
    """Artifacts of one stage with the same name here can be made in one call, which costs hardly
    more than one of them. What is written for one does not depend on the others."""
    remade: Remade = "asked"
    needs_model: bool = False
    """Whether a model is run, which takes a GPU where there is one."""

    @property
    def name(self) -> str:
        """The path from the stage's folder on, such as `directions/ekfac/0`."""
        parts = self.path.parts
        first = max(i for i, part in enumerate(parts) if part == self.stage)
        return "/".join(parts[first:])

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the content of the finished artifact."""
        return artifact_fingerprint(self.settings, self.inputs)

    def state(self) -> tuple[State, list[str]]:
        """Whether the artifact is done, missing or stale, and if stale, why."""
        return compare_manifest(self.path, config=self.settings, inputs=self.inputs)

    def counts(self) -> dict[str, Any]:
        """What the finished artifact's manifest counts; empty where there is none."""
        manifest = load_manifest(self.path)
        return {} if manifest is None else manifest.counts


def fingerprints(artifacts: Iterable[Artifact]) -> dict[str, str]:
    """The fingerprints of artifacts by their names, as inputs of another."""
    return {artifact.name: artifact.fingerprint for artifact in artifacts}


def is_missing(artifact: Artifact) -> bool:
    """Whether the artifact is to be made; one that is there is checked to be whole.

    Raises:
        ArtifactError: it is damaged, or was made with other settings and is not remade unasked.
    """
    state, changes = artifact.state()
    if state == "done":
        check_contents(artifact.path)
        return False
    if state == "stale" and not _is_remade_unasked(artifact):
        raise ArtifactError(
            f"{artifact.path}: was made with other settings: {'; '.join(changes)}. Restore them, "
            f"give another `run` folder, or make it again with --redo {artifact.stage}."
        )
    return True


def _is_remade_unasked(artifact: Artifact) -> bool:
    if artifact.remade != "inputs":
        return artifact.remade == "always"
    manifest = load_manifest(artifact.path)
    return manifest is not None and manifest.config == as_dict(artifact.settings)


def make_missing(artifacts: Sequence[Artifact]) -> int:
    """Makes those of the artifacts that are missing, in one call; returns how many.

    Args:
        artifacts: One, or several that are made `together`.

    Raises:
        DsdmError: as `is_missing` and the maker do.
    """
    missing = [artifact for artifact in artifacts if is_missing(artifact)]
    if not missing:
        return 0
    first = missing[0]
    module, _, function = first.make.partition(":")
    make = getattr(import_module(module), function)
    with ExitStack() as stack:
        drafts: dict[str, Draft] = {}
        for one in missing:
            draft = stack.enter_context(writing(one.path, config=one.settings, inputs=one.inputs))
            draft.made_with = len(missing)
            drafts[one.key] = draft
        if first.together is None:
            (draft,) = drafts.values()
            make(first.run, draft, *first.arguments)
        else:
            make(first.run, drafts, *first.arguments)
    return len(missing)


def grouped(artifacts: Iterable[Artifact]) -> list[list[Artifact]]:
    """The artifacts in groups that are made together, in the order of their first members."""
    groups: dict[object, list[Artifact]] = {}
    for artifact in artifacts:
        groups.setdefault(artifact.together or artifact.path, []).append(artifact)
    return list(groups.values())


StageLister = Callable[["Graph"], Iterator[Artifact]]
"""Lists the artifacts of one stage, in order."""


@dataclass
class Graph:
    """The artifacts of a run by stage. Each stage is listed once, when it is first asked for.

    What a stage lists may depend on what earlier stages have finished: how large the pool is, which
    learning rate is best. So a run asks for a stage when those before it are done.
    """

    run: Any
    """What stages plan by and makers read: the run's settings, folders and finished artifacts."""
    stages: Mapping[str, StageLister]
    listed: dict[str, list[Artifact]] = field(default_factory=dict)
    """Stages that were listed, or that another run has finished for this one."""

    def __getitem__(self, stage: str) -> list[Artifact]:
        """The artifacts of a stage."""
        if stage not in self.listed:
            self.listed[stage] = list(self.stages[stage](self))
        return self.listed[stage]

    def until(self, last: str | None) -> list[str]:
        """Names of the stages up to and with the last.

        Raises:
            ConfigError: there is no such stage.
        """
        names = list(self.stages)
        if last is None:
            return names
        if last not in names:
            raise ConfigError(f"{last!r} is not a stage. Stages are {', '.join(names)}.")
        return names[: names.index(last) + 1]
