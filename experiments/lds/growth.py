"""How derivatives grow where a proxy's training is followed backwards: why `tail` is below 1.

    python experiments/lds/growth.py [--setup SETUP.yaml]

The norm of the derivative of each target's output in the gradient of every 20th step, and the
longest share of the steps, from the last back, over which it grows less than a hundredfold:
`growth.*` figures.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from record import figure, write_figures

from dsdm.datamodel.estimators.metagradient import trained_gradients
from dsdm.experiment import load_experiment
from dsdm.pipeline import Run, run_experiment
from dsdm.pipeline.model_stages import replay_of, target_rows

EVERY = 20
GROWN = 100.0


def main() -> None:
    """Makes the proxies that are missing, and follows the first one's whole training."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--setup", type=Path, default=Path(__file__).with_name("scratch.yaml"))
    setup = parser.parse_args().setup
    run_experiment(load_experiment(setup), until="proxies")
    whole = [("directions.tail", "1"), ("directions.output", "loglik")]
    run = Run(load_experiment(setup, whole))
    replay, config = replay_of(run, 0), run.experiment.directions
    targets = target_rows(run, "fit")
    gradients = trained_gradients(replay.train(), targets, config)
    norms: dict[int, list[float]] = {}
    for influence in replay.influences(gradients):
        norms[influence.step] = [
            float(torch.stack([tensor.norm() for tensor in tensors.values()]).norm())
            for tensors in influence.derivatives
        ]
        print(influence.step, *(f"{norm:.3g}" for norm in norms[influence.step]), file=sys.stderr)
    rows = []
    for number, target in enumerate(targets):
        # The last steps' learning rate is the lowest; growth is over the smallest norm.
        least = min(values[number] for values in norms.values())
        grown = [step for step, values in norms.items() if values[number] > GROWN * least]
        share = 1 - (max(grown, default=-1) + 1) / replay.num_steps
        prefix = f"growth.{setup.stem}.{target}"
        rows.append(figure(f"{prefix}.tail", share, f"of {replay.num_steps} steps"))
        for step in range(0, replay.num_steps, EVERY):
            unit = "norm of the derivative in a step's gradient"
            rows.append(figure(f"{prefix}.step{step}", norms[step][number], unit))
    write_figures(f"growth_{setup.stem}", rows)


if __name__ == "__main__":
    main()
