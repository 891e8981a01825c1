"""Training with freed memory kept and given back: tokens a CPU second, page faults, memory.

    python experiments/bench_allocator.py [--repeats 5] [--vocab 4096]

The two alternate, each in processes of its own, since what is said to malloc can't be taken back.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from bench_scoring import RandomRows
from record import ratio_figure, write_figures

from dsdm.lm.config import ModelConfig, TrainConfig
from dsdm.lm.memory import MALLOC_SETTINGS, keep_freed_memory
from dsdm.lm.model import CPU, load_model
from dsdm.lm.train import Trainer

WARM_UP = 3
FIELDS = {
    "model_type": "gpt2",
    "n_embd": 128,
    "n_layer": 4,
    "n_head": 4,
    "activation_function": "gelu_pytorch_tanh",
    "tie_word_embeddings": False,
}


def main() -> None:
    """Measures and writes `speed.cpu.kept_memory_*`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--child", choices=["kept", "given_back"], help="measure one, print it")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(options.child == "kept", options.vocab)))
        return
    kept, given_back = [], []
    for _ in range(options.repeats):
        kept.append(_child("kept", options.vocab))
        given_back.append(_child("given_back", options.vocab))
    rows = [
        ratio_figure(
            f"speed.cpu.kept_memory_{name}",
            np.array([found[name] for found in kept]),
            np.array([found[name] for found in given_back]),
        )
        for name in kept[0]
    ]
    write_figures("allocator", rows)


def measured(is_kept: bool, vocab: int, num_rows: int = 16, steps: int = 8) -> dict[str, float]:
    """Of steps that each train on all the rows, in this process."""
    if is_kept:
        keep_freed_memory()
    rows = RandomRows(num_rows)
    fields = FIELDS | {"n_positions": int(rows.lengths[0])}
    model = load_model(ModelConfig(config=fields), vocab_size=vocab, eos=0, seed=0, device=CPU)
    model.train()
    order = np.tile(np.arange(num_rows), WARM_UP + steps)
    trainer = Trainer(model, rows, order, TrainConfig(batch_rows=num_rows))
    for _ in range(WARM_UP):
        trainer.take_step()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    start, tokens = time.process_time(), 0
    for _ in range(steps):
        tokens += trainer.take_step()
    seconds = time.process_time() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "tokens_per_cpu_second": tokens / seconds,
        "faults": float(usage.ru_minflt - faults),
        "peak": float(usage.ru_maxrss),
    }


def _child(which: str, vocab: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__)), "--vocab", str(vocab), "--child", which]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(MALLOC_SETTINGS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
