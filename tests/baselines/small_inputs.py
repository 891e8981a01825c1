"""Inputs small enough to answer by hand."""

import sys
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
from transformers import PreTrainedModel

from dsdm.baselines.inputs import BaselineInputs
from tests.conftest import ListRows


def inputs_of(
    texts: Sequence[str] = (),
    targets: Mapping[str, Sequence[str]] | None = None,
    weights: Mapping[str, float] | None = None,
    *,
    rows: ListRows | None = None,
    candidate_of_row: Sequence[int] | None = None,
    models: Sequence[PreTrainedModel] = (),
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
    count_flops: Callable[[float], None] = lambda flops: None,
    target_rows: Mapping[str, ListRows] | None = None,
) -> BaselineInputs:
    """Of texts, of rows, or of both. Without `candidate_of_row`, a row is a candidate."""
    targets = targets or {}
    rows = rows or ListRows([])
    owner = np.array(range(len(rows.rows)) if candidate_of_row is None else candidate_of_row)
    count = len(texts) or int(owner.max(initial=-1)) + 1
    num_tokens = np.bincount(owner.astype(np.int64), rows.lengths, count) if len(owner) else None
    return BaselineInputs(
        texts=lambda: iter(texts),
        targets=targets,
        weights=weights or dict.fromkeys(targets, 1.0),
        num_tokens=np.full(count, 7) if num_tokens is None else num_tokens.astype(np.int64),
        sources=np.zeros(count, np.int32),
        source_names=("web",),
        rows=rows,
        candidate_of_row=owner.astype(np.int64),
        proxies=[lambda model=model: model for model in models],
        seed=seed,
        fingerprint="abcd",
        advance=advance,
        count_flops=count_flops,
        target_rows=target_rows or {},
    )


def read_numbers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Makes `embedding: numbers` read a text as the numbers in it.

    The list gets the arguments of every model that is made.
    """
    made: list[dict[str, object]] = []

    class SentenceTransformer:
        def __init__(self, name: str, **arguments: object) -> None:
            made.append({"name": name} | arguments)

        def encode(self, texts: list[str], show_progress_bar: bool) -> np.ndarray:
            assert not show_progress_bar
            return np.array([text.split() for text in texts], np.float32)

    module = types.ModuleType("sentence_transformers")
    module.__spec__ = ModuleSpec("sentence_transformers", None)
    module.SentenceTransformer = SentenceTransformer
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    return made


def as_texts(vectors: np.ndarray) -> list[str]:
    """Texts that `read_numbers` reads as `vectors`."""
    return [" ".join(map(repr, vector)) for vector in np.asarray(vectors, float).tolist()]
