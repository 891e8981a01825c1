"""Choosing a tenth of 217 million scored candidates: seconds, and peak resident memory.

    python experiments/bench_topk.py [--rows 217000000]

A scores file as `dsdm run` writes it, with provenance, is generated in a temporary folder. A
process of its own then selects by a budget in tokens and writes the chosen lines, as a run does.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

PAPER_ROWS = 217_000_000
ROW_TOKENS = 1024
FILE_ROWS = 356_000
GROUP = 1 << 16
METHOD = "ekfac"
PROVENANCE = ["candidate", "id", "source", "file", "file_row", "num_tokens"]


def main() -> None:
    """Measures and writes `topk.217m.seconds` and `topk.217m.gib`; other sizes are only printed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=PAPER_ROWS)
    parser.add_argument("--folder", type=Path, default=None, help="where the files are generated")
    options = parser.parse_args()
    result = _measure(options.rows, options.folder)
    print(json.dumps({"rows": options.rows} | result))
    if options.rows == PAPER_ROWS:
        # Imported here because it loads torch, which the measured process would load as well.
        from record import figure, write_figures

        unit = "seconds, choosing {choosing:.0f} and writing the chosen lines {writing:.0f}"
        seconds = figure("topk.217m.seconds", result["seconds"], unit.format(**result))
        gib = figure("topk.217m.gib", result["gib"], "GiB resident at the peak")
        write_figures("topk", [seconds, gib])


def _measure(rows: int, parent: Path | None) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        _generate(Path(folder) / "scores.parquet", rows)
        process = multiprocessing.get_context("spawn").Process(target=_select, args=(folder,))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"selecting from {rows} rows failed")
        result: dict[str, float] = json.loads((Path(folder) / "result.json").read_text())
        return result


def _generate(path: Path, rows: int) -> None:
    """Scores of rows, of which a twentieth is shorter than the others."""
    from dsdm.selection.score_files import storage

    rng = np.random.default_rng(0)
    schema = _lines(rng, 0, 1).schema
    with pq.ParquetWriter(path, schema, **storage(schema)) as writer:
        for start in range(0, rows, GROUP):
            writer.write_table(_lines(rng, start, rows))


def _lines(rng: np.random.Generator, start: int, rows: int) -> pa.Table:
    numbers = np.arange(start, min(start + GROUP, rows))
    first = int(numbers[0]) // FILE_ROWS
    of_group = [
        f"c4-train.{n:05d}-of-00609" for n in range(first, int(numbers[-1]) // FILE_ROWS + 1)
    ]
    files = pa.array(of_group).take(pa.array(numbers // FILE_ROWS - first))
    file_rows = pa.array(numbers % FILE_ROWS)
    lengths = np.where(rng.random(len(numbers)) < 0.05, rng.integers(2, 1024, len(numbers)), 1024)
    names = pc.binary_join_element_wise(files, file_rows.cast(pa.string()), "#")
    columns = [numbers, names, ["c4"] * len(numbers), files, file_rows, lengths]
    scores = rng.standard_normal(len(numbers), np.float32)
    return pa.table(dict(zip([*PROVENANCE, METHOD], [*columns, scores], strict=True)))


def _select(folder: str) -> None:
    """Selects as a run does, and writes down how long it took and how much memory."""
    from dsdm.selection import SelectionConfig, choose
    from dsdm.selection.score_files import load_scores, write_chosen

    path = Path(folder) / "scores.parquet"
    start, cpu = time.perf_counter(), time.process_time()
    scores = load_scores([path], METHOD, with_sources=False)
    is_chosen = choose(scores, SelectionConfig(fraction=0.1))
    middle = time.perf_counter()
    write_chosen([path], PROVENANCE, METHOD, is_chosen, Path(folder) / "selection.parquet")
    end = time.perf_counter()
    result = {
        "seconds": end - start,
        "choosing": middle - start,
        "writing": end - middle,
        "cpu_seconds": time.process_time() - cpu,
        "gib": _peak_bytes() / 2**30,
        "file_gib": path.stat().st_size / 2**30,
        "chosen": int(is_chosen.sum()),
    }
    (Path(folder) / "result.json").write_text(json.dumps(result))


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
