"""What the views work with; composed once by `create_app`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from flask import current_app

from controller.deployment.engines import Engine
from controller.docker.health import DockerHealth
from controller.proxy.forwarding import ModelProxy, Pieces
from controller.proxy.runner_client import RunnerClient
from controller.proxy.stream_pump import StreamPump
from controller.registry import OfferedModels
from controller.registry.reload import Reloader
from controller.server.client_connection import ClientSocket
from controller.server.disconnects import ClientWatcher
from controller.supervisor import CancelToken, Supervisor
from controller.supervisor.backend import ModelFacts


class Watch(Protocol):
    """Something that runs beside the requests until it is closed."""

    def start(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Services:
    """The composed parts of the controller."""

    registry: OfferedModels
    engines: Mapping[str, Engine]
    supervisor: Supervisor
    reloader: Reloader
    proxy: ModelProxy
    runner_client: RunnerClient
    facts: Callable[[str], ModelFacts | None]
    docker_health: DockerHealth
    clients: ClientWatcher
    pump: StreamPump
    watches: tuple[Watch, ...] = ()

    def cut(self) -> None:
        """End all that is in flight with an error that says why: the grace of a shutdown is over."""
        # Every answer that is aborted frees a place at its model, which no request may take any more.
        self.supervisor.close()
        self.proxy.abort_all()

    def close(self) -> None:
        """End threads and close kept connections; running models stay up."""
        for watch in self.watches:
            watch.close()
        self.supervisor.close()
        self.runner_client.close()

    def watch(self, environ: Mapping[str, Any], token: CancelToken) -> Callable[[], None]:
        """Cancel the token when the client of this request leaves; return what ends the watch.

        gunicorn passes its socket in the environment; other servers (in tests) have none to watch.
        """
        client = environ.get("gunicorn.socket")
        return (lambda: None) if client is None else self.clients.watch(client, token.cancel)

    def carrier(self, environ: Mapping[str, Any], pieces: Pieces) -> Callable[[], None] | None:
        """Return what sends the rest of a stream to the client of this request, past the server's own writing.

        None if the pieces have to be asked for, the answer is not framed in chunks, or the socket is not one of ours.
        """
        client, source = environ.get("gunicorn.socket"), pieces.source
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
    """Return what `create_app` composed, for the app of the current request."""
    parts = current_app.extensions["orchestrar"]
    assert isinstance(parts, Services)
    return parts
