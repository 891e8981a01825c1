"""Arrays on disk that grow at their end, and sets of hashes that are sorted arrays."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.lib import format as npy


class ArrayFile:
    """A one-dimensional .npy file that is written piece by piece."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.length = 0
        self._dtype = dtype
        self._file = open(path, "wb")  # noqa: SIM115  # closed by __exit__
        self._write_header()
        self._header_bytes = self._file.tell()

    def __enter__(self) -> "ArrayFile":
        return self

    def append(self, array: np.ndarray) -> None:
        """Writes `array`, of the file's dtype, at the end."""
        assert array.dtype == self._dtype, (array.dtype, self._dtype)
        self._file.write(np.ascontiguousarray(array).data)
        self.length += len(array)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.seek(0)
        self._write_header()
        # numpy pads the header so that a longer length fits in the same bytes
        assert self._file.tell() == self._header_bytes
        self._file.close()

    def _write_header(self) -> None:
        about = {
            "descr": npy.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.length,),
        }
        npy.write_array_header_1_0(self._file, about)


SPILLED_HASHES = 1 << 20
"""New hashes that are held in memory; more go to files."""
SPILL = ".spill.npy"
"""How the names of those files end."""


class SeenHashes:
    """A set of 64-bit hashes, most of it in sorted files: of earlier ones, and of its own.

    New hashes are held in sorted runs, each at least twice as long as the next, so there are few;
    what is more than SPILLED_HASHES goes to a file of its own beside the set's, so that memory does
    not grow with the set.
    """

    def __init__(self, earlier: Sequence[Path], path: Path) -> None:
        """A set that is saved to `path`, where its scratch files lie too."""
        self._path = path
        self._earlier = [np.load(path, mmap_mode="r") for path in earlier]
        self._spilled: list[np.ndarray] = []
        self._runs: list[np.ndarray] = []

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Which of `hashes` (uint64) are in the set, as bool."""
        found = np.zeros(len(hashes), bool)
        for run in (*self._earlier, *self._spilled, *self._runs):
            found |= _is_in(run, hashes)
        return found

    def add(self, hashes: np.ndarray) -> None:
        """Adds `hashes` (uint64), unique and not in the set yet."""
        run = np.sort(hashes)
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        if len(run):
            self._runs.append(run)
        if sum(map(len, self._runs)) >= SPILLED_HASHES:
            self._spill()

    def save(self) -> None:
        """Writes the new hashes, sorted, and deletes the scratch files."""
        with ArrayFile(self._path, np.dtype("<u8")) as file:
            for part in self._sorted_parts():
                file.append(part)
        self._spilled = []
        for scratch in self._path.parent.glob(f"{self._path.stem}-*{SPILL}"):
            scratch.unlink()

    def _spill(self) -> None:
        scratch = self._path.with_name(f"{self._path.stem}-{len(self._spilled)}{SPILL}")
        np.save(scratch, np.sort(np.concatenate(self._runs)))
        self._spilled.append(np.load(scratch, mmap_mode="r"))
        self._runs = []

    def _sorted_parts(self) -> Iterator[np.ndarray]:
        """All new hashes in order, about SPILLED_HASHES at a time: hashes are spread evenly."""
        runs = [*self._spilled, *self._runs]
        num_parts = max(1, sum(map(len, runs)) // SPILLED_HASHES)
        bounds = [(part << 64) // num_parts for part in range(1, num_parts)]
        cuts = [[0, *np.searchsorted(run, np.array(bounds, np.uint64)), len(run)] for run in runs]
        for part in range(num_parts):
            pieces = [run[cut[part] : cut[part + 1]] for run, cut in zip(runs, cuts, strict=True)]
            yield np.sort(np.concatenate([np.zeros(0, np.uint64), *pieces]))


def _is_in(run: np.ndarray, values: np.ndarray) -> np.ndarray:
    if not len(run):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(run, values), len(run) - 1)
    return np.asarray(run[at] == values)
