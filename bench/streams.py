"""Tokens per second and time to first token of a server, at several numbers of streams at once.

    .venv/bin/python -m bench.streams [--url http://127.0.0.1:8000] [--api native|openai] [--streams 1,8,16,32]
        [--tokens 64] [--rounds 5] [--beside URL] [--json FILE]

One client thread reads all streams, each on its own connection, and parses them only after the round, because it shares
the processor with the server. All streams of a round begin together; the first round is a warm-up. Tokens are counted
by the answer's own usage. `--beside` measures another server of the same API in turn, such as the model's own port, and
gives the ratio of the medians of their tokens per second.
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

# In the form of either API; the first chunk of a chat has an empty text.
FIRST_TEXT = re.compile(rb'"(?:text|content)":\s*"[^"]')
STALL_S = 300.0
TOPICS = ("the sea", "a lighthouse", "bread", "winter", "trains", "bees", "glass", "an old map")


@dataclass(frozen=True)
class Stream:
    """One finished stream: seconds from the request to its first text and to its end, and its tokens."""

    ttft_s: float
    total_s: float
    tokens: int


def main() -> None:
    """Measure, print a table, and write JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api", choices=("native", "openai"), default="native")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--streams", default="1,8,16,32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", metavar="URL")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    servers = [options, argparse.Namespace(**{**vars(options), "url": options.beside})][: 2 if options.beside else 1]
    results = []
    for count in map(int, options.streams.split(",")):
        pairs = [[one_round(server, count) for server in servers] for _ in range(options.rounds + 1)][1:]
        own, *beside = (summary(list(rounds)) for rounds in zip(*pairs, strict=True))
        results.append({"streams": count, **own})
        if beside:
            results[-1]["beside_tokens_per_s"] = beside[0]["tokens_per_s"]
            results[-1]["ratio"] = round(own["tokens_per_s"] / beside[0]["tokens_per_s"], 3)
        print("  ".join(f"{name} {value:g}" for name, value in results[-1].items()), flush=True)
    if options.json:
        options.json.write_text(
            json.dumps({"url": options.url, "tokens": options.tokens, "results": results}, indent=2) + "\n"
        )


def one_round(options: argparse.Namespace, count: int) -> tuple[float, list[Stream]]:
    """Run `count` streams that begin together; return the seconds until the last has ended, and their figures."""
    address = urlsplit(options.url)
    requests = [request_bytes(options, number) for number in range(count)]
    clients = [Client(socket.create_connection((address.hostname, address.port or 80))) for _ in range(count)]
    start_s = time.perf_counter()
    for client, request in zip(clients, requests, strict=True):
        client.begin(request)
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.connection, selectors.EVENT_READ, client)
        while selector.get_map():
            if not (ready := selector.select(STALL_S)):
                raise SystemExit("a stream has stalled")
            for key, _ in ready:
                if key.data.read():
                    selector.unregister(key.fileobj)
    wall_s = max(client.end_s for client in clients) - start_s
    return wall_s, [client.stream() for client in clients]


@dataclass(eq=False)
class Client:
    """One stream while it is read."""

    connection: socket.socket
    pieces: list[bytes] = field(default_factory=list)
    sent_s: float = 0
    first_s: float = 0
    end_s: float = 0

    def begin(self, request: bytes) -> None:
        """Send the request."""
        self.sent_s = time.perf_counter()
        self.connection.sendall(request)

    def read(self) -> bool:
        """Read what has arrived; return whether it was the end."""
        data = self.connection.recv(65536)
        self.pieces.append(data)
        if not self.first_s and FIRST_TEXT.search(data):
            self.first_s = time.perf_counter()
        if not data:
            self.end_s = time.perf_counter()
            self.connection.close()
        return not data

    def stream(self) -> Stream:
        """Return the figures, after the stream was read to its end."""
        body = body_of(b"".join(self.pieces))
        tokens = re.findall(rb'"completion_tokens":\s*(\d+)', body)
        if re.search(rb'data: ?\{"error"', body) or not tokens or not self.first_s:
            raise SystemExit(f"a stream failed: {body[-500:]!r}")
        return Stream(self.first_s - self.sent_s, self.end_s - self.sent_s, int(tokens[-1]))


def request_bytes(options: argparse.Namespace, number: int) -> bytes:
    """Return a request that is the last on its connection, so that the answer ends when the connection does."""
    path, value = request_of(options, f"Write a long story about {TOPICS[number % len(TOPICS)]}, number {number}.")
    body = json.dumps(value).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {urlsplit(options.url).netloc}\r\nConnection: close\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def body_of(answer: bytes) -> bytes:
    """Return the body of a whole answer, without chunk framing."""
    source: Any = SimpleNamespace(makefile=lambda _mode: io.BytesIO(answer))
    response = http.client.HTTPResponse(source)
    response.begin()
    body = response.read()
    if response.status != http.client.OK:
        raise SystemExit(f"{response.status}: {body[:500]!r}")
    return body


def request_of(options: argparse.Namespace, prompt: str) -> tuple[str, dict[str, Any]]:
    """Return the route and the body for this prompt."""
    common = {"max_tokens": options.tokens, "temperature": 0, "stream": True}
    if options.api == "native":
        return "/inference", {"model_id": options.model, "prompt": prompt, **common}
    messages = [{"role": "user", "content": prompt}]
    usage = {"include_usage": True}
    return "/v1/chat/completions", {"model": options.model, "messages": messages, "stream_options": usage, **common}


def summary(rounds: list[tuple[float, list[Stream]]]) -> dict[str, float]:
    """Return medians over the rounds, and TTFT over all streams of all rounds."""
    rates = [sum(stream.tokens for stream in streams) / wall_s for wall_s, streams in rounds]
    ttfts = sorted(stream.ttft_s for _, streams in rounds for stream in streams)
    return {
        "tokens_per_s": round(statistics.median(rates), 1),
        "ttft_p50_s": round(statistics.median(ttfts), 3),
        "ttft_p99_s": round(ttfts[min(len(ttfts) - 1, int(len(ttfts) * 0.99))], 3),
    }


if __name__ == "__main__":
    main()
