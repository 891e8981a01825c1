"""Training and scoring in tokens a second, and as shares of the machine's matrix-multiply rate.

    python experiments/bench_training.py [--repeats 7] [--width 256] [--layers 6]

The rate is measured in the same turns, on square products of a side that the caches like. FLOPs are
counted as `dsdm.lm.model.flops_per_token` does: a training step is three forward passes, forward
scoring two.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_scoring import RandomRows, interleaved, random_direction
from record import figure, write_figures

from dsdm.datamodel.scoring import FORWARD_PASSES, score_forward
from dsdm.learners.causal_lm import CausalLM
from dsdm.lm.config import ModelConfig, TrainConfig
from dsdm.lm.model import default_device, flops_per_token, load_model
from dsdm.lm.train import train
from dsdm.precision import Precision

VOCAB = 4096
TRAINING_PASSES = 3
PRECISIONS: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHORT = {"float32": "fp32", "bfloat16": "bf16"}


def main() -> None:
    """Measures and writes `speed.DEVICE.training_*` and `speed.DEVICE.forward_share_*`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--side", type=int, default=2048)
    options = parser.parse_args()
    rows = bench(options.width, options.layers, options.rows, options.side, options.repeats)
    write_figures("training", rows)


def bench(width: int, layers: int, num_rows: int, side: int, repeats: int) -> list[dict[str, Any]]:
    """The figures at one size of model, in both precisions and in the faster of the two."""
    rows = RandomRows(num_rows)
    row_tokens = int(rows.lengths[0])
    fields = {
        "model_type": "gpt2",
        "n_positions": row_tokens,
        "n_embd": width,
        "n_layer": layers,
        "n_head": 4,
        "activation_function": "gelu_pytorch_tanh",
        "tie_word_embeddings": False,
    }
    device = default_device()
    model = load_model(ModelConfig(config=fields), vocab_size=VOCAB, eos=0, seed=0, device=device)
    tokens = num_rows * row_tokens
    forward_flops = tokens * flops_per_token(model, row_tokens)
    work = {
        "matmul": 2.0 * side**3,
        "training": TRAINING_PASSES * forward_flops,
        "forward": FORWARD_PASSES * forward_flops,
    }
    functions = {
        (name, precision): function
        for precision in PRECISIONS
        for name, function in _functions(model, rows, side, precision).items()
    }
    seconds = dict(zip(functions, interleaved(list(functions.values()), repeats), strict=True))
    rates = {key: work[key[0]] / seconds[key] for key in functions}
    kind = "cuda" if device.type == "cuda" else "cpu"
    found = []
    best = max(PRECISIONS, key=lambda p: float(np.median(rates["matmul", p])))
    for precision in PRECISIONS:
        label = SHORT[precision]
        peak = rates["matmul", precision]
        found.append(_spread(f"speed.{kind}.matmul_gflops.{label}", peak / 1e9, "GFLOP a second"))
        speeds = tokens / seconds["training", precision]
        name = f"speed.{kind}.training_tokens_per_second.{label}"
        found.append(_spread(name, speeds, "tokens a second"))
        for work_name in ("training", "forward"):
            shares = rates[work_name, precision] / peak
            name = f"speed.{kind}.{work_name}_share_of_matmul"
            unit = f"share of the {label} matrix-multiply rate"
            found.append(_spread(f"{name}.{label}", shares, unit))
            if precision == best:
                found.append(_spread(name, shares, unit))
    return found


def _functions(
    model: torch.nn.Module, rows: RandomRows, side: int, precision: Precision
) -> dict[str, Callable[[], object]]:
    """A matrix product, a training over all rows, and forward scores of all rows."""
    device = next(model.parameters()).device
    matrix = torch.randn(side, side, device=device, dtype=PRECISIONS[precision])
    train_config = TrainConfig(precision=precision, checkpoint_seconds=float("inf"), lr=1e-6)
    learner = CausalLM(model, precision=precision)
    direction = random_direction(model)

    def multiply() -> None:
        (matrix @ matrix)[0, 0].item()

    def training() -> None:
        with tempfile.TemporaryDirectory() as work:
            order = np.arange(len(rows.lengths))
            train(model, rows, order, train_config, work=Path(work))

    def forward() -> None:
        score_forward(learner, direction, rows, 1e-4)

    return {"matmul": multiply, "training": training, "forward": forward}


def _spread(name: str, values: np.ndarray, unit: str) -> dict[str, Any]:
    low, high = np.quantile(values, [0.25, 0.75])
    return figure(name, float(np.median(values)), f"{unit}, quartiles", float(low), float(high))


if __name__ == "__main__":
    main()
