"""What every method of the benchmark is given: a trained model, candidates, targets, settings.

The text is the quickstart's. The model is trained on it for a little while, because gradients at
random weights say nothing of the text, and any two ways to compare them would agree or not by luck.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from peers.ours import TokenRows
from record import ROOT

from dsdm.data.tokenizer import Tokenizer, TokenizerConfig, make_tokenizer
from dsdm.lm.config import ModelConfig, TrainConfig
from dsdm.lm.model import load_model, save_model
from dsdm.lm.train import train

QUICKSTART = ROOT / "experiments" / "quickstart"


@dataclass(frozen=True)
class Size:
    """How large the benchmark is."""

    layers: int = 6
    width: int = 256
    vocab: int = 4096
    row_tokens: int = 256
    candidates: int = 128
    trak_candidates: int = 64
    """Of the candidates, for the methods that take a minute a batch."""
    targets: int = 32
    batch_rows: int = 32
    projection: int = 2048
    damping: float = 0.1
    train_rows: int = 4096
    threads: int = 1


def write_jobs(folder: Path, size: Size) -> dict[str, Path]:
    """Writes the model and two jobs, `all` and `trak`, which differ in their candidates."""
    tokenizer = make_tokenizer(TokenizerConfig(vocab_size=size.vocab), iter(_pool_texts()))
    pool = _rows(tokenizer, _pool_texts(), size.row_tokens)
    pool = pool[np.random.default_rng(0).permutation(len(pool))]
    targets = _rows(tokenizer, _target_texts(), size.row_tokens)[: size.targets]
    jobs = {"all": folder / "all", "trak": folder / "trak"}
    for name, count in {"all": size.candidates, "trak": size.trak_candidates}.items():
        jobs[name].mkdir()
        np.save(jobs[name] / "candidates.npy", pool[:count])
        np.save(jobs[name] / "targets.npy", targets)
        settings = {
            "batch_rows": size.batch_rows,
            "projection": size.projection,
            "damping": size.damping,
            "threads": size.threads,
        }
        (jobs[name] / "job.json").write_text(json.dumps(settings), encoding="utf-8")
    _write_model(folder / "model", pool, tokenizer, size)
    for job in jobs.values():
        (job / "model").symlink_to(folder / "model")
    return jobs


def _write_model(folder: Path, pool: np.ndarray, tokenizer: Tokenizer, size: Size) -> None:
    fields = {
        "model_type": "gpt2",
        "n_positions": size.row_tokens,
        "n_embd": size.width,
        "n_layer": size.layers,
        "n_head": 4,
        "activation_function": "gelu_pytorch_tanh",
        "tie_word_embeddings": False,
    }
    config = ModelConfig(config=fields)
    model = load_model(config, vocab_size=size.vocab, eos=tokenizer.eos, seed=0)
    with tempfile.TemporaryDirectory() as work:
        order = np.arange(size.train_rows) % len(pool)
        train(model, TokenRows(pool), order, TrainConfig(), work=Path(work))
    save_model(model, folder)


def _rows(tokenizer: Tokenizer, texts: list[str], row_tokens: int) -> np.ndarray:
    documents = [np.append(ids, tokenizer.eos) for ids in tokenizer.encode_batch(texts)]
    tokens = np.concatenate(documents).astype(np.int64)
    return tokens[: len(tokens) // row_tokens * row_tokens].reshape(-1, row_tokens)


def _pool_texts() -> list[str]:
    files = sorted((QUICKSTART / "pool").glob("*.parquet"))
    return [text for file in files for text in pq.read_table(file)["text"].to_pylist()]


def _target_texts() -> list[str]:
    lines = (QUICKSTART / "targets" / "squad.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [record["context"] + record["continuation"] for record in records]
