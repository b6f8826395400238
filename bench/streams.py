"""Tokens per second and time to first token of a server, at several numbers of streams at once.

    .venv/bin/python -m bench.streams [--url http://127.0.0.1:8000] [--api native|openai] [--streams 1,8,16,32]
        [--tokens 64] [--rounds 5] [--beside URL] [--json FILE]

One client thread reads all streams, each on a connection of its own, and parses them after the round: what it computes
meanwhile, it takes from the server beside it. All streams of a round begin together; the first round is a warm-up.
Tokens are those of the answer's own usage. `--beside` takes turns with another server of the same API, such as the
model's own port, round by round, and gives the ratio of the medians of their tokens per second.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import re
import selectors
import socket
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

# In either API's form; the chunk that opens a chat has an empty one.
FIRST_TEXT = re.compile(rb'"(?:text|content)":\s*"[^"]')
STALLED_S = 300.0
TOPICS = ("the sea", "a lighthouse", "bread", "winter", "trains", "bees", "glass", "an old map")


@dataclass(frozen=True)
class Stream:
    """One finished stream: seconds from the request to its first text and to its end, and its tokens."""

    ttft_s: float
    total_s: float
    tokens: int


def main() -> None:
    """Measure, print a table, and write JSON when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api", choices=("native", "openai"), default="native")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--streams", default="1,8,16,32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", metavar="URL")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    servers = [given, argparse.Namespace(**{**vars(given), "url": given.beside})][: 2 if given.beside else 1]
    results = []
    for count in map(int, given.streams.split(",")):
        taken = [[one_round(server, count) for server in servers] for _ in range(given.rounds + 1)][1:]
        own, *beside = (summary(list(rounds)) for rounds in zip(*taken, strict=True))
        results.append({"streams": count, **own})
        if beside:
            results[-1]["beside_tokens_per_s"] = beside[0]["tokens_per_s"]
            results[-1]["ratio"] = round(own["tokens_per_s"] / beside[0]["tokens_per_s"], 3)
        print("  ".join(f"{name} {value:g}" for name, value in results[-1].items()), flush=True)
    if given.json:
        given.json.write_text(
            json.dumps({"url": given.url, "tokens": given.tokens, "results": results}, indent=2) + "\n"
        )


def one_round(given: argparse.Namespace, count: int) -> tuple[float, list[Stream]]:
    """`count` streams that begin together: seconds until the last has ended, and each one's figures."""
    address = urlsplit(given.url)
    requests = [request_bytes(given, number) for number in range(count)]
    clients = [Client(socket.create_connection((address.hostname, address.port or 80))) for _ in range(count)]
    begun_s = time.perf_counter()
    for client, request in zip(clients, requests, strict=True):
        client.begin(request)
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.connection, selectors.EVENT_READ, client)
        while selector.get_map():
            if not (ready := selector.select(STALLED_S)):
                raise SystemExit("a stream has stalled")
            for key, _ in ready:
                if key.data.read():
                    selector.unregister(key.fileobj)
    wall_s = max(client.ended_s for client in clients) - begun_s
    return wall_s, [client.stream() for client in clients]


@dataclass(eq=False)
class Client:
    """One stream being read."""

    connection: socket.socket
    received: list[bytes] = field(default_factory=list)
    begun_s: float = 0
    first_s: float = 0
    ended_s: float = 0

    def begin(self, request: bytes) -> None:
        """Sends the request."""
        self.begun_s = time.perf_counter()
        self.connection.sendall(request)

    def read(self) -> bool:
        """Takes what is there; whether it was the end."""
        data = self.connection.recv(65536)
        self.received.append(data)
        if not self.first_s and FIRST_TEXT.search(data):
            self.first_s = time.perf_counter()
        if not data:
            self.ended_s = time.perf_counter()
            self.connection.close()
        return not data

    def stream(self) -> Stream:
        """The figures, when it has been read to its end."""
        body = body_of(b"".join(self.received))
        tokens = re.findall(rb'"completion_tokens":\s*(\d+)', body)
        if re.search(rb'data: ?\{"error"', body) or not tokens or not self.first_s:
            raise SystemExit(f"a stream failed: {body[-500:]!r}")
        return Stream(self.first_s - self.begun_s, self.ended_s - self.begun_s, int(tokens[-1]))


def request_bytes(given: argparse.Namespace, number: int) -> bytes:
    """One whole request, the last on its connection, so that the end of the answer is the end of the stream."""
    path, value = request_of(given, f"Write a long story about {TOPICS[number % len(TOPICS)]}, number {number}.")
    body = json.dumps(value).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {urlsplit(given.url).netloc}\r\nConnection: close\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def body_of(answer: bytes) -> bytes:
    """The body of a whole answer, its chunks put together."""

    source: Any = SimpleNamespace(makefile=lambda _mode: io.BytesIO(answer))
    response = http.client.HTTPResponse(source)
    response.begin()
    body = response.read()
    if response.status != http.client.OK:
        raise SystemExit(f"{response.status}: {body[:500]!r}")
    return body


def request_of(given: argparse.Namespace, prompt: str) -> tuple[str, dict[str, Any]]:
    """The route and the body for this prompt."""
    common = {"max_tokens": given.tokens, "temperature": 0, "stream": True}
    if given.api == "native":
        return "/inference", {"model_id": given.model, "prompt": prompt, **common}
    messages = [{"role": "user", "content": prompt}]
    usage = {"include_usage": True}
    return "/v1/chat/completions", {"model": given.model, "messages": messages, "stream_options": usage, **common}


def summary(rounds: list[tuple[float, list[Stream]]]) -> dict[str, float]:
    """Medians over the rounds; TTFT over all streams of all rounds."""
    rates = [sum(stream.tokens for stream in streams) / wall_s for wall_s, streams in rounds]
    ttfts = sorted(stream.ttft_s for _, streams in rounds for stream in streams)
    return {
        "tokens_per_s": round(statistics.median(rates), 1),
        "ttft_p50_s": round(statistics.median(ttfts), 3),
        "ttft_p99_s": round(ttfts[min(len(ttfts) - 1, int(len(ttfts) * 0.99))], 3),
    }


if __name__ == "__main__":
    main()
