"""Tokens per second and time to first token of a server, at several numbers of streams at once.

    .venv/bin/python -m bench.streams [--url http://127.0.0.1:8000] [--api native|openai] [--streams 1,8,16,32]
        [--tokens 64] [--rounds 5] [--json FILE]

One client process; each stream is a thread with a connection of its own that reads server-sent events as they come.
All streams of a round begin together; the first round is a warm-up. Tokens are those of the answer's own usage.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results = []
    for count in map(int, given.streams.split(",")):
        rounds = [one_round(given, count) for _ in range(given.rounds + 1)][1:]
        results.append({"streams": count, **summary(rounds)})
        print("  ".join(f"{name} {value:g}" for name, value in results[-1].items()), flush=True)
    if given.json:
        given.json.write_text(
            json.dumps({"url": given.url, "tokens": given.tokens, "results": results}, indent=2) + "\n"
        )


def one_round(given: argparse.Namespace, count: int) -> tuple[float, list[Stream]]:
    """`count` streams that begin together: seconds until the last has ended, and each one's figures."""
    done: list[Stream] = []
    barrier = threading.Barrier(count + 1)

    def run(number: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(given.url).netloc, timeout=300)
        connection.connect()
        barrier.wait()
        done.append(one_stream(connection, given, number))
        connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    barrier.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    if len(done) != count:
        raise SystemExit(f"{count - len(done)} of {count} streams failed")
    return time.perf_counter() - begun, done


def one_stream(connection: http.client.HTTPConnection, given: argparse.Namespace, number: int) -> Stream:
    """One request, read event by event."""
    prompt = f"Write a long story about {TOPICS[number % len(TOPICS)]}, number {number}."
    path, body = request_of(given, prompt)
    begun = time.perf_counter()
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != http.client.OK:
        raise SystemExit(f"{response.status}: {response.read()[:500]!r}")
    ttft_s, tokens = 0.0, 0
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event: dict[str, Any] = json.loads(line[6:])
        if "error" in event:
            raise SystemExit(f"a stream failed: {event}")
        if not ttft_s and has_text(event):
            ttft_s = time.perf_counter() - begun
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    return Stream(ttft_s, time.perf_counter() - begun, tokens)


def request_of(given: argparse.Namespace, prompt: str) -> tuple[str, dict[str, Any]]:
    """The route and the body for this prompt."""
    common = {"max_tokens": given.tokens, "temperature": 0, "stream": True}
    if given.api == "native":
        return "/inference", {"model_id": given.model, "prompt": prompt, **common}
    messages = [{"role": "user", "content": prompt}]
    usage = {"include_usage": True}
    return "/v1/chat/completions", {"model": given.model, "messages": messages, "stream_options": usage, **common}


def has_text(event: dict[str, Any]) -> bool:
    """Whether this event brings text, in either API's form."""
    choices = event.get("choices") or [{}]
    return bool(event.get("text") or (choices[0].get("delta") or {}).get("content"))


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
