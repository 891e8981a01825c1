"""A small world of made-up languages: pools and targets of which it is known what helps."""

import json
from pathlib import Path

import numpy as np

from dsdm.config import parse_config
from dsdm.experiment import Experiment

NUM_LANGUAGES = 10
PLANTED = 3
"""The language that the target is written in."""
WORDS_EACH = 12


def word_list(language: int) -> list[str]:
    rng = np.random.default_rng(1000)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, 4)) for _ in range(40)]
    # Languages share words: what tells them apart is which word follows which.
    return list(np.random.default_rng(language).choice(words, WORDS_EACH, replace=False))


def write_text(language: int, num_words: int, rng: np.random.Generator) -> str:
    """A Markov chain in which each word has three successors."""
    words = word_list(language)
    chain = np.random.default_rng(500 + language)
    successors = chain.integers(0, WORDS_EACH, (WORDS_EACH, 3))
    at, text = rng.integers(WORDS_EACH), []
    for _ in range(num_words):
        text.append(words[at])
        at = successors[at, rng.integers(3)]
    return " ".join(text)


def write_world(
    folder: Path, num_documents: int, num_files: int = 1, num_targets: int = 100
) -> None:
    """`pool/*.jsonl`, whose sources name the languages, and `target.jsonl` in the planted one."""
    rng = np.random.default_rng(7)
    (folder / "pool").mkdir()
    languages = rng.permutation(np.arange(num_documents) % NUM_LANGUAGES)
    parts = np.array_split(np.arange(num_documents), num_files)
    for number, part in enumerate(parts):
        documents = [
            {
                "id": f"d{i}",
                "source": f"language{languages[i]}",
                "text": write_text(languages[i], int(rng.integers(25, 40)), rng),
            }
            for i in part
        ]
        write_lines(folder / "pool" / f"{number}.jsonl", documents)
    targets = [
        {"context": write_text(PLANTED, 10, rng), "continuation": write_text(PLANTED, 10, rng)}
        for _ in range(num_targets)
    ]
    write_lines(folder / "target.jsonl", targets)


def write_lines(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def toy_experiment(folder: Path, **fields: object) -> Experiment:
    """An experiment on the world in `folder`, small enough for seconds."""
    settings = {
        "run": str(folder / "run"),
        "pool": {"files": [str(folder / "pool")]},
        "targets": [{"name": "planted", "file": str(folder / "target.jsonl")}],
        "tokenizer": {"vocab_size": 320},
        "examples": {"row_tokens": 64},
        "model": {
            "config": {
                "model_type": "gpt2",
                "n_positions": 64,
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 2,
            }
        },
        "selection": {"fraction": 0.1},
        "device": "cpu",
    }
    return parse_config(settings | fields, Experiment, where="toy")
