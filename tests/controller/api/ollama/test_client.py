"""The real `ollama` package as the controller's client."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import ollama
import pytest
from flask import Flask

from controller.errors import SourceError
from controller.supervisor.backend import ModelFacts, PreparationProgress
from tests.controller.api.ollama.engine import CHAT, COMPLETIONS, EMBEDDINGS, Engine, wait_for
from tests.controller.supervisor.house import until
from tests.fakes import FakeBackend

HALF = PreparationProgress(phase="downloading", fraction=0.5, done_bytes=50, total_bytes=100)
ENGINE = {"orchestrar.engine": "transformers", "orchestrar.engine_reason": "models.yaml names it"}
FACTS = ModelFacts(
    size_bytes=98_362_432,
    content_hash="ab" * 32,
    modified_at_s=1_700_000_000.0,
    files=("SmolLM2-135M-Instruct.Q4_1.gguf",),
    parameters=134_515_008,
    context_length=8192,
    architecture="llama",
    dtype="bfloat16",
)


def user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def in_flight(app: Flask) -> int:
    return sum(view.in_flight for view in app.extensions["orchestrar"].supervisor.snapshot())


class TestChat:
    def test_a_whole_answer(self, client: ollama.Client, engine: type[Engine]) -> None:
        """The answer is the model's under the name that was sent, with counts and times in nanoseconds."""
        answer = client.chat("small:latest", user("hello there"))
        assert ("small:latest", "assistant", "hello there") == (
            answer.model,
            answer.message.role,
            answer.message.content,
        )
        assert (True, "length", 3, 2) == (
            answer.done,
            answer.done_reason,
            answer.prompt_eval_count,
            answer.eval_count,
        )
        assert (20_000_000, 50_500_000) == (answer.prompt_eval_duration, answer.eval_duration)
        assert answer.total_duration is not None
        assert answer.load_duration is not None
        assert answer.total_duration > answer.load_duration > 0
        assert datetime.fromisoformat(str(answer.created_at).replace("Z", "+00:00")) <= datetime.now(UTC)
        assert [(CHAT, {"model": "tiny", "messages": user("hello there")})] == engine.requests

    def test_a_stream(self, client: ollama.Client, engine: type[Engine], app: Flask) -> None:
        """Each word comes in an object of its own; the last one is empty and has reason, counts and times."""
        *parts, last = client.chat("tiny", user("one two three"), stream=True)
        assert ["one ", "two ", "three "] == [part.message.content for part in parts]
        assert {(False, None, None)} == {(part.done, part.done_reason, part.eval_count) for part in parts}
        assert ("", True, "stop", 3, 2) == (
            last.message.content,
            last.done,
            last.done_reason,
            last.prompt_eval_count,
            last.eval_count,
        )
        assert None not in (last.total_duration, last.load_duration, last.prompt_eval_duration, last.eval_duration)
        ((path, body),) = engine.requests
        assert (CHAT, True, {"include_usage": True}) == (path, body["stream"], body["stream_options"])
        assert 0 == in_flight(app)

    def test_tools(self, client: ollama.Client, engine: type[Engine]) -> None:
        """Tools go to the model, and its calls come back as objects, streamed or not."""

        def add(a: int, b: int) -> int:
            """Add two numbers."""
            return a + b

        whole = client.chat("tiny", user("call"), tools=[add])
        *parts, last = client.chat("tiny", user("call"), tools=[add], stream=True)
        for message in (whole.message, parts[-1].message):
            (call,) = message.tool_calls or ()
            assert ("add", {"a": 1, "b": [2]}) == (call.function.name, call.function.arguments)
        assert (1, "stop", None) == (len(parts), last.done_reason, last.message.tool_calls)
        tool = engine.requests[0][1]["tools"][0]
        assert ("function", "add") == (tool["type"], tool["function"]["name"])

    def test_thoughts_are_kept(self, client: ollama.Client) -> None:
        """Thoughts that an engine separates from the text reach the client separately."""
        message = client.chat("tiny", user("think")).message
        assert ("hm", "yes") == (message.thinking, message.content)
        parts = [part.message for part in client.chat("tiny", user("think"), stream=True)]
        assert [("hm", ""), (None, "yes")] == [(part.thinking, part.content) for part in parts[:2]]


class TestGenerate:
    def test_a_prompt_is_a_user_message(self, client: ollama.Client, engine: type[Engine]) -> None:
        """It goes through the chat template, with a system message before it."""
        answer = client.generate("tiny", "hello", system="Be kind.")
        assert ("hello", "tiny", True) == (answer.response, answer.model, answer.done)
        messages = [{"role": "system", "content": "Be kind."}, *user("hello")]
        assert [(CHAT, {"model": "tiny", "messages": messages})] == engine.requests
        *parts, last = client.generate("tiny", "one two", stream=True)
        assert ["one ", "two "] == [part.response for part in parts]
        assert ("", "stop", 2) == (last.response, last.done_reason, last.eval_count)

    @pytest.mark.parametrize(("model", "fields"), [("tiny", {"raw": True}), ("plain", {})])
    def test_raw_text_is_unchanged(
        self, client: ollama.Client, engine: type[Engine], model: str, fields: dict[str, Any]
    ) -> None:
        """Raw text, and any for a model without a chat template, is completed as it is."""
        assert "one two" == client.generate(model, "one two", **fields).response
        assert [(COMPLETIONS, {"model": model, "prompt": "one two"})] == engine.requests
        parts = [part.response for part in client.generate(model, "one two", stream=True, **fields)]
        assert ["one ", "two ", ""] == parts

    def test_a_model_without_template_has_no_place_for_system(self, client: ollama.Client) -> None:
        """A system message that cannot be used is refused, not dropped."""
        with pytest.raises(ollama.ResponseError, match="no place for system"):
            client.generate("plain", "x", system="Be kind.")

    def test_options_reach_the_model(self, client: ollama.Client, engine: type[Engine]) -> None:
        """Sampling goes by its OpenAI names; what belongs to an engine's start is ignored."""
        options = {"temperature": 0.1, "top_p": 0.9, "top_k": 5, "seed": 7, "num_predict": 11, "stop": ["a"]}
        client.generate("tiny", "x", options={**options, "num_ctx": 4096, "mirostat": 1, "unheard_of": {}})
        client.generate("tiny", "x", options={"seed": -1, "num_predict": -1, "stop": []})
        client.generate("tiny", "x", options={"stop": "a", "temperature": None})
        names = {"max_tokens" if name == "num_predict" else name: value for name, value in options.items()}
        assert {"model": "tiny", "messages": user("x"), **names} == engine.requests[0][1]
        assert {"model": "tiny", "messages": user("x")} == engine.requests[1][1]
        assert {"model": "tiny", "messages": user("x"), "stop": ["a"]} == engine.requests[2][1]

    def test_a_format_reaches_the_model(self, client: ollama.Client, engine: type[Engine]) -> None:
        """`json` and a schema are the two kinds of the OpenAI API's response_format."""
        schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
        client.generate("tiny", "x", format="json")
        client.chat("tiny", user("x"), format=schema)
        client.chat("tiny", user("x"), format="")
        assert [
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
            None,
        ] == [body.get("response_format") for _, body in engine.requests]


class TestLoading:
    def test_without_a_prompt_a_model_is_loaded(self, client: ollama.Client, backend: FakeBackend) -> None:
        """An empty request only starts the model; `keep_alive` counts from then on."""
        assert ("load", "", True) == (
            (answer := client.generate("tiny", keep_alive=-1)).done_reason,
            answer.response,
            answer.done,
        )
        assert ["up tiny"] == backend.calls
        (row,) = client.ps().models
        assert row.expires_at is not None
        assert row.expires_at > datetime.now(UTC) + timedelta(days=20_000)
        assert ["load"] == [part.done_reason for part in client.chat("tiny", [], stream=True)]

    def test_keep_alive_0_unloads(self, client: ollama.Client, backend: FakeBackend) -> None:
        """An empty request with `keep_alive` 0 stops the model by either route; it is no error if it is stopped."""
        for unload in (lambda: client.generate("tiny", keep_alive=0), lambda: client.chat("tiny", keep_alive="0s")):
            client.generate("tiny")
            assert "unload" == unload().done_reason
            assert [] == client.ps().models
            assert "unload" == unload().done_reason
        assert ["up tiny", "stop tiny-1", "up tiny", "stop tiny-2"] == backend.calls

    def test_keep_alive_counts_from_the_answer(self, client: ollama.Client) -> None:
        """`expires_at` is the idle deadline that the last request set."""
        client.chat("tiny", user("x"), keep_alive="10m")
        (row,) = client.ps().models
        assert row.expires_at is not None
        left = row.expires_at - datetime.now(UTC)
        assert timedelta(minutes=9) < left <= timedelta(minutes=10)


class TestEmbed:
    def test_texts_become_unit_vectors(self, client: ollama.Client, engine: type[Engine]) -> None:
        """One vector of length 1 for each text, in their order, with counts and times."""
        answer = client.embed("vectors", ["abcd", ""], dimensions=2)
        assert [[0.6, 0.8], [1.0, 0.0]] == [list(vector) for vector in answer.embeddings]
        assert ("vectors", 4) == (answer.model, answer.prompt_eval_count)
        assert answer.total_duration is not None
        assert [EMBEDDINGS] == [path for path, _ in engine.requests]
        body = {"model": "vectors", "input": ["abcd", ""], "encoding_format": "float"}
        assert {**body, "dimensions": 2, "truncate": True} == engine.requests[0][1]
        client.embed("vectors", "x", truncate=False)
        assert False is engine.requests[1][1]["truncate"]

    def test_the_older_route(self, client: ollama.Client) -> None:
        """`/api/embeddings` gives one vector, unchanged."""
        assert [3.0, 4.0] == list(client.embeddings("vectors", "abcd").embedding)

    def test_without_input_the_model_is_loaded(self, client: ollama.Client, backend: FakeBackend) -> None:
        """No text, no vector, and the model is started."""
        assert [] == client.embed("vectors", []).embeddings
        assert [] == client.embeddings("vectors").embedding
        assert ["up vectors"] == backend.calls


class TestModels:
    def test_tags_list_models_yaml(self, client: ollama.Client, backend: FakeBackend) -> None:
        """Every model is listed, with what is known of its files; the names in the list work."""
        backend.model_facts["tiny"] = FACTS
        tiny, plain, vectors = client.list().models
        assert ["tiny:latest", "plain:latest", "vectors:latest"] == [row.model for row in (tiny, plain, vectors)]
        assert (98_362_432, "ab" * 32, 1_700_000_000.0) == (
            tiny.size,
            tiny.digest,
            tiny.modified_at.timestamp() if tiny.modified_at else None,
        )
        assert tiny.details is not None
        assert ("gguf", "llama", ["llama"], "134.52M", "Q4_1") == (
            tiny.details.format,
            tiny.details.family,
            tiny.details.families,
            tiny.details.parameter_size,
            tiny.details.quantization_level,
        )
        assert (0, hashlib.sha256(b"file:///models/tiny").hexdigest()) == (plain.size, plain.digest)
        assert "x" == client.chat(str(tiny.model), user("x")).message.content

    def test_show_has_all_that_is_known(self, client: ollama.Client, backend: FakeBackend) -> None:
        """Source, defaults, sizes and abilities of one model, by id, alias or with its tag."""
        backend.model_facts["tiny"] = FACTS
        for name in ("tiny", "small", "tiny:latest"):
            model = client.show(name)
            assert ["completion"] == model.capabilities
            assert {
                "general.architecture": "llama",
                "general.parameter_count": 134_515_008,
                "llama.context_length": 8192,
                **ENGINE,
            } == model.modelinfo
        assert "FROM file:///models/tiny" in str(model.modelfile)
        lines = [line.split() for line in str(model.parameters).splitlines()]
        assert [["num_predict", "9"], ["temperature", "0.5"], ["stop", '"END"']] == lines
        assert ["embedding"] == client.show("vectors").capabilities
        backend.model_facts["tiny"] = replace(FACTS, has_tools=True)
        assert ["completion", "tools"] == client.show("tiny").capabilities
        expected = {"general.architecture": "unknown", "unknown.context_length": 2048, **ENGINE}
        assert expected == self.unknown(client, backend)

    def unknown(self, client: ollama.Client, backend: FakeBackend) -> Any:
        backend.model_facts.clear()
        return client.show("tiny").modelinfo

    def test_ps_lists_running_models(self, client: ollama.Client, backend: FakeBackend) -> None:
        """Only running models are listed, with their sizes, context and idle deadline."""
        assert [] == client.ps().models
        backend.model_facts["tiny"] = FACTS
        client.generate("tiny")
        (row,) = client.ps().models
        assert ("tiny:latest", "tiny:latest", 98_362_432, 0, 8192) == (
            row.name,
            row.model,
            row.size,
            row.size_vram,
            row.context_length,
        )
        assert row.expires_at is not None
        assert row.expires_at <= datetime.now(UTC) + timedelta(seconds=900)

    def test_a_model_in_use_expires_after_its_idle_time(self, client: ollama.Client) -> None:
        """While it works, its whole idle time is left."""
        parts = iter(client.generate("tiny", "forever", stream=True))
        next(parts)
        (row,) = client.ps().models
        assert row.expires_at is not None
        assert row.expires_at > datetime.now(UTC) + timedelta(seconds=600)
        parts.close()  # type: ignore[attr-defined]


class TestPull:
    def test_a_pull_is_reported_as_it_goes_on(self, client: ollama.Client, backend: FakeBackend) -> None:
        """Bytes come with one digest, other work with its name, and the end is `success`."""
        backend.prepared_models = set()

        def prepare(model_id: str, on_progress: Any, cancelled: Any) -> None:
            on_progress(HALF)
            on_progress(PreparationProgress(phase="converting", fraction=0.5))

        backend.on_prepare = prepare
        reports = list(client.pull("small", stream=True))
        digest = hashlib.sha256(b"file:///models/tiny").hexdigest()
        assert "success" == reports[-1].status
        for report in reports[:-1]:
            if report.digest is None:
                assert "converting" == report.status
            else:
                assert (f"pulling {digest[:12]}", f"sha256:{digest}", 100, 50) == (
                    report.status,
                    report.digest,
                    report.total,
                    report.completed,
                )
        assert "success" == client.pull("small").status
        assert {"prepare tiny"} == set(backend.calls)

    def test_a_pull_that_fails_at_once_has_its_status(self, client: ollama.Client, backend: FakeBackend) -> None:
        """Before the first report, a failure is an answer of its own, streamed or not."""
        backend.prepared_models = set()

        def fail(*_: Any) -> None:
            raise SourceError("the hub is away")

        backend.on_prepare = fail
        for stream in (False, True):
            with pytest.raises(ollama.ResponseError, match="the hub is away") as failure:
                list(client.pull("tiny", stream=stream))
            assert 503 == failure.value.status_code

    def test_an_unknown_model_cannot_be_pulled(self, client: ollama.Client) -> None:
        """Models come from models.yaml alone, and the refusal says so."""
        with pytest.raises(ollama.ResponseError, match=r"models\.yaml") as failure:
            client.pull("llama3.2")
        assert 404 == failure.value.status_code


class TestErrors:
    def test_an_unknown_model_is_not_found(self, client: ollama.Client, backend: FakeBackend) -> None:
        """Every route says so in Ollama's words, with the known models."""
        calls = (
            lambda: client.chat("gpt-4", user("x")),
            lambda: client.generate("gpt-4", "x"),
            lambda: client.embed("gpt-4", "x"),
            lambda: client.show("gpt-4"),
            lambda: list(client.chat("gpt-4", user("x"), stream=True)),
        )
        for call in calls:
            with pytest.raises(ollama.ResponseError) as failure:
                call()
            assert "model 'gpt-4' not found; known models: plain, tiny, vectors" == failure.value.error
            assert 404 == failure.value.status_code
        assert [] == backend.calls

    @pytest.mark.parametrize(("prompt", "status"), [("400", 400), ("500", 502), ("503", 503)])
    def test_the_models_own_errors_pass_through(
        self, client: ollama.Client, app: Flask, prompt: str, status: int
    ) -> None:
        """The client gets the model's own error, streamed or not."""
        for stream in (False, True):
            with pytest.raises(ollama.ResponseError, match="the model's own words") as failure:
                list(client.chat("tiny", user(prompt), stream=stream))
            assert status == failure.value.status_code
        assert 0 == in_flight(app)

    @pytest.mark.parametrize(
        ("prompt", "reason"), [("die", "died"), ("fail", "the engine failed"), ("unfinished", "whole")]
    )
    def test_a_stream_that_breaks_raises(self, client: ollama.Client, app: Flask, prompt: str, reason: str) -> None:
        """What came before is not lost, and the end is an error, never a short text that looks whole."""
        parts: list[Any] = []
        with pytest.raises(ollama.ResponseError, match=reason):
            parts.extend(client.chat("tiny", user(prompt), stream=True))
        assert [f"{prompt} "] == [part.message.content for part in parts]
        assert not any(part.done for part in parts)
        assert 0 == in_flight(app)

    @pytest.mark.parametrize(
        ("call", "field"),
        [
            ({"prompt": "x", "images": [b"png"]}, "images"),
            ({"prompt": "x", "template": "{{ .Prompt }}"}, "template"),
            ({"prompt": "x", "suffix": "y"}, "suffix"),
            ({"prompt": "x", "context": [1]}, "context"),
            ({"prompt": "x", "think": True}, "think"),
            ({"prompt": "x", "think": "high"}, "think"),
            ({"prompt": "x", "logprobs": True}, "logprobs"),
            ({"prompt": "x", "raw": True, "system": "y"}, "system"),
            ({"prompt": "x", "format": "xml"}, "format"),
            ({"prompt": "x", "keep_alive": "soon"}, "keep_alive"),
            ({"prompt": "x", "options": {"temperature": "hot"}}, "options.temperature"),
        ],
    )
    def test_what_is_not_supported_is_refused_by_name(
        self, client: ollama.Client, backend: FakeBackend, call: dict[str, Any], field: str
    ) -> None:
        """Parameters that would change the answer are never silently dropped; no model is started for them."""
        fields = {"model": "tiny", "stream": False, **call}
        if "images" in fields:
            fields["images"] = ["cG5n"]
        response = client._client.post("/api/generate", json=fields)
        assert (400, "invalid_body") == (response.status_code, response.json()["code"])
        assert field in response.json()["error"]
        assert [] == backend.calls

    def test_neutral_parameters_pass(self, client: ollama.Client) -> None:
        """The same parameters, empty or false, change nothing."""
        neutral: dict[str, Any] = {"template": "", "suffix": "", "context": [], "think": False, "raw": False}
        answer = client.generate("tiny", "x", **neutral, images=[], logprobs=False, top_logprobs=0)
        assert "x" == answer.response

    @pytest.mark.parametrize(
        ("call", "reason"),
        [
            (lambda c: c.chat("plain", user("x")), "is no chat model"),
            (lambda c: c.chat("vectors", user("x")), "is no chat model"),
            (lambda c: c.generate("vectors", "x"), "generates no text"),
            (lambda c: c.embed("tiny", "x"), "makes no embeddings"),
        ],
    )
    def test_a_model_of_another_task_is_refused(
        self, client: ollama.Client, backend: FakeBackend, call: Any, reason: str
    ) -> None:
        """A request for another task than the model's is refused before a start."""
        with pytest.raises(ollama.ResponseError, match=reason) as failure:
            call(client)
        assert 400 == failure.value.status_code
        assert [] == backend.calls

    def test_every_error_has_ollamas_shape(self, client: ollama.Client, backend: FakeBackend) -> None:
        """Wrong routes, methods, bodies, hosts and our own faults: one sentence, a code, and the request's id."""
        send = client._client.request
        backend.facts = lambda _: 1 / 0  # type: ignore[assignment, method-assign, return-value]
        answers = [
            (send("POST", "/api/create", json={}), 404, "route_not_found"),
            (send("GET", "/api/chat"), 405, "method_not_allowed"),
            (send("POST", "/api/chat", content=b"{"), 400, "invalid_body"),
            (send("POST", "/api/chat", content=b"{}"), 400, "invalid_body"),
            (send("GET", "/api/tags", headers={"Host": "evil.example"}), 403, "host_forbidden"),
        ]
        for response, status, code in answers:
            assert status == response.status_code
            body = response.json()
            assert {"error", "code", "request_id"} == set(body)
            assert (code, response.headers["X-Request-Id"]) == (body["code"], body["request_id"])
            assert isinstance(body["error"], str)
            assert body["error"]


class TestConnections:
    def test_a_client_that_leaves_ends_the_generation(
        self, client: ollama.Client, engine: type[Engine], app: Flask
    ) -> None:
        """A client that closes its stream ends the model's work, and the lease is given back."""
        parts = iter(client.chat("tiny", user("forever"), stream=True))
        assert "forever " == next(parts).message.content
        assert 1 == in_flight(app)
        parts.close()  # type: ignore[attr-defined]
        wait_for(engine.client_left)
        until(lambda: 0 == in_flight(app))

    def test_an_unread_stream_gives_its_lease_back(self, app: Flask, engine: type[Engine]) -> None:
        """A translated stream that is closed before its first byte gives its lease back, and ends the model's work."""
        body = json.dumps({"model": "tiny", "messages": user("forever")})
        response = app.test_client().post("/api/chat", data=body, buffered=False)
        assert "application/x-ndjson" == response.content_type
        response.close()
        assert 0 == in_flight(app)
        wait_for(engine.client_left)

    def test_streaming_is_the_default(self, client: ollama.Client) -> None:
        """A request without `stream` gets lines."""
        response = client._client.post("/api/chat", json={"model": "tiny", "messages": user("one two")})
        lines = [json.loads(line) for line in response.text.splitlines()]
        assert [False, False, True] == [line["done"] for line in lines]
        assert "start;dur=" in response.headers["Server-Timing"]

    def test_the_first_requests_of_clients(self, client: ollama.Client) -> None:
        """They ask whether a server answers, and which version it has."""
        for path in ("/", "/api/version", "/api/tags"):
            assert 200 == client._client.head(path).status_code
        assert {"version", "orchestrar"} == set(client._client.get("/api/version").json())

    def test_the_asynchronous_client(self, url: str) -> None:
        """The same through AsyncClient: a whole answer, a stream, and a refusal."""

        async def talk() -> tuple[Any, list[Any], int]:
            async with ollama.AsyncClient(url) as client:
                whole = await client.chat("tiny", user("hello"))
                stream = await client.generate("tiny", "one two", stream=True)
                parts = [part.response async for part in stream]
                with pytest.raises(ollama.ResponseError) as failure:
                    await client.generate("gpt-4", "x")
                return whole.message.content, parts, failure.value.status_code

        assert ("hello", ["one ", "two ", ""], 404) == asyncio.run(talk())
