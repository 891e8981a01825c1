"""How fast a pool is packed, against the tokenizer alone.

    python experiments/bench_pack.py [--only linear|workers|bare] [--repeats 5] [--files 2000]
                                     [--megabytes 1000] [--bare-megabytes 40]

- `pack.seconds_2000_over_500_files`: packing and merging the duplicates of small files.
- `pack.two_workers_over_two_bare`: what two workers gain over one at packing one file in pieces,
  over what two processes gain over one that do nothing but `tokenizers.encode_batch`.
- `pack.over_bare_tokenizer`: tokens a second of packing over those of `encode_batch` on the same
  texts, both pinned to one core.

Whatever is compared alternates within a repeat. Texts are drawn from the pool of the quickstart.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from record import ROOT, add_figures, ratio_figure

from dsdm.data.documents import Piece, PoolConfig, list_pieces, list_pool_files
from dsdm.data.duplicates import find_duplicates
from dsdm.data.packing import pack
from dsdm.data.rows import ExamplesConfig
from dsdm.data.tokenizer import Tokenizer, TokenizerConfig, load_tokenizer, make_tokenizer

POOL = ROOT / "experiments" / "quickstart" / "pool"
BATCH = 1024
"""Texts that the bare tokenizer is given at a time, as packing does."""


def main() -> None:
    """Measures and writes `pack.*`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--bare-megabytes", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["linear", "workers", "bare"])
    options = parser.parse_args()
    texts = pq.read_table(POOL, columns=["text"])["text"].to_pylist()
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tokenizer(TokenizerConfig(), iter(texts)).save(folder / "tokenizer")
        if options.only in (None, "linear"):
            many, few = _linear(folder, options.files, options.repeats)
            found.append(ratio_figure("pack.seconds_2000_over_500_files", many, few))
        if options.only in (None, "workers"):
            ours, bare = _workers(folder, texts, options.megabytes, options.repeats)
            found.append(ratio_figure("pack.two_workers_over_two_bare", ours, bare))
        if options.only in (None, "bare"):
            ours, bare = _bare(folder, texts, options.bare_megabytes, options.repeats)
            found.append(ratio_figure("pack.over_bare_tokenizer", ours, bare))
    add_figures("pack", found)


def _linear(folder: Path, num_files: int, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds for all files, and for a quarter of them."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    seconds: dict[int, list[float]] = {num_files: [], num_files // 4: []}
    pools = {}
    for count in seconds:
        pool = folder / f"{count} files"
        pool.mkdir()
        for number in range(count):
            # Every third document is also in the file before.
            lines = [{"text": f"document {number - (i == 0)}.{i + 2 * (i == 0)}"} for i in range(3)]
            content = "".join(json.dumps(line) + "\n" for line in lines)
            (pool / f"{number:05d}.jsonl").write_text(content)
        pools[count] = PoolConfig(files=[str(pool)])
    for _ in range(repeats):
        for count, config in pools.items():
            out = folder / "packed"
            start = time.perf_counter()
            shards = []
            for number, piece in enumerate(list_pieces(list_pool_files(config), config)):
                shards.append(out / f"{number:05d}")
                shards[-1].mkdir(parents=True)
                pack(piece, config, ExamplesConfig(), tokenizer, shards[-1])
            (out / "duplicates").mkdir()
            find_duplicates(shards, "document", 0.0, out / "duplicates")
            seconds[count].append(time.perf_counter() - start)
            shutil.rmtree(out)
    many, few = seconds.values()
    return np.array(many), np.array(few)


def _workers(
    folder: Path, texts: Sequence[str], megabytes: int, repeats: int
) -> tuple[np.ndarray, np.ndarray]:
    """What two processes gain over one at packing, and at tokenizing alone."""
    config = PoolConfig(files=[str(_write_pool(folder / "large.jsonl", texts, megabytes))])
    pieces = list_pieces(list_pool_files(config), config)
    some = _as_many(texts, megabytes * 1_000_000 // 20)
    gains: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        ours = [
            _together([pieces], folder, config, _pack_pieces),
            _together([pieces[0::2], pieces[1::2]], folder, config, _pack_pieces),
        ]
        gains[0].append(ours[0] / ours[1])
        # Each of the two does all of the work that one did.
        bare = [_together([some] * count, folder, config, _encode_only) / count for count in (1, 2)]
        gains[1].append(bare[0] / bare[1])
    return np.array(gains[0]), np.array(gains[1])


def _bare(
    folder: Path, texts: Sequence[str], megabytes: int, repeats: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens a second of packing and of the tokenizer alone, on one core."""
    path = _write_pool(folder / "small.jsonl", texts, megabytes)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, _pin) as pool:
        rates = pool.apply(_rates, (folder, path, repeats))
    return np.array(rates[0]), np.array(rates[1])


def _pin() -> None:
    # Before the tokenizer makes its threads, one for each core that it may use.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _rates(folder: Path, path: Path, repeats: int) -> tuple[list[float], list[float]]:
    tokenizer = load_tokenizer(folder / "tokenizer")
    config = PoolConfig(files=[str(path)])
    pieces = list_pieces(list_pool_files(config), config)
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        start = time.perf_counter()
        num_tokens = _pack_pieces(pieces, folder, config, tokenizer)
        rates[0].append(num_tokens / (time.perf_counter() - start))
        start = time.perf_counter()
        num_tokens = _encode_only(texts, folder, config, tokenizer)
        rates[1].append(num_tokens / (time.perf_counter() - start))
    return rates


def _together(
    shares: Sequence[Sequence[Piece] | Sequence[str]],
    folder: Path,
    config: PoolConfig,
    work: Callable[..., int],
) -> float:
    """Seconds until processes beside each other have done their shares, once all have begun."""
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(len(shares) + 1)
    processes = [
        context.Process(target=_process, args=(begin, share, folder, config, work))
        for share in shares
    ]
    for process in processes:
        process.start()
    begin.wait()
    start = time.perf_counter()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return time.perf_counter() - start


def _process(
    begin: object,
    share: Sequence[Piece] | Sequence[str],
    folder: Path,
    config: PoolConfig,
    work: Callable[..., int],
) -> None:
    # Each process has a core: what more threads of one would take is not the other's to give.
    os.environ["RAYON_NUM_THREADS"] = "1"
    tokenizer = load_tokenizer(folder / "tokenizer")
    begin.wait()  # type: ignore[attr-defined]
    work(share, folder, config, tokenizer)


def _pack_pieces(
    pieces: Sequence[Piece], folder: Path, config: PoolConfig, tokenizer: Tokenizer
) -> int:
    num_tokens = 0
    for piece in pieces:
        out = folder / f"piece {piece.number}"
        out.mkdir()
        num_tokens += pack(piece, config, ExamplesConfig(), tokenizer, out).tokens
        shutil.rmtree(out)
    return num_tokens


def _encode_only(
    texts: Sequence[str], folder: Path, config: PoolConfig, tokenizer: Tokenizer
) -> int:
    num_tokens = 0
    for first in range(0, len(texts), BATCH):
        batch = texts[first : first + BATCH]
        encodings = tokenizer.backend.encode_batch(batch, add_special_tokens=False)
        num_tokens += sum(map(len, encodings))
    return num_tokens


def _as_many(texts: Sequence[str], num_bytes: int) -> list[str]:
    """So many bytes of different texts: each round of them has a number in front."""
    found: list[str] = []
    while num_bytes > 0:
        text = f"{len(found) // len(texts)} {texts[len(found) % len(texts)]}"
        found.append(text)
        num_bytes -= len(text.encode())
    return found


def _write_pool(path: Path, texts: Sequence[str], megabytes: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for text in _as_many(texts, megabytes * 1_000_000):
            file.write(json.dumps({"text": text, "source": "generated"}) + "\n")
    return path


if __name__ == "__main__":
    main()
