"""Breaking a request off with a reason."""

from __future__ import annotations

import pytest

from controller.errors import ModelDied, UpstreamTimeout
from controller.proxy.in_flight import InFlightRequest


def test_a_cut_fires_what_breaks_it_off() -> None:
    """The connection in use is broken off, and whoever met its end gets the reason."""
    fired: list[str] = []
    sent = InFlightRequest("c", lambda abort: None)
    sent.on_abort(lambda: fired.append("first"))
    sent.on_abort(lambda: fired.append("second"))
    sent.raise_if_cut(ModelDied("broke"))
    cause = UpstreamTimeout("it hung")
    sent.cut(cause)
    assert fired == ["second"]
    with pytest.raises(UpstreamTimeout, match="it hung") as raised:
        sent.raise_if_cut(ModelDied("broke"))
    assert raised.value is not cause


def test_a_cut_before_the_connection_holds() -> None:
    """One that is cut before it was sent, or between two connections, is broken off as soon as it is."""
    fired: list[str] = []
    sent = InFlightRequest("c", lambda abort: None)
    sent.cut(UpstreamTimeout("it hung"))
    sent.on_abort(lambda: fired.append("at once"))
    assert fired == ["at once"]


def test_the_first_reason_counts() -> None:
    """What breaks it off later does not change what its client is told."""
    sent = InFlightRequest("c", lambda abort: None)
    sent.cut(UpstreamTimeout("first"))
    sent.cut(UpstreamTimeout("second"))
    with pytest.raises(UpstreamTimeout, match="first"):
        sent.raise_if_cut(ModelDied("broke"))
