"""A guard against choosing nearly the same text twice: MinHash with locality-sensitive hashing.

Source: Broder, On the resemblance and containment of documents, 1997; the index is datasketch's.
"""

import re
from collections.abc import Callable

from datasketch import MinHash, MinHashLSH

PERMUTATIONS = 128
SHINGLE_WORDS = 5
LARGEST_INDEXED = 0.95  # datasketch finds no division into bands for a higher threshold

# Scripts written without spaces count by character: a whole sentence would be one word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


class NearDuplicates:
    """The texts chosen so far, as sketches of their word 5-grams. Case and punctuation are ignored.

    Takes about 3 kB of memory for each text that is kept.
    """

    def __init__(self, text_of: Callable[[int], str], threshold: float) -> None:
        """Starts empty.

        Args:
            text_of: the text of a candidate, such as `Examples.text_of`.
            threshold: estimated Jaccard similarity, from which a text counts as a duplicate.
        """
        self._text_of = text_of
        self._threshold = threshold
        # Misses weigh more than false alarms, because is_duplicate compares what the index finds.
        self._index = MinHashLSH(
            threshold=min(threshold, LARGEST_INDEXED), num_perm=PERMUTATIONS, weights=(0.1, 0.9)
        )
        self._sketches: dict[int, MinHash] = {}
        self._empty = MinHash(num_perm=PERMUTATIONS, seed=1)

    def is_duplicate(self, candidate: int) -> bool:
        """Whether its text is close to one that was kept; if not, it is kept from now on."""
        sketch = self._empty.copy()
        sketch.update_batch(_shingles(self._text_of(candidate)))
        for other in self._index.query(sketch):
            if sketch.jaccard(self._sketches[other]) >= self._threshold:
                return True
        self._index.insert(candidate, sketch)
        self._sketches[candidate] = sketch
        return False


def _shingles(text: str) -> set[bytes]:
    """Word 5-grams; a shorter text is one shingle."""
    words = _WORD.findall(text.lower())
    last = max(len(words) - SHINGLE_WORDS + 1, 1)
    return {" ".join(words[i : i + SHINGLE_WORDS]).encode() for i in range(last)}
