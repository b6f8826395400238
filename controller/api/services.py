"""The parts that the views work with; `create_app` passes them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from flask import current_app

from controller.deployment.engines import Engine
from controller.docker.health import DockerHealth
from controller.proxy.forwarding import ModelProxy, Pieces
from controller.proxy.stream_pump import StreamPump
from controller.registry import OfferedModels
from controller.registry.reload import Reloader
from controller.server.client_connection import ClientSocket, client_socket
from controller.server.disconnects import ClientWatcher
from controller.supervisor import CancelToken, Supervisor
from controller.supervisor.backend import ModelFacts


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the views work with."""

    registry: OfferedModels
    engines: Mapping[str, Engine]
    supervisor: Supervisor
    reloader: Reloader
    proxy: ModelProxy
    facts: Callable[[str], ModelFacts | None]
    docker_health: DockerHealth
    clients: ClientWatcher
    pump: StreamPump

    def watch(self, environ: Mapping[str, Any], token: CancelToken) -> Callable[[], None]:
        """Cancel the token when the client of this request leaves; return what ends the watch."""
        client = client_socket(environ)
        return (lambda: None) if client is None else self.clients.watch(client, token.cancel)

    def carrier(self, environ: Mapping[str, Any], pieces: Pieces) -> Callable[[], None] | None:
        """Return what sends the rest of a stream to the client of this request, past the server's own writing.

        None if the pieces have to be asked for, the answer is not framed in chunks, or the socket is not one of ours.
        """
        client, source = client_socket(environ), pieces.source
        if source is None or not isinstance(client, ClientSocket) or environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
            return None
        return partial(self.pump.run, source, client)

    @contextmanager
    def leaving_client(self, environ: Mapping[str, Any]) -> Iterator[CancelToken]:
        """Yield a token that is cancelled if the client leaves before the block ends."""
        token = CancelToken()
        unwatch = self.watch(environ, token)
        try:
            yield token
        finally:
            unwatch()


def services() -> Services:
    """Return the services of the current request's app."""
    parts = current_app.extensions["orchestrar"]
    assert isinstance(parts, Services)
    return parts
