"""The reader of HTTP/1.1 answers: every way to cut the bytes gives the same, and anything but HTTP is refused."""

from __future__ import annotations

import http.client
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.proxy.http1 import MAX_CHUNK_LINE_BYTES, Body, BrokenOff, Head, Malformed, split_head

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def head_of(raw: bytes) -> Head:
    parts = split_head(raw)
    assert parts is not None
    return parts[0]


def fields(**values: Any) -> Head:
    defaults: dict[str, Any] = {
        "status": 200, "content_type": "x", "content_encoding": "identity", "length": None, "chunked": False,
        "keeps_connection": True,
    }  # fmt: skip
    return Head(**{**defaults, **values})


def read(body: Body, pieces: list[bytes]) -> bytes:
    return b"".join(body.feed(piece) for piece in pieces if piece)


@st.composite
def cut(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    """Cut the bytes into pieces, anywhere."""
    places = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    return [raw[begin:end] for begin, end in zip([0, *places], [*places, len(raw)], strict=True)]


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a content, and one of the ways to send it."""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    sizes = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"%x;name=value", b"%x "]))
    trailer = draw(st.sampled_from([b"", b"X: y\r\n"]))
    frames = [sizes % len(chunk) + b"\r\n" + chunk + b"\r\n" for chunk in chunks]
    return b"".join(chunks), b"".join(frames) + b"0\r\n" + trailer + b"\r\n"


@given(st.data(), chunked_bodies(), st.binary(max_size=5))
def test_chunks_give_their_content(data: st.DataObject, body_bytes: tuple[bytes, bytes], more: bytes) -> None:
    """However chunks are framed and cut, the content is right; bytes after the end are noticed."""
    content, raw = body_bytes
    body = Body(fields(chunked=True))
    assert content == read(body, data.draw(cut(raw + more)))
    assert (True, bool(more)) == (body.is_over, body.has_excess)


@given(st.data(), st.binary(max_size=60), st.binary(max_size=5))
def test_a_known_length_gives_its_content(data: st.DataObject, content: bytes, more: bytes) -> None:
    """A body of known length ends there."""
    body = Body(fields(length=len(content)))
    pieces = data.draw(cut(content + more))
    assert content == read(body, pieces)
    assert body.is_over


@given(st.data(), chunked_bodies())
def test_an_early_end_is_an_error(data: st.DataObject, body_bytes: tuple[bytes, bytes]) -> None:
    """A connection that ends anywhere before a body's end is a break, never a short answer."""
    raw = body_bytes[1]
    body = Body(fields(chunked=True))
    read(body, [raw[: data.draw(st.integers(0, len(raw) - 1))]])
    with pytest.raises(BrokenOff):
        body.feed(b"")


def test_a_body_may_end_with_its_connection() -> None:
    """Without a length and chunks the connection's end is the proper end."""
    body = Body(fields())
    assert b"abc" == read(body, [b"ab", b"c"])
    assert not body.is_over
    assert b"" == body.feed(b"")
    assert body.is_over


@pytest.mark.parametrize(
    "raw",
    [
        b"zz\r\n",
        b"-1\r\n",
        b"\r\n",
        b"1\n",
        b"1\r\nab\r\n",
        b"1\r\na\n",
        b"1" * 16 + b"\r\n",
        b"1;" + b"x" * MAX_CHUNK_LINE_BYTES,
        b"0\r\n" + b"X: y\r\n" * 200,
    ],
)
def test_broken_chunks_are_refused(raw: bytes) -> None:
    """Invalid sizes, chunks longer than their size, bare line ends, lines and trailers without end."""
    with pytest.raises(Malformed):
        Body(fields(chunked=True)).feed(raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_content_or_an_error(raw: bytes) -> None:
    """Whatever comes as chunks or as a head gives content, or one of the two errors."""
    for read_bytes in (Body(fields(chunked=True)).feed, split_head):
        try:
            read_bytes(raw)
        except (Malformed, BrokenOff):
            continue


@pytest.mark.parametrize(
    "lines",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nContent-Length: 12",
        b"HTTP/1.0 200\r\ncontent-length:0",
        b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\nX: \xe4\r\nTransfer-Encoding: Chunked\r\nServer: uvicorn\r\nX: again",
        b"HTTP/1.1 200 OK\r\nServer: no length",
    ],
)
def test_heads_are_read_as_the_standard_library_reads_them(lines: bytes) -> None:
    """Status, type, length, chunks, and whether the connection is kept."""

    class Sock:
        def makefile(self, _mode: str) -> io.BytesIO:
            return io.BytesIO(lines + b"\r\n\r\n")

    expected = http.client.HTTPResponse(Sock())  # type: ignore[arg-type]
    expected.begin()
    head = head_of(lines + b"\r\n\r\n")
    assert expected.status == head.status
    assert expected.headers.get("Content-Type", "application/octet-stream") == head.content_type
    assert (expected.length, bool(expected.chunked)) == (head.length, head.chunked)
    assert expected.will_close == (not head.keeps_connection)


@given(st.data())
def test_a_head_may_come_in_pieces(data: st.DataObject) -> None:
    """There is no result before the head is whole, and what came of the body is kept."""
    raw = CHUNKED + b"1\r\na"
    start = b""
    for piece in data.draw(cut(raw)):
        start += piece
        parts = split_head(start)
        assert (parts is None) == (len(start) < len(CHUNKED))
    assert parts is not None
    assert b"1\r\na" == parts[1]


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    ],
)
def test_an_invalid_head_is_refused(head: bytes) -> None:
    """Other protocols, and everything that two readers could read differently."""
    with pytest.raises(Malformed):
        split_head(head)
