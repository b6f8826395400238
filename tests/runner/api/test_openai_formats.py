"""The OpenAI API's routes with a fake engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.runner.api.test_routes import LateGate, assert_error
from tests.runner.conftest import RunnerServer
from tests.runner.fake_engine import FakeEngine

Serve = Callable[..., RunnerServer]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def chat(*contents: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "some-name", "messages": [{"role": "user", "content": one} for one in contents], **fields}


def events(runner: RunnerServer, path: str, body: dict[str, Any]) -> list[str]:
    """Return the data of each event of a stream, without comments."""
    connection, response = runner.stream(body, path)
    blocks = response.read().decode().split("\n\n")
    connection.close()
    assert all(block.startswith("data: ") or block in ("", ":") for block in blocks)
    return [block.removeprefix("data: ") for block in blocks if block.startswith("data: ")]


def test_a_whole_chat_answer_has_the_apis_shape(serve: Serve) -> None:
    """An answer has every field of the API, under the name that the client wrote."""
    status, answer, _ = serve(FakeEngine()).request("POST", CHAT, chat("one two"))
    assert 200 == status
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert {"prompt_ms", "predicted_ms"} == set(answer.pop("timings"))
    message = {"role": "assistant", "content": "one two ", "refusal": None}
    assert {
        "object": "chat.completion",
        "model": "some-name",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    } == answer


def test_a_whole_completion_has_the_apis_shape(serve: Serve) -> None:
    """A completion is a text; without a model's name, the runner uses its own."""
    status, answer, _ = serve(FakeEngine()).request("POST", COMPLETIONS, {"prompt": ["one two"], "max_tokens": 1})
    assert 200 == status
    assert answer.pop("id").startswith("cmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert {"prompt_ms", "predicted_ms"} == set(answer.pop("timings"))
    assert {
        "object": "text_completion",
        "model": "fake",
        "choices": [{"index": 0, "text": "one ", "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8},
    } == answer


def test_a_chat_stream_follows_the_api(serve: Serve) -> None:
    """The role comes first, then the text, then the reason, then `[DONE]`; all chunks belong to one answer."""
    *texts, last = events(serve(FakeEngine()), CHAT, chat("one two"))
    assert "[DONE]" == last
    chunks = [json.loads(text) for text in texts]
    assert 1 == len({(one["id"], one["created"], one["model"], one["object"]) for one in chunks})
    assert ("some-name", "chat.completion.chunk") == (chunks[0]["model"], chunks[0]["object"])
    assert not any("usage" in one for one in chunks)
    choices = [one["choices"][0] for one in chunks]
    assert {"role": "assistant", "content": ""} == choices[0]["delta"]
    assert "one two " == "".join(choice["delta"].get("content", "") for choice in choices)
    assert ({}, "stop") == (choices[-1]["delta"], choices[-1]["finish_reason"])
    assert {None} == {choice["finish_reason"] for choice in choices[:-1]}


def test_a_completion_stream_follows_the_api(serve: Serve) -> None:
    """It has texts, then an empty one with the reason, then `[DONE]`."""
    *chunks, last = events(serve(FakeEngine()), COMPLETIONS, {"prompt": "one two"})
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert ("[DONE]", "one two ") == (last, "".join(choice["text"] for choice in choices))
    assert ("", "stop") == (choices[-1]["text"], choices[-1]["finish_reason"])


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat("one two")), (COMPLETIONS, {"prompt": "one two"})])
def test_a_stream_reports_usage_on_request(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """With `include_usage` one more chunk has the usage and no choices; in all others it is null."""
    *chunks, _ = events(serve(FakeEngine()), path, {**body, "stream_options": {"include_usage": True}})
    *others, last = [json.loads(chunk) for chunk in chunks]
    assert ([], {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}) == (last["choices"], last["usage"])
    assert {None} == {one["usage"] for one in others}


def test_each_chunk_is_sent_as_soon_as_it_exists(serve: Serve) -> None:
    """The role and the first word arrive before the second word exists, and the role comes once."""
    gate = LateGate()
    runner = serve(FakeEngine(gate=gate))
    gate.release()
    connection, response = runner.stream(chat("one two"), CHAT)
    content = b""
    while b'"one "' not in content:
        content += response.readline()
    assert b"two" not in content
    gate.release()
    content += response.read()
    assert b"[DONE]" in content
    assert 1 == content.count(b'"role"')
    connection.close()


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat("one two")), (COMPLETIONS, {"prompt": "one two"})])
def test_a_failed_stream_has_no_done(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """A failure after the start is one error event at the end, without `[DONE]`."""
    engine = FakeEngine()
    runner = serve(engine)
    engine.fail_after = 1
    chunks = events(runner, path, body)
    assert "generation_failed" == json.loads(chunks[-1])["error"]["code"]
    assert "[DONE]" not in chunks
    assert 1 == sum("error" in json.loads(one) for one in chunks)


def test_a_stream_that_the_runner_ends_has_no_done(serve: Serve) -> None:
    """A client that still waits when the process stops gets an error, not an end that looks like an empty answer."""
    gate = LateGate()
    engine = FakeEngine(gate=gate)
    runner = serve(engine)
    assert engine.starts.acquire(timeout=20)
    running, running_response = runner.stream(chat("one"), CHAT)
    assert engine.starts.acquire(timeout=20)
    waiting, waiting_response = runner.stream(chat("two"), CHAT)
    assert b":\n" == waiting_response.readline()
    closing = threading.Thread(target=engine.queue.close)
    closing.start()
    event = waiting_response.read().decode().split("data: ")[-1]
    assert "cancelled" == json.loads(event)["error"]["code"]
    gate.release()
    assert b"[DONE]" in running_response.read()
    closing.join(20)
    for connection in (running, waiting):
        connection.close()


TOOLS = [{"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "g"}}]
CALLS = 'Hi <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call> [1] <tool_call>{"name'
F = {"name": "f", "arguments": '{"a": 1}'}


def tool_engine() -> FakeEngine:
    engine = FakeEngine()
    engine.grammars, engine.tool_syntax = True, "hermes"
    return engine


def test_a_call_is_not_text(serve: Serve) -> None:
    """Tool calls stand beside the text, each with an id, and the finish reason is `tool_calls`."""
    text = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call> '
    status, answer, _ = serve(tool_engine()).request("POST", CHAT, chat(text.strip(), tools=TOOLS))
    (choice,) = answer["choices"]
    assert (200, "tool_calls", None) == (status, choice["finish_reason"], choice["message"]["content"])
    (call,) = choice["message"]["tool_calls"]
    assert call.pop("id").isalnum()
    assert {"type": "function", "function": F} == call


def test_a_stream_has_each_call_in_one_chunk(serve: Serve) -> None:
    """Text is sent as soon as it exists, a call in one chunk with its index, and a false start of a call as text."""
    runner = serve(tool_engine())
    *chunks, _ = events(runner, CHAT, chat(CALLS, tools=TOOLS))
    deltas = [json.loads(chunk)["choices"][0] for chunk in chunks]
    (calls,) = [delta["delta"]["tool_calls"] for delta in deltas if "tool_calls" in delta["delta"]]
    assert (0, F) == (calls[0]["index"], calls[0]["function"])
    text = "".join(delta["delta"].get("content", "") for delta in deltas)
    assert 'Hi  [1] <tool_call>{"name ' == text
    assert "tool_calls" == deltas[-1]["finish_reason"]


def test_text_without_tools_is_text(serve: Serve) -> None:
    """Without tools, or if the client forbids calls, nothing counts as a call."""
    runner = serve(tool_engine())
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        _, answer, _ = runner.request("POST", CHAT, chat(CALLS, **fields))
        assert (CALLS + " ", "stop") == (
            answer["choices"][0]["message"]["content"],
            answer["choices"][0]["finish_reason"],
        )
        assert "tool_calls" not in answer["choices"][0]["message"]


def test_a_client_can_ask_for_one_call_only(serve: Serve) -> None:
    """`parallel_tool_calls` false ends the answer after the first call."""
    text = '<tool_call>[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]'
    for parallel, count in ((None, 2), (False, 1)):
        body = chat(text, tools=TOOLS, parallel_tool_calls=parallel)
        _, answer, _ = serve(tool_engine()).request("POST", CHAT, body)
        assert count == len(answer["choices"][0]["message"]["tool_calls"])


def test_the_grammar_reaches_the_engine(serve: Serve) -> None:
    """The engine gets an answer's schema as a grammar, on both routes; without a schema there is none."""
    engine = tool_engine()
    runner = serve(engine)
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "yes"}}}
    assert 200 == runner.request("POST", CHAT, chat("a", response_format=response_format))[0]
    assert 200 == runner.request("POST", "/inference", {"prompt": "a", "response_format": response_format})[0]
    assert 200 == runner.request("POST", CHAT, chat("a", response_format={"type": "text"}))[0]
    grammars = [request.grammar for request in engine.requests]
    assert [True, True, False] == [grammar is not None and "yes" in grammar.text for grammar in grammars[1:]]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
        ({"tools": TOOLS}, "unsupported_parameter", "tools"),
        ({"tools": TOOLS, "tool_choice": "required"}, "unsupported_parameter", "tools"),
    ],
)
def test_a_refusal_names_what_the_engine_or_the_model_cannot_do(
    serve: Serve, fields: dict[str, Any], code: str, param: str
) -> None:
    """A template without tools and an engine without grammars are reported before anything is generated."""
    engine = FakeEngine()
    runner = serve(engine)
    count = len(engine.prompts)
    assert_error(runner.request("POST", CHAT, chat("x", **fields)), 400, code, param)
    assert count == len(engine.prompts)


def test_a_schema_that_cannot_be_enforced_is_refused(serve: Serve) -> None:
    """The refusal names response_format, the place and the reason."""
    schema = {"properties": {"a": {"type": "array", "uniqueItems": True}}}
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = serve(tool_engine()).request("POST", CHAT, chat("x", response_format=response_format))
    message = assert_error(answer, 400, "invalid_schema", "response_format")
    assert 'properties.a has "uniqueItems"' in message


def test_a_client_that_leaves_stops_its_generation(serve: Serve) -> None:
    """A closed connection ends the work, as on the native route."""
    gate = LateGate()
    engine = FakeEngine(gate=gate)
    runner = serve(engine)
    assert engine.ends.acquire(timeout=20)
    gate.release()
    connection, response = runner.stream(chat("one two"), CHAT)
    assert response.read(1)
    response.close()
    connection.close()
    assert engine.ends.acquire(timeout=20)


def test_too_long_a_conversation_names_both_lengths(serve: Serve) -> None:
    """The refusal names the field that the client wrote."""
    runner = serve(FakeEngine())
    for path, body, param in (
        (CHAT, chat("x" * 150), "messages"),
        (COMPLETIONS, {"prompt": "x" * 150}, "prompt"),
    ):
        message = assert_error(runner.request("POST", path, body), 400, "context_length_exceeded", param)
        assert "150" in message
        assert "100" in message


def test_anything_but_a_json_object_is_refused(serve: Serve) -> None:
    """Invalid bodies and unsupported parameters get the one error shape on these routes, too."""
    runner = serve(FakeEngine())
    for path in (CHAT, COMPLETIONS):
        for data in (b"", b"[]", b"{", b'{"messages": ' + b"[" * 100_000, b'{"temperature": NaN}'):
            assert_error(runner.request("POST", path, data), 400, "invalid_body")
        assert_error(runner.request("POST", path, {"n": 2}), 400, "unsupported_parameter", "n")
