"""The translation from the OpenAI API to Ollama's, by itself."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from controller.api.ollama.answers import Lines, OllamaFormat
from controller.api.ollama.bodies import ChatBody
from controller.api.ollama.embeddings import EmbedFormat
from controller.api.ollama.progress import StatusLines
from controller.api.ollama.requests import chat_request
from controller.api.translation.openai_events import MAX_EVENT_BYTES
from controller.api.translation.stream import TranslatedStream
from controller.errors import UpstreamAnswered, UpstreamError, UpstreamInvalid
from controller.proxy.forwarding import WaitTimes
from controller.proxy.stream_pump import Source
from controller.supervisor.backend import PreparationProgress
from tests.fakes import FakeClock, make_spec

WAIT_TIMES = WaitTimes(start_s=2.0, queue_s=1.0)


def event(value: Any) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


class Pieces:
    """An answer's pieces, as the test cuts them."""

    source: Source | None = None

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = iter(pieces)

    def read_piece(self) -> bytes:
        return next(self._pieces, b"")

    def close(self) -> None: ...


def read(*pieces: bytes, clock: FakeClock | None = None, is_chat: bool = True) -> Iterator[dict[str, Any]]:
    """Translate the pieces; yield each object that a client gets as soon as there is one."""
    answer_format = OllamaFormat("tiny", is_chat=is_chat, clock=(clock or FakeClock()).monotonic)
    stream = TranslatedStream(Pieces(*pieces), Lines(answer_format, WAIT_TIMES))
    while piece := stream.read_piece():
        yield from (json.loads(line) for line in piece.splitlines())


STREAM = (
    b": comment\r\n\r\n"
    + event(delta(role="assistant", content=""))
    + event(delta(content="Grüße, "))
    + event(delta(content="Welt"))
    + event({"choices": [{"delta": {}, "finish_reason": "length"}], "usage": None})
    + event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    + b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("size", [1, 2, 7, 50, len(STREAM)])
def test_a_stream_may_be_cut_anywhere(size: int) -> None:
    """Wherever the pieces end, also within a character, the lines are the same."""
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    *parts, last = read(*pieces)
    assert ["Grüße, ", "Welt"] == [part["message"]["content"] for part in parts]
    assert (True, "length", 3, 2) == (
        last["done"],
        last["done_reason"],
        last["prompt_eval_count"],
        last["eval_count"],
    )


def test_half_a_character_breaks_nothing() -> None:
    """JSON can hold half a pair of surrogates; the answer goes on without it."""
    first, _ = read(event(delta(content="a\ud83d")) + b"data: [DONE]\n\n")
    assert "a?" == first["message"]["content"]


def test_a_word_is_sent_before_the_next_exists() -> None:
    """No text is held back: a whole event is translated, whatever comes after it."""
    first = event(delta(content="one")) + b"data: {"
    assert "one" == next(read(first))["message"]["content"]


def test_times_are_separate() -> None:
    """The wait for the model, the time to the first word and the time from there on, in nanoseconds."""
    clock = FakeClock()

    class Slow(Pieces):
        def read_piece(self) -> bytes:
            clock.advance(4)
            return super().read_piece()

    answer_format = OllamaFormat("tiny", is_chat=False, clock=clock.monotonic)
    pieces = [event(delta(content=word)) for word in "ab"]
    stream = TranslatedStream(Slow(*pieces, b"data: [DONE]\n\n"), Lines(answer_format, WAIT_TIMES))
    *_, last = [stream.read_piece() for _ in range(3)]
    times = json.loads(last)
    assert [12e9, 3e9, 1e9, 8e9] == [times[f"{name}_duration"] for name in ("total", "load", "prompt_eval", "eval")]


def test_a_whole_answer_has_the_engines_times() -> None:
    """Without them the time to the first word is unknown, and is not made up."""
    answer = {"choices": [{"message": {"content": "x"}}]}
    clock = FakeClock()
    answer_format = OllamaFormat("tiny", is_chat=True, clock=clock.monotonic)
    clock.advance(10)
    silent = answer_format.translate(answer, WAIT_TIMES)
    assert ("prompt_eval_duration" in silent, silent["eval_duration"]) == (False, 7e9)
    timed = answer_format.translate({**answer, "timings": {"prompt_ms": 1500, "predicted_ms": 5000.5}}, WAIT_TIMES)
    assert (1.5e9, 5.0005e9) == (timed["prompt_eval_duration"], timed["eval_duration"])
    assert "eval_count" not in timed


@pytest.mark.parametrize("ends_there", [True, False])
def test_an_error_takes_nothing_back(ends_there: bool) -> None:
    """Words that came in the same piece as an error reach the client first."""
    piece = event(delta(content="one")) + event({"error": {"message": "the engine failed", "code": "c"}})
    stream = read(piece) if ends_there else read(piece, event(delta(content="two")))
    assert "one" == next(stream)["message"]["content"]
    with pytest.raises(UpstreamAnswered, match="the engine failed"):
        next(stream)


def test_errors_of_other_shapes_are_errors() -> None:
    """A server's error may be a text."""
    with pytest.raises(UpstreamError, match="out of memory"):
        next(read(event({"error": "out of memory"})))


@pytest.mark.parametrize(
    "piece",
    [
        b"data: {\n\n",
        b"data: [1]\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        event({"choices": 5}),
        event({"choices": ["x"]}),
        event({"choices": [{"delta": "x"}]}),
        event(delta(content=["x"])),
        event(delta(tool_calls="x")),
        event(delta(tool_calls=5)),
        event(delta(tool_calls=[{"index": "x"}])),
        event(delta(tool_calls=[{"function": {"arguments": 5}}])),
        event(delta(tool_calls=[{"function": {"name": "f", "arguments": "[1]"}}])) + b"data: [DONE]\n\n",
        event(delta(tool_calls=[{"function": {"name": "f", "arguments": "{"}}])) + b"data: [DONE]\n\n",
        event({"usage": "x"}),
        event(delta(content="")),
        b"",
    ],
    ids=repr,
)
def test_a_malformed_stream_is_the_models_fault(piece: bytes) -> None:
    """Events that no engine sends, and an end without `[DONE]`, are the model's errors; our code does not break."""
    with pytest.raises(UpstreamInvalid):
        list(read(piece))


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": []},
        {"choices": [{"message": 5}]},
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"message": {"tool_calls": [{"function": None}]}}]},
        {"choices": [{"message": {}}], "usage": 5},
    ],
    ids=repr,
)
def test_a_malformed_answer_is_the_models_fault(answer: dict[str, Any]) -> None:
    """The same for a whole answer."""
    with pytest.raises(UpstreamInvalid):
        OllamaFormat("tiny", is_chat=True).translate(answer, WAIT_TIMES)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"data": 5},
        {"data": [{"index": 0}]},
        {"data": [{"index": 0, "embedding": ["x"]}]},
        {"data": [{"index": 0, "embedding": [float("nan")]}]},
        {"data": [{"index": 0, "embedding": [10**400]}]},
    ],
    ids=lambda value: repr(value)[:40],
)
def test_malformed_embeddings_are_the_models_fault(answer: dict[str, Any]) -> None:
    """The same for vectors."""
    with pytest.raises(UpstreamInvalid):
        EmbedFormat("vectors").translate(answer, WAIT_TIMES)


def test_a_vector_without_direction_stays() -> None:
    """Zeros have no length to divide by, and are not changed."""
    (vector,) = EmbedFormat("vectors").translate({"data": [{"index": 0, "embedding": [0, 0]}]}, WAIT_TIMES)[
        "embeddings"
    ]
    assert [0.0, 0.0] == vector


def test_an_event_without_end_is_bounded() -> None:
    """A line that never ends does not fill the memory."""
    pieces = itertools.repeat(b"x" * 65_536, MAX_EVENT_BYTES // 65_536 + 2)
    with pytest.raises(UpstreamInvalid, match="larger than"):
        list(read(*pieces))


def test_a_stream_has_no_more_after_its_end() -> None:
    """Whatever a model sends after its `[DONE]` is not passed on."""
    assert 2 == len(list(read(event(delta(content="x")) + b"data: [DONE]\n\n" + event(delta(content="y")))))


def test_several_calls_stay_separate() -> None:
    """Calls whose parts alternate in a stream each keep their own name and arguments."""
    bits = [(0, "f", '{"a"'), (1, "g", '{"b"'), (0, None, ": 1}"), (1, None, ": 2}")]
    pieces = [
        event(delta(tool_calls=[{"index": index, "function": {"name": name, "arguments": text}}]))
        for index, name, text in bits
    ]
    calls, last = read(*pieces, b"data: [DONE]\n\n")
    functions = [call["function"] for call in calls["message"]["tool_calls"]]
    assert [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {"b": 2}}] == functions
    assert last["done"]


def test_results_find_their_calls() -> None:
    """The OpenAI API names the call of a result; Ollama's API goes by the tool's name, and by order."""

    def call_of(name: str) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {"x": 1}}}

    messages = [
        {"role": "assistant", "tool_calls": [call_of("f"), call_of("g"), call_of("f")]},
        {"role": "tool", "tool_name": "g", "content": "1"},
        {"role": "tool", "tool_name": "f", "content": "2"},
        {"role": "tool", "content": "3"},
        {"role": "tool", "tool_call_id": "own", "content": "4"},
        {"role": "tool", "tool_name": "h", "content": "5"},
    ]
    body = ChatBody.model_validate({"model": "tiny", "messages": messages})
    translated = json.loads(chat_request(body, make_spec()).body)["messages"]
    first, second, third = translated[0]["tool_calls"]
    assert {"name": "f", "arguments": '{"x": 1}'} == first["function"]
    assert 3 == len({first["id"], second["id"], third["id"]})
    assert [second["id"], first["id"], third["id"], "own", "h"] == [
        message["tool_call_id"] for message in translated[1:]
    ]


def test_a_silent_pull_repeats_its_status() -> None:
    """Ollama's clients know no empty line; the last status is repeated."""
    lines = StatusLines("ab" * 32)
    assert {"status": "pulling manifest"} == json.loads(lines.silence())
    line = lines.progress(PreparationProgress(phase="converting", fraction=0.1))
    assert line == lines.silence()
