"""Arrays on disk that grow at their end, and sets of hashes that are sorted arrays."""

from collections.abc import Sequence
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


class SeenHashes:
    """A set of 64-bit hashes in 8 bytes each, on top of sorted files of earlier ones.

    New hashes are held in sorted runs, each at least twice as long as the next, so there are few.
    """

    def __init__(self, earlier: Sequence[Path]) -> None:
        self._earlier = [np.load(path, mmap_mode="r") for path in earlier]
        self._runs: list[np.ndarray] = []

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Which of `hashes` (uint64) are in the set, as bool."""
        found = np.zeros(len(hashes), bool)
        for run in (*self._earlier, *self._runs):
            found |= _is_in(run, hashes)
        return found

    def add(self, hashes: np.ndarray) -> None:
        """Adds `hashes` (uint64), unique and not in the set yet."""
        run = np.sort(hashes)
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        if len(run):
            self._runs.append(run)

    def save(self, path: Path) -> None:
        """Writes the new hashes, sorted."""
        runs = [np.zeros(0, np.uint64), *self._runs]
        np.save(path, np.sort(np.concatenate(runs)))


def _is_in(run: np.ndarray, values: np.ndarray) -> np.ndarray:
    if not len(run):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(run, values), len(run) - 1)
    return np.asarray(run[at] == values)
