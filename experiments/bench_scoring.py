"""Forward scoring against two plain forward passes over the same rows, in interleaved repeats.

    python experiments/bench_scoring.py [--rows 512] [--repeats 9]

A plain forward pass is the model's own, from token ids to logits, without any loss, in the same
batches. Ratios are taken repeat by repeat, so a machine whose speed drifts does not bend them.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from record import ratio_figure, write_figures

from dsdm.data.batches import Row, iter_batches
from dsdm.datamodel.direction import Direction
from dsdm.datamodel.scoring import exact_scores, score_backward, score_forward
from dsdm.learners.causal_lm import CausalLM
from dsdm.learners.lm_layers import linear_layers
from dsdm.lm.config import ModelConfig
from dsdm.lm.model import default_device, load_model
from dsdm.precision import autocast

VOCAB = 4096
ROW_TOKENS = 256
GPT2 = {
    "model_type": "gpt2",
    "n_positions": ROW_TOKENS,
    "n_embd": 128,
    "n_layer": 4,
    "n_head": 4,
    "activation_function": "gelu_pytorch_tanh",
    "tie_word_embeddings": False,
}


class RandomRows:
    """Rows of random tokens, all of one length."""

    def __init__(self, count: int) -> None:
        self.tokens = np.random.default_rng(0).integers(0, VOCAB, (count, ROW_TOKENS))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each row."""
        return np.full(len(self.tokens), ROW_TOKENS)

    def row(self, index: int) -> Row:
        """The row at `index`."""
        return Row(self.tokens[index])


def main() -> None:
    """Measures and writes `scoring.*` figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    device = default_device()
    model = load_model(ModelConfig(config=GPT2), vocab_size=VOCAB, eos=0, seed=0, device=device)
    learner = CausalLM(model, "margin", precision="auto")
    rows = RandomRows(options.rows)
    direction = random_direction(model)
    step = 0.02 / exact_scores(learner, direction, RandomRows(32)).std()

    def plain() -> None:
        with torch.inference_mode(), autocast(device, learner.precision):
            for _, batch in iter_batches(rows, learner.batch_tokens, device):
                model(input_ids=batch.inputs, use_cache=False).logits[0, 0, 0].item()

    def forward() -> None:
        score_forward(learner, direction, rows, step)

    def backward() -> None:
        score_backward(learner, [direction], rows)

    seconds = interleaved([plain, forward, backward], options.repeats)
    write_figures(
        "scoring",
        [
            ratio_figure("scoring.forward_over_two_forwards", seconds[1], 2 * seconds[0]),
            ratio_figure("scoring.backward_over_two_forwards", seconds[2], 2 * seconds[0]),
        ],
    )


def random_direction(model: torch.nn.Module) -> Direction:
    """A direction that moves the linear layers, drawn anew with the same seed."""
    torch.manual_seed(0)
    named = dict(model.named_parameters())
    names = [name for layer in linear_layers(model) for name in layer.parameter_names]
    return Direction({n: torch.randn_like(named[n]) for n in names}, "random", "mix", "bench")


def interleaved(functions: list[Callable[[], None]], repeats: int) -> np.ndarray:
    """Seconds of each function in each repeat, after one warm-up: shape (functions, repeats)."""
    seconds = np.zeros((len(functions), repeats + 1))
    for repeat in range(repeats + 1):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            seconds[i, repeat] = time.perf_counter() - start
    return seconds[:, 1:]


if __name__ == "__main__":
    main()
