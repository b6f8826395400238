"""The only home of the upstream HTTP client: the readiness probe, and requests forwarded to a runner."""

from __future__ import annotations

import http.client
import json
import logging
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from controller.errors import ModelDied, UpstreamInvalid, UpstreamTimeout
from controller.readiness import Readiness

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
CONNECT_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 1.0
# A runner writes a comment every 2 s while it has no token, so a longer silence in a stream is a fault; a plain
# answer is silent until it is whole.
READ_TIMEOUT_S = 300.0
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_HEALTH_BYTES = 64 * 1024
STREAM_CHUNK_BYTES = 64 * 1024
_KEEP_IDLE_S = 30.0
_BROKE_OFF = "the model's connection broke in the middle of its answer; the model may have died"
_DIED = (http.client.RemoteDisconnected, ConnectionError)


class _Abort:
    """Breaks a request off from another thread, until the connection is somebody else's."""

    def __init__(self, sock: socket.socket) -> None:
        self._lock = threading.Lock()
        self._sock: socket.socket | None = sock

    def fire(self) -> None:
        with self._lock:
            if self._sock is not None:
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)

    def disarm(self) -> None:
        with self._lock:
            self._sock = None


class Upstream:
    """An answer that has begun: status and content type are known, the body comes in pieces. Not thread-safe,
    but for `abort`."""

    def __init__(
        self,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        abort: _Abort,
        give_back: Callable[[http.client.HTTPConnection], None],
    ) -> None:
        self.status = response.status
        self.content_type = response.headers.get("Content-Type", "application/octet-stream")
        self._connection: http.client.HTTPConnection | None = connection
        self._response = response
        self._abort = abort
        self._give_back = give_back
        self._ended = False

    def read_piece(self) -> bytes:
        """What has arrived, at least one byte; empty at the proper end.

        Raises ModelDied when the connection breaks before the end, UpstreamTimeout after too long a silence.
        """
        try:
            piece = self._response.read1(STREAM_CHUNK_BYTES)
        except TimeoutError as exc:
            raise UpstreamTimeout(f"the model sent nothing for {READ_TIMEOUT_S:g} s") from exc
        except (http.client.HTTPException, OSError, ValueError) as exc:
            raise ModelDied(_BROKE_OFF) from exc
        if not piece:
            # http.client takes a connection that ends too early for the end of a body of known length.
            if self._response.length:
                raise ModelDied(_BROKE_OFF)
            self._ended = True
        return piece

    def read_all(self) -> bytes:
        """The whole body; raises UpstreamInvalid beyond the bound, else like `read_piece`."""
        pieces, size = [], 0
        while piece := self.read_piece():
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BODY_BYTES:
                raise UpstreamInvalid(f"the model's answer is larger than {MAX_BODY_BYTES} bytes")
        return b"".join(pieces)

    def abort(self) -> None:
        """Break it off, from any thread; a read under way ends in ModelDied."""
        self._abort.fire()

    def close(self) -> None:
        """End it: a body read to its end gives the connection back, any other closes it. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._abort.disarm()
        self._response.close()
        if self._ended and not self._response.will_close:
            self._give_back(connection)
        else:
            connection.close()


class Proxy:
    """Forwards to runners on this machine over kept connections. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[int, list[tuple[float, http.client.HTTPConnection]]] = defaultdict(list)

    def probe(self, port: int, path: str) -> Readiness:
        """One GET of the path that tells; any answer but a 200 means not yet."""
        connection = http.client.HTTPConnection(HOST, port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            report = _json_object(response.read(MAX_HEALTH_BYTES))
        except ConnectionRefusedError:
            return Readiness(ready=False, refused=True)
        except (OSError, http.client.HTTPException):
            return Readiness(ready=False)
        finally:
            connection.close()
        phases = report.get("phases")
        return Readiness(
            ready=response.status == 200,
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
    ) -> Upstream:
        """Send a JSON body; returns when the answer's head is there. `on_abort` is given what breaks the request off.

        Raises ModelDied when no byte of an answer came (so sending it again is safe), UpstreamTimeout, or
        UpstreamInvalid for what no runner answers: redirects, encodings, broken or endless heads.
        """
        kept = self._take(port)
        if kept is not None:
            try:
                return self._exchange(kept, path, body, headers, on_abort)
            except ModelDied:
                log.debug("port %d: a kept connection had been closed, connecting anew", port)
        fresh = http.client.HTTPConnection(HOST, port, timeout=CONNECT_TIMEOUT_S)
        return self._exchange(fresh, path, body, headers, on_abort)

    def close(self) -> None:
        """Close the kept connections."""
        with self._lock:
            for idle in self._idle.values():
                while idle:
                    idle.pop()[1].close()

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        body: bytes,
        headers: dict[str, str],
        on_abort: Callable[[Callable[[], None]], None],
    ) -> Upstream:
        try:
            sock = _connected(connection)
            abort = _Abort(sock)
            on_abort(abort.fire)
            connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
        except _DIED as exc:
            connection.close()
            raise ModelDied("the model ended the connection before its answer began") from exc
        except TimeoutError as exc:
            connection.close()
            raise UpstreamTimeout(f"the model did not answer within {READ_TIMEOUT_S:g} s") from exc
        except (http.client.HTTPException, OSError) as exc:
            connection.close()
            raise UpstreamInvalid(f"the model's answer is no HTTP: {exc!r}") from exc
        upstream = Upstream(connection, response, abort, self._put)
        if 300 <= response.status < 400 or response.headers.get("Content-Encoding", "identity") != "identity":
            upstream.close()
            raise UpstreamInvalid("the model answered with a redirect or an encoding, which is never followed")
        return upstream

    def _take(self, port: int) -> http.client.HTTPConnection | None:
        with self._lock:
            idle = self._idle[port]
            while idle:
                since, connection = idle.pop()
                if time.monotonic() - since < _KEEP_IDLE_S and not _has_closed(connection):
                    return connection
                connection.close()
        return None

    def _put(self, connection: http.client.HTTPConnection) -> None:
        now = time.monotonic()
        with self._lock:
            idle = self._idle[connection.port]
            while idle and now - idle[0][0] > _KEEP_IDLE_S:
                idle.pop(0)[1].close()
            idle.append((now, connection))


def _connected(connection: http.client.HTTPConnection) -> socket.socket:
    if connection.sock is None:
        try:
            connection.connect()  # sets TCP_NODELAY itself
        except TimeoutError as exc:
            raise ConnectionError(f"no connection within {CONNECT_TIMEOUT_S:g} s") from exc
    sock: socket.socket = connection.sock
    sock.settimeout(READ_TIMEOUT_S)
    return sock


def _has_closed(connection: http.client.HTTPConnection) -> bool:
    """An idle connection that is readable was closed by the other end (or answers what nobody asked)."""
    if connection.sock is None:
        return True
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _json_object(raw: bytes) -> dict[str, object]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
