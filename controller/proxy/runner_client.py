"""The HTTP client for runners: the readiness probe, and requests that are forwarded to them."""

from __future__ import annotations

import json
import logging
import select
import socket
import threading
import time
from collections import defaultdict

from controller.errors import ModelDied, UpstreamInvalid, UpstreamTimeout
from controller.proxy.http1 import Body, BrokenOff, Head, Malformed, split_head
from controller.proxy.runner_response import (
    READ_TIMEOUT_S,
    RECEIVE_BYTES,
    InFlightRequest,
    RunnerConnection,
    RunnerResponse,
)
from controller.supervisor.backend import Readiness
from controller.system.turnstile import TURNSTILE

__all__ = ["RunnerClient", "RunnerResponse"]

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
CONNECT_TIMEOUT_S = 2.0
# A probe's whole answer, however many pieces it comes in.
PROBE_TIMEOUT_S = 1.0
# An answer's head, from its first byte: no runner sends one in pieces.
ANSWER_HEAD_S = 10.0
MAX_HEALTH_BYTES = 64 * 1024
_KEEP_IDLE_S = 30.0
_DIED_FIRST = "the model ended the connection before its answer began"


class RunnerClient:
    """Forwards to runners on this machine over kept connections. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[int, list[tuple[float, RunnerConnection]]] = defaultdict(list)

    def probe(self, port: int, path: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> Readiness:
        """Ask once, by a GET of this path, whether the model is ready, which a 200 means; `timeout_s` bounds it all."""
        try:
            with socket.create_connection((HOST, port), timeout_s) as sock:
                status, content = _get(sock, port, path, time.monotonic() + timeout_s)
        except ConnectionRefusedError:
            return Readiness(ready=False, is_refused=True)
        except TimeoutError:
            return Readiness(ready=False, is_silent=True)
        except (OSError, BrokenOff):
            return Readiness(ready=False, is_broken=True)
        except Malformed:
            return Readiness(ready=False)
        report = _json_object(content)
        phases = report.get("phases")
        return Readiness(
            ready=status == 200,
            phase=str(report.get("phase", "")),
            phases=phases if isinstance(phases, dict) else {},
        )

    def post(
        self,
        port: int,
        path: str,
        body: bytes,
        headers: dict[str, str],
        in_flight: InFlightRequest,
    ) -> RunnerResponse:
        """Send a JSON body and return once the answer's head is there; `in_flight` may be aborted meanwhile.

        Raises ModelDied if no byte of an answer came (so sending it again is safe), UpstreamTimeout, or UpstreamInvalid
        for what no runner answers: redirects, encodings, broken or endless heads.
        """
        request = _request_bytes(port, path, body, headers)
        connection = self._take(port)
        if connection is not None:
            try:
                return self._exchange(connection, request, in_flight)
            except ModelDied:
                log.debug("port %d: a kept connection had been closed; opening a new one", port)
        return self._exchange(_connect(port), request, in_flight)

    def tidy(self) -> None:
        """Close the kept connections that have been idle for too long, or whose models have gone."""
        with self._lock:
            for idle in self._idle.values():
                for one in [one for one in idle if not _is_usable(*one)]:
                    idle.remove(one)
                    one[1].sock.close()

    def close(self) -> None:
        """Close the kept connections."""
        with self._lock:
            for idle in self._idle.values():
                while idle:
                    idle.pop()[1].sock.close()

    def _exchange(self, connection: RunnerConnection, request: bytes, in_flight: InFlightRequest) -> RunnerResponse:
        in_flight.attach(connection.sock)
        try:
            head, body_start = _ask(connection.sock, request)
            if 300 <= head.status < 400 or head.content_encoding != "identity":
                raise UpstreamInvalid("the model answered with a redirect or an encoding, which is never followed")
        except BaseException:
            in_flight.detach()
            connection.sock.close()
            raise
        return RunnerResponse(connection, head, body_start, in_flight, self._put)

    def _take(self, port: int) -> RunnerConnection | None:
        with self._lock:
            idle = self._idle[port]
            while idle:
                since, connection = idle.pop()
                if _is_usable(since, connection):
                    return connection
                connection.sock.close()
        return None

    def _put(self, connection: RunnerConnection) -> None:
        now = time.monotonic()
        with self._lock:
            idle = self._idle[connection.port]
            while idle and now - idle[0][0] > _KEEP_IDLE_S:
                idle.pop(0)[1].sock.close()
            idle.append((now, connection))


def _connect(port: int) -> RunnerConnection:
    try:
        sock = socket.create_connection((HOST, port), CONNECT_TIMEOUT_S)
    except (ConnectionError, TimeoutError) as exc:
        raise ModelDied(f"the model's port takes no connection: {exc}") from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return RunnerConnection(port, sock)


def _request_bytes(port: int, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Return the whole request, so that one call sends it."""
    fields = {"Host": f"{HOST}:{port}", "Content-Type": "application/json", **headers, "Content-Length": len(body)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def _ask(sock: socket.socket, request: bytes) -> tuple[Head, bytes]:
    """Return the answer's head, and what came of its body with it."""
    data, deadline = b"", None
    sock.settimeout(READ_TIMEOUT_S)
    try:
        sock.sendall(request)
        while (parts := split_head(data)) is None:
            if deadline is not None:
                sock.settimeout(max(deadline - time.monotonic(), 0.001))
            elif data:
                deadline = time.monotonic() + ANSWER_HEAD_S
            with TURNSTILE.away():
                piece = sock.recv(RECEIVE_BYTES)
            if not piece:
                break
            data += piece
    except TimeoutError as exc:
        if data:
            raise UpstreamInvalid(f"the model's answer is no HTTP: no head within {ANSWER_HEAD_S:g} s") from exc
        raise UpstreamTimeout(f"the model did not answer within {READ_TIMEOUT_S:g} s") from exc
    except ConnectionError as exc:
        raise ModelDied(_DIED_FIRST) from exc
    except (Malformed, OSError) as exc:
        raise UpstreamInvalid(f"the model's answer is no HTTP: {exc}") from exc
    if parts is None:
        if data:
            raise UpstreamInvalid("the model's answer is no HTTP: it ends within its head")
        raise ModelDied(_DIED_FIRST)
    return parts


def _get(sock: socket.socket, port: int, path: str, deadline: float) -> tuple[int, bytes]:
    """Return status and content of the answer to a GET; raise OSError at the deadline, and for what is no answer."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n".encode("latin-1"))

    def receive() -> bytes:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        return sock.recv(RECEIVE_BYTES)

    data = b""
    while (parts := split_head(data)) is None:
        piece = receive()
        if not piece:
            raise BrokenOff
        data += piece
    head, body_start = parts
    body = Body(head)
    content = body.feed(body_start) if body_start else b""
    while not body.is_over and len(content) < MAX_HEALTH_BYTES:
        content += body.feed(receive())
    return head.status, content


def _is_usable(since: float, connection: RunnerConnection) -> bool:
    """Tell whether a connection, idle since then, may be used; one that is readable was closed by the other end (or
    has an answer to no request)."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return time.monotonic() - since < _KEEP_IDLE_S and not poll.poll(0)


def _json_object(raw: bytes) -> dict[str, object]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
