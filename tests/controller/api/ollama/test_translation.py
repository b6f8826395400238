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


def delta(**said: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": said, "finish_reason": None}]}


class Pieces:
    """An answer's pieces as the test has them arrive."""

    source: Source | None = None

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = iter(pieces)

    def read_piece(self) -> bytes:
        return next(self._pieces, b"")

    def close(self) -> None: ...


def read(*pieces: bytes, clock: FakeClock | None = None, is_chat: bool = True) -> Iterator[dict[str, Any]]:
    """The objects that a client gets, each when it is worded."""
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
    """JSON can hold one half of a pair of surrogates; the answer goes on without it."""
    first, _ = read(event(delta(content="a\ud83d")) + b"data: [DONE]\n\n")
    assert "a?" == first["message"]["content"]


def test_a_word_leaves_before_the_next_exists() -> None:
    """No text is held back: an event that is whole is worded, whatever comes after it."""
    first = event(delta(content="one")) + b"data: {"
    assert "one" == next(read(first))["message"]["content"]


def test_times_are_told_apart() -> None:
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
    found = json.loads(last)
    assert [12e9, 3e9, 1e9, 8e9] == [found[f"{name}_duration"] for name in ("total", "load", "prompt_eval", "eval")]


def test_a_whole_answer_has_what_the_engine_told_of_its_times() -> None:
    """Without it the time to the first word is not known, and not made up."""
    answer = {"choices": [{"message": {"content": "x"}}]}
    clock = FakeClock()
    answer_format = OllamaFormat("tiny", is_chat=True, clock=clock.monotonic)
    clock.advance(10)
    silent = answer_format.translate(answer, WAIT_TIMES)
    assert ("prompt_eval_duration" in silent, silent["eval_duration"]) == (False, 7e9)
    told = answer_format.translate({**answer, "timings": {"prompt_ms": 1500, "predicted_ms": 5000.5}}, WAIT_TIMES)
    assert (1.5e9, 5.0005e9) == (told["prompt_eval_duration"], told["eval_duration"])
    assert "eval_count" not in told


@pytest.mark.parametrize("ends_there", [True, False])
def test_an_error_takes_nothing_back(ends_there: bool) -> None:
    """Words that came in the same piece as an error reach the client first."""
    broken = event(delta(content="one")) + event({"error": {"message": "the engine failed", "code": "c"}})
    stream = read(broken) if ends_there else read(broken, event(delta(content="two")))
    assert "one" == next(stream)["message"]["content"]
    with pytest.raises(UpstreamAnswered, match="the engine failed"):
        next(stream)


def test_errors_of_other_shapes_are_errors() -> None:
    """A server that sends its error as a text has it told."""
    with pytest.raises(UpstreamError, match="out of memory"):
        next(read(event({"error": "out of memory"})))


@pytest.mark.parametrize(
    "said",
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
def test_a_strange_stream_is_the_models_fault(said: bytes) -> None:
    """What no engine sends, and an end without `[DONE]`, is an error of the model's; nothing of ours breaks."""
    with pytest.raises(UpstreamInvalid):
        list(read(said))


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
def test_a_strange_answer_is_the_models_fault(answer: dict[str, Any]) -> None:
    """The same for an answer in one piece."""
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
def test_strange_embeddings_are_the_models_fault(answer: dict[str, Any]) -> None:
    """And for vectors."""
    with pytest.raises(UpstreamInvalid):
        EmbedFormat("vectors").translate(answer, WAIT_TIMES)


def test_a_vector_without_direction_stays() -> None:
    """Zeros have no length to divide by."""
    (vector,) = EmbedFormat("vectors").translate({"data": [{"index": 0, "embedding": [0, 0]}]}, WAIT_TIMES)[
        "embeddings"
    ]
    assert [0.0, 0.0] == vector


def test_an_event_without_end_is_bounded() -> None:
    """A line that never ends does not fill the memory."""
    pieces = itertools.repeat(b"x" * 65_536, MAX_EVENT_BYTES // 65_536 + 2)
    with pytest.raises(UpstreamInvalid, match="larger than"):
        list(read(*pieces))


def test_nothing_comes_after_the_end() -> None:
    """What a model sends after its `[DONE]` is not passed on."""
    assert 2 == len(list(read(event(delta(content="x")) + b"data: [DONE]\n\n" + event(delta(content="y")))))


def test_several_calls_keep_apart() -> None:
    """Calls that are streamed in turns come out each with its own name and arguments."""
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
    """The OpenAI API names the call that a result belongs to; Ollama's go by name, and by order."""

    def called(name: str) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {"x": 1}}}

    messages = [
        {"role": "assistant", "tool_calls": [called("f"), called("g"), called("f")]},
        {"role": "tool", "tool_name": "g", "content": "1"},
        {"role": "tool", "tool_name": "f", "content": "2"},
        {"role": "tool", "content": "3"},
        {"role": "tool", "tool_call_id": "own", "content": "4"},
        {"role": "tool", "tool_name": "h", "content": "5"},
    ]
    body = ChatBody.model_validate({"model": "tiny", "messages": messages})
    asked = json.loads(chat_request(body, make_spec()).body)["messages"]
    first, second, third = asked[0]["tool_calls"]
    assert {"name": "f", "arguments": '{"x": 1}'} == first["function"]
    assert 3 == len({first["id"], second["id"], third["id"]})
    assert [second["id"], first["id"], third["id"], "own", "h"] == [one["tool_call_id"] for one in asked[1:]]


def test_a_silent_pull_says_again_what_it_does() -> None:
    """Ollama's clients know no empty line; the last status is repeated."""
    lines = StatusLines("ab" * 32)
    assert {"status": "pulling manifest"} == json.loads(lines.silence())
    said = lines.progress(PreparationProgress(phase="converting", fraction=0.1))
    assert said == lines.silence()
