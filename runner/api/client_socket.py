"""A client's socket, for the middle of an answer whose head and first piece the server has written."""

from __future__ import annotations

import os
import socket
from typing import Any

# By what the server puts around each piece of a body without a length; for others it alone knows.
_IS_CHUNKED = {"HTTP/1.1": True, "HTTP/1.0": False}


def writer_of(environ: dict[str, Any]) -> ClientSocketWriter | None:
    """The wire of a request; None where the server does not give its socket away, or frames bodies in another way."""
    client, is_chunked = environ.get("gunicorn.socket"), _IS_CHUNKED.get(environ.get("SERVER_PROTOCOL", ""))
    # Not a subclass, which encrypts; and without a time-out the descriptor itself would block.
    if type(client) is not socket.socket or client.gettimeout() is None or is_chunked is None:
        return None
    return ClientSocketWriter(client, is_chunked=is_chunked)


class ClientSocketWriter:
    """One thread at a time. The server must not use or close the socket meanwhile."""

    def __init__(self, client: socket.socket, *, is_chunked: bool) -> None:
        self._client = client
        self._fd = client.fileno()
        self._is_chunked = is_chunked
        self._rest = b""
        self._error: OSError | None = None

    def send(self, data: bytes) -> bool:
        """Never blocks, never raises. False: not all went out, and `flush` must follow before anything else is sent."""
        if self._is_chunked:
            data = b"%X\r\n%b\r\n" % (len(data), data)
        try:
            # Not `client.send`, which waits as long as the socket's time-out allows, whatever its flags.
            sent = os.write(self._fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._error = error
            return False
        self._rest = data[sent:]
        return not self._rest

    def flush(self) -> None:
        """Writes what `send` left; waits for a slow reader up to the socket's time-out. Raises OSError."""
        if self._error is not None:
            raise self._error
        if self._rest:
            rest, self._rest = self._rest, b""
            self._client.sendall(rest)
