"""What a whole selection costs, over one training of the target model.

    python experiments/bench_selection.py [--proxies 1] [--proxy-tokens 2.5e9] [--score-share 0.24]

What each stage takes is measured on the pilot's proxy in passes: its time over that of a plain
forward pass over the same tokens, in interleaved repeats. A cost is then passes x tokens x FLOPs of
one token's forward pass in the model at hand, as `dsdm.lm.model.flops_per_token` counts them; the
target model's training is counted so too, at as many passes as the proxy's. So two sizes compare by
FLOPs and not by time: where a larger model uses a machine better, selecting is dearer than this.

- `pilot`: the pool and settings of experiments/pilot.yaml; a target model of 10 times the proxy's
  parameters on 20 tokens for each.
- `paper_sizes`: 217 million rows of 1,024 tokens, a proxy of 125M and a target model of 1.3B
  parameters on 26B tokens. The options are of this case. Choosing what to score where the share is
  below 1 (screening) is not counted.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_scoring import RandomRows, interleaved, random_direction
from record import ROOT, figure, write_figures
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from dsdm.data.batches import iter_batches
from dsdm.datamodel.calibrate import SHRINKS
from dsdm.datamodel.config import estimator_settings
from dsdm.datamodel.estimators import ESTIMATORS
from dsdm.datamodel.estimators.inputs import EstimatorInputs
from dsdm.datamodel.gradients import mean_gradient
from dsdm.datamodel.scoring import EXACT_PASSES, FORWARD_PASSES, score_forward
from dsdm.experiment import Experiment, load_experiment
from dsdm.learners.causal_lm import CausalLM
from dsdm.learners.lm_layers import moved_layers
from dsdm.lm.model import default_device, flops_per_token, load_model
from dsdm.lm.train import train
from dsdm.precision import autocast

PILOT = ROOT / "experiments" / "pilot.yaml"
PILOT_ROWS = 40_000
PAPER_ROWS, PAPER_ROW_TOKENS, PAPER_TARGET_TOKENS = 216_948_746, 1024, 26e9
PAPER_TARGETS = 26_000
"""Examples of the paper's SQuAD, Jeopardy and LAMBADA targets."""
PARTS = ("proxies", "curvature", "directions", "scoring")


@dataclass(frozen=True)
class Passes:
    """What is done to a token, in forward passes."""

    training: float
    gradient: float
    curvature: float
    scoring: float


@dataclass(frozen=True)
class Case:
    """A selection and the training that it serves."""

    proxies: int
    proxy_tokens: float
    """Each proxy's."""
    pool_tokens: float
    score_share: float
    """Of the pool's tokens that are scored exactly."""
    curvature_tokens: float
    target_tokens: float
    """In the targets' examples."""
    calibration_tokens: float
    proxy_flops: float
    """Of one token's forward pass."""
    training_flops: float
    """The same of the model that is trained in the end."""
    training_tokens: float


def main() -> None:
    """Measures and writes `selection.*` figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--proxies", type=int, default=1)
    parser.add_argument("--proxy-tokens", type=float, default=2.5e9)
    parser.add_argument("--score-share", type=float, default=0.24)
    options = parser.parse_args()
    experiment = load_experiment(PILOT)
    seconds = measure(experiment, options.rows, options.repeats)
    passes = Passes(**{name: float(np.median(found)) for name, found in seconds.items()})
    paper = paper_case(options.proxies, options.proxy_tokens, options.score_share, experiment)
    rows = [_spread(f"selection.passes.{name}", found) for name, found in seconds.items()]
    rows += case_figures("pilot", pilot_case(experiment), passes)
    rows += case_figures("paper_sizes", paper, passes)
    write_figures("selection", rows)


def case_figures(name: str, case: Case, passes: Passes) -> list[dict[str, Any]]:
    """The whole and its parts over the training, with what they were counted for."""
    shares = cost_shares(case, passes)
    whole = "selection.cost_over_target_training"
    if name != "pilot":
        whole += f"_{name}"
    unit = "share of one training, in FLOPs at measured passes"
    rows = [figure(whole, sum(shares.values()), unit)]
    rows += [figure(f"selection.{name}.{part}", share, unit) for part, share in shares.items()]
    settings = {
        "num_proxies": (case.proxies, "proxies"),
        "proxy_tokens": (case.proxy_tokens, "tokens, each proxy"),
        "pool_tokens": (case.pool_tokens, "tokens"),
        "score_share": (case.score_share, "share of the pool that is scored"),
        "training_tokens": (case.training_tokens, "tokens of the target training"),
    }
    return rows + [figure(f"selection.{name}.{n}", v, unit) for n, (v, unit) in settings.items()]


def cost_shares(case: Case, passes: Passes) -> dict[str, float]:
    """Each part's FLOPs over the training's."""
    steps = FORWARD_PASSES * len(SHRINKS)
    calibration = (2 * EXACT_PASSES + steps) * case.calibration_tokens
    tokens_passed = {
        "proxies": passes.training * case.proxy_tokens,
        "curvature": passes.curvature * case.curvature_tokens,
        "directions": passes.gradient * case.target_tokens + calibration,
        "scoring": passes.scoring * case.score_share * case.pool_tokens,
    }
    training = passes.training * case.training_tokens * case.training_flops
    return {
        part: case.proxies * tokens_passed[part] * case.proxy_flops / training for part in PARTS
    }


def pilot_case(experiment: Experiment) -> Case:
    """The pilot as its file describes it, for a target model of 10 times the proxy."""
    row_tokens = experiment.examples.row_tokens
    pool_tokens = float(PILOT_ROWS * row_tokens)
    model = _proxy(experiment)
    parameters = sum(p.numel() for p in model.parameters())
    flops = flops_per_token(model, row_tokens)
    return Case(
        proxies=experiment.proxies.count,
        proxy_tokens=experiment.proxies.fraction * experiment.proxies.epochs * pool_tokens,
        pool_tokens=pool_tokens,
        score_share=1.0,
        curvature_tokens=float(_curvature_rows(experiment) * row_tokens),
        target_tokens=float(sum(t.limit or 0 for t in experiment.targets) * row_tokens),
        calibration_tokens=float(experiment.scores.calibration_rows * row_tokens),
        proxy_flops=flops,
        training_flops=10 * flops,
        training_tokens=20 * 10 * float(parameters),
    )


def _curvature_rows(experiment: Experiment) -> int:
    return estimator_settings(experiment.directions, "ekfac").curvature_rows


def paper_case(
    proxies: int, proxy_tokens: float, score_share: float, experiment: Experiment
) -> Case:
    """The paper's pool and models; targets and samples no longer than its rows."""
    return Case(
        proxies=proxies,
        proxy_tokens=proxy_tokens,
        pool_tokens=float(PAPER_ROWS * PAPER_ROW_TOKENS),
        score_share=score_share,
        curvature_tokens=float(_curvature_rows(experiment) * PAPER_ROW_TOKENS),
        target_tokens=float(PAPER_TARGETS * PAPER_ROW_TOKENS),
        calibration_tokens=float(experiment.scores.calibration_rows * PAPER_ROW_TOKENS),
        proxy_flops=_gpt2_flops(width=768, layers=12),
        training_flops=_gpt2_flops(width=2048, layers=24),
        training_tokens=PAPER_TARGET_TOKENS,
    )


def measure(experiment: Experiment, num_rows: int, repeats: int) -> dict[str, np.ndarray]:
    """What each stage takes of a token, in plain forward passes, in each repeat."""
    model = _proxy(experiment)
    rows = RandomRows(num_rows)
    functions = _stages(model, rows, experiment)
    seconds = interleaved(list(functions.values()), repeats)
    return {name: seconds[i] / seconds[0] for i, name in enumerate(functions) if i}


def _stages(
    model: PreTrainedModel, rows: RandomRows, experiment: Experiment
) -> dict[str, Callable[[], object]]:
    """A plain forward pass over the rows first, then what the stages do to them."""
    scores, proxies = experiment.scores, experiment.proxies
    learner = CausalLM(model, experiment.directions.output)
    layers = moved_layers(model, embeddings=True)
    names = [name for layer in layers for name in layer.parameter_names]
    inputs = EstimatorInputs(learner, {"mix": RandomRows(1)}, rows)
    scorer = CausalLM(model, experiment.directions.output, 0.0, scores.batch_tokens, "auto")
    direction = random_direction(model)

    def plain() -> None:
        with torch.inference_mode(), autocast(model.device, scores.precision):
            for _, batch in iter_batches(rows, scores.batch_tokens, model.device):
                model(input_ids=batch.inputs, use_cache=False).logits[0, 0, 0].item()

    def training() -> None:
        with tempfile.TemporaryDirectory() as work:
            train(model, rows, np.arange(len(rows.lengths)), proxies.train, work=Path(work))

    def gradient() -> None:
        mean_gradient(learner, rows, names)

    def curvature() -> None:
        ESTIMATORS["ekfac"].estimate(inputs, ESTIMATORS["ekfac"].settings())

    def scoring() -> None:
        score_forward(scorer, direction, rows, 1e-4)

    stages = {"plain": plain, "gradient": gradient, "curvature": curvature, "scoring": scoring}
    return {**stages, "training": training}


def _proxy(experiment: Experiment) -> PreTrainedModel:
    vocab_size = experiment.tokenizer.vocab_size
    device = default_device()
    return load_model(experiment.model, vocab_size=vocab_size, eos=0, seed=0, device=device)


def _gpt2_flops(width: int, layers: int) -> float:
    config = GPT2Config(
        n_embd=width, n_layer=layers, n_head=width // 64, n_positions=PAPER_ROW_TOKENS
    )
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    return flops_per_token(model, PAPER_ROW_TOKENS)


def _spread(name: str, values: np.ndarray) -> dict[str, Any]:
    low, high = np.quantile(values, [0.25, 0.75])
    unit = "forward passes over the same tokens, quartiles"
    return figure(name, float(np.median(values)), unit, float(low), float(high))


if __name__ == "__main__":
    main()
