"""HTTP/1.1 answers, from bytes to a head and a body; strict, bounded, without a socket of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
MAX_CHUNK_LINE_BYTES = 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([2-5][0-9]{2})(?: [^\r\n\0]*)?")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_NO_BODY = (204, 304)


class Malformed(ValueError):
    """The data is no HTTP/1.1 answer, or more of one than is accepted."""


class BrokenOff(Exception):
    """The connection ended in the middle of an answer."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """What an answer says about itself; with neither `length` nor `chunked`, the connection's end is the body's."""

    status: int
    content_type: str
    content_encoding: str
    length: int | None
    chunked: bool
    keeps_connection: bool


def split_head(data: bytes) -> tuple[Head, bytes] | None:
    """Return the head, and what came of the body; None while the head is not whole. Raises Malformed."""
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0:
        if len(data) >= MAX_HEAD_BYTES:
            raise Malformed(f"its head is longer than {MAX_HEAD_BYTES} bytes")
        if not b"HTTP/1.".startswith(data[:7]):
            raise Malformed(f"it begins with {data[:32]!r}")
        return None
    return _read_head(data[:end]), data[end + 4 :]


def _read_head(head: bytes) -> Head:
    lines = head.split(b"\r\n")
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise Malformed(f"its first line is {lines[0][:64]!r}")
    fields = _read_fields(lines[1:])
    status = int(status_line[2])
    length, chunked = _framing(fields)
    connection = fields.get(b"connection", b"").lower()
    return Head(
        status=status,
        content_type=fields.get(b"content-type", b"application/octet-stream").decode("latin-1"),
        content_encoding=fields.get(b"content-encoding", b"identity").decode("latin-1").lower(),
        length=0 if status in _NO_BODY else length,
        chunked=chunked and status not in _NO_BODY,
        keeps_connection=(
            (length is not None or chunked)
            and (b"close" not in connection if status_line[1] == b"1" else b"keep-alive" in connection)
        ),
    )


def _read_fields(lines: list[bytes]) -> dict[bytes, bytes]:
    """Return the header fields by lower-case name; fields that come more than once are joined by commas."""
    if len(lines) > MAX_HEADERS:
        raise Malformed(f"it has more than {MAX_HEADERS} header fields")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or _NAME.fullmatch(name) is None or b"\n" in value or b"\r" in value or b"\0" in value:
            raise Malformed(f"it has the header line {line[:64]!r}")
        name, value = name.lower(), value.strip(b" \t")
        fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def _framing(fields: dict[bytes, bytes]) -> tuple[int | None, bool]:
    """Return how the body ends: its length, and whether it comes in chunks."""
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if coding is not None:
        if coding.lower() != b"chunked" or length is not None:
            raise Malformed("its Transfer-Encoding is not `chunked` alone")
        return None, True
    if length is None:
        return None, False
    if not length.isdigit() or len(length) > 15:
        raise Malformed(f"its Content-Length is {length[:64]!r}")
    return int(length), False


class Body:
    """Extracts a body's content from the bytes of its connection."""

    def __init__(self, head: Head) -> None:
        self._chunked = head.chunked
        self._ends_with_connection = head.length is None and not head.chunked
        # Of the body, or of the current chunk.
        self._left = head.length or 0
        self._line = b""
        self._in_trailer = False
        self._trailer_lines = 0
        self._after_chunk = False
        self.is_over = head.length == 0
        self.has_excess = False

    @property
    def is_in_line(self) -> bool:
        """Whether a line of its framing, which usually comes in one go, has begun and not ended."""
        return not self.is_over and bool(self._line or self._in_trailer)

    def feed(self, data: bytes) -> bytes:
        """Return the content in the data that came, b"" being the connection's end.

        Raises BrokenOff if that is not the body's end, and Malformed.
        """
        if not data:
            if not self._ends_with_connection and not self.is_over:
                raise BrokenOff
            self.is_over = True
            return b""
        if self._chunked:
            return self._feed_chunks(data)
        if self._ends_with_connection:
            return data
        content = data[: self._left]
        self._left -= len(content)
        self.is_over = self._left == 0
        self.has_excess |= len(content) < len(data)
        return content

    def _feed_chunks(self, data: bytes) -> bytes:
        content, at = [], 0
        while at < len(data) and not self.is_over:
            if self._left:
                piece = data[at : at + self._left]
                content.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._after_chunk = self._left == 0
            else:
                at = self._read_line(data, at)
        self.has_excess |= at < len(data)
        return content[0] if len(content) == 1 else b"".join(content)

    def _read_line(self, data: bytes, at: int) -> int:
        """Read a line between two chunks, or as much as has come of it; return where what follows begins."""
        end = data.find(b"\n", at)
        stop = len(data) if end < 0 else end + 1
        self._line += data[at:stop]
        if len(self._line) > MAX_CHUNK_LINE_BYTES:
            raise Malformed("a line between its chunks is too long")
        if end >= 0:
            line, self._line = self._line, b""
            if not line.endswith(b"\r\n"):
                raise Malformed(f"it has the line {line[:64]!r} between its chunks")
            self._between_chunks(line[:-2])
        return stop

    def _between_chunks(self, line: bytes) -> None:
        if self._after_chunk:
            if line:
                raise Malformed("a chunk is longer than it said")
            self._after_chunk = False
        elif self._in_trailer:
            self.is_over = not line
            self._trailer_lines += 1
            if self._trailer_lines > MAX_HEADERS:
                raise Malformed(f"it has more than {MAX_HEADERS} trailer fields")
        else:
            size = _CHUNK_SIZE.fullmatch(line)
            if size is None:
                raise Malformed(f"it has a chunk of size {line[:32]!r}")
            self._left = int(size[1], 16)
            self._in_trailer = self._left == 0
