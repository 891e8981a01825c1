"""A pool of conversations made of documents: questions with answers, gaps to fill, and distractors.

    python experiments/finetune/make_pool.py FOLDER OUT.jsonl [--count 5000] [--seed 0]

FOLDER holds Parquet files with `id`, `source` and `text`, such as experiments/quickstart/pool. Each
kind of conversation comes from the sources that KINDS names, in the shares it names; kinds whose
sources are not there are left out. Every line is {"id", "source", "messages"}, and `source` is the
kind, so that a selection can be told by it.
"""

import argparse
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

MOST_CHARACTERS = 900
"""Of a question and of an answer, so that a conversation fits a row of some 400 tokens."""

Pair = tuple[str, str]
Maker = Callable[[str, np.random.Generator], Iterator[Pair]]


def main() -> None:
    """Writes the pool and prints how many conversations of each kind it has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    texts = read_texts(options.folder, {name for _, sources, _ in KINDS for name in sources})
    found = [(kind, share) for kind in KINDS if (share := kind_share(kind, texts))]
    total = sum(share for _, share in found)
    records = []
    for (make, sources, _), share in found:
        kind = make.__name__
        wanted = round(options.count * share / total)
        rng = np.random.default_rng([options.seed, len(records)])
        pairs = list(make_pairs(make, texts, sources, wanted, rng))
        print(f"{kind:12} {len(pairs)}")
        records += [as_record(f"{kind}-{i}", kind, pair) for i, pair in enumerate(pairs)]
    order = np.random.default_rng(options.seed).permutation(len(records))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(records[i], ensure_ascii=False) + "\n" for i in order)


def read_texts(folder: Path, sources: Iterable[str]) -> dict[str, list[str]]:
    """The documents of each source that is there."""
    texts: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path, columns=["source", "text"])
        for source, text in zip(*(table[c].to_pylist() for c in table.column_names), strict=True):
            if source in sources:
                texts.setdefault(source, []).append(text)
    return texts


def kind_share(kind: tuple[Maker, tuple[str, ...], float], texts: dict[str, list[str]]) -> float:
    """The kind's share; 0 where none of its sources is there."""
    _, sources, share = kind
    return share if any(name in texts for name in sources) else 0.0


def make_pairs(
    make: Maker,
    texts: dict[str, list[str]],
    sources: tuple[str, ...],
    wanted: int,
    rng: np.random.Generator,
) -> Iterator[Pair]:
    """Different pairs of one kind, as many as wanted where there are so many."""
    documents = [text for name in sources for text in texts.get(name, ())]
    seen: set[Pair] = set()
    for number in rng.permutation(len(documents)):
        for question, answer in make(documents[number], rng):
            pair = (question.strip(), answer.strip())
            if all(0 < len(part) <= MOST_CHARACTERS for part in pair) and pair not in seen:
                seen.add(pair)
                yield pair
            if len(seen) == wanted:
                return


def as_record(id: str, kind: str, pair: Pair) -> dict[str, object]:
    """One line of the pool."""
    question, answer = pair
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return {"id": id, "source": kind, "messages": messages}


def gap(text: str, rng: np.random.Generator) -> Iterator[Pair]:
    """A passage, one of its sentences with a name or number taken out, and what was taken out."""
    passage = cut(" ".join(text.split("\n\n", 1)[-1].split()), 600)
    found = []
    for sentence in re.split(r"(?<=[.!?]) ", passage):
        # Not at the sentence's start, where any word has a capital.
        for match in re.finditer(r"(?<=\w )([A-Z]\w+(?: [A-Z]\w+)*|\d[\d,.]*\d)", sentence):
            start, end = match.span()
            found.append((f"{sentence[:start]}____{sentence[end:]}", match[0]))
    if found:
        question, answer = found[rng.integers(len(found))]
        yield f"Context: {passage}\nFill the gap: {question}", answer


def definition(text: str, rng: np.random.Generator) -> Iterator[Pair]:
    """What a title means: the first sentence below it."""
    title, _, body = text.partition("\n\n")
    first = re.split(r"(?<=[.!?])\s", body.strip(), maxsplit=1)[0]
    if len(title) < 80 and len(first) > 30:
        yield f"What is {title.strip()}?", first


def trivia(text: str, rng: np.random.Generator) -> Iterator[Pair]:
    """Questions with their answers, with the choices or without."""
    for question, choices, answer in re.findall(
        r"Question: (.*)\n((?:[A-D]\) .*\n)+)Answer: (.*)", text
    ):
        yield (f"{question}\n{choices}" if rng.random() < 0.5 else question), answer


def medicine(text: str, rng: np.random.Generator) -> Iterator[Pair]:
    """A question about an illness, and the start of its answer."""
    for question, answer in re.findall(r"^(.{10,150}\?)\n(.+(?:\n.+)*)", text, re.MULTILINE):
        yield question.replace(" ?", "?"), cut(" ".join(answer.split()), 400)


def programming(text: str, rng: np.random.Generator) -> Iterator[Pair]:
    """A task in prose, and its solution in Python."""
    task = re.search(r"description:start -->(.*?)(?:<p><strong|<!-- description:end)", text, re.S)
    code = re.search(r"```python\n(.*?)```", text, re.S)
    if task and code:
        plain = html.unescape(re.sub(r"<[^>]+>", "", task[1])).replace("\xa0", " ")
        yield f"Write Python for this task. {' '.join(plain.split())}", code[1]


def story(text: str, rng: np.random.Generator) -> Iterator[Pair]:
    """The start of a passage, to be continued."""
    yield from _continued("Continue the story: ", text)


def law(text: str, rng: np.random.Generator) -> Iterator[Pair]:
    """A paragraph of German law, to be continued."""
    yield from _continued("Setze den Gesetzestext fort: ", text)


def talk(text: str, rng: np.random.Generator) -> Iterator[Pair]:
    """A log of a chat, to be continued."""
    yield from _continued("Continue this log: ", text)


def manual(text: str, rng: np.random.Generator) -> Iterator[Pair]:
    """A page of a manual, to be continued."""
    yield from _continued("Continue this page: ", text)


def _continued(request: str, text: str) -> Iterator[Pair]:
    half, rest = cut(text, 300), text[len(cut(text, 300)) :]
    if len(rest) > 100:
        yield request + half, cut(rest, 300)


def cut(text: str, characters: int) -> str:
    """At most so many characters, up to the end of a sentence where there is one."""
    if len(text) <= characters:
        return text
    head = text[:characters]
    end = max(head.rfind(mark) for mark in (". ", "! ", "? ", "\n"))
    return head[: end + 1] if end > characters // 3 else head


KINDS: tuple[tuple[Maker, tuple[str, ...], float], ...] = (
    (gap, ("wiki_en",), 0.2),
    (definition, ("wiki_en",), 0.1),
    (trivia, ("trivia",), 0.2),
    (medicine, ("medquad",), 0.15),
    (programming, ("leetcode",), 0.1),
    (story, ("novels_en",), 0.1),
    (law, ("law_de",), 0.05),
    (talk, ("irc", "spam_mail"), 0.05),
    (manual, ("man_en", "python_doc", "msdocs"), 0.05),
)


if __name__ == "__main__":
    main()
