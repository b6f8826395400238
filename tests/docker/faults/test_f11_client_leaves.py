"""F11: a client that leaves ends the model's work."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
import requests

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.house import House, until
from tests.promises.mutation import Mutation

MUTATION = Mutation(
    "controller/server/disconnects.py",
    "on_leave()\n",
    "pass\n",
    "test_f11_work_before_the_first_token_ends",
)
QUIET_S = 1.0


@pytest.fixture(scope="module")
def house(build_house: Build) -> House:
    house = build_house({"echo": {}})
    house.ask("echo", "warm").raise_for_status()
    return house


def counters(house: House) -> dict[str, Any]:
    values: dict[str, Any] = requests.get(f"http://127.0.0.1:{house.status('echo')['port']}/counters", timeout=5).json()
    return values


def work_after(house: House, counter: str, bound_s: float) -> tuple[float, int]:
    """Wait until the model has done nothing for a second; return how long it still worked from now, and how much."""
    started_at = last_change = time.monotonic()
    before = latest = counters(house)[counter]
    while time.monotonic() - last_change < QUIET_S:
        now = counters(house)[counter]
        if now != latest:
            latest, last_change = now, time.monotonic()
        assert last_change - started_at < bound_s, f"the model still works after {bound_s} s"
        time.sleep(0.05)
    return last_change - started_at, latest - before


def leaving(house: House, body: dict[str, Any]) -> socket.socket:
    """Send a request over a plain socket, so that closing it is nothing but leaving, and return the connection."""
    data = json.dumps({"model_id": "echo", **body}).encode()
    head = f"POST /inference HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", house.port), 10)
    connection.sendall(head.encode() + data)
    return connection


def test_f11_a_stream_ends(house: House, figure: Figure) -> None:
    """2 s after a client has left its stream the model makes no more tokens, and the lease is returned."""
    before = counters(house)["broken_off"]
    connection = leaving(house, {"prompt": json.dumps({"tokens": 2000, "delay_s": 0.05}), "stream": True})
    assert b"word" in connection.recv(65536) + connection.recv(65536)
    connection.close()
    took_s, tokens = work_after(house, "tokens", 2)
    figure("stream: worked on for", f"{took_s:.2f} s ({tokens} tokens)")
    assert before + 1 == counters(house)["broken_off"]
    until("the lease is returned", lambda: house.status("echo")["in_flight"] == 0, 5)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_f11_work_before_the_first_token_ends(house: House, stream: bool, figure: Figure) -> None:
    """A client that leaves before the first token, asking for a stream or not, ends the work within 5 s."""
    before = counters(house)
    connection = leaving(house, {"prompt": json.dumps({"prefill_s": 30}), "stream": stream})
    until("the model works", lambda: counters(house)["prefill_steps"] > before["prefill_steps"], 5)
    connection.close()
    took_s, _ = work_after(house, "prefill_steps", 5)
    figure(f"before the first token ({'stream' if stream else 'whole'}): worked on for", f"{took_s:.2f} s")
    assert before["broken_off"] + 1 == counters(house)["broken_off"]
    until("the lease is returned", lambda: house.status("echo")["in_flight"] == 0, 5)
