"""One run: its experiment, its folder, and what its finished stages hold."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from dsdm.artifacts import disk_errors, load_checked, write_checked
from dsdm.data.contents import contents_fingerprint, model_fingerprint
from dsdm.data.examples import Examples, load_examples
from dsdm.data.pool import PoolFile, content_fingerprint, list_pool_files
from dsdm.data.tasks import Part, TargetRows, load_target
from dsdm.data.tokenizer import Tokenizer, load_tokenizer
from dsdm.errors import ArtifactError
from dsdm.evaluation.arms import CompareConfig
from dsdm.experiment import Experiment
from dsdm.lm.config import ModelConfig
from dsdm.pipeline.work import progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

CHECKPOINTS = "checkpoints"
"""Folder in a proxy's that holds those before its last."""
RATES = "rates.json"
"""File in a proxy's folder: the mean learning rate that led to each of its checkpoints."""
POOL_INDEX = "pool.json"
UNREAD = "unread"


@dataclass(frozen=True)
class PoolShard:
    """A pool file and the shard that is made of it."""

    number: int
    file: PoolFile
    content: str
    """Fingerprint of what the file holds: a file that is copied or touched is still the same."""
    is_first: bool
    """Whether it was in the pool when the run began: only such shards train proxies and fit
    curvature, so that shards added later are scored without redoing either."""

    @property
    def name(self) -> str:
        """Folder name of the shard."""
        return f"{self.number:05d}"


class PoolIndex(msgspec.Struct):
    """Which files are in the pool, in the order in which they joined."""

    first: list[str] = []
    """Those of the first `dsdm run`."""
    later: list[str] = []
    seen: dict[str, tuple[str, str]] = {}
    """Version and content fingerprint of each file when it was last read."""


@dataclass(frozen=True)
class Run:
    """What stages share. Reads finished artifacts; writes nothing but the index of the pool."""

    experiment: Experiment
    replicate_of: "Run | None" = None
    """The run whose pool and targets this one shares, with proxies of its own."""
    reads_pool: bool = True
    """Whether files that were never read are read, for their fingerprints. Nothing is made of them
    yet, so what only asks for states and sizes need not."""

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.experiment.folder

    @property
    def data_folder(self) -> Path:
        """Folder of the run whose tokenizer, examples and targets these are."""
        return self.replicate_of.folder if self.replicate_of else self.folder

    @property
    def compare_folder(self) -> Path:
        """Folder of the comparison's models."""
        return compare_folder(self.folder, self.compare)

    @cached_property
    def replicates(self) -> tuple["Run", ...]:
        """This run, and one for each further seed of a comparison that renews the proxies."""
        compare = self.experiment.compare
        if self.replicate_of or compare is None or not compare.new_proxies:
            return (self,)
        return (self, *(self._renewed(number) for number in range(1, compare.seeds)))

    def replicate(self, seed: int) -> "Run":
        """The run whose scores a comparison's seed is made with."""
        return self.replicates[seed] if len(self.replicates) > 1 else self

    def _renewed(self, number: int) -> "Run":
        """The same experiment at another seed, in a folder within this one's."""
        folder = self.folder / "replicates" / str(number)
        changes = {"run": str(folder), "seed": self.experiment.seed + number}
        return Run(msgspec.structs.replace(self.experiment, **changes), self, self.reads_pool)

    @cached_property
    def shards(self) -> list[PoolShard]:
        """The pool's shards in the order in which their files joined the run.

        Raises:
            ArtifactError: a file of the pool that was packed is gone from `pool.files`.
        """
        files = {file.shown: file for file in list_pool_files(self.experiment.pool)}
        known = self._known_urls()
        gone = [url for url in known if url not in files]
        if gone:
            raise ArtifactError(
                f"{gone[0]}: was part of the pool when this run began and is "
                "gone. Put it back, or start over with --redo examples."
            )
        urls = [*known, *(url for url in files if url not in known)]
        contents = self._contents([files[url] for url in urls])
        first = self._pool_index.first
        return [
            PoolShard(number, files[url], contents[url], not known or url in first)
            for number, url in enumerate(urls)
        ]

    def remember_pool(self) -> None:
        """Writes down which files are in the pool, and in which order they joined."""
        path = self.data_folder / "examples" / POOL_INDEX
        index = PoolIndex(
            first=[shard.file.shown for shard in self.shards if shard.is_first],
            later=[shard.file.shown for shard in self.shards if not shard.is_first],
            seen={shard.file.shown: (shard.file.version, shard.content) for shard in self.shards},
        )
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_checked(path, msgspec.to_builtins(index))

    @cached_property
    def contents(self) -> dict[tuple[str | None, ...], str]:
        """What the files of each target, each held-out task and the tokenizer hold."""
        experiment = self.experiment
        tasks = [*experiment.targets, *(experiment.compare.heldout if experiment.compare else ())]
        named = [(experiment.tokenizer.path,), *(task.places for task in tasks)]
        return {places: contents_fingerprint(places) for places in named}

    def base_files(self, model: ModelConfig) -> dict[str, str]:
        """What stands for the weights that adapters are trained beside, as an artifact's input."""
        if model.lora is None or model.path is None:
            return {}
        return {"model files": model_fingerprint(model.path)}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The finished tokenizer."""
        return load_tokenizer(self.data_folder / "tokenizer")

    @cached_property
    def examples(self) -> Examples:
        """All finished shards."""
        folders = [self.data_folder / "examples" / shard.name for shard in self.shards]
        return load_examples(folders, self.experiment.examples.unit)

    @cached_property
    def num_first_rows(self) -> int:
        """Rows of the shards that were in the pool when the run began; they come first."""
        pairs = zip(self.shards, self.examples.shards, strict=True)
        return sum(shard.num_rows for pool, shard in pairs if pool.is_first)

    @cached_property
    def num_first_candidates(self) -> int:
        """Candidates of those shards."""
        return int(self.examples.candidate_of_row[self.num_first_rows - 1]) + 1

    @cached_property
    def droppable(self) -> np.ndarray:
        """Sorted candidates that share text with a target, where such are dropped."""
        if not self.experiment.drop_overlap:
            return np.zeros(0, np.int64)
        return np.asarray(np.load(self.data_folder / "overlap" / "candidates.npy"))

    def target(self, name: str, part: Part) -> TargetRows:
        """The rows of one part of a target."""
        return load_target(self.data_folder / "targets" / name, part)

    def proxy(self, number: int) -> "PreTrainedModel":
        """A trained proxy, on the experiment's device."""
        from dsdm.lm.model import load_saved

        return load_saved(self.folder / "proxies" / str(number), self.device)

    def point(self, number: int) -> "PreTrainedModel":
        """A proxy at one of its checkpoints, on the experiment's device."""
        from dsdm.lm.model import load_saved

        return load_saved(self.point_folder(number), self.device)

    def point_folder(self, number: int) -> Path:
        """Where a checkpoint is; the last one of a proxy is the proxy."""
        checkpoints = self.experiment.proxies.checkpoints
        proxy, checkpoint = divmod(number, checkpoints)
        folder = self.folder / "proxies" / str(proxy)
        return folder if checkpoint == checkpoints - 1 else folder / CHECKPOINTS / str(checkpoint)

    @cached_property
    def point_weights(self) -> np.ndarray:
        """What each checkpoint counts for, in order; all together 1.

        As much for each proxy, and within it by the learning rates that led to a checkpoint.
        """
        proxies = self.experiment.proxies
        if proxies.checkpoints == 1:
            return np.full(proxies.count, 1 / proxies.count)
        files = [self.folder / "proxies" / str(i) / RATES for i in range(proxies.count)]
        rates = np.array([json.loads(file.read_text(encoding="utf-8")) for file in files])
        weights: np.ndarray = (rates / rates.sum(1, keepdims=True) / proxies.count).flatten()
        return weights

    @cached_property
    def device(self) -> "torch.device":
        """Where models run; asking for it readies this process for them."""
        from dsdm.lm.memory import keep_freed_memory
        from dsdm.lm.model import default_device

        keep_freed_memory()
        return default_device(self.experiment.device)

    @property
    def compare(self) -> CompareConfig:
        """The comparison's settings; only called where there is one."""
        assert self.experiment.compare is not None
        return self.experiment.compare

    def _known_urls(self) -> list[str]:
        return [*self._pool_index.first, *self._pool_index.later]

    def _contents(self, files: list[PoolFile]) -> dict[str, str]:
        """Content fingerprint of each file; only those whose version is new are read."""
        seen = self._pool_index.seen
        known = {file.shown: seen[file.shown][1] for file in files if _is_seen(file, seen)}
        if not self.reads_pool:
            known |= {file.shown: UNREAD for file in files if file.shown not in seen}
        changed = [file for file in files if file.shown not in known]
        if not changed:
            return known
        with progress("reading the pool", sum(file.size for file in changed), "bytes") as advance:
            return known | {file.shown: content_fingerprint(file, advance) for file in changed}

    @cached_property
    def _pool_index(self) -> PoolIndex:
        path = self.data_folder / "examples" / POOL_INDEX
        if not path.exists():
            return PoolIndex()
        try:
            return msgspec.convert(load_checked(path), PoolIndex)
        except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise ArtifactError(
                f"{path}: is not what dsdm wrote ({error}). Put it back, or start over with --redo "
                "examples."
            ) from error


def compare_folder(run_folder: Path, compare: CompareConfig) -> Path:
    """Folder of a comparison's models within a run."""
    return run_folder / "comparisons" / compare.name if compare.name else run_folder


def evaluation_folder(comparison: Path, kind: str, model: str) -> Path:
    """Where it is written what a model lost on one kind of examples, or got right."""
    return comparison / "evaluations" / kind / model


def _is_seen(file: PoolFile, seen: dict[str, tuple[str, str]]) -> bool:
    return file.shown in seen and seen[file.shown][0] == file.version
