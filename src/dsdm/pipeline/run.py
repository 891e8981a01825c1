"""One run: its experiment, its folder, and what its finished stages hold."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dsdm.artifacts import disk_errors, write_json
from dsdm.data.examples import Examples, load_examples
from dsdm.data.pool import PoolFile, list_pool_files
from dsdm.data.tasks import Part, TargetRows, load_target
from dsdm.data.tokenizer import Tokenizer, load_tokenizer
from dsdm.errors import ArtifactError
from dsdm.evaluation.arms import CompareConfig
from dsdm.experiment import Experiment

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

POOL_INDEX = "pool.json"


@dataclass(frozen=True)
class PoolShard:
    """A pool file and the shard that is made of it."""

    number: int
    file: PoolFile
    is_first: bool
    """Whether it was in the pool when the run began: only such shards train proxies and fit
    curvature, so that shards added later are scored without redoing either."""

    @property
    def name(self) -> str:
        """Folder name of the shard."""
        return f"{self.number:05d}"


@dataclass(frozen=True)
class Run:
    """What stages share. Reads finished artifacts; writes nothing but the index of the pool."""

    experiment: Experiment

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.experiment.folder

    @cached_property
    def shards(self) -> list[PoolShard]:
        """The pool's shards in the order in which their files joined the run.

        Raises:
            ArtifactError: a file of the pool that was packed is gone from `pool.files`.
        """
        files = {file.url: file for file in list_pool_files(self.experiment.pool)}
        known = self._known_urls()
        gone = [url for url in known if url not in files]
        if gone:
            raise ArtifactError(
                f"{gone[0]}: was part of the pool when this run began and is gone. Put it back, or "
                "start over with --redo examples."
            )
        urls = [*known, *(url for url in files if url not in known)]
        return [
            PoolShard(number, files[url], not known or url in self._first_urls())
            for number, url in enumerate(urls)
        ]

    def remember_pool(self) -> None:
        """Writes down which files are in the pool, and in which order they joined."""
        path = self.folder / "examples" / POOL_INDEX
        index = {
            "first": [shard.file.url for shard in self.shards if shard.is_first],
            "later": [shard.file.url for shard in self.shards if not shard.is_first],
        }
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, index)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The finished tokenizer."""
        return load_tokenizer(self.folder / "tokenizer")

    @cached_property
    def examples(self) -> Examples:
        """All finished shards."""
        folders = [self.folder / "examples" / shard.name for shard in self.shards]
        return load_examples(folders, self.experiment.examples.unit)

    @cached_property
    def num_first_rows(self) -> int:
        """Rows of the shards that were in the pool when the run began; they come first."""
        pairs = zip(self.shards, self.examples.shards, strict=True)
        return sum(shard.num_rows for pool, shard in pairs if pool.is_first)

    @cached_property
    def droppable(self) -> np.ndarray:
        """Sorted candidates that share text with a target, where such are dropped."""
        if not self.experiment.drop_overlap:
            return np.zeros(0, np.int64)
        return np.asarray(np.load(self.folder / "overlap" / "candidates.npy"))

    def target(self, name: str, part: Part) -> TargetRows:
        """The rows of one part of a target."""
        return load_target(self.folder / "targets" / name, part)

    def proxy(self, number: int) -> "PreTrainedModel":
        """A trained proxy, on the experiment's device."""
        from dsdm.lm.model import load_saved

        return load_saved(self.folder / "proxies" / str(number), self.device)

    @cached_property
    def device(self) -> "torch.device":
        """Where models run."""
        from dsdm.lm.model import default_device

        return default_device(self.experiment.device)

    @property
    def compare(self) -> CompareConfig:
        """The comparison's settings; only called where there is one."""
        assert self.experiment.compare is not None
        return self.experiment.compare

    def _known_urls(self) -> list[str]:
        index = self._pool_index
        return [*index["first"], *index["later"]]

    def _first_urls(self) -> list[str]:
        return self._pool_index["first"]

    @cached_property
    def _pool_index(self) -> dict[str, list[str]]:
        path = self.folder / "examples" / POOL_INDEX
        if not path.exists():
            return {"first": [], "later": []}
        index: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
        return index
