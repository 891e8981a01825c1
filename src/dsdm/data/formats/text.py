"""Plain text: a document a file, or a line."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dsdm.data.files import Piece, PoolFile, open_file, whole
from dsdm.data.formats.format import PIECE_BYTES, Format, Record, Unreadable, excerpt_of, format
from dsdm.data.formats.lines import cut_lines, read_lines

if TYPE_CHECKING:
    from dsdm.data.pool import PoolConfig


@format("text", suffixes=(".txt",))
class Text(Format):
    """Plain text: a document a file, or a line."""

    has_columns = False

    def read(
        self, piece: Piece, config: "PoolConfig", columns: Sequence[str] | None
    ) -> Iterator[Record]:
        """The whole file, or each line."""
        limit = config.max_document_bytes
        if config.text_documents == "line":
            for row, (num_bytes, line) in enumerate(read_lines(piece, limit)):
                if isinstance(line, Unreadable):
                    yield row, num_bytes, line
                else:
                    content = line.rstrip(b"\r\n")
                    yield row, num_bytes, {config.text: content} if line.strip() else None
            return
        with open_file(piece.file) as handle:
            text = handle.read(limit + 1)
        if len(text) > limit:
            yield 0, len(text), Unreadable(f"longer than {limit} bytes", excerpt_of(text))
        else:
            yield 0, len(text), {config.text: text}

    def columns(self, file: PoolFile, config: "PoolConfig") -> list[str] | None:
        """The text."""
        return [config.text]

    def cut(
        self, file: PoolFile, config: "PoolConfig", piece_bytes: int = PIECE_BYTES
    ) -> list[Piece]:
        """Byte ranges where lines are documents."""
        is_cut = config.text_documents == "line"
        return cut_lines(file, piece_bytes) if is_cut else [whole(file)]
