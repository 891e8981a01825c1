"""Plain or compressed files of lines, whole or in byte ranges."""

from collections.abc import Iterator

from dsdm.data.files import BUFFER_BYTES, Piece, PoolFile, open_file, whole
from dsdm.data.formats.format import Unreadable, excerpt_of


def cut_lines(file: PoolFile, piece_bytes: int) -> list[Piece]:
    """Byte ranges of a plain file; a compressed one is a single piece."""
    if file.compression or file.size <= piece_bytes:
        return [whole(file)]
    starts = range(0, file.size, piece_bytes)
    ends = [*starts[1:], file.size]
    return [
        Piece(file, number, start, end, is_last=end == file.size)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def read_lines(piece: Piece, max_bytes: int) -> Iterator[tuple[int, bytes | Unreadable]]:
    """Bytes and content of each line that starts in a piece.

    Of a line that is longer than `max_bytes` only its start is held in memory.
    """
    # The line that holds the byte before the piece belongs to an earlier piece, up to its end.
    position = max(piece.start - 1, 0)
    end = float("inf") if piece.is_last else piece.end
    with open_file(piece.file, position) as handle:
        if piece.start:
            position += _skip_line(handle)
        while position < end and (line := handle.readline(max_bytes + 1)):
            num_bytes = len(line)
            if num_bytes <= max_bytes or line.endswith(b"\n"):
                yield num_bytes, line
            else:
                num_bytes += _skip_line(handle)
                reason = f"longer than {max_bytes} bytes: {num_bytes}"
                yield num_bytes, Unreadable(reason, excerpt_of(line))
            position += num_bytes


def _skip_line(handle: object) -> int:
    """Reads on to the end of the line; returns the bytes read."""
    num_bytes = 0
    while part := handle.readline(BUFFER_BYTES):  # type: ignore[attr-defined]
        num_bytes += len(part)
        if part.endswith(b"\n"):
            break
    return num_bytes
