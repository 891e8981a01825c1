"""What the stages of a run read: its settings, its folders, and what finished stages hold."""

import json
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from dsdm.data.contents import contents_fingerprint, model_fingerprint
from dsdm.data.sequences import AllBut, Rows
from dsdm.data.tasks import Part, load_target
from dsdm.errors import DataError
from dsdm.experiment import Experiment, experiment_type, import_plugins
from dsdm.stages.pool import Pool, PoolPiece, read_pool

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from dsdm.data.examples import Examples
    from dsdm.data.tokenizer import Tokenizer
    from dsdm.evaluation.arms import CompareConfig
    from dsdm.lm.config import ModelConfig

CHECKPOINTS = "checkpoints"
"""Folder in a proxy's that holds its checkpoints but the last."""
OVERLAP = "candidates.npy"
"""File in the overlap's folder: candidates that share words with a target, sorted."""
RATES = "rates.json"
"""File in a proxy's folder: the mean learning rate that led to each of its checkpoints."""


@dataclass(frozen=True)
class Run:
    """An experiment and the folders of its stages. Writes nothing.

    All are one folder but for a replicate of a comparison, which has models of its own, and for
    files that are scored after the run, which are packed in a folder of their own.
    """

    experiment: Experiment
    shared: Path
    """Holds tokenizer, targets and topic groups."""
    packed: tuple[Path, ...]
    """Hold packed pools: examples, duplicates, overlap and topics. A run makes the first; a
    selection from several tables reads several."""
    models: Path
    """Holds proxies, directions and screening."""
    reads_pool: bool = True
    """Whether pool files that were never read are read for their fingerprints. What only asks for
    states and sizes need not."""

    @property
    def folder(self) -> Path:
        """Holds the stages that replicates have of their own."""
        return self.experiment.folder

    @property
    def is_later(self) -> bool:
        """Whether these are files that are scored after the run, by what the run has learned."""
        return self.packed[0] != self.shared

    def __reduce__(self) -> tuple[object, ...]:
        """Sent to a worker without what is loaded; the worker opens each run once."""
        encoded = msgspec.json.encode(self.experiment)
        return open_run, (encoded, self.shared, self.packed, self.models, self.reads_pool)

    @cached_property
    def replicates(self) -> tuple["Run", ...]:
        """This run, and one for each further seed of a comparison with new proxies."""
        compare = self.experiment.compare
        if compare is None or not compare.new_proxies or self.folder != self.shared:
            return (self,)
        others = []
        for number in range(1, compare.seeds):
            folder = self.folder / "replicates" / str(number)
            experiment = msgspec.structs.replace(
                self.experiment, run=str(folder), seed=self.experiment.seed + number
            )
            others.append(replace(self, experiment=experiment, models=folder))
        return (self, *others)

    def replicate(self, seed: int) -> "Run":
        """The run whose scores a comparison's seed is made with."""
        return self.replicates[seed] if len(self.replicates) > 1 else self

    @cached_property
    def pool(self) -> Pool:
        """The files of the pool."""
        return read_pool(self.experiment.pool, self.packed[0], reads_files=self.reads_pool)

    @cached_property
    def pieces(self) -> list[PoolPiece]:
        """The pieces of all packed pools, in the order in which candidates are numbered."""
        others = (
            read_pool(self.experiment.pool, root, reads_files=False) for root in self.packed[1:]
        )
        return [piece for pool in (self.pool, *others) for piece in pool.pieces]

    @cached_property
    def contents(self) -> dict[tuple[str | None, ...], str]:
        """What the files of each target, each held-out task and the tokenizer hold."""
        experiment = self.experiment
        tasks = [*experiment.targets, *(experiment.compare.heldout if experiment.compare else ())]
        named = [(experiment.tokenizer.path,), *(task.places for task in tasks)]
        return {places: contents_fingerprint(places) for places in named}

    def base_files(self, model: "ModelConfig") -> dict[str, str]:
        """What stands for the weights that adapters are trained beside, as an artifact's input."""
        if model.lora is None or model.path is None:
            return {}
        return {"model files": model_fingerprint(model.path)}

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """The finished tokenizer."""
        from dsdm.data.tokenizer import load_tokenizer

        return load_tokenizer(self.shared / "tokenizer")

    @cached_property
    def examples(self) -> "Examples":
        """The packed pool."""
        from dsdm.data.duplicates import join_duplicates, load_duplicates
        from dsdm.data.examples import load_examples

        folders = [piece.examples for piece in self.pieces]
        parts = [load_duplicates(root / "duplicates") for root in self.packed]
        return load_examples(folders, join_duplicates(parts), self.experiment.examples.unit)

    @cached_property
    def dropped(self) -> np.ndarray:
        """Sorted candidates that share text with a target, where such are dropped."""
        if not self.experiment.drop_overlap:
            return np.zeros(0, np.int64)
        from dsdm.data.duplicates import load_duplicates

        first, found = 0, []
        for root in self.packed:
            found.append(np.load(root / "overlap" / "all" / OVERLAP) + first)
            first += load_duplicates(root / "duplicates").num_candidates(
                self.experiment.examples.unit
            )
        return np.concatenate(found)

    @cached_property
    def usable_rows(self) -> AllBut:
        """Rows of the pool, in order, without those of dropped candidates.

        Raises:
            DataError: every candidate is dropped.
        """
        end = self.examples.num_rows
        usable = AllBut(self.examples, end, self.examples.rows_of(self.dropped))
        if not len(usable):
            raise DataError(
                f"drop_overlap: all {len(self.dropped):,} candidates of the pool share 13 words in "
                f"a row with a target, so that none of its {end:,} rows is left. Set "
                "`drop_overlap` to false, or give another pool or other targets."
            )
        return usable

    @property
    def weights(self) -> dict[str, float]:
        """What each target counts for in the mix."""
        return {target.name: target.weight for target in self.experiment.targets}

    def targets(self, part: Part) -> dict[str, Rows]:
        """One part of every target, by name."""
        folder = self.shared / "targets"
        return {t.name: load_target(folder / t.name, part) for t in self.experiment.targets}

    def proxy(self, number: int) -> "PreTrainedModel":
        """A trained proxy, on the experiment's device."""
        from dsdm.lm.model import load_saved

        return load_saved(self.models / "proxies" / str(number), self.device)

    def checkpoint(self, number: int) -> "PreTrainedModel":
        """A proxy at one of its checkpoints, on the experiment's device."""
        from dsdm.lm.model import load_saved

        return load_saved(self.checkpoint_folder(number), self.device)

    def checkpoint_folder(self, number: int) -> Path:
        """Where a checkpoint is; the last one of a proxy is the proxy."""
        checkpoints = self.experiment.proxies.checkpoints
        proxy, checkpoint = divmod(number, checkpoints)
        folder = self.models / "proxies" / str(proxy)
        return folder if checkpoint == checkpoints - 1 else folder / CHECKPOINTS / str(checkpoint)

    @cached_property
    def checkpoint_weights(self) -> np.ndarray:
        """What each checkpoint counts for, in order; all together 1.

        Each proxy counts the same, and its checkpoints by the learning rates that led to them.
        """
        proxies = self.experiment.proxies
        if proxies.checkpoints == 1:
            return np.full(proxies.count, 1 / proxies.count)
        files = [self.models / "proxies" / str(i) / RATES for i in range(proxies.count)]
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
    def compare(self) -> "CompareConfig":
        """The comparison's settings; only asked for where there is one."""
        assert self.experiment.compare is not None
        return self.experiment.compare

    @property
    def compare_folder(self) -> Path:
        """Holds the comparison's models."""
        return compare_folder(self.shared, self.compare)


@lru_cache(maxsize=8)
def open_run(
    experiment: bytes, shared: Path, packed: tuple[Path, ...], models: Path, reads_pool: bool
) -> Run:
    """The run that `Run.__reduce__` described; the same object each time in one process."""
    import_plugins(tuple(msgspec.json.decode(experiment)["plugins"]))
    decoded = msgspec.json.decode(experiment, type=experiment_type())
    return Run(decoded, shared, packed, models, reads_pool)


def run_of(experiment: Experiment, *, reads_pool: bool = True) -> Run:
    """The run of an experiment."""
    folder = experiment.folder
    return Run(experiment, folder, (folder,), folder, reads_pool)


def compare_folder(run_folder: Path, compare: "CompareConfig") -> Path:
    """Folder of a comparison's models within a run."""
    return run_folder / "comparisons" / compare.name if compare.name else run_folder


def evaluation_folder(comparison: Path, kind: str, model: str) -> Path:
    """Where it is written what a model lost on one kind of examples, or got right."""
    return comparison / "evaluations" / kind / model
