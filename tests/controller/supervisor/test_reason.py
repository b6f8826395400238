"""The line of a log that becomes the reason in an error: true ones of servers that ended."""

from __future__ import annotations

import pytest

from controller.supervisor.failures.reason import reason_of

UNKNOWN = "llama_model_load: error loading model: error loading model architecture: unknown model architecture: 'foo'"


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (["starting", UNKNOWN, "srv load_model: failed to load model, '/model/a.gguf'", "srv: cleaning up"], UNKNOWN),
        (["error: a first one", "ERROR runner: cannot serve: x"], "ERROR runner: cannot serve: x"),
        (["error: x", "/b/ggml.c:9: GGML_ASSERT(n > 0) failed", "0x1 main"], "/b/ggml.c:9: GGML_ASSERT(n > 0) failed"),
        (["terminate called", "  what():  stoi", "aborted"], "what():  stoi"),
        (["exiting due to model loading error"], "exiting due to model loading error"),
        (["it was short", '{"phase": "converting", "fraction": 0.5}', "......", " "], "it was short"),
        (['{"phase": "converting"}'], None),
        ([], None),
    ],
)  # fmt: skip
def test_of_a_start(log: list[str], expected: str | None) -> None:
    """The error, not what its program wrote after it, and never a line of progress."""
    assert expected == reason_of(log, was_serving=False)


def test_of_a_server_that_served() -> None:
    """An error that was answered ended nothing; a crash did."""
    answered = 'srv: got exception: {"error":{"code":400}}'
    assert "the last line" == reason_of([answered, "the last line"], was_serving=True)
    crash = "GGML_ASSERT(false) failed"
    assert crash == reason_of([crash, answered, "the last line"], was_serving=True)
