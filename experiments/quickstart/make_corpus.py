"""Cuts the quickstart corpus out of the development data, which the repository does not hold.

    python experiments/quickstart/make_corpus.py [DATA]

DATA (default ../shared/data, beside the repository) has `candidates/SOURCE.parquet` with columns
id, source, text and `targets/TASK_{target,heldout}.jsonl`. Which documents are taken, and their
order, are functions of the seed and the ids alone; the Parquet files' bytes also depend on the
version of pyarrow. ATTRIBUTION.md beside this file says where each source comes from.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
SEED = 0
NUM_FILES = 4
MIN_CHARACTERS = 200
MAX_CHARACTERS = 2000
MAX_CONTEXT_CHARACTERS = 1000
NUM_TARGETS = 400
NUM_REPORT = 300
TASKS = {
    "squad": ("context", "continuation", "title", "id"),
    "lambada": ("context", "continuation"),
}

# A package index's address means nothing to the demo, and the repository names none.
UNWANTED = re.compile(r"\b(?:pypi|npmjs|crates)\.(?:org|com|io)\b", re.IGNORECASE)
# The novels are out by 1930, but this author died less than 70 years ago.
NOT_FREE_EVERYWHERE = "novels_en/Forster_"


@dataclass(frozen=True)
class Source:
    """How much of one source the corpus takes."""

    name: str
    max_bytes: int
    id_prefix: str = ""


# About a third reads like the targets: encyclopaedic prose, fiction, questions with answers.
SOURCES = (
    Source("wiki_en", 480_000),
    Source("novels_en", 420_000),
    Source("trivia", 200_000),
    Source("medquad", 120_000),
    Source("law_de", 350_000),
    Source("irc", 350_000),
    Source("python_doc", 300_000),
    Source("msdocs", 300_000),
    Source("usgov_blogs", 250_000),
    Source("wiki_ko", 220_000),
    Source("wiki_zh", 220_000),
    Source("algorithms", 150_000, id_prefix="algorithms/cp-algorithms/"),
    Source("linklists", 130_000),
)


def main(data: Path) -> None:
    """Writes `pool/` and `targets/` beside this file and prints what they hold."""
    documents = [row for source in SOURCES for row in read_source(data, source)]
    documents.sort(key=lambda row: shuffled_position(row["id"]))
    print_table(documents)
    write_pool(documents, HERE / "pool")
    for task, columns in TASKS.items():
        for half, suffix, count in (
            ("target", "", NUM_TARGETS),
            ("heldout", "_report", NUM_REPORT),
        ):
            examples = sample_examples(data / "targets" / f"{task}_{half}.jsonl", columns, count)
            write_jsonl(examples, HERE / "targets" / f"{task}{suffix}.jsonl")


def read_source(data: Path, source: Source) -> Iterator[dict[str, str]]:
    """Documents of one source in a seeded order, until `max_bytes` of text are reached."""
    rows = pq.read_table(data / "candidates" / f"{source.name}.parquet").to_pylist()
    num_bytes = 0
    for row in sorted(rows, key=lambda row: shuffled_position(row["id"])):
        text = cut(row["text"])
        if not row["id"].startswith(source.id_prefix) or not is_wanted(row["id"], text):
            continue
        num_bytes += len(text.encode())
        if num_bytes > source.max_bytes:
            return
        yield {"id": row["id"], "source": row["source"], "text": text}


def shuffled_position(key: str) -> bytes:
    """A sort key that depends on the seed and `key` alone."""
    return hashlib.sha256(f"{SEED}:{key}".encode()).digest()


def cut(text: str) -> str:
    """`text` up to the last paragraph end (failing that, line end) within MAX_CHARACTERS.

    Empty where the text is longer and has neither.
    """
    if len(text) <= MAX_CHARACTERS:
        return text.strip()
    for end in ("\n\n", "\n"):
        position = text.rfind(end, MIN_CHARACTERS, MAX_CHARACTERS)
        if position >= 0:
            return text[:position].strip()
    return ""


def is_wanted(document_id: str, text: str) -> bool:
    """Whether a document is long enough and may be passed on."""
    is_free = not document_id.startswith(NOT_FREE_EVERYWHERE)
    return is_free and len(text) >= MIN_CHARACTERS and not UNWANTED.search(text)


def print_table(documents: list[dict[str, str]]) -> None:
    """Prints the counts that ATTRIBUTION.md states."""
    for source in SOURCES:
        texts = [row["text"] for row in documents if row["source"] == source.name]
        print(f"{source.name:12} {len(texts):5} {sum(len(text.encode()) for text in texts):8}")
    total = sum(len(row["text"].encode()) for row in documents)
    print(f"{'all':12} {len(documents):5} {total:8}")


def write_pool(documents: list[dict[str, str]], folder: Path) -> None:
    """Writes the documents as NUM_FILES Parquet files of mixed sources."""
    folder.mkdir(exist_ok=True)
    schema = pa.schema([(name, pa.string()) for name in ("id", "source", "text")])
    for i in range(NUM_FILES):
        first, last = (len(documents) * j // NUM_FILES for j in (i, i + 1))
        table = pa.Table.from_pylist(documents[first:last], schema)
        pq.write_table(table, folder / f"{i:05}.parquet", compression="zstd", compression_level=19)


def sample_examples(file: Path, columns: tuple[str, ...], count: int) -> list[dict[str, Any]]:
    """`count` examples with contexts of at most MAX_CONTEXT_CHARACTERS, in a seeded order."""
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in sorted(lines, key=shuffled_position)]
    short = [row for row in rows if len(row["context"]) <= MAX_CONTEXT_CHARACTERS]
    return [{name: row[name] for name in columns} for row in short[:count]]


def write_jsonl(rows: list[dict[str, Any]], file: Path) -> None:
    """Writes one JSON object a line."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[2] / "shared" / "data")
