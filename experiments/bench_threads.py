"""Training and scoring with the default number of threads, over the best number.

    python experiments/bench_threads.py [--repeats 7] [--rows 64] [--width 128]

A process for each number of threads, and one that chooses as a new run does, train and score the
same model in turns: first with nothing beside them, then beside two processes that never wait. All
have the environment that `dsdm` sets; the quiet default is compared with torch's own environment
too, in which threads spin while they wait. Start it on a quiet machine.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dsdm.threads import available_cpus, busy_cpus, default_threads, thread_environment

VOCAB = 4096
WORK = ("training", "scoring")
BUSY = (
    "while True: pass",
    "import numpy as np; a = np.ones((200, 200))\nwhile True: a @ a",
)
"""Programs that keep a CPU busy each."""


def main() -> None:
    """Measures and writes `threads.quiet_over_best` and `threads.busy_over_best`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--threads", type=int, help="works as a child with so many threads")
    options = parser.parse_args()
    if options.threads is not None:
        _work(options.threads, options.rows, options.width)
        return
    sizes = ["--rows", str(options.rows), "--width", str(options.width)]
    # Imported here because it loads torch, which a child loads by itself.
    from record import write_figures

    rows = []
    for when, programs in (("quiet", ()), ("busy", BUSY)):
        with _running(programs):
            rows += _compare(when, sizes, options.repeats)
    write_figures("threads", rows)


def _compare(when: str, sizes: list[str], repeats: int) -> list[dict[str, Any]]:
    """The default's tokens a second over those of the best number of threads."""
    from record import figure

    chosen = default_threads(busy_cpus())
    passive = thread_environment(available_cpus())
    numbers = range(1, available_cpus() + 1)
    rates: dict[str, dict[str, np.ndarray]] = {}
    with contextlib.ExitStack() as stack:
        start = [("default", chosen, passive)]
        start += [(f"{number}", number, passive) for number in numbers]
        if when == "quiet":
            start += [(f"{number} spinning", number, {}) for number in numbers]
        children = {
            name: stack.enter_context(_child(number, sizes, environment))
            for name, number, environment in start
        }
        for work in WORK:
            for child in children.values():
                _tokens_per_second(child, work)
            found = [
                [_tokens_per_second(c, work) for c in children.values()] for _ in range(repeats)
            ]
            rates[work] = dict(zip(children, np.transpose(found), strict=True))
    figures = []
    for rival, ending in (("best", ""), ("spinning", " spinning")):
        names = [name for number in numbers if (name := f"{number}{ending}") in children]
        if not names:
            continue
        ratios = {}
        for work in WORK:
            best = max(names, key=lambda name: float(np.median(rates[work][name])))
            ratios[work] = rates[work]["default"] / rates[work][best]
        worst = min(WORK, key=lambda work: float(np.median(ratios[work])))
        low, value, high = np.quantile(ratios[worst], [0.25, 0.5, 0.75])
        unit = f"of the tokens a second of {rival}, {worst}, {chosen} threads chosen, quartiles"
        name = f"threads.{when}_over_{rival}"
        figures.append(figure(name, float(value), unit, float(low), float(high)))
    for work in WORK:
        medians = {name: round(float(np.median(found))) for name, found in rates[work].items()}
        print(f"{when} {work}: {medians} tokens a second")
    return figures


@contextlib.contextmanager
def _running(programs: tuple[str, ...]) -> Iterator[None]:
    """Runs Python programs beside the block, each with one thread."""
    environment = os.environ | thread_environment(1)
    running = [subprocess.Popen([sys.executable, "-c", text], env=environment) for text in programs]
    try:
        time.sleep(1.0 if running else 0.0)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _child(
    threads: int, sizes: list[str], environment: dict[str, str]
) -> Iterator["subprocess.Popen[str]"]:
    inherited = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    command = [sys.executable, __file__, *sizes, "--threads", str(threads)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=inherited | environment,
    ) as child:
        try:
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise SystemExit("a child did not start")
            yield child
        finally:
            child.kill()


def _tokens_per_second(child: "subprocess.Popen[str]", work: str) -> float:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{work}\n")
    child.stdin.flush()
    return float(child.stdout.readline())


def _work(threads: int, num_rows: int, width: int) -> None:
    """Trains or scores at each line of the input, and prints tokens a second."""
    import torch
    from bench_scoring import GPT2, ROW_TOKENS, RandomRows, random_direction

    from dsdm.datamodel.config import ScoresConfig
    from dsdm.datamodel.scoring import score_forward
    from dsdm.lm.config import ModelConfig, TrainConfig
    from dsdm.lm.model import load_model
    from dsdm.lm.train import train

    torch.set_num_threads(threads)
    config, device = ModelConfig(config=GPT2 | {"n_embd": width}), torch.device("cpu")
    model = load_model(config, vocab_size=VOCAB, eos=0, seed=0, device=device)
    rows, direction = RandomRows(num_rows), random_direction(model)
    train_config = TrainConfig(checkpoint_seconds=float("inf"), lr=1e-6)
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        if line.strip() == "training":
            with tempfile.TemporaryDirectory() as work:
                train(model, rows, np.arange(num_rows), train_config, work=Path(work))
        else:
            score_forward(model, direction, rows, "loglik", 1e-4, ScoresConfig())
        print(num_rows * ROW_TOKENS / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
