"""The only home of the upstream HTTP client: the readiness probe, and requests forwarded to a runner."""

from __future__ import annotations

import json
import logging
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable

from controller.errors import ModelDied, UpstreamInvalid, UpstreamTimeout
from controller.proxy.http1 import Body, BrokenOff, Head, Malformed, split_head
from controller.proxy.runner_response import READ_TIMEOUT_S, RECEIVE_BYTES, Abort, RunnerConnection, RunnerResponse
from controller.supervisor.backend import Readiness
from controller.system.turnstile import TURNSTILE

__all__ = ["RunnerClient", "RunnerResponse"]

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
CONNECT_TIMEOUT_S = 2.0
# A probe's answer as a whole, however many pieces it comes in.
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
        """One GET of the path that tells; any answer but a 200 means not yet. `timeout_s` bounds the whole of it."""
        try:
            with socket.create_connection((HOST, port), timeout_s) as sock:
                status, content = _get(sock, port, path, time.monotonic() + timeout_s)
        except ConnectionRefusedError:
            return Readiness(ready=False, refused=True)
        except TimeoutError:
            return Readiness(ready=False, silent=True)
        except (OSError, BrokenOff):
            return Readiness(ready=False, broken=True)
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
        on_abort: Callable[[Callable[[], None]], None],
    ) -> RunnerResponse:
        """Send a JSON body; returns when the answer's head is there. `on_abort` is given what breaks the request off.

        Raises ModelDied when no byte of an answer came (so sending it again is safe), UpstreamTimeout, or
        UpstreamInvalid for what no runner answers: redirects, encodings, broken or endless heads.
        """
        request = _request_bytes(port, path, body, headers)
        kept = self._take(port)
        if kept is not None:
            try:
                return self._exchange(kept, request, on_abort)
            except ModelDied:
                log.debug("port %d: a kept connection had been closed, connecting anew", port)
        return self._exchange(_connect(port), request, on_abort)

    def tidy(self) -> None:
        """Close the kept connections that have served their time, or whose models have gone."""
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

    def _exchange(
        self, connection: RunnerConnection, request: bytes, on_abort: Callable[[Callable[[], None]], None]
    ) -> RunnerResponse:
        abort = Abort(connection.sock)
        try:
            on_abort(abort.fire)
            head, begun = _ask(connection.sock, request)
            if 300 <= head.status < 400 or head.content_encoding != "identity":
                raise UpstreamInvalid("the model answered with a redirect or an encoding, which is never followed")
        except BaseException:
            abort.disarm()
            connection.sock.close()
            raise
        return RunnerResponse(connection, head, begun, abort, self._put)

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
    """The whole request, so that one call sends it."""
    fields = {"Host": f"{HOST}:{port}", "Content-Type": "application/json", **headers, "Content-Length": len(body)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def _ask(sock: socket.socket, request: bytes) -> tuple[Head, bytes]:
    """The answer's head, and what came of its body with it."""
    received, deadline = b"", None
    sock.settimeout(READ_TIMEOUT_S)
    try:
        sock.sendall(request)
        while (found := split_head(received)) is None:
            if deadline is not None:
                sock.settimeout(max(deadline - time.monotonic(), 0.001))
            elif received:
                deadline = time.monotonic() + ANSWER_HEAD_S
            with TURNSTILE.away():
                piece = sock.recv(RECEIVE_BYTES)
            if not piece:
                break
            received += piece
    except TimeoutError as exc:
        if received:
            raise UpstreamInvalid(f"the model's answer is no HTTP: no head within {ANSWER_HEAD_S:g} s") from exc
        raise UpstreamTimeout(f"the model did not answer within {READ_TIMEOUT_S:g} s") from exc
    except ConnectionError as exc:
        raise ModelDied(_DIED_FIRST) from exc
    except (Malformed, OSError) as exc:
        raise UpstreamInvalid(f"the model's answer is no HTTP: {exc}") from exc
    if found is None:
        if received:
            raise UpstreamInvalid("the model's answer is no HTTP: it ends within its head")
        raise ModelDied(_DIED_FIRST)
    return found


def _get(sock: socket.socket, port: int, path: str, deadline: float) -> tuple[int, bytes]:
    """Status and content of the answer to a GET; raises OSError at the deadline, and for what is no answer."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n".encode("latin-1"))

    def receive() -> bytes:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        return sock.recv(RECEIVE_BYTES)

    received = b""
    while (found := split_head(received)) is None:
        piece = receive()
        if not piece:
            raise BrokenOff
        received += piece
    head, begun = found
    body = Body(head)
    content = body.feed(begun) if begun else b""
    while not body.is_over and len(content) < MAX_HEALTH_BYTES:
        content += body.feed(receive())
    return head.status, content


def _is_usable(since: float, connection: RunnerConnection) -> bool:
    """Whether a connection, idle since then, may be asked; one that is readable was closed by the other end (or answers
    what nobody asked)."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return time.monotonic() - since < _KEEP_IDLE_S and not poll.poll(0)


def _json_object(raw: bytes) -> dict[str, object]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
