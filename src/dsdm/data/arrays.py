"""Arrays on disk that grow at their end or are mapped, and sets of hashes as sorted arrays."""

from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
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


def map_array(path: Path) -> np.ndarray:
    """The one-dimensional array in a .npy file, mapped; no file stays open for it.

    Raises:
        OSError: the file can't be read.
        ValueError: it holds no such array, or not all of it.
    """
    with open(path, "rb") as file:
        if npy.read_magic(file) != (1, 0):
            raise ValueError(f"{path.name} is not a .npy file of version 1.0")
        (length,), _, dtype = npy.read_array_header_1_0(file)
        offset = file.tell()
    if not length:
        return np.empty(0, dtype)
    with pa.memory_map(str(path)) as mapped:
        # Arrow asks the system to read ahead all that is taken from it at once. The first byte
        # keeps the whole file mapped, and no file open.
        first = mapped.read_buffer(1)
        size = mapped.size()
    buffer = pa.foreign_buffer(first.address, size, first)
    return np.frombuffer(buffer, dtype, length, offset)


class HashSet:
    """A set of 64-bit hashes that takes 8 bytes for each.

    It consists of sorted arrays, each at least twice as long as the next, so there are few.
    """

    def __init__(self) -> None:
        """An empty set."""
        self._runs: list[np.ndarray] = []

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Which of `hashes` (uint64) are in the set, as bool."""
        found = np.zeros(len(hashes), bool)
        for run in self._runs:
            found |= _is_in(run, hashes)
        return found

    def add(self, hashes: np.ndarray) -> None:
        """Adds `hashes` (uint64), unique and not in the set yet."""
        run = np.sort(hashes)
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]))
        if len(run):
            self._runs.append(run)


def _is_in(run: np.ndarray, values: np.ndarray) -> np.ndarray:
    if not len(run):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(run, values), len(run) - 1)
    return np.asarray(run[at] == values)
