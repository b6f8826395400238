"""The CPU time that two parsers of HTTP/1.1 answers take for the same bytes: ours and h11's. No socket, no controller.

    .venv/bin/python -m bench.http1_parsers [--rounds 9]

Each round lets both parse the same answers, one after the other; figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import h11

from bench.stub_upstream import ANSWER, EVENT, PAD, STREAM_HEAD, chunk, whole
from controller.proxy.http1 import Body, split_head

EVENTS = 10_000
ANSWERS = 2_000
PIECE_BYTES = 16 * 1024
_REQUEST = h11.Request(method="POST", target="/", headers=[("Host", "localhost"), ("Content-Length", "0")])

# An answer as it is received, piece by piece, → its content.
Parser = Callable[[list[bytes]], bytes]


def with_ours(pieces: list[bytes]) -> bytes:
    """Parse an answer with `controller.proxy.http1`."""
    parts = split_head(pieces[0])
    assert parts is not None
    head, first = parts
    body = Body(head)
    content = [body.feed(piece) for piece in (first, *pieces[1:]) if piece]
    assert body.is_over
    return b"".join(content)


def with_h11(pieces: list[bytes]) -> bytes:
    """Parse an answer with h11, which has to know of a request first."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(_REQUEST)
    connection.send(h11.EndOfMessage())
    content = []
    for piece in pieces:
        connection.receive_data(piece)
        while (event := connection.next_event()) is not h11.NEED_DATA:
            if type(event) is h11.Data:
                content.append(bytes(event.data))
            elif type(event) is h11.EndOfMessage:
                return b"".join(content)
    raise AssertionError("the answer has no end")


def cpu_s(parse: Parser, answer: list[bytes], times: int) -> float:
    """Return the CPU seconds that it takes to parse an answer so many times."""
    start_s = time.process_time()
    for _ in range(times):
        parse(answer)
    return time.process_time() - start_s


def stream_of_events() -> list[bytes]:
    """Return a stream of events, each of them received alone."""
    event = chunk(EVENT % (time.perf_counter_ns(), PAD) + b"\n\n")
    return [STREAM_HEAD, *[event] * EVENTS, b"0\r\n\r\n"]


def in_large_pieces(pieces: list[bytes]) -> list[bytes]:
    """Return the same bytes as a reader that came late receives them."""
    raw = b"".join(pieces)
    return [raw[start : start + PIECE_BYTES] for start in range(0, len(raw), PIECE_BYTES)]


def main() -> None:
    """Measure and print a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=9)
    rounds = arguments.parse_args().rounds
    stream = stream_of_events()
    cases = (
        ("an event of a stream, received alone", stream, 1, EVENTS),
        ("an event, received with others", in_large_pieces(stream), 1, EVENTS),
        ("a whole answer", [whole(ANSWER)], ANSWERS, ANSWERS),
    )
    print(f"{'CPU per':42}{'ours':>12}{'h11 ' + version('h11'):>14}{'ratio':>8}")
    for name, answer, times, parts in cases:
        assert with_ours(answer) == with_h11(answer)
        pairs = [(cpu_s(with_ours, answer, times), cpu_s(with_h11, answer, times)) for _ in range(rounds)]
        ours, theirs = (statistics.median(column) * 1e6 / parts for column in zip(*pairs, strict=True))
        ratio = statistics.median(theirs / ours for ours, theirs in pairs)
        print(f"{name:42}{ours:9.2f} µs{theirs:11.2f} µs{ratio:7.1f}x", flush=True)


if __name__ == "__main__":
    main()
