"""Writes to a client's socket in the middle of an answer, after the server has written its head and first piece."""

from __future__ import annotations

import os
import socket
from typing import Any

# Whether the server sends a body without a length in chunks. For other protocols only the server knows.
_IS_CHUNKED = {"HTTP/1.1": True, "HTTP/1.0": False}


def writer_of(environ: dict[str, Any]) -> ClientSocketWriter | None:
    """Return a writer for a request's client; None if the server hides its socket, or frames bodies differently."""
    client, is_chunked = environ.get("gunicorn.socket"), _IS_CHUNKED.get(environ.get("SERVER_PROTOCOL", ""))
    # Not a subclass, which encrypts; and without a time-out, writing to the descriptor itself would block.
    if type(client) is not socket.socket or client.gettimeout() is None or is_chunked is None:
        return None
    return ClientSocketWriter(client, is_chunked=is_chunked)


class ClientSocketWriter:
    """For one thread at a time. The server must not use or close the socket meanwhile."""

    def __init__(self, client: socket.socket, *, is_chunked: bool) -> None:
        self._client = client
        self._fd = client.fileno()
        self._is_chunked = is_chunked
        self._rest = b""
        self._error: OSError | None = None

    def send(self, data: bytes) -> bool:
        """Send without blocking or raising. Returns False if not all went out: call `flush` before sending more."""
        if self._is_chunked:
            data = b"%X\r\n%b\r\n" % (len(data), data)
        try:
            # Not `client.send`, which waits for up to the socket's time-out whatever its flags are.
            count = os.write(self._fd, data)
        except BlockingIOError:
            count = 0
        except OSError as error:
            self._error = error
            return False
        self._rest = data[count:]
        return not self._rest

    def flush(self) -> None:
        """Write what `send` left; wait for a slow reader for up to the socket's time-out. Raises OSError."""
        if self._error is not None:
            raise self._error
        if self._rest:
            rest, self._rest = self._rest, b""
            self._client.sendall(rest)
