"""Aborting a request with a reason."""

from __future__ import annotations

import socket

import pytest

from controller.errors import ModelDied, UpstreamTimeout
from controller.proxy.runner_response import InFlightRequest


class Connection(socket.socket):
    """Notes how often it is shut down."""

    shutdowns = 0

    def shutdown(self, how: int, /) -> None:
        assert how == socket.SHUT_RDWR
        self.shutdowns += 1


def test_an_abort_ends_the_connection() -> None:
    """The connection in use is shut down, no earlier one is, and the thread that waited on it gets the reason."""
    in_flight = InFlightRequest("c")
    with Connection() as first, Connection() as second:
        in_flight.attach(first)
        in_flight.attach(second)
        in_flight.raise_cause(ModelDied("broke"))
        cause = UpstreamTimeout("it hung")
        in_flight.abort(cause)
        assert (0, 1) == (first.shutdowns, second.shutdowns)
    with pytest.raises(UpstreamTimeout, match="it hung") as failure:
        in_flight.raise_cause(ModelDied("broke"))
    assert failure.value is not cause


def test_an_abort_before_the_connection_counts() -> None:
    """A request that is aborted before it was sent, or between two connections, has its next connection shut down."""
    in_flight = InFlightRequest("c")
    in_flight.abort(UpstreamTimeout("it hung"))
    with Connection() as connection:
        in_flight.attach(connection)
        assert 1 == connection.shutdowns


def test_a_detached_connection_is_left_alone() -> None:
    """After the request, its connection may serve another one."""
    in_flight = InFlightRequest("c")
    with Connection() as connection:
        in_flight.attach(connection)
        in_flight.detach()
        in_flight.abort()
        assert 0 == connection.shutdowns


def test_the_first_reason_counts() -> None:
    """A later abort does not change which error the client gets."""
    in_flight = InFlightRequest("c")
    in_flight.abort(UpstreamTimeout("first"))
    in_flight.abort(UpstreamTimeout("second"))
    with pytest.raises(UpstreamTimeout, match="first"):
        in_flight.raise_cause(ModelDied("broke"))
