"""Peak memory of scoring 1,000,000 rows over that of 100,000, mapped file pages not counted.

    python experiments/bench_memory.py [--rows 100000 1000000]

Each size is packed from a generated pool in one shard (rows of 16 tokens) and scored by a model of
some 10,000 parameters in a process of its own, which reports the peak of its anonymous memory.
"""

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
from peak_memory import PeakMemory
from record import figure, write_figures

ROW_TOKENS = 16
VOCAB = 256
TINY = {"model_type": "gpt2", "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 1}


def main() -> None:
    """Measures and writes `scoring.peak_memory_1m_over_100k`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs=2, default=[100_000, 1_000_000])
    options = parser.parse_args()
    small, large = (_measure(rows) for rows in options.rows)
    print(json.dumps({"mib": [small / 2**20, large / 2**20], "rows": options.rows}))
    unit = f"ratio of peaks, {small / 2**20:.0f} MiB at {options.rows[0]:,} rows"
    write_figures("memory", [figure("scoring.peak_memory_1m_over_100k", large / small, unit)])


def _measure(rows: int) -> int:
    """Peak anonymous bytes of a process that scores so many rows."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        for work in (_prepare, _score):
            process = context.Process(target=work, args=(Path(folder), rows))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{work.__name__} failed for {rows} rows")
        return int((Path(folder) / "peak").read_text())


def _prepare(folder: Path, rows: int) -> None:
    """A finished shard of `rows` rows, a proxy, and its directions."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from dsdm.artifacts import writing
    from dsdm.data.packing import DOCUMENTS
    from dsdm.data.rows import ROW
    from dsdm.datamodel.calibration import Calibration, ForwardStep
    from dsdm.datamodel.direction import Direction
    from dsdm.datamodel.estimate import Estimated, save_estimated
    from dsdm.learners.lm_layers import linear_layers
    from dsdm.lm.config import ModelConfig
    from dsdm.lm.model import load_model, save_model

    rng = np.random.default_rng(0)
    with writing(folder / "examples", config={}, inputs={}) as draft:
        np.save(
            draft.path / "tokens.npy", rng.integers(0, VOCAB, rows * ROW_TOKENS).astype(np.uint16)
        )
        table = np.zeros(rows, ROW)
        table["start"] = np.arange(rows) * ROW_TOKENS
        table["length"] = ROW_TOKENS
        table["document"] = np.arange(rows)
        np.save(draft.path / "rows.npy", table)
        with pq.ParquetWriter(draft.path / "documents.parquet", DOCUMENTS) as writer:
            for start in range(0, rows, 65_536):
                numbers = np.arange(start, min(start + 65_536, rows))
                columns = {
                    "id": [f"document-{n}" for n in numbers],
                    "source": ["generated"] * len(numbers),
                    "file": ["generated"] * len(numbers),
                    "file_row": numbers,
                    "num_tokens": np.full(len(numbers), ROW_TOKENS),
                    "start": numbers * ROW_TOKENS,
                }
                writer.write_table(
                    pa.table({n: columns[n] for n in DOCUMENTS.names}).cast(DOCUMENTS)
                )
    model = load_model(ModelConfig(config=TINY), vocab_size=VOCAB, eos=0, seed=0)
    save_model(model, folder / "proxy")
    torch.manual_seed(0)
    named = dict(model.named_parameters())
    names = [n for layer in linear_layers(model) for n in layer.parameter_names]
    direction = Direction({n: torch.randn_like(named[n]) for n in names}, "ekfac", "mix", "p")
    directions = folder / "directions" / "ekfac" / "0"
    directions.mkdir(parents=True)
    calibration = Calibration(1.0, {}, {"mix": ForwardStep(0.01, 1.0, "auto")})
    save_estimated(Estimated({"mix": direction}, calibration, np.zeros(0, int), {}), directions)


def _score(folder: Path, rows: int) -> None:
    """Scores the shard as a run does, and writes down the peak of anonymous memory."""
    from dsdm.data.examples import load_examples
    from dsdm.datamodel.columns import ScoreColumn
    from dsdm.datamodel.config import ScoresConfig
    from dsdm.datamodel.estimate import Estimated, load_estimated
    from dsdm.datamodel.score import score_examples
    from dsdm.learners.causal_lm import CausalLM
    from dsdm.lm.model import load_saved
    from dsdm.stages.scores_table import write_scores

    peak = PeakMemory()
    examples = load_examples([folder / "examples"], "document")
    (shard,) = examples.shards

    def checkpoint() -> tuple[CausalLM, dict[str, Estimated]]:
        learner = CausalLM(load_saved(folder / "proxy"), "margin", precision="auto")
        return learner, {"ekfac": load_estimated(folder / "directions" / "ekfac" / "0", ["mix"])}

    def allocate(column: ScoreColumn, count: int) -> np.ndarray:
        return np.lib.format.open_memmap(folder / "column.npy", "w+", np.float32, (count,))

    weights = {"target": 1.0}
    columns, _ = score_examples(shard, [checkpoint], weights, ScoresConfig(), allocate=allocate)
    write_scores(examples, shard, columns, folder / "scores.parquet", {"ekfac": None})
    (folder / "peak").write_text(str(peak.stop()))


if __name__ == "__main__":
    main()
