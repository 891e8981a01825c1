"""Peak memory of forward scoring with adapters over plain inference, at 135M parameters.

    python experiments/finetune/memory.py [--rows 16] [--row-tokens 128]

A model of SmolLM2-135M's shape with random weights, for which memory is the same. Each is measured
in a process of its own, from when the model is loaded: the peak of anonymous memory, with the
weights, which are copied out of the mapped file first, and with all that is imported. Both read the
same rows in one batch, in the scores' precision.
"""

import argparse
import multiprocessing
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from peak_memory import PeakMemory
from record import figure, write_figures

SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
VOCAB = 49_152


def main() -> None:
    """Measures and writes `finetune.memory_over_inference`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--row-tokens", type=int, default=128)
    options = parser.parse_args()
    shape = (options.rows, options.row_tokens)
    with tempfile.TemporaryDirectory() as folder:
        in_a_process(make_model, Path(folder))
        peaks = [in_a_process(work, Path(folder), *shape) for work in (infer, score)]
    unit = f"ratio of peaks, inference {peaks[0] / 2**20:.0f} MiB at {shape[0]} x {shape[1]} tokens"
    write_figures(
        "finetune_memory", [figure("finetune.memory_over_inference", peaks[1] / peaks[0], unit)]
    )


def in_a_process(work, folder: Path, *shape: int) -> int:  # noqa: ANN001
    """Peak bytes that `work` writes down."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=work, args=(folder, *shape))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__} failed")
    peak = folder / "peak"
    return int(peak.read_text()) if peak.exists() else 0


def make_model(folder: Path) -> None:
    """Saves the base, and adapters beside it."""
    from dsdm.lm.config import LoraConfig, ModelConfig
    from dsdm.lm.model import load_model, save_model

    model = load_model(ModelConfig(config=SMOLLM2), vocab_size=VOCAB, eos=0, seed=0)
    save_model(model, folder / "base")
    config = ModelConfig(path=str(folder / "base"), lora=LoraConfig())
    (folder / "adapted").mkdir()
    save_model(load_model(config, vocab_size=VOCAB, eos=0, seed=0), folder / "adapted")


def infer(folder: Path, rows: int, row_tokens: int) -> None:
    """Losses of the rows, without adapters."""
    from dsdm.evaluation.losses import example_losses
    from dsdm.lm.model import load_saved

    model, batch = load_saved(folder / "base"), random_rows(rows, row_tokens)
    unmap(model)
    peak = PeakMemory()
    example_losses(model, batch, batch_tokens=rows * row_tokens)
    (folder / "peak").write_text(str(peak.stop()))


def score(folder: Path, rows: int, row_tokens: int) -> None:
    """Forward scores of the rows along a random direction of the adapters."""
    import torch

    from dsdm.datamodel.direction import Direction
    from dsdm.datamodel.scoring import score_forward
    from dsdm.learners.causal_lm import CausalLM
    from dsdm.learners.lm_layers import linear_layers
    from dsdm.lm.model import load_saved

    model = load_saved(folder / "adapted")
    unmap(model)
    named = dict(model.named_parameters())
    names = [name for layer in linear_layers(model) for name in layer.parameter_names]
    direction = Direction({n: torch.randn_like(named[n]) for n in names}, "ekfac", "mix", "")
    batch = random_rows(rows, row_tokens)
    peak = PeakMemory()
    learner = CausalLM(model, batch_tokens=rows * row_tokens, precision="auto")
    score_forward(learner, direction, batch, 1e-3)
    (folder / "peak").write_text(str(peak.stop()))


def unmap(model):  # noqa: ANN001, ANN201
    """Copies the weights out of the file that they are mapped from."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def random_rows(rows: int, row_tokens: int):  # noqa: ANN201
    """Rows of random tokens."""
    from dsdm.forecast.calibration import RandomRows

    return RandomRows(np.full(rows, row_tokens), VOCAB)


if __name__ == "__main__":
    main()
