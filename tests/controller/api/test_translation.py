"""Requests to a third-party server, which speaks the OpenAI API alone, and its answers on their way back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.dispatch import EngineMessage
from controller.api.translation.openai_events import MAX_EVENT_BYTES, EventReader
from controller.api.translation.to_openai import UpstreamRequest, to_openai
from controller.deployment.engines import Engine
from controller.errors import BodyInvalid, ModelDied, TaskUnsupported, UpstreamAnswered, UpstreamError, UpstreamInvalid
from controller.proxy.forwarding import Answer, WaitTimes
from controller.proxy.model_errors import error_of
from controller.proxy.stream_pump import Source
from controller.registry import GenerationDefaults
from tests.fakes import make_spec

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
OPENAI = Engine(routes=[CHAT, COMPLETIONS, EMBEDDINGS])
MESSAGES = [{"role": "user", "content": "hi"}]


class RunnerResponse:
    """An answer that comes in these pieces; an exception among them breaks it."""

    model_id = "tiny"
    wait_times = WaitTimes(start_s=2.0, queue_s=1.0)
    source: Source | None = None

    def __init__(self, *pieces: bytes | Exception, status: int = 200, content_type: str = "text/event-stream") -> None:
        self._pieces = list(pieces)
        self.status = status
        self.content_type = content_type
        self.closed = False

    def read_piece(self) -> bytes:
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, Exception):
            raise piece
        return piece

    def read_whole(self) -> bytes:
        return json.dumps(self.read_object()).encode()

    def read_object(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.read_piece())
        return value

    def close(self) -> None:
        self.closed = True


def request(path: str, body: dict[str, Any]) -> UpstreamRequest:
    return UpstreamRequest(path=path, body=json.dumps(body).encode())


def translate(path: str, body: dict[str, Any], engine: Engine = OPENAI, **spec: Any) -> tuple[str, dict[str, Any]]:
    """Return where a request goes and with which body."""
    tiny = make_spec("tiny", engine="llamacpp", **spec)
    upstream = EngineMessage(tiny, {"llamacpp": engine}, request(path, body)).sent
    return upstream.path, json.loads(upstream.body)


def read(path: str, body: dict[str, Any], response: RunnerResponse) -> Answer:
    """Return the answer to a request as its client gets it."""
    tiny = make_spec("tiny", engine="llamacpp")
    return EngineMessage(tiny, {"llamacpp": OPENAI}, request(path, body)).read(response)


def pieces_of(answer: Answer) -> bytes:
    """Return all that a stream gives its client."""
    return b"".join(iter(answer.read_piece, b""))


def sse(*events: Any) -> bytes:
    return b"".join(f"data: {event if event == '[DONE]' else json.dumps(event)}\n\n".encode() for event in events)


def delta(text: str | None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], **more}


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "more": {"of": "it"}}
WHOLE = sse(delta(None), delta("a "), delta("b"), delta(None, "length"), {"choices": [], "usage": USAGE}, "[DONE]")


def events_in(stream: bytes) -> list[Any]:
    lines = (line.removeprefix("data: ") for line in stream.decode().splitlines() if line.startswith("data: "))
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


class TestRequests:
    def test_our_runner_gets_every_byte_unchanged(self) -> None:
        """Nothing is read, renamed or added on the way to our runner."""
        raw = b'{"model": "small",   "messages": []}'
        original = UpstreamRequest(path=CHAT, body=raw)
        spec = make_spec(generation=GenerationDefaults(seed=1))
        upstream = EngineMessage(spec, {spec.engine: Engine(own=True)}, original).sent
        assert (CHAT, raw, None) == (upstream.path, upstream.body, upstream.read)

    def test_a_prompt_becomes_a_message(self) -> None:
        """`POST /inference` is a chat, streamed and counted, with what the client wants of sampling."""
        path, body = translate("/inference", {"prompt": "hi", "top_k": 5, "stop": ["x"], "stream": False})
        assert CHAT == path
        assert {
            "model": "tiny", "messages": MESSAGES, "top_k": 5, "stop": ["x"],
            "stream": True, "stream_options": {"include_usage": True},
        } == body  # fmt: skip

    def test_messages_stay_messages(self) -> None:
        """A conversation is passed on unchanged."""
        assert MESSAGES == translate("/inference", {"messages": MESSAGES})[1]["messages"]

    @pytest.mark.parametrize(("task", "raw"), [("completion", None), ("completion", True), ("chat", True)])
    def test_raw_text_is_completed(self, task: str, raw: bool | None) -> None:
        """Text that skips the chat template, or has none, becomes a completion."""
        path, body = translate("/inference", {"prompt": "hi", "raw": raw}, task=task)
        assert (COMPLETIONS, "hi", False) == (path, body["prompt"], "raw" in body)

    def test_a_request_for_another_task_is_refused(self) -> None:
        """No messages to a model without a chat template, no text from one that embeds, no route that is not served."""
        for body, spec, engine in (
            ({"messages": MESSAGES}, {"task": "completion"}, OPENAI),
            ({"prompt": "hi"}, {"task": "embedding"}, OPENAI),
            ({"prompt": "hi"}, {}, Engine(routes=[EMBEDDINGS])),
        ):
            with pytest.raises(TaskUnsupported):
                translate("/inference", body, engine, **spec)
        with pytest.raises(TaskUnsupported, match=f"serves {CHAT} and not {EMBEDDINGS}"):
            translate(EMBEDDINGS, {"model": "tiny", "input": "x"}, Engine(routes=[CHAT]))

    def test_an_alias_becomes_the_id(self) -> None:
        """The server knows the model by its id alone; everything else is unchanged."""
        body = {"model": "small", "messages": MESSAGES, "frobnicate": {"a": [1, None]}}
        assert {**body, "model": "tiny"} == translate(CHAT, body)[1]

    def test_a_body_that_needs_no_change_is_not_rewritten(self) -> None:
        """A request by the id keeps its very bytes."""
        raw = b'{"model": "tiny",   "messages": [{"role":"user","content":"\\u00e9"}]}'
        original = UpstreamRequest(path=CHAT, body=raw)
        assert raw == to_openai(make_spec("tiny", engine="llamacpp"), OPENAI, original).body

    def test_the_models_defaults_fill_what_is_left_out(self) -> None:
        """`generation:` counts for what a request leaves out or null, on the routes that generate."""
        generation = GenerationDefaults(max_tokens=9, temperature=0.5, stop=("x",))
        body = translate(CHAT, {"model": "tiny", "temperature": 1, "stop": None}, generation=generation)[1]
        assert (9, 1, ["x"]) == (body["max_tokens"], body["temperature"], body["stop"])
        body = translate(CHAT, {"model": "tiny", "max_completion_tokens": 3}, generation=generation)[1]
        assert "max_tokens" not in body
        body = translate("/inference", {"prompt": "hi", "temperature": 0}, generation=generation)[1]
        assert (9, 0) == (body["max_tokens"], body["temperature"])
        assert {"model": "tiny", "input": "x"} == translate(
            EMBEDDINGS, {"model": "tiny", "input": "x"}, generation=generation
        )[1]

    @pytest.mark.parametrize(
        "raw", [b'{"model": "small", "x": 1e999}', b'{"model": "small", "x": ' + b"9" * 5000 + b"}"]
    )
    def test_a_number_that_cannot_be_written_again_is_a_400(self, raw: bytes) -> None:
        """An unchecked field that cannot be written is the client's error, not our fault."""
        with pytest.raises(BodyInvalid):
            to_openai(make_spec("tiny", engine="llamacpp"), OPENAI, UpstreamRequest(path=CHAT, body=raw))


class TestNativeAnswers:
    def test_a_stream_is_translated(self) -> None:
        """Text as it comes, then one event with the reason, the counts and the times."""
        *texts, last = events_in(pieces_of(read("/inference", {"prompt": "hi"}, RunnerResponse(WHOLE))))
        assert "a b" == "".join(event["text"] for event in texts)
        assert (True, "length") == (last["done"], last["finish_reason"])
        assert {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5} == last["usage"]
        assert {"ttft_s", "total_s"} == set(last["timings"])

    @given(st.lists(st.integers(1, len(WHOLE) - 1), max_size=12))
    def test_pieces_may_end_anywhere(self, cuts: list[int]) -> None:
        """However the network cuts the stream, the client reads the same."""
        bounds = [0, *sorted(set(cuts)), len(WHOLE)]
        pieces = [WHOLE[a:b] for a, b in itertools.pairwise(bounds)]
        *texts, last = events_in(pieces_of(read("/inference", {"prompt": "hi"}, RunnerResponse(*pieces))))
        assert ("a b", "length") == ("".join(event["text"] for event in texts), last["finish_reason"])

    def test_times_count_from_when_the_server_was_asked(self) -> None:
        """The wait for the model, 3 s here, is not the server's."""
        seconds = iter([100.0, 103.5, 105.0])
        spec, original = make_spec("tiny", engine="llamacpp"), request("/inference", {"prompt": "hi"})
        upstream = to_openai(spec, OPENAI, original, clock=lambda: next(seconds))
        assert upstream.read is not None
        assert {"ttft_s": 0.5, "total_s": 2.0} == upstream.read(RunnerResponse(WHOLE)).read_object()["timings"]

    def test_lines_may_end_with_a_carriage_return(self) -> None:
        """A carriage return before the line feed belongs to neither text nor event."""
        stream = WHOLE.replace(b"\n", b"\r\n")
        assert "a b" == read("/inference", {"prompt": "hi"}, RunnerResponse(stream)).read_object()["text"]

    def test_silence_is_passed_on(self) -> None:
        """A server's comments keep the line to the client open too."""
        answer = read("/inference", {"prompt": "hi"}, RunnerResponse(b": ping\n\n", WHOLE))
        assert b":\n\n" == answer.read_piece()

    def test_a_whole_answer_is_put_together(self) -> None:
        """The same for a client that wants it in one piece."""
        answer = read("/inference", {"prompt": "hi"}, RunnerResponse(WHOLE)).read_object()
        assert ("a b", "length", 5) == (answer["text"], answer["finish_reason"], answer["usage"]["total_tokens"])

    def test_a_completion_is_read_too(self) -> None:
        """/v1/completions has its text in another place, and may have no counts."""
        stream = sse({"choices": [{"text": "x", "finish_reason": None}]}, {"choices": [{"finish_reason": "eos"}]})
        answer = read("/inference", {"prompt": "hi", "raw": True}, RunnerResponse(stream)).read_object()
        assert ("x", "stop", None) == (answer["text"], answer["finish_reason"], answer["usage"]["total_tokens"])

    @pytest.mark.parametrize(
        ("pieces", "kind", "message"),
        [
            ([sse({"error": {"message": "gave up", "code": 500}})], UpstreamAnswered, "gave up"),
            ([sse({"error": "gave up"})], UpstreamAnswered, "gave up"),
            ([sse({"object": "error", "message": "gave up"})], UpstreamAnswered, "gave up"),
            ([ModelDied("gone")], ModelDied, "gone"),
            ([], UpstreamInvalid, "ended before its answer did"),
            ([sse("[DONE]")], UpstreamInvalid, "ended before its answer did"),
            ([b"data: {broken\n\n"], UpstreamInvalid, "no JSON"),
            ([b"data: []\n\n"], UpstreamInvalid, "no object"),
            ([b"data: " + b"[" * 100_000 + b"\n\n"], UpstreamInvalid, "no JSON"),
            ([b"data: " + b"x" * 1000] * (MAX_EVENT_BYTES // 1000), UpstreamInvalid, "an event larger than"),
            ([b"data: x\n" * (MAX_EVENT_BYTES // 4)], UpstreamInvalid, "an event larger than"),
        ],
    )
    def test_a_broken_stream_is_an_error_and_never_whole(
        self, pieces: list[Any], kind: type[UpstreamError], message: str
    ) -> None:
        """The text before the failure arrives, then the failure; no broken stream looks whole."""
        first = sse(delta("a"))
        answer = read("/inference", {"prompt": "hi"}, RunnerResponse(first, *pieces))
        assert [{"text": "a"}] == events_in(answer.read_piece())
        with pytest.raises(kind, match=message):
            pieces_of(answer)
        with pytest.raises(kind, match=message):
            read("/inference", {"prompt": "hi"}, RunnerResponse(first, *pieces)).read_object()

    def test_text_and_failure_in_one_piece_both_arrive(self) -> None:
        """A failure that comes together with some text does not take it away."""
        answer = read(
            "/inference", {"prompt": "hi"}, RunnerResponse(sse(delta("a"), {"error": {"message": "no more"}}))
        )
        assert [{"text": "a"}] == events_in(answer.read_piece())
        with pytest.raises(UpstreamAnswered, match="no more"):
            answer.read_piece()

    def test_an_answer_that_is_no_stream_is_refused(self) -> None:
        """A server that does not stream does not speak the OpenAI API."""
        with pytest.raises(UpstreamInvalid, match="answered with application/json"):
            read("/inference", {"prompt": "hi"}, RunnerResponse(b"{}", content_type="application/json")).read_object()

    def test_an_endless_answer_is_bounded(self) -> None:
        """Memory is bounded, whatever the server sends."""
        piece = sse(delta("x" * (MAX_EVENT_BYTES // 2)))
        with pytest.raises(UpstreamInvalid, match="longer than"):
            read("/inference", {"prompt": "hi"}, RunnerResponse(*[piece] * 40)).read_object()

    def test_odd_values_are_ignored(self) -> None:
        """Half a surrogate pair, a list for a text, a text for a number: none of these breaks the answer."""
        odd: Iterable[Any] = (
            {"choices": [{"delta": {"content": [1]}, "finish_reason": 7}]},
            {"choices": "no", "usage": {"prompt_tokens": "1", "completion_tokens": True}},
            {"choices": [None]},
        )
        stream = sse(*odd) + b'data: {"choices": [{"delta": {"content": "\\ud83d"}, "finish_reason": "stop"}]}\n\n'
        *texts, last = events_in(pieces_of(read("/inference", {"prompt": "hi"}, RunnerResponse(stream))))
        assert [{"text": "\ud83d"}] == texts
        assert last["usage"]["total_tokens"] is None


class TestRenamedAnswers:
    def test_a_stream_has_the_clients_name(self) -> None:
        """Every chunk, with comments and `[DONE]` in their places."""
        answer = read(CHAT, {"model": "small"}, RunnerResponse(b": ping\n\n" + WHOLE[:30], WHOLE[30:]))
        stream = pieces_of(answer)
        assert stream.startswith(b":\n\n")
        *chunks, end = events_in(stream)
        assert ({"small"}, "[DONE]") == ({chunk["model"] for chunk in chunks}, end)

    def test_a_stream_by_the_id_passes_unread(self) -> None:
        """Not even broken events are noticed."""
        answer = read(CHAT, {"model": "tiny"}, RunnerResponse(b"data: {bro", b"ken\n\n"))
        assert [b"data: {bro", b"ken\n\n", b""] == [answer.read_piece() for _ in range(3)]

    def test_a_whole_answer_has_it_too(self) -> None:
        """Whatever the server calls its model."""
        answer = read(CHAT, {"model": "small"}, RunnerResponse(b'{"model": "/model/x.gguf", "choices": []}'))
        assert {"model": "small", "choices": []} == answer.read_object()

    def test_a_number_that_is_none_breaks_the_stream(self) -> None:
        """A value that JSON does not have does not reach the client."""
        with pytest.raises(UpstreamInvalid):
            read(CHAT, {"model": "small"}, RunnerResponse(b'data: {"x": NaN}\n\n')).read_piece()

    def test_close_closes_the_servers_answer(self) -> None:
        """The answer that it reads is closed with it."""
        response = RunnerResponse()
        read(CHAT, {"model": "small"}, response).close()
        assert response.closed


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"choices": []}, None),
        ({"error": None}, None),
        ({"error": "no"}, {"message": "no", "details": {}}),
        ({"detail": "Not Found"}, {"message": "Not Found", "details": {}}),
        ({"object": "error", "message": "no", "code": 400}, {"message": "no", "details": {}}),
        (
            {"error": {"message": "no", "type": "t", "code": 400, "param": 5, "n_ctx": 64}},
            {"message": "no", "type": "t", "details": {"n_ctx": 64}},
        ),
        (
            {"error": {"message": "m", "type": "t", "code": "c", "param": None, "details": {"a": 1}}},
            {"message": "m", "type": "t", "code": "c", "param": None, "details": {"a": 1}},
        ),
        (
            {"error": {"message": "m", "type": "exceed_context_size_error", "code": 400, "n_ctx": 64}},
            {
                "message": "m",
                "type": "invalid_request_error",
                "code": "context_length_exceeded",
                "details": {"n_ctx": 64},
            },
        ),
    ],
)
def test_errors_of_all_shapes_are_read(body: dict[str, Any], expected: dict[str, Any] | None) -> None:
    """Whatever shape a server's error has, ours has one: known fields of their type, the rest in `details`."""
    assert expected == error_of(body)


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_no_bytes_break_the_reader(pieces: list[bytes]) -> None:
    """The result is events or an UpstreamError, never anything else."""
    reader = EventReader()
    try:
        for piece in pieces:
            list(reader.feed(b"data: " + piece))
    except UpstreamError:
        pass
