"""A whole experiment of a few seconds, and the command line as a user sees it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from dsdm.cli import main
from tests.data.pools import WORDS, texts, write_jsonl

MODEL = {"model_type": "gpt2", "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}

Outcome = tuple[int, str, str]
"""Exit code, standard output and standard error."""
Dsdm = Callable[..., Outcome]


def write_experiment(folder: Path, **changes: Any) -> Path:
    """A YAML file for the pool and target of `write_data` in `folder`; sections are merged."""
    settings: dict[str, Any] = {
        "run": str(folder / "run"),
        "pool": {"files": [str(folder / "pool")]},
        "targets": [{"name": "words", "file": str(folder / "target.jsonl")}],
        "model": {"config": MODEL},
        "selection": {"fraction": 0.2},
        "tokenizer": {"vocab_size": 300},
        "examples": {"row_tokens": 32},
        "proxies": {"count": 1, "epochs": 2.0, "train": {"batch_tokens": 128, "lr": 1e-2}},
        "directions": {"ekfac": {"curvature_rows": 32}},
        "scores": {"calibration_rows": 16, "precision": "float32"},
    }
    for name, change in changes.items():
        old = settings.get(name)
        settings[name] = old | change if isinstance(old, dict) and change else change
    path = folder / "tiny.yaml"
    path.write_bytes(msgspec.yaml.encode(settings))
    return path


def write_data(folder: Path) -> None:
    """A pool of two files and a target."""
    (folder / "pool").mkdir()
    add_pool_file(folder, "a", seed=0)
    add_pool_file(folder, "b", seed=1)
    write_jsonl(folder / "target.jsonl", target_records(20))


def add_pool_file(folder: Path, name: str, seed: int) -> Path:
    """Another file of 40 documents in the pool."""
    records = [{"id": f"{name}{i}", "text": t} for i, t in enumerate(texts(40, seed))]
    return write_jsonl(folder / "pool" / f"{name}.jsonl", records)


def target_records(count: int) -> list[dict[str, str]]:
    """Questions with an answer of one word."""
    words = np.random.default_rng(0).choice(WORDS, (count, 2))
    return [
        {"context": f"{i}. After {a} comes", "continuation": str(b)}
        for i, (a, b) in enumerate(words)
    ]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder with data and an experiment on it."""
    write_data(tmp_path)
    return write_experiment(tmp_path)


@pytest.fixture
def dsdm(capsys: pytest.CaptureFixture[str]) -> Dsdm:
    """Runs the command line."""

    def run(*arguments: object) -> Outcome:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run
